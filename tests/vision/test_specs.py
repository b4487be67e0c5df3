import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from storage.layout import fingerprint
from vision.specs import BACKBONES, FeatureSpec, SpecError

PROJECT = Path(__file__).parents[2]
SPEC = FeatureSpec(weights="0" * 32)


@pytest.mark.parametrize(("size", "side"), [(32, 1), (63, 1), (64, 2), (150, 4), (224, 7), (299, 9)])
def test_a_feature_cell_stands_for_32_pixels(size, side):
    assert FeatureSpec("0" * 32, image_size=size).shape == (side, side, 512)


@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("size", [32, 224])
def test_pooled_features_have_one_value_a_channel(pooling, size):
    assert FeatureSpec("0" * 32, image_size=size, pooling=pooling).shape == (512,)


@pytest.mark.parametrize("size", [31, 0, -224])
def test_an_image_too_small_for_the_network_is_refused(size):
    with pytest.raises(SpecError, match=rf"--image-size: at least 32 pixels for vgg16, got {size}"):
        FeatureSpec("0" * 32, image_size=size)


def test_an_unknown_backbone_is_refused_with_those_that_are_known():
    with pytest.raises(SpecError, match=r"--backbone: 'vgg17' is not known; expected one of vgg16"):
        FeatureSpec("0" * 32, backbone="vgg17")


CHANGES = {
    "weights": "1" * 32,
    "backbone": "other",
    "image_size": 225,
    "pooling": "avg",
    "dtype": "float32",
    "precision": "mixed_float16",
    "preprocessing": "another",
    "exif": "apply",
}


def test_every_field_of_a_spec_has_a_changed_value_below():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(FeatureSpec)}


@pytest.mark.parametrize("name", CHANGES)
def test_any_field_changes_the_fingerprint(name, monkeypatch):
    monkeypatch.setitem(BACKBONES, "other", BACKBONES["vgg16"])  # there is only one that is known
    other = dataclasses.replace(SPEC, **{name: CHANGES[name]})
    assert fingerprint(other.record()) != fingerprint(SPEC.record())


def test_the_fingerprint_of_a_spec_is_the_same_for_ever():
    assert fingerprint(SPEC.record()) == "bfc57b26786ffc880c2dadaaf570edb7"


def test_vgg16_has_thirteen_convolutions_and_14_714_688_parameters():
    tensors = BACKBONES["vgg16"].tensors
    assert len(tensors) == 13
    assert sum(h * w * i * o + o for _, (h, w, i, o) in tensors) == 14_714_688


def test_who_only_asks_what_there_is_to_do_loads_no_tensorflow():
    ours = "vision.specs, vision.weights, vision.images, vision.extraction, vision.head, tasks.survey, tasks.records"
    script = f"import sys, {ours}; print(*{{'keras', 'tensorflow', 'prefect'}}.intersection(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
