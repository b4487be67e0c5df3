"""Uploads that mean harm, against a server with a real child: each is refused, and the server is as it was."""

import concurrent.futures
import random
import socket
import threading
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.bad import BAD, JPEG, PNG, bmp, damaged, gif, jpeg_of_size, png, webp
from tests.serving.conftest import options, serving
from tests.serving.test_limits import everything, head, until

pytestmark = pytest.mark.slow

KINDS = ("image/png", "image/jpeg", "application/octet-stream", "application/json", "multipart/form-data; boundary=x", "text/html", "")  # fmt: skip


@pytest.fixture(scope="module")
def server(golden):
    with serving(replace(options(golden), runner="local", workers=1)) as found:
        yield found


def uploads(count: int) -> list[tuple[str, bytes]]:
    """(type, body) of as many hostile requests, the same ones every time."""
    draw = random.Random(7)
    bombs = [
        png(20_000, 20_000, zlib.compress(bytes(10**7), 9)),
        png(9_000, 9_000, zlib.compress(bytes(9_000 * 27_001), 9)),  # inflates to 243 MB, within the limit of pixels
        jpeg_of_size(65_000, 65_000),
        gif(65_000, 65_000),
        webp(16_000, 16_000),
        bmp(40_000, 40_000),
    ]
    bad = [data for _, data in BAD.values()]
    made = [
        lambda: draw.choice(bombs),
        lambda: draw.choice(bad),
        lambda: PNG[: draw.randrange(len(PNG))],
        lambda: damaged(JPEG, draw.random(), draw.randrange(1, 200)),
        lambda: draw.randbytes(draw.randrange(10_000)),
        lambda: (
            b'--x\r\nContent-Disposition: form-data; name="a"; filename="../../etc/passwd"\r\n\r\n' + draw.choice(bad)
        ),
        lambda: b'{"images": [' + b'"' * draw.randrange(9) + draw.choice(bad).hex().encode(),
    ]
    return [(draw.choice(KINDS), draw.choice(made)()) for _ in range(count)]


def memory_mb() -> float:
    """The memory of this process, which is also the server's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def test_hostile_uploads_are_refused_and_leave_nothing(server, pictures):
    assert server.post(pictures[0]).status_code == 200
    (lease,) = server.following.model.pool._runner.leases
    child = lease._process.pid
    hostile = uploads(200)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        # A damaged JPEG may still be one.
        found = list(threads.map(lambda each: server.post(each[1], each[0]), hostile))
    assert {answer.status_code for answer in found} <= {200, 413, 415, 422, 429}
    assert all(answer.status_code == 200 or answer.json()["message"] for answer in found)
    assert lease._process.pid == child, "a decoder died"
    assert server.post(pictures[0]).status_code == 200


@pytest.mark.parametrize("declares", [True, False])
def test_a_body_of_a_gigabyte_is_refused_without_being_held(server, pictures, declares):
    before = memory_mb()
    length = b"Content-Length: 1000000000" if declares else b"Transfer-Encoding: chunked"
    connection = head(
        server, b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + length + b"\r\n\r\n"
    )
    heard: list[bytes] = []
    listener = threading.Thread(target=lambda: heard.append(connection.recv(1000)))
    listener.start()
    piece = bytes(1_000_000)
    with suppress(OSError):
        for _ in range(1000):
            connection.sendall(piece if declares else b"%x\r\n%b\r\n" % (len(piece), piece))
            if heard:
                break
    listener.join(60)
    connection.close()
    assert b" 413 " in heard[0].splitlines()[0]
    assert memory_mb() < before + 150
    assert server.post(pictures[0]).status_code == 200


def test_hundreds_of_silent_connections_keep_nobody_out_for_long(server, pictures):
    start = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 5000\r\n\r\nabc"
    silent: list[socket.socket] = []
    for number in range(500):
        with suppress(OSError):
            silent.append(head(server, start if number % 2 else b""))
    assert b"too_many_connections" in everything(silent[-2])
    until(lambda: _is_answered(server, pictures[0]))  # at the latest when their time is over
    for connection in silent:
        connection.close()
    assert server.post(pictures[0]).status_code == 200


def _is_answered(server, picture: bytes) -> bool:
    try:
        return server.post(picture).status_code == 200
    except httpx.TransportError:
        return False


def test_a_soak_does_not_grow(server, pictures):
    def ask(number: int) -> int:
        kind, body = ("image/png", pictures[number % len(pictures)]) if number % 3 else small[number % len(small)]
        return client.post("/predict?square=1", content=body, headers={"Content-Type": kind}).status_code

    small = [each for each in uploads(60) if len(each[1]) < 20_000]
    with server.client() as client, concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(200)))
        before = memory_mb()
        assert set(threads.map(ask, range(600))) <= {200, 413, 415, 422, 429}
    assert memory_mb() < before + 20
    assert server.following.model.waiting == 0
