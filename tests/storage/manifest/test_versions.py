import dataclasses
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from storage.errors import StorageError, StoreDamaged, VersionConflict
from storage.layout import Store
from storage.manifest import segments
from storage.manifest.versions import commit, latest_version, read_version
from storage.schemas import FILES_SCHEMA, ROWS_SCHEMA
from storage.shards.shard import write_shard
from tests import toy


@pytest.fixture
def space(store) -> Store:
    return Store(store, "0" * 32)


def content(space: Store, numbers: list[int], label: str = "cat", changed: tuple[int, ...] = ()) -> tuple:
    """Files, rows and shards of one small image a number; those `changed` hold other bytes."""
    digests = [hashlib.sha256(f"{number} {number in changed}".encode()).digest() for number in numbers]
    ref = write_shard(space, digests, np.zeros((len(digests), 2), np.float16), {}, {})
    files = [
        {
            "path": f"{label}/{number:05d}.png".encode(),
            "digest": digest,
            "class": label,
            "split": "train",
            "status": "ok",
            **dict.fromkeys(["size", "mtime_ns", "ctime_ns", "attempts", "first_seen_ns", "last_seen_ns"], 1),
        }
        for number, digest in zip(numbers, digests, strict=True)
    ]
    rows = [{"digest": d, "view": 0, "shard": ref.name, "row": index} for index, d in enumerate(digests)]
    return (
        pa.Table.from_pylist(files, FILES_SCHEMA),
        pa.Table.from_pylist(sorted(rows, key=lambda row: row["digest"]), ROWS_SCHEMA),
        {ref.name: ref},
    )


def test_what_is_committed_is_read_back(space):
    files, rows, shards = content(space, [1, 2, 3])
    version = commit(space, None, files, rows, shards)
    assert (version.number, version.parent) == (1, 0)
    assert latest_version(space) == read_version(space, 1) == version
    assert version.read_files(space).equals(files)
    assert version.read_rows(space).equals(rows)
    assert version.shards == shards
    assert version.counts == {"images": 3, "ok": 3, "pending": 0, "quarantined": 0}
    assert version.classes == {"train": {"cat": 3}}


def test_there_is_no_version_before_the_first(space):
    assert latest_version(space) is None
    with pytest.raises(StoreDamaged, match="version 1 is missing"):
        read_version(space, 1)


def test_versions_count_up_and_the_old_ones_stay(space):
    parent = None
    for number in range(1, 12):
        parent = commit(space, parent, *content(space, list(range(number))))
        assert parent.number == number
    assert latest_version(space) == parent
    assert [read_version(space, number).counts["images"] for number in range(1, 12)] == list(range(1, 12))


def test_committing_the_same_again_gives_the_version_that_is_there(space):
    arguments = content(space, [1, 2])
    version = commit(space, None, *arguments)
    before = {path: path.read_bytes() for path in space.space.rglob("*.*")}
    assert commit(space, None, *arguments) == version
    assert {path: path.read_bytes() for path in space.space.rglob("*.*")} == before


def test_another_commit_of_the_same_number_is_a_conflict_and_changes_nothing(space):
    version = commit(space, None, *content(space, [1, 2]))
    with pytest.raises(VersionConflict, match="version 1"):
        commit(space, None, *content(space, [1, 2, 3]))
    assert latest_version(space) == version
    assert commit(space, version, *content(space, [1, 2, 3])).number == 2


def test_of_many_commits_at_once_exactly_one_becomes_the_version(space):
    contents = [content(space, list(range(count))) for count in range(1, 9)]

    def try_commit(arguments: tuple) -> str | None:
        try:
            return commit(space, None, *arguments).commit_id
        except VersionConflict:
            return None

    with ThreadPoolExecutor(8) as threads:
        won = [commit_id for commit_id in threads.map(try_commit, contents) if commit_id]
    assert won == [read_version(space, 1).commit_id]


def test_nothing_half_done_is_left_aside(space):
    commit(space, None, *content(space, [1, 2]))
    assert not list(space.aside.iterdir())


def test_a_version_without_images_can_be_committed(space):
    empty = (FILES_SCHEMA.empty_table(), ROWS_SCHEMA.empty_table(), {})
    version = commit(space, None, *empty)
    assert version.counts["images"] == 0
    assert version.read_files(space).num_rows == version.read_rows(space).num_rows == 0


def test_one_changed_image_among_many_leaves_the_other_segments_alone(space, monkeypatch):
    monkeypatch.setattr(segments, "ROWS_PER_SEGMENT", 16)
    numbers = list(range(400))
    files, rows, shards = content(space, numbers)
    first = commit(space, None, files, rows, shards)
    changed_files, changed_rows, more = content(space, numbers, changed=(123,))
    # Only the changed image has a row in the new shard; the others keep theirs.
    new = set(changed_rows["digest"].to_pylist()) - set(rows["digest"].to_pylist())
    moved = [row for row in changed_rows.to_pylist() if row["digest"] in new]
    all_rows = sorted([*rows.to_pylist(), *moved], key=lambda row: row["digest"])
    table = pa.Table.from_pylist(all_rows, ROWS_SCHEMA)
    second = commit(space, first, changed_files, table, shards | more)
    assert len(first.files) > 10
    assert len(set(first.files) - set(second.files)) == 1
    assert len(first.rows) > 10
    assert set(first.rows) < set(second.rows)
    assert len(second.rows) == len(first.rows) + 1
    assert second.read_files(space).equals(changed_files)
    assert second.read_rows(space).equals(table)


def test_a_real_run_after_one_change_writes_few_segments(tmp_path, store, monkeypatch):
    monkeypatch.setattr(segments, "ROWS_PER_SEGMENT", 4)
    images = toy.pictures(tmp_path / "images", per_class=40)
    _, first = toy.run(images, store)
    toy.picture(images / "cats/017.png", seed=5000)
    _, second = toy.run(images, store)
    assert len(first.files) > 8
    assert len(set(first.files) - set(second.files)) == 1
    assert set(first.rows) < set(second.rows)
    assert len(second.rows) == len(first.rows) + 1


@pytest.mark.parametrize("kind", ["files", "rows"])
@pytest.mark.parametrize(
    "harm",
    [lambda d: d[:-1], lambda d: b"", lambda d: d[:50] + bytes([d[50] ^ 1]) + d[51:]],
    ids=["truncated", "empty", "altered"],
)
def test_a_damaged_segment_is_refused(space, kind, harm):
    version = commit(space, None, *content(space, [1, 2, 3]))
    (name,) = getattr(version, kind)
    path = space.segments / name
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(StoreDamaged, match=name):
        getattr(version, f"read_{kind}")(space)


@pytest.mark.parametrize("kind", ["files", "rows"])
def test_a_damaged_segment_is_mended_by_the_commit_that_needs_it(space, kind):
    tables = content(space, [1, 2, 3])
    first = commit(space, None, *tables)
    (name,) = getattr(first, kind)
    (space.segments / name).write_bytes(b"cut")
    (space.versions / f"{1:020d}.json").unlink()  # what the error says
    again = commit(space, None, *tables)
    assert getattr(again, f"read_{kind}")(space).equals(tables[0 if kind == "files" else 1])


def test_a_missing_segment_is_refused(space):
    version = commit(space, None, *content(space, [1, 2, 3]))
    (space.segments / version.files[0]).unlink()
    with pytest.raises(StoreDamaged, match="missing"):
        version.read_files(space)


def test_a_segment_outside_the_store_is_not_read(space, tmp_path):
    version = commit(space, None, *content(space, [1, 2, 3]))
    (space.segments / version.files[0]).rename(tmp_path / version.files[0])
    outside = dataclasses.replace(version, files=(f"../../../{version.files[0]}",))
    with pytest.raises(StoreDamaged):
        outside.read_files(space)


@pytest.mark.parametrize("harm", ["", "{", "[]", "null", "{}", '{"format_version": 1, "shards": []}'])
def test_a_damaged_version_is_refused_with_its_path(space, harm):
    commit(space, None, *content(space, [1]))
    path = space.versions / f"{1:020d}.json"
    path.write_text(harm)
    with pytest.raises(StoreDamaged, match=path.name):
        latest_version(space)


def test_a_version_of_an_unknown_format_is_refused_by_number_and_not_called_damaged(space):
    commit(space, None, *content(space, [1]))
    path = space.versions / f"{1:020d}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(StorageError, match="99") as refusal:
        latest_version(space)
    assert not isinstance(refusal.value, StoreDamaged)


def test_files_that_are_no_versions_are_passed_over(space):
    version = commit(space, None, *content(space, [1]))
    for name in ("00000000000000000002.json~", "2.json", "notes.json", "x0000000000000000002.json"):
        (space.versions / name).write_text("{}")
    assert latest_version(space) == version
