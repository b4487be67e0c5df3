"""Variants of images in the store: which are wanted, which are there, and what becomes of them."""

import hashlib
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.cli.main import main
from storage.errors import InputError, StoreDamaged
from storage.layout import Store
from storage.maintenance.compact import CompactOptions, compact
from storage.maintenance.repair import repair_space
from storage.maintenance.verify import verify_space
from storage.manifest.versions import Version, commit, latest_version
from storage.planning.free_space import expected_bytes
from storage.planning.options import PlanOptions
from storage.planning.plan import Plan, finish
from storage.reading.samples import sample_table
from storage.reading.stream import FeatureStream
from storage.shards import view_ids
from storage.shards.shard import Shard, write_shard
from storage.shards.view_ids import (
    MOST_AUGMENTATIONS,
    are_listed,
    indices_of,
    variants_of,
    views_in_version,
    views_of,
    with_augmentation,
)
from tests import toy

TURN, FLIP = '{"rotation_range":20.0}', '{"horizontal_flip":true,"shear_range":30.0}'
Views = dict[bytes, list[int]]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    toy.without_keras(monkeypatch)


def planned(images: Path, store: Path, variants: int, augmentation: str = TURN, **options) -> Plan:
    return toy.plan(images, store, variants=variants, augmentation=augmentation, **options)


def run(images: Path, store: Path, variants: int, augmentation: str = TURN, **options) -> tuple[Plan, Version]:
    return toy.run(images, store, variants=variants, augmentation=augmentation, **options)


def todo(plan: Plan) -> Views:
    return dict(zip(plan.todo["digest"].to_pylist(), plan.todo["views"].to_pylist(), strict=True))


def digests_in(plan: Plan) -> set[bytes]:
    return set(plan.files["digest"].to_pylist())


def in_split(plan: Plan, split: str) -> set[bytes]:
    return {row["digest"] for row in plan.files.to_pylist() if row["split"] == split}


def wanted(plan: Plan, augmentation: str, variants: int) -> set[tuple[bytes, str, int]]:
    """All that a store should hold after a first run."""
    everywhere = {(digest, "", 0) for digest in plan.files["digest"].to_pylist()}
    return everywhere | {(digest, augmentation, k) for digest in in_split(plan, "train") for k in range(1, variants)}


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


def digest_of(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


# The arithmetic


@given(st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=256), st.data())
def test_a_view_says_which_variant_of_which_augmentation_it_is(known, data):
    index = data.draw(st.integers(0, len(known) - 1))
    variants = np.array(data.draw(st.lists(st.integers(0, 255))), np.uint16)
    views = views_in_version(tuple(known), known[index], variants)
    assert views.dtype == np.uint16
    assert np.array_equal(variants_of(views), variants)
    assert set(indices_of(views[variants > 0]).tolist()) <= {index}
    assert not views[variants == 0].any()
    assert are_listed(views, tuple(known))
    assert are_listed(views, tuple(known[:index])) == (not variants.any())
    assert views_in_version(tuple(known), known[index], np.arange(256)).tolist() == views_of(
        tuple(known), known[index], 256
    )


def test_there_is_room_for_as_many_augmentations_as_a_view_can_count(tmp_path):
    known: tuple[str, ...] = ()
    for number in range(MOST_AUGMENTATIONS):
        known = with_augmentation(known, str(number), Store(tmp_path, "0" * 32))
    assert with_augmentation(known, "7", Store(tmp_path, "0" * 32)) == known
    with pytest.raises(InputError, match="maximum"):
        with_augmentation(known, "another", Store(tmp_path, "0" * 32))


def test_the_advice_for_too_many_augmentations_works_as_typed_and_leaves_other_spaces_alone(
    images, tmp_path, monkeypatch
):
    store = tmp_path / "it's a store"
    run(images, store, 2)
    other = shutil.copytree(toy.space(images, store).store.space, store / ("0" * 32))
    before = sorted(other.rglob("*"))
    monkeypatch.setattr(view_ids, "MOST_AUGMENTATIONS", 1)
    with pytest.raises(InputError) as refused:
        run(images, store, 2, FLIP)
    (advice,) = re.findall(r"`(python -m storage [^`]*)`", str(refused.value))
    assert main(shlex.split(advice)[3:]) == 0
    assert sorted(other.rglob("*")) == before
    assert run(images, store, 2, FLIP)[1].augmentations == (FLIP,)


# What is wanted


def test_training_images_have_variants_and_no_others(images, store):
    plan, version = run(images, store, 4)
    train = in_split(plan, "train")
    assert 0 < len(train) < 20
    assert todo(plan) == {d: [0, 1, 2, 3] if d in train else [0] for d in plan.files["digest"].to_pylist()}
    assert plan.num_rows == 20 + 3 * len(train)
    assert version.augmentations == (TURN,)
    assert toy.views_of(images, store, version).keys() == wanted(plan, TURN, 4)
    assert version.counts == {"images": 20, "ok": 20, "pending": 0, "quarantined": 0}


def test_an_image_that_is_in_training_as_well_has_variants(tmp_path, store):
    for split in ("train", "val"):
        toy.picture(tmp_path / "images" / split / "cats/same.png", seed=1)
    plan = planned(tmp_path / "images", store, 2)
    assert list(todo(plan).values()) == [[0, 1]]


def test_more_variants_extract_only_the_new_ones(images, store):
    first, before = run(images, store, 2)
    plan, version = run(images, store, 4)
    assert todo(plan) == {digest: [2, 3] for digest in in_split(first, "train")}
    found = toy.views_of(images, store, version)
    assert found.keys() == wanted(plan, TURN, 4)
    assert before.shards.keys() < version.shards.keys()
    new = [
        Shard(toy.space(images, store).store, ref) for name, ref in version.shards.items() if name not in before.shards
    ]
    assert {view for shard in new for view in shard.views().tolist()} == {2, 3}
    assert (version.data_digest, version.counts, version.files) == (before.data_digest, before.counts, before.files)


def test_variants_of_a_plain_store_are_extracted_without_its_images(images, store):
    toy.run(images, store)
    plan, version = run(images, store, 3)
    assert todo(plan) == {digest: [1, 2] for digest in in_split(plan, "train")}
    assert set(plan.files["status"].to_pylist()) == {"ok"}
    assert toy.views_of(images, store, version).keys() == wanted(plan, TURN, 3)


def test_another_augmentation_never_reuses_the_old(images, store):
    run(images, store, 3)
    plan, version = run(images, store, 3, FLIP)
    train = in_split(plan, "train")
    assert todo(plan) == {digest: [1, 2] for digest in train}
    assert version.augmentations == (TURN, FLIP)
    found = toy.views_of(images, store, version)
    assert found.keys() == wanted(plan, TURN, 3) | wanted(plan, FLIP, 3)
    assert not any(np.array_equal(found[d, TURN, k], found[d, FLIP, k]) for d in train for k in (1, 2))
    assert planned(images, store, 3, TURN).num_chunks == planned(images, store, 3, FLIP).num_chunks == 0


def test_going_back_to_fewer_variants_is_nothing_to_do(images, store):
    run(images, store, 4)
    for plan in (planned(images, store, 4), planned(images, store, 2), toy.plan(images, store)):
        assert (plan.todo.num_rows, plan.needs_commit) == (0, False)


def test_limit_counts_images_and_not_their_views(images, store):
    plan, version = run(images, store, 4, limit=6)
    assert plan.todo.num_rows == version.counts["ok"] == 6
    assert version.counts["pending"] == 14
    again = planned(images, store, 4, limit=6)
    assert again.todo.num_rows == 6
    assert todo(again).keys().isdisjoint(todo(plan))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"variants": 0}, "`variants`: expected 1 to 256"),
        ({"variants": 257}, "`variants`: expected 1 to 256"),
        ({"variants": 2, "augmentation": ""}, "`augment`"),
        ({"variants": 256, "chunk_size": 256}, "`chunk_size=255` is the maximum"),
    ],
)
def test_variants_that_cannot_be_are_refused_in_words(options, match):
    with pytest.raises(InputError, match=match):
        PlanOptions(**{"augmentation": TURN} | options)


def test_as_many_rows_as_a_shard_can_have_are_taken():
    PlanOptions(variants=256, augmentation=TURN, chunk_size=255)


# What they are


@pytest.mark.parametrize("format", ["parquet", "npz"])
def test_a_variant_has_the_same_bytes_whatever_the_chunk_and_the_runs_before(format, images, store, tmp_path):
    found = []
    for number, (chunk_size, steps) in enumerate([(20, (4,)), (3, (4,)), (7, (1, 2, 4)), (1, (3, 4))]):
        for variants in steps:
            _, version = run(images, tmp_path / str(number), variants, chunk_size=chunk_size, format=format)
        found.append(toy.views_of(images, tmp_path / str(number), version))
    for one in found[1:]:
        assert_same(one, found[0])
    variants = [features.tobytes() for features in found[0].values()]
    assert len(set(variants)) == len(variants)


@pytest.mark.parametrize("format", ["parquet", "npz"])
def test_in_a_shard_plain_rows_come_first_and_each_view_in_the_order_of_the_images(format, images, store):
    plan, version = run(images, store, 3, format=format)
    for ref in version.shards.values():
        shard = Shard(toy.space(images, store).store, ref)
        views = shard.views().tolist()
        assert views == sorted(views)
        by_view = [[d for d, v in zip(shard.digests(), views, strict=True) if v == view] for view in sorted(set(views))]
        order = {digest: index for index, digest in enumerate(plan.todo["digest"].to_pylist())}
        assert all(digests == sorted(digests, key=order.__getitem__) for digests in by_view)
        assert set(by_view[0]) >= set().union(*map(set, by_view[1:]))
        assert shard.augmentation == (TURN if len(by_view) > 1 else "")


def test_a_store_without_variants_is_what_it_was_before_there_were_any(images, store, tmp_path):
    _, plain = toy.run(images, store)
    _, named = toy.run(images, tmp_path / "named", augmentation=TURN)  # which is for the images stream
    assert plain.shards == named.shards
    record = json.loads(toy.space(images, store).store.version(1).read_text())
    assert "augmentations" not in record
    assert all("augmentation" not in Shard(toy.space(images, store).store, r).metadata for r in plain.shards.values())


def test_training_and_validation_read_plain_rows_as_in_a_plain_store(images, store, tmp_path):
    _, plain = toy.run(images, tmp_path / "plain")
    _, version = run(images, store, 3)
    for split in ("train", "validation"):
        found = []
        for root, of in ((tmp_path / "plain", plain), (store, version)):
            where = toy.space(images, root).store
            stream = FeatureStream(where, sample_table(where, of, split, ("cats", "dogs")), 64, None, 1)
            ((features, _),) = list(stream.batches())
            found.append(sorted(row.tobytes() for row in features))
        assert found[0] == found[1]


# What becomes of them


@pytest.mark.parametrize("done", range(4))
def test_after_a_death_before_the_commit_no_row_is_lost_and_none_is_extracted_twice(done, images, store, tmp_path):
    first = planned(images, store, 3)
    toy.extract(images, store, first, range(done))
    extracted = first.todo["digest"].to_pylist()[: done * 8]
    plan, version = run(images, store, 3)
    assert (plan.adopted, plan.lost) == (len(extracted), 0)
    assert todo(plan) == {digest: views for digest, views in todo(first).items() if digest not in extracted}
    _, fresh = run(images, tmp_path / "fresh", 3)
    assert_same(toy.views_of(images, store, version), toy.views_of(images, tmp_path / "fresh", fresh))
    assert sum(ref.num_rows for ref in version.shards.values()) == first.num_rows


def test_what_a_dead_run_left_is_adopted_by_the_pair_of_image_and_view(images, store):
    toy.run(images, store)
    toy.extract(images, store, planned(images, store, 2))
    train = in_split(planned(images, store, 2), "train")
    assert toy.plan(images, store).shards == latest_version(toy.space(images, store).store).shards
    other = planned(images, store, 2, FLIP)
    assert (other.adopted, todo(other)) == (0, {digest: [1] for digest in train})
    assert (other.augmentations, other.needs_commit) == ((), True)
    assert other.shards == toy.plan(images, store).shards
    more = planned(images, store, 4)
    assert (more.adopted, todo(more), more.augmentations) == (len(train), {digest: [2, 3] for digest in train}, (TURN,))
    assert planned(images, store, 2).todo.num_rows == 0


def test_plain_rows_that_a_dead_run_of_another_augmentation_left_are_adopted(images, store):
    toy.extract(images, store, planned(images, store, 3, FLIP))
    plan, version = run(images, store, 2, TURN)
    train = in_split(plan, "train")
    assert (plan.adopted, todo(plan)) == (20, {digest: [1] for digest in train})
    assert version.augmentations == (FLIP, TURN)
    assert toy.views_of(images, store, version).keys() == wanted(plan, FLIP, 3) | wanted(plan, TURN, 2)
    assert not list(verify_space(toy.space(images, store).store, is_deep=True))


def test_rows_whose_shard_is_gone_are_extracted_again_and_counted_by_image(images, store):
    toy.run(images, store)
    _, before = run(images, store, 3)
    where = toy.space(images, store).store
    gone = next(ref for ref in before.shards.values() if Shard(where, ref).augmentation)
    digests, views = Shard(where, gone).digests(), Shard(where, gone).views().tolist()
    where.shard(gone.name).unlink()
    assert toy.plan(images, store).lost == 0
    plan, version = run(images, store, 3)
    assert plan.lost == len(set(digests)) == plan.todo.num_rows
    assert {(d, k) for d, ks in todo(plan).items() for k in ks} == set(zip(digests, views, strict=True))
    assert_same(toy.views_of(images, store, version), toy.views_of(images, store, before))


def test_an_image_whose_plain_row_is_gone_is_pending_whatever_variants_it_has(images, store):
    toy.run(images, store, chunk_size=20, validation_fraction=0.0)
    _, before = run(images, store, 3, validation_fraction=0.0)
    where = toy.space(images, store).store
    (gone,) = [ref for ref in before.shards.values() if not Shard(where, ref).augmentation]
    assert gone.num_rows == 20
    where.shard(gone.name).unlink()
    plan = planned(images, store, 3, validation_fraction=0.0)
    assert (set(plan.files["status"].to_pylist()), todo(plan)) == ({"pending"}, {d: [0] for d in digests_in(plan)})
    files, rows, *rest = finish(where, plan, [])
    assert set(files["status"].to_pylist()) == {"pending"}
    assert rows.num_rows == 2 * len(in_split(plan, "train"))
    version = commit(where, before, before.read_files(where), rows, *rest)
    assert version.counts["ok"] == 20
    faults = [
        finding.fault
        for finding in verify_space(where, is_deep=False)
        if finding.file.endswith(f"{version.number}.json")
    ]
    assert any("features of usable images" in fault for fault in faults)


def test_what_the_views_will_take_is_asked_of_the_disk(images, store):
    plain, plan = toy.plan(images, store), planned(images, store, 4)
    assert plain.num_rows == 20 < plan.num_rows
    assert expected_bytes(plain, 100.0) == 2000
    assert expected_bytes(plan, 100.0) == 100 * plan.num_rows


def test_an_image_that_goes_to_validation_wants_no_variants_and_one_that_comes_to_training_does(tmp_path, store):
    images = tmp_path / "images"
    for split, start in (("train", 0), ("validation", 10)):
        for index in range(4):
            toy.picture(images / split / "cats" / f"{index}.png", start + index)
    run(images, store, 3)
    (images / "train/cats/0.png").rename(images / "validation/cats/was-train.png")
    (images / "validation/cats/0.png").rename(images / "train/cats/was-validation.png")
    plan, version = run(images, store, 3)
    new = digest_of(images / "train/cats/was-validation.png")
    assert todo(plan) == {new: [1, 2]}
    assert {k for d, _, k in toy.views_of(images, store, version) if d == new} == {0, 1, 2}
    assert version.counts["ok"] == 8


def test_an_image_that_is_removed_and_comes_back_has_its_variants(images, store):
    plan, _ = run(images, store, 3)
    path = images / "cats/003.png"
    data = path.read_bytes()
    path.unlink()
    plan, version = run(images, store, 3)
    assert (plan.todo.num_rows, version.counts["ok"]) == (0, 19)
    path.write_bytes(data)
    plan, version = run(images, store, 3)
    assert (plan.todo.num_rows, version.counts["ok"]) == (0, 20)


def test_a_bad_image_is_one_failure_and_has_no_variant(images, store):
    bad = images / "cats/bad.png"
    bad.write_bytes(b"no image")
    digest = digest_of(bad)
    plan, version = run(images, store, 3, validation_fraction=0.0)
    assert todo(plan)[digest] == [0, 1, 2]
    assert (version.counts["quarantined"], version.counts["ok"]) == (1, 20)
    assert digest not in {d for d, *_ in toy.views_of(images, store, version)}
    more, again = run(images, store, 5, validation_fraction=0.0)
    assert digest not in todo(more)
    assert more.todo.num_rows == 20
    assert again.counts == version.counts


# Upkeep


@pytest.mark.parametrize(("format", "rows"), [("parquet", 4), ("parquet", 16), ("parquet", 1000), ("npz", 16)])
def test_compaction_keeps_every_view_and_plain_rows_apart(format, rows, images, store):
    where = toy.space(images, store).store
    for variants, augmentation in ((1, ""), (2, TURN), (3, TURN), (2, FLIP)):
        _, before = run(images, store, variants, augmentation, chunk_size=2, format=format)
    done = compact(where, before, CompactOptions(rows))
    assert (done.dead_rows, done.variants) == (0, 0)
    after = latest_version(where)
    assert (after.number, len(after.shards)) == (before.number + 1, len(before.shards) - done.rewritten + done.written)
    assert len(after.shards) < len(before.shards)
    assert after.augmentations == (TURN, FLIP)
    assert_same(toy.views_of(images, store, after), toy.views_of(images, store, before))
    assert not list(verify_space(where, is_deep=True))
    for name in after.shards.keys() - before.shards.keys():
        views = Shard(where, after.shards[name]).views()
        assert views.all() or not views.any()
        assert name.endswith(format)
    assert compact(where, after, CompactOptions(rows)) is None
    assert planned(images, store, 3, TURN).todo.num_rows == planned(images, store, 2, FLIP).todo.num_rows == 0


def test_variants_that_are_dropped_leave_the_plain_rows_and_are_extracted_when_they_are_wanted_again(
    images, store, capsys
):
    where = toy.space(images, store).store
    _, before = run(images, store, 3)
    found = toy.views_of(images, store, before)
    variants = sum(bool(augmentation) for _, augmentation, _ in found)
    assert main(["compact", "--store", str(store), "--drop-variants"]) == 0
    assert f"{variants} variants dropped" in capsys.readouterr().out
    after = latest_version(where)
    assert (after.augmentations, after.data_digest, after.counts) == ((), before.data_digest, before.counts)
    assert_same(toy.views_of(images, store, after), {key: row for key, row in found.items() if not key[1]})
    assert not any(Shard(where, ref).views().any() for ref in after.shards.values())
    assert sum(ref.num_rows for ref in after.shards.values()) == 20
    assert "augmentations" not in json.loads(where.version(after.number).read_text())
    assert not list(verify_space(where, is_deep=True))
    assert compact(where, after, CompactOptions(1, drop_variants=True)) is None
    assert toy.plan(images, store).needs_commit is False
    # The shards are still there, until gc removes them: what is in them is adopted.
    again, version = run(images, store, 3)
    assert again.todo.num_rows == 0
    assert_same(toy.views_of(images, store, version), found)


def test_variants_are_dropped_from_full_shards_as_well(images, store):
    where = toy.space(images, store).store
    _, before = run(images, store, 2, chunk_size=20)
    assert len(before.shards) == 1
    done = compact(where, before, CompactOptions(8, drop_variants=True))
    assert (done.rewritten, done.written, done.dead_rows) == (1, 3, 0)
    assert toy.views_of(images, store, latest_version(where)).keys() == wanted(toy.plan(images, store), "", 1)


@pytest.mark.parametrize("what", ["rows", "files", "plain shard", "shard of variants", "version"])
def test_after_a_repair_a_run_has_every_view_again(what, images, store):
    where = toy.space(images, store).store
    toy.run(images, store)
    run(images, store, 2, FLIP)
    _, before = run(images, store, 3, TURN)
    shards = {Shard(where, ref).augmentation: ref.name for ref in before.shards.values()}
    harmed = {
        "rows": where.segments / before.rows[0],
        "files": where.segments / before.files[0],
        "plain shard": where.shard(shards[""]),
        "shard of variants": where.shard(shards[TURN]),
        "version": where.version(before.number),
    }[what]
    data = bytearray(harmed.read_bytes())
    data[len(data) // 2] ^= 1
    harmed.write_bytes(data)
    assert list(verify_space(where, is_deep=True))
    done = repair_space(where, is_deep=True)
    assert (done.lost_rows > 0, done.lost_variants > 0) == (what == "plain shard", what == "shard of variants")
    assert not list(verify_space(where, is_deep=True))
    again, version = run(images, store, 3, TURN)
    assert version.augmentations == (FLIP, TURN)
    assert not list(verify_space(where, is_deep=True))
    run(images, store, 2, FLIP)
    found, expected = toy.views_of(images, store, latest_version(where)), toy.views_of(images, store, before)
    assert_same(found, expected)
    assert (again.todo.num_rows > 0) == ("shard" in what)


def test_verification_finds_rows_of_another_view(images, store):
    where = toy.space(images, store).store
    run(images, store, 2, FLIP)
    _, version = run(images, store, 2, TURN)
    assert not list(verify_space(where, is_deep=True))
    commit(where, version, version.read_files(where), version.read_rows(where), version.shards, (TURN, FLIP))
    (finding,) = list(verify_space(where, is_deep=False))
    assert "its record of rows does not match its segments and shards" in finding.fault


@pytest.mark.parametrize(
    ("augmentations", "match"),
    [
        ((), "an unknown augmentation"),
        ((TURN, TURN), "duplicate"),
        (("",), "invalid or duplicate augmentations"),
        ((1,), "invalid or duplicate augmentations"),
    ],
)
def test_a_version_that_lists_what_cannot_be_is_not_read(augmentations, match, images, store):
    where = toy.space(images, store).store
    _, version = run(images, store, 2)
    content = version.read_files(where), version.read_rows(where), version.shards, augmentations

    def commit_and_read():
        commit(where, version, *content)
        latest_version(where).read_rows(where)

    with pytest.raises(StoreDamaged, match=match):
        commit_and_read()


@pytest.mark.parametrize("format", ["parquet", "npz"])
@pytest.mark.parametrize(
    ("views", "augmentation"), [([0, 1], ""), ([1, 0], TURN), ([0, 256], TURN)], ids=["of nothing", "order", "too many"]
)
def test_a_shard_of_views_that_cannot_be_is_neither_written_nor_read(views, augmentation, format, store, monkeypatch):
    where = toy.space(store, store).store
    given = where, [bytes([n]) * 32 for n in range(2)], np.zeros((2, 3), np.float16), {}, {"augmentation": augmentation}
    with pytest.raises(ValueError, match=r"views|variants"):
        write_shard(*given, format, np.array(views, np.uint16))
    if not augmentation:
        return
    with monkeypatch.context() as patch:
        patch.setattr("storage.shards.shard._check_views", lambda *_: None)
        ref = write_shard(*given, format, np.array(views, np.uint16))
    assert len(Shard(where, ref).digests()) == 2
    with pytest.raises(StoreDamaged, match="views"):
        Shard(where, ref).views()


def test_show_says_how_many_rows_are_variants_of_what(images, store, capsys):
    plan, _ = run(images, store, 4)
    train = len(in_split(plan, "train"))
    assert main(["show", "--store", str(store)]) == 0
    assert f"{3 * train} rows augmented (variant 1 to 3) with {TURN}" in capsys.readouterr().out
    assert main(["export", "--store", str(store), "--out", str(store.with_name("out"))]) == 0
    assert len(list(store.with_name("out").rglob("*.npz"))) == 20
