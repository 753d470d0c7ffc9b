"""An S3-speaking server on loopback, in this process, and the environment that leads clients to it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import urllib.request
from collections.abc import Iterator

BUCKET = "s3://runs"
CLIENT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


class ObjectStore:
    """moto's server; it may be down for a while, and knows after that what it knew before."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.environment = {**CLIENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}"}
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.start()

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def forget(self) -> None:
        """What it holds, which all servers of a process share."""
        reset = urllib.request.Request(f"{self.environment['AWS_ENDPOINT_URL']}/moto-api/reset", method="POST")
        urllib.request.urlopen(reset).close()


@contextlib.contextmanager
def run_object_store() -> Iterator[ObjectStore]:
    """A server with an empty bucket; the environment of this process leads to it."""
    before, store = dict(os.environ), ObjectStore()
    os.environ.update(store.environment)
    try:
        import s3fs

        store.forget()
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem(use_listings_cache=False).mkdir(BUCKET.removeprefix("s3://"))
        yield store
    finally:
        store.stop()
        os.environ.clear()
        os.environ.update(before)
