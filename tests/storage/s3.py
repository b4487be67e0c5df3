"""A real S3 server on this machine, and a middleman before it that throttles requests or loses replies."""

import http.client
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.flows.prefect_server import free_port

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
LISTED = 100  # objects in a page of a listing; 1000 in S3 itself
REFUSALS = {
    "slow down": (503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"),
    "deny": (403, b"<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>"),
}


@contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """The address of moto's server, in a process of its own."""
    port = free_port()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            env=os.environ | KEYS | {"MOTO_S3_DEFAULT_MAX_KEYS": str(LISTED)},
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


# What a middleman does with a request (method, path): `pass` it on, `slow down` or `deny` it, or `lose` the reply to it.
Manner = Callable[[str, str], str]


@contextmanager
def between(address: str, manner: Manner) -> Iterator[str]:
    """The address of a middleman before the server at `address`."""
    host = address.removeprefix("http://")

    class Middleman(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            what = manner(self.command, self.path)
            if what in REFUSALS:
                status, text = REFUSALS[what]
                return self.send(status, {"Content-Type": "application/xml"}, text)
            connection = http.client.HTTPConnection(host, timeout=30)
            connection.request(self.command, self.path, body, dict(self.headers))
            reply = connection.getresponse()
            data = reply.read()
            connection.close()
            if what == "lose":
                self.close_connection = True
                return None
            headers = {
                name: value for name, value in reply.getheaders() if name.lower() not in ("transfer-encoding", "date")
            }
            return self.send(reply.status, headers, data)

        def send(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response(status)
            for name, value in (
                headers | ({} if self.command == "HEAD" else {"Content-Length": str(len(data))})
            ).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Middleman)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
