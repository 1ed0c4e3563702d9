"""The viewer's web server: the page, the slide's tiles and the store's nuclei, on this machine only."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from dataloader.slides import Slide
from run_utils.viewer.deep_zoom import DeepZoom
from run_utils.viewer.stored_nuclei import CELL, CONTOUR_STEPS, StoredNuclei

LOGGER = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
OWN_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?")  # any port: it may be forwarded
STATIC_DIR = Path(__file__).parent / "static"
STATIC_FILES = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "viewer.js": "text/javascript; charset=utf-8",
    "cells.js": "text/javascript; charset=utf-8",
    "overlay.js": "text/javascript; charset=utf-8",
    "panel.js": "text/javascript; charset=utf-8",
    "openseadragon.min.js": "text/javascript; charset=utf-8",
    "openseadragon.LICENSE.txt": "text/plain; charset=utf-8",
}
# what version 6.1.1 puts into a page
OPENSEADRAGON_STYLE = "sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE="
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
    f"style-src 'self' '{OPENSEADRAGON_STYLE}'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # the next slide is served under the same addresses
}
BINARY, JSON, TEXT = "application/octet-stream", "application/json", "text/plain; charset=utf-8"
SHAPE_TOLERANCE = 0.01  # sides of slide and store that differ by more belong to different slides


class Answer(NamedTuple):
    """What a request gets: a body and its content type."""

    body: bytes
    content_type: str


class Site:
    """What is served: a slide and its nuclei. Paths hold numbers and names of a fixed list, never file paths."""

    def __init__(self, slide: Slide, nuclei: StoredNuclei):
        """Join a slide and its nuclei.

        Raises:
            ValueError: the nuclei are those of a slide of another size.
        """
        _check_same_slide(slide, nuclei)
        self._nuclei = nuclei
        self._deep_zoom = DeepZoom(slide)
        self._density_cell, self._density = nuclei.density()
        self._info = self._make_info(slide)
        self._routes: list[tuple[re.Pattern[str], Callable[..., Answer]]] = [
            (re.compile(pattern), answer)
            for pattern, answer in (
                (r"/", partial(self._static, "index.html")),
                (r"/static/([A-Za-z.]+)", self._static),
                (r"/slide\.dzi", lambda: Answer(self._deep_zoom.descriptor().encode(), "application/xml")),
                (r"/slide_files/(\d{1,2})/(\d{1,6})_(\d{1,6})\.jpg", self._tile),
                (r"/info", lambda: _json(self._info)),
                (r"/density", lambda: Answer(self._density.tobytes(), BINARY)),
                (r"/counts/(-?\d{1,9})_(-?\d{1,9})_(-?\d{1,9})_(-?\d{1,9})", self._counts),
                (r"/dots/(\d{1,2})/(\d{1,6})_(\d{1,6})", self._dots),
                (r"/contours/(\d{1,6})_(\d{1,6})", self._contours),
                (r"/nucleus/(\d{1,9})", lambda nucleus: _json(nuclei.measures(int(nucleus)))),
            )
        ]

    def answer(self, path: str) -> Answer:
        """Return what is at a path.

        Raises:
            LookupError: nothing is there.
            OSError: slide or store cannot be read there.
        """
        for pattern, answer in self._routes:
            match = pattern.fullmatch(path)
            if match:
                return answer(*match.groups())
        raise LookupError(f"nothing is at {path[:80]}")

    def _static(self, name: str) -> Answer:
        if name not in STATIC_FILES:
            raise LookupError(f"no file {name[:80]}")
        return Answer((STATIC_DIR / name).read_bytes(), STATIC_FILES[name])

    def _tile(self, level: str, column: str, row: str) -> Answer:
        return Answer(self._deep_zoom.tile(int(level), int(column), int(row)), "image/jpeg")

    def _counts(self, top: str, left: str, bottom: str, right: str) -> Answer:
        return _json(self._nuclei.counts((int(top), int(left), int(bottom), int(right))))

    def _dots(self, level: str, column: str, row: str) -> Answer:
        return Answer(self._nuclei.dots(int(level), int(column), int(row)), BINARY)

    def _contours(self, column: str, row: str) -> Answer:
        return Answer(self._nuclei.contours(int(column), int(row)), BINARY)

    def _make_info(self, slide: Slide) -> dict[str, Any]:
        """Return what the page has to know before it asks for anything else."""
        nuclei = self._nuclei
        has_types = bool(nuclei.facts.types)
        return {
            "name": slide.path.name,
            "width": self._deep_zoom.width,
            "height": self._deep_zoom.height,
            "mpp": nuclei.mpp_level0,
            "has_types": has_types,
            "types": [
                {"name": kind.name, "colour": list(kind.colour), "count": count}
                for kind, count in zip(nuclei.types, nuclei.counts(), strict=True)
            ],
            "cell": CELL,
            "contour_steps": CONTOUR_STEPS,
            "density": {
                "cell": self._density_cell,
                "height": self._density.shape[1],
                "width": self._density.shape[2],
            },
        }


class RequestHandler(BaseHTTPRequestHandler):
    """Answers one browser's requests; the standard library asks for a class."""

    protocol_version = "HTTP/1.1"

    def __init__(self, site: Site, *arguments: Any):
        """Serve ``site``; the other arguments are the standard library's."""
        self._site = site
        super().__init__(*arguments)

    def do_GET(self) -> None:  # noqa: N802
        """Answer a request, or say in one line why not."""
        host = self.headers.get("Host", "")
        if not OWN_HOST.fullmatch(host):  # a page whose name someone's DNS points here must not read slides
            self._send(HTTPStatus.FORBIDDEN, _line(f"host {host!r} is not this machine; open {ADDRESS}"))
            return
        try:
            self._send(HTTPStatus.OK, self._site.answer(self.path.partition("?")[0]))
        except LookupError as error:
            self._send(HTTPStatus.NOT_FOUND, _line(error.args[0]))
        except OSError as error:  # a SlideError, or the store's
            LOGGER.error("%s", error)
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, _line(str(error)))

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Log requests where someone debugs."""
        LOGGER.debug(format, *arguments)

    def _send(self, status: HTTPStatus, answer: Answer) -> None:
        try:
            self.send_response(status)
            for name, value in HEADERS.items():
                self.send_header(name, value)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)
        except ConnectionError:  # the page moved on and no longer wants it
            self.close_connection = True


def make_server(slide: Slide, nuclei: StoredNuclei, port: int = 0) -> ThreadingHTTPServer:
    """Return a server on this machine's own address, bound to ``port`` (0: any free one), not yet serving.

    Raises:
        OSError: the port is taken.
        ValueError: slide and nuclei do not belong together.
    """
    server = ThreadingHTTPServer((ADDRESS, port), partial(RequestHandler, Site(slide, nuclei)))
    server.daemon_threads = True
    return server


def _check_same_slide(slide: Slide, nuclei: StoredNuclei) -> None:
    for side, stored in zip(slide.shape_level0, nuclei.shape_level0, strict=True):
        if abs(side - stored) > max(1 + nuclei.facts.level0_scale, SHAPE_TOLERANCE * side):
            raise ValueError(
                f"{slide.path} has {slide.shape_level0} pixels (height, width), but the store is of a slide of "
                f"{nuclei.shape_level0}, '{nuclei.name}'; give the slide that it was made from"
            )


def _json(content: Any) -> Answer:
    return Answer(json.dumps(content, allow_nan=False).encode(), JSON)


def _line(text: str) -> Answer:
    return Answer(f"{text}\n".encode(), TEXT)
