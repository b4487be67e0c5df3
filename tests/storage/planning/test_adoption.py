"""What lies in the store beside its newest version: what counts, what does not, and what finding out costs."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from storage.layout import Store
from storage.maintenance.collect import collect
from storage.maintenance.compact import compact
from storage.maintenance.quarantine import release, without_variants
from storage.manifest.space import create_space
from storage.manifest.versions import Version, commit, latest_version, version_numbers
from storage.planning.plan import finish
from storage.shards.shard import MAX_ROWS, ShardRef, write_shard
from tests import toy

VARIED = {"variants": 3, "augmentation": '{"rotation_range":20.0}'}


@pytest.fixture(autouse=True)
def no_keras(monkeypatch):
    toy.without_keras(monkeypatch)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return toy.pictures(tmp_path / "images", per_class=6)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def store_of(images: Path, root: Path) -> Store:
    store = toy.space(images, root).store
    create_space(store, toy.SPEC.record())
    return store


def digest_of(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def failing(store: Store, code: str, *digests: bytes) -> ShardRef:
    """A shard without rows that says of these images that they cannot be used, as a child that died leaves it."""
    features = np.empty((0, *toy.SPEC.shape), np.float16)
    return write_shard(store, [], features, dict.fromkeys(digests, code), {"fingerprint": store.fingerprint})


def run_failing(images: Path, root: Path, digest: bytes, **options) -> Version:
    """A run in which one image ends its child as often as it is tried."""
    store, planned = store_of(images, root), toy.plan(images, root, chunk_size=1, **options)
    at = planned.todo["digest"].to_pylist().index(digest)
    others = [toy.extract(images, root, planned, range(i, i + 1))[0] for i in range(planned.num_chunks) if i != at]
    return commit(store, planned.parent, *finish(store, planned, [*others, failing(store, "crashed", digest)]))


def wanted(images: Path, root: Path, **options) -> list[bytes]:
    return toy.plan(images, root, **options).todo["digest"].to_pylist()


# Errors of old shards


def test_a_retry_after_a_compaction_tries_the_image_again_whatever_lies_there(images, root):
    store, bad = store_of(images, root), digest_of(images / "cats/000.png")
    compact(store, run_failing(images, root, bad))
    assert wanted(images, root) == []
    release(store, latest_version(store))
    assert wanted(images, root) == [bad]
    planned, version = toy.run(images, root)
    assert (planned.todo.num_rows, version.counts["ok"]) == (1, 12)


@pytest.mark.parametrize("has_moved", [False, True])
@pytest.mark.parametrize("is_limited", [False, True])
def test_a_retry_whose_run_dies_before_its_commit_is_still_a_retry(has_moved, is_limited, images, root):
    store, bad = store_of(images, root), digest_of(images / "cats/000.png")
    run_failing(images, root, bad)
    release(store, latest_version(store))
    failing(store, "timeout", bad)  # what the run that died had found
    if has_moved:
        (images / "cats/000.png").rename(images / "cats/moved.png")
    if is_limited:
        toy.run(images, root, limit=0)
        failing(store, "decode_error", bad)
    assert wanted(images, root) == [bad]
    run_failing(images, root, bad)
    version = latest_version(store)
    assert (version.counts["quarantined"], wanted(images, root)) == (1, [])
    (row,) = [row for row in version.read_files(store).to_pylist() if row["status"] == "quarantined"]
    assert (row["reason"], row["attempts"]) == ("crashed", 2)
    release(store, version)
    assert wanted(images, root) == [bad]


def test_a_retry_holds_when_gc_has_removed_the_versions_that_knew_the_old_error(images, root):
    store, bad = store_of(images, root), digest_of(images / "cats/000.png")
    compact(store, run_failing(images, root, bad))
    release(store, latest_version(store))
    left = failing(store, "crashed", bad)
    collect(root, 1, -3600)
    store.shard(left.name).unlink(missing_ok=True)
    failing(store, "timeout", bad)  # of another run on the same bucket
    assert wanted(images, root) == [bad]


def test_an_image_that_has_a_row_is_not_condemned_by_an_older_error(images, root):
    """Neither by a run that was slower on an object store, nor when its variants are missing."""
    store, odd = store_of(images, root), digest_of(images / "cats/000.png")
    toy.run(images, root)
    failing(store, "timeout", odd)
    toy.picture(images / "cats/new.png", 5000)
    for options in ({}, VARIED):
        _, version = toy.run(images, root, **options)
        assert (version.counts["ok"], version.counts["quarantined"]) == (13, 0)
        assert not without_variants(version, store).num_rows
    assert wanted(images, root, **VARIED) == []


def test_a_row_that_another_run_left_beats_the_failure_that_was_committed(images, root):
    store, odd = store_of(images, root), digest_of(images / "cats/000.png")
    slow = toy.plan(images, root, chunk_size=12)
    run_failing(images, root, odd, limit=12)
    toy.extract(images, root, slow)
    toy.picture(images / "cats/new.png", 5000)
    (images / "dogs/000.png").unlink()
    release(store, latest_version(store))
    _, version = toy.run(images, root)
    assert (version.counts["ok"], version.counts["quarantined"]) == (12, 0)


def test_variants_that_cannot_be_made_cost_no_plain_row_and_are_not_tried_again_until_somebody_asks(images, root):
    store = store_of(images, root)
    _, version = toy.run(images, root)
    bad = next(r["digest"] for r in version.read_files(store).to_pylist() if r["split"] == "train")
    version = run_failing(images, root, bad, **VARIED)
    assert (version.counts["ok"], version.counts["quarantined"]) == (12, 0)
    assert without_variants(version, store)["reason"].to_pylist() == ["crashed"]
    assert not toy.plan(images, root, **VARIED).needs_commit
    assert not toy.plan(images, root).needs_commit
    release(store, version)
    assert wanted(images, root, **VARIED) == [bad]
    toy.run(images, root, **VARIED)
    assert not without_variants(latest_version(store), store).num_rows


def test_an_image_whose_plain_row_is_lost_is_tried_though_its_variants_could_not_be_made(images, root):
    store = store_of(images, root)
    _, version = toy.run(images, root)
    files = [row for row in version.read_files(store).to_pylist() if row["split"] == "train"]
    version = run_failing(images, root, files[0]["digest"], **VARIED)
    for row in version.read_rows(store).to_pylist():
        if row["digest"] == files[0]["digest"]:
            store.shard(row["shard"]).unlink(missing_ok=True)
    assert files[0]["digest"] in wanted(images, root)
    assert toy.run(images, root)[1].counts["ok"] == 12


@pytest.mark.parametrize("is_retried", [True, False])
def test_an_old_error_does_not_count_though_its_shard_is_adopted_for_a_row(is_retried, images, root):
    """Of an image that waits for a retry, and of one that has a plain row and wants variants."""
    store, options = store_of(images, root), {} if is_retried else VARIED
    if is_retried:
        odd = digest_of(images / "cats/000.png")
        run_failing(images, root, odd)
        release(store, latest_version(store))
    else:
        files = toy.run(images, root)[1].read_files(store).to_pylist()
        odd = next(row["digest"] for row in files if row["split"] == "train")
    new = digest_of(toy.picture(images / "cats/new.png", 5000))
    features, facts = np.zeros((1, *toy.SPEC.shape), np.float16), {"fingerprint": store.fingerprint}
    write_shard(store, [new], features, {odd: "timeout"}, facts)
    planned = toy.plan(images, root, **options)
    views = dict(zip(planned.todo["digest"].to_pylist(), planned.todo["views"].to_pylist(), strict=True))
    assert planned.adopted == 1
    assert views[odd] == ([0] if is_retried else [1, 2])
    assert 0 not in views.get(new, [])


# Rows of a shard


def test_no_shard_has_more_rows_than_a_row_number_can_count(images, root):
    store = store_of(images, root)
    digests = [b"%032d" % number for number in range(MAX_ROWS + 1)]
    features = np.zeros((len(digests), 1, 1, 1), np.float16)
    with pytest.raises(ValueError, match=f"at most {MAX_ROWS} rows, got {MAX_ROWS + 1}"):
        write_shard(store, digests, features, {}, {})
    with pytest.raises(ValueError, match="rows"):
        ShardRef("a" * 64 + ".parquet", 10, MAX_ROWS + 1, "0" * 64)
    assert write_shard(store, digests[1:], features[1:], {}, {}).num_rows == MAX_ROWS


@pytest.mark.parametrize("format", ["parquet", "npz"])
def test_an_oversized_shard_is_left_alone_and_stands_in_nobodys_way(format, images, root, monkeypatch):
    """As an older program has written it, and lost the version that listed it."""
    store = store_of(images, root)
    planned = toy.plan(images, root, chunk_size=12, format=format)
    monkeypatch.setattr("storage.shards.shard.MAX_ROWS", 12)
    toy.extract(images, root, planned)
    monkeypatch.setattr("storage.shards.shard.MAX_ROWS", 11)
    planned, version = toy.run(images, root)
    assert (planned.adopted, planned.todo.num_rows, version.counts["ok"]) == (0, 12, 12)
    assert all(ref.num_rows <= 11 for ref in latest_version(store).shards.values())


# What it costs


def bytes_read() -> int:
    """What this process has read from files, by its own account."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="the kernel does not count what is read")
@pytest.mark.parametrize("format", ["parquet", "npz"])
def test_what_a_compaction_has_left_behind_is_not_read_by_the_runs_after_it(format, tmp_path, root):
    images = toy.pictures(tmp_path / "many", per_class=60)
    store = store_of(images, root)
    for index in range(60):  # large features: the old shards are most of the store
        digest = digest_of(images / f"cats/{index:03d}.png")
        features = np.random.default_rng(index).normal(size=(1, *toy.SPEC.shape)).astype(np.float16)
        write_shard(store, [digest], features, {}, {"fingerprint": store.fingerprint}, format)
    toy.run(images, root)
    toy.picture(images / "cats/first.png", 5001)
    toy.plan(images, root)
    before = {path: path.stat().st_size for path in store.shards.glob("*/*")}
    reads = []
    for step in ("before", "after"):
        start = bytes_read()
        assert toy.plan(images, root).todo.num_rows == 1
        reads.append(bytes_read() - start)
        if step == "before":
            compact(store, latest_version(store))
    segments = sum(path.stat().st_size for path in store.segments.glob("*"))
    versions = sum(store.version(number).stat().st_size for number in version_numbers(store))
    assert reads[1] - reads[0] <= segments + versions
    assert sum(before.values()) > 2 * (segments + versions)


def test_what_is_lost_comes_back_from_the_shards_that_older_versions_list(images, root):
    store = store_of(images, root)
    toy.run(images, root)
    done = compact(store, latest_version(store))
    (ref,) = latest_version(store).shards.values()
    store.shard(ref.name).unlink()
    planned, version = toy.run(images, root)
    assert done
    assert (planned.adopted, planned.todo.num_rows, version.counts["ok"]) == (12, 0, 12)


def test_a_shard_that_an_older_version_lists_and_that_has_changed_is_not_adopted(images, root):
    store = store_of(images, root)
    _, first = toy.run(images, root, chunk_size=12)
    (images / "cats/000.png").rename(images.parent / "kept.png")
    toy.run(images, root)
    compact(store, latest_version(store))
    (images.parent / "kept.png").rename(images / "cats/000.png")
    assert wanted(images, root) == []
    (name,) = first.shards
    data = bytearray(store.shard(name).read_bytes())
    data[len(data) // 4] ^= 1
    store.shard(name).write_bytes(data)
    assert wanted(images, root) == [digest_of(images / "cats/000.png")]


def test_a_version_that_cannot_be_read_explains_nothing_and_stops_nobody(images, root):
    store = store_of(images, root)
    toy.run(images, root)
    compact(store, latest_version(store))
    store.version(1).write_bytes(b"{}")
    toy.picture(images / "cats/new.png", 5000)
    assert wanted(images, root) == [digest_of(images / "cats/new.png")]
