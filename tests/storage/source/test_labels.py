"""Labels from a table: what people write in a CSV or Parquet file is what the scan says, byte for byte."""

import csv
import os
import unicodedata
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.errors import InputError, TooManyRemovals
from storage.source.labels import Label, read_labels
from storage.source.scan import scan_folder
from tests import toy
from tests.examples import examples

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
@settings(max_examples=examples(13), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_name_and_class_is_read_back_as_it_was_written(tmp_path, suffix, table):
    file = write(tmp_path / f"labels{suffix}", [(path, name, split) for path, (name, split) in table.items()])
    meant = {"val": "validation", "valid": "validation"}
    expected = {path.encode(): Label(name, meant.get(split, split)) for path, (name, split) in table.items()}
    assert read_labels(file, ROOT) == expected


@pytest.mark.parametrize("root", ["/", "/photos", "/photos/of the house"])
@given(name=names, folder=names)
@settings(max_examples=examples(10), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_path_means_the_same_relative_or_absolute_below_any_root(tmp_path, root, name, folder):
    expected = {f"{folder}/{name}".encode(): Label("cats", None)}
    for path in (f"{folder}/{name}", f"./{folder}/../{folder}//{name}", os.path.join(root, folder, name)):
        file = write(tmp_path / "labels.parquet", [(path, "cats", None)])
        assert read_labels(file, Path(root)) == expected


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
        ("path,label\na,b\n", "no column 'class'; expected path, class and optionally split, found 'path', 'label'"),
        ("path,class,\x1b[31m\x07\n", "has a header but no rows"),
        ("p\x1b[31m,class\na,b\n", r"found 'p\\x1b\[31m', 'class'"),
        ("path|class\na|b\n", r"found 'path\|class'"),
        ("path\tlabel\na\tb\n", "found 'path', 'label'"),
        ("path,class, path\na,b,c\n", "has the column 'path' more than once"),
        ("path,class\na,b\x00\n", "contains NUL bytes"),
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


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_a_table_in_utf16_is_named_as_such(tmp_path, encoding):
    (tmp_path / "l.csv").write_bytes("path,class\na.jpg,cats\n".encode(encoding))
    with pytest.raises(InputError, match=r"UTF-16.*save it as CSV in UTF-8") as raised:
        read_labels(tmp_path / "l.csv", ROOT)
    assert str(raised.value).isprintable()


def test_columns_are_counted_from_one(tmp_path):
    (tmp_path / "l.csv").write_bytes(b"path,class\na.jpg,\xe9\n")
    with pytest.raises(InputError, match="column 2"):
        read_labels(tmp_path / "l.csv", ROOT)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path\tclass\na.jpg\tcats\n", "as tab-separated"),
        ("path;class;split\na.jpg;cats;\n", "as semicolon-separated"),
        ("path, class\na.jpg, cats\n", "white space around ' class'"),
        (" path ,class\n a.jpg ,cats\n", "white space around ' path '"),
        ("\ufeffpath ; class\r\na.jpg ; cats\r\n", "as semicolon-separated"),
        ("path\tclass\tby whom, when\na.jpg\tcats\tJ, 2019\n", "as tab-separated"),
        ("path;class;size (w,h)\na.jpg;cats;1,2\n", "as semicolon-separated"),
        ("\npath;class\na.jpg;cats\n;\n", "as semicolon-separated"),
        ("Path,CLASS,Split\na.jpg,cats,\n", "ignoring case: 'Path' as path, 'CLASS' as class"),
        ("path,class,Usage\na.jpg,cats,Training\na.jpg,cats,PublicTest\n", "the column 'Usage'"),
        ("path,class,data set\na.jpg,cats,train\na.jpg,cats,valid\n", "the column 'data set'"),
        ("path,class,is_valid\na.jpg,cats,True\na.jpg,cats,False\n", "the column 'is_valid'"),
        ("path,class,is_training_image\na.jpg,cats,1\na.jpg,cats,0\n", "the column 'is_training_image'"),
    ],
)
def test_what_a_table_of_another_kind_is_taken_for_is_said(tmp_path, content, said, caplog):
    (tmp_path / "l.csv").write_text(content, newline="")
    assert read_labels(tmp_path / "l.csv", ROOT) == {b"a.jpg": Label("cats", None)}
    assert said in caplog.text


def test_a_column_of_splits_is_read_in_any_case_and_only_where_it_is_one(tmp_path, caplog):
    file = tmp_path / "l.csv"
    file.write_text("path,class,Split\na,x,train\nb,x,Test\nc,x,\n")
    assert [label.split for label in read_labels(file, ROOT).values()] == ["train", "test", None]
    assert "'Split' as split" in caplog.text
    file.write_text("path,class,Split\na,x,0\nb,x,1\n")
    assert {label.split for label in read_labels(file, ROOT).values()} == {None}
    file.write_text("Path,path,class,SPLIT,split\na,b,x,train,test\nc,d,x,test,train\n")
    assert read_labels(file, ROOT) == {b"b": Label("x", "test"), b"d": Label("x", "train")}


def test_other_columns_are_passed_over_without_a_word(tmp_path, caplog):
    file = tmp_path / "l.csv"
    file.write_text("path,class,weather,tested by,score\na,x,train,Ann,1\nb,x,car,Bob,0\n")
    read_labels(file, ROOT)
    assert not caplog.text


def test_a_table_without_our_columns_says_which_may_be_meant(tmp_path):
    file = tmp_path / "l.csv"
    file.write_text("Filename,label,width\na,x,1\n")
    with pytest.raises(
        InputError, match="found 'Filename', 'label', 'width'; rename 'Filename' to path and 'label' to class"
    ):
        read_labels(file, ROOT)
    file.write_text("path,class\n" + file.read_text().partition("\n")[2].replace(",1", ""))
    assert read_labels(file, ROOT) == {b"a": Label("x", None)}


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["1", "2"]),
        pa.array(["1", "2"]).dictionary_encode(),
        pa.array(["1", "2"], pa.large_string()),
        pa.array([b"1", b"2"], pa.large_binary()),
        pa.array([1, 2], pa.int8()),
        pa.array([1, 2]).dictionary_encode(),
        pa.array([1.0, 2.0]),
    ],
    ids=lambda column: str(column.type).split("<")[0],
)
def test_a_column_of_parquet_may_be_of_any_type_that_is_text_or_a_number(tmp_path, column):
    pq.write_table(pa.table({"path": column, "class": column}), tmp_path / "l.parquet")
    assert read_labels(tmp_path / "l.parquet", ROOT) == {b"1": Label("1", None), b"2": Label("2", None)}


def test_a_column_of_parquet_of_another_type_is_named_and_so_is_an_empty_cell(tmp_path):
    pq.write_table(pa.table({"path": ["a"], "class": [["cats"]]}), tmp_path / "l.parquet")
    with pytest.raises(InputError, match=r"the column 'class' .* has the type list"):
        read_labels(tmp_path / "l.parquet", ROOT)
    pq.write_table(pa.table({"path": ["a", "b"], "class": [1, None]}), tmp_path / "l.parquet")
    with pytest.raises(InputError, match=r"row 2 of .* has no class"):
        read_labels(tmp_path / "l.parquet", ROOT)


# In the scan


@pytest.mark.parametrize(("images", "rows"), [("link", "real"), ("real", "link"), ("link", "link"), ("real", "other")])
def test_absolute_paths_may_go_another_way_to_the_image_folder_than_images_does(tmp_path, images, rows):
    toy.picture(tmp_path / "real" / "a" / "1.png", 1)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "other").symlink_to(tmp_path / "link")
    file = write(tmp_path / "l.csv", [(f"{tmp_path}/{rows}/a/1.png", "x", "")])
    scan = scan_folder(tmp_path / images, labels=file)
    assert scan.files["path"].to_pylist() == [b"a/1.png"]


def test_an_absolute_path_of_an_image_that_is_a_link_means_the_link(tmp_path):
    toy.picture(tmp_path / "pool" / "1.png", 1)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").symlink_to(tmp_path / "pool" / "1.png")
    (tmp_path / "link").symlink_to("images")
    file = write(tmp_path / "l.csv", [(f"{tmp_path}/link/a.png", "x", "")])
    assert scan_folder(tmp_path / "images", labels=file, outside_links=True).files["path"].to_pylist() == [b"a.png"]


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
    assert "3 of 4 rows in" in caplog.text


def relabelled(heap: Path, tmp_path: Path, paths: list[str]) -> Path:
    return write(tmp_path / "rows.csv", [(path, "cats", "") for path in paths])


@pytest.mark.parametrize(
    ("spell", "cause"),
    [
        (lambda path: f"photos/{path}", "the prefix 'photos/' of the rows"),
        (lambda path: f"C:\\me\\{path}".replace("/", "\\"), "backslashes for slashes; the prefix 'C:/me/' of the rows"),
        (lambda path: path.removeprefix("a/"), "the prefix 'a/' of the files"),
        (lambda path: path.removesuffix(".png"), "the suffix"),
        (lambda path: path.replace(".png", ".jpeg"), "the suffix"),
        (str.upper, "upper and lower case"),
        (lambda path: unicodedata.normalize("NFD", path), "another Unicode form"),
        (lambda path: f" {path}", "white space"),
        (lambda path: path.replace("/", " / "), "white space"),
        (lambda path: f"/{path}", "the prefix '/' of the rows"),
        (quote, "URL escapes"),
        (lambda path: quote(f"x/{path}".upper()), "URL escapes; upper and lower case; the prefix 'x/' of the rows"),
        (lambda path: f"x/{path.rpartition('/')[2]}", "the folder, 'x' and 'a/b'"),
        (lambda path: f"other-{path.rpartition('/')[2]}", "no file has a similar name"),
    ],
)
def test_a_table_none_of_whose_paths_is_a_file_is_refused_with_the_cause(tmp_path, spell, cause):
    paths = [f"a/b/caf\u00e9 {index}.png" for index in range(3)]
    for path in paths:
        toy.picture(tmp_path / "photos" / path, 1)
    file = relabelled(tmp_path, tmp_path, [spell(path) for path in paths])
    with pytest.raises(InputError, match=r"no row of .* matches a file") as raised:
        scan_folder(tmp_path / "photos", labels=file)
    assert cause in str(raised.value)


def test_a_path_in_another_unicode_form_is_shown_so_that_the_forms_differ(tmp_path):
    toy.picture(tmp_path / "photos" / "caf\u00e9.png", 1)
    with pytest.raises(InputError, match=r"the row 'cafe\\u0301.png' and the file 'caf\\xe9.png'"):
        scan_folder(tmp_path / "photos", labels=relabelled(tmp_path, tmp_path, ["cafe\u0301.png"]))


@pytest.mark.parametrize("spelled", ["deep\\er\\scan", ".\\deep\\er\\scan"])
def test_a_path_with_backslashes_names_the_file_with_slashes_and_that_is_said(heap, tmp_path, caplog, spelled):
    scan = scan_folder(heap, labels=relabelled(heap, tmp_path, [spelled, "0.png"]))
    assert scan.files["path"].to_pylist() == [b"0.png", b"deep/er/scan"]
    assert "in 1 path of" in caplog.text
    assert "read backslashes as slashes" in caplog.text


def test_a_file_whose_very_name_has_backslashes_is_the_one_that_is_meant(heap, tmp_path, caplog):
    toy.picture(heap / "deep\\er\\scan", 11)
    scan = scan_folder(heap, labels=relabelled(heap, tmp_path, ["deep\\er\\scan"]))
    assert scan.files["path"].to_pylist() == [rb"deep\er\scan"]
    assert not caplog.text


def test_two_spellings_of_one_file_may_not_differ_in_the_label(heap, tmp_path):
    rows = [("deep\\er\\scan", "cats", ""), ("deep/er/scan", "dogs", "")]
    with pytest.raises(InputError, match="two labels for 'deep/er/scan': 'dogs' and 'cats'"):
        scan_folder(heap, labels=write(tmp_path / "l.csv", rows))


def test_the_warning_of_rows_without_a_file_guesses_the_cause(heap, tmp_path, caplog):
    scan = scan_folder(heap, labels=relabelled(heap, tmp_path, ["0.png", "photos/1.png", "photos/2.png", "gone.png"]))
    assert scan.files.num_rows == 1
    assert "3 of 4 rows in" in caplog.text
    assert "the prefix 'photos/' of the rows, for example the row 'photos/1.png' and the file '1.png'" in caplog.text


def test_rows_beyond_the_files_that_are_there_are_counted(heap, tmp_path, caplog):
    paths = [path.relative_to(heap).as_posix() for path in sorted(heap.rglob("*")) if path.is_file()]
    scan_folder(heap, labels=relabelled(heap, tmp_path, [*paths, "gone.png"]))
    assert "1 of 6 rows in" in caplog.text
    assert "there are no other files" in caplog.text


def test_a_table_that_matches_nothing_any_more_is_no_removal(heap, tmp_path):
    rows = [(f"{index}.png", "cats", "") for index in range(4)]
    toy.run(heap, tmp_path / "store", labels=write(tmp_path / "l.csv", rows))
    away = write(tmp_path / "l.csv", [(f"heap/{path}", name, split) for path, name, split in rows])
    with pytest.raises(InputError, match=r"no row of .* matches a file"):
        toy.run(heap, tmp_path / "store", labels=away, allow_removals=True)


def test_a_table_over_a_folder_that_was_emptied_is_a_removal_and_over_a_new_one_is_refused(heap, tmp_path):
    """As when a share is not mounted."""
    file = write(tmp_path / "l.csv", [(f"{index}.png", "cats", "") for index in range(4)])
    toy.run(heap, tmp_path / "store", labels=file)
    heap.rename(tmp_path / "away")
    heap.mkdir()
    with pytest.raises(TooManyRemovals):
        toy.plan(heap, tmp_path / "store", labels=file)
    with pytest.raises(InputError, match="the folder is empty"):
        toy.plan(heap, tmp_path / "new", labels=file)


def test_a_layout_beside_a_table_is_refused(heap, tmp_path):
    with pytest.raises(InputError, match="give only one of them"):
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


def test_test_images_that_a_table_puts_into_training_are_said(heap, tmp_path):
    paths = [f"{index}.png" for index in range(4)]
    file = write(
        tmp_path / "l.csv", [(path, "x", "test" if index < 2 else "train") for index, path in enumerate(paths)]
    )
    toy.run(heap, tmp_path / "store", labels=file)
    assert not any("version 1" in line for line in toy.plan(heap, tmp_path / "store", labels=file).findings)
    write(file, [(path, "x", "train") for path in paths])
    planned = toy.plan(heap, tmp_path / "store", labels=file)
    assert "warning: 2 test images of version 1 moved to training or validation" in planned.findings
