import base64
import dataclasses
import io
import json
import marshal
import re
import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from storage.cli.main import main as storage
from storage.errors import InputError, StoreDamaged
from storage.heads.current import current_head
from storage.heads.registry import is_unranked
from storage.layout import Store
from storage.manifest.versions import Version
from tasks.caching import is_true
from tests import toy
from tests.vision.report.test_report import Page
from vision.training.head import HeadSpec
from workers.jobs.head_identity import base_name, check_trainable, find_head, head_name
from workers.jobs.records import HeadJob, HeadResult
from workers.jobs.spaces import head_job, version_record
from workers.runners.base import Runner

# Keras 3.15 warns on NumPy 2 whenever it saves (keras/src/backend/tensorflow/core.py, convert_to_numpy).
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SPEC = HeadSpec(("cats", "dogs"), epochs=2, batch_size=8)
NOTHING = 1e-30  # a step so short that it moves no float32 weight, and a bias of 0 only to a negligible value
FINGERPRINT, DATA = "f" * 32, "d" * 64
TURN, FLIP = '{"rotation_range":20.0}', '{"horizontal_flip":true}'

# Names


@pytest.mark.parametrize(
    "changed",
    [
        {"classes": ("dogs", "cats")},
        {"epochs": 3},
        {"batch_size": 16},
        {"optimizer": "adam"},
        {"learning_rate": 0.1},
        {"standardize": False},
        {"shuffle_memory_mb": 8},
        {"kind": "linear"},
        {"class_weight": "balanced"},
        {"sampling": "bootstrap"},
        {"steps_per_epoch": 3},
        {"validation_steps": 3},
        {"initial_epoch": 1},
        {"initial_epoch": 1, "initial_head": "a" * 32},
        {"patience": 3},
        {"augment": TURN, "variants": 4},
        {"augment": TURN, "train_on": "images"},
        {"train_on": "images"},
        {"fine_tune": "block5"},
    ],
    ids=str,
)
def test_every_part_of_the_spec_is_in_the_name_of_a_head(changed):
    other = dataclasses.replace(SPEC, **changed)
    assert head_name(FINGERPRINT, DATA, other, 0) != head_name(FINGERPRINT, DATA, SPEC, 0)


@pytest.mark.parametrize("other", [("0" * 32, DATA, 0), (FINGERPRINT, "0" * 64, 0), (FINGERPRINT, DATA, 1)])
def test_space_data_and_seed_are_in_the_name_of_a_head(other):
    fingerprint, data, seed = other
    assert head_name(fingerprint, data, SPEC, seed) != head_name(FINGERPRINT, DATA, SPEC, 0)


OLDER = HeadSpec(
    ("cats", "dogs"),
    kind="linear",
    epochs=30,
    initial_epoch=20,
    steps_per_epoch=7,
    validation_steps=3,
    learning_rate=1e-3,
    patience=4,
    class_weight="balanced",
    sampling="bootstrap",
    standardize=False,
)


@pytest.mark.parametrize(
    ("spec", "seed", "name"),
    [
        (SPEC, 0, "a3f2bb2a2c8711a934260745ce4d2f46"),
        (HeadSpec(("ants", "cats", "dogs")), 5, "2776fbba7d529a9288233e399c190247"),
        (OLDER, 0, "a4093f707826fddabd145f2c6e436536"),
    ],
    ids=["few epochs", "defaults", "nothing usual"],
)
def test_the_name_of_a_head_is_the_same_for_ever(spec, seed, name):
    """Heads that were trained before augmentation existed keep their names too."""
    assert head_name(FINGERPRINT, DATA, spec, seed) == name


def test_how_images_are_augmented_and_what_is_fine_tuned_make_other_heads():
    """All of these train on the same images, and their names are all different."""
    named = [
        {},
        {"augment": TURN, "variants": 2},
        {"augment": TURN, "variants": 3},
        {"augment": FLIP, "variants": 3},
        {"augment": TURN, "train_on": "images"},
        {"augment": FLIP, "train_on": "images"},
        {"fine_tune": "block5"},
        {"fine_tune": "block4"},
        {"fine_tune": "block5", "augment": TURN},
        {"fine_tune": "block5", "augment": TURN, "variants": 3},
        {"fine_tune": "block5", "fine_tune_epochs": 6},
        {"fine_tune": "block5", "fine_tune_learning_rate": 1e-4},
    ]
    names = {head_name(FINGERPRINT, DATA, dataclasses.replace(SPEC, **options), 0) for options in named}
    assert len(names) == len(named)


@pytest.mark.parametrize(
    ("options", "base"),
    [
        ({}, {}),
        ({"augment": TURN}, {}),
        ({"augment": TURN, "variants": 3}, {"augment": TURN, "variants": 3}),
        ({"augment": TURN, "train_on": "images"}, {"augment": TURN, "train_on": "images"}),
        ({"fine_tune_epochs": 9, "fine_tune_learning_rate": 1e-3}, {}),
        ({"initial_epoch": 1}, {"initial_epoch": 1}),
    ],
    ids=str,
)
def test_fine_tuning_begins_at_the_head_that_is_trained_without_it(options, base):
    tuned, head = (dataclasses.replace(SPEC, **given) for given in (options | {"fine_tune": "block5"}, base))
    assert base_name(FINGERPRINT, DATA, tuned, 3) == head_name(FINGERPRINT, DATA, head, 3)


def test_the_name_of_a_head_does_not_depend_on_how_the_rows_were_cut_into_shards(images, tmp_path):
    _, coarse = toy.run(images, tmp_path / "coarse", chunk_size=100)
    _, fine = toy.run(images, tmp_path / "fine", chunk_size=3)
    assert len(coarse.shards) < len(fine.shards)
    assert coarse.data_digest == fine.data_digest


# Classes and splits


@pytest.mark.parametrize(("names", "there"), [((), "found none"), (("cats",), "found only 'cats'")])
def test_one_class_cannot_be_trained_on_and_is_named(names, there):
    with pytest.raises(InputError, match=rf"at least two classes, {there};.*`extract_only`"):
        check_trainable({"train": {"cats": 3}, "validation": {"cats": 1}}, names)


def test_a_split_that_only_classes_which_are_left_out_have_is_empty():
    with pytest.raises(InputError, match="in the validation split, which has none"):
        check_trainable({"train": {"a": 3, "b": 3, "c": 1}, "validation": {"c": 1}}, ("a", "b"))


@pytest.mark.parametrize("missing", ["train", "validation"])
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_a_split_without_images_is_refused_by_name(missing, how):
    classes = {"train": {"cats": 3, "dogs": 3}, "validation": {"cats": 1}, "test": {"cats": 1}}
    classes[missing] = {}
    if how == "absent":
        del classes[missing]
    with pytest.raises(InputError, match=rf"in the {missing} split, which has none;.*`validation_fraction`"):
        check_trainable(classes, ("cats", "dogs"))


def test_two_classes_in_two_splits_are_enough():
    check_trainable({"train": {"cats": 1, "dogs": 1}, "validation": {"dogs": 1}}, ("cats", "dogs"))


# Finished heads, and folders that are none


def test_a_folder_without_head_json_is_no_head(images, store):
    where = toy.space(images, store).store
    where.head("a" * 32).mkdir(parents=True)
    (where.head("a" * 32) / "head.keras").write_bytes(b"half a head")
    assert find_head(where, "a" * 32) is None
    assert find_head(where, "b" * 32) is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "{}", '{"metrics": {}}', '{"metrics": {"epochs": 1}, "history": []}']
)
def test_a_head_json_that_says_too_little_is_no_head(content, images, store):
    where = toy.space(images, store).store
    where.head("a" * 32).mkdir(parents=True)
    (where.head("a" * 32) / "head.json").write_text(content)
    assert find_head(where, "a" * 32) is None
    if content.startswith('{"'):  # sealed by our own writer, it is still no head
        toy.head(where, "b" * 32, json.loads(content), b"a model")
        assert find_head(where, "b" * 32) is None


# Training


@dataclass
class Trainer:
    """A store with a version, and the runner that trains on it."""

    images: Path
    root: Path
    version: Version
    workers: Runner
    result: HeadResult | None = None
    heard: list[dict] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return toy.space(self.images, self.root).store

    def job(self, seed: int = 0, **options) -> HeadJob:
        space, spec = toy.space(self.images, self.root), dataclasses.replace(SPEC, **options)
        return HeadJob(space, 1, head_name(space.fingerprint, self.version.data_digest, spec, seed), spec, seed)

    def train(self, job: HeadJob, on_epoch=lambda record: None) -> HeadResult:
        with self.workers.lease() as worker:
            return HeadResult(**worker.call("head", job.record(), on_epoch))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, workers: Runner) -> Trainer:
    """A store with the head of the default job, and the progress records of its training."""
    folder = tmp_path_factory.mktemp("trained")
    _, version = toy.run(toy.pictures(folder / "images"), folder / "store", validation_fraction=0.4)
    made = Trainer(folder / "images", folder / "store", version, workers)
    made.result = made.train(made.job(), made.heard.append)
    return made


@pytest.fixture
def trainer(first: Trainer, store: Path) -> Trainer:
    """A copy of `first`, which a test may change."""
    shutil.copytree(first.root, store)
    return dataclasses.replace(first, root=store)


@pytest.fixture(scope="module")
def rivals(first: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A copy of `first` with the heads of three more seeds, which were never compared."""
    root = tmp_path_factory.mktemp("rivals") / "store"
    shutil.copytree(first.root, root)
    made = dataclasses.replace(first, root=root)
    for seed in (1, 2, 3):
        made.train(dataclasses.replace(made.job(seed=seed, epochs=1), promote="never"))
    return made


@pytest.fixture
def rival(rivals: Trainer, store: Path) -> Trainer:
    """A copy of `rivals`, which a test may change."""
    shutil.copytree(rivals.root, store)
    return dataclasses.replace(rivals, root=store)


def test_a_head_is_trained_kept_and_promoted(first):
    result, name = first.result, first.job().name
    assert (result.name, result.is_new, result.is_promoted, result.epochs) == (name, True, True, 2)
    assert 0 <= result.val_accuracy <= 1
    assert result.val_loss == pytest.approx(min(logs["val_loss"] for logs in result.history), rel=1e-5)
    ends = [record for record in first.heard if "loss" in record]
    assert [(record["epoch"], record["epochs"]) for record in ends] == [(1, 2), (2, 2)]
    assert current_head(first.store) == name
    assert sorted(path.name for path in first.store.head(name).iterdir()) == [
        "head.json",
        "head.keras",
        "logs",
        "report.html",
        "samples-train.npy",
        "samples-validation.npy",
    ]


def test_head_json_says_what_the_head_was_made_of(first):
    job = first.job()
    record = json.loads((first.store.head(job.name) / "head.json").read_text())
    assert record["fingerprint"] == job.space.fingerprint
    assert record["features"] == job.space.spec.record() | {"shape": [1, 1, 512]}
    assert (record["version"], record["data_digest"]) == (1, first.version.data_digest)
    assert (record["classes"], record["seed"]) == (["cats", "dogs"], 0)
    counts = {split: sum(by_class.values()) for split, by_class in first.version.classes.items()}
    assert record["samples"] == counts
    assert set(record["environment"]) == {"python", "tensorflow", "keras", "numpy"}


def test_head_json_says_how_each_class_does(first):
    record = json.loads((first.store.head(first.job().name) / "head.json").read_text())
    confusion = np.array(record["confusion"])
    assert confusion.sum(axis=1).tolist() == [first.version.classes["validation"][name] for name in ("cats", "dogs")]
    assert np.trace(confusion) / confusion.sum() == pytest.approx(record["metrics"]["val_accuracy"])
    assert list(record["per_class"]) == ["cats", "dogs"]
    for index, name in enumerate(record["per_class"]):
        scores, taken = record["per_class"][name], confusion[:, index].sum()
        assert scores["images"] == confusion[index].sum()
        assert scores["recall"] == pytest.approx(confusion[index, index] / confusion[index].sum())
        assert scores["precision"] == (pytest.approx(confusion[index, index] / taken) if taken else None)


# Untrusted heads


def with_layer(model: bytes, kind: dict) -> bytes:
    """The file of a head, with its Dropout layer replaced by a layer of another kind."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(model)) as old, zipfile.ZipFile(sink, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                next(layer for layer in config["config"]["layers"] if layer["class_name"] == "Dropout").update(kind)
                data = json.dumps(config).encode()
            new.writestr(name, data)
    return sink.getvalue()


def lambda_layer(marker: Path) -> dict:
    """The configuration that Keras saves for a Lambda layer. Its Python lambda creates `marker` when it runs."""
    code = marshal.dumps(eval(f"lambda x: open({str(marker)!r}, 'w') and x").__code__)
    kept = {"code": base64.b64encode(code).decode(), "defaults": None, "closure": None}
    function = {"class_name": "__lambda__", "config": kept}
    return {"module": "keras.layers", "class_name": "Lambda", "config": {"function": function, "arguments": {}}}


def layer_of_a_class(marker: Path) -> dict:
    """The configuration of a layer that names an arbitrary class, with arguments that create `marker`."""
    return {"module": "subprocess", "class_name": "Popen", "config": {"args": ["touch", str(marker)]}}


@pytest.mark.parametrize("layer", [lambda_layer, layer_of_a_class])
def test_a_head_with_code_of_its_own_is_refused_and_runs_nothing(layer, rival, tmp_path):
    job, marker = rival.job(), tmp_path / "marker"
    record = json.loads((rival.store.head(job.name) / "head.json").read_text())
    model = (rival.store.head(job.name) / "head.keras").read_bytes()
    record.pop("checksum")
    toy.head(rival.store, job.name, record, with_layer(model, layer(marker)))
    with pytest.raises(StoreDamaged, match=r"head\.keras cannot be loaded: Keras safe mode .* `force_retrain`"):
        rival.train(rival.job(epochs=3, initial_epoch=2))
    assert rival.train(rival.job(seed=1, epochs=1)).is_promoted  # it replaces the unusable current head
    assert not marker.exists()


# Test images


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


def test_a_training_whose_report_cannot_be_written_is_not_lost(trainer):
    shutil.rmtree(trainer.store.head(trainer.job().name))
    (trainer.store.head(trainer.job().name) / "report.html").mkdir(parents=True)
    result = trainer.train(trainer.job())
    assert (result.is_new, result.report) == (True, None)
    assert find_head(trainer.store, result.name) is not None


# Repeated trainings, and heads that are found


def test_a_forced_training_is_done_again_and_comes_to_the_same_head(trainer):
    before = (trainer.store.head(trainer.job().name) / "head.json").stat().st_mtime_ns
    again = trainer.train(dataclasses.replace(trainer.job(), is_forced=True))
    assert again.is_new
    assert list(again.history) == list(trainer.result.history)
    assert (trainer.store.head(trainer.job().name) / "head.json").stat().st_mtime_ns > before
    logs = trainer.store.head(trainer.job().name) / "logs"
    assert len(list(logs.glob("train/events*"))) == 1


@pytest.mark.slow
def test_a_worse_head_is_promoted_where_the_job_says_so(trainer):
    jobs = (trainer.job(epochs=1, seed=seed, learning_rate=NOTHING) for seed in range(9))
    worse = next(job for job in jobs if not trainer.train(job).is_promoted)
    assert current_head(trainer.store) != worse.name
    assert trainer.train(dataclasses.replace(worse, promote="always")).is_promoted
    assert current_head(trainer.store) == worse.name


def test_a_head_that_is_never_promoted_is_unranked_until_it_is_compared(trainer):
    current = current_head(trainer.store)
    job = dataclasses.replace(trainer.job(seed=1, epochs=1), promote="never")
    aside = trainer.train(job)
    assert (aside.is_new, aside.is_promoted, current_head(trainer.store)) == (True, False, current)
    assert is_unranked(trainer.store, job.name)
    assert not is_true(trainer.store, aside)  # a cached record must not prevent the comparison
    compared = trainer.train(dataclasses.replace(job, promote="if_better"))
    assert not compared.is_new
    assert compared.is_promoted == (rank(compared) >= rank(trainer.result))
    assert not is_unranked(trainer.store, job.name)


def test_the_current_head_stays_what_it_is_where_it_is_asked_for_again_and_never_promoted(trainer):
    again = trainer.train(dataclasses.replace(trainer.job(), promote="never"))
    assert (again.is_new, again.is_promoted, is_unranked(trainer.store, again.name)) == (False, True, False)


def losses(result: HeadResult) -> tuple[float, ...]:
    return tuple(logs["loss"] for logs in result.history)


def test_seed_steps_an_epoch_and_sampling_change_what_is_trained_on(trainer):
    other = trainer.train(trainer.job(seed=1))
    few = trainer.train(trainer.job(steps_per_epoch=1))
    drawn = trainer.train(trainer.job(sampling="bootstrap"))
    assert len({losses(result) for result in (trainer.result, other, few, drawn)}) == 4
    assert len(few.history) == 2


def test_the_memory_for_the_shuffle_changes_the_order_where_the_rows_need_more(first, store):
    """One megabyte holds four row groups, because half of it is for reading ahead. The training rows fill more."""
    _, version = toy.run(first.images, store, validation_fraction=0.4, chunk_size=2)
    cut = dataclasses.replace(first, root=store, version=version)
    enough, also, little = (cut.train(cut.job(epochs=1, shuffle_memory_mb=memory)) for memory in (256, 128, 1))
    assert losses(enough) == losses(also) != losses(little)


def test_patience_ends_a_training_after_as_many_epochs_on_a_plateau(trainer):
    flat = trainer.train(trainer.job(epochs=9, patience=2, learning_rate=NOTHING))
    assert len({logs["val_loss"] for logs in flat.history}) == 1
    assert len(flat.history) == 3


def test_a_head_that_is_there_is_found_and_not_trained_again(trainer):
    heard = []
    again = trainer.train(trainer.job(), heard.append)
    assert (again.is_new, again.is_promoted, heard) == (False, True, [])
    assert (again.val_accuracy, again.val_loss) == (trainer.result.val_accuracy, trainer.result.val_loss)


def test_a_training_that_died_before_its_end_is_done_again_to_the_same_end(trainer):
    (trainer.store.head(trainer.job().name) / "head.json").unlink()
    again = trainer.train(trainer.job())
    assert again.is_new
    assert list(again.history) == list(trainer.result.history)
    assert (again.val_loss, again.val_accuracy) == (trainer.result.val_loss, trainer.result.val_accuracy)


def rank(result: HeadResult) -> tuple[float, float]:
    return result.val_accuracy, -result.val_loss


def test_a_head_is_promoted_exactly_if_it_is_not_worse_on_the_same_validation_rows(rival):
    best = rival.result
    for seed in range(1, 4):
        result = rival.train(rival.job(seed=seed, epochs=1))
        assert result.is_promoted == (rank(result) >= rank(best))
        assert result.promotion.startswith("the head takes" if result.is_promoted else f"head {best.name} stays")
        best = result if result.is_promoted else best
        assert current_head(rival.store) == best.name


def test_a_head_of_classes_in_another_order_takes_its_labels_in_that_order(trainer):
    other = trainer.train(trainer.job(classes=("dogs", "cats")))
    assert other.is_promoted == (rank(other) >= rank(trainer.result))
    table = np.load(trainer.store.head(other.name) / "samples-train.npy")
    assert np.bincount(table["class"]).tolist() == [trainer.version.classes["train"][name] for name in ("dogs", "cats")]


@pytest.mark.parametrize(
    "damage", ["gone", "head.json gone", "head.keras gone", "head.keras cut", "head.json says little"]
)
def test_a_current_head_that_is_damaged_gives_way(damage, rival):
    damaged = rival.store.head(rival.job().name)
    if damage == "gone":
        shutil.rmtree(damaged)
    elif damage.endswith("gone"):
        (damaged / damage.split()[0]).unlink()
    elif damage.endswith("cut"):
        (damaged / "head.keras").write_bytes((damaged / "head.keras").read_bytes()[:1000])
    else:
        (damaged / "head.json").write_text("{}")
    other = rival.train(rival.job(seed=1, epochs=1))
    assert other.is_promoted
    assert current_head(rival.store) == other.name


# Trainings that diverge


@pytest.fixture(scope="module")
def diverged(first: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A copy of `first` with a head whose training diverged, and the progress records of that training."""
    root = tmp_path_factory.mktemp("diverged") / "store"
    shutil.copytree(first.root, root)
    made = dataclasses.replace(first, root=root, heard=[])
    made.result = made.train(made.job(learning_rate=1e30), made.heard.append)
    return made


def test_a_training_that_diverges_is_a_head_that_is_never_current_and_has_no_bare_nan(first, diverged, capsys):
    before, result, job = current_head(first.store), diverged.result, diverged.job(learning_rate=1e30)
    assert (result.is_new, result.is_promoted, result.val_loss) == (True, False, None)
    assert current_head(diverged.store) == before
    text = (diverged.store.head(job.name) / "head.json").read_text()
    record = json.loads(text, parse_constant=lambda constant: pytest.fail(f"a bare {constant}"))
    assert record["diverged"]["epoch"] == 1
    assert [each for each in diverged.heard if "loss" in each][-1]["val_loss"] is None
    assert json.loads(json.dumps(dataclasses.asdict(result), allow_nan=False))["history"] == record["history"]
    found = find_head(diverged.store, job.name)
    assert (found.diverged, found.is_promoted) == (result.diverged, False)
    again = diverged.train(job)
    assert (again.is_new, again.is_promoted, again.diverged) == (False, False, result.diverged)
    assert not diverged.train(dataclasses.replace(job, promote="always")).is_promoted
    assert current_head(diverged.store) == before
    assert storage(["promote", job.name, "--store", str(diverged.root)]) == 2
    assert "is not finite" in capsys.readouterr().err
    assert "diverged" in Page.of((diverged.store.head(job.name) / "report.html").read_text()).text


def test_the_rate_that_is_advised_after_a_divergence_trains(diverged):
    text = diverged.result.diverged
    assert "diverged at a learning rate of 1e+30" in text
    (rate,) = re.findall(r"try `learning_rate=([0-9.e+-]+)`\.", text)
    assert diverged.train(diverged.job(learning_rate=float(rate), epochs=1)).diverged is None


def test_an_unknown_kind_of_job_is_an_error_and_no_training(trainer):
    job = trainer.job(seed=9)
    with trainer.workers.lease() as worker, pytest.raises(ValueError, match="unknown kind of job 'heads'"):
        worker.call("heads", job.record(), lambda record: None)
    assert find_head(trainer.store, job.name) is None


# Continuing from another head


@pytest.fixture(scope="module")
def chained(first: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A copy of `first` with two more heads: one of epoch 1, and one that continued from it with epochs 2 and 3."""
    root = tmp_path_factory.mktemp("chained") / "store"
    shutil.copytree(first.root, root)
    made = dataclasses.replace(first, root=root)
    made.train(asked(made, 1, 0))
    made.result = made.train(asked(made, 3, 1))
    return made


def asked(trainer: Trainer, epochs: int, initial_epoch: int, seed: int = 0, **options) -> HeadJob:
    """The job that the command line makes from these options."""
    space = toy.space(trainer.images, trainer.root)
    spec = dataclasses.replace(SPEC, epochs=epochs, initial_epoch=initial_epoch, **options)
    return head_job(space, version_record(trainer.version), spec, seed)


def test_a_head_of_other_options_is_nothing_to_go_on_from(chained):
    for changed in ({"batch_size": 4}, {"kind": "linear"}, {"seed": 1}):
        with pytest.raises(InputError, match="train it first, with --epochs 3"):
            asked(chained, 4, 3, **changed)


def test_trainings_can_be_chained(chained):
    """Each training continues from the head of the one before, and its head has its own name."""
    third = asked(chained, 4, 3)
    assert third.spec.initial_head == chained.result.name
    result = chained.train(third)
    assert (result.is_new, result.epochs) == (True, 1)
    logs = chained.store.head(result.name) / "logs" / "steps.csv"
    assert {line.split(",")[0] for line in logs.read_text().splitlines()[1:]} == {"3"}
    assert find_head(chained.store, asked(chained, 4, 3).name) is not None  # nothing to do
    page = Page.of((chained.store.head(result.name) / "report.html").read_text())
    assert "of epochs 4 to 4" in page.text

    # A head that was trained from the beginning takes precedence, under the name that it had before chains existed.
    chained.train(asked(chained, 3, 0))
    plain = asked(chained, 4, 3)
    assert (plain.spec.initial_head, "initial_head" in plain.spec.record()) == ("", False)
    assert plain.name == chained.job(epochs=4, initial_epoch=3).name != third.name
