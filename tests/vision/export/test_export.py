"""An export gives the probabilities of engine and head, in every format."""

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from tests.memo import random_weights
from vision.errors import SpecError
from vision.export.description import Description
from vision.export.formats import FORMATS, ExportFormat
from vision.prediction.head import load_predicting_head
from vision.specs import BACKBONES, FeatureSpec
from vision.training.head import HeadSpec
from vision.training.pooling import pool
from vision.training.statistics import Statistics

pytestmark = [
    # Keras 3.15 on NumPy 2, wherever it saves: keras/src/backend/tensorflow/core.py, convert_to_numpy.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]
SIZE = 40
TOLERANCE = {"keras": 1e-5, "saved_model": 1e-5, "onnx": 1e-4, "litert": 1e-4}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("saved_model", "litert")]
EACH = pytest.mark.parametrize("name", ["keras", "onnx", *SLOW])
SPACES = {
    "tutorial": (FeatureSpec("0" * 32, image_size=SIZE), HeadSpec(("cats", "dogs"))),
    "pooled": (
        FeatureSpec("0" * 32, image_size=SIZE, pooling="avg", dtype="float32", rescale=1 / 255),
        HeadSpec(("ant", "bee", "Ω"), kind="linear"),
    ),
    "logistic": (
        FeatureSpec("0" * 32, image_size=SIZE, dtype="float32"),
        HeadSpec(("ant", "bee", "cow"), kind="logistic"),
    ),
    "resnet": (
        FeatureSpec("0" * 32, "resnet50", image_size=SIZE, pooling="max", dtype="float32", precision="mixed_float16"),
        HeadSpec(("ant", "bee", "cow")),
    ),
}


def pixels(size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, size, size, 3), dtype=np.uint8)


@lru_cache
def features_of(spec: FeatureSpec) -> np.ndarray:
    """The features of the pixels by an engine, in the dtype of the store."""
    from vision.engines.tensorflow_engine import TensorFlowEngine

    spec = replace(spec, precision="float32")
    return (
        TensorFlowEngine(spec, random_weights(BACKBONES[spec.backbone]), 1)
        .features(pixels(spec.image_size))
        .astype(spec.dtype)
    )


def trained(spec: FeatureSpec, head: HeadSpec):
    """A head that standardises its features and is not sure of anything, so that a difference shows in its probabilities."""
    from vision.training.head_model import build_head

    taken = pool(features_of(spec), head.head_pooling) if head.pools else features_of(spec)
    rows = taken.astype(np.float64).reshape(-1, taken.shape[-1])
    return build_head(head, spec.shape, Statistics(rows.mean(axis=0), rows.var(axis=0) + 0.01), 0)


def describe(spec: FeatureSpec, head: HeadSpec, weights: str = "random") -> Description:
    return Description(head.classes, "a" * 32, 7, "b" * 32, spec, weights)


@EACH
@pytest.mark.parametrize("space", SPACES)
def test_an_export_gives_the_probabilities_of_engine_and_head(space, name, tmp_path):
    from vision.export.whole import build_classifier

    spec, of_head = SPACES[space]
    head = trained(spec, of_head)
    head.save(tmp_path / "head.keras")
    expected = load_predicting_head(tmp_path / "head.keras").probabilities(features_of(spec))
    assert np.ptp(expected, axis=0).min() > 0.05
    assert np.median(expected.max(axis=1)) < 0.95
    path = tmp_path / f"export{FORMATS[name].suffix}"
    model = build_classifier(spec, random_weights(BACKBONES[spec.backbone]), head)
    FORMATS[name].write(model, path, describe(spec, of_head))
    run = FORMATS[name].load(path)
    assert run is not None
    for count in (6, 1):  # any number of images at a time
        found = run(pixels(spec.image_size)[:count])
        assert found.dtype == np.float32
        assert found.shape == (count, len(of_head.classes))
        assert np.abs(found - expected[:count]).max() <= TOLERANCE[name]


@EACH
def test_a_fine_tuned_head_is_exported_as_the_network_that_it_is(name, tmp_path):
    from vision.export.whole import with_all_classes
    from vision.training.fine_tuning import build_tunable, build_whole
    from vision.training.head_model import load_head

    spec, of_head = SPACES["tutorial"]
    tensors = random_weights(BACKBONES["vgg16"])
    tunable = build_tunable(spec, tensors, trained(spec, of_head), "block5", "sgd", None, 0)
    build_whole(spec, tensors, tunable).save(tmp_path / "model.keras")
    whole = load_head(str(tmp_path / "model.keras"))
    expected = load_predicting_head(tmp_path / "model.keras").probabilities(pixels())
    path = tmp_path / f"export{FORMATS[name].suffix}"
    FORMATS[name].write(with_all_classes(whole, "classifier"), path, describe(spec, of_head))
    run = FORMATS[name].load(path)
    assert run is not None
    assert np.abs(run(pixels()) - expected).max() <= TOLERANCE[name]


def described(path: Path, name: str) -> dict:
    """What an export says about itself, read as docs/export.md says."""
    if name == "saved_model":
        found = json.loads((path / "assets.extra" / "classifier.json").read_text())
        assert "EXIF" in found.pop("from_bytes")
        return found
    if name == "onnx":
        import onnx

        texts = {one.key: one.value for one in onnx.load(path).metadata_props}
        return texts | {key: json.loads(texts[key]) for key in ("classes", "version", "features", "format_version")}
    with ZipFile(path) as archive:
        return json.loads(archive.read("classifier.json"))


@EACH
def test_an_export_says_what_it_is(name, tmp_path):
    from vision.export.whole import build_classifier

    spec, of_head = SPACES["pooled"]
    path = tmp_path / f"export{FORMATS[name].suffix}"
    model = build_classifier(spec, random_weights(BACKBONES["vgg16"]), trained(spec, of_head))
    FORMATS[name].write(model, path, describe(spec, of_head))
    found = described(path, name)
    assert found == describe(spec, of_head).record()
    assert found["classes"] == ["ant", "bee", "Ω"]
    assert (found["head"], found["version"], found["fingerprint"]) == ("a" * 32, 7, "b" * 32)
    assert found["features"] == spec.record()


def test_an_export_in_onnx_keeps_to_one_version_of_the_format(tmp_path):
    import onnx

    from vision.export.whole import build_classifier

    spec, of_head = SPACES["tutorial"]
    model = build_classifier(spec, random_weights(BACKBONES["vgg16"]), trained(spec, of_head))
    FORMATS["onnx"].write(model, tmp_path / "export.onnx", describe(spec, of_head))
    found = onnx.load(tmp_path / "export.onnx")
    assert ([(one.domain, one.version) for one in found.opset_import], found.ir_version) == ([("", 17)], 8)
    (given,) = found.graph.input
    assert [side.dim_param or side.dim_value for side in given.type.tensor_type.shape.dim] == ["n", SIZE, SIZE, 3]


def test_a_layer_that_onnx_lacks_is_named(tmp_path):
    import keras

    given = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    values = keras.layers.Rescaling(1 / 255)(given)
    values = keras.layers.GlobalAveragePooling2D()(keras.layers.SpatialDropout2D(0.5, name="odd")(values))
    model = keras.Model(given, values)
    with pytest.raises(SpecError, match=r"`format=onnx`.*odd.*SpatialDropout2D"):
        FORMATS["onnx"].write(model, tmp_path / "export.onnx", describe(*SPACES["pooled"]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("backbone", {each.credit: name for name, each in BACKBONES.items()}.values())
@pytest.mark.parametrize(("weights", "said"), [("imagenet", "by {credit}"), ("random", "random"), ("/a/b.h5", "file")])
def test_an_export_names_the_licence_of_its_weights_and_no_path(backbone, weights, said):
    credit = BACKBONES[backbone].credit
    assert any(licence in credit for licence in ("CC BY", "MIT", "BSD", "Apache"))
    record = describe(FeatureSpec("0" * 32, backbone), SPACES["pooled"][1], weights).record()
    assert said.format(credit=credit) in record["weights"]
    assert (credit in record["weights"]) == (weights != "random")
    assert "/a/b.h5" not in json.dumps(record)


def test_a_missing_package_is_named_with_a_command_that_the_project_has():
    import tomllib

    from tests.test_layers import PROJECT

    assert ExportFormat("onnx", ".onnx", package="no_such_package").missing
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for one in FORMATS.values():
        assert not one.package or any(line.startswith(one.package) for line in extras[one.package])
