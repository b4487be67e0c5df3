"""Trainings on variants, on images, and of the last blocks of the network, with real engines on tiny images."""

import csv
import dataclasses
import os
import shutil
import tracemalloc
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from storage.backend.paths import place
from storage.errors import InputError, StoreDamaged
from storage.heads.current import current_head
from storage.heads.registry import model_file, read_head
from storage.manifest.space import create_space
from storage.manifest.versions import commit, latest_version
from storage.planning.chunks import pack
from storage.planning.options import PlanOptions
from storage.planning.plan import finish, make_plan
from storage.reading.sample_files import files_of
from storage.shards.shard import ShardRef
from storage.source.listing import list_images
from storage.source.scan import scan_folder
from tests import toy
from tests.vision.engines.test_shared_engine import together
from vision.batches import Batches, Held
from vision.engines import load_engine
from vision.pixels.augmentation import Augmentation
from vision.pixels.decode import decode
from vision.specs import FeatureSpec
from vision.training.head import HeadSpec
from vision.training.head_model import load_head
from workers.devices import Placement, Slot
from workers.jobs.extract import process_chunks
from workers.jobs.records import ChunksJob, HeadJob, Space
from workers.jobs.spaces import find_space, head_job, version_record
from workers.jobs.train import train_head
from workers.jobs.training_data import Samples

VARIED = Augmentation(rotation_range=20, zoom_range=0.2, horizontal_flip=True).text
SPEC = HeadSpec(("cats", "dogs"), epochs=3, batch_size=8)
KINDS = {
    "variants": {"augment": VARIED, "variants": 3},
    "fine-tuning": {"augment": VARIED, "fine_tune": "block5", "fine_tune_epochs": 2, "fine_tune_learning_rate": 1e-3},
}

# Keras 3.15 warns on NumPy 2 whenever it saves (keras/src/backend/tensorflow/core.py, convert_to_numpy).
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


def space_of(images: Path, root: Path) -> Space:
    return find_space(place(str(root)), place(str(images)), FeatureSpec("", image_size=32), "random")


def extracted(images: Path, root: Path, engine: str, **options) -> Space:
    """A store with the version that a run with these options extracts and commits."""
    space = space_of(images, root)
    create_space(space.store, space.spec.record())
    planned = make_plan(space.store, list_images(scan_folder(images), space.store.cache), PlanOptions(**options))
    job = ChunksJob(space, pack(planned.todo), 0, planned.num_chunks, planned.chunk_size, "parquet", 1, engine)
    job = dataclasses.replace(job, augmentation=planned.augmentation)
    results = process_chunks(job, load_engine(engine, space.spec, "random", 1), lambda _: None)
    refs = [ShardRef(one.shard, one.size_bytes, one.rows, one.footer_checksum) for one in results]
    commit(space.store, planned.parent, *finish(space.store, planned, refs))
    return space


def job_on(space: Space, engine: str = "tensorflow", **options) -> HeadJob:
    version = latest_version(space.store)
    assert version is not None
    job = head_job(space, version_record(version), dataclasses.replace(SPEC, **options), seed=3)
    promote = "never" if job.spec.fine_tune else "if_better"
    return dataclasses.replace(job, engine=engine, promote=promote, checkpoint_seconds=0.0)


def steps_of(job: HeadJob) -> list[list[str]]:
    with open(job.space.store.head(job.name) / "logs" / "steps.csv") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return toy.pictures(tmp_path_factory.mktemp("pictures") / "images", per_class=20)


@pytest.fixture(scope="module")
def varied(pictures, tmp_path_factory) -> Space:
    """A store with variants. Tests copy it."""
    root = tmp_path_factory.mktemp("varied") / "store"
    return extracted(pictures, root, "tensorflow", chunk_size=8, variants=3, augmentation=VARIED)


@pytest.fixture(scope="module")
def plain(pictures, tmp_path_factory) -> Space:
    """A store without variants. Tests copy it."""
    return extracted(pictures, tmp_path_factory.mktemp("plain") / "store", "tensorflow")


def copy_of(space: Space, images: Path, root: Path) -> Space:
    shutil.copytree(str(space.store.root), root)
    return space_of(images, root)


@pytest.fixture
def space(varied, pictures, tmp_path) -> Space:
    """A copy of the store with variants, to train on."""
    return copy_of(varied, pictures, tmp_path / "store")


def test_pictures_as_they_are_are_trained_on_as_their_features_are(space):
    jobs = job_on(space, epochs=2), job_on(space, epochs=2, train_on="images")
    results = [train_head(job, lambda _: None) for job in jobs]
    assert jobs[0].name != jobs[1].name
    assert steps_of(jobs[0]) == steps_of(jobs[1])
    assert results[0].history == results[1].history


@pytest.mark.parametrize("kind", ["images", pytest.param("fine-tuning", marks=pytest.mark.slow)])
def test_the_losses_of_every_step_do_not_depend_on_the_number_of_cores(plain, pictures, tmp_path, monkeypatch, kind):
    """One engine computes, or two copies of it side by side."""
    options = {"images": {"augment": VARIED, "train_on": "images", "epochs": 2}, "fine-tuning": KINDS["fine-tuning"]}[
        kind
    ]
    losses, names = [], set()
    for threads in (1, 2):
        space = copy_of(plain, pictures, tmp_path / str(threads))
        if "fine_tune" in options:
            train_head(job_on(space, "mnn"), lambda _: None)
        job = dataclasses.replace(job_on(space, "mnn", **options), threads=threads)
        placed = Placement((Slot(None, 1),) * threads, "")
        monkeypatch.setattr("workers.jobs.training_data.engine_copies", lambda *given, placed=placed: placed)
        result = train_head(job, lambda _: None)
        names.add(job.name)
        losses.append((steps_of(job), result.history, result.val_loss))
    assert len(names) == 1
    assert losses[0] == losses[1]


def test_variants_are_trained_on_and_validation_has_none(space):
    jobs = job_on(space), job_on(space, **KINDS["variants"])
    plain, varied = (Samples.pinned(job, latest_version(space.store)) for job in jobs)
    rows = [
        {bytes(row) for epoch in range(30) for batch, _ in each.for_training().training.batches(epoch) for row in batch}
        for each in (plain, varied)
    ]
    assert rows[0] < rows[1]
    assert len(rows[1]) == 3 * len(rows[0]), "each view of each image, over so many passes"
    validation = [np.concatenate([x for x, _ in each.for_training().validation.batches()]) for each in (plain, varied)]
    assert np.array_equal(*validation)


def test_validation_images_that_are_copies_are_held_only_where_all_of_them_fit(tmp_path):
    """There are 3,000 copies of one image, and one megabyte holds the features of a third of them."""
    images = toy.pictures(tmp_path / "images" / "train")
    placeholder = toy.picture(images.parent / "validation" / "cats" / "0.png", 5)
    for number in range(1, 3_000):
        os.link(placeholder, placeholder.with_name(f"{number}.png"))
    _, version = toy.run(images.parent, tmp_path / "store")
    job = head_job(toy.space(images, tmp_path / "store"), version_record(version), SPEC, seed=3)

    def validation(shuffle_memory_mb: int) -> Batches:
        spec = dataclasses.replace(SPEC, shuffle_memory_mb=shuffle_memory_mb)
        return Samples.pinned(dataclasses.replace(job, spec=spec), version).for_training().validation

    tracemalloc.start()
    streamed = validation(1)
    assert sum(len(labels) for _, labels in streamed.batches()) == 3_000
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not isinstance(streamed, Held)
    assert isinstance(validation(4), Held)
    assert peak_bytes < 2 * 2**20, "3 MB, if each copy had features of its own"


def flip_a_bit(folder: Path) -> None:
    """Flip one bit in the middle of each file in the folder and its subfolders."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


@pytest.mark.parametrize(
    ("hurt", "options", "kind", "words"),
    [
        (flip_a_bit, {}, StoreDamaged, "is damaged .*repair"),
        pytest.param(flip_a_bit, {"validation_steps": 2}, StoreDamaged, "is damaged .*repair", marks=pytest.mark.slow),
        pytest.param(shutil.rmtree, {}, StoreDamaged, "is missing; .*repair", marks=pytest.mark.slow),
        (shutil.rmtree, {"sampling": "bootstrap"}, StoreDamaged, "is missing; .*repair"),
    ],
)
def test_a_training_that_loses_its_shards_says_so_in_one_line_of_its_own(tmp_path, hurt, options, kind, words):
    images = toy.pictures(tmp_path / "images", per_class=40)
    _, version = toy.run(images, tmp_path / "store")
    space = toy.space(images, tmp_path / "store")
    spec = dataclasses.replace(SPEC, shuffle_memory_mb=1, **options)
    job = dataclasses.replace(head_job(space, version_record(version), spec, seed=3), promote="never")

    def after_an_epoch(record: dict) -> None:
        if "val_loss" in record and record["epoch"] == 1:
            hurt(space.store.shards)

    with pytest.raises(kind, match=words) as caught:
        train_head(job, after_an_epoch)
    assert len(str(caught.value).splitlines()) == 1


def test_a_training_on_pictures_that_are_gone_says_so_in_one_line_of_its_own(plain, pictures, tmp_path):
    """The images vanish during the training, or before it first reads them."""
    images = shutil.copytree(pictures, tmp_path / "images")
    space = copy_of(plain, images, tmp_path / "store")
    job = job_on(space, train_on="images")

    def after_an_epoch(record: dict) -> None:
        if "val_loss" in record and record["epoch"] == 1:
            shutil.rmtree(images)

    for report in (after_an_epoch, lambda record: None):
        with pytest.raises(InputError, match=r"in succession could not be read .*check that the image folder"):
            train_head(job, report)


@pytest.mark.slow
def test_what_was_fine_tuned_predicts_from_pixels_what_its_record_says(space, pictures):
    train_head(job_on(space), lambda _: None)
    base = current_head(space.store)
    job = job_on(space, **KINDS["fine-tuning"])
    result = train_head(job, lambda _: None)
    assert (result.is_new, current_head(space.store), read_head(space.store, job.name)["base"]) == (True, base, base)
    again = train_head(job, lambda _: None)
    assert (again.is_new, again.val_loss) == (False, result.val_loss)
    network = load_head(str(model_file(space.store, job.name)))
    files = latest_version(space.store).read_files(space.store).to_pylist()
    held_out = [file for file in files if file["split"] == "validation"]
    pixels = np.stack([decode((pictures / file["path"].decode()).read_bytes(), 32) for file in held_out])
    labels = np.array([SPEC.classes.index(file["class"]) for file in held_out])
    found = network.predict(pixels, verbose=0)[:, 0]
    assert ((found > 0.5) == labels).mean() == pytest.approx(result.val_accuracy)
    losses = -np.log(np.where(labels, found, 1 - found))
    assert losses.mean() == pytest.approx(result.val_loss, rel=1e-3)


@pytest.mark.parametrize("engine", ["mnn", pytest.param("tensorflow", marks=pytest.mark.slow)])
def test_streams_that_are_read_at_the_same_time_give_what_each_gives_alone(space, engine):
    """Two training streams and two validation streams share one engine."""
    job = job_on(space, engine, augment=VARIED, fine_tune="block5", batch_size=7, validation_steps=3)
    data = Samples.pinned(job, latest_version(space.store)).for_training()

    def training() -> list[np.ndarray]:
        return [array for batch in data.training.batches(1, 1, epochs=2) for array in batch]

    def validation() -> list[np.ndarray]:
        return [array for batch in data.after_epochs.numbered() for array in batch]

    readers = [training, validation, training, validation]
    alone = [read() for read in readers]
    for _ in range(3):
        for found, expected in zip(together(*readers), alone, strict=True):
            assert len(found) == len(expected)
            assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["mnn", "tensorflow"])
@pytest.mark.parametrize("options", [{"validation_steps": 2}, {"shuffle_memory_mb": 1}], ids=str)
def test_a_fine_tuning_that_validates_while_it_reads_ahead_has_the_same_losses_again(tmp_path, engine, options):
    """The validation maps of 64 KB each do not fit into 1 MB, so each epoch computes them again."""
    pictures = toy.pictures(tmp_path / "images", per_class=44)
    space = extracted(pictures, tmp_path / "store", engine, chunk_size=96)
    options = {"fine_tune": "block2", "fine_tune_epochs": 3, "batch_size": 24, "epochs": 1} | options
    train_head(job_on(space, engine, **{name: options[name] for name in options if "fine" not in name}), lambda _: None)
    job = dataclasses.replace(job_on(space, engine, **options), is_forced=True)
    assert len(Samples.pinned(job, latest_version(space.store)).validation) > 16
    one, other = (train_head(job, lambda _: None) for _ in range(2))
    assert one.history == other.history
    assert (one.val_loss, one.val_accuracy) == (other.val_loss, other.val_accuracy)


def test_a_picture_that_is_gone_costs_its_row_also_where_it_is_alone_in_its_batch(plain, pictures, tmp_path):
    """The first two images of the training are gone."""
    images = shutil.copytree(pictures, tmp_path / "images")
    space = copy_of(plain, images, tmp_path / "store")
    job = job_on(space, train_on="images", batch_size=1, epochs=2)
    samples = Samples.pinned(job, latest_version(space.store))
    stream = samples.for_training().training
    (_, (first,)), (_, (second,)) = islice(stream._rows.samples(), 2)
    for at in (first, second):
        (images / os.fsdecode(stream._files["path"][int(at)].as_py())).unlink()
    result = train_head(job, lambda _: None)
    assert (result.is_new, result.epochs) == (True, 2)
    losses = [row[2] for row in steps_of(job)[1:]]
    assert len(losses) == 2 * len(samples.training)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"validation_steps": 1, "batch_size": 1}, {"shuffle_memory_mb": 1}], ids=str)
def test_mistakes_of_a_fine_tuning_are_of_their_own_files_whatever_is_gone(pictures, tmp_path, monkeypatch, options):
    images = shutil.copytree(pictures, tmp_path / "images")
    space = extracted(images, tmp_path / "store", "mnn")
    options = {"epochs": 1, "fine_tune_epochs": 1} | options
    train_head(job_on(space, "mnn", **{name: options[name] for name in options if "fine" not in name}), lambda _: None)
    job = job_on(space, "mnn", fine_tune="block4", **options)
    version = latest_version(space.store)
    table = Samples.pinned(job, version).validation
    files = files_of(space.store, version, "validation", table, range(len(table)))
    gone = [files[place][0] for place in (0, 2, len(table) - 1)]
    for path in gone:
        (images / os.fsdecode(path)).unlink()
    seen = []
    monkeypatch.setattr("workers.jobs.train.write_report", lambda *given, **_: seen.append(given[3]))
    result = train_head(job, lambda _: None)
    (found,) = seen
    assert found.confusion.sum() == len(table) - 3
    assert found.mistakes
    network = load_head(str(model_file(space.store, result.name)))
    for mistake in found.mistakes:
        path = files[mistake.sample][0]
        assert path not in gone
        assert path.decode().startswith(SPEC.classes[mistake.label])
        score = network.predict(decode((images / os.fsdecode(path)).read_bytes(), 32)[None], verbose=0)[0, 0]
        assert score == pytest.approx(mistake.score if mistake.predicted else 1 - mistake.score, abs=1e-3)
