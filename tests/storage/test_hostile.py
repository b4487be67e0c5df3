"""Paths, files and stores from elsewhere, made to lead astray: refused by an error of ours, with nothing else touched."""

import io
import json
import os
import threading
import tracemalloc
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.backend.atomic import replace as put
from storage.backend.bounded_read import LARGEST_FILE, LARGEST_RECORD, read_file
from storage.errors import InputError, StoreDamaged
from storage.layout import Store
from storage.manifest.segments import SCHEMAS, read_segments
from storage.manifest.versions import read_version
from storage.planning.adoption import intact_shards
from storage.reading.samples import SAMPLE, SampleTable
from storage.reading.stream import FeatureStream
from storage.records import canonical, sealed, sha256
from storage.schemas import ROWS_SCHEMA
from storage.shards.inventory import unlisted_shards
from storage.shards.shard import ENCODINGS, FeatureType, Shard, ShardRef, write_shard
from storage.source.labels import read_labels
from storage.source.listing import list_images
from storage.source.scan import scan_folder
from tests import toy
from tests.examples import examples
from tests.fuzz import corpus
from vision.backbones.weights_file import read_weights
from vision.errors import WeightsError
from vision.specs import BACKBONES


def paths(scan) -> list[bytes]:
    return scan.files["path"].to_pylist()


# Paths


def left_in(store: Store, committed: dict[str, ShardRef]) -> list[ShardRef]:
    """What a dead run has left in a store, and is intact."""
    return intact_shards(store, unlisted_shards(store, committed), lambda shard: True)


@pytest.mark.parametrize("link", ["file", "folder"])
def test_a_link_out_of_the_root_is_followed_only_where_that_is_allowed(link, tmp_path, caplog):
    images = toy.pictures(tmp_path / "images", per_class=1)
    outside = toy.picture(tmp_path / "outside" / "1.png", 99)
    (images / "cats" / "link.png").symlink_to(outside if link == "file" else outside.parent)
    refused = scan_folder(images)
    assert (paths(refused), refused.ignored) == ([b"cats/000.png", b"dogs/000.png"], 1)
    assert "skipped 1 link that leads out of" in caplog.text
    assert scan_folder(images, outside_links=True).files.num_rows == 3


def test_links_within_the_root_are_followed_and_the_root_may_be_one(tmp_path, caplog):
    images = toy.pictures(tmp_path / "real", per_class=1)
    (images / "cats" / "also.png").symlink_to(images / "dogs" / "000.png")
    (images / "birds").symlink_to(images / "dogs")
    (tmp_path / "root").symlink_to(images)
    assert paths(scan_folder(tmp_path / "root")) == [
        b"birds/000.png",
        b"cats/000.png",
        b"cats/also.png",
        b"dogs/000.png",
    ]
    assert "lead out" not in caplog.text


def test_a_folder_whose_name_begins_as_the_roots_is_outside(tmp_path):
    images = toy.pictures(tmp_path / "images", per_class=1)
    toy.picture(tmp_path / "images 2" / "1.png", 99)
    (images / "cats" / "more").symlink_to(tmp_path / "images 2")
    assert scan_folder(images).files.num_rows == 2


@pytest.mark.parametrize(
    "path", ["../outside/1.png", "cats/../../outside/1.png", "{tmp_path}/outside/1.png", "/etc/passwd"]
)
def test_a_labels_file_names_no_file_outside_of_the_root(path, tmp_path, caplog):
    images = toy.pictures(tmp_path / "images", per_class=1)
    toy.picture(tmp_path / "outside" / "1.png", 99)
    table = tmp_path / "labels.csv"
    table.write_text(f"path,class\ncats/000.png,cats\n{path.format(tmp_path=tmp_path)},cats\n")
    assert paths(scan_folder(images, labels=table)) == [b"cats/000.png"]
    assert "no file in" in caplog.text


def test_a_labels_file_with_a_column_twice_is_refused(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("path,class,class\ncats/000.png,cats,dogs\n")
    with pytest.raises(InputError, match="'class' more than once"):
        read_labels(table, tmp_path)


@pytest.mark.parametrize("column", ["class", "split"])
def test_a_labels_file_whose_text_is_none_is_refused(column, tmp_path):
    columns = {"path": [b"cats/000.png"], "class": [b"cats"], "split": [b"train"]} | {column: [b"\xff\xfe"]}
    pq.write_table(
        pa.table({name: pa.array(cells).view(pa.string()) for name, cells in columns.items()}), tmp_path / "l.parquet"
    )
    with pytest.raises(InputError, match="cannot be read"):
        read_labels(tmp_path / "l.parquet", tmp_path)


@pytest.mark.parametrize("path", [b"../outside.png", b"/etc/passwd", b"cats/../../x", b".."])
def test_no_file_outside_of_the_root_is_read_whatever_a_plan_says(path, images):
    with pytest.raises(OSError, match="leads out of"):
        read_file(images, path)


def test_what_became_a_pipe_a_folder_or_a_device_is_not_waited_for(images, store):
    scan = scan_folder(images)
    for name, make in {
        "000": os.mkfifo,
        "001": os.mkdir,
        "002": lambda path: os.symlink("/dev/zero", path),
        "003": lambda path: os.symlink(path, path),
    }.items():
        (images / "cats" / f"{name}.png").unlink()
        make(images / "cats" / f"{name}.png")
    done = threading.Event()
    threading.Timer(60, lambda: done.is_set() or os._exit(1)).start()
    listing = list_images(scan, store)
    done.set()
    reasons = dict(zip(paths(scan), listing.files["reason"].to_pylist(), strict=True))
    assert [reasons[b"cats/%03d.png" % index] for index in range(5)] == ["read_error"] * 4 + [None]


def test_a_file_larger_than_any_image_is_not_read(images, store):
    with open(images / "cats" / "000.png", "wb") as file:
        file.truncate(LARGEST_FILE + 1)
    listing = list_images(scan_folder(images), store)
    assert listing.files["reason"][0].as_py() == "too_many_pixels"
    assert listing.files["digest"][0].as_py() is None
    with pytest.raises(OSError, match="too large for an image"):
        read_file(images, b"cats/000.png")


# Versions and segments


@pytest.fixture
def committed(images, store):
    return toy.space(images, store).store, toy.run(images, store)[1]


def forge(store, number: int, /, **changes) -> None:
    """Change what a version says and seal it again, as whoever means harm would."""
    record = json.loads(store.version(number).read_text())
    record.pop("checksum")
    put(store.version(number), json.dumps(sealed(record | changes)).encode())


LIES = {
    "another number": {"number": 7},
    "its own parent": {"parent": 1},
    "a segment elsewhere": {"files": ["../../../../etc/passwd"]},
    "a segment of no text": {"files": [5]},
    "segments that are none": {"rows": None},
    "a shard elsewhere": {"shards": {"../../x.parquet": [1, 1, "a"]}},
    "rows without number": {"shards": {"a" * 64 + ".parquet": [10, "many", "a"]}},
    "rows without end": {"shards": {"a" * 64 + ".parquet": [10, 10**9, "a"]}},
    "fewer rows than none": {"shards": {"a" * 64 + ".parquet": [10, -1, "a"]}},
    "shards of two facts": {"shards": {"a" * 64 + ".parquet": [10, 1]}},
    "what nobody asked for": {"more": 1},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_version_that_lies_is_refused(lie, committed):
    store, _ = committed
    forge(store, 1, **LIES[lie])
    with pytest.raises(StoreDamaged):
        read_version(store, 1)


def test_a_version_of_a_million_brackets_is_refused(committed):
    store, _ = committed
    put(store.version(1), b"[" * 1_000_000)
    with pytest.raises(StoreDamaged):
        read_version(store, 1)


def test_a_record_or_segment_larger_than_any_is_not_read(committed):
    store, version = committed
    for path in (store.version(1), store.segment(version.rows[0])):
        os.truncate(path, LARGEST_RECORD + 1)
    with pytest.raises(StoreDamaged, match="larger than"):
        read_version(store, 1)
    with pytest.raises(StoreDamaged, match="larger than"):
        version.read_rows(store)


def with_segment(store, version, kind: str, table: pa.Table, **options):
    """The version with one segment of this table, under its right name."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    name = f"{kind}-{sha256(sink.getvalue())}.parquet"
    put(store.segment(name), sink.getvalue())
    return replace(version, **{kind: (name,)})


def test_rows_that_no_shard_has_are_refused(committed):
    store, version = committed
    rows = version.read_rows(store)
    beyond = rows.set_column(3, rows.schema.field(3), pa.array([60_000] * rows.num_rows, pa.uint16()))
    strange = rows.set_column(2, rows.schema.field(2), pa.array(["a" * 64 + ".parquet"] * rows.num_rows))
    for table in (beyond, strange):
        with pytest.raises(StoreDamaged, match="none of its shards has"):
            with_segment(store, version, "rows", table).read_rows(store)


@pytest.mark.parametrize("change", ["another type", "a column less", "nulls", "too many rows", "too large", "no UTF-8"])
def test_a_segment_that_is_not_what_a_segment_is_is_refused(change, committed, monkeypatch):
    store, version = committed
    files = version.read_files(store)
    at = files.schema.get_field_index("class")
    if change == "another type":
        files = files.set_column(at, "class", pa.array(range(files.num_rows)))
    elif change == "a column less":
        files = files.drop_columns("class")
    elif change == "nulls":
        files = files.set_column(at, "class", pa.nulls(files.num_rows, pa.string()))
    elif change == "too many rows":
        files = pa.concat_tables([files] * 4000)
    elif change == "too large":
        monkeypatch.setattr("storage.manifest.segments.MOST_BYTES", 2**16)
        files = files.set_column(at, files.schema.field(at), pa.array(["a" * 2**16] * files.num_rows))
    else:
        text = pa.array([b"\xff\xfe"] * files.num_rows).view(pa.string())
        files = files.set_column(at, files.schema.field(at), text)
    with pytest.raises(StoreDamaged, match="is damaged"):
        with_segment(store, version, "files", files, use_dictionary=False).read_files(store)


def test_a_segment_that_is_no_parquet_is_refused(committed):
    store, version = committed
    name = f"files-{sha256(b'PAR1 no')}.parquet"
    put(store.segment(name), b"PAR1 no")
    with pytest.raises(StoreDamaged, match="is damaged"):
        replace(version, files=(name,)).read_files(store)


def test_a_footer_at_which_pyarrow_ends_the_process_is_refused(committed):
    store, _ = committed
    found = (corpus.HERE / "segment" / "a-footer-of-other-sizes").read_bytes()
    kind, data = "rows" if found[:1] == b"R" else "files", found[1:]
    put(store.segment(f"{kind}-{sha256(data)}.parquet"), data)
    with pytest.raises(StoreDamaged, match="is damaged"):
        read_segments(store, kind, (f"{kind}-{sha256(data)}.parquet",))


# Shards


def forged(store, format: str, data: bytes, rows: int) -> ShardRef:
    """A shard of these bytes whose name, size and footer checksum are right."""
    encoding = ENCODINGS[format]
    footer = data[-encoding.footer_size(data[-encoding.TAIL :]) :]
    ref = ShardRef(f"{sha256(data)}.{format}", len(data), rows, sha256(footer))
    put(store.shard(ref.name), data)
    return ref


METADATA = {"dtype": "<f2", "shape": "[2, 3]", "errors": "[]"}
DIGESTS = [bytes([number]) * 32 for number in range(3)]
FEATURES = np.ones((3, 2, 3), np.float16)


@pytest.mark.parametrize("format", ["parquet", "npz"])
@pytest.mark.parametrize(
    "facts",
    [
        {"dtype": "O"},
        {"dtype": "|V2"},
        {"shape": "[-2, -3]"},
        {"shape": "[4294967296, 4294967296, 6]"},
        {"shape": "[2.0, 3]"},
        {"shape": "6"},
        {"shape": "[" * 100_000},
        {"shape": "[600000]"},
    ],
    ids=lambda facts: str(facts)[:40],
)
def test_a_shard_of_no_features_is_refused(format, facts, committed):
    store, _ = committed
    ref = forged(store, format, ENCODINGS[format].encode(DIGESTS, FEATURES, METADATA | facts), 3)
    with pytest.raises(StoreDamaged):
        Shard(store, ref)


@pytest.mark.parametrize(
    "errors", ["{", '[["zz", "truncated"]]', '[["00", "truncated"]]', f'[["{"0" * 64}", "Bad\\n"]]']
)
def test_a_shard_that_names_no_images_as_bad_ones_is_refused(errors, committed):
    store, _ = committed
    ref = forged(store, "parquet", ENCODINGS["parquet"].encode(DIGESTS, FEATURES, METADATA | {"errors": errors}), 3)
    with pytest.raises(StoreDamaged):
        Shard(store, ref).errors()


def test_a_parquet_shard_of_other_groups_or_columns_is_refused(committed):
    store, _ = committed
    rows = 200
    digest, view = pa.array([bytes(32)] * rows, pa.binary(32)), pa.array(np.zeros(rows, np.uint16))
    features = pa.array([bytes(12)] * rows, pa.binary(12))
    fields = [pa.field(name, kind, nullable=False) for name, kind in (("digest", pa.binary(32)), ("view", pa.uint16()))]
    schema = pa.schema([*fields, pa.field("features", pa.binary(12), nullable=False)], metadata=METADATA)
    table = pa.Table.from_arrays([digest, view, features], schema=schema)
    text = schema.set(2, pa.field("features", pa.binary(), nullable=False))
    for wrong, size in ((table, 200), (table, 7), (table.cast(text), 128)):
        sink = io.BytesIO()
        pq.write_table(wrong, sink, row_group_size=size, write_page_checksum=True)
        with pytest.raises(StoreDamaged):
            Shard(store, forged(store, "parquet", sink.getvalue(), rows))


@pytest.mark.parametrize("format", ["parquet", "npz"])
@pytest.mark.parametrize("data", [b"", b"PAR1"])
def test_a_shard_shorter_than_its_footer_is_refused(format, data, committed):
    store, _ = committed
    ref = ShardRef(f"{sha256(data)}.{format}", len(data), 0, sha256(data))
    put(store.shard(ref.name), data)
    with pytest.raises(StoreDamaged, match="bytes"):
        Shard(store, ref)


def lying(data: bytes, unpacked: int, values: int) -> bytes:
    """A Parquet file of one group whose last column has one page, and a header of that which says other sizes."""
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
    column = group.column(group.num_columns - 1)
    start, packed = column.data_page_offset, column.total_compressed_size - 40
    header = b"\x15\0\x15" + varint(2 * unpacked) + b"\x15" + varint(2 * packed)
    header += b"\x2c\x15" + varint(2 * values) + b"\x15\0\x15\x06\x15\x06\0\0"
    return data[:start] + header + data[start + len(header) :]


def varint(number: int) -> bytes:
    return bytes([number & 127 | 128]) + varint(number >> 7) if number > 127 else bytes([number])


NOISE = np.random.default_rng(0).integers(0, 15_000, (3, 2, 3000), np.uint16).view(np.float16)


@pytest.mark.parametrize(("unpacked", "values"), [(2**31 - 1, 3), (36_000, 2**31 - 1)])
def test_a_page_that_says_it_is_huge_is_refused_before_there_is_memory_for_it(unpacked, values, committed):
    store, version = committed
    most = pa.default_memory_pool().max_memory()
    whole = ENCODINGS["parquet"].encode(DIGESTS, NOISE, METADATA | {"shape": "[2, 3000]"})
    assert np.array_equal(Shard(store, forged(store, "parquet", whole, 3)).read(), NOISE)
    shard = Shard(store, forged(store, "parquet", lying(whole, unpacked, values), 3))
    with pytest.raises(StoreDamaged, match="a page claims"):
        shard.read()
    rows = pa.concat_tables([version.read_rows(store)] * 500)
    segment = io.BytesIO()
    pq.write_table(rows.cast(ROWS_SCHEMA), segment, use_dictionary=False, compression="none")
    name = f"rows-{sha256(lying(segment.getvalue(), unpacked, values))}.parquet"
    put(store.segment(name), lying(segment.getvalue(), unpacked, values))
    with pytest.raises(StoreDamaged, match="a page claims"):
        replace(version, rows=(name,)).read_rows(store)
    assert pa.default_memory_pool().max_memory() <= max(most, 2**30)


def test_a_shard_that_a_dead_run_left_is_hashed_in_pieces(committed):
    store, version = committed
    left = write_shard(store, DIGESTS, FEATURES, {}, {})
    put(store.shard("a" * 64 + ".npz"), b"")
    os.truncate(store.shard("a" * 64 + ".npz"), 2**28)
    tracemalloc.start()
    try:
        assert left_in(store, version.shards) == [left]
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def npy(header: str, body: bytes) -> bytes:
    text = header.encode().ljust(118 - 10 - 1) + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + body


@pytest.mark.parametrize(
    ("member", "content"),
    [
        ("digest", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (100000000000, 32), }", bytes(96))),
        ("digest", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-3, -32), }", bytes(96))),
        ("digest", npy("{'descr': '|O', 'fortran_order': False, 'shape': (3, 32), }", b"cos\nsystem\n(S'exit 1'\ntR.")),
        ("metadata", npy("{'descr': '|O', 'fortran_order': False, 'shape': (), }", b"cos\nsystem\n(S'exit 1'\ntR.")),
        ("features", npy("{'descr': '<f2', 'fortran_order': False, 'shape': (3, 1000000, 3), }", bytes(36))),
        ("features", npy("{'descr': '<f2', 'fortran_order': True, 'shape': (3, 2, 3), }", bytes(36))),
        ("features", b"no array at all"),
        ("features", npy("{'descr': '<f2', 'shape': (3L, ", b"")),
    ],
)
def test_an_npz_shard_whose_arrays_lie_is_refused_and_runs_nothing(member, content, committed):
    store, _ = committed
    whole = io.BytesIO(ENCODINGS["npz"].encode(DIGESTS, FEATURES, METADATA))
    sink = io.BytesIO()
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(sink, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name == f"{member}.npy" else old.read(name))
    with pytest.raises(StoreDamaged):
        Shard(store, forged(store, "npz", sink.getvalue(), 3)).read()


def test_a_shard_whose_features_have_another_shape_than_the_others_is_not_read(committed):
    store, _ = committed
    shards = tuple(write_shard(store, DIGESTS, array, {}, {}) for array in (FEATURES, FEATURES.reshape(3, 3, 2)))
    table = SampleTable(np.array([(0, 0, 0), (1, 0, 0)], SAMPLE), shards, ("cats",))
    with pytest.raises(StoreDamaged, match=r"shape=\(3, 2\).*, but the others .*shape=\(2, 3\)"):
        list(FeatureStream(store, table, 2, None, 1).batches())


def test_an_npz_shard_that_asks_for_a_password_is_refused(committed):
    store, _ = committed
    data = bytearray(ENCODINGS["npz"].encode(DIGESTS, FEATURES, METADATA))
    directory = data.index(b"PK\1\2")
    data[6] = data[directory + 8] = 1  # encrypted, says the flag of the first array
    with pytest.raises(StoreDamaged, match="encrypted"):
        Shard(store, forged(store, "npz", bytes(data), 3))


WHOLE = {kind: data[2:] for kind, data in corpus.shards().items()} | {
    kind: data[1:] for kind, data in corpus.segments().items()
}


@given(st.sampled_from(sorted(WHOLE)), st.data())
@settings(max_examples=examples(66))
def test_whatever_is_overwritten_in_a_shard_or_segment_it_is_read_or_refused(tmp_path_factory, kind, data):
    store = Store(tmp_path_factory.mktemp("store"), "0" * 32)
    broken = bytearray(WHOLE[kind])
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(broken) - 1), st.integers(0, 255)), min_size=1)):
        broken[at] = value
    with suppress(StoreDamaged):
        if kind in SCHEMAS:
            name = f"{kind}-{sha256(broken)}.parquet"
            put(store.segment(name), bytes(broken))
            read_segments(store, kind, (name,)).to_pylist()
        else:
            tail = ENCODINGS[kind].TAIL
            broken[-tail:] = WHOLE[kind][-tail:]  # else there is no footer to take a checksum of
            shard = Shard(store, forged(store, kind, bytes(broken), 3))
            shard.digests(), shard.errors(), shard.read()


def test_an_npz_shard_whose_directory_leads_before_its_beginning_is_refused(committed):
    store, _ = committed
    data = bytearray(ENCODINGS["npz"].encode(DIGESTS, FEATURES, METADATA))
    data[-6:-2] = (2**31).to_bytes(4, "little")  # where the directory says that it begins
    with pytest.raises(StoreDamaged):
        Shard(store, forged(store, "npz", bytes(data), 3))


def test_an_npz_shard_that_unpacks_to_more_than_it_has_is_refused(committed):
    store, _ = committed
    sink = io.BytesIO()
    np.savez_compressed(
        sink, digest=np.zeros((3, 32), np.uint8), metadata=np.array("{}"), features=np.zeros((3, 2**22))
    )
    with pytest.raises(StoreDamaged):
        Shard(store, forged(store, "npz", sink.getvalue(), 3))


def test_what_the_store_writes_itself_is_read(committed):
    store, _ = committed
    for format in ("parquet", "npz"):
        ref = write_shard(store, DIGESTS, FEATURES, {bytes(32): "truncated"}, {}, format)
        assert np.array_equal(Shard(store, ref).read(), FEATURES)
        assert Shard(store, ref).errors() == {bytes(32): "truncated"}
    assert FeatureType.of(METADATA).row_bytes == 12
    assert canonical({}) == b"{}"


# Weights


@pytest.mark.parametrize("way", ["link", "external", "virtual", "huge"])
def test_weights_that_lie_elsewhere_or_say_they_are_huge_are_not_read(way, tmp_path):
    path = toy.weights_file(tmp_path / "weights.h5", seed=1)
    other = toy.weights_file(tmp_path / "other.h5", seed=2)
    where = "layers/block1_conv1/vars"
    with h5py.File(path, "a") as file:
        shape = file[f"{where}/0"].shape
        del file[f"{where}/0"]
        if way == "link":
            file[f"{where}/0"] = h5py.ExternalLink(str(other), f"{where}/0")
        elif way == "external":
            file[where].create_dataset("0", shape, "f4", external=[(str(tmp_path / "raw"), 0, 10**6)])
        elif way == "virtual":
            layout = h5py.VirtualLayout(shape, "f4")
            layout[:] = h5py.VirtualSource(str(other), f"{where}/0", shape)
            file[where].create_virtual_dataset("0", layout)
        else:
            file[where].create_dataset("0", (10**6, 10**6), "f4", chunks=(10, 10))
    other.unlink()
    with pytest.raises(WeightsError, match=r"another file|does not fit"):
        read_weights(BACKBONES["vgg16"], Path(path))
