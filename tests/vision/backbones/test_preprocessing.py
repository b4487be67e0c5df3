"""One preprocessing in two forms, against Keras' own; and no Lambda, which would be code of ours in a saved model."""

import ast
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.vision.engines.test_tensorflow_engine import pixels
from vision.backbones.preprocessing import MODES, preprocessed, preprocessing_layers

PROJECT = Path(__file__).parents[3]

# Keras 3.15 on NumPy 2, wherever it saves: keras/src/backend/tensorflow/core.py, convert_to_numpy.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


def spec(mode: str, rescale: float = 1.0) -> SimpleNamespace:
    return SimpleNamespace(preprocessing=f"pillow-rgb bilinear {mode} 1", rescale=rescale)


def of_layers(own: SimpleNamespace, batch: np.ndarray, path: Path) -> np.ndarray:
    """What a saved model of nothing but the layers gives, loaded in safe mode."""
    import keras

    inputs = keras.Input(batch.shape[1:], dtype="uint8")
    keras.Model(inputs, preprocessing_layers(inputs, own)).save(path)
    return np.asarray(keras.saving.load_model(path, safe_mode=True, compile=False)(batch))


@pytest.mark.parametrize("mode", MODES)
def test_pixels_become_what_keras_makes_of_them(engine, mode):
    from keras.applications.imagenet_utils import preprocess_input

    given = pixels(2).astype(np.float32)
    unchanged = {"none": given, "scale": given / 255}  # modes that Keras has only as layers inside its networks
    expected = unchanged[mode] if mode in unchanged else preprocess_input(given, mode=mode)
    found = preprocessed(pixels(2), spec(mode))
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= (0 if mode == "caffe" else 1e-6)


@pytest.mark.parametrize("rescale", [1.0, 1 / 255])
@pytest.mark.parametrize("mode", MODES)
def test_the_layers_give_what_numpy_gives_also_when_saved_and_loaded_in_safe_mode(engine, mode, rescale, tmp_path):
    expected = preprocessed(pixels(2), spec(mode, rescale))
    found = of_layers(spec(mode, rescale), pixels(2), tmp_path / "model.keras")
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= (0 if mode == "caffe" else 1e-6)


def test_rescaling_comes_behind_the_preprocessing():
    plain, scaled = preprocessed(pixels(1), spec("caffe")), preprocessed(pixels(1), spec("caffe", 1 / 255))
    assert np.array_equal(scaled, plain * np.float32(1 / 255))


def test_no_model_of_the_project_has_a_lambda_layer():
    named = {
        str(path.relative_to(PROJECT))
        for path in (PROJECT / "vision").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if getattr(node, "attr", getattr(node, "id", getattr(node, "name", ""))) == "Lambda"
    }
    assert named == set()
