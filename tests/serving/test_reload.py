"""The current head of the store is followed: no request is dropped, and each has the answers of one head."""

import asyncio
import shutil
import threading

import pytest

from serving import model
from serving.model import Following
from storage.heads.current import promote_head
from storage.layout import Store
from tests.serving.conftest import PLAIN, SPACE, VARIED, options, serving
from workers.classifier import Classifier


@pytest.fixture
def own(golden, tmp_path, monkeypatch):
    """A store whose current head a test may change."""
    shutil.copytree(golden / "store", tmp_path / "store", copy_function=shutil.copyfile)
    monkeypatch.setattr(model, "LOOK_SECONDS", 0.05)
    return tmp_path


def promote(own, name: str) -> None:
    promote_head(Store(own / "store", SPACE), name)


def test_no_request_is_dropped_while_heads_change(own, pictures):
    expected = {
        name: Classifier.load(own / "store", head=name, threads=1).predict(pictures[0])[0].probabilities
        for name in (PLAIN, VARIED)
    }
    with serving(options(own)) as server:
        answers, stop = [], threading.Event()

        def ask():
            with server.client() as client:
                while not stop.is_set():
                    answers.append(client.post("/predict", content=pictures[0], headers={"Content-Type": "image/png"}))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number, name in enumerate((PLAIN, VARIED, PLAIN), 1):
            promote(own, name)
            wait_for(lambda number=number: server.following.reloads == number)
            wait_for(lambda name=name: answers and answers[-1].json()["head"] == name)
        stop.set()
        for thread in threads:
            thread.join()
    assert {answer.status_code for answer in answers} == {200}
    found = [answer.json() for answer in answers]
    assert {each["head"] for each in found} == {PLAIN, VARIED}
    for each in found:
        assert list(each["predictions"][0]["probabilities"].values()) == pytest.approx(expected[each["head"]], abs=1e-6)


def test_a_head_that_cannot_be_loaded_leaves_the_one_before(own, pictures):
    (own / "store" / "heads" / PLAIN / "head.keras").write_bytes(b"no model")
    with serving(options(own)) as server:
        promote(own, PLAIN)
        wait_for(lambda: server.following.failures)
        answer = server.post(pictures[0])
        assert (answer.status_code, answer.json()["head"]) == (200, VARIED)
        (own / "store" / "heads" / "current").unlink()
        assert server.post(pictures[0]).status_code == 200


def test_a_named_head_stays(own):
    async def main():
        from dataclasses import replace

        following = await Following.start(replace(options(own), head=PLAIN))
        promote(own, VARIED)
        await asyncio.sleep(0.2)
        assert (following.model.head.name, following.reloads) == (PLAIN, 0)
        await following.close()

    asyncio.run(main())


def wait_for(holds) -> None:
    import time

    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
