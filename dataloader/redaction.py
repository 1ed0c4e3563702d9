"""What an address shows of itself, and what a text shows of the addresses in it: no user, password or query."""

from __future__ import annotations

import re

MARK = "://"
WEB = ("http", "https")
CONTAINERS = ("abfs", "abfss", "az")  # what stands before their `@` is no user
_USER = re.compile(  # also `user:pass/word@`, which is no valid address; `:80/` is a port; Azure's `container@` stays
    r"(?<!abfs)(?<!abfss)(?<!az)://(?:[^/\s:'\"@]*:(?!\d+/)[^\s'\"]*@|[^/?#\s'\"]*@)"
)
_QUERY = re.compile(r"(://[^\s?'\"]*)\?[^\s'\"]*")
_WHOLE_USER = re.compile(
    r"\A(?:[^/:@]*:.*|[^/?#]*)@", re.DOTALL
)  # the same, after `://` of what is an address
_PORT = re.compile(r"[^/:@]*:\d+/")


def redact(text: str) -> str:
    """Return a text with the addresses in it shown without user, password and query (which may be signed).

    Where an address ends in a text is a guess: quotes and spaces in a password are not looked through, as they are
    where an `Address` is shown.
    """
    return _QUERY.sub(r"\1", _USER.sub(MARK, text)) if MARK in text else text


def show(url: str) -> str:
    """Return an address without user, password and query."""
    kind, _, rest = _split(url)
    return kind + MARK + rest.partition("?")[0]


def find_user(url: str) -> str:
    """Return the name of the user that an address gives, without password; empty where it gives none."""
    return _split(url)[1].rstrip("@").partition(":")[0]


def _split(url: str) -> tuple[str, str, str]:
    """Return the kind of an address, `user:password@`, and what follows."""
    kind, _, rest = url.partition(MARK)
    is_plain = kind in CONTAINERS or (kind in WEB and _PORT.match(rest))
    user = None if is_plain else _WHOLE_USER.match(rest)
    return (kind, user[0], rest[user.end() :]) if user else (kind, "", rest)
