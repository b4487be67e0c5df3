"""The command `inspect_data` end to end: a real server, a store of an older version."""

import shutil
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.cli import command as command_line
from flows.registry import INSPECT
from tests.flows.in_process import call

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def inspect(environment, tmp_path: Path):
    """Call the command in this process, on a copy of the golden store."""
    for name in ("images", "store"):
        shutil.copytree(GOLDEN / name, tmp_path / name, copy_function=shutil.copyfile)
    where = "--store", tmp_path / "store", "--out", tmp_path / "out"
    return partial(call, partial(command_line.main, INSPECT), environment, "--runner", "inline", *where)


def test_an_inspection_writes_its_files_and_measures_each_picture_once(inspect, tmp_path):
    unknown = inspect()
    assert (unknown.status, unknown.record) == (2, None)
    assert "name their folder" in unknown.stderr
    done = inspect("--images", tmp_path / "images")
    assert done.status == 0, done.stderr
    table = pq.read_table(tmp_path / "out/findings.parquet")
    assert table.column_names[:4] == ["path", "finding", "partner", "score"]
    assert sum(done.record["findings"].values()) == table.num_rows
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.html",
        "findings.parquet",
        "findings.csv",
        "review.csv",
    }
    assert done.record["measured"] == done.record["images"] - 1  # two files have equal bytes
    assert list((tmp_path / "store/cache/quality-plans").iterdir()) == []
    again = inspect("--images", tmp_path / "images")
    assert (again.record["measured"], again.record["findings"]) == (0, done.record["findings"])
