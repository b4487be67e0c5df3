import hashlib
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from storage.backend import atomic as durable
from storage.classes import index_order
from storage.cli.export import check_out, export_npz
from storage.errors import InputError, StoreDamaged
from storage.layout import Store
from storage.manifest.file_table import usable
from storage.manifest.select import splits_of
from storage.manifest.space import spaces
from storage.manifest.versions import Version, commit, latest_version, read_version
from storage.schemas import FILES_SCHEMA, ROWS_SCHEMA
from storage.shards.shard import ROWS_PER_GROUP, Shard, write_shard
from tests import toy
from tests.storage.backend.test_atomic import full_disk

SPLITS = ("train", "validation")


@pytest.fixture
def space(lived_in: Path) -> Store:
    (space,) = spaces(lived_in)
    return space


@pytest.fixture
def version(space: Store) -> Version:
    version = latest_version(space)
    assert version is not None
    return version


def exported(space: Store, version: Version, out: Path, splits=SPLITS, classes=None) -> list[int]:
    return list(export_npz(space, version, splits, index_order(classes, version.classes), out))


def read_folder(folder: Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """As code from before stores reads: every file of the folder, whatever is in it. Image number → features, label."""
    found = {}
    for path in folder.iterdir():
        number, label = map(int, path.name.removesuffix(".npz").split("_"))
        with np.load(path, allow_pickle=False) as arrays:
            assert sorted(arrays) == ["features", "label"]
            found[number] = arrays["features"], arrays["label"]
        assert found[number][1] == label
    return found


def test_what_is_exported_are_the_stored_features_and_the_index_of_the_class(space, version, lived_in, tmp_path):
    exported(space, version, tmp_path / "out")
    stored = toy.features_of(lived_in.parent / "images", lived_in, version)
    files = usable(version.read_files(space)).to_pylist()
    classes = sorted({row["class"] for row in files})
    for split in SPLITS:
        rows = [row for row in files if row["split"] == split]  # in order of path
        found = read_folder(tmp_path / "out" / split)
        assert sorted(found) == list(range(len(rows)))
        for number, row in enumerate(rows):
            features, label = found[number]
            assert (features.dtype, features.shape) == (np.float32, toy.SPEC.shape)
            np.testing.assert_array_equal(features, stored[row["digest"]].astype(np.float32))
            assert (label.dtype, label.shape) == (np.int64, ())
            assert classes[label] == row["class"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*SPLITS, "classes.json"}
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == {
        "classes": classes,
        "fingerprint": space.fingerprint,
        "version": version.number,
    }


def test_two_equal_images_are_two_files(space, version, tmp_path):
    digests = usable(version.read_files(space))["digest"].to_pylist()
    assert len(set(digests)) == len(digests) - 1
    assert len(exported(space, version, tmp_path / "out")) == len(digests)


def test_a_generator_of_random_batches_reads_the_folder(space, version, tmp_path):
    exported(space, version, tmp_path / "out")

    def batches(folder: Path, batch_size: int):
        names, random = sorted(path.name for path in folder.iterdir()), np.random.default_rng(0)
        while True:
            files = [np.load(folder / name, allow_pickle=False) for name in random.choice(names, batch_size)]
            yield np.stack([file["features"] for file in files]), np.array([file["label"] for file in files])
            for file in files:
                file.close()

    for features, labels in itertools.islice(batches(tmp_path / "out" / "train", 4), 3):
        assert features.shape == (4, *toy.SPEC.shape)
        assert labels.shape == (4,)


def test_an_export_is_read_row_group_by_row_group_and_each_once(tmp_path, monkeypatch):
    space = Store(tmp_path / "store", "0" * 32)
    files, rows, shards = [], [], {}
    for start in (0, 300):
        digests = [hashlib.sha256(b"%d" % index).digest() for index in range(start, start + 300)]
        features = np.arange(start, start + 300, dtype=np.float32)[:, None] * np.ones(2, np.float32)
        ref = write_shard(space, digests, features, {}, {})
        shards[ref.name] = ref
        rows += [{"digest": d, "view": 0, "shard": ref.name, "row": row} for row, d in enumerate(digests)]
    numbers = dict.fromkeys(["size", "mtime_ns", "ctime_ns", "attempts", "first_seen_ns", "last_seen_ns"], 1)
    for index, row in enumerate(rows):
        split = SPLITS[index % 2]
        path = hashlib.sha256(row["digest"]).hexdigest().encode()  # an order of paths that is not that of rows
        files.append({"path": path, "digest": row["digest"], "class": "a", "split": split, "status": "ok", **numbers})
    files.sort(key=lambda row: row["path"])
    rows.sort(key=lambda row: row["digest"])
    tables = pa.Table.from_pylist(files, FILES_SCHEMA), pa.Table.from_pylist(rows, ROWS_SCHEMA)
    version = commit(space, None, *tables, shards)

    read, read_group = [], Shard.read_group

    def noted(shard: Shard, group: int) -> np.ndarray:
        read.append((shard.ref.name, group))
        return read_group(shard, group)

    monkeypatch.setattr(Shard, "read_group", noted)
    exported(space, version, tmp_path / "out")
    assert read == [(name, group) for name in sorted(shards) for group in range(-(-300 // ROWS_PER_GROUP))]
    value = {hashlib.sha256(b"%d" % index).digest(): index for index in range(600)}
    for split in SPLITS:
        expected = [value[row["digest"]] for row in files if row["split"] == split]
        found = read_folder(tmp_path / "out" / split)
        assert [found[number][0].tolist() for number in sorted(found)] == [[number] * 2 for number in expected]


def test_classes_give_the_index_order(space, version, tmp_path):
    assert index_order(None, version.classes) == ("caf\\xe9s", "cats", "dogs")
    wanted = ("dogs", "cats", "caf\\xe9s")
    assert index_order(wanted, version.classes) == wanted
    exported(space, version, tmp_path / "one", ("train",))
    exported(space, version, tmp_path / "other", ("train",), wanted)
    one, other = read_folder(tmp_path / "one" / "train"), read_folder(tmp_path / "other" / "train")
    assert {number: int(label) for number, (_, label) in one.items()} == {
        number: 2 - int(label) for number, (_, label) in other.items()
    }


def test_images_of_classes_that_are_not_named_are_left_out(space, version, tmp_path):
    exported(space, version, tmp_path / "all", ("train",), ("dogs", "cats", "caf\\xe9s"))
    exported(space, version, tmp_path / "some", ("train",), ("dogs", "cats"))
    whole, some = (
        [int(label) for _, label in read_folder(tmp_path / name / "train").values()] for name in ("all", "some")
    )
    assert sorted(some) == sorted(label for label in whole if label < 2)
    assert len(some) < len(whole)


def test_a_split_without_usable_images_is_refused_and_all_are_those_that_have_some(space, version, tmp_path):
    assert splits_of(version, "all") == SPLITS
    assert splits_of(version, "validation") == ("validation",)
    with pytest.raises(InputError, match="only in train, validation"):
        splits_of(version, "test")
    tables = FILES_SCHEMA.empty_table(), ROWS_SCHEMA.empty_table(), {}
    empty = commit(Store(tmp_path / "empty", "0" * 32), None, *tables)
    with pytest.raises(InputError, match="no usable image"):
        splits_of(empty, "all")


def test_an_older_version_is_exported_as_it_was(space, tmp_path):
    first = read_version(space, 1)
    exported(space, first, tmp_path / "out", splits_of(first, "all"))
    assert len(list((tmp_path / "out").glob("*/*.npz"))) == first.counts["ok"] == 10
    assert json.loads((tmp_path / "out" / "classes.json").read_text())["version"] == 1


def test_only_a_new_or_empty_folder_outside_of_the_store_is_taken(space, tmp_path):
    check_out(tmp_path / "new" / "deeper", space)
    (tmp_path / "empty").mkdir()
    check_out(tmp_path / "empty", space)
    (tmp_path / "empty" / "something").touch()
    (tmp_path / "link").symlink_to(space.root)
    for out, reason in (
        (tmp_path / "empty", "is not empty"),
        (tmp_path / "empty" / "something", "is a file"),
        (space.root / "export", "is inside the store"),
        (tmp_path / "link" / "export", "is inside the store"),
    ):
        with pytest.raises(InputError, match=reason):
            check_out(out, space)


def test_a_full_disk_leaves_no_file_cut_short(space, version, tmp_path):
    with full_disk(size_bytes=1000), pytest.raises(OSError, match="File too large"):
        exported(space, version, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_classes_json_is_there_only_when_the_export_is_complete(space, version, tmp_path):
    files = export_npz(space, version, SPLITS, index_order(None, version.classes), tmp_path / "out")
    for number, size_bytes in enumerate(files, 1):
        there = list((tmp_path / "out").glob("*/*"))
        assert len(there) == number
        assert size_bytes in {path.stat().st_size for path in there}
        assert not (tmp_path / "out" / "classes.json").exists()
    assert (tmp_path / "out" / "classes.json").exists()


def test_a_damaged_shard_ends_the_export_by_its_name(images, store, tmp_path):
    _, version = toy.run(images, store)
    (space,) = spaces(store)
    name = max(version.shards)
    path = space.shard(name)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 3] ^= 1
    durable.replace(path, bytes(damaged))
    with pytest.raises(StoreDamaged, match=name):
        exported(space, version, tmp_path / "out")
    shutil.rmtree(space.shards)
    with pytest.raises(StoreDamaged, match="missing"):
        exported(space, version, tmp_path / "other")
