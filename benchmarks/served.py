"""A folder on a web server of this machine that gives ranges of files and counts what is asked of it."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class ServedFolder:
    """Serves while its block runs.

    Attributes:
        url: of the folder.
        num_bytes: of files, sent so far.
        num_requests: answered so far.
    """

    def __init__(self, folder: Path) -> None:
        self.num_bytes = self.num_requests = 0
        self._folder = folder
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"served": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> ServedFolder:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def read(self, name: str, start: int, end: int | None) -> tuple[bytes, int]:
        """Return the bytes of a file from start to before end, and the size of all of it."""
        data = (self._folder / name.lstrip("/")).read_bytes()
        return data[start:end], len(data)

    def count(self, num_bytes: int) -> None:
        """Count an answer."""
        with self._lock:
            self.num_requests += 1
            self.num_bytes += num_bytes


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD, of all of a file or of one range."""

    protocol_version = "HTTP/1.1"
    served: ServedFolder

    def do_GET(self) -> None:  # noqa: N802 - the base class asks for it
        self._answer(has_body=True)

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer(has_body=False)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self, *, has_body: bool) -> None:
        asked = RANGE.match(self.headers.get("Range", ""))
        start, end = (int(asked[1]), int(asked[2]) + 1 if asked[2] else None) if asked else (0, None)
        try:
            data, size = self.served.read(self.path, start, end)
        except OSError:
            self.send_error(404)
            return
        self.served.count(len(data) if has_body else 0)  # before the answer, after which it is looked up
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data)))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{start + len(data) - 1}/{size}")
        self.end_headers()
        if has_body:
            self.wfile.write(data)
