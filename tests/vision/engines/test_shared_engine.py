"""Two threads share an engine, as the training stream and the validation stream of a fine-tuning do."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar, get_args

import numpy as np
import pytest

from tests.vision.engines.test_tensorflow_engine import pixels
from vision import engines
from vision.engines import load_engine, unload_engine
from vision.engines.engine import Engine
from vision.engines.mnn_engine import MnnEngine
from vision.engines.openvino_engine import OpenVinoEngine
from vision.engines.selection import EngineName
from vision.engines.serial import SerialEngine
from vision.engines.tensorflow_engine import TensorFlowEngine

T = TypeVar("T")

ROUNDS = 10
KINDS: dict[str, type] = {"mnn": MnnEngine, "openvino": OpenVinoEngine, "tensorflow": TensorFlowEngine}


def together(*calls: Callable[[], T]) -> list[T]:
    """What calls give that begin at the same time, each in its own thread."""
    start = Barrier(len(calls))

    def begun(call: Callable[[], T]) -> T:
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return [done.result() for done in [threads.submit(begun, call) for call in calls]]


SLOW = [("mnn", None), ("mnn", "block5"), ("openvino", "block5"), ("tensorflow", "block5")]


@pytest.fixture(
    params=[*((name, "block3") for name in KINDS), *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)],
    scope="module",
    ids=str,
)
def shared(request, engine, spec, tensors) -> Engine:
    """One of each kind, whole, and cut as for a fine-tuning."""
    name, before = request.param
    return KINDS[name](spec, tensors, 1, before)


def test_these_are_all_engines_that_a_run_can_choose():
    assert KINDS.keys() == set(get_args(EngineName)) - {"auto"}
    assert all(issubclass(kind, SerialEngine) for kind in KINDS.values())


def test_threads_that_share_an_engine_get_what_they_get_alone(shared):
    pictures = [pixels(48, seed=1), pixels(16, seed=2)]
    alone = [shared.features(each) for each in pictures]
    for _ in range(ROUNDS):
        found = together(*(lambda each=each: shared.features(each) for each in pictures))
        assert all(np.array_equal(*pair) for pair in zip(found, alone, strict=True))


def test_two_datasets_that_are_read_ahead_share_an_engine(shared):
    """A thread of tf.data that waits for the engine holds none that the engine needs."""
    from vision.batches import dataset

    alone = {count: shared.features(pixels(count)) for count in (8, 24)}

    def batches(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for _ in range(8):
            yield shared.features(pixels(count)), np.zeros(count, np.uint16)

    def right(count: int) -> np.ndarray:
        rows = dataset(lambda: batches(count), alone[count].shape[1:], "float32")
        return np.array([np.array_equal(features, alone[count]) for features, _ in rows])

    for found in together(lambda: right(8), lambda: right(24)):
        assert found.tolist() == [True] * 8


def test_memory_that_runs_out_in_one_thread_costs_the_other_nothing(spec, tensors, engine, monkeypatch):
    import tensorflow as tf

    small = TensorFlowEngine(spec, tensors, 1, "block5")
    alone = [small.features(pixels(count)) for count in (9, 21)]
    run, failures = small._run, iter([True] * 3)

    def scarce(batch):
        if next(failures, False):
            raise tf.errors.ResourceExhaustedError(None, None, "no room")
        return run(batch)

    monkeypatch.setattr(small, "_run", scarce)
    found = together(lambda: small.features(pixels(9)), lambda: small.features(pixels(21)))
    assert all(np.allclose(*pair, rtol=1e-4, atol=1e-3) for pair in zip(found, alone, strict=True))
    assert small.batch_size == 4, "32 were halved three times, once for each failure"


def test_threads_that_load_the_same_engine_get_one(spec, engine, monkeypatch):
    unload_engine()
    made, make = [], engines._made
    monkeypatch.setattr(engines, "_made", lambda *wanted: (made.append(wanted), make(*wanted))[1])
    found = together(*[lambda: load_engine("mnn", spec, "random", 1, "block3")] * 4)
    unload_engine()
    assert len(made) == len({id(each) for each in found}) == 1
