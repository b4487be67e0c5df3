import dataclasses
import json
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest

from storage.records import fingerprint
from vision.errors import SpecError
from vision.specs import BACKBONES, CALIBRATION, FeatureSpec

PROJECT = Path(__file__).parents[2]
SPEC = FeatureSpec(weights="0" * 32)
DESCRIBED = [name for name, backbone in BACKBONES.items() if backbone.is_described]


@pytest.mark.parametrize(("size", "side"), [(32, 1), (63, 1), (64, 2), (150, 4), (224, 7), (299, 9)])
@pytest.mark.parametrize("backbone", ["vgg16", "vgg19"])
def test_a_cell_of_a_vgg_stands_for_32_whole_pixels(backbone, size, side):
    assert FeatureSpec("0" * 32, backbone, size).shape == (side, side, 512)


@pytest.mark.parametrize(("size", "side"), [(32, 1), (33, 2), (64, 2), (150, 5), (224, 7), (225, 8), (299, 10)])
def test_a_cell_of_a_resnet_stands_for_up_to_32_pixels(size, side):
    assert FeatureSpec("0" * 32, "resnet50", size).shape == (side, side, 2048)


@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("backbone", DESCRIBED)
def test_pooled_features_have_one_value_a_channel(backbone, pooling, size):
    assert FeatureSpec("0" * 32, backbone, size, pooling).shape == (BACKBONES[backbone].channels,)


@pytest.mark.parametrize("size", [31, 0, -224])
@pytest.mark.parametrize("backbone", DESCRIBED)
def test_an_image_too_small_for_the_network_is_refused(backbone, size):
    with pytest.raises(SpecError, match=rf"`image_size`: {backbone} needs at least 32 pixels, got {size}"):
        FeatureSpec("0" * 32, backbone, size)


def test_an_unknown_backbone_is_refused_with_those_that_are_known():
    with pytest.raises(
        SpecError,
        match=r"`backbone`: unknown backbone 'vgg17'; expected the path of a .keras file or one of the names in docs/backbones.md, for example vgg19, vgg16",
    ):
        FeatureSpec("0" * 32, backbone="vgg17")


CHANGES = {
    "weights": "1" * 32,
    "backbone": "resnet50",
    "image_size": 225,
    "pooling": "avg",
    "dtype": "float32",
    "precision": "mixed_float16",
    "preprocessing": "another",
    "exif": "apply",
    "rescale": 1 / 255,
    "sixteen_bit": "scale",
    "maps": (7, 7, 512),
    "calibration": "another",
}


def test_every_field_of_a_spec_has_a_changed_value_above():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(FeatureSpec)}


@pytest.mark.parametrize("name", CHANGES)
def test_any_field_changes_the_fingerprint(name):
    assert fingerprint(SPEC.record() | {name: CHANGES[name]}) != fingerprint(SPEC.record())


def test_the_record_has_the_preprocessing_of_the_backbone(monkeypatch):
    monkeypatch.setitem(BACKBONES, "other", dataclasses.replace(BACKBONES["vgg16"], preprocessing="another"))
    assert FeatureSpec("0" * 32, "other").record()["preprocessing"] == "another"
    assert FeatureSpec(**FeatureSpec("0" * 32, "other").record()) == FeatureSpec("0" * 32, "other")


def test_a_preprocessing_that_is_not_the_backbones_is_refused():
    with pytest.raises(SpecError, match="vgg16 has the preprocessing 'pillow-rgb bilinear caffe 1', not 'another'"):
        FeatureSpec("0" * 32, preprocessing="another")


@pytest.mark.parametrize("rescale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rescale_that_leaves_nothing_of_a_picture_is_refused(rescale):
    with pytest.raises(SpecError, match=r"`rescale`: expected a finite number over 0, .* got"):
        FeatureSpec("0" * 32, rescale=rescale)


def test_a_rescale_is_in_the_record_where_it_changes_something():
    assert FeatureSpec("0" * 32, rescale=1).record() == SPEC.record()
    rescaled = FeatureSpec("0" * 32, rescale=1 / 255)
    assert rescaled.record() == SPEC.record() | {"rescale": 1 / 255}
    assert FeatureSpec(**json.loads(json.dumps(rescaled.record()))) == rescaled


@pytest.mark.parametrize("precision", ["mixed_float16", "bfloat16", "int8"])
def test_a_precision_is_a_space_of_its_own_whose_record_names_the_calibration_of_int8_alone(precision):
    own = FeatureSpec("0" * 32, precision=precision)
    calibrated = {"calibration": CALIBRATION} if precision == "int8" else {}
    assert own.record() == SPEC.record() | {"precision": precision} | calibrated
    assert FeatureSpec(**json.loads(json.dumps(own.record()))) == own


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_calibration_that_is_not_this_programs_is_refused(precision):
    with pytest.raises(SpecError, match=f"`precision={precision}` has the calibration '.+', not 'another'"):
        FeatureSpec("0" * 32, precision=precision, calibration="another")


def test_the_record_and_the_fingerprint_of_a_spec_are_the_same_for_ever():
    assert json.dumps(SPEC.record()) == (
        '{"weights": "00000000000000000000000000000000", "backbone": "vgg16", "image_size": 224, "pooling": "none", '
        '"dtype": "float16", "precision": "float32", "preprocessing": "pillow-rgb bilinear caffe 1", "exif": "ignore"}'
    )
    assert fingerprint(SPEC.record()) == "bfc57b26786ffc880c2dadaaf570edb7"


@pytest.mark.parametrize(
    ("backbone", "layers", "parameters"),
    [("vgg16", 13, 14_714_688), ("vgg19", 16, 20_024_384), ("resnet50", 106, 23_587_712)],
)
def test_a_backbone_has_the_layers_and_parameters_that_keras_says(backbone, layers, parameters):
    tensors = BACKBONES[backbone].tensors
    assert len(tensors) == layers
    assert sum(prod(tensor.shape) for layer in tensors.values() for tensor in layer) == parameters


def test_who_only_asks_what_there_is_to_do_loads_no_tensorflow():
    ours = "vision.specs, vision.backbones.weights, vision.pixels.decode, vision.engines.extract, vision.training.head, workers.jobs.spaces, workers.jobs.records"
    script = f"import sys, {ours}; print(*{{'keras', 'tensorflow', 'prefect'}}.intersection(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
