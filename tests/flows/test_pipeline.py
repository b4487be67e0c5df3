"""The command line end to end: real server, real children, VGG16 at 32 pixels with random weights."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from storage.layout import Store
from storage.manifest.versions import latest_version
from tests import toy
from tests.flows.conftest import PROJECT, TINY, run_alone
from tests.flows.started import ask, features, shards_in
from vision.specs import BACKBONES

KEYS = [
    "images",
    "classes",
    "new",
    "changed",
    "moved",
    "relabelled",
    "removed",
    "unchanged",
    "pending",
    "ignored",
    "quarantined",
    "extracted",
    "adopted",
    "shards_written",
    "version",
    "fingerprint",
    "warmup_seconds",
    "extract_seconds",
    "extract_images_per_second",
    "train_seconds",
    "train_samples_per_second",
    "epochs",
    "val_accuracy",
    "val_loss",
    "test_accuracy",
    "test_loss",
    "head",
    "peak_rss_mb",
    "elapsed_seconds",
]


def test_images_become_a_version_and_a_head(first_run):
    _, store, done = first_run
    assert set(KEYS) <= set(done.record)
    assert (done.record["images"], done.record["classes"], done.record["new"]) == (60, 2, 60)
    assert (done.record["extracted"], done.record["version"], done.record["quarantined"]) == (60, 1, 0)
    head = store / "heads" / done.record["head"]
    assert {path.name for path in head.iterdir()} >= {"head.keras", "head.json", "report.html"}
    assert (store / "heads" / "current").read_text().strip() == done.record["head"]
    described = json.loads((head / "head.json").read_text())
    assert described["classes"] == ["cats", "dogs"]
    assert described["fingerprint"] == done.record["fingerprint"]
    assert sum(described["samples"].values()) == 60


def test_a_second_run_does_nothing_and_starts_nothing(first_run, tmp_path):
    images, store, done = first_run
    second = run_alone(tmp_path, "--images", images, "--store", store, *TINY)
    assert second.status == 0, second.stderr
    assert (second.record["extracted"], second.record["unchanged"], second.record["version"]) == (0, 60, 1)
    assert second.record["head"] == done.record["head"]
    assert second.record["val_accuracy"] == done.record["val_accuracy"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_changes_extract_only_what_is_new_and_going_back_finds_the_old_head(pipeline, again, first_run):
    images, store = again
    arguments = ("--images", images, "--store", store, *TINY)
    shutil.copytree(images, images.with_name("before"))
    toy.picture(images / "cats" / "added.png", seed=99)
    (images / "cats" / "000.png").unlink()
    (images / "cats" / "001.png").rename(images / "dogs" / "crossed.png")
    (images / "cats" / "002.png").rename(images / "cats" / "renamed.png")
    changed = pipeline(*arguments)
    assert changed.status == 0, changed.stderr
    counts = {
        name: changed.record[name] for name in ("new", "removed", "relabelled", "moved", "unchanged", "extracted")
    }
    assert counts == {"new": 1, "removed": 1, "relabelled": 1, "moved": 1, "unchanged": 57, "extracted": 1}
    assert changed.record["version"] == 2
    assert changed.record["head"] != first_run[2].record["head"]

    shutil.rmtree(images)
    images.with_name("before").rename(images)
    back = pipeline(*arguments)
    assert back.status == 0, back.stderr
    assert (back.record["extracted"], back.record["version"]) == (0, 3)
    assert back.record["head"] == first_run[2].record["head"]
    assert back.record["val_loss"] == first_run[2].record["val_loss"]


@pytest.mark.slow
def test_without_any_state_of_prefect_nothing_is_extracted_again(pipeline, again):
    images, store = again
    shutil.rmtree(store / "cache")
    toy.picture(images / "dogs" / "added.png", seed=77)
    done = pipeline("--images", images, "--store", store, *TINY)
    assert (done.status, done.record["extracted"]) == (0, 1), done.stderr


@pytest.mark.slow
def test_an_unreadable_image_costs_its_row_only(pipeline, tmp_path):
    images = toy.pictures(tmp_path / "images", per_class=20)
    (images / "cats" / "broken.png").write_bytes(b"not a picture")
    arguments = ("--images", images, "--store", tmp_path / "store", *TINY)
    done = pipeline(*arguments, "--extract-only")
    assert done.status == 0, done.stderr
    assert (done.record["extracted"], done.record["quarantined"], done.record["val_accuracy"]) == (40, 1, None)
    over = pipeline(*arguments)
    assert over.status == 3
    assert "1 of 41 images is unusable" in over.stderr
    shown = re.search(r"python (-m storage show --store .*)` names them", over.stderr).group(1)
    listed = subprocess.run([sys.executable, *shlex.split(shown)], capture_output=True, text=True, cwd=PROJECT)
    assert "cats/broken.png" in listed.stdout
    assert over.record["version"] == 1
    enough = pipeline(*arguments, "--max-bad-fraction", "0.05")
    assert enough.status == 0, enough.stderr
    assert enough.record["val_accuracy"] is not None


@pytest.mark.parametrize("keep", [0, 20])
def test_an_empty_or_half_empty_folder_commits_nothing(pipeline, first_run, tmp_path, keep):
    _, store, _ = first_run
    images = toy.pictures(tmp_path / "images", per_class=keep, classes=("cats",)) if keep else tmp_path / "images"
    images.mkdir(exist_ok=True)
    done = pipeline("--images", images, "--store", store, *TINY)
    assert done.status == 4
    assert f"{60 - keep} of 60 images disappeared" in done.stderr
    assert f"({keep} remain)" in done.stderr
    assert "Traceback" not in done.stderr
    assert latest_version(Store(store, first_run[2].record["fingerprint"])).number == 1


def test_one_class_is_extracted_and_committed_but_not_trained(pipeline, tmp_path):
    images = toy.pictures(tmp_path / "images", per_class=3, classes=("cats",))
    arguments = ("--images", images, "--store", tmp_path / "store", *TINY)
    for expected in (3, 0):  # the second time nothing is left to extract, and the answer is the same
        done = pipeline(*arguments)
        assert done.status == 2
        assert "at least two classes" in done.stderr
        assert done.stderr.count("warning: there is only one class, 'cats', but training needs two") == 1
        assert (
            done.stderr.find("warning: there is only one class") < done.stderr.find("version 1: 3 extracted")
            or not expected
        )
        assert "Traceback" not in done.stderr
        assert (done.record["extracted"], done.record["version"], done.record["head"]) == (expected, 1, None)


def test_fewer_images_than_a_batch_and_a_given_split_train(pipeline, tmp_path):
    for split in ("train", "validation"):
        toy.pictures(tmp_path / "images" / split, per_class=2, classes=("a", "b", "c"))
    done = pipeline("--images", tmp_path / "images", "--store", tmp_path / "store", *TINY)
    assert done.status == 0, done.stderr
    assert (done.record["images"], done.record["classes"], done.record["extracted"]) == (12, 3, 6)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["vgg19", "resnet50"])
def test_another_backbone_goes_the_whole_way(pipeline, images, store, backbone):
    done = pipeline("--images", images, "--store", store, *TINY, "--backbone", backbone)
    assert (done.status, done.record["extracted"], done.record["promoted"]) == (0, 20, True), done.stderr
    described = json.loads((store / "heads" / done.record["head"] / "head.json").read_text())
    channels = BACKBONES[backbone].channels
    assert (described["features"]["backbone"], described["features"]["shape"]) == (backbone, [1, 1, channels])
    kept = features(store, done.record["fingerprint"])
    assert {array.shape for array in kept.values()} == {(1, 1, channels)}
    assert len({array.tobytes() for array in kept.values()}) == 20


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 1 MB; only root can mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small disk needs root: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_room(command, pipeline, small_disk, tmp_path):
    images = toy.pictures(tmp_path / "images", per_class=200)
    arguments = ("--images", images, "--store", small_disk / "store", *TINY, "--dtype", "float32", "--extract-only")
    full = command(*arguments)
    assert full.status == 1
    assert "error: No space left on device" in full.stderr
    assert "Traceback" not in full.stderr
    kept = shards_in(small_disk / "store")
    assert kept
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    done = pipeline(*arguments)
    assert done.status == 0, done.stderr
    assert done.record["adopted"] == 16 * kept
    assert done.record["adopted"] + done.record["extracted"] == 400


def test_features_that_will_not_fit_are_refused_before_anything_is_begun(pipeline, small_disk, tmp_path):
    images = toy.pictures(tmp_path / "images", per_class=200)
    arguments = ("--images", images, "--store", small_disk / "store", "--weights", "random", "--image-size", "128")
    done = pipeline(*arguments)  # 400 images of 16 KB in float16
    assert done.status == 1
    (line,) = done.stderr.strip().splitlines()
    assert re.search(r"400 images need about 6.6 MB.* has only 1.0 MB left; nothing was extracted.*--limit", line), line
    assert not (small_disk / "store" / "versions").exists()
    planned = pipeline(*arguments, "--plan")
    assert planned.record["expected_bytes"] > planned.record["free_bytes"]
    part = pipeline(*arguments, "--limit", "20", "--plan")
    assert part.record["expected_bytes"] * 20 == pytest.approx(planned.record["expected_bytes"], rel=1e-3)


def test_a_busy_store_is_left_alone(pipeline, first_run, again):
    images, store = again
    toy.picture(images / "cats" / "new.png", seed=1)
    code = f"import time; from pathlib import Path; from storage.backend.lock import hold\nwith hold(Path({str(store)!r})):\n print('held', flush=True); time.sleep(120)"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=PROJECT)
    try:
        assert holder.stdout.readline() == "held\n"
        done = pipeline("--images", images, "--store", store, *TINY)
        assert done.status == 5
        assert f"process {holder.pid} since " in done.stderr
    finally:
        holder.kill()
        holder.communicate()


def test_people_see_the_steps_and_what_came_of_them(server, first_run):
    images, store, done = first_run
    runs = ask(server, "flow_runs", name=str(images))
    run = min(runs, key=lambda run: run["start_time"])  # other tests may have run over these pictures since
    assert run["state_type"] == "COMPLETED"
    assert run["name"] == f"{images}: 60 images, 60 to extract"
    assert "vgg16" in run["tags"]
    mine = [task["name"] for task in ask(server, "task_runs", id=run["id"])]
    steps = {name.partition(" ")[0].rpartition("-")[0] or name.partition(" ")[0] for name in mine}
    assert steps == {"scan_images", "list_images", "plan_chunks", "extract_chunk", "build_manifest", "train_head"}
    artifacts = {item["key"]: item for item in ask(server, "artifacts", id=run["id"])}
    assert artifacts.keys() == {"extraction", "version", "training-progress", "training"}
    assert artifacts["extraction"]["data"] == artifacts["training-progress"]["data"] == 100
    table = json.loads(artifacts["version"]["data"])
    assert sum(row["images"] for row in table if row["split"]) == 60
    report = artifacts["training"]["data"]
    assert f"{done.record['val_accuracy']:.4f}" in report
    head = json.loads((store / "heads" / done.record["head"] / "head.json").read_text())
    for name, counts in zip(head["classes"], head["confusion"], strict=True):
        assert f"| **{name}** | {counts[0]} | {counts[1]} |" in report
        scores = head["per_class"][name]
        figures = ("" if scores[key] is None else f"{scores[key]:.4f}" for key in ("precision", "recall"))
        assert f"| {name} | {' | '.join(figures)} | {scores['images']} |" in report
