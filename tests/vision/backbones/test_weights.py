import dataclasses
import os
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests import memo
from vision.backbones.imagenet import imagenet_file
from vision.backbones.weights import RANDOM_ALGORITHM, load_weights, random_weights, tensors_digest, weights_digest
from vision.backbones.weights_file import Tensors, read_weights
from vision.errors import WeightsError
from vision.specs import BACKBONES, Tensor

VGG16 = BACKBONES["vgg16"]
DESCRIBED = [name for name, backbone in BACKBONES.items() if backbone.is_described]


def write_keras2(path: Path, tensors: Tensors) -> Path:
    """As the official `notop` file lies: a group a layer, pooling layers empty, names in attributes."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in tensors]
        file.create_group("block1_pool").attrs["weight_names"] = np.array([], "S1")
        for name, (kernel, bias) in tensors.items():
            group = file.create_group(name)
            group[f"{name}_W_1:0"] = kernel
            group[f"{name}_b_1:0"] = bias
            group.attrs["weight_names"] = [f"{name}_W_1:0".encode(), f"{name}_b_1:0".encode()]
    return path


@pytest.fixture(scope="module")
def keras2_file(tmp_path_factory, tensors) -> Path:
    return write_keras2(tmp_path_factory.mktemp("weights") / "notop.h5", tensors)


def assert_equal(found: Tensors, expected: Tensors) -> None:
    assert list(found) == list(expected)
    for name, arrays in expected.items():
        for one, other in zip(found[name], arrays, strict=True):
            assert one.dtype == np.float32
            assert np.array_equal(one, other)


def test_random_weights_are_the_same_every_time(tensors):
    assert_equal(random_weights(VGG16), tensors)


def test_random_weights_are_those_that_the_first_store_was_made_with(tensors, tmp_path):
    assert tensors_digest(tensors) == "9d83e7c92600a50a8819a8486df4db38"
    assert weights_digest(VGG16, "random", tmp_path / "memo") == "57750aa3c6a16911eaf4b5c2b7bd879b"


@pytest.mark.parametrize(
    ("name", "digest"),
    [("vgg19", "c7e077d8732aeae68177dbc63d684c29"), ("resnet50", "41fe71b970193974c24f9f0133dad8f4")],
)
def test_other_random_weights_change_only_with_the_algorithms_version(name, digest):
    assert tensors_digest(memo.random_weights(BACKBONES[name])) == digest
    assert RANDOM_ALGORITHM.endswith("version 1")


@pytest.mark.parametrize("name", DESCRIBED)
def test_random_kernels_are_he_normal_and_biases_zero(name):
    for kernel, bias in (arrays for arrays in memo.random_weights(BACKBONES[name]).values() if len(arrays) == 2):
        assert kernel.std() == pytest.approx(np.sqrt(2 / np.prod(kernel.shape[:3])), rel=0.05)
        assert kernel.dtype == bias.dtype == np.float32
        assert not bias.any()


def test_a_random_batch_norm_changes_nothing_but_at_the_end_of_a_residual_branch():
    for name, arrays in memo.random_weights(BACKBONES["resnet50"]).items():
        if name.endswith("_bn"):
            scale = 0.25 if name.endswith("_3_bn") else 1  # 16 blocks: 1 / sqrt(16)
            assert [set(array.tolist()) for array in arrays] == [{scale}, {0}, {0}, {1}]


def test_a_keras_2_file_gives_the_tensors_that_went_in_and_their_digest(keras2_file, tensors):
    found = read_weights(VGG16, keras2_file)
    assert_equal(found, tensors)
    assert tensors_digest(found) == tensors_digest(tensors)


# Files in which a backbone lies somewhere: a small one, saved by Keras in every way that it has

SMALL = dataclasses.replace(
    VGG16,
    tensors={
        "first": (Tensor((3, 3, 3, 4), 0, 0.2), Tensor((4,))),
        "norm": (Tensor((4,), 1), Tensor((4,)), Tensor((4,)), Tensor((4,), 1)),
    },
)


@pytest.fixture(scope="module")
def small(engine) -> Tensors:
    draw = np.random.default_rng(0)
    return {
        name: tuple(draw.random(tensor.shape, np.float32) for tensor in layer) for name, layer in SMALL.tensors.items()
    }


def small_network(tensors: Tensors, nested: bool, trainable: bool):
    """The small backbone, alone or in a model with a head; trained with Adam, which keeps its own arrays beside it."""
    import keras
    from keras import layers

    parts = [layers.Conv2D(4, 3, name="first"), layers.BatchNormalization(name="norm")]
    network = keras.Sequential([keras.Input((8, 8, 3)), *parts], name="small")
    for name, arrays in tensors.items():
        network.get_layer(name).set_weights(arrays)
    network.trainable = trainable
    head = [layers.Flatten(), layers.Dense(1)]
    whole = keras.Sequential([keras.Input((8, 8, 3)), network, *head]) if nested else network
    whole.compile("adam", "mse")
    whole.optimizer.build(whole.trainable_variables)
    return whole


# Keras 3.15 on NumPy 2, wherever it saves: keras/src/backend/tensorflow/core.py, convert_to_numpy.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("name", ["keras3.weights.h5", "model.weights.h5", "keras2.h5"])
def test_the_backbone_is_found_wherever_keras_puts_it(small, name, nested, trainable, tmp_path):
    network = small_network(small, nested, trainable)
    if name == "keras3.weights.h5":
        network.save_weights(tmp_path / name)
    elif name == "keras2.h5":
        network.save(tmp_path / name)
    else:
        network.save(tmp_path / "whole.keras")
        zipfile.ZipFile(tmp_path / "whole.keras").extract(name, tmp_path)
    assert_equal(read_weights(SMALL, tmp_path / name), small)


def test_names_that_keras_2_cut_in_pieces_are_put_together(small, tmp_path):
    kernel, bias = small["first"]
    names = ["first/kernel:0", "first/bias:0", *(f"norm/{part}:0" for part in "bgmv")]
    with h5py.File(tmp_path / "pieces.h5", "w") as file:
        group = file.create_group("model_weights/small")
        for name, array in zip(names, (kernel, bias, *small["norm"]), strict=True):
            group[name] = array
        group.attrs["weight_names0"] = [name.encode() for name in names[:3]]
        group.attrs["weight_names1"] = [name.encode() for name in names[3:]]
    assert_equal(read_weights(SMALL, tmp_path / "pieces.h5"), small)


def test_one_changed_value_changes_the_digest(tensors):
    kernel, bias = tensors["block5_conv3"]
    bias = bias.copy()
    bias[-1] = np.nextafter(np.float32(0), np.float32(1))
    assert tensors_digest(tensors | {"block5_conv3": (kernel, bias)}) != tensors_digest(tensors)


# Files that are not weights of VGG16


def missing(path: Path, good: bytes) -> None:
    pass


def empty(path: Path, good: bytes) -> None:
    path.touch()


def text(path: Path, good: bytes) -> None:
    path.write_text("not HDF5")


def folder(path: Path, good: bytes) -> None:
    path.mkdir()


def truncated(path: Path, good: bytes) -> None:
    path.write_bytes(good[: len(good) // 2])


def other_architecture(path: Path, good: bytes) -> None:
    with h5py.File(path, "w") as file:
        file["conv1/conv1_W:0"] = np.zeros((7, 7, 3, 64), np.float32)
        file["conv1/conv1_b:0"] = np.zeros(64, np.float32)
        file["conv1"].attrs["weight_names"] = [b"conv1_W:0", b"conv1_b:0"]


def no_layers(path: Path, good: bytes) -> None:
    h5py.File(path, "w").close()


def layers_is_no_group(path: Path, good: bytes) -> None:
    with h5py.File(path, "w") as file:
        file["layers"] = np.zeros(3)


def strings_for_kernels(path: Path, good: bytes) -> None:
    with h5py.File(path, "w") as file:
        file["block1_conv1/a"] = "a kernel"
        file["block1_conv1"].attrs["weight_names"] = [b"a"]


def names_without_arrays(path: Path, good: bytes) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("block1_conv1").attrs["weight_names"] = [b"block1_conv1_W:0", b"block1_conv1_b:0"]


def names_that_are_none(path: Path, good: bytes) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("block1_conv1").attrs["weight_names"] = 3


def arrays_without_names(path: Path, good: bytes) -> None:
    with h5py.File(path, "w") as file:
        file["block1_conv1/block1_conv1/kernel:0"] = np.zeros((3, 3, 3, 64), np.float32)


def vars_without_arrays(path: Path, good: bytes) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("layers/conv2d/vars/0").parent.attrs["name"] = "block1_conv1"


def overwritten_in_the_middle(path: Path, good: bytes) -> None:
    """As a bad disk or a download that was cut and filled up leaves it: the head is fine, what it points to is not."""
    path.write_bytes(good[:4096] + b"\xa5" * (len(good) - 4096))


@pytest.mark.parametrize(
    "make",
    [
        missing,
        empty,
        text,
        folder,
        truncated,
        other_architecture,
        no_layers,
        layers_is_no_group,
        strings_for_kernels,
        names_without_arrays,
        names_that_are_none,
        arrays_without_names,
        vars_without_arrays,
        overwritten_in_the_middle,
    ],
    ids=lambda make: make.__name__,
)
@pytest.mark.parametrize("ask", ["read", "digest"])
def test_a_file_that_is_no_weights_of_the_backbone_is_refused_in_one_line_that_names_it(
    make, ask, keras2_file, tmp_path
):
    path = tmp_path / "mine.h5"
    make(path, keras2_file.read_bytes())
    with pytest.raises(WeightsError) as caught:
        load_weights(VGG16, str(path)) if ask == "read" else weights_digest(VGG16, str(path), tmp_path / "memo.json")
    message = str(caught.value)
    assert str(path) in message
    assert message.startswith("`weights`")
    assert "\n" not in message
    assert len(message) < 400


def test_a_kernel_of_another_shape_names_its_layer(tmp_path, tensors):
    wrong = tensors | {"block3_conv1": (np.zeros((1, 1, 128, 256), np.float32), np.zeros(256, np.float32))}
    with pytest.raises(
        WeightsError, match=r"expected layer block3_conv1 with shapes .*\(3, 3, 128, 256\).*\(1, 1, 128, 256\)"
    ):
        read_weights(VGG16, write_keras2(tmp_path / "wrong.h5", wrong))


def test_vgg19_is_not_taken_for_vgg16_though_it_has_all_of_its_layers(tmp_path):
    path = write_keras2(tmp_path / "vgg19.h5", memo.random_weights(BACKBONES["vgg19"]))
    with pytest.raises(WeightsError, match="does not fit vgg16, which has no layer block3_conv4"):
        read_weights(VGG16, path)


def test_vgg16_is_not_taken_for_vgg19(keras2_file):
    with pytest.raises(WeightsError, match=r"does not fit vgg19: expected layer block3_conv4 .* no such layer"):
        read_weights(BACKBONES["vgg19"], keras2_file)


# The memo


def overwrite_first_kernel(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["block1_conv1/block1_conv1_W_1:0"][0, 0, 0, 0] = 5.0


@pytest.fixture
def own_file(tmp_path, keras2_file) -> Path:
    path = tmp_path / "own.h5"
    path.write_bytes(keras2_file.read_bytes())
    return path


def test_the_digest_of_a_file_is_that_of_its_tensors(own_file, tmp_path, tensors):
    assert weights_digest(VGG16, str(own_file), tmp_path / "cache" / "memo.json") == tensors_digest(tensors)


def test_a_file_with_unchanged_stat_is_not_read_again(own_file, tmp_path):
    memo = tmp_path / "memo.json"
    before = weights_digest(VGG16, str(own_file), memo)
    status = own_file.stat()
    own_file.write_bytes(b"\0" * status.st_size)
    os.utime(own_file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert weights_digest(VGG16, str(own_file), memo) == before


def test_a_changed_file_has_another_digest(own_file, tmp_path):
    memo = tmp_path / "memo.json"
    before = weights_digest(VGG16, str(own_file), memo)
    overwrite_first_kernel(own_file)
    os.utime(own_file, ns=(time.time_ns(), time.time_ns() + 1))
    after = weights_digest(VGG16, str(own_file), memo)
    assert after != before
    assert after == tensors_digest(read_weights(VGG16, own_file))


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '"text"'])
def test_a_broken_memo_costs_only_time(content, own_file, tmp_path, tensors):
    memo = tmp_path / "memo.json"
    memo.write_text(content)
    assert weights_digest(VGG16, str(own_file), memo) == tensors_digest(tensors)
    own_file.unlink()
    with pytest.raises(WeightsError):
        weights_digest(VGG16, str(own_file), memo)


def test_a_memo_that_cannot_be_written_costs_only_time(own_file, tmp_path, tensors):
    (tmp_path / "file").touch()
    assert weights_digest(VGG16, str(own_file), tmp_path / "file" / "memo.json") == tensors_digest(tensors)


# ImageNet


def test_imagenet_that_is_there_is_taken_from_keras_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    kept = tmp_path / "models" / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    kept.parent.mkdir()
    kept.touch()
    assert imagenet_file(VGG16) == kept


def test_imagenet_that_cannot_be_had_names_the_three_ways_out_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there: fails at once, network or not
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(WeightsError) as caught:
        weights_digest(VGG16, "imagenet", tmp_path / "memo.json")
    message = str(caught.value)
    assert "\n" not in message
    for way_out in (VGG16.imagenet[1], "as `weights`", "`weights=random`"):
        assert way_out in message
    left = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in left if path.name != "keras.json"] == []
