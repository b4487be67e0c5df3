"""Labels from a table: what people write in a CSV or Parquet file is what the scan says, byte for byte."""

import csv
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.errors import InputError
from storage.labels import Label, read_labels
from storage.scan import scan_folder
from tests import toy

ROOT = Path("/photos")


def write(file: Path, rows: list[tuple], header: tuple[str, ...] = ("path", "class", "split")) -> Path:
    """The table as CSV or Parquet, by the suffix."""
    if file.suffix == ".csv":
        with open(file, "w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([header, *rows])
    else:
        columns = list(zip(*rows, strict=True)) or [[]] * len(header)
        pq.write_table(pa.table(dict(zip(header, columns, strict=True))), file)
    return file


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=12)
names = texts.filter(lambda name: "/" not in name and name not in (".", ".."))
splits = st.sampled_from([None, "train", "validation", "val", "valid", "test"])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@given(st.dictionaries(names, st.tuples(texts, splits), min_size=1, max_size=8))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_name_and_class_is_read_back_as_it_was_written(tmp_path, suffix, table):
    file = write(tmp_path / f"labels{suffix}", [(path, name, split) for path, (name, split) in table.items()])
    meant = {"val": "validation", "valid": "validation"}
    expected = {path.encode(): Label(name, meant.get(split, split)) for path, (name, split) in table.items()}
    assert read_labels(file, ROOT) == expected


def test_names_that_are_not_utf8_keep_their_bytes(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_bytes(b"path,class\ncaf\xe9.jpg,cats\n")
    assert read_labels(file, ROOT) == {b"caf\xe9.jpg": Label("cats", None)}


def test_classes_that_look_like_numbers_or_nothing_stay_as_written(tmp_path):
    rows = [("a", "007"), ("b", "1.0"), ("c", "nan"), ("d", "null"), ("e", "NA"), ("f", "true")]
    file = write(tmp_path / "labels.csv", rows, ("path", "class"))
    assert [label.name for label in read_labels(file, ROOT).values()] == [name for _, name in rows]


def test_numbers_and_categories_of_a_parquet_file_are_classes(tmp_path):
    table = {"path": ["a", "b"], "class": pa.array(["x", "y"]).dictionary_encode(), "width": [3, 4]}
    pq.write_table(pa.table(table), tmp_path / "words.parquet")
    pq.write_table(pa.table(table | {"class": [3, 12]}), tmp_path / "numbers.parquet")
    assert [label.name for label in read_labels(tmp_path / "words.parquet", ROOT).values()] == ["x", "y"]
    assert [label.name for label in read_labels(tmp_path / "numbers.parquet", ROOT).values()] == ["3", "12"]


@pytest.mark.parametrize("path", ["a/1.jpg", "./a/1.jpg", "a//1.jpg", "a/b/../1.jpg", "/photos/a/1.jpg"])
def test_a_path_may_be_spelled_in_any_way_that_means_the_file(tmp_path, path):
    assert read_labels(write(tmp_path / "l.csv", [(path, "x", "")]), ROOT) == {b"a/1.jpg": Label("x", None)}


def test_a_byte_order_mark_and_line_ends_of_windows_are_read(tmp_path):
    (tmp_path / "l.csv").write_bytes(b"\xef\xbb\xbfpath,class\r\na.jpg,cats\r\n")
    assert read_labels(tmp_path / "l.csv", ROOT) == {b"a.jpg": Label("cats", None)}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("path,label\na,b\n", "no column 'class'; expected path, class and maybe split, found path, label"),
        ("", "cannot be read"),
        ("path,class\na\n", "cannot be read"),
        ("path,class\na,\n", "row 1 of .* has no class"),
        ("path,class\na,b\n,b\n", "row 2 of .* has no path"),
        ("path,class,split\na,b,other\n", "row 1 of .* has the split 'other'; expected train, validation"),
        ("path,class\na,b\na,c\n", "two labels for 'a'"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_with_the_row(tmp_path, content, expected):
    (tmp_path / "l.csv").write_text(content)
    with pytest.raises(InputError, match=expected):
        read_labels(tmp_path / "l.csv", ROOT)


@pytest.mark.parametrize("name", ["none.csv", "l.txt", "l.parquet"])
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path, name):
    if name != "none.csv":
        (tmp_path / name).write_text("path,class\na,b\n")
    with pytest.raises(InputError, match=name):
        read_labels(tmp_path / name, ROOT)


def test_splits_have_their_usual_names_in_any_case_and_what_was_read_is_said(tmp_path, caplog):
    caplog.set_level("INFO")
    rows = [("a", "x", "TRAIN"), ("b", "x", "dev"), ("c", "x", "Testing"), ("d", "x", " "), ("e", "x", "val")]
    labels = read_labels(write(tmp_path / "l.csv", rows), ROOT).values()
    assert [label.split for label in labels] == ["train", "validation", "test", None, "validation"]
    assert "'TRAIN' is read as train, 'Testing' as test, 'dev' as validation" in caplog.text


def test_the_same_row_twice_is_one_label(tmp_path):
    file = write(tmp_path / "l.csv", [("a", "x", ""), ("a", "x", "")])
    assert len(read_labels(file, ROOT)) == 1


# In the scan


@pytest.fixture
def heap(tmp_path: Path) -> Path:
    """Images in one heap: no class folder says what they show."""
    for index in range(4):
        toy.picture(tmp_path / "heap" / f"{index}.png", index)
    toy.picture(tmp_path / "heap" / "deep" / "er" / "scan", 9)  # no suffix
    return tmp_path / "heap"


def test_the_images_are_those_that_the_table_names(heap, tmp_path):
    rows = [("0.png", "cats", "train"), ("2.png", "dogs", "valid"), ("deep/er/scan", "cats", "")]
    scan = scan_folder(heap, labels=write(tmp_path / "l.csv", rows))
    found = [(row["path"], row["class"], row["split"]) for row in scan.files.to_pylist()]
    assert found == [(b"0.png", "cats", "train"), (b"2.png", "dogs", "validation"), (b"deep/er/scan", "cats", None)]
    assert scan.ignored == 2


def test_a_relabelled_row_changes_the_scan_and_nothing_else_does(heap, tmp_path):
    one = scan_folder(heap, labels=write(tmp_path / "l.csv", [("0.png", "cats", "")]))
    same = scan_folder(heap, labels=write(tmp_path / "l.parquet", [("./0.png", "cats", "")]))
    other = scan_folder(heap, labels=write(tmp_path / "l.csv", [("0.png", "dogs", "")]))
    assert one.digest == same.digest != other.digest


def test_rows_without_an_image_are_told_and_cost_nothing(heap, tmp_path, caplog):
    rows = [("0.png", "cats", ""), ("gone.png", "cats", ""), ("../outside.png", "cats", ""), ("/elsewhere", "c", "")]
    toy.picture(heap.parent / "outside.png", 3)
    scan = scan_folder(heap, labels=write(tmp_path / "l.csv", rows))
    assert scan.files["path"].to_pylist() == [b"0.png"]
    assert "3 of the 4 paths in" in caplog.text


def test_a_layout_beside_a_table_is_refused(heap, tmp_path):
    with pytest.raises(InputError, match="give one of them"):
        scan_folder(heap, "classes", write(tmp_path / "l.csv", [("0.png", "cats", "")]))


def test_a_table_relabels_what_the_store_has_without_a_row_more(heap, tmp_path):
    rows = [(f"{index}.png", "cats" if index % 2 else "dogs", "") for index in range(4)]
    _, first = toy.run(heap, tmp_path / "store", labels=write(tmp_path / "l.csv", rows))
    rows[0] = ("0.png", "cats", "test")
    planned, second = toy.run(heap, tmp_path / "store", labels=write(tmp_path / "l.csv", rows))
    assert (planned.changes.relabelled, planned.changes.unchanged, planned.todo.num_rows) == (1, 3, 0)
    assert second.classes["test"] == {"cats": 1}
    assert os.listdir(heap / "deep")
    assert first.rows == second.rows
