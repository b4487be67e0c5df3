import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.training.head import HeadSpec
from vision.training.head_model import build_head, compile_update
from vision.training.statistics import VARIANCE_FLOOR, Statistics, balanced_weights, feature_statistics

CLASSES = ("cat", "dog", "fox", "hen")


def rows(count: int, seed: int = 0, dtype=np.float16) -> np.ndarray:
    values = np.random.default_rng(seed).normal(5, [0.5, 1, 2, 4], (count, 2, 2, 4))
    return np.maximum(values, 0).astype(dtype)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.sampled_from([np.float16, np.float32]))
def test_statistics_are_those_of_numpy_on_all_rows_at_once_however_they_are_cut(sizes, dtype):
    batches = [rows(size, seed, dtype) for seed, size in enumerate(sizes)]
    found = feature_statistics(iter(batches))
    together = np.concatenate(batches).reshape(-1, 4).astype(np.float64)
    assert found.mean.dtype == found.variance.dtype == np.float64
    np.testing.assert_allclose(found.mean, together.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.variance, together.var(axis=0), rtol=1e-10)


def test_statistics_do_not_cancel_far_from_zero():
    values = 1e6 + np.random.default_rng(0).normal(0, 1, (1000, 3))
    found = feature_statistics(np.split(values, 10))
    np.testing.assert_allclose(found.variance, values.var(axis=0), rtol=1e-9)


def test_pooled_features_have_statistics_too():
    values = rows(6).reshape(-1, 4)
    np.testing.assert_allclose(feature_statistics([values]).mean, values.astype(np.float64).mean(axis=0))


def test_a_dead_channel_has_the_floor_for_its_variance():
    values = rows(50, dtype=np.float32)
    values[..., 1] = 0
    found = feature_statistics([values])
    raw = values.reshape(-1, 4).astype(np.float64).var(axis=0)
    assert found.variance[1] == pytest.approx(VARIANCE_FLOOR * raw.mean())
    np.testing.assert_allclose(np.delete(found.variance, 1), np.delete(raw, 1))


def test_where_all_channels_are_constant_nothing_is_divided_by_nothing():
    found = feature_statistics([np.full((3, 4), 7, np.float32), np.full((2, 4), 7, np.float32)])
    assert found.variance.tolist() == [1, 1, 1, 1]


def head(classes=2, seed=0, statistics=None, **options):
    return build_head(HeadSpec(CLASSES[:classes], **options), (2, 2, 4), statistics, seed)


@pytest.mark.parametrize(("classes", "units", "activation"), [(2, 1, "sigmoid"), (3, 3, "softmax"), (4, 4, "softmax")])
def test_two_classes_have_one_sigmoid_and_more_a_softmax(engine, classes, units, activation):
    model = head(classes)
    assert model.output_shape == (None, units)
    assert model.layers[-1].activation.__name__ == activation
    found = model.predict(rows(5), verbose=0)
    assert ((found >= 0) & (found <= 1)).all()
    if units > 1:
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def test_the_head_is_the_tutorials(engine):
    assert [type(layer).__name__ for layer in head().layers] == ["InputLayer", "Flatten", "Dense", "Dropout", "Dense"]
    assert head().layers[2].units == 256
    assert head().layers[3].rate == 0.5


def test_a_linear_head_has_one_layer_of_weights(engine):
    model = head(classes=3, kind="linear")
    assert [type(layer).__name__ for layer in model.layers] == ["InputLayer", "Flatten", "Dense"]
    assert [weights.shape for weights in model.get_weights()] == [(16, 3), (3,)]


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=6).filter(any))
def test_balanced_weights_give_every_class_with_samples_the_same_say_and_one_on_average(counts):
    weights = balanced_weights(np.array(counts))
    shares = weights * counts
    assert shares.sum() == pytest.approx(sum(counts))
    there = [share for share, count in zip(shares, counts, strict=True) if count]
    assert there == pytest.approx([sum(counts) / len(there)] * len(there))
    assert np.isfinite(weights).all()


def test_pooled_features_need_no_flatten(engine):
    model = build_head(HeadSpec(CLASSES[:2]), (4,), None, 0)
    assert "Flatten" not in [type(layer).__name__ for layer in model.layers]
    assert model.predict(np.ones((3, 4), np.float16), verbose=0).shape == (3, 1)


def test_the_standardisation_is_a_layer_of_the_head(engine):
    statistics = feature_statistics([rows(100)])
    with_layer, without = head(statistics=statistics), head()
    standard = (rows(5, dtype=np.float32) - statistics.mean) / np.sqrt(statistics.variance)
    np.testing.assert_allclose(
        with_layer.predict(rows(5, dtype=np.float32), verbose=0),
        without.predict(standard.astype(np.float32), verbose=0),
        atol=1e-5,
    )


def test_float16_and_float32_features_of_equal_value_give_the_same_answer(engine):
    model = head(statistics=Statistics(np.full(4, 5.0), np.ones(4)))
    assert np.array_equal(model.predict(rows(5), verbose=0), model.predict(rows(5).astype(np.float32), verbose=0))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(engine):
    first, again, other = (head(seed=seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


# Keras 3.15 on NumPy 2, wherever it saves: keras/src/backend/tensorflow/core.py, convert_to_numpy.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize("optimizer", ["rmsprop", "adam", "sgd"])
def test_the_optimizer_and_its_learning_rate_are_those_asked_for(engine, optimizer):
    model = head(optimizer=optimizer, learning_rate=0.125)
    assert type(model.optimizer).__name__.lower() == optimizer
    assert float(model.optimizer.learning_rate) == 0.125


def test_a_head_kept_in_a_mixed_precision_process_is_float32(engine):
    import keras

    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        assert head().compute_dtype == "float32"
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_a_head_takes_features_as_they_are_stored_whatever_the_users_keras_says(engine):
    import keras

    usual = head().predict(rows(5), verbose=0)
    keras.config.set_image_data_format("channels_first")
    try:
        assert np.array_equal(head().predict(rows(5), verbose=0), usual)
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize(
    "later",
    [{}, {"initial_epoch": 2}, {"validation_steps": 4}, {"augment": "{}", "variants": 2}, {"fine_tune": "block5"}],
    ids=str,
)
def test_a_head_spec_is_json_and_keeps_every_field(later):
    """But for those that came later and are at their defaults, which left the names of older heads as they were."""
    spec = HeadSpec(("b", "a"), epochs=3, **later)
    record = json.loads(json.dumps(spec.record()))
    first = {"classes", "kind", "epochs", "steps_per_epoch", "batch_size", "optimizer", "learning_rate", "patience"}
    first |= {"class_weight", "sampling", "standardize", "shuffle_memory_mb"}
    assert set(record) == first | set(later)
    assert HeadSpec(**record | {"classes": tuple(record["classes"])}) == spec


# Keras 3.15 on NumPy 2, wherever it saves: keras/src/backend/tensorflow/core.py, convert_to_numpy.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize("optimizer", ["rmsprop", "adam", "sgd"])
def test_a_compiled_update_is_the_optimizers_own_and_a_saved_head_does_without(engine, tmp_path, optimizer):
    import keras

    plain, compiled = (build_head(HeadSpec(CLASSES, optimizer=optimizer), (2, 2, 4), None, 1) for _ in range(2))
    compiled.optimizer.build(compiled.trainable_variables)
    compile_update(compiled)
    for step in range(5):
        for head in (plain, compiled):
            keras.utils.set_random_seed(step)
            head.train_on_batch(rows(16, step).astype(np.float32), np.arange(16) % 4)
    for one, other in ((plain, compiled), (plain.optimizer, compiled.optimizer)):
        for left, right in zip(one.variables, other.variables, strict=True):
            np.testing.assert_allclose(left.numpy(), right.numpy(), rtol=1e-4, atol=1e-6)
    compiled.save(tmp_path / "head.keras")
    again = keras.saving.load_model(tmp_path / "head.keras", safe_mode=True)
    assert "apply" not in vars(again.optimizer)
    assert [v.numpy().tolist() for v in again.optimizer.variables] == [
        v.numpy().tolist() for v in compiled.optimizer.variables
    ]
