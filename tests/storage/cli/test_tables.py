import re
from collections import Counter
from dataclasses import fields

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.cli.tables import (
    SHOWN_PATHS,
    change_summary,
    diff_lines,
    quarantine_lines,
    shard_lines,
    spec_lines,
    version_lines,
)
from storage.manifest.diff import difference
from storage.manifest.file_table import counts, with_status
from storage.manifest.findings import SHOWN_CLASSES, class_lines
from storage.manifest.space import differences, spaces
from storage.manifest.versions import Version, read_version
from storage.schemas import CORRECTIONS_SCHEMA, FILES_SCHEMA, ROWS_SCHEMA
from tests import toy
from tests.examples import examples
from tests.storage.manifest.test_diff import EMPTY, Folder, digest, files_of, folders
from vision.specs import FeatureSpec

numbers = st.sets(st.integers(0, 5))
few = settings(max_examples=examples(10))  # each makes four tables and more


def committed(number: int, files: pa.Table) -> Version:
    return Version(number, "", number - 1, (), (), {}, counts(files), {}, "", "2025-09-01T12:00:00+00:00")


def files_with(folder: Folder, extracted: set[int]) -> pa.Table:
    """The files of a folder in which images of these bytes are `ok`; 5 is always unusable."""
    has_row = pa.array([digest(number) for number in extracted - {5}], pa.binary(32))
    return with_status(files_of(folder), has_row, {digest(5): "truncated"})


def told(before: pa.Table, files: pa.Table, limit: int = 0) -> tuple[Counter[str], list[str]]:
    """The counts of a difference by word as its head says, and the lines of its images."""
    lines = diff_lines(committed(1, before), committed(2, files), before, files, difference(files, before), limit)
    head = next(index for index, line in enumerate(lines) if line.startswith("changes: "))
    counted = re.findall(r"(\d+) (?:only in )?([a-z-]+)", lines[head])
    return Counter({word: int(number) for number, word in counted}), lines[head + 1 :]


@few
@given(folders, folders, numbers, numbers)
def test_the_counts_of_a_difference_are_those_of_its_lines(then, now, extracted_then, extracted_now):
    counted, lines = told(files_with(then, extracted_then), files_with(now, extracted_now))
    assert counted == Counter(line.split()[0] for line in lines)


@few
@given(folders, folders, numbers, numbers)
def test_the_way_back_has_the_same_changes_with_new_and_removed_exchanged(then, now, extracted_then, extracted_now):
    before, files = files_with(then, extracted_then), files_with(now, extracted_now)
    there, back = told(before, files)[0], told(files, before)[0]
    there["new"], there["removed"] = there["removed"], there["new"]
    assert +there == back


@few
@given(folders, numbers)
def test_a_version_differs_in_nothing_from_itself(folder, extracted):
    files = files_with({path: image for path, image in folder.items() if image[0] is not None}, extracted)
    assert told(files, files) == (Counter(), [])


@few
@given(folders, folders, st.integers(1, 8))
def test_a_limit_keeps_the_first_lines_and_says_how_many_more_there_are(then, now, limit):
    before, files = files_of(then), files_of(now)
    every, shown = told(before, files)[1], told(before, files, limit)[1]
    assert shown[:limit] == every[:limit]
    more = len(every) - limit
    assert shown[limit:] == ([f"... and {more} more; --limit 0 shows all"] if more > 0 else [])


@pytest.mark.parametrize(
    ("now", "line"),
    [
        ({}, "removed     a"),
        ({b"a": (1, "cat", "test")}, "changed     a"),
        ({b"a": (1, "dog", "test")}, "changed     a: cat → dog"),
        ({b"a": (0, "dog", "test")}, "relabelled  a: cat → dog"),
        ({b"a": (0, "cat", "train")}, "re-split    a: test → train"),
        ({b"b": (0, "cat", "test")}, "moved       a → b"),
        ({b"b": (0, "cat", "train")}, "moved       a → b: test → train"),
        ({b"b": (0, "dog", "test")}, "relabelled  a → b: cat → dog"),
        ({b"a": (5, "cat", "test")}, "changed     a: ok → quarantined (truncated)"),
        ({b"a": (2, "cat", "test")}, "changed     a: ok → pending"),
        ({b"a": (0, "cat", "test"), b"\n": (5, "cat", "test")}, "new         \\n: quarantined (truncated)"),
    ],
)
def test_a_line_says_what_is_another_than_before(now, line):
    before = files_with({b"a": (0, "cat", "test")}, {0, 1})
    assert told(before, files_with(now, {0, 1}))[1] == [line]


def test_an_image_whose_status_alone_is_another_has_a_line():
    folder: Folder = {b"a": (0, "cat", None), b"b": (1, "cat", None)}
    assert told(files_with(folder, {1}), files_with(folder, {0, 1}))[1] == ["status      a: pending → ok"]


def test_changes_are_told_without_those_that_did_not_happen():
    none = dict.fromkeys(["new", "changed", "moved", "re-split", "relabelled", "removed", "status"], 0)
    assert change_summary(none | {"unchanged": 5}) == "none"
    assert change_summary(none | {"new": 1200, "status": 1}) == "1,200 new, 1 only in status"


@given(st.integers(1, 3 * SHOWN_CLASSES))
def test_the_first_classes_are_shown_and_all_are_summed(num_classes):
    by_class = {f"{index:03d}": index + 1 for index in range(num_classes)}
    lines = class_lines({"train": by_class, "test": {"000": 7}})
    cells = [line.split() for line in lines]
    assert cells[0] == ["usable", "images", "train", "test", "all"]
    assert cells[1] == ["000", "1", "7", "8"]
    assert [row[0] for row in cells[1 : SHOWN_CLASSES + 1]] == list(by_class)[:SHOWN_CLASSES] + (
        ["all"] if num_classes in range(2, SHOWN_CLASSES) else []
    )
    assert (f"  ... and {num_classes - SHOWN_CLASSES} more" in lines) == (num_classes > SHOWN_CLASSES)
    if num_classes > 1:
        total = num_classes * (num_classes + 1) // 2
        assert [int(cell.replace(",", "")) for cell in cells[-1][3:]] == [total, 7, total + 7]


def test_unusable_images_are_told_by_reason_with_the_first_paths():
    template = files_of({b"a": (5, "cat", None)}).to_pylist()[0] | {"status": "quarantined"}
    rows = [template | {"path": b"%d\n" % index, "reason": "truncated"} for index in range(SHOWN_PATHS + 2)]
    rows.append(template | {"path": b"a", "reason": "zero_byte"})
    assert quarantine_lines(pa.Table.from_pylist(rows, FILES_SCHEMA)) == [
        "quarantined images",
        "  truncated: 7",
        *(f"    {index}\\n" for index in range(SHOWN_PATHS)),
        "    ... and 2 more",
        "  zero_byte: 1",
        "    a",
    ]
    assert quarantine_lines(files_of({b"a": (0, "cat", None)})) == []


def test_rows_of_images_that_are_gone_are_dead(lived_in):
    (store,) = spaces(lived_in)
    for number, dead in ((1, "0 dead rows"), (3, "1 dead row"), (4, "2 dead rows")):
        version = read_version(store, number)
        (line,) = shard_lines(version.shards, version.read_files(store), version.read_rows(store), absent=0)
        assert line.endswith(dead)
        num_rows = sum(ref.num_rows for ref in version.shards.values())
        size_bytes = sum(path.stat().st_size for name in version.shards for path in store.shards.glob(f"*/{name}"))
        assert f": {num_rows} rows, {size_bytes / 1000:.1f} kB, {round(size_bytes / num_rows)} bytes per image" in line


def test_shards_that_are_not_on_disk_are_told(images, store):
    _, version = toy.run(images, store)
    (space,) = spaces(store)
    lines = shard_lines(version.shards, version.read_files(space), version.read_rows(space), absent=2)
    assert lines[1].startswith("2 of them missing")


def test_a_version_without_images_can_be_told():
    lines = version_lines(
        committed(1, EMPTY), EMPTY, ROWS_SCHEMA.empty_table(), CORRECTIONS_SCHEMA.empty_table(), newest=1, absent=0
    )
    assert lines[1:] == ["0 images: 0 ok, 0 pending, 0 quarantined", "", "0 shards: 0 rows, 0 bytes"]


def test_a_spec_is_told_whole_even_where_a_key_is_unknown_or_missing():
    words = "\n".join(spec_lines(toy.SPEC.record() | {"colour": "sepia\n"}))
    assert all(str(value) in words for value in toy.SPEC.record().values())
    assert "colour         sepia\\n" in words
    assert "unknown" in "\n".join(spec_lines({}))


def test_two_spaces_that_differ_in_what_people_choose_are_told_apart():
    one = toy.SPEC.record()
    others = [
        {"weights": "1" * 32},
        {"image_size": 64},
        {"pooling": "avg"},
        {"dtype": "float32"},
        {"precision": "mixed_float16"},
        {"exif": "apply"},
        {"rescale": 1 / 255},
        {"sixteen_bit": "scale"},
        {"calibration": "another"},
        {"of_a_later_release": "yes"},
    ]
    assert {name for other in others for name in other} >= {field.name for field in fields(FeatureSpec)} - {
        "backbone",
        "preprocessing",
        "maps",
    }
    for other in [{"backbone": "vgg19"}, *others]:
        told = differences([one, one | other])
        assert len(set(told)) == 2
        assert all(name in text for name in other for text in told)


def test_a_space_is_described_by_the_keys_in_which_the_spaces_differ():
    one = toy.SPEC.record()
    assert differences([one]) == [""]
    others = [one, one | {"dtype": "float32"}, one | {"weights": "1" * 32, "colour": "sepia"}]
    assert differences(others) == [
        "no colour, dtype float16, weights 00000000…",
        "no colour, dtype float32, weights 00000000…",
        "colour sepia, dtype float16, weights 11111111…",
    ]
