"""Which head becomes the current one. The store is real and the heads are fakes, so that nothing needs TensorFlow."""

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from storage.cli.main import main as storage
from storage.heads.current import current_head, promote_head
from storage.heads.registry import RECORD, is_unranked, mark_unranked, read_head
from storage.layout import Store
from storage.manifest.versions import Version
from storage.records import fingerprint, sealed
from tests import toy
from vision.errors import HeadError
from vision.training.evaluation import Evaluation
from vision.training.head import HeadSpec
from workers.jobs.head_identity import find_head, head_name
from workers.jobs.promote import Score, promoted
from workers.jobs.records import HeadJob, HeadResult, Promotion, Space
from workers.jobs.training_data import Samples

CLASSES = ("cats", "dogs")


@dataclass(frozen=True)
class Pretended:
    """A fake head. It is right about images whose features are `known`, and predicts its first class for all others.

    judged: class names of the images of each evaluation, one list per evaluation.
    """

    classes: tuple[str, ...]
    known: frozenset[bytes] = frozenset()
    loss: float = 0.5
    judged: list[list[str]] = field(default_factory=list)

    def evaluate(self, rows, num_classes: int) -> Evaluation:
        confusion, asked = np.zeros((num_classes, num_classes), np.int64), []
        for features, labels in rows.batches():
            for image, label in zip(features, labels, strict=True):
                confusion[label, label if image.tobytes() in self.known else 0] += 1
                asked.append(self.classes[label])
        self.judged.append(asked)
        return Evaluation(self.loss, float(np.trace(confusion) / confusion.sum()), confusion)


@dataclass
class World:
    """A folder of images, its store, and the heads in the store."""

    images: Path
    root: Path
    heads: dict[str, Pretended] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        return toy.space(self.images, self.root).store

    def run(self, **options) -> Version:
        return toy.run(self.images, self.root, **options)[1]

    def features(self, version: Version, split: str) -> frozenset[bytes]:
        rows = toy.features_of(self.images, self.root, version)
        files = version.read_files(self.store).to_pylist()
        return frozenset(rows[file["digest"]].tobytes() for file in files if file["split"] == split)

    def head(self, name: str, of: Version, head: Pretended, space: Space | None = None, **changed) -> str:
        """Write a head as if it was trained on version `of`, and return its name."""
        space, name = space or toy.space(self.images, self.root), name * 32
        spec = HeadSpec(head.classes)
        record = {
            "fingerprint": space.fingerprint,
            "features": space.spec.record() | {"shape": list(space.spec.shape)},
            "version": of.number,
            "data_digest": of.data_digest,
            "classes": list(head.classes),
            "head": spec.record(),
            "seed": 0,
            "metrics": {
                "epochs": 1,
                "val_accuracy": 0.5,
                "val_loss": head.loss,
                "train_seconds": 0.0,
                "train_samples_per_second": 1.0,
            },
            "history": [],
            "created": datetime.now(UTC).isoformat(),
        } | changed
        toy.head(space.store, name, record, name.encode())
        self.heads[name] = head
        return name

    def trained(self, version: Version, head: Pretended, promote: Promotion = "if_better", **figures) -> HeadResult:
        """The result of a training on a version that produces `head`, after the decision on promotion."""
        space, spec = toy.space(self.images, self.root), HeadSpec(head.classes)
        name = head_name(space.fingerprint, version.data_digest, spec, 0)
        toy.head(space.store, name, {"data_digest": version.data_digest}, name.encode())
        self.heads[name] = head
        job = HeadJob(space, version.number, name, spec, 0, promote=promote)
        data = Samples.pinned(job, version)
        found = head.evaluate(data.to_evaluate("validation", data.validation), len(head.classes))
        head.judged.clear()
        result = HeadResult(name, True, False, 1, found.accuracy, found.loss, 1.0, 1.0)
        return promoted(job, replace(result, **figures), data)


@pytest.fixture
def world(images: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(images, store)

    def load_head(path: str) -> Pretended:
        name = Path(path).read_text()
        if name not in made.heads:
            raise HeadError(f"{path} is no head")
        return made.heads[name]

    monkeypatch.setattr("workers.jobs.promote.load_head", load_head)
    monkeypatch.setattr("workers.jobs.promote.evaluate", lambda head, rows, shape, dtype, n: head.evaluate(rows, n))
    return made


@pytest.fixture
def images(images: Path) -> Path:
    return toy.pictures(images, per_class=30)


def typed(text: str) -> list[str]:
    """The arguments of the command that a message gives in backticks."""
    return shlex.split(next(part for part in text.split("`") if part.startswith("python ")))


# Images of the comparison


def test_the_first_head_is_promoted_without_a_word(world):
    result = world.trained(world.run(validation_fraction=0.4), Pretended(CLASSES))
    assert (result.is_promoted, result.promotion, current_head(world.store)) == (True, None, result.name)


def test_of_the_same_images_every_validation_image_counts(world):
    version = world.run(validation_fraction=0.4)
    best = Pretended(CLASSES, world.features(version, "validation"))
    promote_head(world.store, world.head("a", version, best))
    result = world.trained(version, Pretended(CLASSES))
    assert (result.is_promoted, current_head(world.store)) == (False, "a" * 32)
    number = sum(version.classes["validation"].values())
    assert f"1.0000 (loss 0.5) on {number} validation images that neither was trained on" in result.promotion
    assert "`python -m storage promote " in result.promotion
    assert [len(asked) for asked in best.judged] == [number]


def test_a_head_is_not_judged_on_images_that_it_was_trained_on(world):
    """It knows them by heart, so it would stay the current head for ever."""
    before = world.run(validation_fraction=0.1)
    by_heart = Pretended(CLASSES, world.features(before, "train"))
    promote_head(world.store, world.head("a", before, by_heart))
    version = world.run(validation_fraction=0.6)
    held_out = sum(before.classes["validation"].values())
    assert 0 < held_out < sum(version.classes["validation"].values())
    honest = Pretended(CLASSES, world.features(before, "validation"), loss=0.7)
    result = world.trained(version, honest)
    assert (result.is_promoted, current_head(world.store)) == (True, result.name)
    assert f"on {held_out} validation images that neither was trained on" in result.promotion
    assert [len(asked) for asked in by_heart.judged] == [len(asked) for asked in honest.judged] == [held_out]


def test_images_of_both_splits_are_no_test_of_either_head(world):
    """Copies of an image may be in the folders of two splits."""
    for split in ("train", "validation"):
        toy.pictures(world.images / split, per_class=4)
    for number in range(5):
        toy.picture(world.images / "validation" / "cats" / f"own{number}.png", 500 + number)
    for name in CLASSES:
        shutil.rmtree(world.images / name)
    version = world.run()
    promote_head(world.store, world.head("a", version, Pretended(CLASSES)))
    assert "on 5 validation images that neither" in world.trained(version, Pretended(CLASSES)).promotion


def test_where_every_image_is_known_the_current_head_stays_and_it_is_said(world):
    before = world.run(validation_fraction=0.1)
    trained = world.features(before, "train")
    promote_head(world.store, world.head("a", before, Pretended(CLASSES)))
    for file in before.read_files(world.store).to_pylist():
        if file["split"] == "validation":
            (world.images / file["path"].decode()).unlink()
    version = world.run(validation_fraction=0.6, allow_removals=True)
    result = world.trained(version, Pretended(CLASSES, trained, loss=0.1))
    assert (result.is_promoted, current_head(world.store)) == (False, "a" * 32)
    assert f"it was trained on all {sum(version.classes['validation'].values())} validation images" in result.promotion
    assert "without a comparison" in result.promotion
    again = world.trained(version, Pretended(CLASSES, trained, loss=0.1), promote="always")  # as the line advises
    assert (again.is_promoted, current_head(world.store)) == (True, again.name)


@pytest.mark.parametrize("what", ["version", "everything"])
def test_of_a_version_that_is_gone_images_count_that_were_held_out_by_then(world, what):
    before = world.run(validation_fraction=0.1)
    by_heart = Pretended(CLASSES, world.features(before, "train"))
    changed = {} if what == "version" else {"created": "2001-01-01T00:00:00+00:00"}  # before any image existed
    promote_head(world.store, world.head("a", before, by_heart, **changed))
    version = world.run(validation_fraction=0.6)
    world.store.version(before.number).unlink()
    result = world.trained(version, Pretended(CLASSES, world.features(before, "validation")))
    if what == "version":
        assert result.is_promoted
        assert f"on {sum(before.classes['validation'].values())} validation images that neither" in result.promotion
        assert "version 1 is gone" in result.promotion
    else:
        assert not result.is_promoted
        assert "its version 1 is gone from the store" in result.promotion


def test_a_version_of_the_same_images_stands_for_one_that_is_gone(world):
    before = world.run(validation_fraction=0.1)
    promote_head(world.store, world.head("a", before, Pretended(CLASSES), version=77))
    version = world.run(validation_fraction=0.6)
    result = world.trained(version, Pretended(CLASSES))
    assert "is gone" not in result.promotion
    assert f"on {sum(before.classes['validation'].values())} validation images that neither" in result.promotion


# Other feature spaces


@pytest.fixture
def other_space(world, monkeypatch) -> Callable[[float], tuple[Version, Space]]:
    """Run on the same images in a feature space with other weights."""

    def run(validation_fraction: float) -> tuple[Version, Space]:
        spec = replace(toy.SPEC, weights="1" * 32)
        with monkeypatch.context() as patch:
            patch.setattr(toy, "SPEC", spec)
            patch.setattr(toy.ToyEngine, "spec", spec)
            version = world.run(validation_fraction=validation_fraction)
        return version, Space(str(world.root), str(world.images), fingerprint(spec.record()), spec, "random")

    return run


@pytest.mark.parametrize("is_good", [True, False])
def test_a_head_of_another_space_is_judged_on_its_own_features_of_the_same_images(world, other_space, is_good):
    theirs, space = other_space(0.4)
    version = world.run(validation_fraction=0.4)
    known = world.features(version, "validation")  # the toy's features are the same in both
    rival = Pretended(CLASSES, known if is_good else frozenset())
    promote_head(world.store, world.head("a", theirs, rival, space))
    own = Pretended(CLASSES, frozenset() if is_good else known)
    result = world.trained(version, own)
    assert result.is_promoted is not is_good
    assert f"of the feature space {space.fingerprint}" in result.promotion
    assert [len(asked) for asked in rival.judged] == [len(known)]


def test_of_two_spaces_those_images_count_that_have_features_in_both(world, other_space):
    theirs, space = other_space(0.4)
    promote_head(world.store, world.head("a", theirs, Pretended(CLASSES), space))
    for name in CLASSES:
        for number in range(10):
            toy.picture(world.images / name / f"new{number}.png", 7000 + 100 * len(name) + number + ord(name[0]))
    version = world.run(validation_fraction=0.4)
    both = sum(theirs.classes["validation"].values())
    assert both < sum(version.classes["validation"].values())
    assert f"on {both} validation images" in world.trained(version, Pretended(CLASSES)).promotion


def test_a_head_whose_space_is_gone_stays_and_it_is_said(world, other_space):
    theirs, space = other_space(0.4)
    promote_head(world.store, world.head("a", theirs, Pretended(CLASSES), space))
    shutil.rmtree(space.store.space)
    result = world.trained(world.run(validation_fraction=0.4), Pretended(CLASSES, loss=0.1))
    assert not result.is_promoted
    assert (
        f"its feature space {space.fingerprint} has no features of these images; `python -m storage promote "
        in result.promotion
    )


# Classes


def test_a_head_of_other_classes_gives_way_and_the_line_says_how_to_put_it_back(world, capsys):
    version = world.run(validation_fraction=0.4)
    promote_head(world.store, world.head("a", version, Pretended(("cats", "cows"))))
    result = world.trained(version, Pretended(CLASSES))
    assert (result.is_promoted, current_head(world.store)) == (True, result.name)
    assert "knows the classes 'cats', 'cows' and the new head 'cats', 'dogs'" in result.promotion
    assert typed(result.promotion)[:3] == ["python", "-m", "storage"]
    assert storage(typed(result.promotion)[3:]) == 0
    assert current_head(world.store) == "a" * 32
    assert capsys.readouterr().out == f"{'a' * 32} is the current head; before, it was {result.name}\n"


@pytest.mark.parametrize("is_asked", [True, False])
def test_a_head_of_every_class_stays_beside_one_of_some(world, is_asked):
    """A training with `--classes cats,dogs` is no reason to forget the cows."""
    toy.pictures(world.images, classes=("birds", "cows"))
    version = world.run(validation_fraction=0.4)
    promote_head(world.store, world.head("a", version, Pretended(("birds", "cats", "cows", "dogs"))))
    result = world.trained(version, Pretended(CLASSES), promote="always" if is_asked else "if_better")
    assert result.is_promoted is is_asked
    if not is_asked:
        assert "stays current without a comparison, because it knows the classes" in result.promotion


def test_heads_of_some_of_the_classes_are_compared_on_those(world):
    toy.pictures(world.images, classes=("birds", "cows"))
    version = world.run(validation_fraction=0.4)
    promote_head(world.store, world.head("a", version, Pretended(CLASSES)))
    number = sum(version.classes["validation"][name] for name in CLASSES)
    assert f"on {number} validation images" in world.trained(version, Pretended(CLASSES)).promotion


def test_the_same_classes_in_another_order_are_compared(world):
    version = world.run(validation_fraction=0.4)
    rival = Pretended(("dogs", "cats"), world.features(version, "validation"))
    promote_head(world.store, world.head("a", version, rival))
    result = world.trained(version, Pretended(CLASSES))
    assert not result.is_promoted
    assert sorted(rival.judged[0]).count("cats") == version.classes["validation"]["cats"]


# Accuracy and loss


@pytest.mark.parametrize(("new", "current", "is_promoted"), [(0.4, 0.5, True), (0.5, 0.5, True), (0.6, 0.5, False)])
def test_among_equal_accuracies_the_lower_loss_wins(world, new, current, is_promoted):
    version = world.run(validation_fraction=0.4)
    promote_head(world.store, world.head("a", version, Pretended(CLASSES, loss=current)))
    assert world.trained(version, Pretended(CLASSES, loss=new)).is_promoted is is_promoted


@pytest.mark.parametrize("loss", [None, float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_worse_than_any(loss):
    assert Score(9, 9, loss).is_worse_than(Score(0, 9, 1e9))
    assert not Score(0, 9, 1e9).is_worse_than(Score(9, 9, loss))


def with_nan(world: World, name: str, **figures: float) -> None:
    """Rewrite the head's record as an older version of the program wrote it: JSON with a bare NaN."""
    path = world.store.head(name) / RECORD
    record = json.loads(path.read_text())
    record.pop("checksum")
    record["metrics"] |= figures
    path.write_text(json.dumps(sealed(record)))
    assert "NaN" in path.read_text()


def test_a_current_head_without_a_finite_loss_gives_way(world):
    version = world.run(validation_fraction=0.4)
    name = world.head("a", version, Pretended(CLASSES, world.features(version, "validation")))
    with_nan(world, name, val_loss=float("nan"))
    promote_head(world.store, name)
    assert find_head(world.store, name).val_loss is None
    result = world.trained(version, Pretended(CLASSES))
    assert (result.is_promoted, current_head(world.store)) == (True, result.name)
    assert "its loss is not finite" in result.promotion


@pytest.mark.parametrize("promote", ["if_better", "always", "never"])
@pytest.mark.parametrize("rival", ["none", "bad", "itself"])
def test_a_head_that_diverged_is_never_current(world, promote, rival):
    version = world.run(validation_fraction=0.4)
    head = Pretended(CLASSES, world.features(version, "validation"))
    if rival == "bad":
        promote_head(world.store, world.head("a", version, Pretended(CLASSES, loss=9.0)))
    elif rival == "itself":
        promote_head(world.store, head_name(world.store.fingerprint, version.data_digest, HeadSpec(CLASSES), 0))
    result = world.trained(version, head, promote, val_loss=None, diverged="it diverged")
    assert not result.is_promoted
    assert current_head(world.store) == ("a" * 32 if rival == "bad" else None)


@pytest.mark.parametrize("damage", ["gone", "of no use", "says little"])
def test_a_current_head_that_cannot_be_used_gives_way_and_it_is_said(world, damage):
    version = world.run(validation_fraction=0.4)
    name = world.head("a", version, Pretended(CLASSES))
    promote_head(world.store, name)
    if damage == "gone":
        shutil.rmtree(world.store.head(name))
    elif damage == "of no use":
        del world.heads[name]
    else:
        (world.store.head(name) / RECORD).write_text("{}")
    result = world.trained(version, Pretended(CLASSES))
    assert (result.is_promoted, current_head(world.store)) == (True, result.name)
    assert f"replaces {name}, which cannot be used" in result.promotion
    assert "\n" not in result.promotion


def test_who_asks_for_it_gets_the_head_and_is_told_how_to_go_back(world):
    version = world.run(validation_fraction=0.4)
    promote_head(world.store, world.head("a", version, Pretended(CLASSES, world.features(version, "validation"))))
    result = world.trained(version, Pretended(CLASSES), promote="always")
    assert (result.is_promoted, current_head(world.store)) == (True, result.name)
    assert storage(typed(result.promotion)[3:]) == 0
    assert current_head(world.store) == "a" * 32


def test_a_head_of_a_study_stays_unranked(world):
    version = world.run(validation_fraction=0.4)
    mark_unranked(world.store, head_name(world.store.fingerprint, version.data_digest, HeadSpec(CLASSES), 0))
    result = world.trained(version, Pretended(CLASSES), promote="never")
    assert (result.is_promoted, result.promotion) == (False, None)
    assert is_unranked(world.store, result.name)


# The promote command


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"base": "b" * 32}, "was fine-tuned"),
        ({"metrics": {"val_loss": None}}, "is not finite"),
        (None, "there is no head"),
    ],
    ids=str,
)
def test_what_is_no_head_of_features_is_not_made_current(world, capsys, change, reason):
    version = world.run(validation_fraction=0.4)
    if change is not None:
        world.head("a", version, Pretended(CLASSES), **change)
    assert storage(["promote", "a" * 32, "--store", str(world.root)]) == 2
    assert reason in capsys.readouterr().err
    assert storage(["promote", "../../etc", "--store", str(world.root)]) == 2
    assert current_head(world.store) is None


def test_a_damaged_head_is_not_made_current(world, capsys):
    name = world.head("a", world.run(validation_fraction=0.4), Pretended(CLASSES))
    (world.store.head(name) / "head.keras").write_bytes(b"b" * 32)
    assert storage(["promote", name, "--store", str(world.root)]) == 1
    assert "is damaged" in capsys.readouterr().err
    assert current_head(world.store) is None


def test_a_record_that_is_written_has_null_for_what_is_not_finite(world):
    nan, infinity = float("nan"), float("inf")
    version = world.run(validation_fraction=0.4)
    name = world.head(
        "a", version, Pretended(CLASSES, loss=nan), history=[{"loss": infinity}], test={"loss": -infinity}
    )
    text = (world.store.head(name) / RECORD).read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    record = read_head(world.store, name)
    assert (record["metrics"]["val_loss"], record["history"], record["test"]) == (
        None,
        [{"loss": None}],
        {"loss": None},
    )
