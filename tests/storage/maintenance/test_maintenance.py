"""Upkeep as people call it: what is found, what is mended, what is removed, and what goes on meanwhile."""

import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from storage.backend.lock import hold
from storage.cli.main import main
from storage.errors import InputError, StoreDamaged
from storage.heads.current import promote_head
from storage.heads.pins import pin_version, unpin
from storage.heads.registry import list_heads
from storage.layout import Store
from storage.maintenance.compact import CompactOptions
from storage.maintenance.quarantine import quarantined
from storage.manifest.space import create_space
from storage.manifest.versions import commit, latest_version, read_version, version_numbers
from storage.planning.plan import Plan
from storage.reading.samples import pin
from storage.reading.stream import FeatureStream
from storage.records import fingerprint
from storage.schemas import FILES_SCHEMA, ROWS_SCHEMA
from storage.shards.shard import Shard
from tests import toy
from tests.examples import examples

RECORD = {"created": "2026-01-01T00:00:00+00:00", "metrics": {"val_accuracy": 0.5}}
NONE = ("--grace", "0")
AUGMENTATION = '{"rotation_range":20.0}'


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures and a store of three versions with two heads, only to be copied; returns the folder of both."""
    folder = tmp_path_factory.mktemp("original")
    images, root = toy.pictures(folder / "images", per_class=6), folder / "store"
    store = toy.space(images, root).store
    toy.run(images, root, chunk_size=4)
    (images / "cats/000.png").rename(images / "dogs/was a cat.png")
    toy.picture(images / "cats/new.png", 5000)
    toy.run(images, root, chunk_size=4)
    (images / "dogs/001.png").unlink()
    (images / "dogs/broken.png").write_bytes(b"not a picture")
    toy.run(images, root, chunk_size=4)
    for name, version in (("a" * 32, 1), ("b" * 32, 3)):
        of = {"version": version, "data_digest": read_version(store, version).data_digest}
        toy.head(store, name, RECORD | {"fingerprint": store.fingerprint} | of, b"a model " * 50)
    promote_head(store, "b" * 32)
    return folder


@pytest.fixture
def lived(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path, dirs_exist_ok=True)


def store_of(lived: Path) -> Store:
    return toy.space(lived / "images", lived / "store").store


def call(capsys, lived: Path, *arguments: object) -> tuple[int, list[str], str]:
    """Exit status, lines on standard output, and standard error."""
    status = main([*map(str, arguments), "--store", str(lived / "store")])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err


def plan(lived: Path) -> Plan:
    return toy.plan(lived / "images", lived / "store")


def files_of(lived: Path) -> dict[str, list[Path]]:
    """Every file of the store by what it is."""
    store = store_of(lived)
    versions = [read_version(store, number) for number in version_numbers(store)]
    return {
        "space.json": [store.space / "space.json"],
        "newest version": [store.version(3)],
        "older version": [store.version(1), store.version(2)],
        "files": sorted({store.segments / name for version in versions for name in version.files}),
        "rows": sorted({store.segments / name for version in versions for name in version.rows}),
        "shard": sorted(store.shards.glob("*/*")),
        "head.json": sorted(store.heads.glob("*/head.json")),
        "head.keras": sorted(store.heads.glob("*/head.keras")),
        "current": [store.heads / "current"],
    }


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << at % 8
    path.write_bytes(bytes(data))


def cut(path: Path, at: int) -> None:
    path.write_bytes(path.read_bytes()[:at])


@pytest.mark.parametrize("harm", [flip, cut])
@pytest.mark.parametrize(
    "kind",
    ["space.json", "newest version", "older version", "files", "rows", "shard", "head.json", "head.keras", "current"],
)
def test_a_bit_flipped_or_a_tail_cut_anywhere_is_found_and_repaired(kind, harm, original, tmp_path, capsys):
    """Anywhere in a file of each kind: the places are dealt out among the files."""
    lived, paths = original, files_of(original)[kind]
    for index, path in enumerate(paths):
        size, count = path.stat().st_size, max(examples(3), len(paths))
        for at in np.linspace(0, size - 1, count).astype(int).tolist()[index :: len(paths)]:
            if kind == "current" and path.read_bytes()[:at].strip() == path.read_bytes().strip():
                continue  # the line feed behind the name
            root = shutil.copytree(lived, tmp_path / "harmed")
            harmed = root / path.relative_to(lived)
            harm(harmed, at)
            status, lines, error = call(capsys, root, "verify", "--deep")
            shown = str(harmed.relative_to(root / "store"))
            assert status == 1, (harmed, at)
            assert any(line.startswith(shown) for line in lines), (shown, at, lines)
            assert "python -m storage repair" in error
            assert call(capsys, root, "repair", "--deep")[0] == 0
            if kind == "space.json":
                toy.run(root / "images", root / "store")  # which writes it anew
            status, lines, error = call(capsys, root, "verify", "--deep")
            assert (status, error) == (0, ""), (shown, at, lines)
            shutil.rmtree(root)


def test_a_flipped_bit_among_the_features_is_found_by_whoever_reads_them_and_by_deep_alone(lived, capsys):
    store = store_of(lived)
    ref = max(read_version(store, 3).shards.values(), key=lambda ref: ref.size_bytes)
    before = Shard(store, ref).read()
    flip(store.shard(ref.name), ref.size_bytes // 2)
    assert call(capsys, lived, "verify")[0] == 0
    assert call(capsys, lived, "verify", "--deep")[0] == 1
    with pytest.raises(StoreDamaged, match=ref.name):
        assert np.array_equal(Shard(store, ref).read(), before)


def test_a_run_notices_a_shard_that_is_cut_or_gone_and_extracts_its_images_alone(lived):
    store = store_of(lived)
    first, second = sorted(read_version(store, 3).shards.values(), key=lambda ref: -ref.num_rows)[:2]
    assert plan(lived).todo.num_rows == 0
    cut(store.shard(first.name), 100)
    store.shard(second.name).unlink()
    planned = plan(lived)
    assert planned.lost == planned.todo.num_rows > 0
    toy.run(lived / "images", lived / "store")
    assert plan(lived).todo.num_rows == 0


@pytest.mark.parametrize("kind", ["files", "rows", "shard", "newest version"])
def test_after_a_repair_a_run_extracts_exactly_what_was_lost(kind, lived, capsys):
    images, store = lived / "images", store_of(lived)
    before = read_version(store, 3)
    features = toy.features_of(images, lived / "store", before)
    harmed = {
        "files": store.segments / before.files[0],
        "rows": store.segments / before.rows[-1],
        "shard": store.shard(max(before.shards.values(), key=lambda ref: ref.num_rows).name),
        "newest version": store.version(3),
    }[kind]
    live = set(before.read_files(store)["digest"].to_pylist())
    ref = before.shards.get(harmed.name)
    lost = len(live.intersection(Shard(store, ref).digests())) if ref else 0
    flip(harmed, harmed.stat().st_size // 2)
    status, lines, _ = call(capsys, lived, "repair", "--deep")
    assert status == 0
    assert "committed version 4" in lines[0]
    assert not harmed.exists() or kind == "rows"  # which is written anew, with the same bytes
    planned, version = toy.run(images, lived / "store")
    assert planned.todo.num_rows == lost + (kind == "files")  # why one is broken was known there alone
    assert version.data_digest == before.data_digest
    found = toy.features_of(images, lived / "store", version)
    assert all(np.array_equal(found[digest], features[digest]) for digest in live & features.keys())


def test_repair_of_a_whole_store_changes_nothing(lived, capsys):
    before = {
        path: path.read_bytes() for path in (lived / "store").rglob("*") if path.is_file() and path.name != "lock"
    }
    status, lines, _ = call(capsys, lived, "repair")
    assert (status, "the newest version is intact" in lines[0]) == (0, True)
    assert {p: p.read_bytes() for p in (lived / "store").rglob("*") if p.is_file() and p.name != "lock"} == before


@pytest.mark.parametrize("file", ["space.json", "versions/00000000000000000003.json"])
def test_repair_leaves_a_store_of_another_format_alone(file, lived, capsys):
    path = store_of(lived).space / file
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 99'))
    before = {path: path.read_bytes() for path in (lived / "store").rglob("*.*") if path.is_file()}
    status, _, error = call(capsys, lived, "repair")
    assert (status, "format_version 99" in error) == (2, True)
    assert {path: path.read_bytes() for path in (lived / "store").rglob("*.*") if path.is_file()} == before


# Compaction


def test_compaction_merges_small_shards_and_leaves_dead_rows_out(lived, capsys):
    images, root, store = lived / "images", lived / "store", store_of(lived)
    before = read_version(store, 3)
    features = toy.features_of(images, root, before)
    status, lines, _ = call(capsys, lived, "compact")
    assert status == 0
    assert re.search(r"shards became 1 shard, 1 dead row dropped; committed version 4", lines[0]), lines
    after = read_version(store, 4)
    assert (after.data_digest, after.counts, after.files) == (before.data_digest, before.counts, before.files)
    found = toy.features_of(images, root, after)
    assert len(found) == len(features) - 1
    assert all(np.array_equal(found[digest], features[digest]) for digest in found)
    assert call(capsys, lived, "verify", "--deep")[0] == 0
    assert plan(lived).todo.num_rows == 0
    assert "nothing to compact" in call(capsys, lived, "compact")[1][0]


def test_compaction_leaves_full_shards_without_dead_rows_alone(lived, capsys):
    store = store_of(lived)
    version = read_version(store, 3)
    live = set(version.read_files(store)["digest"].to_pylist())
    full = {ref.name for ref in version.shards.values() if ref.num_rows == 4}
    dead = {row["shard"] for row in version.read_rows(store).to_pylist() if row["digest"] not in live}
    assert full - dead
    assert full & dead
    assert call(capsys, lived, "compact", "--rows", 4)[0] == 0
    left = latest_version(store).shards.keys()
    assert (left & full, left & dead) == (full - dead, set())


def test_compaction_waits_for_as_many_dead_rows_as_it_is_told(lived, capsys):
    """Of each shard a quarter is dead at most: there is one photo that was deleted."""
    store = store_of(lived)
    names = latest_version(store).shards.keys()
    status, lines, _ = call(capsys, lived, "compact", "--rows", 1, "--dead-fraction", 0.5)
    assert (status, "1 shard became 0 shards" in lines[0]) == (0, True)  # that of the broken image, which has no row
    assert len(latest_version(store).shards.keys() & names) == len(names) - 1
    status, lines, _ = call(capsys, lived, "compact", "--rows", 1, "--dead-fraction", 0.25)
    assert "1 dead row dropped" in lines[0]
    assert call(capsys, lived, "compact", "--rows", 1, "--dead-fraction", "nan")[0] == 2


@pytest.mark.parametrize("format", ["parquet", "npz"])
@pytest.mark.parametrize("left", [1, 9, 15])
def test_no_byte_of_a_deleted_photos_features_is_left_after_compaction_and_gc(
    left, format, tmp_path, capsys, monkeypatch
):
    """Whether most of a shard is dead or next to nothing, its variants too, and though its bytes lie there twice."""
    toy.without_keras(monkeypatch)
    images, root, store = toy.pictures(tmp_path / "images", per_class=8), tmp_path / "store", store_of(tmp_path)
    options = {"variants": 2, "augmentation": AUGMENTATION, "allow_removals": True, "format": format}
    twice = toy.plan(images, root, chunk_size=16, format=format)
    toy.run(images, root, chunk_size=16, **options)
    toy.extract(images, root, twice)  # as another run on the same bucket
    for path in sorted(images.glob("*/*"))[left:]:
        path.unlink()
    toy.picture(images / "cats/new.png", 5000)
    toy.run(images, root, chunk_size=1, **options)
    _, version = toy.run(images, root, **options)
    live = set(version.read_files(store)["digest"].to_pylist())
    assert call(capsys, tmp_path, "compact")[0] == 0
    assert "nothing to compact" in call(capsys, tmp_path, "compact")[1][0]
    call(capsys, tmp_path, "gc", "--keep", 1, *NONE)
    there = [Shard(store, ref) for ref in latest_version(store).shards.values()]
    assert {digest for shard in there for digest in shard.digests()} == live
    assert {path.name for path in store.shards.glob("*/*")} == {shard.ref.name for shard in there}
    assert latest_version(store).counts["ok"] == left + 1
    assert not toy.plan(images, root, **options).needs_commit


@pytest.mark.parametrize("rows", [0, -1, 65_536, 70_000, 2**40])
def test_more_rows_than_a_shard_can_have_are_refused_before_anything_is_written(rows, lived, capsys):
    before = set((lived / "store").rglob("*"))
    status, lines, error = call(capsys, lived, "compact", f"--rows={rows}")
    assert (status, lines, error.count("\n")) == (2, [], 1)
    assert "--rows" in error
    assert set((lived / "store").rglob("*")) == before
    with pytest.raises(InputError, match="`rows`: expected 1 to 65535"):
        CompactOptions(rows)


def test_as_many_rows_as_a_shard_can_have_are_taken(lived, capsys):
    assert call(capsys, lived, "compact", "--rows", 65_535)[0] == 0
    assert call(capsys, lived, "verify", "--deep")[0] == 0


@pytest.mark.parametrize("format", ["parquet", "npz"])
def test_compaction_keeps_the_format_and_how_rows_were_made(format, tmp_path, capsys):
    images, root = toy.pictures(tmp_path / "images", per_class=4), tmp_path / "store"
    toy.run(images, root, chunk_size=2, format=format)
    store = store_of(tmp_path)
    (facts,) = {tuple(sorted(_facts(store, ref).items())) for ref in latest_version(store).shards.values()}
    assert call(capsys, tmp_path, "compact")[0] == 0
    (ref,) = latest_version(store).shards.values()
    assert ref.name.endswith(format)
    assert tuple(sorted(_facts(store, ref).items())) == facts


def _facts(store, ref) -> dict[str, str]:
    return {name: value for name, value in Shard(store, ref).metadata.items() if name != "errors"}


# What gc removes, and what goes on


def test_gc_keeps_the_newest_versions_and_what_they_need(lived, capsys):
    store = store_of(lived)
    call(capsys, lived, "compact")
    said = {number: read_version(store, number).read_files(store) for number in (3, 4)}
    status, lines, _ = call(capsys, lived, "gc", "--keep", 2, *NONE)
    assert status == 0
    assert re.match(r"removed 2 versions, \d+ segments, 0 shards, 1 head: ", lines[0]), lines
    assert version_numbers(store) == [3, 4]
    assert all(read_version(store, number).read_files(store).equals(files) for number, files in said.items())
    assert call(capsys, lived, "verify", "--deep")[0] == 0
    assert call(capsys, lived, "gc", "--keep", 1, *NONE)[0] == 0
    needed = {*read_version(store, 4).shards}
    assert {path.name for path in store.shards.glob("*/*")} == needed
    assert call(capsys, lived, "verify", "--deep")[0] == 0
    assert plan(lived).todo.num_rows == 0


def test_gc_waits_for_what_was_in_use_lately(lived, capsys):
    images, store = lived / "images", store_of(lived)
    planned = toy.plan(images, lived / "store", chunk_size=4)
    toy.picture(images / "cats/newer.png", 6000)
    planned = toy.plan(images, lived / "store", chunk_size=4)
    (left,) = toy.extract(images, lived / "store", planned)  # by a run that died before its commit
    assert call(capsys, lived, "gc", "--keep", 1)[1] == ["removed 0 versions, 0 segments, 0 shards, 0 heads: 0 bytes"]
    assert toy.plan(images, lived / "store").adopted == 1
    os.utime(store.shard(left.name), (time.time() - 90_000,) * 2)
    assert "1 shard," in call(capsys, lived, "gc", "--keep", 9)[1][0]
    assert toy.plan(images, lived / "store").todo.num_rows == 1


def test_a_training_under_way_keeps_its_version_through_compaction_and_gc(lived, capsys):
    store = store_of(lived)
    version = read_version(store, 1)
    name = "c" * 32
    table = pin(store, version, "train", ("cats", "dogs"), store.head(name))
    pin_version(store, name, 1)
    stream = FeatureStream(store, table, 2, seed=1, memory_mb=1)
    before = [batch[0].tobytes() for batch in stream.batches()]
    call(capsys, lived, "compact")
    os.utime(store.head(name) / "pin.json")
    assert call(capsys, lived, "gc", "--keep", 1, "--grace", "0.01")[0] == 0
    again = FeatureStream(store, table, 2, seed=1, memory_mb=1)
    assert [batch[0].tobytes() for batch in again.batches()] == before
    assert 1 in version_numbers(store)
    unpin(store, name)
    assert call(capsys, lived, "gc", "--keep", 1, *NONE)[0] == 0
    assert version_numbers(store) == [4]


def test_a_reader_of_an_older_version_goes_on_through_compaction_and_gc(lived, capsys):
    images, store = lived / "images", store_of(lived)
    reader = read_version(store, 1)
    before = toy.features_of(images, lived / "store", reader)
    call(capsys, lived, "compact")
    call(capsys, lived, "gc", "--keep", 1)
    after = toy.features_of(images, lived / "store", reader)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[digest], after[digest]) for digest in before)


def test_heads_stay_while_a_version_of_their_images_does_however_it_keeps_its_rows(lived, capsys):
    promote_head(store_of(lived), "a" * 32)
    call(capsys, lived, "compact")
    call(capsys, lived, "quarantine", "--retry")
    assert call(capsys, lived, "gc", "--keep", 1, *NONE)[0] == 0
    assert version_numbers(store_of(lived)) == [5]
    assert {head.name for head in list_heads(lived / "store")} == {"a" * 32, "b" * 32}


def test_heads_go_with_their_versions_but_the_current_one_stays(lived, capsys):
    store = store_of(lived)
    promote_head(store, "a" * 32)
    toy.picture(lived / "images/cats/newer.png", 6000)
    toy.run(lived / "images", lived / "store")
    assert call(capsys, lived, "gc", "--keep", 1, *NONE)[0] == 0
    assert [head.name for head in list_heads(lived / "store")] == ["a" * 32]


def test_gc_leaves_a_feature_space_alone_that_was_not_chosen(lived, capsys):
    store, spec = store_of(lived), toy.SPEC.record() | {"image_size": 64}
    other = Store(store.root, fingerprint(spec))
    create_space(other, spec)
    commit(other, None, FILES_SCHEMA.empty_table(), ROWS_SCHEMA.empty_table(), {})
    assert call(capsys, lived, "gc", "--keep", 1, *NONE, "--space", other.fingerprint)[0] == 0
    assert version_numbers(store) == [1, 2, 3]
    assert len(list_heads(lived / "store")) == 2
    assert call(capsys, lived, "gc", "--keep", 1, *NONE, "--space", store.fingerprint)[0] == 0
    assert (version_numbers(store), version_numbers(other)) == ([3], [1])


def test_gc_removes_nothing_where_a_version_cannot_be_read(lived, capsys):
    store = store_of(lived)
    flip(store.version(3), 200)
    before = set((lived / "store").rglob("*"))
    status, _, error = call(capsys, lived, "gc", "--keep", 1, *NONE)
    assert (status, "python -m storage repair" in error) == (1, True)
    assert set((lived / "store").rglob("*")) == before | {lived / "store/lock"}


# Quarantine


def test_quarantine_names_each_image_with_reason_attempts_and_times(lived, capsys):
    status, (head, line, meaning), _ = call(capsys, lived, "quarantine")
    assert meaning == "not_image: the file does not start like an image"
    assert status == 0
    assert head.split() == ["reason", "attempts", "first", "seen", "last", "tried", "path"]
    assert re.match(r"not_image +1  20\d\d-\d\d-\d\d .* UTC  20\d\d.* UTC  dogs/broken.png$", line), line


def times(lived: Path) -> tuple[int, int]:
    """When the one image that cannot be used was first seen, and last tried."""
    (row,) = quarantined(latest_version(store_of(lived)), store_of(lived)).to_pylist()
    return row["first_seen_ns"], row["last_seen_ns"]


def test_retry_lets_the_next_run_try_again(lived, capsys):
    first_seen, last_tried = times(lived)
    assert plan(lived).todo.num_rows == 0
    status, lines, _ = call(capsys, lived, "quarantine", "--retry")
    assert (status, lines[-1]) == (0, "committed version 4: the next run tries 1 image again")
    planned, version = toy.run(lived / "images", lived / "store")
    assert planned.todo["path"].to_pylist() == [b"dogs/broken.png"]
    assert version.counts["quarantined"] == 1
    assert call(capsys, lived, "quarantine")[1][1].split()[:2] == ["not_image", "2"]
    assert times(lived)[0] == first_seen <= last_tried < times(lived)[1]


# Beside a run


@pytest.mark.parametrize("arguments", [["repair"], ["compact"], ["gc", "--keep", "1"], ["quarantine", "--retry"]])
def test_a_busy_store_is_left_alone(arguments, lived, capsys):
    with hold(lived / "store"):
        status, _, error = call(capsys, lived, *arguments)
    assert status == 5
    assert f"in use by process {os.getpid()} since " in error
    assert call(capsys, lived, *arguments)[0] == 0


def test_verify_reads_a_store_that_is_in_use(lived, capsys):
    with hold(lived / "store"):
        assert call(capsys, lived, "verify")[:2] == (
            0,
            ["no faults: 3 versions in 1 feature space (segments whole, shards by footer and digests)"],
        )
