"""Small images are worked on side by side: while some are decoded and written, the next are read and predicted."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from dataloader.address import Address
from run_utils.inference.slide_run import SlideRunner
from run_utils.inference.status import SlideStatus

Files = Mapping[str, Path | Address]


def run_all(runner: SlideRunner, files: Files, most_regions: int) -> Generator[SlideStatus, None, None]:
    """Give how each file ended, in their order.

    Images go to threads, as many at once as have no more regions together than a slide holds the maps of; what has
    as many by itself is worked on alone, in the caller's thread.

    Args:
        runner: works on one file.
        files: by the names of their outputs.
        most_regions: that are held at once; 1 works on one file after another.
    """
    with ThreadPoolExecutor(most_regions, thread_name_prefix="image") as threads:
        working: deque[tuple[float, Future[SlideStatus]]] = deque()
        try:
            for name, path in files.items():
                size = runner.count_regions(path) if most_regions > 1 else 1
                while working and sum(other for other, _ in working) + size > most_regions:
                    yield working.popleft()[1].result()
                if size < most_regions:
                    working.append((size, threads.submit(runner.run, name, path)))
                else:
                    yield runner.run(name, path)
            while working:
                yield working.popleft()[1].result()
        except BaseException:
            runner.stop()
            threads.shutdown(cancel_futures=True)
            raise
