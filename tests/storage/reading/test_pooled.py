import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from storage.errors import StoreDamaged
from storage.layout import Store
from storage.maintenance.collect import collect
from storage.manifest.versions import Version, commit
from storage.reading import pooled as pooled_module
from storage.reading.pooled import is_pooled, pooled_files, pooled_vectors
from storage.reading.pooled_file import PooledVectors
from storage.shards.shard import Shard
from tests import toy
from tests.maps import commit_maps


def filled(root: Path, shape: tuple[int, ...] = (2, 3, 5), num_images: int = 300) -> tuple[Store, Version, dict]:
    """A store of random maps in shards of 130 rows, and digest → its map."""
    random = np.random.default_rng(0)
    store = Store(root / "store", "f" * 32)
    maps = {hashlib.sha256(b"%d" % i).digest(): random.normal(size=shape).astype(np.float16) for i in range(num_images)}
    return store, grown(store, None, maps), maps


def grown(store: Store, parent: Version | None, maps: dict[bytes, np.ndarray]) -> Version:
    files = [(digest.hex().encode(), "cats", "train", digest) for digest in maps]
    return commit_maps(store, parent, files, maps, rows_a_shard=130)


@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 1, 4), (6,)], ids=str)
def test_the_vectors_are_the_mean_and_the_maximum_of_each_channel(tmp_path, shape):
    store, version, maps = filled(tmp_path, shape)
    vectors = pooled_vectors(store, version)
    assert [bytes(digest) for digest in vectors.digests] == sorted(maps)
    cells = np.stack([maps[digest] for digest in sorted(maps)]).astype(np.float64).reshape(len(maps), -1, shape[-1])
    np.testing.assert_allclose(vectors.average, cells.mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(vectors.maximum, cells.max(axis=1))
    assert vectors.average.dtype == vectors.maximum.dtype == np.float32
    assert not vectors.average.flags.writeable


def test_each_usable_file_finds_its_row(images, store):
    _, version = toy.run(images, store, validation_fraction=0.4)
    space = toy.space(images, store).store
    vectors = pooled_vectors(space, version)
    files = pooled_files(space, version, vectors)
    assert files["path"].to_pylist() == version.read_files(space)["path"].to_pylist()
    assert [bytes(vectors.digests[row]) for row in files["row"].to_pylist()] == files["digest"].to_pylist()


def opened_shards(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    read = Shard.read_group
    monkeypatch.setattr(Shard, "read_group", lambda self, group: (names.append(self.ref.name), read(self, group))[1])
    return names


def test_the_second_time_no_feature_is_read(tmp_path, monkeypatch):
    store, version, _ = filled(tmp_path)
    assert not is_pooled(store, version)
    first = pooled_vectors(store, version)
    read = opened_shards(monkeypatch)
    second = pooled_vectors(store, version)
    assert is_pooled(store, version)
    assert read == []
    np.testing.assert_array_equal(first.average, second.average)


def test_only_new_images_are_read_where_an_older_version_is_pooled(tmp_path, monkeypatch):
    monkeypatch.setattr("storage.manifest.segments.ROWS_PER_SEGMENT", 100)
    store, version, maps = filled(tmp_path)
    pooled_vectors(store, version)
    more = {hashlib.sha256(b"new %d" % i).digest(): np.full((2, 3, 5), i, np.float16) for i in range(7)}
    later = grown(store, version, maps | more)
    read = opened_shards(monkeypatch)
    vectors = pooled_vectors(store, later)
    assert set(read) == later.shards.keys() - version.shards.keys()
    for digest, values in more.items():
        row = vectors.find(np.frombuffer(digest, np.uint8).reshape(1, 32))[0]
        np.testing.assert_array_equal(vectors.average[row], values[0, 0])
    for digest, values in maps.items():
        row = vectors.find(np.frombuffer(digest, np.uint8).reshape(1, 32))[0]
        np.testing.assert_array_equal(vectors.maximum[row], values.max(axis=(0, 1)))


@pytest.mark.parametrize("place", [0, 40, 32 * 300 + 4096, -1, -9, -100], ids=str)
def test_a_flipped_bit_is_found_and_the_vectors_are_computed_again(tmp_path, place, caplog):
    store, version, _ = filled(tmp_path)
    expected = np.array(pooled_vectors(store, version).average)
    (path,) = (store.cache / "pooled").rglob("*.pooled")
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    np.testing.assert_array_equal(pooled_vectors(store, version).average, expected)
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("size", [0, 3, 100])
def test_a_truncated_file_is_computed_again(tmp_path, size):
    store, version, _ = filled(tmp_path)
    expected = np.array(pooled_vectors(store, version).average)
    (path,) = (store.cache / "pooled").rglob("*.pooled")
    path.write_bytes(path.read_bytes()[:size])
    np.testing.assert_array_equal(pooled_vectors(store, version).average, expected)


def test_a_relabelled_version_shares_the_file(tmp_path):
    store, version, _ = filled(tmp_path)
    pooled_vectors(store, version)
    files = version.read_files(store)
    at = files.schema.get_field_index("class")
    files = files.set_column(at, files.schema.field("class"), pa.array(["other"] * files.num_rows))
    later = commit(store, version, files, version.read_rows(store), version.shards)
    assert later.number != version.number
    assert is_pooled(store, later)


def test_gc_removes_the_file_with_the_last_version_that_needs_it(tmp_path):
    store, version, maps = filled(tmp_path)
    old = pooled_vectors(store, version)
    some = dict(list(maps.items())[:10])
    later = grown(store, version, some)
    new = pooled_vectors(store, later)
    collect(store.root, keep=1, grace_seconds=0)
    assert [path.name for path in (store.cache / "pooled").rglob("*.pooled")] == [later.pooled_name]
    assert (len(old.average.tolist()), len(new)) == (300, 300)  # who has it open still reads it


def test_a_store_that_nobody_may_write_is_pooled_in_the_cache_of_the_machine(tmp_path, monkeypatch):
    store, version, _ = filled(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(pooled_module, "_is_writable", lambda folder: not folder.is_relative_to(store.root))
    assert len(pooled_vectors(store, version)) == 300
    assert not (store.cache / "pooled").exists()
    assert is_pooled(store, version)


def test_a_version_without_features_has_no_vectors(tmp_path):
    store = Store(tmp_path / "store", "f" * 32)
    assert len(pooled_vectors(store, grown(store, None, {}))) == 0


def test_an_image_without_features_is_an_error(tmp_path):
    store, version, _ = filled(tmp_path)
    vectors = pooled_vectors(store, version)
    assert isinstance(vectors, PooledVectors)
    with pytest.raises(KeyError):
        vectors.find(np.zeros((1, 32), np.uint8))


def test_memory_that_is_released_is_read_again(tmp_path):
    store, version, _ = filled(tmp_path)
    vectors = pooled_vectors(store, version)
    before = np.array(vectors.average)
    vectors.release()
    np.testing.assert_array_equal(vectors.average, before)


def test_missing_features_are_named(tmp_path):
    store, version, _ = filled(tmp_path)
    ref = next(iter(version.shards.values()))
    store.shard(ref.name).unlink()
    with pytest.raises(StoreDamaged, match="repair"):
        pooled_vectors(store, version)
    assert not list((store.cache / "pooled").rglob("*.*"))
