"""Variants, the image stream and fine-tuning end to end: the command line, VGG16 at 32 pixels with random weights."""

import csv
import json
import os
import shutil
import signal
import zipfile
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest

from storage.layout import Store
from storage.manifest.versions import Version, latest_version
from storage.shards.shard import Shard
from storage.source.splits import derived_split
from tests import toy
from tests.flows.cli.test_command import complaint
from tests.flows.conftest import TINY, run_alone
from tests.flows.started import ask, shards_in, start, wait_until
from vision.pixels.augmentation import Augmentation

TURNED = ("--augment", '{"rotation_range": 20, "horizontal_flip": true}')
SHIFTED = ("--augment", "width_shift_range: 0.2")


def newest(store: Path, fingerprint: str) -> tuple[Store, Version]:
    where = Store(store, fingerprint)
    return where, latest_version(where)


def views_by_split(where: Store, version: Version) -> dict[tuple[str, int], int]:
    """(split, view) → rows; a row whose image is in no file of the version would be a KeyError."""
    splits = {row["digest"]: row["split"] for row in version.read_files(where).to_pylist()}
    return dict(Counter((splits[row["digest"]], row["view"]) for row in version.read_rows(where).to_pylist()))


def in_split(images: Path, name: str, split: str, seed: int) -> Path:
    """A new picture that its bytes put into this split."""
    path = images / name
    while derived_split(sha256(toy.picture(path, seed).read_bytes()).digest(), 0.2) != split:
        seed += 1
    return path


def described(store: Path, name: str) -> dict:
    return json.loads((store / "heads" / name / "head.json").read_text())


def logged_epochs(store: Path, name: str) -> list[int]:
    with open(store / "heads" / name / "logs" / "steps.csv", newline="") as file:
        return list(dict.fromkeys(int(row["epoch"]) for row in csv.DictReader(file)))


@pytest.fixture(scope="module")
def varied(pipeline, first_run, tmp_path_factory):
    """A copy of the first run's pictures and store after a run with three views; for reading only."""
    root = tmp_path_factory.mktemp("varied")
    images, store = shutil.copytree(first_run[0], root / "images"), shutil.copytree(first_run[1], root / "store")
    done = pipeline("--images", images, "--store", store, *TINY, *TURNED, "--variants", "3")
    assert done.status == 0, done.stderr
    return images, store, done


@pytest.fixture
def varied_again(varied, tmp_path: Path):
    """A copy of them, to be changed."""
    return (
        shutil.copytree(varied[0], tmp_path / "images"),
        shutil.copytree(varied[1], tmp_path / "store"),
    )


@pytest.mark.slow
def test_training_images_get_variants_and_a_head_of_their_own_and_nothing_is_extracted_twice(varied, first_run):
    _, store, done = varied
    before = views_by_split(*newest(first_run[1], done.record["fingerprint"]))
    training = before["train", 0]
    where, version = newest(store, done.record["fingerprint"])
    assert views_by_split(where, version) == before | {("train", 1): training, ("train", 2): training}
    assert (done.record["new"], done.record["unchanged"], done.record["extracted"]) == (0, 60, training)
    assert (done.record["extracted_views"], done.record["version"]) == (2 * training, 2)
    assert version.augmentations == (Augmentation(rotation_range=20, horizontal_flip=True).text,)
    assert version.data_digest == newest(first_run[1], done.record["fingerprint"])[1].data_digest
    assert done.record["head"] != first_run[2].record["head"]
    spec = described(store, done.record["head"])["head"]
    assert (spec["variants"], spec["augment"]) == (3, version.augmentations[0])
    assert logged_epochs(store, done.record["head"]) == [0, 1]


@pytest.mark.slow
def test_a_second_run_does_nothing_and_neither_does_going_back_to_no_variants(varied, first_run, tmp_path):
    images, store, done = varied
    arguments = ("--images", images, "--store", store, *TINY)
    for flags, first in (((*TURNED, "--variants", "3"), done), ((), first_run[2])):
        second = run_alone(tmp_path, *arguments, *flags)
        assert second.status == 0, second.stderr
        assert (second.record["extracted"], second.record["extracted_views"], second.record["version"]) == (0, 0, 2)
        assert second.record["head"] == first.record["head"]
        assert second.record["val_loss"] == first.record["val_loss"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_only_what_is_missing_is_extracted_and_a_bad_image_costs_one_row(pipeline, varied_again, tmp_path):
    """More variants; then another augmentation, with a training image, a validation image and a bad one that are new."""
    images, store = varied_again
    arguments = ("--images", images, "--store", store, *TINY)
    more = pipeline(*arguments, *TURNED, "--variants", "4", "--extract-only")
    assert more.status == 0, more.stderr
    where, version = newest(store, more.record["fingerprint"])
    counts = views_by_split(where, version)
    training = counts["train", 0]
    assert (more.record["extracted"], more.record["extracted_views"]) == (training, training)
    assert [counts["train", view] for view in range(4)] == [training] * 4

    in_split(images, "cats/to train.png", "train", 5000)
    in_split(images, "dogs/to validate.png", "validation", 6000)
    in_split(images, "dogs/bad.png", "train", 7000).write_bytes(b"not a picture")
    planned = pipeline(*arguments, *SHIFTED, "--variants", "3", "--plan").record
    # The bad one is thought to be good: whatever split it is in, it has one view or three.
    bad_views = planned["views_to_extract"] - (2 * training + 3 + 1)
    assert (planned["new"], planned["to_extract"], bad_views in (1, 3)) == (3, training + 3, True)
    other = pipeline(*arguments, *SHIFTED, "--variants", "3", "--extract-only")
    assert other.status == 0, other.stderr
    assert (other.record["new"], other.record["extracted"], other.record["quarantined"]) == (3, training + 2, 1)
    assert other.record["extracted_views"] == 2 * training + 3 + 1
    where, version = newest(store, other.record["fingerprint"])
    assert version.augmentations == (
        Augmentation.of(json.loads(TURNED[1])).text,
        Augmentation(width_shift_range=0.2).text,
    )
    now = views_by_split(where, version)
    assert now["validation", 0] == counts["validation", 0] + 1
    assert now["train", 0] == now["train", 256 | 1] == now["train", 256 | 2] == training + 1
    assert [now["train", view] for view in (1, 2, 3)] == [training] * 3
    assert sum(len(Shard(where, ref).errors()) for ref in version.shards.values()) == 1
    refused = run_alone(tmp_path, *arguments, *SHIFTED, "--variants", "3")
    assert (refused.status, "1 of 63 images is unusable" in refused.stderr) == (3, True), refused.stderr


def test_training_on_images_logs_every_epoch_and_extracts_nothing(pipeline, again, first_run, tmp_path):
    images, store = again
    arguments = ("--images", images, "--store", store, *TINY, *TURNED, "--train-on", "images")
    done = pipeline(*arguments)
    assert (done.status, done.record["extracted"], done.record["epochs"]) == (0, 0, 2), done.stderr
    assert done.record["head"] != first_run[2].record["head"]
    assert logged_epochs(store, done.record["head"]) == [0, 1]
    assert list((store / "heads" / done.record["head"] / "logs").glob("**/events.out.tfevents.*"))
    made = described(store, done.record["head"])
    assert made["head"]["train_on"] == "images"
    assert made["samples"] == described(store, first_run[2].record["head"])["samples"]
    (tmp_path / "home").mkdir()
    second = run_alone(tmp_path / "home", *arguments)
    assert (second.status, second.record["head"]) == (0, done.record["head"]), second.stderr


@pytest.mark.slow
def test_fine_tuning_leaves_a_whole_network_beside_the_head_that_it_began_at(
    pipeline, server, again, first_run, tmp_path
):
    images, store = again
    arguments = ("--images", images, "--store", store, *TINY, *TURNED, "--fine-tune", "block5")
    arguments = (*arguments, "--fine-tune-epochs", "3", "--fine-tune-learning-rate", "1e-4")
    done = pipeline(*arguments)
    assert done.status == 0, done.stderr
    record, head = done.record, first_run[2].record["head"]
    assert (record["extracted"], record["head"], record["val_loss"]) == (0, head, first_run[2].record["val_loss"])
    assert record["model"] not in (None, head)
    assert record["fine_tune_seconds"] > 0
    folder, made = store / "heads" / record["model"], described(store, record["model"])
    assert (made["base"], made["head"]["fine_tune"]) == (head, "block5")
    figures = made["metrics"]["val_accuracy"], made["metrics"]["val_loss"]
    assert (record["model_val_accuracy"], record["model_val_loss"]) == tuple(round(value, 4) for value in figures)
    assert logged_epochs(store, record["model"]) == [0, 1, 2]
    assert list((folder / "logs").glob("**/events.out.tfevents.*"))
    with zipfile.ZipFile(folder / "model.keras") as file:  # whole: all of VGG16, and the head
        config = json.loads(file.read("config.json"))
        assert file.getinfo("model.weights.h5").file_size > 14_714_688 * 4
    assert config["config"]["input_layers"] is not None
    assert (store / "heads" / "current").read_text().strip() == head  # it cannot be compared with a head
    (seen,) = ask(server, "flow_runs", name=str(images))
    steps = {task["name"].partition(" ")[0] for task in ask(server, "task_runs", id=seen["id"])}
    assert {"train_head", "fine_tune"} <= steps
    artifacts = {item["key"]: item["data"] for item in ask(server, "artifacts", id=seen["id"])}
    assert artifacts["fine-tuning-progress"] == 100
    assert f"{figures[0]:.4f}" in artifacts["fine-tuning"]
    (tmp_path / "home").mkdir()
    second = run_alone(tmp_path / "home", *arguments)
    assert second.status == 0, second.stderr
    kept = ("head", "model", "model_val_accuracy", "model_val_loss", "fine_tune_seconds")
    assert {name: second.record[name] for name in kept} == {name: record[name] for name in kept}


@pytest.mark.slow
def test_an_extraction_of_variants_that_is_killed_between_shards_goes_on_without_a_row_twice(
    pipeline, environment, tmp_path
):
    images, store = toy.pictures(tmp_path / "images", per_class=60), tmp_path / "store"
    arguments = ("--images", images, "--store", store, *TINY, "--chunk-size", "8", "--extract-only")
    assert pipeline(*arguments).status == 0
    plain = shards_in(store)
    process = start(environment, *arguments, *TURNED, "--variants", "9")
    wait_until(lambda: shards_in(store) >= plain + 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert plain + 2 <= shards_in(store) < 2 * plain
    done = pipeline(*arguments, *TURNED, "--variants", "9")
    assert done.status == 0, done.stderr
    where, version = newest(store, done.record["fingerprint"])
    counts = views_by_split(where, version)
    assert [counts["train", view] for view in range(9)] == [counts["train", 0]] * 9
    assert done.record["extracted_views"] < 8 * counts["train", 0]
    # All shards that lie there are the version's, and each of their rows is one of its rows.
    assert {path.name for path in where.shards.glob("*/*")} == set(version.shards)
    assert (
        sum(ref.num_rows for ref in version.shards.values())
        == version.read_rows(where).num_rows
        == sum(counts.values())
    )


LACKING = "--augment: no training uses the augmented images; add --variants 4"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--variants", "4"], "--variants: 4 views need an augmentation"),
        (["--variants", "4", "--augment", "{}"], "--variants: 4 views need an augmentation"),
        (["--variants", "4", "--augment", "fill_mode: wrap"], "--variants: 4 views need an augmentation"),
        (["--variants", "4", *TURNED, "--train-on", "images"], "--variants: --train-on images makes new variants"),
        (["--variants", "0", *TURNED], "--variants: expected greater than or equal to 1"),
        (["--variants", "257", *TURNED], "--variants: expected less than or equal to 256"),
        ([*TURNED], LACKING),
        ([*TURNED, "--extract-only"], LACKING),
        (["--train-on", "pictures"], "--train-on: expected 'features' or 'images'"),
        (["--fine-tune", "block1"], "--fine-tune: expected 'block5', 'block4', 'block3' or 'block2'"),
        (["--fine-tune", "block5", "--backbone", "resnet50"], "--fine-tune: resnet50 has no blocks"),
        (["--fine-tune", "block5", "--fine-tune-epochs", "0"], "--fine-tune-epochs: expected greater"),
        (["--fine-tune", "block5", "--fine-tune-learning-rate", "0"], "--fine-tune-learning-rate: expected greater"),
        (["--augment", ""], "--augment: expected parameters with their values"),
        (["--augment", "3"], "--augment: expected parameters with their values"),
        (["--augment", '[{"rotation_range": 20}]'], "--augment: expected parameters with their values"),
        (["--augment", '{"rotation_range": 20'], "--augment: expected JSON or YAML"),
        (["--augment", "!!python/object/apply:os.getcwd []"], "--augment: expected JSON or YAML"),
        (["--augment", "[" * 5000], "--augment: nested too deeply"),
        (["--augment", "nowhere.json"], f"--augment: {Path.cwd()}/nowhere.json cannot be read"),
        (["--augment", "{file}"], "cannot be read"),
        (["--augment", "zoom: 0.2"], "--augment: unknown parameter 'zoom'; expected one of zoom_range"),
        (["--augment", "zca_whitening: true"], "--augment: zca_whitening is not supported"),
        (["--augment", "rescale: 1./255"], "--augment: rescale takes a finite number"),
        (["--augment", "rescale: 0"], "--augment: rescale takes a number over 0"),
        (["--augment", "rescale: 0.5", "--rescale", "0.25"], "--rescale: got '0.25', but --augment has rescale 0.5"),
        (["--augment", "rescale: 0.5", "--rescale", "1"], "--rescale: got '1', but --augment has rescale 0.5"),
        (["--augment", "rescale: 1", "--rescale", "0.5"], "--rescale: got '0.5', but --augment has rescale 1.0"),
        (["--augment", "rescale: 0.5", "--rescale", "1/2"], "--rescale: expected a valid number, got '1/2'"),
        (["--rescale", "0"], "--rescale: expected greater than 0"),
        (["--augment", '{"rotation_range": NaN}'], "--augment: rotation_range takes a finite number"),
        (["--augment", f'{{"rotation_range": 1{"0" * 400}}}'], "--augment: rotation_range takes a finite number"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_in_one_line_before_anything_is_read(capsys, tmp_path, flags, expected):
    file = tmp_path / "not text.yaml"
    file.write_bytes(b"\xff\xfe")
    flags = [flag.replace("{file}", str(file)) for flag in flags]
    status, line = complaint(capsys, "--images", tmp_path / "none", "--store", tmp_path / "store", *TINY, *flags)
    assert (status, expected in line) == (2, True), line
    assert not (tmp_path / "store").exists()
