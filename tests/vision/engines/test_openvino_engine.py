"""OpenVINO: float32 against TensorFlow, bfloat16 and int8 against the reference, and what it needs of a machine."""

import dataclasses
import io
import os
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from tests.vision.backbones.test_weights import VGG16
from tests.vision.engines.test_tensorflow_engine import pixels, relative_error
from vision.backbones import vgg_reference as vgg
from vision.backbones.weights import random_weights, weights_digest
from vision.backbones.weights_file import read_weights
from vision.engines import calibration, keras_export, load_engine, openvino_engine, unload_engine
from vision.engines.calibration import activation_ranges, calibration_pictures, rounded_up
from vision.engines.facts import cache_folder
from vision.engines.openvino_engine import NEEDED, OpenVinoEngine
from vision.engines.parity import LARGEST_ERROR, LARGEST_ERROR_OF, SMALLEST_COSINE_OF, ParityError, check_parity
from vision.engines.selection import choose
from vision.errors import SpecError
from vision.specs import BACKBONES, FeatureSpec

PROJECT = Path(__file__).parents[3]
PRECISIONS = ("float32", "bfloat16", "int8")


def usable(precision: str) -> str:
    """The precision; the test is skipped where this machine cannot compute it."""
    if obstacle := OpenVinoEngine.obstacle(FeatureSpec("", precision=precision)):
        pytest.skip(f"openvino {obstacle}")
    return precision


@pytest.fixture(scope="module")
def made(spec, tensors):
    """Engines by precision, cut and size, each made once."""

    def make(precision: str, before: str | None = None, size: int = 32) -> OpenVinoEngine:
        own = dataclasses.replace(spec, precision=usable(precision), image_size=size)
        return OpenVinoEngine(own, tensors, 1, before)

    return lru_cache(make)


@pytest.mark.parametrize(("size", "pooling"), [(32, "none"), (75, "max")])
def test_openvino_gives_the_features_of_tensorflow(engine, spec, tensors, size, pooling):
    from vision.engines.tensorflow_engine import TensorFlowEngine

    own = dataclasses.replace(spec, image_size=size, pooling=pooling)
    found = OpenVinoEngine(own, tensors, 1).features(pixels(3, size))
    assert (found.shape, found.dtype) == ((3, *own.shape), np.float32)
    assert relative_error(found, TensorFlowEngine(own, tensors, 1).features(pixels(3, size))) < LARGEST_ERROR["float32"]


@pytest.mark.parametrize("rescale", [1.0, 1 / 255])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_precision_is_within_its_bound_and_no_closer_than_its_digits(spec, tensors, precision, rescale):
    own = dataclasses.replace(spec, precision=usable(precision), rescale=rescale)
    found = OpenVinoEngine(own, tensors, 1).features(pixels(4))
    error = relative_error(found, vgg.features(own, tensors, pixels(4)))
    assert error < LARGEST_ERROR_OF.get(precision, LARGEST_ERROR["float32"])
    assert error > {"float32": 0.0, "bfloat16": 1e-3, "int8": 1e-2}[precision], "computed in another precision"


@pytest.mark.parametrize("before", [None, "block3"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_with_openvino_a_feature_does_not_depend_on_its_neighbours_nor_on_its_place(made, precision, before):
    own = made(precision, before)
    alone = own.features(pixels(3))
    others = pixels(own.batch_size + 2, seed=1)
    others[-3:] = pixels(3)
    assert np.array_equal(own.features(others)[-3:], alone)
    assert np.array_equal(own.features(pixels(3)), alone)
    assert np.array_equal(own.features(pixels(1))[0], alone[0])


def test_a_smaller_batch_gives_the_same_features(spec, tensors):
    own = OpenVinoEngine(spec, tensors, 1)
    found = own.features(pixels(5))
    own.limit_batch(2)
    assert relative_error(own.features(pixels(5)), found) < LARGEST_ERROR["float32"]


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_a_precision_is_checked_against_the_reference(spec, made, tensors, monkeypatch, precision):
    own = made(precision)
    check_parity(own, tensors)
    others = {name: (kernel * (1.1 if name == "block4_conv1" else 1), bias) for name, (kernel, bias) in tensors.items()}
    monkeypatch.setitem(LARGEST_ERROR_OF, precision, 0.05)
    with pytest.raises(ParityError, match=r"differs from the reference by .*, more than the allowed 5e-02"):
        check_parity(own, others)
    monkeypatch.setitem(LARGEST_ERROR_OF, precision, 1.0)
    monkeypatch.setitem(SMALLEST_COSINE_OF, precision, 1.0)
    with pytest.raises(ParityError, match=r"has a cosine of 0\.9.* to the reference, less than 1\.0"):
        check_parity(own, others)


def test_the_calibration_is_the_same_every_time_and_covers_its_pictures(spec, tensors):
    own = dataclasses.replace(spec, precision="int8")
    ranges = activation_ranges(own, tensors)
    assert ranges == activation_ranges(own, tensors)
    for picture in calibration_pictures(32):
        layers = vgg.convolutions(vgg.preprocessed(picture[None], own), tensors)
        assert all(maps.max() < most for maps, most in zip(layers, ranges, strict=True))


def test_the_ranges_of_the_random_weights_are_those_of_every_machine(spec, tensors):
    """They change only with the calibration's version in vision/specs.py."""
    assert activation_ranges(dataclasses.replace(spec, precision="int8"), tensors) == [
        *(581.0, 707.0, 826.0, 793.0, 917.0, 904.0, 891.0, 990.0, 949.0, 856.0, 656.0, 461.0, 299.0)
    ]


@pytest.mark.parametrize(
    ("value", "rounded"), [(1234.1, 1240.0), (1230.0, 1230.0), (999.5, 1000.0), (0.0012301, 0.00124), (0.0, 1.0)]
)
def test_a_range_is_rounded_up_to_three_digits(value, rounded):
    assert rounded_up(value) == rounded


def test_a_photo_that_decodes_otherwise_is_refused_by_name(spec, monkeypatch):
    monkeypatch.setitem(calibration.PHOTOS, "flower.jpg", "0" * 32)
    with pytest.raises(RuntimeError, match=r"Pillow decodes flower\.jpg of scikit-learn to other pixels here"):
        calibration_pictures(32)


def test_int8_that_cannot_be_calibrated_ends_the_run_instead_of_another_precision(spec, monkeypatch):
    usable("int8")
    monkeypatch.setitem(calibration.PHOTOS, "china.jpg", "0" * 32)
    own = dataclasses.replace(spec, precision="int8", image_size=33)
    with pytest.raises(SpecError, match=r"openvino cannot compute `precision=int8`: int8 cannot be calibrated"):
        load_engine("openvino", own, "random", 1)


def test_filters_of_zeros_and_maps_of_zeros_are_no_obstacle_for_int8(spec, tensors):
    own = dataclasses.replace(spec, precision=usable("int8"), weights="zeros")
    zeros = {
        name: (kernel * np.float32(np.arange(kernel.shape[-1]) % 2 if name < "block5" else 0), bias)
        for name, (kernel, bias) in tensors.items()
    }
    assert not OpenVinoEngine(own, zeros, 1).features(pixels(1)).any()


def test_a_graph_that_openvino_refuses_gives_way_to_tensorflow_in_float32_alone(engine, spec, monkeypatch):
    def refused(*arguments):
        raise RuntimeError("unsupported operation")

    monkeypatch.setattr(openvino_engine, "vgg_graph", refused)
    unload_engine()
    stand_in = load_engine("openvino", spec, "random", 1)
    assert stand_in.fallback == "tensorflow replaces openvino: unsupported operation"
    with pytest.raises(SpecError, match=r"openvino cannot compute `precision=int8`: unsupported operation"):
        load_engine("openvino", dataclasses.replace(spec, precision=usable("int8")), "random", 1)
    unload_engine()


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_a_precision_without_its_library_is_refused_with_the_way_to_get_it(monkeypatch, precision):
    monkeypatch.setattr(openvino_engine, "find_spec", lambda name: None)
    reason = rf"`precision={precision}` cannot be computed here: .*openvino is not installed: pip install .*\[fast\]"
    with pytest.raises(SpecError, match=reason) as refused:
        choose("auto", FeatureSpec("", precision=precision), has_gpu=False)
    assert "\n" not in str(refused.value)
    assert choose("auto", FeatureSpec("", "resnet50"), has_gpu=False) == "tensorflow"
    with pytest.raises(SpecError, match=r"`engine=openvino` is not installed: pip install"):
        choose("openvino", FeatureSpec(""), has_gpu=False)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("has_gpu", [False, True])
def test_a_precision_is_refused_where_the_processor_would_emulate_it(monkeypatch, precision, has_gpu):
    monkeypatch.setattr(openvino_engine, "instructions", lambda: frozenset({"avx2", "avx512f"}))
    with pytest.raises(
        SpecError, match=f"would emulate {precision}, slower than float32: .* none of {NEEDED[precision][0]}"
    ):
        choose("auto", FeatureSpec("", precision=precision), has_gpu)
    assert OpenVinoEngine.obstacle(FeatureSpec("")) == ""
    for name in NEEDED[precision]:
        monkeypatch.setattr(openvino_engine, "instructions", lambda name=name: frozenset({name}))
        assert choose("auto", FeatureSpec("", precision=precision), has_gpu) == "openvino"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"backbone": "resnet50", "precision": "int8"}, "computes int8 only for the VGG family, not for resnet50"),
        ({"precision": "mixed_float16"}, "computes in float32, bfloat16 or int8, not in mixed_float16"),
    ],
)
def test_openvino_is_refused_for_what_it_cannot_compute(options, reason):
    with pytest.raises(SpecError, match=reason):
        choose("openvino", FeatureSpec("", **options), has_gpu=False)


def test_importing_openvino_reports_nothing_and_loads_no_tensorflow(tmp_path):
    code = """
import os, sys
from vision.engines import load_engine
from vision.specs import FeatureSpec
assert load_engine("openvino", FeatureSpec("", image_size=32), "random", 1).fallback is None
links = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")]
reporting = [name for name in sys.modules if name.startswith("openvino_telemetry.")]
print(sorted({"tensorflow", "keras"} & set(sys.modules)), reporting, [link for link in links if "socket" in link])
"""
    own = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | own,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[] [] []"
    assert list(tmp_path.iterdir()) == []


def test_no_file_imports_openvino_but_the_one_that_switches_its_reports_off():
    sources = [path for room in ("benchmarks", "vision", "workers") for path in (PROJECT / room).rglob("*.py")]
    importing = {path.name for path in sources if "import openvino\n" in path.read_text()}
    assert importing == {"openvino_library.py"}
    assert not [path for path in sources if "from openvino" in path.read_text()]


def test_a_conversion_is_kept_and_a_damaged_one_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file, own, made = io.BytesIO(), FeatureSpec("none", "resnet50", 32), []
    np.savez(file, graph=np.arange(9, dtype=np.uint8), weights=np.arange(5, dtype=np.uint8), expected=np.ones((1, 2)))
    monkeypatch.setattr(keras_export, "_export", lambda *given: (made.append(given), file.getvalue())[1])
    assert [keras_export.exported(own, {}).graph for _ in range(2)] == [bytes(range(9))] * 2
    assert len(made) == 1
    (kept,) = (cache_folder() / "graphs").iterdir()
    kept.write_bytes(file.getvalue()[:-1])
    assert keras_export.exported(own, {}).weights == bytes(range(5))
    assert kept.read_bytes() == file.getvalue()
    assert len(made) == 2


@pytest.mark.slow
def test_another_backbone_is_converted_once_in_a_process_of_its_own(engine, spec, tmp_path, monkeypatch):
    from vision.engines.tensorflow_engine import TensorFlowEngine

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own, tensors = FeatureSpec("resnet", "resnet50", 32), random_weights(BACKBONES["resnet50"])
    first = OpenVinoEngine(own, tensors, 1)
    check_parity(first, tensors)
    found = first.features(pixels(3))
    assert relative_error(found, TensorFlowEngine(own, tensors, 1).features(pixels(3))) < LARGEST_ERROR["float32"]
    assert [path.suffix for path in (cache_folder() / "graphs").iterdir()] == [".npz"]
    with monkeypatch.context() as patch:
        patch.setattr(keras_export, "_export", lambda *arguments: pytest.fail("converted twice"))
        assert np.array_equal(OpenVinoEngine(own, tensors, 1).features(pixels(3)), found)
        (kept,) = (cache_folder() / "graphs").iterdir()
        data = kept.read_bytes()
        patch.setattr(keras_export, "_export", lambda *arguments: data)
        kept.write_bytes(data[:-1])
        assert np.array_equal(OpenVinoEngine(own, tensors, 1).features(pixels(3)), found)
        assert kept.read_bytes() == data, "a damaged graph is made again"


def test_a_conversion_leaves_no_process_and_no_file_when_its_worker_is_killed(tmp_path):
    code = f"from vision.engines import keras_export; keras_export._export({FeatureSpec('none', 'resnet50', 32).record()}, {{}})"
    # Nothing but this process ends the conversion: a worker ignores Ctrl-C, and what it starts does too.
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, env=os.environ | {"TMPDIR": str(tmp_path)})
    started = Path(f"/proc/{worker.pid}/task/{worker.pid}/children")
    while not [*tmp_path.iterdir()] or not (found := started.read_text().split()):  # imports may start processes too
        time.sleep(0.01)
    (converter,) = found
    worker.kill()
    worker.wait()
    while Path(f"/proc/{converter}/cmdline").exists() and Path(f"/proc/{converter}/cmdline").read_bytes():
        time.sleep(0.01)
    assert not [*tmp_path.iterdir()]


def test_a_conversion_that_takes_too_long_is_told_as_the_reason_to_do_without(monkeypatch):
    monkeypatch.setattr(keras_export, "LONGEST_EXPORT_SECONDS", 0.01)
    with pytest.raises(RuntimeError, match="took more than"):
        keras_export._export(FeatureSpec("none", "resnet50", 32).record(), {})


def test_the_last_line_of_a_conversion_that_failed_is_the_reason(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nValueError: no such layer\n")
    monkeypatch.setattr(keras_export, "_run", lambda command: failed)
    with pytest.raises(RuntimeError, match=r"resnet50 cannot be converted for OpenVINO \(ValueError: no such layer\)"):
        keras_export._export(FeatureSpec("none", "resnet50", 32).record(), {})


@pytest.mark.slow
def test_a_backbone_that_keras_cannot_convert_says_why(spec, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"resnet50 cannot be converted for OpenVINO \(.+\)"):
        keras_export.exported(FeatureSpec("none", "resnet50", 32), {"no_layer": (np.zeros(1, np.float32),)})


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.skipif("VGG16_WEIGHTS" not in os.environ, reason="VGG16_WEIGHTS names no file of VGG16 notop weights")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_with_the_real_weights_each_precision_is_within_its_bound(tmp_path, precision):
    path = os.environ["VGG16_WEIGHTS"]
    spec = FeatureSpec(weights_digest(VGG16, path, tmp_path / "memo.json"), precision=usable(precision))
    tensors = read_weights(VGG16, Path(path))
    check_parity(OpenVinoEngine(spec, tensors, 1), tensors)


def test_an_engine_that_another_thread_frees_leaves_the_signals_of_the_main_thread_alone():
    script = """
import gc, signal, threading
from vision.backbones.weights import random_weights
from vision.engines.openvino_engine import OpenVinoEngine
from vision.specs import BACKBONES, FeatureSpec
import numpy as np

engines = [OpenVinoEngine(FeatureSpec("", image_size=32), random_weights(BACKBONES["vgg16"]), threads=1)]
engines[0].features(np.zeros((1, 32, 32, 3), np.uint8))
def free():
    engines.clear()
    gc.collect()
freeing = threading.Thread(target=free)
freeing.start()
freeing.join()
signal.signal(signal.SIGINT, lambda number, frame: print("handled"))
signal.raise_signal(signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
