"""The file of predictions: every format says the same, appears complete, and can be read back."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import InputError
from storage.predictions.output import SUFFIXES, Columns, check_out, read_output, without, write_output

CLASSES = ("cats", 'do"gs', "ünï,code", "null", "-1")
PATHS = ["a.png", "b c/ü.png", 'quote".png', "=1+1.png", "comma,.png", "NA", "x\\xff.png", " space ", "null"]


def table(columns: Columns, paths: list[str] = PATHS) -> pa.Table:
    """Every second image could not be used."""
    scores = np.random.default_rng(0).dirichlet(np.ones(len(columns.classes)), len(paths)).astype(np.float32)
    scores[1::2] = np.nan
    reasons = [None if index % 2 == 0 else "truncated" for index in range(len(paths))]
    statuses = ["ok" if reason is None else "quarantined" for reason in reasons]
    return columns.rows(pa.array(paths), pa.array(statuses), pa.array(reasons, pa.string()), scores)


@pytest.mark.parametrize("top_k", [None, 1, 2, 99])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read_back_to_the_last_bit(tmp_path, suffix, top_k):
    columns = Columns(CLASSES, top_k)
    rows, path = table(columns), tmp_path / f"p{suffix}"
    assert write_output(path, columns.schema, iter([rows.slice(0, 4), rows.slice(4)])) == len(PATHS)
    assert pa.concat_tables(read_output(path, columns.schema)).to_pylist() == rows.to_pylist()
    check_out(path, columns, append=True)
    assert list(tmp_path.iterdir()) == [path]


def test_other_programs_read_the_same_from_every_format(tmp_path):
    columns = Columns(CLASSES)
    for suffix in SUFFIXES:
        write_output(tmp_path / f"p{suffix}", columns.schema, [table(columns)])
    by_parquet = pyarrow.parquet.read_table(tmp_path / "p.parquet").to_pylist()
    by_json = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text("utf-8").splitlines()]
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        by_csv = list(csv.DictReader(file))
    assert [list(rows[0]) for rows in (by_parquet, by_json, by_csv)] == [columns.schema.names] * 3
    for one, two, three in zip(by_parquet, by_json, by_csv, strict=True):
        for name, value in one.items():
            is_number = isinstance(value, float)
            assert np.float32(two[name]) == value if is_number else two[name] == value
            assert np.float32(three[name]) == value if is_number else three[name] == (value or "")


@given(st.data(), st.integers(1, 6), st.integers(1, 7))
def test_the_top_classes_are_the_most_probable_ones_in_order(data, classes, top_k):
    scores = np.array(data.draw(st.lists(st.lists(st.floats(0, 1, width=32), min_size=classes, max_size=classes))))
    scores = scores.astype(np.float32).reshape(-1, classes)
    columns = Columns(tuple("abcdef"[:classes]), top_k)
    number, nothing = len(scores), pa.nulls(len(scores), pa.string())
    rows = columns.rows(pa.array(["p"] * number, pa.string()), pa.array(["ok"] * number, pa.string()), nothing, scores)
    for row, own in zip(rows.to_pylist(), scores, strict=True):
        shown = [row["probability"], *(row[f"probability.{place}"] for place in range(2, min(top_k, classes) + 1))]
        assert shown == sorted(own.tolist(), reverse=True)[: min(top_k, classes)]
        names = [row["class"], *(row[f"class.{place}"] for place in range(2, min(top_k, classes) + 1))]
        assert [own["abcdef".index(name)] for name in names] == shown
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_fails_halfway_is_not_there_and_leaves_nothing(tmp_path, suffix):
    columns = Columns(CLASSES)
    path = tmp_path / f"p{suffix}"

    def failing():
        yield table(columns)
        raise OSError(28, "No space left on device")

    for before in (None, [table(columns).slice(0, 1)]):
        if before:
            write_output(path, columns.schema, before)
        with pytest.raises(OSError, match="No space"):
            write_output(path, columns.schema, failing())
        assert list(tmp_path.iterdir()) == ([path] if before else [])
        assert sum(each.num_rows for each in read_output(path, columns.schema)) == 1 if before else not path.exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_without_rows_can_be_added_to(tmp_path, suffix):
    columns, path = Columns(CLASSES), tmp_path / f"p{suffix}"
    write_output(path, columns.schema, [])
    check_out(path, columns, append=True)
    assert sum(each.num_rows for each in read_output(path, columns.schema)) == 0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_other_columns_are_refused_by_name(tmp_path, suffix):
    path = tmp_path / f"p{suffix}"
    write_output(path, Columns(("cats", "dogs")).schema, [table(Columns(("cats", "dogs")))])
    with pytest.raises(InputError, match=r"p\.wolves"):
        check_out(path, Columns(("cats", "wolves")), append=True)
    path.write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(InputError, match="`out`: "):
        check_out(path, Columns(("cats", "dogs")), append=True)


def test_what_cannot_be_written_is_refused_before_any_work(tmp_path):
    columns = Columns(CLASSES)
    (tmp_path / "there.csv").write_text("x\n")
    (tmp_path / "folder.csv").mkdir()
    for name, told in [
        ("p.txt", "should end in"),
        ("p", "should end in"),
        ("folder.csv", "is a folder"),
        ("there.csv", "`overwrite`"),
        ("there.csv/p.csv", "no file can be written"),
    ]:
        with pytest.raises(InputError, match=told):
            check_out(tmp_path / name, columns)
    check_out(tmp_path / "there.csv", columns, overwrite=True)
    check_out(tmp_path / "new" / "deep" / "p.csv", columns)


def test_rows_of_other_paths_stay():
    rows = table(Columns(CLASSES))
    assert without(rows, pa.array(PATHS[1:]))["path"].to_pylist() == PATHS[:1]
