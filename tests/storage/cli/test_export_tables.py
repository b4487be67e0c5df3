"""Each format is read back by the library that it is for."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.cli.main import main
from storage.manifest.file_table import usable
from storage.manifest.space import spaces
from storage.manifest.versions import latest_version
from storage.text import visible
from tests import toy

FORMATS = ("arrow", "hf", "npy")
SPLITS = ("train", "validation")


def exported(store: Path, out: Path, format: str, *flags: object) -> Path:
    assert main(["export", "--store", str(store), "--out", str(out), "--format", format, *map(str, flags)]) == 0
    return out


def expected(lived_in: Path) -> dict[str, tuple[dict, np.ndarray]]:
    """Shown path → file, features."""
    (space,) = spaces(lived_in)
    version = latest_version(space)
    assert version is not None
    stored = toy.features_of(lived_in.parent / "images", lived_in, version)
    files = usable(version.read_files(space)).to_pylist()
    return {visible(file["path"]): (file, stored[file["digest"]]) for file in files}


def rows_of(out: Path, format: str) -> list[tuple[dict, np.ndarray]]:
    """Each row without its features, and its features, as the format's own library reads them."""
    if format == "npy":
        features = np.load(out / "features.npy", mmap_mode="r", allow_pickle=False)
        rows = pq.read_table(out / "table.parquet").to_pylist()
        assert isinstance(features, np.memmap)
        return list(zip(rows, features, strict=True))
    found = []
    for split in SPLITS:
        if format == "arrow":
            table = pa.ipc.open_file(pa.memory_map(str(out / f"{split}.arrow"))).read_all()
            features = table["features"].combine_chunks().to_numpy_ndarray()
        else:
            table = pq.read_table(out / f"{split}-00000-of-00001.parquet")
            features = np.array(table["features"].to_pylist(), np.float32)
        assert set(table["split"].to_pylist()) == {split}
        found += zip(table.drop_columns("features").to_pylist(), features, strict=True)
    return found


@pytest.mark.parametrize("format", FORMATS)
def test_every_image_comes_once_with_its_columns_and_features(lived_in, tmp_path, format):
    out = exported(lived_in, tmp_path / "out", format)
    files, rows = expected(lived_in), rows_of(out, format)
    classes = json.loads((out / "classes.json").read_text())["classes"]
    assert sorted(row["path"] for row, _ in rows) == sorted(files)
    for row, features in rows:
        file, stored = files[row["path"]]
        assert {name: row[name] for name in ("class", "split", "digest")} == {
            k: file[k] for k in ("class", "split", "digest")
        }
        assert classes[row["label"]] == row["class"]
        np.testing.assert_array_equal(np.asarray(features).reshape(stored.shape), stored.astype(np.float32))


@pytest.mark.parametrize("format", FORMATS)
def test_pooled_features_are_average_and_maximum(lived_in, tmp_path, format, monkeypatch):
    monkeypatch.setattr("storage.cli.export_tables.BATCH_BYTES", 20_000)  # several batches
    out = exported(lived_in, tmp_path / "out", format, "--pooling", "avg-max")
    files = expected(lived_in)
    rows = rows_of(out, format)
    assert len(rows) == len(files)
    for row, features in rows:
        stored = files[row["path"]][1].astype(np.float32)
        np.testing.assert_allclose(features, np.hstack([stored.mean(axis=(0, 1)), stored.max(axis=(0, 1))]), rtol=1e-6)


def test_predictions_and_findings_become_columns(lived_in, tmp_path):
    one, other, *_ = sorted(expected(lived_in))
    (tmp_path / "p.csv").write_text(f"path,class,probability,status,reason\n{one},cats,0.75,ok,\n")
    found = pa.table({"path": [one, other, one], "finding": ["leak", "conflict", "dark"]})
    pq.write_table(found, tmp_path / "f.parquet")
    flags = "--predictions", tmp_path / "p.csv", "--findings", tmp_path / "f.parquet"
    rows = {row["path"]: row for row, _ in rows_of(exported(lived_in, tmp_path / "out", "hf", *flags), "hf")}
    assert (rows[one]["prediction"], rows[one]["probability"], rows[one]["findings"]) == (
        "cats",
        0.75,
        ["dark", "leak"],
    )
    assert (rows[other]["prediction"], rows[other]["findings"]) == (None, ["conflict"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format", "npz", "--pooling", "avg"], "--pooling needs one of the formats arrow, hf, npy"),
        (["--format", "hf", "--predictions", "none.csv"], "none.csv cannot be used"),
        (["--format", "hf", "--findings", "none.txt"], "should end in .parquet, .csv or .jsonl"),
    ],
    ids=str,
)
def test_what_cannot_be_exported_is_named_and_leaves_nothing(lived_in, tmp_path, capsys, flags, message):
    assert main(["export", "--store", str(lived_in), "--out", str(tmp_path / "out"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("library", ["pandas", "polars", "duckdb", "datasets"])
def test_other_libraries_read_the_export(lived_in, tmp_path, library):
    module = pytest.importorskip(library)
    out = exported(lived_in, tmp_path / "out", "hf", "--pooling", "avg")
    path = str(out / "train-00000-of-00001.parquet")
    num_images = pq.read_metadata(path).num_rows
    if library == "duckdb":
        assert module.sql(f"select count(*), min(len(features)) from '{path}'").fetchall() == [(num_images, 512)]
    elif library == "datasets":
        found = module.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
        assert (set(found), len(found["train"]), len(found["train"][0]["features"])) == (set(SPLITS), num_images, 512)
    else:
        frame = module.read_parquet(path)
        assert (len(frame), len(frame["features"][0])) == (num_images, 512)
