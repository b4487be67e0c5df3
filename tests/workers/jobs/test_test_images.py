"""The images of a test split: they have figures of their own, and no part in the training."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests import toy
from tests.vision.report.test_report import Page
from tests.workers.jobs.trainer import SPEC, Trainer
from workers.jobs.head_identity import find_head
from workers.runners.base import Runner

# Keras 3.15 warns on NumPy 2 whenever it saves (keras/src/backend/tensorflow/core.py, convert_to_numpy).
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory, workers: Runner) -> Trainer:
    """A store with a head, of an image folder that has a test split."""
    folder = tmp_path_factory.mktemp("tested")
    for number, (split, count) in enumerate({"train": 20, "validation": 7, "test": 5}.items()):
        for place, name in enumerate(SPEC.classes):
            for index in range(count):
                seed = 10_000 * number + 1000 * place + index
                toy.picture(folder / "images" / split / name / f"{index}.png", seed)
    _, version = toy.run(folder / "images", folder / "store", chunk_size=100)
    made = Trainer(folder / "images", folder / "store", version, workers)
    made.result = made.train(made.job())
    return made


def evaluated_by_keras(path: Path, features: np.ndarray, labels: np.ndarray) -> dict:
    """The figures that Keras alone computes for the head file, without our code."""
    import keras

    head = keras.saving.load_model(path, safe_mode=True)
    loss, accuracy = head.evaluate(features, labels, verbose=0)
    taken = (head.predict(features, verbose=0)[:, 0] > 0.5).astype(int)
    confusion = [[int(((labels == own) & (taken == other)).sum()) for other in range(2)] for own in range(2)]
    return {"loss": loss, "accuracy": accuracy, "confusion": confusion}


def test_the_figures_of_the_test_images_are_those_of_an_evaluation_apart(tested):
    rows = toy.features_of(tested.images, tested.root, tested.version)
    files = [file for file in tested.version.read_files(tested.store).to_pylist() if file["split"] == "test"]
    labels = np.array([SPEC.classes.index(file["class"]) for file in files])
    features = np.stack([rows[file["digest"]] for file in files]).astype(np.float32)
    head = tested.store.head(tested.result.name)
    apart = evaluated_by_keras(head / "head.keras", features, labels)
    test = json.loads((head / "head.json").read_text())["test"]
    assert (test["images"], test["confusion"]) == (10, apart["confusion"])
    assert (test["loss"], test["accuracy"]) == pytest.approx((apart["loss"], apart["accuracy"]), rel=1e-5)
    assert (tested.result.test_loss, tested.result.test_accuracy) == (test["loss"], test["accuracy"])
    assert {name: scores["images"] for name, scores in test["per_class"].items()} == {"cats": 5, "dogs": 5}


def test_a_head_that_is_found_has_the_figures_of_the_test_images_too(tested):
    found = find_head(tested.store, tested.result.name)
    assert (found.test_loss, found.test_accuracy) == (tested.result.test_loss, tested.result.test_accuracy)


def test_the_test_images_have_no_part_in_the_training(tested, tmp_path):
    shutil.copytree(tested.images, tmp_path / "images", ignore=shutil.ignore_patterns("test"))
    _, version = toy.run(tmp_path / "images", tmp_path / "store", chunk_size=100)
    without = Trainer(tmp_path / "images", tmp_path / "store", version, tested.workers)
    result = without.train(without.job())
    assert list(result.history) == list(tested.result.history)
    assert (result.val_loss, result.val_accuracy) == (tested.result.val_loss, tested.result.val_accuracy)
    assert (result.test_loss, result.test_accuracy) == (None, None)
    assert json.loads((without.store.head(result.name) / "head.json").read_text())["test"] is None


def test_a_head_of_some_classes_is_trained_and_tested_on_those_alone(tested, tmp_path):
    """Every split also has images of a class that the head leaves out."""
    shutil.copytree(tested.images, tmp_path / "images")
    for number, split in enumerate(("train", "validation", "test")):
        toy.picture(tmp_path / "images" / split / "bats" / "1.png", 90_000 + number)
    _, version = toy.run(tmp_path / "images", tmp_path / "store", chunk_size=100)
    some = Trainer(tmp_path / "images", tmp_path / "store", version, tested.workers)
    result = some.train(some.job())
    head = json.loads((some.store.head(result.name) / "head.json").read_text())
    assert (head["classes"], head["samples"]) == (["cats", "dogs"], {"train": 40, "validation": 14})
    assert (head["test"]["images"], np.sum(head["confusion"])) == (10, 14)
    assert result.report is not None


def test_the_report_shows_the_test_images_beside_the_validation_images(tested):
    record = json.loads((tested.store.head(tested.result.name) / "head.json").read_text())
    page = Page.of(Path(tested.result.report).read_text())
    for split, accuracy in (("Validation", record["metrics"]["val_accuracy"]), ("Test", record["test"]["accuracy"])):
        assert f"{split} accuracy {100 * accuracy:.1f} %" in page.text
    wrong = np.array(record["confusion"])
    assert len(page.all("img")) == min(24, wrong.sum() - np.trace(wrong))
