"""The command `predict` end to end: a real server, a real head, VGG16 at 32 pixels with random weights."""

import csv
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pyarrow.parquet
import pytest

from flows.cli import command as command_line
from flows.registry import PREDICT
from storage.backend.lock import hold
from storage.heads.current import current_head
from storage.heads.registry import read_head
from storage.layout import Store
from storage.manifest.versions import latest_version
from storage.predictions.pieces import claimed, pieces_folder
from storage.reading.samples import split_files
from tests import toy
from tests.flows.conftest import PROJECT
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
    """A store of this test's own, to be changed."""
    return shutil.copytree(golden / "store", tmp_path / "store")


@pytest.fixture(scope="module")
def predict(environment, golden: Path):
    """Call the command in this process. Only the cache of the shared store changes."""

    def run(*words, store: Path = golden / "store"):
        main = partial(command_line.main, PREDICT)
        return call(main, environment, "--runner", "inline", "--store", store, *words)

    return run


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """Seven images of six contents, and a broken one."""
    folder = tmp_path / "inbox"
    for index in range(6):
        toy.picture(folder / "deep" / f"{index}.png", 70_000 + index)
    shutil.copy(folder / "deep" / "0.png", folder / "copy.png")
    (folder / "broken.png").write_bytes((folder / "copy.png").read_bytes()[:60])
    shutil.copy(folder / "copy.png", os.fsencode(folder) + b"/x-\xff.png")
    (folder / "notes.md").write_text("not an image")
    return folder


PATHS = ["broken.png", "copy.png", *(f"deep/{index}.png" for index in range(6)), "x-\\xff.png"]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def by_path(path: Path) -> dict[str, dict[str, str]]:
    rows = rows_of(path)
    assert len({row["path"] for row in rows}) == len(rows)
    return {row["path"]: row for row in rows}


def test_stored_features_give_the_figures_of_the_training(golden, predict, tmp_path):
    """The broken image among them is over the budget, and the file is written all the same."""
    root = Store(golden / "store", "")
    record = read_head(root, current_head(root))
    done = predict("--images", golden / "images", "--out", tmp_path / "p.csv")
    assert done.status == 3, done.stderr
    assert (done.record["stored"], done.record["computed"], done.record["quarantined"]) == (24, 0, 1)
    rows = rows_of(tmp_path / "p.csv")
    files = (golden / "images").rglob("*.png")
    assert [row["path"] for row in rows] == sorted(str(path.relative_to(golden / "images")) for path in files)
    held_out = held_out_files(golden, record)
    assert len(held_out) == record["samples"]["validation"] > 1
    mine = [row for row in rows if row["path"] in held_out]
    right = [row["class"] == row["path"].partition("/")[0] for row in mine]
    assert sum(right) / len(mine) == pytest.approx(record["metrics"]["val_accuracy"], abs=1e-6)
    losses = [-math.log(float(row[f"p.{row['path'].partition('/')[0]}"])) for row in mine]
    assert sum(losses) / len(mine) == pytest.approx(record["metrics"]["val_loss"], rel=1e-5)


def held_out_files(golden: Path, record: dict) -> set[str]:
    space = Store(golden / "store", record["fingerprint"])
    found = split_files(space, latest_version(space), "validation", tuple(record["classes"]))
    return {path.decode() for path in found["path"].to_pylist()}


def test_each_image_has_one_row_whatever_the_format(golden, predict, inbox, tmp_path):
    for suffix in ("csv", "jsonl", "parquet"):
        done = predict("--images", inbox, "--out", tmp_path / f"p.{suffix}")
        assert done.status == 0, done.stderr
        counts = {name: done.record[name] for name in ("images", "rows", "ok", "quarantined", "computed", "ignored")}
        assert counts == {"images": 9, "rows": 9, "ok": 8, "quarantined": 1, "computed": 6, "ignored": 1}
        assert sum(done.record["predicted"].values()) == 8
    rows = by_path(tmp_path / "p.csv")
    assert list(rows) == PATHS
    assert (rows["broken.png"]["status"], rows["broken.png"]["reason"], rows["broken.png"]["class"]) == (
        "quarantined",
        "truncated",
        "",
    )
    assert rows["copy.png"] | {"path": ""} == rows["deep/0.png"] | {"path": ""} == rows["x-\\xff.png"] | {"path": ""}
    by_parquet = pyarrow.parquet.read_table(tmp_path / "p.parquet").to_pylist()
    by_json = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    for one, two, three in zip(by_parquet, by_json, rows.values(), strict=True):
        assert one["path"] == two["path"] == three["path"]
        assert one["class"] == two["class"] == (three["class"] or None)
        assert one["p.cats"] == pytest.approx(two["p.cats"], abs=1e-7)
        assert str(one["p.cats"] is None) == str(three["p.cats"] == "")
        assert one["p.cats"] is None or float(three["p.cats"]) == pytest.approx(one["p.cats"], abs=1e-7)
    assert not list((golden / "store" / "cache" / "predictions").rglob("*.arrow"))


def test_python_gives_the_same_answer(golden, predict, inbox, tmp_path):
    predict("--images", inbox, "--out", tmp_path / "p.csv")
    found = Classifier.load(golden / "store").predict([inbox / "deep" / "3.png"])[0]
    row = by_path(tmp_path / "p.csv")["deep/3.png"]
    assert (found.label, found.status) == (row["class"], "ok")
    assert found.probability == pytest.approx(float(row["probability"]), abs=2e-3)


def test_a_list_and_a_single_image_are_shown_as_they_were_named(predict, inbox, tmp_path):
    (tmp_path / "list.txt").write_text(f"inbox/copy.png\ngone.png\n{inbox}/deep/1.png\n")
    done = predict("--images", tmp_path / "list.txt", "--out", tmp_path / "p.csv")
    assert done.status == 0, done.stderr
    rows = by_path(tmp_path / "p.csv")
    assert {name: row["status"] for name, row in rows.items()} == {
        "inbox/copy.png": "ok",
        f"{inbox}/deep/1.png": "ok",
        "gone.png": "pending",
    }
    assert rows["gone.png"]["reason"] == "vanished"
    assert "1 missing" in done.stderr
    done = predict("--images", inbox / "copy.png", "--out", tmp_path / "one.csv", "--top-k", "2")
    (row,) = rows_of(tmp_path / "one.csv")
    assert (row["path"], row["class"]) == ("copy.png", rows["inbox/copy.png"]["class"])
    assert list(row) == ["path", "class", "probability", "status", "reason", "class.2", "probability.2"]
    assert float(row["probability"]) + float(row["probability.2"]) == pytest.approx(1)


def test_an_interrupted_run_leaves_no_file_and_continues(golden, predict, inbox, tmp_path, monkeypatch):
    out, words = tmp_path / "p.csv", ("--images", inbox, "--out", tmp_path / "p.csv", "--chunk-size", "2")

    def interrupt(*arguments, **how):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("flows.predict.write_predictions", interrupt)
        stopped = predict(*words)
    assert (stopped.status, out.exists()) == (130, False)
    assert "finished predictions are kept" in stopped.stderr
    root = Store(golden / "store", "")
    pieces = sorted(pieces_folder(root, current_head(root), out).glob("*.arrow"))
    assert len(pieces) == 4
    pieces[0].write_bytes(pieces[0].read_bytes()[:-1])  # damaged: its two images are computed again
    done = predict(*words)
    assert done.status == 0, done.stderr
    assert done.record["known"] + done.record["computed"] + done.record["quarantined"] in (7, 8)
    assert 1 <= done.record["computed"] <= 2
    assert list(by_path(out)) == PATHS
    whole = predict(*words, "--overwrite")
    assert (whole.record["known"], whole.record["computed"]) == (0, 6)


def test_append_computes_new_images_and_keeps_the_rows_of_those_that_are_gone(predict, inbox, tmp_path):
    words = ("--images", inbox, "--out", tmp_path / "p.csv", "--append")
    assert predict(*words).record["computed"] == 6
    before = by_path(tmp_path / "p.csv")
    (inbox / "deep" / "2.png").unlink()
    toy.picture(inbox / "new.png", 71_000)
    done = predict(*words)
    assert done.status == 0, done.stderr
    counts = {name: done.record[name] for name in ("images", "rows", "computed", "known")}
    assert counts == {"images": 9, "rows": 10, "computed": 1, "known": 6}
    after = by_path(tmp_path / "p.csv")
    assert after["new.png"]["status"] == "ok"
    assert {path: after[path] for path in before} == before
    shutil.rmtree(inbox)
    inbox.mkdir()
    assert predict(*words).record["rows"] == 10
    assert by_path(tmp_path / "p.csv") == after
    refused = predict(*words, "--top-k", "1")
    assert (refused.status, by_path(tmp_path / "p.csv")) == (2, after)


REFUSED = [
    (["--out", "p.txt"], "should end in"),
    (["--out", "there.csv"], "--overwrite"),
    (["--out", "folder.csv"], "is a folder"),
    (["--out", "there.csv/p.csv"], "no file can be written"),
    (["--out", "s3://bucket/p.csv"], "is not on this machine"),
    (["--images", "nothing"], "there is no folder"),
    (["--images", "empty"], "there is no image"),
    (["--head", "linear"], "not the name of a head"),
    (["--head", "0" * 32], "has no head"),
    (["--store", "nothing"], "there is no store"),
    (["--append", "--overwrite"], "give one of them"),
    (["--out"], "--out"),
]


@pytest.mark.parametrize(("words", "told"), REFUSED, ids=lambda each: " ".join(each) if isinstance(each, list) else "")
def test_what_cannot_work_ends_with_one_line(predict, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    toy.picture(tmp_path / "inbox" / "a.png", 1)
    (tmp_path / "there.csv").write_text("path\n")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    given = {} if words == ["--out"] else {"--out": "p.csv"}
    given |= {"--images": "inbox"} | (dict(zip(words[::2], words[1::2], strict=True)) if words[-1][:2] != "--" else {})
    switches = words if words[0] == "--append" else []
    done = predict(*(word for pair in given.items() for word in pair), *switches)
    assert done.status == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert told in line
    assert (sorted(tmp_path.iterdir()), done.record) == (before, None)


def test_a_store_without_a_head_or_with_a_damaged_one_says_what_to_do(predict, store, inbox, tmp_path):
    words = ("--images", inbox, "--out", tmp_path / "p.csv")
    root = Store(store, "")
    model = store / "heads" / current_head(root) / "head.keras"
    model.write_bytes(model.read_bytes()[:-1])
    done = predict(*words, store=store)
    assert (done.status, "repair" in done.stderr or "force-retrain" in done.stderr) == (1, True), done.stderr
    shutil.rmtree(store / "heads")
    done = predict(*words, store=store)
    assert (done.status, "has no head yet" in done.stderr) == (2, True), done.stderr


def test_a_run_only_reads_a_store_and_one_run_at_a_time_writes_a_file(golden, predict, inbox, tmp_path):
    words, root = ("--images", inbox, "--out", tmp_path / "p.csv"), Store(golden / "store", "")
    with claimed(pieces_folder(root, current_head(root), tmp_path / "p.csv"), tmp_path / "p.csv"):
        busy = predict(*words)
    assert (busy.status, "another run writes" in busy.stderr) == (5, True), busy.stderr
    with hold(golden / "store"):
        assert predict(*words).status == 0


def test_features_that_vanish_meanwhile_are_computed(golden, predict, store, tmp_path):
    """As if compaction and gc had removed them after the plan."""
    for shard in store.glob("*/shards/*/*"):
        shard.unlink()
    expected = tmp_path / "expected.csv"
    predict("--images", golden / "images", "--out", expected, "--max-bad-fraction", "1")
    done = predict("--images", golden / "images", "--out", tmp_path / "p.csv", "--max-bad-fraction", "1", store=store)
    assert done.status == 0, done.stderr
    assert "so their images are computed" in done.stderr
    assert (done.record["stored"], done.record["computed"]) == (0, 24)
    assert [row["path"] for row in rows_of(tmp_path / "p.csv")] == [row["path"] for row in rows_of(expected)]
    for one, two in zip(rows_of(tmp_path / "p.csv"), rows_of(expected), strict=True):
        assert one["status"] == two["status"]
        assert float(one["probability"] or 0) == pytest.approx(float(two["probability"] or 0), abs=5e-3)


def test_kept_features_are_adopted_by_the_pipeline(predict, pipeline, golden, store, tmp_path):
    words = json.loads((GOLDEN / "options.json").read_text())["plain"]
    images = shutil.copytree(golden / "images", tmp_path / "images")
    for index in range(4):
        toy.picture(images / "cats" / f"new-{index}.png", 72_000 + index)
    done = predict(
        "--images", images, "--out", tmp_path / "p.csv", "--keep-features", "--max-bad-fraction", "1", store=store
    )
    assert (done.status, done.record["computed"]) == (0, 4), done.stderr
    done = pipeline(*words, "--images", images, "--store", store, "--extract-only")
    assert (done.status, done.record["new"], done.record["adopted"], done.record["extracted"]) == (0, 4, 4, 0)


@pytest.mark.slow
def test_a_run_killed_at_a_random_moment_continues_and_computes_nothing_twice(environment, store, tmp_path):
    inbox, out = tmp_path / "inbox", tmp_path / "p.csv"
    for index in range(400):
        toy.picture(inbox / f"{index:03d}.png", 73_000 + index)
    words = ["--store", store, "--images", inbox, "--out", out, "--chunk-size", "8", "--workers", "1"]
    command = [sys.executable, PROJECT / "flows" / "predict.py", *words]
    root = Store(store, "")
    pieces = pieces_folder(root, current_head(root), out)
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while len(list(pieces.glob("*.arrow"))) < 2 and process.poll() is None:
        time.sleep(0.01)
    time.sleep(random.Random(int(os.environ.get("KILL_SEED", "0"))).uniform(0, 0.5))
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    kept = len(list(pieces.glob("*.arrow")))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["known"] >= 8 * kept
    assert record["known"] + record["computed"] == 400
    assert list(by_path(out)) == [f"{index:03d}.png" for index in range(400)]


@pytest.mark.slow
def test_a_fine_tuned_head_gives_the_figures_of_its_training(predict, pipeline, golden, store, tmp_path):
    words = json.loads((GOLDEN / "options.json").read_text())["plain"]
    tuning = ("--fine-tune", "block5", "--fine-tune-epochs", "1")
    tuned = pipeline(*words, "--images", golden / "images", "--store", store, *tuning)
    assert tuned.status == 0, tuned.stderr
    record = read_head(Store(store, ""), tuned.record["model"])
    given = ("--images", golden / "images", "--head", tuned.record["model"], "--max-bad-fraction", "1")
    done = predict(*given, "--out", tmp_path / "p.csv", store=store)
    assert done.status == 0, done.stderr
    assert (done.record["stored"], done.record["computed"], done.record["ok"]) == (0, 24, 25)
    rows, held_out = by_path(tmp_path / "p.csv"), held_out_files(golden, record)
    losses = [-math.log(float(rows[path][f"p.{path.partition('/')[0]}"])) for path in held_out]
    assert sum(losses) / len(losses) == pytest.approx(record["metrics"]["val_loss"], rel=1e-4)
    refused = predict(*given, "--keep-features", "--out", tmp_path / "q.csv", store=store)
    assert (refused.status, "--keep-features" in refused.stderr) == (2, True), refused.stderr
