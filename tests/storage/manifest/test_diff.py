import hashlib
import os
from dataclasses import astuple
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.manifest.diff import Changes, compare, difference, pairs
from storage.schemas import DIGEST, FILES_SCHEMA
from storage.source.splits import PLAIN
from storage.source.walk import SCAN_SCHEMA
from tests import toy

EMPTY = FILES_SCHEMA.empty_table()
LISTED_SCHEMA = pa.schema([*SCAN_SCHEMA, pa.field("digest", DIGEST), pa.field("reason", pa.string())])

# A folder as a test sees it: path → (number of its bytes or None where unreadable, class, split or None).
Folder = dict[bytes, tuple[int | None, str, str | None]]
image = st.tuples(
    st.one_of(st.none(), st.integers(0, 5)),
    st.sampled_from(["cat", "dog"]),
    st.sampled_from([None, *sorted(set(PLAIN.values()))]),
)
folders = st.dictionaries(st.binary(min_size=1, max_size=1), image, max_size=12)


def digest(number: int) -> bytes:
    return hashlib.sha256(bytes([number])).digest()


def listed(folder: Folder) -> pa.Table:
    rows = [
        {
            "path": path,
            "size": 1,
            "mtime_ns": 1,
            "ctime_ns": 1,
            "class": label,
            "split": split,
            "digest": None if number is None else digest(number),
            "reason": "permission" if number is None else None,
        }
        for path, (number, label, split) in sorted(folder.items())
    ]
    return pa.Table.from_pylist(rows, LISTED_SCHEMA)


def pieces(files: pa.Table) -> list[pa.Table]:
    """A table as the segments of a parent might hold it."""
    return [files.slice(start, 2) for start in range(0, files.num_rows, 2)]


def files_of(folder: Folder) -> pa.Table:
    return compare(listed(folder), (), (), 0.2)[0]


@given(folders, folders)
def test_every_live_image_is_counted_once_and_the_removed_make_up_the_difference(then, now):
    before = files_of(then)
    files, changes = compare(listed(now), pieces(before), (), 0.2)
    *live, removed, from_test = astuple(changes)
    assert min(*live, removed) >= 0
    test = {path for path, image in then.items() if image[2] == "test"}
    assert from_test == sum(path in test and image[2] != "test" for path, image in now.items())
    assert sum(live) == files.num_rows == len(now)
    assert len(then) + changes.new - removed == len(now)


@given(folders)
def test_what_is_compared_with_itself_is_unchanged(folder):
    readable = {path: image for path, image in folder.items() if image[0] is not None}
    before = files_of(readable)
    files, changes = compare(listed(readable), pieces(before), (), 0.2)
    assert changes == Changes(unchanged=len(readable))
    assert files.equals(before)


@given(folders, folders)
def test_files_are_sorted_by_path_and_match_the_schema(then, now):
    files, _ = compare(listed(now), pieces(files_of(then)), (), 0.2)
    assert files["path"].to_pylist() == sorted(now)
    assert files.schema.equals(FILES_SCHEMA)
    files.validate(full=True)


@given(folders, folders)
def test_nothing_below_a_folder_that_could_not_be_listed_counts_as_removed(then, now):
    readable = {path: image for path, image in then.items() if image[0] is not None}
    then = {b"a/" + path: image for path, image in readable.items()} | {b"b": (0, "cat", None)}
    now = {b"c/" + path: image for path, image in now.items()}
    before = files_of(then)
    files, changes = compare(listed(now), pieces(before), (b"a/",), 0.2)
    assert files["path"].to_pylist() == sorted({*then, *now} - {b"b"})
    assert changes.removed <= 1
    assert changes.unchanged == len(then) - 1


MIRRORED = {"new": "removed", "removed": "new"}


@given(folders, folders)
def test_each_file_of_either_table_is_in_exactly_one_pair(then, now):
    files, before = files_of(now), files_of(then)
    found = difference(files, before)
    assert sorted(row for rows in found.values() for row in rows[:, 0].tolist() if row >= 0) == [*range(len(then))]
    assert sorted(row for rows in found.values() for row in rows[:, 1].tolist() if row >= 0) == [*range(len(now))]
    assert (found["new"][:, 0] == -1).all()
    assert (found["removed"][:, 1] == -1).all()


@given(folders, folders)
def test_the_way_back_has_the_same_pairs_turned_round(then, now):
    there, back = pairs(files_of(now), files_of(then)), pairs(files_of(then), files_of(now))
    for word, rows in there.items():
        assert sorted(rows.tolist()) == sorted(back[MIRRORED.get(word, word)][:, ::-1].tolist())


def test_another_status_or_reason_alone_is_told_apart_from_unchanged():
    before = files_of({b"a": (0, "cat", None), b"b": (1, "cat", None), b"c": (2, "cat", None)})
    status = pa.array(["ok", "pending", "quarantined"])
    reason = pa.array([None, None, "truncated"], pa.string())
    index = before.schema.get_field_index
    files = before.set_column(index("status"), FILES_SCHEMA.field("status"), status)
    files = files.set_column(index("reason"), FILES_SCHEMA.field("reason"), reason)
    found = difference(files, before)
    assert found["status"].tolist() == [[0, 0], [2, 2]]
    assert found["unchanged"].tolist() == [[1, 1]]


def test_an_image_that_stays_unreadable_is_not_changed():
    folder: Folder = {b"a": (None, "cat", None), b"b": (1, "cat", None)}
    assert compare(listed(folder), pieces(files_of(folder)), (), 0.2)[1] == Changes(unchanged=2)


@pytest.mark.parametrize(
    ("now", "changes"),
    [
        ({}, Changes(removed=1)),
        ({b"a": (0, "cat", None), b"b": (1, "cat", None)}, Changes(new=1, unchanged=1)),
        ({b"a": (0, "cat", None), b"b": (0, "cat", None)}, Changes(new=1, unchanged=1)),
        ({b"a": (1, "cat", None)}, Changes(changed=1)),
        ({b"a": (None, "cat", None)}, Changes(unchanged=1)),
        ({b"a": (0, "dog", None)}, Changes(relabelled=1)),
        ({b"a": (0, "cat", "test")}, Changes(moved=1)),
        ({b"b": (0, "cat", None)}, Changes(moved=1)),
        ({b"b": (0, "dog", None)}, Changes(relabelled=1)),
        ({b"b": (1, "cat", None)}, Changes(new=1, removed=1)),
        ({b"b": (0, "cat", None), b"c": (0, "cat", None)}, Changes(new=1, moved=1)),
        ({b"b": (0, "dog", None), b"c": (0, "cat", None)}, Changes(new=1, moved=1)),
    ],
    ids=[
        "gone",
        "new",
        "copied",
        "changed",
        "barred",
        "relabelled",
        "resplit",
        "moved",
        "moved-to-class",
        "replaced",
        "moved-and-copied",
        "best",
    ],
)
def test_what_happened_to_one_image_is_named(now, changes):
    before = files_of({b"a": (0, "cat", None)})
    assert compare(listed(now), pieces(before), (), 0.2)[1] == changes


def test_two_images_that_swap_bytes_have_changed():
    before = files_of({b"a": (0, "cat", None), b"b": (1, "dog", None)})
    now: Folder = {b"a": (1, "cat", None), b"b": (0, "dog", None)}
    assert compare(listed(now), pieces(before), (), 0.2)[1] == Changes(changed=2)


def test_history_goes_on_at_the_same_path_and_begins_anew_elsewhere():
    before = files_of({b"a": (0, "cat", None), b"b": (1, "cat", None)})
    files, _ = compare(
        listed({b"a": (0, "cat", None), b"b": (2, "cat", None), b"c": (1, "cat", None)}), pieces(before), (), 0.2
    )
    then, now = before["first_seen_ns"].to_pylist(), files["first_seen_ns"].to_pylist()
    assert now[:2] == then
    assert now[2] > then[1]
    seen = files["last_seen_ns"].to_pylist()
    assert seen[0] == before["last_seen_ns"][0].as_py()
    assert seen[1] > before["last_seen_ns"][1].as_py()


def test_a_folder_gives_its_split_and_a_digest_where_the_folder_does_not():
    files = files_of({b"a": (0, "cat", "test"), b"b": (0, "cat", None), b"c": (None, "cat", None)})
    splits = files["split"].to_pylist()
    assert splits[0] == "test"
    assert splits[1] in ("train", "validation")
    assert splits[2] == "train"


def rename(images: Path) -> None:
    (images / "cats/003.png").rename(images / "cats/zzz.png")


def relabel(images: Path) -> None:
    (images / "cats/003.png").rename(images / "dogs/zzz.png")


def rename_class(images: Path) -> None:
    (images / "cats").rename(images / "lions")


def copy(images: Path) -> None:
    (images / "cats/copy.png").write_bytes((images / "cats/003.png").read_bytes())


def touch(images: Path) -> None:
    for path in images.glob("*/*.png"):
        os.utime(path, (1, 1))


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        (rename, Changes(moved=1, unchanged=19)),
        (relabel, Changes(relabelled=1, unchanged=19)),
        (rename_class, Changes(relabelled=10, unchanged=10)),
        (copy, Changes(new=1, unchanged=20)),
        (touch, Changes(unchanged=20)),
    ],
)
def test_what_keeps_its_bytes_is_never_extracted_again(images, store, change, changes):
    toy.run(images, store)
    change(images)
    plan = toy.plan(images, store)
    assert plan.changes == changes
    assert plan.todo.num_rows == 0
