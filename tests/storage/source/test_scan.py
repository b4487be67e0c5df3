import os
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import InputError
from storage.source.labels import Label
from storage.source.scan import scan_folder
from storage.source.scan_table import RACY_NS, Scan, is_sure
from storage.source.walk import SCAN_SCHEMA, ObjectWalk, wrapped
from tests.examples import examples


def write(root: Path, *paths: str | bytes) -> Path:
    for path in paths:
        full = os.path.join(os.fsencode(root), os.fsencode(path))
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb") as file:
            file.write(b"bytes")
    return root


def paths(scan: Scan) -> list[bytes]:
    return scan.files["path"].to_pylist()


def labels(scan: Scan) -> dict[bytes, tuple[str | None, str]]:
    return {row["path"]: (row["split"], row["class"]) for row in scan.files.to_pylist()}


def test_the_first_folder_level_is_the_class_at_any_depth_below(tmp_path):
    write(tmp_path, "cat/1.jpg", "cat/old/2.jpg", "dog/a/b/c/3.jpg")
    assert labels(scan_folder(tmp_path)) == {
        b"cat/1.jpg": (None, "cat"),
        b"cat/old/2.jpg": (None, "cat"),
        b"dog/a/b/c/3.jpg": (None, "dog"),
    }


def test_split_folders_give_the_split_and_the_class_below_them(tmp_path):
    write(tmp_path, "train/cat/1.jpg", "val/cat/a/2.jpg", "valid/dog/3.jpg", "validation/dog/4.jpg", "test/cat/5.jpg")
    assert labels(scan_folder(tmp_path)) == {
        b"train/cat/1.jpg": ("train", "cat"),
        b"val/cat/a/2.jpg": ("validation", "cat"),
        b"valid/dog/3.jpg": ("validation", "dog"),
        b"validation/dog/4.jpg": ("validation", "dog"),
        b"test/cat/5.jpg": ("test", "cat"),
    }


def test_a_given_layout_overrides_the_guess(tmp_path):
    write(tmp_path, "train/x/1.png")
    assert labels(scan_folder(tmp_path, "classes")) == {b"train/x/1.png": (None, "train")}


def test_a_folder_that_is_no_split_is_refused_by_name_where_splits_are_asked_for(tmp_path):
    write(tmp_path, "train/x/1.png", "holiday/x/1.png")
    with pytest.raises(InputError, match="holiday"):
        scan_folder(tmp_path, "splits")


def test_what_is_not_an_image_of_a_class_is_counted_and_not_listed(tmp_path):
    write(tmp_path, "cat/1.png", "rootless.png", "cat/notes.txt", "cat/noext", "cat/.2.png", "cat/png")
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    os.symlink(tmp_path / "nowhere.png", tmp_path / "cat" / "dangling.png")
    scan = scan_folder(tmp_path)
    assert paths(scan) == [b"cat/1.png"]
    assert scan.ignored == 7


def test_an_image_in_a_split_without_a_class_is_ignored(tmp_path):
    scan = scan_folder(write(tmp_path, "train/cat/1.png", "train/2.png"))
    assert paths(scan) == [b"train/cat/1.png"]
    assert scan.ignored == 1


@pytest.mark.parametrize("name", ["1.jpg", "1.JPG", "1.jpeg", "1.JpEg", "1.PNG", "1.gif", "1.bmp", "1.webp", "1.a.png"])
def test_suffixes_count_in_any_case(tmp_path, name):
    assert paths(scan_folder(write(tmp_path, f"cat/{name}"))) == [f"cat/{name}".encode()]


def test_hidden_folders_are_skipped_at_every_level(tmp_path):
    scan = scan_folder(write(tmp_path, ".git/1.png", "cat/.thumbs/1.png", "cat/a/.b/c/1.png", "cat/1.png"))
    assert paths(scan) == [b"cat/1.png"]


def test_files_are_sorted_by_the_bytes_of_the_whole_path(tmp_path):
    write(tmp_path, "a/y.png", "a-b/x.png", "a0/z.png", "a/b/x.png", "a/b-c.png", "B/x.png", "é/x.png")
    assert paths(scan_folder(tmp_path)) == [
        b"B/x.png",
        b"a-b/x.png",
        b"a/b-c.png",
        b"a/b/x.png",
        b"a/y.png",
        b"a0/z.png",
        "é/x.png".encode(),
    ]


names = st.binary(min_size=1, max_size=3).filter(lambda name: not {0, 0x2F} & set(name) and name[0] != 0x2E)


@settings(max_examples=examples(13))
@given(st.sets(st.tuples(names, st.lists(names, max_size=2).map(tuple), names), max_size=6))
def test_every_image_is_listed_once_in_order_whatever_bytes_its_name_holds(tmp_path_factory, tree):
    root = tmp_path_factory.mktemp("tree")
    # `d` and `.png` keep a file from having the name of a folder.
    expected = {b"/".join([label + b"d", *[f + b"d" for f in deeper], name + b".png"]) for label, deeper, name in tree}
    assert paths(scan_folder(write(root, *expected), "classes")) == sorted(expected)


def test_names_that_are_not_utf8_keep_their_bytes_and_get_a_readable_class(tmp_path):
    scan = scan_folder(write(tmp_path, b"caf\xe9/\xff.png"))
    assert labels(scan) == {b"caf\xe9/\xff.png": (None, "caf\\xe9")}


def test_a_link_to_a_folder_above_ends(tmp_path):
    write(tmp_path, "cat/a/1.png")
    os.symlink(tmp_path, tmp_path / "cat" / "a" / "root")
    os.symlink(tmp_path / "cat", tmp_path / "cat" / "a" / "cat")
    assert paths(scan_folder(tmp_path)) == [b"cat/a/1.png"]


def test_two_folders_that_link_to_each_other_end(tmp_path):
    write(tmp_path, "cat/1.png", "dog/2.png")
    os.symlink(tmp_path / "dog", tmp_path / "cat" / "dog")
    os.symlink(tmp_path / "cat", tmp_path / "dog" / "cat")
    found = paths(scan_folder(tmp_path))
    assert found == [b"cat/1.png", b"cat/dog/2.png", b"dog/2.png", b"dog/cat/1.png"]


@pytest.mark.parametrize("place", ["cat/loop", "loop"])
def test_a_link_to_itself_is_no_image_and_stops_nothing(tmp_path, place):
    write(tmp_path, "cat/1.png")
    os.symlink(tmp_path / place, tmp_path / place)
    assert paths(scan_folder(tmp_path)) == [b"cat/1.png"]


def test_linked_folders_and_files_are_followed(tmp_path):
    write(tmp_path, "elsewhere/1.png", "images/cat/2.png")
    os.symlink(tmp_path / "elsewhere", tmp_path / "images" / "dog")
    os.symlink(tmp_path / "elsewhere" / "1.png", tmp_path / "images" / "cat" / "linked.png")
    scan = scan_folder(tmp_path / "images", outside_links=True)
    assert paths(scan) == [b"cat/2.png", b"cat/linked.png", b"dog/1.png"]
    assert scan.files["size"].to_pylist() == [5, 5, 5]


def test_a_missing_root_and_a_file_as_root_are_input_errors(tmp_path):
    write(tmp_path, "file.png")
    with pytest.raises(InputError, match="no folder"):
        scan_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a file"):
        scan_folder(tmp_path / "file.png")


def test_an_empty_folder_is_an_empty_scan(tmp_path):
    scan = scan_folder(tmp_path)
    assert scan.files.num_rows == scan.ignored == 0
    assert scan.files.schema == SCAN_SCHEMA


def test_a_folder_that_cannot_be_listed_is_reported_and_the_others_are_scanned(public, as_a_user):
    write(public, "cat/1.png", "cat/shut/2.png", "dog/3.png")
    (public / "cat" / "shut").chmod(0)
    with as_a_user():
        scan = scan_folder(public)
    assert paths(scan) == [b"cat/1.png", b"dog/3.png"]
    assert scan.unreadable == (b"cat/shut/",)


def test_a_root_that_cannot_be_listed_is_an_input_error(public, as_a_user):
    (public / "shut").mkdir(mode=0)
    with as_a_user(), pytest.raises(InputError, match="cannot be listed"):
        scan_folder(public / "shut")


def test_a_folder_whose_files_cannot_be_looked_at_is_reported(public, as_a_user):
    write(public, "cat/1.png", "cat/seen/2.png")
    (public / "cat" / "seen").chmod(0o444)  # names can be listed, but not the files behind them
    with as_a_user():
        scan = scan_folder(public)
    assert paths(scan) == [b"cat/1.png"]
    assert scan.unreadable == (b"cat/seen/",)


def test_a_link_into_a_folder_that_may_not_be_entered_costs_only_itself(public, as_a_user):
    write(public, "images/cat/1.png", "shut/inner/2.png")
    os.symlink(public / "shut" / "inner", public / "images" / "cat" / "link")
    (public / "shut").chmod(0)
    with as_a_user():
        scan = scan_folder(public / "images", outside_links=True)
    assert paths(scan) == [b"cat/1.png"]


def test_scanning_twice_gives_the_same_digest(tmp_path):
    write(tmp_path, "cat/1.png", "dog/2.png")
    assert scan_folder(tmp_path).digest == scan_folder(tmp_path).digest


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "cat/1.png").rename(root / "cat/3.png"),
        lambda root: (root / "cat/1.png").write_bytes(b"more bytes"),
        lambda root: os.utime(root / "cat/1.png", ns=(1, 1)),
        lambda root: (root / "cat").rename(root / "tac"),
        lambda root: (root / "cat/1.png").unlink(),
    ],
    ids=["name", "size", "time", "label", "removal"],
)
def test_any_change_gives_another_scan_digest(tmp_path, change):
    write(tmp_path, "cat/1.png", "dog/2.png")
    before = scan_folder(tmp_path).digest
    change(tmp_path)
    assert scan_folder(tmp_path).digest != before


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(10**28), 10**28))
def test_any_time_fits_into_64_bits_and_what_fits_stays_as_it_is(usual, any_time):
    assert wrapped(usual) == usual
    assert -(2**63) <= wrapped(any_time) < 2**63
    assert wrapped(any_time + 1) != wrapped(any_time)


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_file_is_sure_unless_its_time_is_close_to_that_of_the_look(time_ns):
    now = 1_800_000_000_000_000_000
    files = pa.table({"mtime_ns": [0, time_ns], "ctime_ns": [time_ns, 0]})
    assert is_sure(files, now).tolist() == [abs(now - time_ns) > RACY_NS] * 2


@pytest.mark.parametrize("year", [1, 1600, 2026, 2263, 9999])
def test_an_object_of_any_date_is_listed(year):
    walk = ObjectWalk(None, lambda prefix, name: Label("cats", None))
    walk.file(b"cats/", b"1.png", {"LastModified": datetime(year, 1, 1, tzinfo=UTC), "size": 1, "ETag": "e"})
    assert walk.rows.table()["path"].to_pylist() == [b"cats/1.png"]


def test_a_scan_of_young_files_is_not_settled(tmp_path, monkeypatch):
    write(tmp_path, "cat/1.png")
    os.utime(tmp_path / "cat/1.png", (1, 1))  # an old mtime alone proves nothing
    monkeypatch.setattr("storage.source.scan_table.RACY_NS", 3_600_000_000_000)
    assert not scan_folder(tmp_path).is_settled
    monkeypatch.setattr("storage.source.scan_table.RACY_NS", 0)
    assert scan_folder(tmp_path).is_settled
