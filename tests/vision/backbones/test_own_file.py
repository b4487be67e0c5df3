"""A `.keras` file, read without Keras: its architecture, its weights, and what is refused."""

import io
import json
import os
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from vision.backbones.own_file import CONFIG, WEIGHTS, network_digest, own_name
from vision.errors import SpecError

DENSE = {"module": "keras.layers", "class_name": "Dense", "config": {"units": 3}, "registered_name": None}


def write(path: Path, *layers: dict, value: float = 1.0, name: str = "dense", optimizer: bool = False) -> Path:
    """A file as Keras 3 saves it, with these layers."""
    model = {"module": "keras", "class_name": "Sequential", "config": {"layers": list(layers)}, "registered_name": None}
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        file[f"layers/{name}/vars/0"] = np.full((4, 3), value, np.float32)
        if optimizer:
            file["optimizer/vars/0"] = np.ones(7, np.float32)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(CONFIG, json.dumps(model))
        archive.writestr(WEIGHTS, weights.getvalue())
    return path


def digests(path: Path) -> tuple[str, str]:
    return own_name(str(path)), network_digest(path.read_bytes())


def test_the_digests_are_those_of_architecture_and_weights_whatever_the_time_the_path_and_the_optimizer(tmp_path):
    first = digests(write(tmp_path / "one.keras", DENSE))
    assert digests(write(tmp_path / "two.keras", DENSE, optimizer=True)) == first
    wider = digests(write(tmp_path / "three.keras", DENSE | {"config": {"units": 4}}))
    assert wider[0] != first[0]
    assert wider[1] == first[1]
    heavier = digests(write(tmp_path / "four.keras", DENSE, value=2.0))
    assert heavier[0] == first[0]
    assert heavier[1] != first[1]


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (DENSE | {"class_name": "Lambda"}, "Lambda"),
        (DENSE | {"module": "mine.layers", "class_name": "Attention"}, "Attention"),
        (DENSE | {"module": None, "class_name": "Attention", "registered_name": "mine>Attention"}, "Attention"),
        (DENSE | {"module": "keras_but_not_keras"}, "Dense"),
        (
            DENSE | {"config": {"activation": {"module": "builtins", "class_name": "function", "config": "swish2"}}},
            "swish2",
        ),
        (DENSE | {"config": {"function": {"class_name": "__lambda__", "config": {"code": "4wE"}}}}, "__lambda__"),
    ],
)
def test_code_of_its_own_is_refused_without_being_read(tmp_path, layer, named):
    path = write(tmp_path / "own.keras", DENSE, layer)
    with pytest.raises(SpecError, match=f"own.keras has code of its own, which is never run: {named}"):
        own_name(str(path))


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_what_is_no_keras_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "own.keras"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    with pytest.raises(SpecError) as refused:
        own_name(str(path))
    assert "\n" not in str(refused.value)


def test_weights_that_claim_more_than_there_is_are_refused_before_they_are_read(tmp_path):
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        file.create_dataset("layers/dense/vars/0", (2**20, 2**20), np.float32, chunks=(1024, 1024))
    bomb = tmp_path / "bomb.keras"
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr(WEIGHTS, weights.getvalue())
    with pytest.raises(ValueError, match="less data than its shape says"):
        network_digest(bomb.read_bytes())
