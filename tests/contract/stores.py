"""Stores of every kind to test with: a folder, and URLs of memory, of a folder, and of S3 where that can be had."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

KINDS = ["folder", "memory", "file", "s3"]
URL_KINDS = KINDS[1:]


@contextlib.contextmanager
def location(kind: str, folder: Path) -> Iterator[str]:
    """Lend the path or URL of an empty store; S3 is served over HTTP by moto, where it and s3fs are installed."""
    if kind == "folder":
        yield str(folder / "store")
    elif kind == "memory":
        yield f"memory://{uuid.uuid4().hex}/models"
    elif kind == "file":
        yield f"file://{folder / 'remote'}"
    else:
        with _s3() as url:
            yield url


@contextlib.contextmanager
def _s3() -> Iterator[str]:
    if not (find_spec("moto") and find_spec("s3fs")):
        pytest.skip("moto and s3fs are not installed")
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        bucket = f"bucket-{uuid.uuid4().hex}"  # moto keeps what it holds from one server to the next
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
        yield f"s3://{bucket}/models"
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        server.stop()
