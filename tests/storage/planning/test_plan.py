import dataclasses
import hashlib
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import InputError, TooManyRemovals
from storage.manifest.diff import Changes
from storage.manifest.file_table import same_content
from storage.manifest.versions import Version, commit, latest_version
from storage.planning.options import PlanOptions
from storage.planning.plan import MOST_TWINS, Plan, finish, make_plan
from storage.schemas import TODO_SCHEMA
from storage.source.listing import Listing, list_images
from storage.source.scan import scan_folder
from tests import toy
from tests.test_layers import PROJECT

BROKEN = b"these bytes are no image"


def digest_of(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def digests_in(images: Path, pattern: str = "*/*.png") -> set[bytes]:
    return {digest_of(path) for path in images.glob(pattern)}


def shard_files(images: Path, store: Path) -> list[Path]:
    return sorted(toy.space(images, store).store.shards.glob("*/*.parquet"))


def states(images: Path, store: Path, version: Version) -> dict[str, tuple[str, str | None, int]]:
    """Path → (status, reason, attempts)."""
    rows = version.read_files(toy.space(images, store).store).to_pylist()
    return {os.fsdecode(row["path"]): (row["status"], row["reason"], row["attempts"]) for row in rows}


def splits(images: Path, store: Path) -> dict[bytes, str]:
    files = toy.plan(images, store).files
    return dict(zip(files["digest"].to_pylist(), files["split"].to_pylist(), strict=True))


def assert_like_a_fresh_run(images: Path, store: Path, version: Version, fresh_store: Path) -> None:
    """The store says the same of the same folder as one that has seen nothing before."""
    _, fresh = toy.run(images, fresh_store)
    assert version.data_digest == fresh.data_digest
    assert version.counts == fresh.counts
    assert version.classes == fresh.classes
    found, expected = toy.features_of(images, store, version), toy.features_of(images, fresh_store, fresh)
    for digest, features in expected.items():
        assert found[digest].tobytes() == features.tobytes()


# What is to be done.


def test_a_first_plan_extracts_every_image_once(images, store):
    plan = toy.plan(images, store)
    assert plan.changes == Changes(new=20)
    assert sorted(plan.todo["digest"].to_pylist()) == sorted(digests_in(images))
    assert plan.needs_commit
    assert set(plan.files["status"].to_pylist()) == {"pending"}


def test_planning_writes_nothing_but_the_cache(images, store):
    toy.run(images, store)
    toy.picture(images / "cats/new.png", seed=99)
    before = {path: path.read_bytes() for path in toy.space(images, store).store.space.rglob("*") if path.is_file()}
    toy.plan(images, store)
    after = {path: path.read_bytes() for path in toy.space(images, store).store.space.rglob("*") if path.is_file()}
    assert after == before


def test_a_run_over_an_unchanged_folder_has_nothing_to_do(images, store):
    toy.run(images, store)
    plan = toy.plan(images, store)
    assert plan.changes == Changes(unchanged=20)
    assert (plan.todo.num_rows, plan.num_chunks, plan.needs_commit) == (0, 0, False)


def test_a_touched_file_with_the_same_bytes_changes_nothing(images, store):
    toy.run(images, store)
    for path in images.glob("*/*.png"):
        path.write_bytes(path.read_bytes())
        os.utime(path, (1, 1))
    plan = toy.plan(images, store)
    assert plan.changes == Changes(unchanged=20)
    assert (plan.todo.num_rows, plan.needs_commit) == (0, False)


def test_only_what_is_new_or_changed_is_extracted(images, store):
    toy.run(images, store)
    new = toy.picture(images / "cats/new.png", seed=99)
    changed = toy.picture(images / "dogs/004.png", seed=98)
    (images / "cats/001.png").rename(images / "cats/moved.png")
    (images / "cats/002.png").rename(images / "dogs/relabelled.png")
    (images / "cats/003.png").unlink()
    plan, version = toy.run(images, store)
    assert plan.changes == Changes(new=1, changed=1, moved=1, relabelled=1, removed=1, unchanged=16)
    assert set(plan.todo["digest"].to_pylist()) == {digest_of(new), digest_of(changed)}
    assert version.counts["images"] == 20


def test_every_image_lands_in_exactly_one_chunk(images, store):
    plan = toy.plan(images, store, chunk_size=7)
    chunks = [plan.cut.rows(plan.todo, index, 1) for index in range(plan.num_chunks)]
    assert [part.num_rows for part in chunks] == [7, 7, 6]
    assert pa.concat_tables(chunks).equals(plan.todo)


@given(st.integers(0, 200), st.integers(1, 60))
def test_chunks_are_the_work_in_pieces_of_the_chunk_size(num_images, chunk_size):
    rows = [{"digest": index.to_bytes(32, "big"), "path": b"p", "split": "train"} for index in range(num_images)]
    todo = pa.Table.from_pylist(rows, TODO_SCHEMA)
    nothing = dict.fromkeys(field.name for field in dataclasses.fields(Plan))
    plan = Plan(**nothing | {"todo": todo, "chunk_size": chunk_size})
    chunks = [plan.cut.rows(todo, index, 1) for index in range(plan.num_chunks)]
    assert [digest for part in chunks for digest in part["digest"].to_pylist()] == todo["digest"].to_pylist()
    assert all(0 < part.num_rows <= chunk_size for part in chunks)


def test_work_is_sorted_by_split_and_digest_so_that_shards_mix_classes(images, store):
    todo = toy.plan(images, store, validation_fraction=0.5).todo.to_pylist()
    assert todo == sorted(todo, key=lambda row: (row["split"], row["digest"]))
    assert len({row["split"] for row in todo}) == 2


def test_a_run_in_chunks_of_any_size_gives_the_same_data(images, tmp_path):
    versions = [toy.run(images, tmp_path / str(size), chunk_size=size)[1] for size in (1, 6, 20, 256)]
    assert len({version.data_digest for version in versions}) == 1
    assert [len(version.shards) for version in versions] == [20, 4, 1, 1]


@pytest.mark.parametrize(
    "values",
    [
        {"chunk_size": 0},
        {"limit": -1},
        {"validation_fraction": 1.5},
        {"validation_fraction": -0.1},
        {"max_removed_fraction": -1},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(values):
    with pytest.raises(InputError):
        PlanOptions(**values)


# Equal bytes.


def test_equal_files_share_a_row_and_are_two_samples(images, store):
    shutil.copy(images / "cats/000.png", images / "cats/twin.png")
    shutil.copy(images / "cats/000.png", images / "dogs/twin.png")
    plan, version = toy.run(images, store)
    assert plan.todo.num_rows == 20
    assert version.read_rows(toy.space(images, store).store).num_rows == 20
    assert version.counts == {"images": 22, "ok": 22, "pending": 0, "quarantined": 0}


def test_a_copy_of_a_known_image_is_new_and_extracts_nothing(images, store):
    toy.run(images, store)
    shutil.copy(images / "cats/000.png", images / "dogs/copy.png")
    plan, version = toy.run(images, store)
    assert plan.changes == Changes(new=1, unchanged=20)
    assert plan.todo.num_rows == 0
    assert plan.needs_commit
    assert version.counts["ok"] == 21


def test_an_image_that_is_deleted_and_restored_is_not_extracted_again(images, store):
    _, first = toy.run(images, store)
    (images / "cats/000.png").rename(store / "away.png")
    _, without = toy.run(images, store)
    (store / "away.png").rename(images / "cats/000.png")
    plan, third = toy.run(images, store)
    assert plan.todo.num_rows == 0
    assert (without.counts["images"], third.counts["images"]) == (19, 20)
    assert third.data_digest == first.data_digest != without.data_digest


def test_a_relabelled_image_changes_the_data_and_extracts_nothing(images, store):
    _, first = toy.run(images, store)
    (images / "cats/000.png").rename(images / "dogs/000x.png")
    plan, second = toy.run(images, store)
    assert plan.todo.num_rows == 0
    assert second.data_digest != first.data_digest
    assert second.shards == first.shards


def test_a_moved_image_leaves_the_data_as_it_was(images, store):
    _, first = toy.run(images, store)
    (images / "cats/deep").mkdir()
    (images / "cats/000.png").rename(images / "cats/deep/other.png")
    plan, second = toy.run(images, store)
    assert (plan.todo.num_rows, plan.needs_commit) == (0, True)
    assert second.data_digest == first.data_digest


# Bounds.


def test_a_limit_leaves_the_rest_pending_and_later_runs_complete_it(images, store, tmp_path):
    extracted: set[bytes] = set()
    for expected in (6, 6, 6, 2):
        plan, version = toy.run(images, store, limit=6)
        assert plan.todo.num_rows == expected
        assert extracted.isdisjoint(plan.todo["digest"].to_pylist())
        extracted.update(plan.todo["digest"].to_pylist())
        assert version.counts == {"images": 20, "ok": len(extracted), "pending": 20 - len(extracted), "quarantined": 0}
    assert not toy.plan(images, store, limit=6).needs_commit
    assert_like_a_fresh_run(images, store, version, tmp_path / "fresh")


def test_a_limit_of_nothing_commits_what_is_known(images, store):
    plan, version = toy.run(images, store, limit=0)
    assert plan.todo.num_rows == 0
    assert version.counts == {"images": 20, "ok": 0, "pending": 20, "quarantined": 0}


def test_removals_are_computed_from_the_whole_listing_under_a_limit(images, store):
    toy.run(images, store)
    (images / "cats/000.png").unlink()
    toy.picture(images / "dogs/new.png", seed=99)
    plan = toy.plan(images, store, limit=0)
    assert plan.changes == Changes(new=1, removed=1, unchanged=19)


@pytest.mark.parametrize(("num_gone", "is_believed"), [(4, True), (5, False)])
def test_more_removals_than_the_fraction_are_not_believed(images, store, num_gone, is_believed):
    _, version = toy.run(images, store)
    for index in range(num_gone):
        (images / f"cats/{index:03d}.png").unlink()
    if is_believed:
        assert toy.plan(images, store, max_removed_fraction=0.2).changes.removed == num_gone
    else:
        with pytest.raises(TooManyRemovals, match="5 of 20 images disappeared"):
            toy.run(images, store, max_removed_fraction=0.2)
    assert latest_version(toy.space(images, store).store) == version


def test_images_that_only_moved_are_not_removed(images, store):
    toy.run(images, store)
    (images / "cats").rename(images / "lions")
    plan = toy.plan(images, store, max_removed_fraction=0)
    assert (plan.changes.removed, plan.changes.relabelled) == (0, 10)


def test_an_emptied_folder_is_not_believed(images, store):
    toy.run(images, store)
    shutil.rmtree(images)
    images.mkdir()
    with pytest.raises(TooManyRemovals, match="`allow_removals`"):
        toy.plan(images, store)


def test_an_emptied_folder_is_committed_where_removals_are_allowed(images, store, tmp_path):
    _, first = toy.run(images, store)
    images.rename(tmp_path / "away")
    images.mkdir()
    plan, version = toy.run(images, store, allow_removals=True)
    assert plan.changes == Changes(removed=20)
    assert version.counts["images"] == 0
    images.rmdir()
    (tmp_path / "away").rename(images)
    plan, version = toy.run(images, store)
    assert plan.todo.num_rows == 0
    assert version.data_digest == first.data_digest


def test_a_folder_without_images_and_without_a_past_is_an_input_error(tmp_path, store):
    (tmp_path / "images" / "cats").mkdir(parents=True)
    (tmp_path / "images" / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"1 file without an image or a class"):
        toy.plan(tmp_path / "images", store)


@pytest.mark.parametrize("mode", [0o000, 0o444], ids=["no names", "names only"])
def test_nothing_below_a_folder_that_cannot_be_read_counts_as_removed(public, as_a_user, mode):
    images, store = toy.pictures(public / "images"), public / "store"
    with as_a_user():
        _, version = toy.run(images, store)
    (images / "cats").chmod(mode)
    with as_a_user():
        plan = toy.plan(images, store, allow_removals=True)
    assert plan.changes == Changes(unchanged=20)
    assert not plan.needs_commit
    assert version.counts["ok"] == 20


def test_nothing_below_a_linked_folder_that_cannot_be_reached_counts_as_removed(public, as_a_user):
    images, store = toy.pictures(public / "images"), public / "store"
    (public / "share").mkdir()
    (images / "cats").rename(public / "share" / "cats")
    (images / "cats").symlink_to(public / "share" / "cats")
    with as_a_user():
        toy.run(images, store, outside_links=True)
    (public / "share").chmod(0)
    with as_a_user():
        plan = toy.plan(images, store, allow_removals=True, outside_links=True)
    assert plan.changes == Changes(unchanged=20)


# Work that a dead run left.


def test_what_a_dead_run_had_finished_is_adopted(images, store, tmp_path):
    toy.extract(images, store, toy.plan(images, store), range(2))
    plan, version = toy.run(images, store)
    assert (plan.adopted, plan.todo.num_rows) == (16, 4)
    assert_like_a_fresh_run(images, store, version, tmp_path / "fresh")


def test_a_run_that_died_just_before_its_commit_left_nothing_to_extract(images, store):
    toy.extract(images, store, toy.plan(images, store))
    plan, version = toy.run(images, store)
    assert (plan.adopted, plan.todo.num_rows, plan.needs_commit) == (20, 0, True)
    assert version.counts["ok"] == 20
    assert not toy.plan(images, store).needs_commit


def test_work_is_adopted_though_images_came_and_went_in_between(images, store, tmp_path):
    first = toy.plan(images, store)
    toy.extract(images, store, first, range(2))
    done = set(first.todo["digest"].to_pylist()[:16])
    for index in range(5):
        toy.picture(images / f"birds/{index}.png", seed=500 + index)
    gone = next(path for path in images.glob("*/*.png") if digest_of(path) in done)
    gone.unlink()
    plan, version = toy.run(images, store, chunk_size=5)
    assert (plan.adopted, plan.todo.num_rows) == (15, 9)
    assert done.isdisjoint(plan.todo["digest"].to_pylist())
    assert_like_a_fresh_run(images, store, version, tmp_path / "fresh")


def test_a_second_death_loses_nothing_of_the_first(images, store):
    first = toy.plan(images, store)
    toy.extract(images, store, first, range(1))
    second = toy.plan(images, store, chunk_size=3)
    toy.extract(images, store, second, range(1, 3))
    plan, version = toy.run(images, store)
    assert (plan.adopted, plan.todo.num_rows) == (14, 6)
    assert version.counts["ok"] == 20


def test_what_a_dead_run_left_beside_a_version_is_adopted(images, store):
    toy.run(images, store)
    for index in range(10):
        toy.picture(images / f"birds/{index}.png", seed=500 + index)
    toy.extract(images, store, toy.plan(images, store), range(1))
    plan, version = toy.run(images, store)
    assert (plan.adopted, plan.todo.num_rows) == (8, 2)
    assert version.counts["ok"] == 30


@pytest.mark.parametrize(
    "harm",
    [lambda d: d[:-20], lambda d: d[:100] + bytes([d[100] ^ 1]) + d[101:], lambda d: b""],
    ids=["truncated", "altered", "empty"],
)
def test_a_damaged_shard_of_a_dead_run_is_not_adopted_and_does_not_stand_in_the_way(images, store, tmp_path, harm):
    first = toy.plan(images, store)
    refs = toy.extract(images, store, first, range(2))
    path = toy.space(images, store).store.shard(refs[0].name)
    path.write_bytes(harm(path.read_bytes()))
    plan = toy.plan(images, store)
    assert (plan.adopted, plan.todo.num_rows) == (8, 12)
    assert set(first.todo["digest"].to_pylist()[:8]) <= set(plan.todo["digest"].to_pylist())
    _, version = toy.run(images, store)
    assert_like_a_fresh_run(images, store, version, tmp_path / "fresh")


# Shards that are lost.


def test_a_lost_shard_costs_exactly_its_images(images, store):
    plan, first = toy.run(images, store)
    lost = set(plan.todo["digest"].to_pylist()[8:16])
    rows = first.read_rows(toy.space(images, store).store).to_pylist()
    (name,) = {row["shard"] for row in rows if row["digest"] in lost}
    toy.space(images, store).store.shard(name).unlink()
    again, second = toy.run(images, store)
    assert set(again.todo["digest"].to_pylist()) == lost
    assert (again.lost, again.changes) == (8, Changes(unchanged=20))
    assert second.data_digest == first.data_digest
    assert len(toy.features_of(images, store, second)) == 20
    assert not toy.plan(images, store).needs_commit


def test_a_lost_shard_of_images_that_are_gone_costs_nothing(images, store):
    toy.run(images, store, chunk_size=256)
    (path,) = shard_files(images, store)
    shutil.rmtree(images)
    toy.pictures(images, classes=("lynxes",), per_class=3)
    toy.picture(images / "lynxes/other.png", seed=7777)
    _, version = toy.run(images, store, allow_removals=True)
    path.unlink()
    plan, version = toy.run(images, store)
    assert (plan.lost, plan.todo.num_rows) == (3, 3)
    assert version.counts["ok"] == 4


@pytest.mark.parametrize("harm", [lambda d: d[:-20], lambda d: b""], ids=["truncated", "empty"])
def test_a_truncated_shard_of_a_version_heals_by_running_again(images, store, harm):
    _, first = toy.run(images, store)
    path = shard_files(images, store)[0]
    path.write_bytes(harm(path.read_bytes()))
    plan = toy.plan(images, store)
    assert plan.lost == plan.todo.num_rows > 0
    _, second = toy.run(images, store)
    assert second.data_digest == first.data_digest
    assert len(toy.features_of(images, store, second)) == 20


def test_images_that_only_another_feature_space_holds_are_stale(images, store):
    toy.run(images, store)
    space = toy.space(images, store).store
    space.space.rename(space.root / ("0" * 32))
    toy.picture(images / "cats/new.png", seed=99)
    plan = toy.plan(images, store)
    assert (plan.stale, plan.todo.num_rows, plan.changes.new) == (20, 21, 21)


# Images that cannot be used.


def test_a_broken_image_costs_its_own_row_and_is_not_tried_again(images, store):
    (images / "cats/broken.png").write_bytes(BROKEN)
    plan, version = toy.run(images, store)
    assert plan.todo.num_rows == 21
    assert version.counts == {"images": 21, "ok": 20, "pending": 0, "quarantined": 1}
    assert states(images, store, version)["cats/broken.png"] == ("quarantined", "not_image", 1)
    again = toy.plan(images, store)
    assert (again.todo.num_rows, again.needs_commit, again.changes) == (0, False, Changes(unchanged=21))


def test_a_broken_image_stays_condemned_under_another_name(images, store):
    (images / "cats/broken.png").write_bytes(BROKEN)
    toy.run(images, store)
    (images / "cats/broken.png").rename(images / "dogs/broken.png")
    shutil.copy(images / "dogs/broken.png", images / "cats/copy.png")
    plan, version = toy.run(images, store)
    assert plan.todo.num_rows == 0
    assert version.counts == {"images": 22, "ok": 20, "pending": 0, "quarantined": 2}


def test_repaired_bytes_are_tried(images, store, tmp_path):
    (images / "cats/broken.png").write_bytes(BROKEN)
    toy.run(images, store)
    toy.picture(images / "cats/broken.png", seed=99)
    plan, version = toy.run(images, store)
    assert (plan.changes, plan.todo.num_rows) == (Changes(changed=1, unchanged=20), 1)
    assert states(images, store, version)["cats/broken.png"] == ("ok", None, 0)
    assert_like_a_fresh_run(images, store, version, tmp_path / "fresh")


def test_a_broken_image_that_is_deleted_and_restored_is_tried_once_more(images, store):
    (images / "cats/broken.png").write_bytes(BROKEN)
    toy.run(images, store)
    (images / "cats/broken.png").unlink()
    toy.run(images, store)
    (images / "cats/broken.png").write_bytes(BROKEN)
    plan, version = toy.run(images, store)
    assert plan.todo.num_rows == 1
    assert toy.plan(images, store).todo.num_rows == 0
    assert states(images, store, version)["cats/broken.png"][:2] == ("quarantined", "not_image")


def test_what_a_dead_run_found_broken_is_not_tried_again(images, store):
    (images / "cats/broken.png").write_bytes(BROKEN)
    toy.extract(images, store, toy.plan(images, store))
    plan, version = toy.run(images, store)
    assert (plan.adopted, plan.todo.num_rows) == (21, 0)
    assert states(images, store, version)["cats/broken.png"][:2] == ("quarantined", "not_image")


def test_a_folder_of_broken_images_only_is_committed_as_such(tmp_path, store):
    images = tmp_path / "images"
    (images / "cats").mkdir(parents=True)
    for index in range(3):
        (images / f"cats/{index}.png").write_bytes(BROKEN + bytes([index]))
    _, version = toy.run(images, store)
    assert version.counts == {"images": 3, "ok": 0, "pending": 0, "quarantined": 3}
    assert not toy.plan(images, store).needs_commit


def test_an_image_that_changes_between_listing_and_reading_stays_pending(images, store, tmp_path):
    plan = toy.plan(images, store)
    toy.picture(images / "cats/000.png", seed=99)
    (images / "cats/001.png").unlink()
    toy.extract(images, store, plan)
    plan, version = toy.run(images, store)
    assert (plan.adopted, plan.todo.num_rows) == (18, 1)
    assert_like_a_fresh_run(images, store, version, tmp_path / "fresh")


def test_an_image_that_may_not_be_read_is_tried_again(public, as_a_user):
    images, store = toy.pictures(public / "images"), public / "store"
    (images / "cats/000.png").chmod(0)
    with as_a_user():
        plan, version = toy.run(images, store)
    assert plan.todo.num_rows == 19
    assert states(images, store, version)["cats/000.png"] == ("quarantined", "permission", 1)
    with as_a_user():
        assert not toy.plan(images, store).needs_commit
    (images / "cats/000.png").chmod(0o644)
    with as_a_user():
        plan, version = toy.run(images, store)
    assert plan.todo.num_rows == 1
    assert version.counts == {"images": 20, "ok": 20, "pending": 0, "quarantined": 0}


@pytest.mark.parametrize(("num_unreadable", "shut_first"), [(1, True), (1, False), (MOST_TWINS + 5, True)])
def test_a_readable_file_does_not_wait_for_its_unreadable_twins(public, as_a_user, shut_first, num_unreadable):
    images, store = toy.pictures(public / "images", per_class=2), public / "store"
    twins = [images / "cats" / f"-{index:02d}.png" for index in range(num_unreadable)]
    for twin in twins:
        shutil.copy(images / "cats/000.png", twin)
    with as_a_user():
        planned, _ = toy.run(images, store, limit=0)
        planned = None if shut_first else toy.plan(images, store)
    for twin in twins:
        twin.chmod(0)
    with as_a_user():
        planned = planned or toy.plan(images, store)
        where = toy.space(images, store).store
        refs = toy.extract(images, store, planned)
        version = commit(where, planned.parent, *finish(where, planned, refs))
        assert version.counts["ok"] == 4 + num_unreadable
        assert toy.plan(images, store).todo.num_rows == 0


# Splits.


def test_no_image_changes_sides_as_the_data_grow(images, store):
    before = splits(images, store)
    for index in range(60):
        toy.picture(images / f"birds/{index}.png", seed=500 + index)
    after = splits(images, store)
    assert {digest: after[digest] for digest in before} == before
    assert set(after.values()) == {"train", "validation"}


def test_identical_files_are_on_the_same_side(images, store):
    for path in list(images.glob("*/*.png")):
        shutil.copy(path, images / "dogs" / f"twin-{path.parent.name}-{path.name}")
    files = toy.plan(images, store, validation_fraction=0.5).files.to_pylist()
    sides = {(row["digest"], row["split"]) for row in files}
    assert len(sides) == 20
    assert len({side for _, side in sides}) == 2


def test_another_fraction_moves_images_and_extracts_nothing(images, store):
    toy.run(images, store, validation_fraction=0)
    plan, version = toy.run(images, store, validation_fraction=1)
    assert (plan.changes, plan.todo.num_rows) == (Changes(moved=20), 0)
    assert set(version.classes) == {"validation"}


def test_split_folders_are_believed(tmp_path, store):
    for index, split in enumerate(("train", "val", "test")):
        toy.pictures(tmp_path / "images" / split, per_class=2 + index, classes=(f"cats{index}", f"dogs{index}"))
    _, version = toy.run(tmp_path / "images", store)
    assert {split: sum(classes.values()) for split, classes in version.classes.items()} == {
        "train": 4,
        "validation": 6,
        "test": 8,
    }


# All of it together.


class Folder:
    """An image folder that random things happen to."""

    def __init__(self, root: Path, seed: int):
        self.root = toy.pictures(root, per_class=6)
        self.random = random.Random(seed)
        self.deleted: list[bytes] = []
        self.number = 10_000 * seed

    def any_path(self) -> Path:
        return self.random.choice(sorted(self.root.glob("*/*.png")))

    def free_path(self) -> Path:
        self.number += 1
        path = self.root / self.random.choice(["birds", "cats", "dogs"]) / f"{self.number}.png"
        path.parent.mkdir(exist_ok=True)
        return path

    def add(self) -> None:
        path = self.free_path()
        toy.picture(path, seed=self.number)

    def copy(self) -> None:
        shutil.copy(self.any_path(), self.free_path())

    def move(self) -> None:
        self.any_path().rename(self.free_path())

    def change(self) -> None:
        self.number += 1
        toy.picture(self.any_path(), seed=self.number)

    def swap(self) -> None:
        one, other = self.any_path(), self.any_path()
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)

    def delete(self) -> None:
        path = self.any_path()
        self.deleted.append(path.read_bytes())
        path.unlink()

    def restore(self) -> None:
        if self.deleted:
            self.free_path().write_bytes(self.random.choice(self.deleted))

    def spoil(self) -> None:
        self.number += 1
        self.any_path().write_bytes(BROKEN + str(self.number).encode())

    def touch(self) -> None:
        os.utime(self.any_path(), (self.number, self.number))

    def date_far(self) -> None:
        seconds = self.random.choice([-(2**31), 10**10, 15 * 10**9])  # 1901, 2286, 2445
        os.utime(self.any_path(), (seconds, seconds))

    def rename_class(self) -> None:
        one = self.any_path().parent
        one.rename(one.with_name(f"{one.name[:5]}{self.number}"))
        self.number += 1

    def happen(self) -> None:
        events = [self.add, self.add, self.copy, self.move, self.change, self.swap, self.delete, self.restore]
        self.random.choice([*events, self.spoil, self.touch, self.date_far, self.rename_class])()


def interfere(folder: Folder, store: Path) -> None:
    """Let a run die, do only part of the work, or lose a shard."""
    what = folder.random.choice(["nothing", "death", "limit", "loss"])
    if what == "death":
        plan = toy.plan(folder.root, store, allow_removals=True, chunk_size=2)
        toy.extract(folder.root, store, plan, range(0, plan.num_chunks, 2))
    elif what == "limit":
        toy.run(folder.root, store, allow_removals=True, limit=2)
    elif what == "loss" and (shards := shard_files(folder.root, store)):
        folder.random.choice(shards).unlink()


@pytest.mark.parametrize("seed", range(6))
def test_after_any_history_the_store_is_like_a_fresh_one(tmp_path, seed, settled, monkeypatch, caplog):
    monkeypatch.setattr("storage.source.digest_cache.CACHE_ROWS_AT_A_TIME", 4)
    monkeypatch.setattr("storage.manifest.segments.ROWS_PER_SEGMENT", 4)
    folder, store = Folder(tmp_path / "images", seed), tmp_path / "store"
    toy.run(folder.root, store)
    for step in range(4):
        for _ in range(folder.random.randint(1, 4)):
            folder.happen()
        interfere(folder, store)
        _, version = toy.run(folder.root, store, allow_removals=True, chunk_size=folder.random.randint(1, 9))
        assert_like_a_fresh_run(folder.root, store, version, tmp_path / f"fresh-{step}")
        assert not toy.plan(folder.root, store).needs_commit
        assert "digest cache" not in caplog.text


# Faults of the machine


def test_more_shards_than_a_process_may_open_are_adopted_and_committed(tmp_path):
    code = """
import resource, sys
from pathlib import Path
from tests import toy
images, store = toy.pictures(Path(sys.argv[1]), per_class=60), Path(sys.argv[2])
refs = toy.extract(images, store, toy.plan(images, store, chunk_size=1))
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
planned, version = toy.run(images, store)
print(len(refs), planned.adopted, version.counts["ok"])
"""
    call = [sys.executable, "-c", code, str(tmp_path / "images"), str(tmp_path / "store")]
    done = subprocess.run(call, capture_output=True, text=True, cwd=PROJECT)
    assert done.stdout.split() == ["120", "120", "120"], done.stderr


def unreadable(listing: Listing) -> Listing:
    """The listing of a share whose files can be seen and not be read."""
    count = listing.files.num_rows
    files = listing.files.set_column(6, "digest", pa.nulls(count, pa.binary(32)))
    return replace(listing, files=files.set_column(7, "reason", pa.array(["read_error"] * count)))


def test_files_that_cannot_be_read_for_a_while_stay_as_they_were(images, store):
    _, version = toy.run(images, store)
    where = toy.space(images, store).store
    listing = list_images(scan_folder(images), where.cache)
    planned = make_plan(where, unreadable(listing), PlanOptions())
    assert (planned.changes.unchanged, planned.needs_commit) == (20, False)
    assert same_content(planned.files, version.file_segments(where))


def test_a_file_that_cannot_be_read_and_looks_otherwise_is_not_believed_to_be_the_same(images, store):
    toy.run(images, store)
    where = toy.space(images, store).store
    os.utime(images / "cats" / "000.png", ns=(1, 1))
    planned = make_plan(where, unreadable(list_images(scan_folder(images), where.cache)), PlanOptions())
    assert (planned.changes.unchanged, planned.changes.changed) == (19, 1)
    (odd,) = [row for row in planned.files.to_pylist() if row["status"] != "ok"]
    assert (odd["path"], odd["status"], odd["reason"]) == (b"cats/000.png", "quarantined", "read_error")


def test_what_is_wrong_with_another_feature_space_is_not_this_ones_affair(images, store):
    toy.run(images, store)
    toy.space(images, store).store.space.rename(store / ("e" * 32))
    (store / ("e" * 32) / "versions" / f"{1:020d}.json").write_text("{")
    assert toy.plan(images, store).stale == 0
