import hashlib
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import StoreDamaged
from storage.layout import ROWS_PER_GROUP, Store
from storage.planning.adoption import intact_shards
from storage.shards.inventory import is_present, unlisted_shards
from storage.shards.shard import Format, Shard, ShardRef, write_shard
from tests.examples import examples

METADATA = {"fingerprint": "f" * 32, "engine": "toy"}


@dataclass(frozen=True)
class Space(Store):
    """A feature space that writes its shards in one format: what holds for Parquet holds for npz."""

    format: Format = "parquet"

    def write(self, *arguments, **named) -> ShardRef:
        return write_shard(self, *arguments, **named, format=self.format)


@pytest.fixture(params=["parquet", "npz"])
def space(store, request) -> Space:
    return Space(store, "0" * 32, request.param)


def digests(count: int) -> list[bytes]:
    return [hashlib.sha256(str(index).encode()).digest() for index in range(count)]


def features(count: int, shape: tuple[int, ...] = (4,), dtype: str = "float16") -> np.ndarray:
    return np.random.default_rng(count).normal(0, 100, (count, *shape)).astype(dtype)


def written(space: Space, count: int = 5, **kind) -> ShardRef:
    return space.write(digests(count), features(count, **kind), {}, METADATA)


def damage(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def left_in(store: Store, committed: dict[str, ShardRef]) -> list[ShardRef]:
    """What a dead run has left in a store, and is intact."""
    return intact_shards(store, unlisted_shards(store, committed), lambda shard: True)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(1,), (512,), (1, 1, 512), (2, 3, 5)])
@pytest.mark.parametrize("count", [0, 1, ROWS_PER_GROUP, ROWS_PER_GROUP + 1])
def test_what_is_written_is_read_back_exactly(space, dtype, shape, count):
    ref = written(space, count, shape=shape, dtype=dtype)
    shard = Shard(space, ref)
    found = shard.read()
    assert found.dtype == dtype
    assert np.array_equal(found, features(count, shape, dtype))
    assert found.shape == (count, *shape)
    assert shard.digests() == digests(count)
    assert shard.errors() == {}


@settings(max_examples=examples(10))
@given(st.integers(1, 300))
def test_row_groups_are_the_shard_in_pieces(tmp_path_factory, count):
    for format in get_args(Format):
        space = Space(tmp_path_factory.mktemp("store"), "0" * 32, format)
        shard = Shard(space, written(space, count, shape=(2,)))
        groups = [shard.read_group(index) for index in range(-(-count // ROWS_PER_GROUP))]
        assert [len(group) for group in groups[:-1]] == [ROWS_PER_GROUP] * (len(groups) - 1)
        assert np.array_equal(np.concatenate(groups), features(count, (2,)))


def test_features_in_another_memory_order_are_stored_as_they_read(space):
    values = features(6, (3, 4), "float32")
    strided = np.asfortranarray(values)
    swapped = values.astype(">f4")
    refs = {space.write(digests(6), array, {}, METADATA).name for array in (values, strided, swapped)}
    assert len(refs) == 1


def test_the_same_arguments_give_the_same_bytes_in_any_store(space):
    one, other = replace(space, root=space.root / "one"), replace(space, root=space.root / "other")
    errors = dict.fromkeys(digests(9)[5:], "decode_error")
    ref = one.write(digests(5), features(5), errors, METADATA)
    again = other.write(digests(5), features(5), dict(reversed(errors.items())), METADATA)
    assert ref == again
    assert one.shard(ref.name).read_bytes() == other.shard(ref.name).read_bytes()


@pytest.mark.parametrize("other", ["features", "digests", "errors", "metadata", "dtype"])
def test_other_arguments_give_another_name(space, other):
    arguments = {"digests": digests(5), "features": features(5), "errors": {}, "metadata": METADATA}
    ref = space.write(**arguments)
    changes = {
        "features": {"features": features(5) + np.float16(1)},
        "digests": {"digests": digests(6)[1:]},
        "errors": {"errors": {digests(9)[8]: "decode_error"}},
        "metadata": {"metadata": METADATA | {"engine": "other"}},
        "dtype": {"features": features(5).astype("float32")},
    }
    assert space.write(**arguments | changes[other]).name != ref.name


def test_a_shard_is_named_by_the_sha256_of_its_bytes_and_knows_its_size(space):
    ref = written(space)
    data = space.shard(ref.name).read_bytes()
    assert ref.name == f"{hashlib.sha256(data).hexdigest()}.{space.format}"
    assert (ref.size_bytes, ref.num_rows) == (len(data), 5)
    assert space.shard(ref.name).parent.name == ref.name[:2]


def test_writing_again_leaves_the_file_alone(space):
    ref = written(space)
    before = space.shard(ref.name).stat()
    assert written(space) == ref
    assert space.shard(ref.name).stat().st_mtime_ns == before.st_mtime_ns
    assert not list(space.aside.iterdir())


def test_errors_and_metadata_travel_with_the_rows(space):
    errors = {digests(9)[7]: "decode_error", digests(9)[8]: "truncated"}
    shard = Shard(space, space.write(digests(5), features(5), errors, METADATA))
    assert shard.errors() == errors
    assert METADATA.items() <= shard.metadata.items()


def test_a_shard_of_errors_alone_has_no_rows(space):
    errors = {digests(1)[0]: "decode_error"}
    shard = Shard(space, space.write([], features(0), errors, METADATA))
    assert (shard.digests(), shard.errors(), len(shard.read())) == ([], errors, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_values_that_are_not_finite_are_refused(space, value, dtype):
    array = features(5, dtype=dtype)
    array[3, 2] = value
    with pytest.raises(StoreDamaged, match="not finite"):
        space.write(digests(5), array, {}, METADATA)
    assert not space.shards.exists()


@pytest.mark.parametrize("value", [60_032, -65_504])
def test_values_near_the_end_of_float16_are_refused_there_and_kept_in_float32(space, value):
    array = features(5, dtype="float32")
    array[3, 2] = value
    with pytest.raises(StoreDamaged, match="float32"):
        space.write(digests(5), array.astype(np.float16), {}, METADATA)
    assert Shard(space, space.write(digests(5), array, {}, METADATA)).read()[3, 2] == value


def test_the_largest_value_allowed_is_kept(space):
    array = np.full((1, 4), 6.0e4, np.float16)
    assert Shard(space, space.write(digests(1), array, {}, METADATA)).read()[0, 0] == 60_000


def test_a_flipped_byte_in_a_page_is_noticed_when_it_is_read(space):
    ref = written(space, 200, shape=(64,))
    damage(space.shard(ref.name), ref.size_bytes // 2)
    with pytest.raises(StoreDamaged, match="the next run then extracts only what is lost"):
        Shard(space, ref).read()


def test_no_flipped_byte_gives_a_wrong_feature(space):
    ref = written(space, 40, shape=(16,))
    path, expected = space.shard(ref.name), features(40, (16,))
    data = path.read_bytes()
    noticed = 0
    for position in range(0, len(data), 23):
        damage(path, position)
        try:
            assert np.array_equal(Shard(space, ref).read(), expected), position
        except StoreDamaged:
            noticed += 1
        path.write_bytes(data)
    assert noticed > 30


def test_no_flipped_byte_gives_a_wrong_digest(space):
    ref = written(space, 40, shape=(16,))
    path = space.shard(ref.name)
    data = path.read_bytes()
    noticed = 0
    for position in range(0, len(data), 23):
        damage(path, position)
        try:
            assert Shard(space, ref).digests() == digests(40), position
        except StoreDamaged:
            noticed += 1
        path.write_bytes(data)
    assert noticed > 15


def test_a_flipped_byte_in_the_footer_is_noticed_on_opening(space):
    ref = written(space)
    path = space.shard(ref.name)
    data = path.read_bytes()
    if space.format == "parquet":
        length = int.from_bytes(data[-8:-4], "little") + 8
    else:
        length = len(data) - data.index(b"PK\1\2")
    for position in [-length, -length + 8, -length // 2, -9, -8, -6, -5, -4, -1]:
        damage(path, len(data) + position)
        with pytest.raises(StoreDamaged):
            Shard(space, ref)
        path.write_bytes(data)
    assert np.array_equal(Shard(space, ref).read(), features(5))


@pytest.mark.parametrize("missing_bytes", [1, 8, 1000])
def test_a_truncated_shard_is_noticed_on_opening(space, missing_bytes):
    ref = written(space, 200)
    path = space.shard(ref.name)
    path.write_bytes(path.read_bytes()[:-missing_bytes])
    with pytest.raises(StoreDamaged, match="bytes, but its version lists"):
        Shard(space, ref)
    assert not is_present(space, ref)


def test_an_empty_and_a_missing_shard_are_noticed(space):
    ref = written(space)
    space.shard(ref.name).write_bytes(b"")
    with pytest.raises(StoreDamaged):
        Shard(space, ref)
    space.shard(ref.name).unlink()
    assert not is_present(space, ref)
    with pytest.raises(StoreDamaged, match="missing"):
        Shard(space, ref)


def test_rewriting_a_damaged_shard_repairs_it(space):
    ref = written(space)
    path = space.shard(ref.name)
    path.write_bytes(path.read_bytes()[:-10])
    assert written(space) == ref
    assert np.array_equal(Shard(space, ref).read(), features(5))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../../etc/passwd",
        f"{'a' * 63}.parquet",
        f"{'A' * 64}.parquet",
        f"../{'a' * 61}.parquet",
        f"{'a' * 64}.parquet\n",
        f"{'a' * 64}.npy",
    ],
)
def test_a_name_is_checked_before_a_path_is_built_from_it(space, name):
    with pytest.raises(StoreDamaged, match="not a valid name of a shard"):
        space.shard(name)
    with pytest.raises(StoreDamaged, match="not a valid name of a shard"):
        Shard(space, ShardRef(name, 1, 1, ""))


def test_numpy_alone_reads_an_npz_shard(store):
    space = Space(store, "0" * 32, "npz")
    ref = written(space, 5, shape=(2, 3))
    with np.load(space.shard(ref.name), allow_pickle=False) as arrays:
        assert np.array_equal(arrays["features"], features(5, (2, 3)))
        assert [row.tobytes() for row in arrays["digest"]] == digests(5)
        assert METADATA.items() <= json.loads(str(arrays["metadata"])).items()


def test_an_npz_shard_with_an_object_in_it_is_refused_and_nothing_is_unpickled(store):
    space = Space(store, "0" * 32, "npz")
    archive = io.BytesIO()
    np.savez(archive, digest=np.array([print], object), features=features(1), metadata=np.array("{}"))
    data = archive.getvalue()
    directory = data[data.index(b"PK\1\2") :]
    ref = ShardRef(f"{'a' * 64}.npz", len(data), 1, hashlib.sha256(directory).hexdigest())
    space.shard(ref.name).parent.mkdir(parents=True)
    space.shard(ref.name).write_bytes(data)
    with pytest.raises(StoreDamaged, match="are object of shape"):
        Shard(space, ref)


def test_shards_of_both_formats_stand_side_by_side(store):
    space = Space(store, "0" * 32)
    refs = [written(replace(space, format=format), 3) for format in get_args(Format)]
    assert {ref.name for ref in left_in(space, {})} == {ref.name for ref in refs}
    one, other = (Shard(space, ref) for ref in refs)
    assert np.array_equal(one.read(), other.read())
    assert one.digests() == other.digests()


def test_intact_shards_that_no_version_lists_are_found(space):
    refs = [written(space, count) for count in (1, 2, 3)]
    found = left_in(space, {refs[0].name: refs[0]})
    assert sorted(found, key=lambda ref: ref.num_rows) == refs[1:]
    assert left_in(Store(space.root, "1" * 32), {}) == []


def test_a_shard_that_is_not_what_its_name_says_is_left_alone(space):
    truncated, flipped, intact = (written(space, count) for count in (1, 2, 3))
    path = space.shard(truncated.name)
    path.write_bytes(path.read_bytes()[:-1])
    damage(space.shard(flipped.name), 20)
    assert left_in(space, {}) == [intact]


@pytest.mark.parametrize("stray", ["ab/notes.parquet", "zz/{name}", "ab/copy of {name}"])
def test_a_stray_file_among_the_shards_is_left_alone(space, stray):
    ref = written(space)
    path = space.shards / stray.format(name=ref.name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(space.shard(ref.name).read_bytes())
    assert left_in(space, {}) == [ref]
