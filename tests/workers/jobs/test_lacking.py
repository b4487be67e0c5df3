"""A head that was trained without some variants is a different head from one that had them all."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.console.messages import half_augmented
from storage.manifest.versions import Version, commit, read_version
from storage.planning.plan import finish
from tests import toy
from vision.training.head import HeadSpec
from workers.jobs.head_identity import base_name, head_name
from workers.jobs.records import HeadJob
from workers.jobs.spaces import head_job, version_record

TURN = '{"rotation_range":20.0}'
SPEC = HeadSpec(("cats", "dogs"), augment=TURN, variants=3)
VARIED = {"variants": 3, "augmentation": TURN}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    toy.without_keras(monkeypatch)


def job(images: Path, store: Path, version: Version, spec: HeadSpec = SPEC) -> HeadJob:
    return head_job(toy.space(images, store), version_record(version), spec, seed=1)


def final_name(images: Path, store: Path, version: Version, spec: HeadSpec = SPEC) -> str:
    return head_name(toy.space(images, store).fingerprint, version.data_digest, spec, 1)


def test_as_long_as_variants_are_missing_the_head_has_a_name_of_its_own(images, store):
    _, version = toy.run(images, store)
    training = sum(version.classes["train"].values())
    names, lacking = [], []
    for limit in (0, 3, 3, 100):
        _, version = toy.run(images, store, limit=limit, **VARIED)
        found = job(images, store, version)
        names.append(found.name)
        lacking.append(found.lacking)
        assert (found.name == final_name(images, store, version)) == (found.lacking == 0)
    assert lacking == [training, training - 3, training - 6, 0]
    assert len(set(names)) == 4


def test_the_name_depends_on_what_is_missing_and_not_on_how_the_store_came_by_the_rest(images, tmp_path):
    ways = {"at once": [], "another way": [{"limit": 2}], "one variant of all": [{"variants": 2}]}
    names = {}
    for number, (way, before) in enumerate(ways.items()):
        store, how = tmp_path / way, {"chunk_size": 1 + number, "format": ("parquet", "npz")[number % 2]}
        toy.run(images, store, **how)
        for options in before:
            toy.run(images, store, **how | VARIED | options)
        _, version = toy.run(images, store, **how | VARIED | {"limit": 5 - sum(o.get("limit", 0) for o in before)})
        names[way] = job(images, store, version).name
    assert names["at once"] == names["another way"] != names["one variant of all"]


def test_a_file_that_is_gone_when_its_variants_are_made_is_missed_too(images, store):
    toy.run(images, store)
    planned = toy.plan(images, store, **VARIED)
    gone = next(images / row["path"].decode() for row in planned.todo.to_pylist() if row["split"] == "train")
    data = gone.read_bytes()
    gone.unlink()
    refs = toy.extract(images, store, planned)
    gone.write_bytes(data)
    where = toy.space(images, store).store
    version = commit(where, planned.parent, *finish(where, planned, refs))
    found = job(images, store, version)
    assert found.lacking == 1
    assert "1 training image without all of the 3 views" in half_augmented(found)
    assert found.name != final_name(images, store, version)
    _, version = toy.run(images, store, **VARIED)
    assert job(images, store, version).name == final_name(images, store, version)


def test_only_images_of_the_classes_that_are_trained_on_are_missed(images, store):
    toy.picture(images / "ants/1.png", 77)
    toy.picture(images / "ants/2.png", 78)
    toy.run(images, store, validation_fraction=0.0)
    planned = toy.plan(images, store, validation_fraction=0.0, **VARIED)
    where = toy.space(images, store).store
    for path in images.glob("ants/*"):
        path.unlink()
    version = commit(where, planned.parent, *finish(where, planned, toy.extract(images, store, planned)))
    everything = replace(SPEC, classes=("ants", "cats", "dogs"))
    assert (job(images, store, version).lacking, job(images, store, version, everything).lacking) == (0, 2)


def test_a_head_that_is_fine_tuned_follows_the_one_that_it_begins_at(images, store):
    toy.run(images, store)
    _, version = toy.run(images, store, limit=3, **VARIED)
    tuned = replace(SPEC, fine_tune="block5")
    found = job(images, store, version, tuned)
    assert found.lacking > 0
    assert found.name != final_name(images, store, version, tuned)
    assert (
        base_name(toy.space(images, store).fingerprint, version.data_digest, tuned, 1)
        != job(images, store, version).name
    )
    assert job(images, store, version, tuned.untuned).name == job(images, store, version).name


@pytest.mark.parametrize(("trained_on", "is_forced"), [(2, True), (3, False), (99, False)])
def test_a_head_of_an_older_release_that_lacked_variants_under_the_final_name_is_trained_again(
    images, store, trained_on, is_forced
):
    toy.run(images, store)
    toy.run(images, store, limit=3, **VARIED)
    _, version = toy.run(images, store, **VARIED)
    where = toy.space(images, store).store
    assert read_version(where, version.number).number == 3
    record = {"fingerprint": where.fingerprint, "version": trained_on}
    toy.head(where, final_name(images, store, version), record, b"a model")
    assert job(images, store, version).is_forced == is_forced
    toy.head(where, final_name(images, store, version), record | {"lacking": 0}, b"a model")
    assert not job(images, store, version).is_forced
