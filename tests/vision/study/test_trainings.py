import dataclasses
import math

import numpy as np
import pytest

from vision.study.advice import advise, cells
from vision.study.trainings import LEARNING_RATES, Row, faults, row_of
from vision.training.head import HeadSpec

GOOD = np.array([[48, 2], [3, 47]])
ALL_CATS = np.array([[50, 0], [50, 0]])


def history(*epochs: tuple[float, float, float]) -> list[dict]:
    """Epochs of (loss, val_loss, val_accuracy)."""
    return [
        {"loss": loss, "accuracy": 0.9, "val_loss": val_loss, "val_accuracy": val_accuracy}
        for loss, val_loss, val_accuracy in epochs
    ]


def record(epochs: list[dict], confusion=GOOD, samples: int = 100, **changed) -> dict:
    """What head.json tells of a training of these epochs."""
    spec = HeadSpec(("cats", "dogs"), **{"batch_size": 8} | changed)
    metrics = {"val_loss": 0.1, "val_accuracy": 0.95, "train_seconds": 12.0}
    return {
        "head": spec.record(),
        "seed": 3,
        "history": epochs,
        "metrics": metrics,
        "samples": {"train": samples, "validation": int(confusion.sum())},
        "confusion": confusion.tolist(),
    }


def row(**changed) -> Row:
    return dataclasses.replace(row_of("a" * 32, record(history((0.4, 0.2, 0.9)))), **changed)


# Rows


def test_a_row_tells_the_kept_epoch_and_the_last_one():
    found = row_of("a" * 32, record(history((0.4, 0.3, 0.8), (0.2, 0.1, 0.95), (0.1, 0.2, 0.9))))
    assert (found.kept_epoch, found.loss, found.val_loss, found.val_accuracy) == (2, 0.2, 0.1, 0.95)
    assert (found.last_loss, found.last_val_loss, found.last_val_accuracy) == (0.1, 0.2, 0.9)
    assert (found.batch_size, found.seed, found.epochs, found.images) == (8, 3, 3, 100)
    assert found.faults == ()


def test_a_training_of_which_no_epoch_was_kept_has_no_training_figures():
    found = row_of("a" * 32, record(history((math.nan, math.nan, 0.5))))
    assert found.kept_epoch == 0
    assert math.isnan(found.loss)


@pytest.mark.parametrize(
    ("samples", "batch_size", "steps_per_epoch", "steps"),
    [(100, 8, None, 13), (100, 50, None, 2), (100, 128, None, 1), (100, 8, 5, 5)],
)
def test_steps_an_epoch_are_those_of_the_training(samples, batch_size, steps_per_epoch, steps):
    made = record(history((0.4, 0.2, 0.9)), samples=samples, batch_size=batch_size, steps_per_epoch=steps_per_epoch)
    assert row_of("a" * 32, made).steps == steps


@pytest.mark.parametrize(
    ("kept", "seconds"), [([9.0, 2.0, 1.0, 3.0], 2.0), ([9.0, 2.0], 2.0), ([9.0], 9.0), ([], 4.0), (None, 4.0)]
)
def test_an_epoch_takes_the_median_without_the_first_or_its_part_of_the_whole(kept, seconds):
    made = record(history(*[(0.4, 0.2, 0.9)] * 3)) | ({} if kept is None else {"epoch_seconds": kept})
    found = row_of("a" * 32, made)
    assert (found.epoch_seconds, found.step_ms) == (seconds, pytest.approx(1000 * seconds / 13))


def test_a_learning_rate_that_was_not_given_is_that_of_keras(engine):
    import keras

    for name, rate in LEARNING_RATES.items():
        assert float(keras.optimizers.get(name).learning_rate) == pytest.approx(rate)
        assert row_of("a" * 32, record(history((0.4, 0.2, 0.9)), optimizer=name)).learning_rate == rate
    assert row_of("a" * 32, record(history((0.4, 0.2, 0.9)), learning_rate=0.5)).learning_rate == 0.5


# Faults


def test_a_training_that_learns_has_no_fault():
    assert faults(history((0.6, 0.4, 0.8), (0.2, 0.2, 0.93), (0.01, 0.3, 0.95)), GOOD) == ()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_a_divergence(bad):
    (text,) = faults(history((0.6, 0.5, 0.8), (bad, 0.4, 0.7)), GOOD)
    assert text == "diverged: the loss is not finite from epoch 2 on"


def test_a_loss_that_grows_beyond_that_of_a_constant_is_a_divergence():
    assert faults(history((0.5, 0.4, 0.8), (4.0, 3.0, 0.6)), GOOD) == ("diverged: the loss grew from 0.5 to 4",)
    assert faults(history((0.01, 0.4, 0.8), (0.05, 0.4, 0.8)), GOOD) == ()  # small, and small again
    assert faults(history((8.0, 0.4, 0.8), (4.0, 0.4, 0.8)), GOOD) == ()  # large features begin so


def test_a_head_that_names_one_class_for_every_image_is_told():
    assert faults(history((0.7, 0.69, 0.5)), ALL_CATS) == ("predicts one class for every validation image",)


@pytest.mark.parametrize("val_loss", [0.6931, 8.1, math.nan])
def test_a_head_that_ends_as_a_constant_is_told_though_a_better_epoch_was_kept(val_loss):
    (text,) = faults(history((0.9, 0.3, 0.9), (0.8, val_loss, 0.5)), GOOD)
    assert text.startswith("ends no better than a constant prediction: val_accuracy 0.5000")


def test_an_accuracy_of_one_half_with_a_loss_that_has_learnt_is_no_constant():
    assert faults(history((0.9, 0.5, 0.5)), GOOD) == ()


def test_a_constant_of_unequal_classes_has_their_share():
    confusion = np.array([[8, 2], [0, 90]])
    assert faults(history((0.4, 0.33, 0.9)), confusion) != ()
    assert faults(history((0.4, 0.33, 0.5)), confusion) == ()


# Advice


def seeds(size: int, accuracies: tuple[float, ...], seconds: float, **changed) -> list[Row]:
    return [
        row(batch_size=size, seed=seed, val_accuracy=accuracy, epoch_seconds=seconds, seconds=seconds, **changed)
        for seed, accuracy in enumerate(accuracies)
    ]


def test_cells_hold_the_seeds_of_one_combination():
    rows = [
        row(batch_size=size, seed=seed, standardize=scaled)
        for seed in (0, 1)
        for scaled in (False, True)
        for size in (8, 4)
    ]
    found = cells(rows)
    assert [(cell.standardize, cell.batch_size, len(cell.rows)) for cell in found] == [
        *((True, 4, 2), (True, 8, 2)),
        *((False, 4, 2), (False, 8, 2)),
    ]


def test_a_clear_winner_is_taken_however_slow():
    advice = advise([*seeds(8, (0.97, 0.971), 20.0), *seeds(128, (0.9, 0.901), 3.0)])
    assert (advice.chosen.batch_size, advice.best.batch_size) == (8, 8)


def test_of_those_within_one_standard_error_the_fastest_is_taken():
    rows = [
        *seeds(8, (0.95, 0.97, 0.99), 20.0),
        *seeds(32, (0.95, 0.96, 0.97), 5.0),
        *seeds(128, (0.93, 0.94, 0.95), 3.0),
    ]
    advice = advise(rows)
    assert advice.best.standard_error == pytest.approx(0.02 / math.sqrt(3))
    assert (advice.best.batch_size, advice.chosen.batch_size) == (8, 32)


def test_what_does_no_better_than_the_largest_class_has_not_learnt():
    assert not advise(seeds(8, (0.50, 0.54), 1.0)).has_learnt
    assert advise(seeds(8, (0.90, 0.94), 1.0)).has_learnt
    assert not advise(seeds(8, (0.90, 0.94), 1.0, largest_share=0.92)).has_learnt


def test_one_seed_has_the_error_of_a_share_of_so_many_images():
    (cell,) = cells(seeds(8, (0.9,), 1.0, images=400))
    assert cell.spread is None
    assert cell.standard_error == pytest.approx(0.015)


@pytest.mark.parametrize(
    ("optimizer", "rule", "rates"),
    [
        ("sgd", "linear", {8: 0.01, 32: 0.04}),
        ("adam", "square root", {8: 0.01, 32: 0.02}),
        ("rmsprop", "square root", {8: 0.01, 32: 0.02}),
    ],
)
def test_the_learning_rate_grows_with_the_batch_as_the_optimizer_has_it(optimizer, rule, rates):
    made = [*seeds(8, (0.99,), 1.0, optimizer=optimizer, learning_rate=0.01)]
    made += seeds(32, (0.5,), 1.0, optimizer=optimizer, learning_rate=0.01)
    advice = advise(made)
    assert (advice.rule, advice.learning_rates) == (rule, pytest.approx(rates))


# Trainings that diverged, and batches that are larger than the data


def test_a_record_with_null_for_a_figure_is_a_row():
    nothing = dict.fromkeys(("loss", "accuracy", "val_loss", "val_accuracy"))
    found = row_of(
        "a" * 32, record([nothing]) | {"metrics": {"val_loss": None, "val_accuracy": 0.5, "train_seconds": 1.0}}
    )
    assert (found.is_finite, found.kept_epoch) == (False, 0)
    assert "diverged: the loss is not finite from epoch 1 on" in found.faults


def test_a_validation_loss_that_is_not_finite_is_a_fault():
    assert faults(history((0.6, 0.5, 0.8), (0.5, math.nan, 0.8)), GOOD) == (
        "diverged: the validation loss is not finite in epoch 2",
    )


@pytest.mark.parametrize("figure", ["val_loss", "last_loss", "last_val_loss"])
def test_a_combination_that_diverged_is_never_advised(figure):
    rows = [*seeds(8, (0.99, 0.98), 1.0), *seeds(32, (0.7, 0.71), 9.0)]
    advice = advise([dataclasses.replace(rows[0], **{figure: math.nan}), *rows[1:]])
    assert (advice.best.batch_size, advice.chosen.batch_size) == (32, 32)
    assert list(advice.learning_rates) == [8, 32]


def test_where_each_combination_diverged_there_is_no_advice():
    assert advise(seeds(8, (0.99, 0.98), 1.0, val_loss=math.nan)) is None


def test_no_batch_is_advised_that_is_larger_than_the_data():
    made = row_of("a" * 32, record(history((0.4, 0.2, 0.9)), samples=172, batch_size=1000))
    assert (made.batch_size, made.steps) == (172, 1)
    advice = advise([made, dataclasses.replace(made, batch_size=43, val_accuracy=0.5)])
    assert advice.chosen.batch_size == 172
    assert advice.learning_rates == pytest.approx({43: 0.0005, 172: 0.001})


# Heads that a solver fitted


def solved(strength: float, accuracy: float, seconds: float = 2.0, **own) -> Row:
    spec = HeadSpec(("cats", "dogs"), kind="logistic", **own)
    tried = [] if own.get("l2") else [{"l2": strength, "loss": 0.2, "accuracy": 0.9}]
    made = record([]) | {"head": spec.record(), "regularization": {"l2": strength, "tried": tried}}
    made["metrics"] = {"val_loss": 0.1, "val_accuracy": accuracy, "train_seconds": seconds}
    return row_of("b" * 32, made)


def test_a_solved_head_has_the_figures_of_its_cross_validation_and_no_epochs():
    found = solved(0.1, 0.96)
    assert (found.label, found.has_epochs, found.batch_size) == (
        "logistic avg+max, L2 0.1 by cross-validation",
        False,
        0,
    )
    assert (found.loss, found.accuracy, found.val_loss, found.val_accuracy, found.seconds) == (0.2, 0.9, 0.1, 0.96, 2.0)
    assert (found.is_finite, found.faults) == (True, ())
    given = solved(0.5, 0.96, l2=0.5, head_pooling="max")
    assert (given.label, given.is_finite) == ("logistic max, L2 0.5", True)
    assert math.isnan(given.loss)


def test_heads_are_compared_by_the_time_of_the_whole_training():
    trained = [*seeds(8, (0.97,), 1.0), *seeds(128, (0.96,), 1.0)]
    advice = advise([*(dataclasses.replace(each, seconds=20.0) for each in trained), solved(0.1, 0.97)])
    assert advice.chosen.label.startswith("logistic")
    assert advice.learning_rates == {}
    found = cells([*trained, solved(0.1, 0.97), solved(0.5, 0.9, l2=0.5)])
    assert [(cell.label.split()[0], cell.batch_size) for cell in found] == [
        *(("mlp", 8), ("mlp", 128), ("logistic", 0), ("logistic", 0)),
    ]
