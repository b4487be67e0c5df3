import json
from dataclasses import replace

import pytest

from storage.errors import InputError
from storage.manifest.space import create_space
from storage.records import fingerprint
from tests import toy
from vision.errors import WeightsError
from vision.specs import FeatureSpec
from vision.training.head import HeadSpec
from workers.jobs.records import Space
from workers.jobs.size_and_rate import row_bytes
from workers.jobs.spaces import find_space, head_job, plan_record, version_record


def found(tmp_path, weights: str = "random", **options) -> Space:
    spec = FeatureSpec("", **{"image_size": 32} | options)
    return find_space(tmp_path / "store", tmp_path / "images", spec, weights)


def test_the_fingerprint_is_the_hash_of_the_spec(tmp_path):
    space = found(tmp_path)
    assert space.fingerprint == fingerprint(space.spec.record())
    assert space == found(tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        {"backbone": "resnet50"},
        {"image_size": 64},
        {"pooling": "max"},
        {"dtype": "float32"},
        {"precision": "mixed_float16"},
        {"precision": "bfloat16"},
        {"precision": "int8"},
        {"exif": "apply"},
        {"rescale": 1 / 255},
        {"sixteen_bit": "scale"},
    ],
)
def test_every_option_of_a_feature_leads_to_another_space(other, tmp_path):
    assert found(tmp_path, **other).fingerprint != found(tmp_path).fingerprint


def test_the_space_does_not_depend_on_where_store_and_images_lie(tmp_path):
    assert found(tmp_path / "a").fingerprint == found(tmp_path / "b").fingerprint


def test_asking_for_a_space_makes_nothing(tmp_path):
    found(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_the_digest_of_the_weights_is_filled_in(tmp_path):
    spec = FeatureSpec("", "vgg19", 64, "max", "float32", exif="apply", rescale=1 / 255, sixteen_bit="scale")
    space = find_space(tmp_path / "store", tmp_path / "images", spec, "random")
    assert space.spec.weights
    assert replace(space.spec, weights="") == spec


def test_a_weights_file_is_remembered_by_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=str(tmp_path / "mine.h5")):
        found(tmp_path, weights="mine.h5")


def test_a_store_of_another_format_is_refused(tmp_path):
    space = found(tmp_path)
    create_space(space.store, space.spec.record())
    path = space.store.space / "space.json"
    path.write_text(json.dumps({"format_version": 99}))
    with pytest.raises(InputError, match="format_version 99"):
        found(tmp_path)


def test_a_plan_record_counts_every_image(images, store):
    planned = toy.plan(images, store)
    record = plan_record(toy.space(images, store), planned, "/plan")
    assert (record.images, record.num_chunks, record.chunk_size, record.parent) == (20, 3, 8, None)
    assert record.needs_commit
    assert record.counts == {
        "new": 20,
        **dict.fromkeys(("changed", "moved", "relabelled", "unchanged", "removed"), 0),
        **dict.fromkeys(("adopted", "lost", "stale", "ignored"), 0),
    }
    json.dumps(record.counts)


def test_a_plan_after_a_commit_has_its_parent_and_nothing_to_do(images, store):
    _, version = toy.run(images, store)
    record = plan_record(toy.space(images, store), toy.plan(images, store), "/plan")
    assert (record.parent, record.images, record.needs_commit) == (version.number, 0, False)
    assert record.counts["unchanged"] == 20


def test_a_version_record_names_every_class_of_any_split_once_and_sorted(images, store):
    toy.picture(images / "ants" / "one.png", seed=5000)
    _, version = toy.run(images, store)
    record = version_record(version)
    assert record.class_names == ("ants", "cats", "dogs")
    assert sum(sum(by_class.values()) for by_class in record.classes.values()) == 21
    assert record.counts["ok"] == record.counts["images"] == 21


def test_the_head_of_a_version_is_named_by_what_makes_it(images, store):
    _, version = toy.run(images, store)
    space, record = toy.space(images, store), version_record(version)
    job = head_job(space, record, HeadSpec(("cats", "dogs")), seed=1)
    assert (job.version, job.seed) == (1, 1)
    assert job.name == head_job(space, record, HeadSpec(("cats", "dogs")), seed=1).name
    assert job.name != head_job(space, record, HeadSpec(("dogs", "cats")), seed=1).name


def test_less_than_every_byte_is_expected_only_of_what_was_measured(tmp_path):
    weights = str(toy.weights_file(tmp_path / "trained.weights.h5", seed=1))
    measured = found(tmp_path, weights=weights)
    assert row_bytes(measured, "parquet") < measured.kind.row_bytes == row_bytes(measured, "npz")
    others = ({"pooling": "max"}, {"backbone": "resnet50", "weights": "random"}, {"weights": "random"})
    for other in others:
        space = found(tmp_path, **{"weights": weights} | other)
        assert row_bytes(space, "parquet") == space.kind.row_bytes
