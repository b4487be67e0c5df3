"""Copies of an engine that share a batch give what one of them gives, on as many threads as there are copies."""

from threading import Condition

import numpy as np
import pytest

from tests import toy
from tests.vision.engines.test_shared_engine import together
from tests.vision.engines.test_tensorflow_engine import pixels
from vision.engines import load_engine, unload_engine
from vision.engines.mnn_engine import MnnEngine
from vision.engines.parallel import ParallelEngine
from vision.engines.tensorflow_engine import TensorFlowEngine

COPIES = 3


@pytest.fixture(autouse=True)
def nothing_loaded():
    unload_engine()
    yield
    unload_engine()


WHOLE = [pytest.param("mnn", None, marks=pytest.mark.slow), pytest.param("openvino", "block5", marks=pytest.mark.slow)]


@pytest.mark.parametrize(("name", "before"), [("mnn", "block3"), ("openvino", "block3"), *WHOLE])
def test_a_feature_has_the_bits_that_one_copy_gives_it(spec, name, before):
    one = load_engine(name, spec, "random", 1, before)
    several = load_engine(name, spec, "random", 1, before, None, COPIES)
    assert isinstance(several, ParallelEngine)
    assert (several.name, several.spec, several.before, several.fallback) == (one.name, one.spec, before, None)
    assert several.batch_size == COPIES * one.batch_size
    pictures = pixels(several.batch_size + 5)
    expected = one.features(pictures)
    for count in (1, 2, COPIES + 1, one.batch_size, several.batch_size, len(pictures)):
        assert np.array_equal(several.features(pictures[:count]), expected[:count])
    parts = [pictures[:7], pictures[7:]]
    for found, own in zip(together(*(lambda part=part: several.features(part) for part in parts)), parts, strict=True):
        assert np.array_equal(found, one.features(own))


def test_memory_limits_the_batch_of_each_copy(spec):
    several = load_engine("mnn", spec, "random", 1, "block3", 6, COPIES)
    assert several.batch_size == COPIES * 6
    pictures = pixels(40)
    assert np.array_equal(
        several.features(pictures), load_engine("mnn", spec, "random", 1, "block3").features(pictures)
    )


class Meeting(toy.ToyEngine):
    """Copies that compute only when all of them are at it."""

    computing, most, met = 0, 0, Condition()

    def features(self, pixels):
        assert len(pixels) <= self.batch_size
        with self.met:
            Meeting.computing += 1
            Meeting.most = max(Meeting.most, Meeting.computing)
            self.met.notify_all()
            assert self.met.wait_for(lambda: Meeting.most == COPIES, timeout=60)
        found = super().features(pixels)
        with self.met:
            Meeting.computing -= 1
        return found


@pytest.mark.parametrize("callers", [1, 4])
def test_every_copy_computes_and_no_more_than_there_are_whoever_asks(callers):
    Meeting.computing = Meeting.most = 0
    several = ParallelEngine([Meeting() for _ in range(COPIES)])
    pictures = pixels(2 * several.batch_size + 1)
    for found in together(*[lambda: several.features(pictures)] * callers):
        assert np.array_equal(found, toy.ToyEngine().features(pictures))
    assert Meeting.most == COPIES


def test_where_copies_cannot_be_loaded_tensorflow_has_the_threads_of_all(spec, monkeypatch):
    def fail(*given):
        raise RuntimeError("no such network")

    threads, init = [], TensorFlowEngine.__init__
    monkeypatch.setattr(MnnEngine, "__init__", fail)
    monkeypatch.setattr(
        TensorFlowEngine, "__init__", lambda self, *given: (threads.append(given[2]), init(self, *given))[1]
    )
    engine = load_engine("mnn", spec, "random", 1, None, None, COPIES)
    assert "no such network" in engine.fallback
    assert threads == [COPIES]
