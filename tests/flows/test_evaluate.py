"""The command `evaluate` end to end: a real server, real heads, VGG16 at 32 pixels with random weights."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from flows.cli import command as command_line
from flows.registry import EVALUATE
from storage.heads.current import current_head
from storage.heads.registry import read_head
from storage.layout import Store
from tests import toy
from tests.flows.conftest import TINY
from tests.flows.in_process import call
from tests.golden.test_golden import HEADS

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden(tmp_path_factory) -> Path:
    """A trained store of an older version, which does not keep its weights, and its images."""
    root = tmp_path_factory.mktemp("evaluate")
    for name in ("images", "store"):
        shutil.copytree(GOLDEN / name, root / name, copy_function=shutil.copyfile)
    return root


@pytest.fixture
def evaluate(environment, golden: Path, tmp_path: Path):
    """Call the command in this process."""
    main = partial(command_line.main, EVALUATE)
    where = "--store", golden / "store", "--out", tmp_path / "out"
    return partial(call, main, environment, "--runner", "inline", *where)


@pytest.fixture
def record(golden: Path) -> dict:
    root = Store(golden / "store", "")
    return read_head(root, current_head(root))


def test_the_validation_split_gives_the_figures_of_the_training_without_weights(evaluate, record, tmp_path):
    done = evaluate("--split", "validation")
    assert done.status == 0, done.stderr
    assert (done.record["computed"], done.record["left_out"], done.record["trained_on"]) == (0, 0, 0)
    assert done.record["images"] == record["samples"]["validation"] > 1
    assert done.record["confusion"] == record["confusion"]
    written = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert written["heads"][0]["accuracy"] == pytest.approx(record["metrics"]["val_accuracy"], abs=1e-6)
    assert written["heads"][0]["log_loss"] == pytest.approx(record["metrics"]["val_loss"], rel=1e-5)
    assert (tmp_path / "out/report.html").read_text().startswith("<!doctype html>")


def test_two_heads_are_compared_on_a_folder_and_what_was_trained_on_is_told(evaluate, golden, tmp_path):
    one, other = HEADS["plain"], HEADS["varied"]
    shutil.copytree(golden / "images", tmp_path / "photos")
    shutil.copytree(tmp_path / "photos/cats", tmp_path / "photos/tigers")
    done = evaluate("--head", one, "--against", other, "--images", tmp_path / "photos", "--weights", "random")
    assert done.status == 3, done.stderr  # the broken image is more than a hundredth of them
    found = done.record
    assert (found["head"], found["against"], found["quarantined"]) == (one, other, 1)
    assert found["left_out"] > 0
    assert "'tigers'" in done.stderr
    assert 0 < found["trained_on"] < found["images"]
    assert "was trained on" in done.stderr
    assert found["verdict"] in done.stderr
    assert found["only_head"] - found["only_against"] == round(
        (found["accuracy"] - found["against_accuracy"]) * found["images"]
    )
    assert f"{found['stored'] // 2:,} with stored features" in done.stderr
    page = (tmp_path / "out/report.html").read_text()
    assert "McNemar" in page
    assert "tigers" in page


def test_new_images_are_computed_and_the_figures_add_up(evaluate, golden, tmp_path):
    for index in range(6):
        toy.picture(tmp_path / "photos" / ("cats", "dogs")[index % 2] / f"{index}.png", 80_000 + index)
    done = evaluate("--images", tmp_path / "photos", "--weights", "random")
    assert done.status == 0, done.stderr
    assert (done.record["images"], done.record["computed"], done.record["stored"]) == (6, 6, 0)
    assert sum(map(sum, done.record["confusion"])) == 6
    assert done.record["correct"] == sum(row[place] for place, row in enumerate(done.record["confusion"]))
    assert not [path for path in (golden / "store").glob("cache/predictions/*/*") if path.is_dir()]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--images or --split"),
        (["--split", "test"], "has no such images"),
        (["--split", "validation", "--version", "99"], "version 99 is not in"),
        (["--split", "validation", "--labels", "x.csv"], "leave out --labels"),
        (["--images", "{flat}"], "python flows/predict.py --store"),
        (["--images", "{other}"], "knows the classes"),
        (["--images", "{nowhere}"], "no folder"),
        (["--split", "validation", "--head", "0" * 32], "has no head"),
        (["--split", "validation", "--against", HEADS["begun"]], "has no head"),
    ],
)
def test_input_that_cannot_work_ends_with_one_line_and_writes_nothing(evaluate, golden, tmp_path, arguments, said):
    toy.pictures(tmp_path / "other", 2, ("ships", "trains"))
    toy.picture(tmp_path / "flat" / "0.png", 1)
    places = {name: str(tmp_path / name) for name in ("flat", "other", "nowhere")}
    weights = ["--weights", "random"] if "--images" in arguments else []
    done = evaluate(*(each.format(**places) for each in arguments), *weights)
    assert done.status == 2, done.stderr
    assert said in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_heads_of_two_feature_spaces_are_compared_on_the_same_images(again, pipeline, environment, tmp_path):
    images, store = again
    main, where = (
        partial(command_line.main, EVALUATE),
        ("--runner", "inline", "--store", store, "--out", tmp_path / "out"),
    )
    current = current_head(Store(store, ""))
    first = read_head(Store(store, ""), current)
    pooled = pipeline("--images", images, "--store", store, "--pooling", "avg", *TINY)
    assert pooled.status == 0, pooled.stderr
    name, other = current, pooled.record["head"]
    assert name != other
    done = call(main, environment, *where, "--split", "validation", "--head", name, "--against", other)
    assert done.status == 0, done.stderr
    found = done.record
    assert (found["images"], found["stored"], found["computed"]) == (
        first["samples"]["validation"],
        2 * first["samples"]["validation"],
        0,
    )
    assert found["against_accuracy"] == pytest.approx(pooled.record["val_accuracy"], abs=1e-4)
    assert found["against_log_loss"] == pytest.approx(pooled.record["val_loss"], abs=2e-4)
    for index in range(4):
        toy.picture(tmp_path / "new" / ("cats", "dogs")[index % 2] / f"{index}.png", 90_000 + index)
    done = call(main, environment, *where, "--images", tmp_path / "new", "--head", name, "--against", other)
    assert done.status == 0, done.stderr
    assert (done.record["images"], done.record["computed"]) == (4, 8)
