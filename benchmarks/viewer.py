"""Print how fast the viewer is with many nuclei: ``python -m benchmarks.viewer`` (needs Chromium)."""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, state
from benchmarks.synthetic_slide import DrawnSlide
from benchmarks.timing import median_ms
from run_utils.outputs import store
from run_utils.viewer.server import make_server
from run_utils.viewer.stored_nuclei import CELL, StoredNuclei

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WIDTH, HEIGHT = 1280, 800
DRAG_PX, DRAG_STEPS = 320, 40
RECORD_FRAMES = """() => {
  window.frames_ms = [];
  let last = performance.now();
  const note = (now) => { window.frames_ms.push(now - last); last = now; requestAnimationFrame(note); };
  requestAnimationFrame(note);
}"""
IS_COMPLETE = "() => document.querySelector('canvas.overlay')?.dataset.complete === 'yes'"


def main() -> None:
    """Write a store, time its reading, and drag its slide about in a browser at three zooms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nuclei", type=int, default=500_000, help="about how many")
    parser.add_argument("--side", type=int, default=40_000, help="of the slide, level-0 pixels")
    parser.add_argument("--screenshots", type=Path, help="folder for a picture of each zoom")
    arguments = parser.parse_args()
    drawn = DrawnSlide.draw(arguments.nuclei, arguments.side)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.db"
        time_store(drawn, path)
        if shutil.which("chromium") is None:
            raise SystemExit("chromium is not installed: the page is not timed")
        with serving(drawn, path) as address:
            time_page(address, arguments.screenshots)


def time_store(drawn: DrawnSlide, path: Path) -> None:
    """Print how long a store takes to write, open and ask."""
    start = time.perf_counter()
    store.write(drawn.result(), path)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    nuclei = StoredNuclei(path)
    nuclei.density()
    opened = time.perf_counter() - start
    number = len(nuclei)
    print(f"write   {1e6 * seconds / number:6.1f} µs a nucleus, {path.stat().st_size / number:.0f} bytes")
    print(f"open    {opened:6.2f} s for {number} nuclei")
    state(Figure(f"writing a store of {number:,} nuclei", 1e6 * seconds / number, "µs a nucleus"))
    state(Figure(f"opening a store of {number:,} nuclei", opened, "s"))
    cell = min(side // CELL for side in nuclei.shape_level0) // 4
    for name, ask in (
        ("contours", lambda: nuclei.contours(cell, cell)),
        ("dots", lambda: nuclei.dots(2, cell // 4, cell // 4)),
    ):
        took, answer = median_ms(ask, 15)
        print(
            f"{name:<8}{took:6.2f} ms for {int.from_bytes(answer[:4], 'little')} nuclei, {len(answer)} bytes"
        )
    nuclei.close()


@contextmanager
def serving(drawn: DrawnSlide, path: Path) -> Iterator[str]:
    """Serve the slide from a process of its own, as in use."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(drawn, path, sender), daemon=True
    )
    process.start()
    try:
        yield f"http://127.0.0.1:{receiver.recv()}/"
    finally:
        process.terminate()
        process.join()


def time_page(address: str, screenshots: Path | None) -> None:
    """Print how long frames take while the slide is dragged, drawn from afar, nearer and near."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        start = time.perf_counter()
        page.goto(address)
        page.wait_for_function(IS_COMPLETE)
        print(f"page    {time.perf_counter() - start:6.2f} s until nuclei are drawn")
        page.evaluate(RECORD_FRAMES)
        for zooms in (0, 5, 5, 4):
            for _ in range(zooms):
                page.mouse.move(300, 300)
                page.mouse.wheel(0, -120)
                page.wait_for_timeout(80)
            _time_drag(page, screenshots)
        browser.close()


def _time_drag(page: Any, screenshots: Path | None) -> None:
    page.wait_for_timeout(2500)
    page.wait_for_function(IS_COMPLETE)
    page.evaluate("() => { window.frames_ms.length = 0; }")
    for direction in (1, -1) * 2:
        reach = direction * DRAG_PX // 2
        page.mouse.move(500 - reach, 400 - reach)
        page.mouse.down()
        page.mouse.move(500 + reach, 400 + reach, steps=DRAG_STEPS)
        page.mouse.up()
    frames = sorted(page.evaluate("() => window.frames_ms"))
    mode, zoom = page.inner_text("#mode"), page.inner_text("#zoom-text")
    median, most, longest = statistics.median(frames), frames[int(0.95 * len(frames))], frames[-1]
    in_view = f"{mode:<9}{zoom:>6} {page.inner_text('#view-total'):>8} in view"
    print(f"{in_view}: frames of {median:.1f} ms (median), {most:.1f} (95 %), {longest:.1f} (longest)")
    state(
        Figure(f"dragging, {mode} at {zoom}, {page.inner_text('#view-total')} in view", median, "ms a frame")
    )
    if screenshots is not None:
        screenshots.mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(2500)
        page.screenshot(path=screenshots / f"{mode.lower()}_{zoom.rstrip('×')}.png")


def _serve(drawn: DrawnSlide, path: Path, sender: Connection) -> None:
    server = make_server(drawn.slide(), StoredNuclei(path))
    sender.send(server.server_port)
    server.serve_forever()


if __name__ == "__main__":
    main()
