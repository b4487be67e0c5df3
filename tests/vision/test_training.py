from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from vision.head import HeadSpec
from vision.training import Trained, evaluate, train

pytestmark = [
    # Keras 3.15 on NumPy 2, wherever it saves: keras/src/backend/tensorflow/core.py, convert_to_numpy.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

SHAPE = (1, 1, 8)


@dataclass
class Points:
    """Clouds of points, one a class, about 3 standard deviations apart; shuffled by epoch where a seed is given."""

    count: int
    classes: int = 2
    seed: int | None = None
    batch_size: int = 16
    dtype: str = "float16"
    apart: float = 3.0
    draw: int = 0
    asked: list[int] = field(default_factory=list)

    def __post_init__(self):
        random = np.random.default_rng(self.draw)
        self.labels = (np.arange(self.count) % self.classes).astype(np.uint16)
        values = random.normal(0, 1, (self.count, 8)) + self.apart * np.eye(8)[self.labels]
        self.features = values.reshape(-1, *SHAPE).astype(self.dtype)

    @property
    def steps(self) -> int:
        return -(-self.count // self.batch_size)

    def batches(self, epoch: int = 0, first_step: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self.asked.append(epoch)
        order = np.arange(self.count)
        if self.seed is not None:
            order = np.random.default_rng((self.seed, epoch)).permutation(order)
        for start in range(first_step * self.batch_size, self.count, self.batch_size):
            pick = order[start : start + self.batch_size]
            yield self.features[pick], self.labels[pick]


def trained(
    classes=2, epochs=3, seed=0, dtype="float16", validation=None, on_epoch=lambda *_: None, **options
) -> Trained:
    spec = HeadSpec(("cat", "dog", "fox")[:classes], epochs=epochs, **options)
    points = Points(200, classes, seed, dtype=dtype)
    in_order = Points(200, classes, dtype=dtype)
    held_out = validation or Points(60, classes, draw=1, dtype=dtype)
    return train(spec, SHAPE, dtype, points, in_order, held_out, seed, on_epoch)


@pytest.fixture(scope="module")
def usual(engine) -> Trained:
    return trained()


@pytest.mark.parametrize(("classes", "standardize", "dtype"), [(2, False, "float16"), (3, True, "float32")])
def test_the_head_learns_what_can_be_told_apart(engine, classes, standardize, dtype):
    found = trained(classes, epochs=5, standardize=standardize, dtype=dtype)
    assert found.val_accuracy > 0.9
    assert found.history[-1]["loss"] < found.history[0]["loss"]


def test_the_same_seed_gives_the_same_weights_and_history(usual):
    again = trained()
    assert usual.history == again.history
    assert (usual.val_loss, usual.val_accuracy) == (again.val_loss, again.val_accuracy)
    for one, other in zip(usual.model.get_weights(), again.model.get_weights(), strict=True):
        assert np.array_equal(one, other)


def test_another_seed_gives_other_weights(usual):
    assert trained(seed=1).history != usual.history


def test_the_best_epoch_is_kept_and_its_figures_are_those_given(engine):
    # Hardly to be told apart, and learned too fast: soon the head does worse on what it has not seen.
    found = trained(epochs=6, validation=Points(60, apart=0.3, draw=1), learning_rate=0.01)
    best = min(found.history, key=lambda logs: logs["val_loss"])
    assert len(found.history) == 6
    assert best["val_loss"] < found.history[-1]["val_loss"]
    assert found.val_loss == pytest.approx(best["val_loss"], rel=1e-6)
    assert found.val_accuracy == pytest.approx(best["val_accuracy"])


def test_every_epoch_is_told_of_with_its_four_figures(engine):
    heard = []
    found = trained(epochs=3, on_epoch=lambda epoch, logs: heard.append((epoch, dict(logs))))
    assert [epoch for epoch, _ in heard] == [0, 1, 2]
    assert tuple(logs for _, logs in heard) == found.history
    assert all({"loss", "accuracy", "val_loss", "val_accuracy"} <= set(logs) for logs in found.history)


def test_each_epoch_is_trained_on_its_own_order_and_validation_on_one(engine):
    points, in_order, held_out = Points(40, seed=0), Points(40), Points(20, draw=1)
    train(HeadSpec(("a", "b"), epochs=3), SHAPE, "float16", points, in_order, held_out, seed=0)
    assert sorted(set(points.asked)) == [0, 1, 2]
    assert points.asked == sorted(points.asked)
    assert set(held_out.asked) == {0}
    assert in_order.asked == [0]


def test_without_standardisation_the_rows_are_not_read_for_statistics(engine):
    in_order = Points(40)
    spec = HeadSpec(("a", "b"), epochs=1, standardize=False)
    train(spec, SHAPE, "float16", Points(40, seed=0), in_order, Points(20, draw=1), seed=0)
    assert in_order.asked == []


def test_a_saved_head_is_loaded_in_safe_mode_and_predicts_the_same(usual, tmp_path):
    import keras

    usual.model.save(tmp_path / "head.keras")
    loaded = keras.saving.load_model(tmp_path / "head.keras", safe_mode=True)
    features = Points(30, draw=2).features
    assert np.array_equal(loaded.predict(features, verbose=0), usual.model.predict(features, verbose=0))


def test_a_saved_head_evaluates_as_it_did_when_it_was_trained(usual, tmp_path):
    usual.model.save(tmp_path / "head.keras")
    found = evaluate(str(tmp_path / "head.keras"), SHAPE, "float16", Points(60, draw=1))
    assert found == pytest.approx((usual.val_loss, usual.val_accuracy))


def test_data_smaller_than_a_batch_is_enough(engine):
    points = Points(5, seed=0)
    found = train(HeadSpec(("a", "b"), epochs=2), SHAPE, "float16", points, Points(5), Points(2, draw=1), seed=0)
    assert len(found.history) == 2
