"""The command `predict` end to end: a real server, a real head, VGG16 at 32 pixels with random weights."""

import csv
import math
import shutil
from functools import partial
from pathlib import Path

import pytest

from flows.cli import command as command_line
from flows.registry import PREDICT
from storage.heads.current import current_head
from storage.heads.registry import read_head
from storage.layout import Store
from storage.manifest.versions import latest_version
from storage.reading.samples import split_files
from tests import toy
from tests.flows.in_process import call
from workers.classifier import Classifier

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden(tmp_path_factory) -> Path:
    """A trained store that keeps its weights, and its images."""
    root = tmp_path_factory.mktemp("predict")
    for name in ("images", "store"):
        shutil.copytree(GOLDEN / name, root / name, copy_function=shutil.copyfile)
    Classifier.load(root / "store", weights="random")
    return root


@pytest.fixture
def store(golden: Path, tmp_path: Path) -> Path:
    return shutil.copytree(golden / "store", tmp_path / "store")


@pytest.fixture
def predict(environment, store: Path):
    """Call the command in this process, on a store of this test's own."""
    main = partial(command_line.main, PREDICT)
    return partial(call, main, environment, "--runner", "inline", "--store", store, "--images")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_stored_features_give_the_figures_of_the_training(golden, store, predict, tmp_path):
    """The broken image among them is over the budget, and the file is written all the same."""
    root = Store(store, "")
    record = read_head(root, current_head(root))
    done = predict(golden / "images", "--out", tmp_path / "p.csv")
    assert done.status == 3, done.stderr
    assert (done.record["stored"], done.record["computed"], done.record["quarantined"]) == (24, 0, 1)
    rows = rows_of(tmp_path / "p.csv")
    assert [row["path"] for row in rows] == sorted(str(path.relative_to(golden / "images")) for path in files(golden))
    held_out = held_out_files(golden, record)
    assert len(held_out) == record["samples"]["validation"] > 1
    mine = [row for row in rows if row["path"] in held_out]
    right = [row["class"] == row["path"].partition("/")[0] for row in mine]
    assert sum(right) / len(mine) == pytest.approx(record["metrics"]["val_accuracy"], abs=1e-6)
    losses = [-math.log(float(row[f"p.{row['path'].partition('/')[0]}"])) for row in mine]
    assert sum(losses) / len(mine) == pytest.approx(record["metrics"]["val_loss"], rel=1e-4)


def files(golden: Path) -> list[Path]:
    return list((golden / "images").rglob("*.png"))


def held_out_files(golden: Path, record: dict) -> set[str]:
    space = Store(golden / "store", record["fingerprint"])
    found = split_files(space, latest_version(space), "validation", tuple(record["classes"]))
    return {path.decode() for path in found["path"].to_pylist()}


def test_new_images_are_computed_once_each(predict, tmp_path):
    for index in range(6):
        toy.picture(tmp_path / "inbox" / "deep" / f"{index}.png", 70_000 + index)
    shutil.copy(tmp_path / "inbox" / "deep" / "0.png", tmp_path / "inbox" / "copy.png")
    done = predict(tmp_path / "inbox", "--out", tmp_path / "p.csv")
    assert done.status == 0, done.stderr
    assert (done.record["images"], done.record["computed"]) == (7, 6)
    rows = {row.pop("path"): row for row in rows_of(tmp_path / "p.csv")}
    assert rows["copy.png"] == rows["deep/0.png"]
