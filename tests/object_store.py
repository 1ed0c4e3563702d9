"""A real S3 server of this machine for tests, and what was fetched from it."""

from __future__ import annotations

import logging
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

SECRET = "sEcReT/kEy+1234567890"


@contextmanager
def serve_bucket(name: str = "bucket") -> Iterator[None]:
    """Run moto's S3 server with an empty bucket; the environment has its address, and credentials."""
    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "an-id",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in variables.items():
                patch.setenv(variable, value)
            reset = urllib.request.Request(f"{variables['AWS_ENDPOINT_URL']}/moto-api/reset", method="POST")
            urllib.request.urlopen(reset).close()  # its buckets outlive a server
            s3fs.S3FileSystem.clear_instance_cache()
            s3fs.S3FileSystem().mkdir(name)
            yield
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


@contextmanager
def counting_fetches() -> Iterator[Counter[str]]:
    """Count the requests for contents of objects, and the bytes that the server says it sends."""
    import s3fs

    counts: Counter[str] = Counter()
    real = s3fs.S3FileSystem._call_s3

    async def call(self, method, *arguments, **keywords):
        answer = await real(self, method, *arguments, **keywords)
        if method == "get_object":
            counts.update(requests=1, bytes=answer["ContentLength"])
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "_call_s3", call)
        yield counts
