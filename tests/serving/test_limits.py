"""Each limit refuses what exceeds it, with its status and code, and lets what holds it pass."""

import asyncio
import concurrent.futures
import contextlib
import json
import socket
import tempfile
import threading
import time

import pytest

from serving import connections
from serving.batcher import Answer
from serving.refusal import Refusal
from serving.uploads import Budget, Limits
from tests.bad import png

TOKEN = "0123456789abcdef"


def head(server, request: bytes) -> socket.socket:
    """A connection on which a part of a request was sent."""
    host, port = server.url.removeprefix("http://").split(":")
    found = socket.create_connection((host, int(port)), timeout=60)
    found.sendall(request)
    return found


def everything(connection: socket.socket) -> bytes:
    """What the server sends until it closes."""
    found = b""
    with connection:
        while piece := connection.recv(65536):
            found += piece
    return found


def padded(picture: bytes, size: int) -> bytes:
    """The same picture in a file of this size."""
    return picture + bytes(size - len(picture))


def test_a_file_has_at_most_so_many_bytes(serve, pictures):
    server = serve(image_bytes=10_000, request_bytes=30_000)
    assert server.post(padded(pictures[0], 10_000)).status_code == 200
    with server.client() as client:
        form = {"files": ("a.png", padded(pictures[0], 10_001))}
        for answer in (server.post(padded(pictures[0], 10_001)), client.post("/predict", files=form)):
            assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_a_request_has_at_most_so_many_bytes_whatever_it_declares(serve, pictures):
    server = serve(image_bytes=10_000, request_bytes=30_000)
    files = [("files", ("a.png", padded(pictures[0], 9_000)))] * 4

    def chunks():
        yield b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n'
        yield from [bytes(1000)] * 1000

    with server.client() as client:
        answers = [
            client.post("/predict", files=files),
            client.post("/predict", content=chunks(), headers={"Content-Type": "multipart/form-data; boundary=x"}),
            client.post("/predict", content=chunks(), headers={"Content-Type": "application/json"}),
            client.post("/predict", content=bytes(3_000_000), headers={"Content-Type": "image/png"}),
        ]
        assert [(each.status_code, each.json()["code"]) for each in answers[1:]] == [(413, "too_large")] * 3
        assert answers[0].status_code == 413
    assert server.post(pictures[0]).status_code == 200


def test_a_length_that_is_none_is_refused_before_a_byte_of_the_body(server):
    for length in (b"1000000000000", b"99999999999999999999999"):
        answer = everything(
            head(
                server,
                b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nConnection: close\r\nContent-Length: "
                + length
                + b"\r\n\r\n",
            )
        )
        assert b"413" in answer.splitlines()[0] or b"400" in answer.splitlines()[0]


def test_a_request_has_at_most_so_many_images(serve, pictures):
    server = serve(images=3)
    with server.client() as client:
        for number, status in ((3, 200), (4, 413)):
            files = [("files", ("a.png", pictures[0]))] * number
            assert client.post("/predict", files=files).status_code == status
            assert client.post("/predict", json={"images": ["QUJD"] * number}).status_code == (
                422 if number == 3 else 413
            )
        assert client.post("/predict", files=files).json()["code"] == "too_many_images_in_request"


def test_a_picture_of_too_many_pixels_is_refused_before_memory_is_taken(server):
    answer = server.post(png(60_000, 60_000, b""))
    assert (answer.status_code, answer.json()["code"]) == (422, "too_many_pixels")


@pytest.fixture
def held(serve):
    """Starts servers whose images have no answer until the test lets them."""
    releases: list[threading.Event] = []

    def start(**limits):
        server, go = serve(**limits), threading.Event()

        async def run(uploads):
            await asyncio.to_thread(go.wait, 60)
            return [Answer("ok", (0.5, 0.5)) for _ in uploads]

        server.following.model._batcher._run = run
        releases.append(go)
        return server, go

    yield start
    for go in releases:
        go.set()


def test_at_most_so_many_images_wait(held, pictures):
    server, go = held(waiting_images=5)
    with concurrent.futures.ThreadPoolExecutor(5) as threads:
        first = [threads.submit(server.post, pictures[0]) for _ in range(5)]
        until(lambda: server.following.model.waiting == 5)
        answer = server.post(pictures[0])
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (
            429,
            "too_many_images",
            "1",
        )
        go.set()
        assert {each.result().status_code for each in first} == {200}
    assert server.post(pictures[0]).status_code == 200


def test_at_most_so_many_requests_are_open_but_probes_pass(held, pictures):
    server, go = held(open_requests=3)
    with concurrent.futures.ThreadPoolExecutor(3) as threads, server.client() as client:
        first = [threads.submit(server.post, pictures[0]) for _ in range(3)]
        until(lambda: server.following.model.waiting == 3)
        assert server.post(pictures[0]).json()["code"] == "too_many_requests"
        assert (
            client.get("/health").status_code == client.get("/ready").status_code == client.get("/").status_code == 200
        )
        go.set()
        assert {each.result().status_code for each in first} == {200}


def test_an_answer_that_takes_too_long_is_given_up(held, pictures):
    server, _ = held(answer_seconds=0.2)
    answer = server.post(pictures[0])
    assert (answer.status_code, answer.json()["code"]) == (503, "timeout")
    until(lambda: server.following.model.waiting == 0)


def test_the_bodies_of_all_requests_hold_at_most_so_many_bytes():
    budget = Budget(Limits(held_bytes=100))
    budget.add(100)
    with pytest.raises(Refusal, match="bytes") as caught:
        budget.add(1)
    assert (caught.value.status, caught.value.code) == (503, "busy")


def test_the_bytes_of_a_request_count_until_its_answer(serve, pictures):
    server = serve(held_bytes=3_000)
    for _ in range(10):
        assert server.post(padded(pictures[0], 2_000)).status_code == 200
    assert server.post(padded(pictures[0], 4_000)).status_code == 503
    assert server.post(padded(pictures[0], 2_000)).status_code == 200


def test_a_body_that_pauses_or_dawdles_is_given_up(serve):
    server = serve(pause_seconds=0.2, body_seconds=1.0)
    start = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 5000\r\nConnection: close\r\n\r\nabc"
    assert b" 408 " in everything(head(server, start)).splitlines()[0]
    connection = head(server, start)
    for _ in range(200):
        try:
            connection.sendall(b"x")
        except OSError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("a body of one byte a twentieth of a second is read without end")
    connection.close()


def test_a_connection_without_a_request_is_closed(server, monkeypatch):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.2)
    monkeypatch.setattr(connections, "LOOK_SECONDS", 0.05)
    for begun in (b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: "):
        connection = head(server, begun)
        with contextlib.suppress(ConnectionResetError):
            assert everything(connection) == b""


def test_connections_over_their_number_are_told_so(server, monkeypatch, pictures):
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 20)
    open_ones = [head(server, b"") for _ in range(40)]
    until(lambda: b"too_many_connections" in peek(open_ones[-1]))
    for connection in open_ones:
        connection.close()
    until(lambda: server.post(pictures[0]).status_code == 200)


def peek(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1000, socket.MSG_PEEK)
    except OSError:
        return b""


def test_a_client_that_leaves_costs_nothing(server, pictures):
    start = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 5000\r\n\r\nabc"
    for _ in range(20):
        head(server, start).close()
    assert server.post(pictures[0]).status_code == 200


def test_nothing_of_a_request_is_written_to_a_disk(server, pictures, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a body goes to a disk")

    for name in ("SpooledTemporaryFile", "TemporaryFile", "NamedTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refuse)
    files = [("files", (f"{number}.png", padded(pictures[0], 3_000_000))) for number in range(4)]
    with server.client() as client:
        assert client.post("/predict", files=files).status_code == 200
        assert client.post("/predict", json={"images": ["QUJD" * 1_000_000]}).status_code == 422


def test_only_the_token_opens_what_is_not_for_everybody(serve, pictures):
    server = serve(token=TOKEN)
    with server.client() as client:
        for path in ("/", "/page.js", "/page.css", "/health", "/ready"):
            assert client.get(path).status_code == 200
        for path in ("/model", "/metrics", "/openapi.json", "/nowhere"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        for wrong in (
            "",
            TOKEN,
            f"Basic {TOKEN}",
            f"Bearer {TOKEN}x",
            "Bearer",
            f"Bearer {TOKEN[:-1]}",
            "Bearer \xff",
        ):
            answer = client.post("/predict", content=pictures[0], headers={"Authorization": wrong.encode("latin-1")})
            assert answer.status_code == 401, wrong
        for right in (f"Bearer {TOKEN}", f"bearer {TOKEN}"):
            given = {"Authorization": right, "Content-Type": "image/png"}
            assert client.post("/predict", content=pictures[0], headers=given).status_code == 200


def test_every_answer_forbids_what_a_page_does_not_need(server):
    with server.client() as client:
        for answer in (client.get("/"), client.get("/model"), client.get("/nowhere"), client.post("/predict")):
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"


def test_what_is_not_http_gets_400(server):
    assert b" 400 " in everything(head(server, b"\x16\x03\x01 hello\r\n\r\n")).splitlines()[0]


def test_refusals_are_json_of_two_texts(server):
    answer = server.post(b"x", "text/plain")
    assert set(json.loads(answer.text)) == {"code", "message"}


def until(holds) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
