"""Heads on variants, on images and fine-tuned, with real engines: validation, resuming, and what the store keeps."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from storage.backend.paths import place
from storage.errors import StorageError
from storage.heads.current import current_head
from storage.heads.registry import list_heads, model_file, read_head
from storage.layout import Store
from storage.maintenance.collect import collect
from storage.manifest.space import create_space
from storage.manifest.versions import Version, commit, version_numbers
from storage.planning.chunks import pack
from storage.planning.options import PlanOptions
from storage.planning.plan import finish, make_plan
from storage.reading.sample_files import files_of
from storage.reading.samples import pin
from storage.shards.shard import ShardRef
from storage.source.listing import list_images
from storage.source.scan import scan_folder
from tests import toy
from tests.workers.jobs.test_resume import steps_of, stop_after
from tests.workers.jobs.trainer import NOTHING, Trainer
from vision.batches import Batches
from vision.engines import unload_engine
from vision.pixels.decode import decode
from vision.runtime import prepare_tensorflow
from vision.specs import FeatureSpec
from vision.training.evaluation import Evaluation, evaluate
from vision.training.head import HeadSpec
from vision.training.head_model import load_head
from workers.jobs.head_identity import find_head, head_name
from workers.jobs.image_stream import ImageStream
from workers.jobs.records import ChunksJob, HeadJob, HeadResult, Space
from workers.jobs.spaces import find_space
from workers.jobs.training_data import Samples
from workers.runners.base import Runner

# Keras 3.15 warns on NumPy 2 whenever it saves (keras/src/backend/tensorflow/core.py, convert_to_numpy).
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SPEC = HeadSpec(("cats", "dogs"), epochs=3, batch_size=4, shuffle_memory_mb=1)
TURN = '{"rotation_range":40.0}'
VARIED = {"augment": TURN, "variants": 3}
PICTURES = {"augment": TURN, "train_on": "images"}
TUNED = {"augment": TURN, "fine_tune": "block5", "fine_tune_epochs": 2}


@dataclasses.dataclass
class Tuner(Trainer):
    """A store with features of 32-pixel images, by VGG16 with random weights."""

    engine: str = "mnn"

    @property
    def space(self) -> Space:
        return find_space(place(str(self.root)), place(str(self.images)), FeatureSpec("", image_size=32), "random")

    @property
    def store(self) -> Store:
        return self.space.store

    def job(self, seed: int = 0, **options) -> HeadJob:
        space, spec = self.space, dataclasses.replace(SPEC, **options)
        name = head_name(space.fingerprint, self.version.data_digest, spec, seed)
        promote = "never" if spec.fine_tune else "if_better"
        return HeadJob(
            space, self.version.number, name, spec, seed, promote=promote, checkpoint_seconds=0.0, engine=self.engine
        )

    def run(self, variants: int = 1) -> Version:
        """Commit the current folder, with features from the engine."""
        space = self.space
        options = PlanOptions(0.5, 8, variants=variants, augmentation=TURN if variants > 1 else "")
        planned = make_plan(space.store, list_images(scan_folder(self.images), space.store.cache), options)
        create_space(space.store, space.spec.record())
        sizes = 0, planned.num_chunks, planned.chunk_size, planned.format
        job = ChunksJob(space, pack(planned.todo), *sizes, 1, self.engine, augmentation=planned.augmentation)
        with self.workers.lease() as worker:
            found = worker.call("chunks", job.record(), lambda record: None)
        assert {result["fallback"] for result in found} <= {None}
        refs = [ShardRef(one["shard"], one["size_bytes"], one["rows"], one["footer_checksum"]) for one in found]
        self.version = commit(space.store, planned.parent, *finish(space.store, planned, refs))
        return self.version

    def validated(self, head: str, rows: Batches, samples: Samples) -> Evaluation:
        return evaluate(load_head(head), rows, samples.shape, samples.dtype, 2)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.pictures(tmp_path_factory.mktemp("pictures") / "images", per_class=14)


def made(engine: str, images: Path, root: Path, workers: Runner, variants: int) -> Tuner:
    tuner = Tuner(images, root, None, workers, engine=engine)
    tuner.run(variants)
    return tuner


@pytest.fixture(scope="module")
def viewed(pictures: Path, workers: Runner, tmp_path_factory: pytest.TempPathFactory) -> Tuner:
    """A store with three views of each training image. Tests only read it."""
    return made("mnn", pictures, tmp_path_factory.mktemp("viewed") / "store", workers, 3)


@pytest.fixture(scope="module")
def trained(viewed: Tuner, tmp_path_factory: pytest.TempPathFactory) -> Tuner:
    """A copy of `viewed`, with a head of each kind of training."""
    root = tmp_path_factory.mktemp("trained") / "store"
    shutil.copytree(viewed.root, root)
    copy = dataclasses.replace(viewed, root=root)
    for options in ({}, VARIED, PICTURES):
        copy.train(copy.job(**options))
    current = current_head(copy.store)
    copy.result = copy.train(copy.job(**TUNED))
    assert current_head(copy.store) == current
    return copy


@pytest.fixture
def tuner(trained: Tuner, tmp_path: Path) -> Tuner:
    """A copy of `trained` and its images, which a test may change."""
    shutil.copytree(trained.root, tmp_path / "store")
    shutil.copytree(trained.images, tmp_path / "images")
    copy = dataclasses.replace(trained, images=tmp_path / "images", root=tmp_path / "store", heard=[])
    assert copy.job().name == trained.job().name
    return copy


def result_of(tuner: Tuner, **options) -> HeadResult:
    found = find_head(tuner.store, tuner.job(**options).name)
    assert found is not None
    return found


# Validation


@pytest.mark.parametrize("engine", ["mnn", pytest.param("tensorflow", marks=pytest.mark.slow)])
def test_one_head_has_the_same_validation_figures_on_plain_features_on_view_0_and_on_pictures(
    engine, pictures, workers, viewed, tmp_path
):
    """The features come from a store without variants, from one with variants, and from images without augmentation."""
    prepare_tensorflow(1)
    plain = made(engine, pictures, tmp_path / "plain", workers, 1)
    viewed = viewed if engine == viewed.engine else made(engine, pictures, tmp_path / "viewed", workers, 3)
    assert viewed.version.augmentations == (TURN,)
    plain.train(plain.job())
    head = str(model_file(plain.store, plain.job().name))
    own, other = (Samples.pinned(one.job(), one.version) for one in (plain, viewed))
    streams = [
        own.to_evaluate("validation", own.validation),
        other.to_evaluate("validation", other.validation),
        Samples.pinned(viewed.job(**VARIED), viewed.version).to_evaluate("validation", other.validation),
        own._from_images(own._in_order(own.validation), "validation", own.validation, None),
    ]
    assert isinstance(streams[-1], ImageStream)
    found = [plain.validated(head, rows, own) for rows in streams]
    assert len(own.validation) > 6
    assert [one.accuracy for one in found] == [found[0].accuracy] * 4
    assert [one.loss for one in found] == pytest.approx([found[0].loss] * 4, abs=1e-6)
    assert all(np.array_equal(one.confusion, found[0].confusion) for one in found)
    unload_engine()


def test_whatever_is_trained_on_it_is_validated_on_what_is_plain(viewed, tmp_path):
    """No step moves the weights, so the validation figures are those of the initial weights on the plain images."""
    shutil.copytree(viewed.root, tmp_path / "store")
    still = dataclasses.replace(viewed, root=tmp_path / "store")
    results = [
        still.train(still.job(learning_rate=NOTHING, optimizer="sgd", epochs=1, **options))
        for options in ({}, VARIED, PICTURES)
    ]
    assert len({result.name for result in results}) == 3
    assert {result.val_accuracy for result in results} == {results[0].val_accuracy}
    assert [result.val_loss for result in results] == pytest.approx([results[0].val_loss] * 3, abs=1e-6)
    losses = [tuple(epoch["loss"] for epoch in result.history) for result in results]
    assert len(set(losses)) == 3


def test_before_the_first_step_a_fine_tuning_has_the_figures_of_its_head(trained):
    record = read_head(trained.store, trained.job(**TUNED).name)
    base = result_of(trained)
    assert record["base"] == base.name
    assert record["start"]["val_accuracy"] == base.val_accuracy
    assert record["start"]["val_loss"] == pytest.approx(base.val_loss, rel=5e-3)  # its features are not rounded


@pytest.mark.parametrize("options", [VARIED, PICTURES, TUNED], ids=["variants", "images", "fine-tuned"])
def test_the_validation_samples_of_a_head_are_plain_rows(trained, options):
    job = trained.job(**options)
    table = np.load(trained.store.head(job.name) / "samples-validation.npy")
    rows = trained.version.read_rows(trained.store).to_pylist()
    view = {(row["shard"], row["row"]): row["view"] for row in rows}
    names = sorted(trained.version.shards)
    assert {view[names[sample["shard"]], sample["row"]] for sample in table} == {0}
    assert set(view.values()) == {0, 1, 2}


# Interrupted and resumed trainings


@pytest.mark.slow
@pytest.mark.parametrize("options", [VARIED, PICTURES, TUNED], ids=["variants", "images", "fine-tuned"])
def test_a_training_that_is_stopped_takes_the_same_steps_as_one_that_was_not(trained, tuner, options):
    job = tuner.job(**options)
    whole = steps_of(trained, trained.job(**options))
    expected = read_head(trained.store, job.name)
    shutil.rmtree(tuner.store.head(job.name))
    steps = len(whole) - 1
    assert steps > 8
    for further in (2, steps - 5):
        stop_after(tuner, job, further)
    tuner.heard.clear()
    result = tuner.train(job, tuner.heard.append)
    assert tuner.heard[0]["resumed"]
    assert steps_of(tuner, job) == whole
    assert list(result.history) == expected["history"]
    assert (result.val_loss, result.val_accuracy) == tuple(expected["metrics"][n] for n in ("val_loss", "val_accuracy"))
    assert read_head(tuner.store, job.name).get("start") == expected.get("start")


# Fine-tuned networks


def validation_pixels(tuner: Tuner) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 32, 32, 3) uint8 of the validation images, and their labels (n,)."""
    table = pin(tuner.store, tuner.version, "validation", SPEC.classes, tuner.root)
    files = files_of(tuner.store, tuner.version, "validation", table, range(len(table)))
    data = [(tuner.images / os.fsdecode(path)).read_bytes() for path, _ in files]
    return np.stack([decode(each, 32) for each in data]), table.samples["class"].astype(int)


def test_the_whole_network_predicts_from_pixels_what_its_record_says(tuner):
    import keras

    record = read_head(tuner.store, tuner.job(**TUNED).name)
    model = keras.saving.load_model(tuner.store.head(tuner.job(**TUNED).name) / "model.keras", safe_mode=True)
    pixels, labels = validation_pixels(tuner)
    assert (model.input_shape, pixels.dtype) == ((None, 32, 32, 3), np.uint8)
    scores = model.predict(pixels, verbose=0)[:, 0]
    right = (scores > 0.5) == labels
    assert right.mean() == pytest.approx(record["metrics"]["val_accuracy"], abs=1e-7)
    own = np.where(labels == 1, scores, 1 - scores).astype(np.float64)
    assert -np.log(own).mean() == pytest.approx(record["metrics"]["val_loss"], rel=1e-4)


def test_what_was_fine_tuned_is_another_network_than_its_head_and_the_engine(tuner):
    """Its record differs from the head's, because it has learnt something."""
    record = read_head(tuner.store, tuner.job(**TUNED).name)
    assert record["history"][0]["loss"] != record["history"][1]["loss"]
    assert len(record["history"]) == TUNED["fine_tune_epochs"]
    assert min(epoch["val_loss"] for epoch in record["history"]) != record["start"]["val_loss"]


def test_a_network_that_was_fine_tuned_is_found_and_not_trained_again(tuner):
    heard: list[dict] = []
    again = tuner.train(tuner.job(**TUNED), heard.append)
    assert (again.is_new, heard) == (False, [])
    assert again.val_accuracy == result_of(tuner, **TUNED).val_accuracy


def test_a_network_that_was_fine_tuned_is_never_promoted(trained):
    assert current_head(trained.store) in {trained.job(**options).name for options in ({}, VARIED, PICTURES)}
    assert (trained.result.is_new, trained.result.is_promoted) == (True, False)


def test_beside_a_network_that_was_fine_tuned_heads_are_compared_as_before(tuner):
    other = tuner.train(tuner.job(seed=1))
    best = max(
        (result_of(tuner, **options) for options in ({}, VARIED, PICTURES)),
        key=lambda head: (head.val_accuracy, -head.val_loss),
    )
    assert other.is_promoted == ((other.val_accuracy, -other.val_loss) >= (best.val_accuracy, -best.val_loss))


@pytest.mark.parametrize("damage", ["a bit", "cut", "gone"])
def test_a_damaged_network_is_told_of(tuner, damage):
    name = tuner.job(**TUNED).name
    path = tuner.store.head(name) / "model.keras"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink() if damage == "gone" else path.write_bytes(data if damage == "a bit" else data[:-100])
    faults = {head.name: head.fault for head in list_heads(tuner.root, is_deep=True)}
    assert [fault is None for fault in faults.values()].count(False) == 1
    assert "model.keras" in faults[name]
    is_seen_at_once = damage != "a bit"
    assert (find_head(tuner.store, name) is None) == is_seen_at_once
    shallow = {head.name: head.fault for head in list_heads(tuner.root)}
    assert (shallow[name] is not None) == is_seen_at_once


@pytest.mark.slow
def test_a_network_whose_file_is_cut_is_fine_tuned_again_to_the_same_end(tuner):
    before = result_of(tuner, **TUNED)
    path = tuner.store.head(before.name) / "model.keras"
    path.write_bytes(path.read_bytes()[:-100])
    again = tuner.train(tuner.job(**TUNED))
    assert again.is_new
    assert list(again.history) == list(before.history)
    assert all(head.fault is None for head in list_heads(tuner.root, is_deep=True))


@pytest.mark.parametrize("damage", ["gone", "no record", "no model", "a bit", "no head"])
def test_without_its_head_a_fine_tuning_ends_with_a_sentence(tuner, damage):
    shutil.rmtree(tuner.store.head(tuner.job(**TUNED).name))
    head = tuner.store.head(tuner.job().name)
    model = head / "head.keras"
    if damage == "gone":
        shutil.rmtree(head)
    elif damage == "no record":
        (head / "head.json").unlink()
    elif damage == "no model":
        model.unlink()
    elif damage == "a bit":
        data = bytearray(model.read_bytes())
        data[len(data) // 2] ^= 1
        model.write_bytes(data)
    else:
        record = read_head(tuner.store, head.name)
        toy.head(tuner.store, head.name, record, b"no head")
    with pytest.raises(StorageError, match=head.name) as caught:
        tuner.train(tuner.job(**TUNED))
    assert "\n" not in str(caught.value)
    assert any(way in str(caught.value) for way in ("`force_retrain`", "repair", "run again"))


# gc


def test_gc_keeps_a_network_that_was_fine_tuned_as_long_as_its_version(tuner):
    names = {tuner.job(**options).name for options in ({}, VARIED, PICTURES, TUNED)}
    assert collect(tuner.root, keep=1, grace_seconds=0).heads == 0
    assert {head.name for head in list_heads(tuner.root)} == names
    tuned = tuner.job(**TUNED).name
    toy.picture(tuner.images / "cats" / "new.png", seed=77)
    tuner.run(3)
    assert tuner.version.number == 2
    assert collect(tuner.root, keep=1, grace_seconds=3600).heads == 0
    collect(tuner.root, keep=1, grace_seconds=0)
    left = {head.name for head in list_heads(tuner.root)}
    assert left == {current_head(tuner.store)}
    assert not tuner.store.head(tuned).exists()
    assert version_numbers(tuner.store) == [2]
