"""Real children: an image that kills its child costs only its own answer, and no child outlives the server."""

import concurrent.futures
import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from PIL import Image

from serving import pool
from tests import hostile
from tests.serving.conftest import Server, options, serving
from workers.runners import local

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dangerous(golden) -> Iterator[Server]:
    """A server with one child that does what some images tell it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "CHILD", hostile.CHILD)
        patch.setattr(pool, "DECODE_SECONDS", 3.0)
        patch.setattr(pool, "INFER_SECONDS", 3.0)
        patch.setattr(pool, "KEEP_SECONDS", 1.0)
        with serving(replace(options(golden), runner="local", workers=1)) as server:
            yield server


def picture(number: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (32, 32), (number, 200, 100)).save(sink, "PNG")
    return sink.getvalue()


def spoilt(tmp_path, stage: str, deed: str) -> bytes:
    path = tmp_path / "spoilt.png"
    path.write_bytes(picture(1))
    return hostile.spoil(path, stage, deed)


def child_of(server: Server) -> int:
    (lease,) = server.following.model.pool._runner.leases
    while lease._process is None:  # it is being replaced
        time.sleep(0.01)
    return lease._process.pid


@pytest.mark.parametrize("stage", ["decode", "infer"])
@pytest.mark.parametrize(("deed", "code"), [("crash", "crashed"), ("hang", "timeout")])
def test_an_image_that_kills_its_child_costs_only_its_own_answer(dangerous, tmp_path, stage, deed, code):
    with concurrent.futures.ThreadPoolExecutor(9) as threads:
        killer = threads.submit(dangerous.post, spoilt(tmp_path, stage, deed))
        others = [threads.submit(dangerous.post, picture(number)) for number in range(8)]
        assert {each.result().status_code for each in others} == {200}
        assert (killer.result().status_code, killer.result().json()["code"]) == (422, code)
        assert killer.result().json()["predictions"][0]["status"] == "quarantined"


def test_images_of_one_request_keep_their_places_beside_a_killer(dangerous, tmp_path):
    data = [picture(1), spoilt(tmp_path, "infer", "crash"), picture(2), b"text", picture(3)]
    with dangerous.client() as client:
        answer = client.post("/predict", files=[("files", (str(n), each)) for n, each in enumerate(data)])
    assert answer.status_code == 200
    assert [each["reason"] for each in answer.json()["predictions"]] == [None, "crashed", None, "not_image", None]


def test_an_image_that_kills_only_in_company_gets_an_answer(dangerous, tmp_path):
    data = [picture(1), spoilt(tmp_path, "infer", hostile.IN_COMPANY), picture(2)]
    with dangerous.client() as client:
        answer = client.post("/predict", files=[("files", (str(n), each)) for n, each in enumerate(data)])
    assert [each["status"] for each in answer.json()["predictions"]] == ["ok", "ok", "ok"]


def test_a_child_that_somebody_kills_costs_no_answer(dangerous):
    stop = threading.Event()
    answers = []

    def ask():
        while not stop.is_set():
            answers.append(dangerous.post(picture(len(answers) % 200)).status_code)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        before = len(answers)
        os.kill(child_of(dangerous), signal.SIGKILL)
        while len(answers) < before + 6:
            time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(answers) == {200}
    assert dangerous.following.model.pool.deaths


def test_an_idle_child_that_died_is_replaced(dangerous):
    before = child_of(dangerous)
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + 120
    while child_of(dangerous) == before:  # within KEEP_SECONDS
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert dangerous.post(picture(1)).status_code == 200
