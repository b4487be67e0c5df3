"""Which engine a run takes, and that none is believed unchecked."""

import dataclasses
import os
import subprocess
import sys
import weakref
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from tests.vision.backbones.test_weights import VGG16, write_keras2
from tests.vision.engines.test_tensorflow_engine import pixels, relative_error
from vision import engines
from vision.backbones import vgg_reference
from vision.backbones.weights import tensors_digest, weights_digest
from vision.backbones.weights_file import read_weights
from vision.engines import load_engine, mnn_engine, unload_engine
from vision.engines.mnn_engine import MnnEngine
from vision.engines.parity import LARGEST_ERROR, ParityError, check_parity
from vision.engines.selection import ENGINES, FALLBACK, EngineName, choose, engine_class
from vision.engines.serial import SerialEngine
from vision.errors import SpecError, WeightsError
from vision.specs import BACKBONES, FeatureSpec, cut_shape

PROJECT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def unloaded():
    """No engine stays loaded for another test."""
    yield
    unload_engine()


@pytest.mark.parametrize(
    ("wanted", "options", "has_gpu", "chosen"),
    [
        ("auto", {}, False, "mnn"),
        ("auto", {"backbone": "vgg19"}, False, "mnn"),
        ("auto", {"dtype": "float32"}, False, "mnn"),
        ("auto", {}, True, "tensorflow"),
        ("auto", {"backbone": "resnet50"}, False, "openvino"),
        ("auto", {"precision": "mixed_float16"}, False, "tensorflow"),
        ("tensorflow", {}, False, "tensorflow"),
        ("mnn", {}, True, "mnn"),
    ],
)
def test_the_choice_is_by_backbone_precision_and_device(wanted, options, has_gpu, chosen):
    assert choose(wanted, FeatureSpec("", **options), has_gpu) == chosen


def test_every_engine_of_the_table_can_be_asked_for_and_the_fallback_computes_everything():
    assert set(get_args(EngineName)) == {"auto", *ENGINES}
    specs = [FeatureSpec("", name, precision=own) for name in BACKBONES for own in ("float32", "mixed_float16")]
    assert {engine_class(FALLBACK).obstacle(spec) for spec in specs} == {""}


class Slower(SerialEngine):
    """The reference as an engine."""

    name = "slower 1"
    batch_size = 8

    @staticmethod
    def usual_batch(spec):
        return 8

    def __init__(self, spec, tensors, threads, before=None):
        super().__init__(spec, tensors, threads, before)
        self._tensors = tensors

    def _features(self, pixels):
        return vgg_reference.features(self.spec, self._tensors, pixels, self.before) + np.float32(1e-6)


def test_an_engine_is_a_class_and_a_line_of_the_table(engine, spec, monkeypatch):
    monkeypatch.setattr(mnn_engine, "Slower", Slower, raising=False)
    monkeypatch.setitem(ENGINES, "slower", "vision.engines.mnn_engine:Slower")
    assert choose("slower", spec, has_gpu=False) == "slower"
    assert type(load_engine("slower", spec, "random", 1)) is Slower
    monkeypatch.setitem(LARGEST_ERROR, spec.dtype, 0.0)
    unload_engine()
    assert "tensorflow replaces slower" in load_engine("slower", spec, "random", 1).fallback


def test_without_mnn_auto_takes_another_engine_and_who_asks_for_mnn_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setattr("vision.engines.mnn_engine.find_spec", lambda name: None)
    assert choose("auto", FeatureSpec(""), has_gpu=False) == "openvino"
    with pytest.raises(SpecError, match=r"`engine=mnn` is not installed: pip install .*\[fast\]"):
        choose("mnn", FeatureSpec(""), has_gpu=False)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"backbone": "resnet50"}, "only the VGG family, not resnet50"),
        ({"precision": "mixed_float16"}, "in float32, not"),
    ],
)
def test_mnn_is_refused_for_what_it_cannot_compute(options, reason):
    with pytest.raises(SpecError, match=reason):
        choose("mnn", FeatureSpec("", **options), has_gpu=False)


def test_an_engine_that_passes_is_taken_without_a_word(spec):
    loaded = load_engine("mnn", spec, "random", 1)
    assert loaded.name.startswith("mnn ")
    assert loaded.fallback is None
    assert load_engine("mnn", spec, "random", 1) is loaded


def test_an_engine_that_is_too_far_from_the_reference_gives_way_and_says_so(engine, spec, monkeypatch, caplog):
    monkeypatch.setitem(LARGEST_ERROR, spec.dtype, 0.0)
    stand_in = load_engine("mnn", spec, "random", 1)
    assert stand_in.name.startswith("tensorflow ")
    assert "tensorflow replaces mnn: mnn " in stand_in.fallback
    assert "differs from the reference" in stand_in.fallback
    assert stand_in.fallback in caplog.text
    assert np.array_equal(stand_in.features(pixels(2)), engine.features(pixels(2)))


@pytest.mark.parametrize("fault", [ImportError("libmnn.so"), RuntimeError("no session")])
def test_an_engine_that_cannot_be_loaded_gives_way_too(engine, spec, monkeypatch, fault):
    def broken(*arguments):
        raise fault

    monkeypatch.setattr(mnn_engine, "MnnEngine", broken)
    assert str(fault) in load_engine("mnn", spec, "random", 1).fallback


def test_features_of_other_weights_are_no_parity(spec, tensors):
    others = {name: (kernel * 1.01, bias) for name, (kernel, bias) in tensors.items()}
    with pytest.raises(ParityError, match=r"differs from the reference by .*, more than the allowed 3e-04"):
        check_parity(MnnEngine(spec, tensors, threads=1), others)


@pytest.fixture(scope="module")
def own_file(tensors, tmp_path_factory):
    """A file of the random tensors."""
    return write_keras2(tmp_path_factory.mktemp("weights") / "mine.h5", tensors)


@pytest.mark.parametrize("name", ["mnn", "openvino", "tensorflow"])
def test_weights_that_are_not_those_of_the_spec_any_more_are_refused(engine, spec, own_file, name):
    with pytest.raises(WeightsError, match="changed during the run"):
        load_engine(name, dataclasses.replace(spec, weights="0" * 32), str(own_file), 1)


@pytest.mark.parametrize("name", ["mnn", "openvino", "tensorflow"])
def test_an_engine_from_a_file_of_the_random_tensors_gives_the_same_features(engine, spec, tensors, own_file, name):
    own = dataclasses.replace(spec, weights=tensors_digest(tensors))
    from_seed = load_engine(name, spec, "random", 1).features(pixels(5))
    assert np.array_equal(load_engine(name, own, str(own_file), 1).features(pixels(5)), from_seed)


@pytest.fixture(scope="module")
def networks(tensors):
    """Keras' own network by image size, with the weights of the engines."""

    @cache
    def network(size: int):
        import keras

        made = keras.applications.VGG16(weights=None, include_top=False, input_shape=(size, size, 3))
        for layer, arrays in tensors.items():
            made.get_layer(layer).set_weights(arrays)
        return made

    return network


# Of 47 pixels every map but the last has an odd side.
@pytest.mark.parametrize(
    ("size", "before"), [(32, "block5"), (47, "block2"), pytest.param(75, "block5", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", ["mnn", "openvino", "tensorflow"])
def test_an_engine_that_ends_before_a_block_gives_what_keras_has_there(engine, spec, networks, name, size, before):
    import keras

    own = dataclasses.replace(spec, image_size=size, pooling="max", dtype="float32")
    network = networks(size)
    below = keras.Model(network.input, network.get_layer(f"block{int(before[-1]) - 1}_pool").output)
    values = keras.applications.vgg16.preprocess_input(pixels(3, size).astype(np.float32))
    cut = load_engine(name, own, "random", 1, before)
    found = cut.features(pixels(3, size))
    assert (cut.name.split()[0], cut.before) == (name, before)
    assert (found.shape, found.dtype) == ((3, *cut_shape(own, before)), np.float32)
    assert relative_error(found, np.asarray(below(values))) < LARGEST_ERROR["float32"]


def test_a_cut_engine_is_held_against_the_reference_that_is_cut_there(spec, tensors):
    others = {name: (kernel * 1.01, bias) for name, (kernel, bias) in tensors.items()}
    cut = MnnEngine(spec, tensors, 1, "block3")
    check_parity(cut, tensors)
    check_parity(cut, tensors | {name: others[name] for name in others if name.startswith("block3")})
    with pytest.raises(ParityError, match="differs from the reference"):
        check_parity(cut, tensors | {name: others[name] for name in others if name.startswith("block2")})


@pytest.mark.parametrize("name", ["mnn", "openvino", "tensorflow"])
@pytest.mark.parametrize(
    ("backbone", "before", "reason"),
    [
        (
            "resnet50",
            "block5",
            "resnet50 has no blocks that can be trained separately; choose a backbone of vgg16, vgg19",
        ),
        ("vgg16", "block1", "cannot start at block 'block1'; expected one of block2, block3, block4, block5"),
        ("vgg16", "block5_conv2", "cannot start at block 'block5_conv2'"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_a_sentence(name, backbone, before, reason):
    with pytest.raises(SpecError, match=f"`fine_tune`: {reason}"):
        load_engine(name, FeatureSpec("", backbone, image_size=32), "random", 1, before)


@pytest.mark.parametrize("name", ["mnn", "openvino", "tensorflow"])
def test_the_engine_before_is_gone_when_another_is_made(engine, spec, monkeypatch, name):
    seen = []
    before = weakref.ref(load_engine(name, spec, "random", 1, "block3"))
    made = engines._made
    monkeypatch.setattr(engines, "_made", lambda *wanted: (seen.append(before()), made(*wanted))[1])
    made_now = load_engine(name, spec, "random", 1, "block2")
    assert seen == [None]
    assert load_engine(name, spec, "random", 1, "block2") is made_now


def test_mnn_loads_no_tensorflow_opens_no_connection_and_leaves_no_file(tmp_path):
    code = """
import os, sys
from vision.engines import load_engine
from vision.specs import FeatureSpec
load_engine("mnn", FeatureSpec("", image_size=32), "random", 1)
links = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")]
print(sorted({"tensorflow", "keras", "MNN.tools.utils.log"} & set(sys.modules)), [link for link in links if "socket" in link])
"""
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[] []"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.skipif("VGG16_WEIGHTS" not in os.environ, reason="VGG16_WEIGHTS names no file of VGG16 notop weights")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_with_the_real_weights_mnn_is_within_its_bound(tmp_path, dtype):
    path = os.environ["VGG16_WEIGHTS"]
    spec = FeatureSpec(weights_digest(VGG16, path, tmp_path / "memo.json"), dtype=dtype)
    tensors = read_weights(VGG16, Path(path))
    check_parity(MnnEngine(spec, tensors, threads=1), tensors)
