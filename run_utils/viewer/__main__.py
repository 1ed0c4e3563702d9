"""Show a slide and its nuclei in a browser: ``python -m run_utils.viewer SLIDE STORE``."""

from __future__ import annotations

import argparse
import errno
import logging
import sys
import webbrowser
from pathlib import Path

from dataloader.slides import READER_NAMES, Slide, open_slide
from run_utils.viewer.server import ADDRESS, make_server
from run_utils.viewer.stored_nuclei import StoredNuclei

DEFAULT_PORT = 8000
LAST_PORT = 65_535
USAGE_ERROR = 2  # exit status

LOGGER = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted; return 2 for files or a port that cannot be used."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        nuclei = StoredNuclei(options.store)
        server = make_server(_open(options.slide, options.reader), nuclei, options.port)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{_explain(error, options.port)}\n")
        return USAGE_ERROR
    address = f"http://{ADDRESS}:{server.server_port}/"
    LOGGER.info("%d nuclei of %s: open %s (end with Ctrl-C)", len(nuclei), options.slide.name, address)
    if options.open:
        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        LOGGER.info("ended")
    finally:
        server.server_close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m run_utils.viewer", description=__doc__)
    parser.add_argument("slide", type=Path, help="the slide or image that the nuclei are of")
    parser.add_argument("store", type=Path, help="its .db file, written by run_infer.py with outputs=[store]")
    parser.add_argument("--port", type=_port, default=DEFAULT_PORT, help=f"0: any free one; {DEFAULT_PORT}")
    parser.add_argument(
        "--reader", choices=("auto", *READER_NAMES), default="auto", help="what reads the slide; auto"
    )
    parser.add_argument("--open", action="store_true", help="open the page in this machine's browser")
    return parser


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= LAST_PORT):
        raise argparse.ArgumentTypeError(
            f"{text} is no port; give 1024 to {LAST_PORT}, or 0 for any free one"
        )
    return int(text)


def _open(path: Path, reader: str) -> Slide:
    """Open a slide; one of unknown µm/px is read in pixels."""
    slide = open_slide(path, reader=reader)
    if slide.mpp is not None:
        return slide
    slide.close()
    return open_slide(path, 1.0, reader)


def _explain(error: Exception, port: int) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"port {port} is taken; give another: --port 0 takes any free one"
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
