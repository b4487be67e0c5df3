"""Networks that Keras describes: the table against the library, shapes, preprocessing, and a user's own file."""

import shutil
import subprocess
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from storage.backend.paths import place
from tests.vision.engines.test_tensorflow_engine import pixels, relative_error
from vision.backbones import keras_network, network
from vision.backbones.network import described
from vision.backbones.own_file import EXPECTED, NETWORK, own_name
from vision.backbones.preprocessing import MODES, preprocessed
from vision.backbones.sources import find_digest, load_tensors
from vision.engines import load_engine, unload_engine
from vision.engines.parity import sample_picture
from vision.engines.selection import choose
from vision.errors import SpecError, WeightsError
from vision.export.description import Description
from vision.export.formats import FORMATS
from vision.families import FAMILIES
from vision.specs import BACKBONES, PREPROCESSING, FeatureSpec, cut_shape
from vision.training.head import HeadSpec
from workers.jobs.spaces import computable_space, find_space, keep_space_weights

pytestmark = [
    # Keras 3.15 on NumPy 2, wherever it saves: keras/src/backend/tensorflow/core.py, convert_to_numpy.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

SIZE = 32
PARITY = 3e-4  # relative L2 an image
# Families that preprocess inside and outside of the network, at the smallest size; benchmarks/backbones.py compares them all.
FAMILIES_COMPARED = {"convnext_tiny": 32, "efficientnet_v2_b0": 32, "mobilenet": 32, "xception": 71}


@pytest.fixture(autouse=True)
def asked(engine, monkeypatch, tmp_path) -> list[Path]:
    """The folders of the requests to Keras. This process answers them, because it has loaded TensorFlow."""
    folders: list[Path] = []
    started = subprocess.run

    def run(command, **how):
        if keras_network.__name__ not in command:  # an engine converts the network
            return started(command, **how)
        folders.append(Path(command[-1]))
        return subprocess.CompletedProcess(command, keras_network.main(folders[-1]), "", "")

    monkeypatch.setattr(network.subprocess, "run", run)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield folders
    unload_engine()


@pytest.fixture
def own(engine, tmp_path) -> str:
    """The path of a small network for images of any size."""
    import keras
    from keras import layers

    keras.mixed_precision.set_global_policy("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            layers.Conv2D(8, 3, 4, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(16, 3, 2, activation="swish"),
        ]
    )
    model.save(tmp_path / "own.keras")
    return str(tmp_path / "own.keras")


def spec_of(path: str, mode: str = "torch", size: int = SIZE, **more) -> FeatureSpec:
    return described(FeatureSpec("", own_name(path), size, preprocessing=PREPROCESSING.format(mode), **more), path)


def test_every_network_of_keras_is_in_the_table_with_its_preprocessing(engine):
    import keras

    ours = {backbone.application.partition(":")[2] for backbone in BACKBONES.values()}
    found = {name for name in dir(keras.applications) if name[0].isupper()}
    assert ours == found
    assert sum(len(family.members) for family in FAMILIES) + 3 == len(BACKBONES)
    batch = pixels(1, SIZE)
    for family in FAMILIES:
        module = import_module(f"keras.applications.{family.module}")
        spec = FeatureSpec("", next(iter(family.members)), SIZE)
        found = np.asarray(module.preprocess_input(batch.astype(np.float32)))
        np.testing.assert_allclose(preprocessed(batch, spec), found, rtol=1e-5, atol=1e-5, err_msg=family.module)


def test_the_spec_of_an_own_network_has_the_shape_that_keras_finds_and_keras_is_asked_once(own, asked):
    spec = spec_of(own)
    assert spec.shape == (3, 3, 16)
    assert spec.record()["maps"] == (3, 3, 16)
    assert FeatureSpec(**spec.record() | {"maps": [3, 3, 16]}) == spec
    assert replace(spec, pooling="avg").shape == (16,)
    assert spec_of(own) == spec
    assert len(asked) == 1
    assert spec_of(own, size=65).shape == (7, 7, 16)


def test_the_declared_preprocessing_is_part_of_the_spec_and_of_the_features(own):
    import keras

    model = keras.saving.load_model(own)
    for mode in MODES:
        spec = spec_of(own, mode, dtype="float32", rescale=0.5)
        spec = replace(spec, weights=find_digest(spec, own, Path("none")))
        found = load_engine("tensorflow", spec, own, 1).features(pixels(3, SIZE))
        assert relative_error(found, np.asarray(model(preprocessed(pixels(3, SIZE), spec)))) < 1e-6
        assert spec.preprocessing.split()[2] == mode


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_pooled_features_are_the_maps_pooled(own, pooling):
    tensors = load_tensors(spec_of(own), own)
    spec = spec_of(own, pooling=pooling)
    spec = replace(spec, weights=find_digest(spec, own, Path("none")))
    maps = tensors[EXPECTED][0]
    found = load_engine("tensorflow", spec, own, 1).features(network_picture())
    assert relative_error(found, maps.mean((1, 2)) if pooling == "avg" else maps.max((1, 2))) < 1e-6


def network_picture() -> np.ndarray:
    return keras_network.sample_picture(SIZE)[None]


def test_mixed_precision_gives_other_features_but_hardly(own):
    spec = spec_of(own)
    spec = replace(spec, weights=find_digest(spec, own, Path("none")))
    single = load_engine("tensorflow", spec, own, 1).features(pixels(3, SIZE))
    mixed = load_engine("tensorflow", replace(spec, precision="mixed_float16"), own, 1).features(pixels(3, SIZE))
    assert 0 < relative_error(mixed, single) < 5e-3


def test_the_store_keeps_an_own_network_once_and_needs_the_file_no_more(own, tmp_path):
    root = place(str(tmp_path / "store"))
    space = find_space(root, root, spec_of(own), own)
    keep_space_weights(space)
    keep_space_weights(space)
    (copy,) = Path(str(space.store.space), "weights").iterdir()
    assert copy.suffix == ".keras"
    assert copy.read_bytes() == Path(own).read_bytes()
    expected = load_engine("tensorflow", space.spec, own, 1).features(pixels(3, SIZE))
    Path(own).unlink()
    shutil.rmtree(tmp_path / "cache")
    again = computable_space(root, space.spec)
    assert again.weights == str(copy)
    assert np.array_equal(load_engine("tensorflow", again.spec, again.weights, 1).features(pixels(3, SIZE)), expected)


def test_an_own_network_that_changed_is_refused(own, tmp_path):
    import keras

    root = place(str(tmp_path / "store"))
    space = find_space(root, root, spec_of(own), own)
    model = keras.saving.load_model(own)
    model.set_weights([array + 1 for array in model.get_weights()])
    model.save(own)
    with pytest.raises(WeightsError, match="changed during the run"):
        load_engine("tensorflow", space.spec, own, 1)


def test_features_that_are_not_those_that_keras_gave_are_refused(own):
    spec = spec_of(own)
    spec = replace(spec, weights=find_digest(spec, own, Path("none")))
    (kept,) = Path(network.cache_root(), "networks").glob("*/expected.npy")
    np.save(kept, np.load(kept) * 1.01)
    with pytest.raises(SpecError, match="differs from the reference"):
        load_engine("tensorflow", spec, own, 1)


def saved(path: Path, build) -> str:
    import keras

    keras.mixed_precision.set_global_policy("float32")
    inputs = build(keras)
    keras.Model(*inputs).save(path)
    return str(path)


def numbers(keras):
    given = keras.Input((7,))
    return given, keras.layers.Dense(3)(given)


def two_images(keras):
    given = [keras.Input((SIZE, SIZE, 3)) for _ in range(2)]
    return given, keras.layers.Add()(given)


def fixed_size(keras):
    given = keras.Input((48, 48, 3))
    return given, keras.layers.Conv2D(4, 3)(given)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (numbers, r"it has no image input: its input has the shape \(7,\)"),
        (two_images, "it has no image as its only input"),
        (fixed_size, "it takes images of 48 x 48 pixels, not of 32; change `image_size`"),
    ],
)
def test_what_is_no_network_of_such_images_is_refused_in_one_line(tmp_path, build, reason):
    path = saved(tmp_path / "other.keras", build)
    with pytest.raises(SpecError, match=rf"`backbone`: .*other\.keras cannot be used: {reason}"):
        spec_of(path)
    assert list(Path(network.cache_root(), "networks").iterdir()) == []


def test_a_network_that_gives_a_vector_has_features_without_pooling(tmp_path):
    def vector(keras):
        given = keras.Input((None, None, 3))
        return given, keras.layers.GlobalMaxPooling2D()(keras.layers.Conv2D(12, 3)(given))

    path = saved(tmp_path / "vector.keras", vector)
    assert spec_of(path).shape == (12,)
    with pytest.raises(SpecError, match="nothing to pool"):
        spec_of(path, pooling="avg")


def test_what_other_engines_and_the_fine_tuning_cannot_do_is_said(own):
    spec = spec_of(own)
    with pytest.raises(SpecError, match="only the VGG family"):
        choose("mnn", spec, has_gpu=False)
    with pytest.raises(SpecError, match="choose a backbone of vgg16, vgg19"):
        cut_shape(spec, "block5")


def test_a_size_that_a_family_cannot_take_is_refused_with_the_smallest(asked):
    with pytest.raises(SpecError, match=r"`image_size`: xception cannot take images of 60 pixels: .* at least 71x71"):
        described(FeatureSpec("", "xception", 60), "random")


def test_an_efficientnet_takes_no_file_because_keras_builds_another_network_for_it(tmp_path):
    path = tmp_path / "some.weights.h5"
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match="pass `weights=imagenet`"):
        described(FeatureSpec("", "efficientnet_b0", SIZE), str(path))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES_COMPARED)
def test_features_of_a_family_are_those_of_keras_on_every_engine(name, tmp_path):
    import keras

    size = FAMILIES_COMPARED[name]
    # Pictures are smooth. With random weights, a network of dozens of layers makes much of the rounding on mere noise.
    pictures = np.stack([sample_picture(size), sample_picture(size)[::-1], sample_picture(size).swapaxes(0, 1)])
    spec = described(FeatureSpec("", name, size), "random")
    spec = replace(spec, weights=find_digest(spec, "random", Path("none")))
    tensors = load_tensors(spec, "random")
    (tmp_path / NETWORK).write_bytes(tensors[NETWORK][0].tobytes())
    module, _, function = BACKBONES[name].application.partition(":")
    own = getattr(keras.applications, function)(weights=None, include_top=False, input_shape=(size, size, 3))
    own.set_weights(keras.saving.load_model(tmp_path / NETWORK).get_weights())
    expected = np.asarray(own(import_module(module).preprocess_input(pictures.astype(np.float32))))
    assert np.abs(expected).max() > 0.1
    for engine in ("tensorflow", "openvino"):
        loaded = load_engine(engine, spec, "random", 1)
        assert loaded.fallback is None
        assert relative_error(loaded.features(pictures), expected) < PARITY


@pytest.mark.slow
def test_weights_from_a_file_of_keras_go_through_the_store(engine, tmp_path):
    import keras

    made = keras.applications.MobileNet(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3))
    made.save_weights(tmp_path / "mine.weights.h5")
    root = place(str(tmp_path / "store"))
    space = find_space(root, root, FeatureSpec("", "mobilenet", SIZE), str(tmp_path / "mine.weights.h5"))
    keep_space_weights(space)
    (tmp_path / "mine.weights.h5").unlink()
    again = computable_space(root, space.spec)
    found = load_engine("tensorflow", again.spec, again.weights, 1).features(pixels(3, SIZE))
    given = keras.applications.mobilenet.preprocess_input(pixels(3, SIZE).astype(np.float32))
    assert relative_error(found, np.asarray(made(given, training=False))) < PARITY


@pytest.mark.parametrize("format", ["keras", "onnx"])
def test_an_own_network_is_exported_with_a_head_or_the_layer_is_named(own, tmp_path, format):
    from vision.export.whole import build_classifier
    from vision.training.head_model import build_head

    spec, head = spec_of(own), HeadSpec(("cats", "dogs"))
    model = build_classifier(spec, load_tensors(spec, own), build_head(head, spec.shape, None, 0))
    path = tmp_path / f"export{FORMATS[format].suffix}"
    if format == "onnx":
        with pytest.raises(SpecError, match="cannot write the activation silu"):
            FORMATS[format].write(model, path, Description(head.classes, "a" * 32, 7, "b" * 32, spec, own))
        return
    FORMATS[format].write(model, path, Description(head.classes, "a" * 32, 7, "b" * 32, spec, own))
    exported = FORMATS[format].load(path)
    assert np.allclose(exported(pixels(3, SIZE)), np.asarray(model(pixels(3, SIZE))), atol=1e-5)
