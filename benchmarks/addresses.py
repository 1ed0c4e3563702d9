"""How slides at an address are read beside local ones: `python -m benchmarks.addresses`.

Writes a JPEG pyramid (256² tiles, quality 80) of the sample slide's tissue, puts it into a bucket of a real S3 server
(moto's) that runs beside this process, and reads its level 0 window by window, with several threads: from disk, from
the bucket, and from the bucket with a wait added to each request, as a far one has. The three take turns. What is
fetched is what the server says it sends.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
from tabulate import tabulate

from benchmarks.figures import Figure, state
from benchmarks.pyramid import write_pyramid
from benchmarks.readers import MPP, SAMPLE
from dataloader.address import Address, locate
from dataloader.slides import open_slide

TISSUE = (2032, 732, 2800, 1500)  # box of the sample, level-0 px, that holds next to no glass
THREADS = 4
PLACES = ("disk", "bucket", "far bucket")
PATIENCE_S = 60.0  # for the server to answer


class Traffic:
    """Waits before each request for content, and counts them and their bytes."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.num_bytes = self.num_requests = 0

    def attach(self) -> None:
        """Stand between s3fs and its client."""
        import s3fs

        real, traffic = s3fs.S3FileSystem._call_s3, self

        async def call(self: Any, method: str, *arguments: Any, **keywords: Any) -> Any:
            await asyncio.sleep(traffic.delay_s)
            answer = await real(self, method, *arguments, **keywords)
            if method == "get_object":
                traffic.num_requests += 1
                traffic.num_bytes += answer["ContentLength"]
            return answer

        s3fs.S3FileSystem._call_s3 = call


def main() -> None:
    """Write the slide, read it, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=6144, help="side of level 0, px")
    parser.add_argument("--window", type=int, default=1192, help="side of what is read at once, px")
    parser.add_argument(
        "--delay-ms", type=float, default=30.0, help="added to each request of the far bucket"
    )
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    logging.getLogger("aiobotocore").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as name, _bucket() as bucket:
        path, address = Path(name) / "slide.tif", bucket / "slide.tif"
        with open_slide(SAMPLE) as sample:
            write_pyramid(path, sample.read(TISSUE), arguments.size, mpp=MPP)
        address.write(path)
        traffic = Traffic()
        traffic.attach()
        places: dict[str, Path | Address] = dict(zip(PLACES, (path, address, address), strict=True))
        seconds: dict[str, list[float]] = {place: [] for place in PLACES}
        for _ in range(arguments.repeats):
            for place, slide in places.items():
                traffic.delay_s = arguments.delay_ms / 1000 * (place == "far bucket")
                seconds[place].append(_read_all(slide, arguments.size, arguments.window))
        traffic.num_bytes //= 2 * arguments.repeats
        traffic.num_requests //= 2 * arguments.repeats
        _print(arguments, seconds, traffic, path.stat().st_size)


def _read_all(slide_at: Path | Address, size: int, window: int) -> float:
    """Return the seconds that opening a slide and reading all its windows takes."""
    start = time.perf_counter()
    with open_slide(slide_at) as slide, ThreadPoolExecutor(THREADS) as threads:
        boxes = [
            (top, left, min(top + window, size), min(left + window, size))
            for top in range(0, size, window)
            for left in range(0, size, window)
        ]
        for _ in threads.map(slide.read, boxes):
            pass
    return time.perf_counter() - start


def _print(
    arguments: argparse.Namespace, seconds: dict[str, list[float]], traffic: Traffic, size: int
) -> None:
    mm2 = (arguments.size * MPP / 1000) ** 2
    medians = {place: statistics.median(times) / mm2 for place, times in seconds.items()}
    print(
        f"{mm2:.1f} mm² at {MPP} µm/px, {size / 1e6:.1f} MB, windows of {arguments.window} px, {THREADS} threads"
    )
    print(tabulate(medians.items(), ["read from", "s/mm²"], floatfmt=".3f"))
    state(Figure("reading from a bucket", medians["bucket"], "s/mm²", medians["disk"], "from disk"))
    far = f"reading from a bucket {arguments.delay_ms:g} ms away"
    state(Figure(far, medians["far bucket"], "s/mm²", medians["disk"], "from disk"))
    state(
        Figure(
            "bytes fetched for it",
            traffic.num_bytes / 1e6 / mm2,
            "MB/mm²",
            size / 1e6 / mm2,
            "the whole file",
        )
    )
    state(Figure("requests for it", traffic.num_requests / mm2, "/mm²"))


@contextlib.contextmanager
def _bucket() -> Iterator[Address]:
    """Run a server with an empty bucket; the environment has its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    os.environ |= {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "key",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        _make_bucket(f"{url}/bucket")
        bucket = locate("s3://bucket")
        assert isinstance(bucket, Address)
        yield bucket
    finally:
        server.terminate()
        server.wait()


def _make_bucket(url: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT")).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


if __name__ == "__main__":
    main()
