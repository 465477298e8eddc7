"""An S3-compatible server on loopback, and a bad network in front of it."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

SECRETS = {"AWS_ACCESS_KEY_ID": "KEYwhichNObodyMAYsee", "AWS_SECRET_ACCESS_KEY": "SECRETwhichNObodyMAYsee"}
BUCKET = "bucket"


class Network:
    """A proxy in front of the server; `fault` decides what happens to a request by its path."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.server = server
        self.fault: Callable[[str], str] = lambda path: ""
        """Returns "", "slow", "refuse" (status 503) or "drop" (the connection, in the middle of the content)."""
        self.methods: tuple[str, ...] = ("GET",)
        """Of the requests that it is asked about."""
        self.faults: Counter[str] = Counter()
        self.sent = 0
        """Bytes of contents."""
        self.lock = threading.Lock()
        network = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                network.forward(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def forward(self, request: BaseHTTPRequestHandler) -> None:
        with self.lock:
            fault = self.fault(request.path) if request.command in self.methods else ""
            self.faults[fault] += 1
        if fault == "slow":
            time.sleep(0.2)
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        if fault == "refuse":
            request.send_error(503)
            return
        connection = http.client.HTTPConnection(*self.server)
        # with the host that the signature is of
        connection.request(request.command, request.path, body, dict(request.headers))
        answer = connection.getresponse()
        content = answer.read()
        request.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                request.send_header(name, value)
        length = answer.headers["Content-Length"] if request.command == "HEAD" else len(content)
        request.send_header("Content-Length", str(length or 0))
        request.end_headers()
        if request.command != "HEAD":
            self.sent += len(content)
            request.wfile.write(content[: len(content) // 2] if fault == "drop" else content)
        if fault == "drop":
            request.close_connection = True
        connection.close()


@contextmanager
def object_store() -> Iterator[Network]:
    """Starts the server; within it the environment leads to it, and there is one empty bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    network = Network(server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (SECRETS | {"AWS_ENDPOINT_URL": network.url, "AWS_DEFAULT_REGION": "us-east-1"}).items():
            patch.setenv(name, value)
        with suppress(FileExistsError):  # the server keeps all in this process
            fsspec.filesystem("s3", skip_instance_cache=True).mkdir(BUCKET)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield network
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    network.http.shutdown()
    server.stop()


def put(folder: Path, name: str) -> str:
    """Uploads a folder into the bucket; returns its URL."""
    store = fsspec.filesystem("s3")
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        store.put_file(str(file), f"{BUCKET}/{name}/{file.relative_to(folder)}")
    return f"s3://{BUCKET}/{name}"
