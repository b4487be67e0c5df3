"""The job of an export: any head of a store, checked before anybody gets it."""

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from storage.heads.registry import read_head
from storage.layout import Store
from tests import toy
from tests.memo import random_weights
from tests.workers.test_classifier import GOLDEN
from vision.errors import ExportError
from vision.export import onnx
from vision.prediction.head import load_predicting_head
from vision.specs import BACKBONES
from workers.jobs.export_model import ExportJob, export_model, sample_pixels
from workers.jobs.opened_head import open_head
from workers.jobs.spaces import computable_space

pytestmark = [
    # Keras 3.15 on NumPy 2, wherever it saves: keras/src/backend/tensorflow/core.py, convert_to_numpy.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]
TUNED = "f" * 32


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a head on features, which is current, and the same head fine-tuned."""
    from vision.training.fine_tuning import build_tunable, build_whole
    from vision.training.head_model import load_head

    folder = tmp_path_factory.mktemp("exported")
    shutil.copytree(GOLDEN / "store", folder / "store", copy_function=shutil.copyfile)
    head, tensors = open_head(folder / "store"), random_weights(BACKBONES["vgg16"])
    tunable = build_tunable(head.spec, tensors, load_head(str(head.model)), "block5", "sgd", None, 0)
    build_whole(head.spec, tensors, tunable).save(folder / "model.keras")
    store = Store(folder / "store", "")
    record = {key: value for key, value in read_head(store, head.name).items() if key != "model"}
    toy.head(store, TUNED, record | {"base": head.name}, (folder / "model.keras").read_bytes())
    return folder / "store"


def job_of(root: Path, name: str | None, path: Path) -> ExportJob:
    head = open_head(root, name)
    return ExportJob.of(asdict(ExportJob(computable_space(root, head.spec, "random"), head.name, "onnx", str(path), 1)))


def test_a_fine_tuned_head_is_exported_as_it_is_and_not_put_on_the_network_again(root, tmp_path):
    result = export_model(job_of(root, TUNED, tmp_path / "tuned.onnx"))
    assert result.size_bytes == (tmp_path / "tuned.onnx").stat().st_size
    assert result.max_difference is not None
    pixels = sample_pixels(32)
    expected = load_predicting_head(open_head(root, TUNED).model).probabilities(pixels)
    run = onnx.load(tmp_path / "tuned.onnx")
    assert run is not None
    assert np.abs(run(pixels) - expected).max() <= 1e-4


def test_an_export_with_other_probabilities_is_an_error(root, tmp_path, monkeypatch):
    load = onnx.load

    def load_wrong(path):
        run = load(path)
        return lambda pixels: run(pixels)[:, ::-1]

    monkeypatch.setattr(onnx, "load", load_wrong)
    with pytest.raises(ExportError, match="other probabilities than Keras"):
        export_model(job_of(root, None, tmp_path / "wrong.onnx"))


def test_an_export_that_cannot_be_loaded_here_says_that_it_was_not_checked(root, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    assert export_model(job_of(root, None, tmp_path / "unchecked.onnx")).max_difference is None


def test_the_pictures_of_the_check_differ():
    pixels = sample_pixels(40)
    assert pixels.shape[1:] == (40, 40, 3)
    assert len({picture.tobytes() for picture in pixels}) == len(pixels) > 1
