"""The store against a plain dict: whatever is done to the images and to the store, it says what a fresh run would say.

STATES=N tries N sequences of steps instead of 20.
"""

import hashlib
import os
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from storage.errors import InputError
from storage.layout import Store
from storage.maintenance.collect import collect
from storage.maintenance.compact import CompactOptions, compact
from storage.maintenance.quarantine import release
from storage.maintenance.repair import repair_space
from storage.maintenance.verify import verify_space
from storage.manifest.versions import Version, commit, latest_version, read_version, version_numbers
from storage.planning.plan import Plan, finish
from storage.shards.shard import Shard, ShardRef
from tests import toy
from vision.pixels.decode import decode
from vision.pixels.variants import Variants, plain_views

AUGMENTATIONS = ("", '{"rotation_range":20.0}', '{"horizontal_flip":true,"shear_range":30.0}')
CLASSES, NAMES = ("cats", "dogs", "owls"), ("a.png", "b.png", "c/d.png", "c/e.png")
paths = st.builds("{}/{}".format, st.sampled_from(CLASSES), st.sampled_from(NAMES))
seeds = st.integers(0, 7)
Said = dict[str, tuple[str, bytes, str]]  # path → class, digest and status
MAX_ROWS = 9  # of a shard: few enough for compactions to meet the bound


@cache
def feature_of(data: bytes, augmentation: str = "", variant: int = 0) -> np.ndarray:
    pixels = decode(data, 32)
    make_views = Variants(augmentation, 1, 32).views if augmentation else plain_views
    pictures = make_views(pixels, hashlib.sha256(data).digest(), [variant])
    return toy.ToyEngine().features(pictures)[0].astype(np.float16)


class StoreMachine(RuleBasedStateMachine):
    """Images as `path → bytes`; versions as what they said when they were committed."""

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.images, self.folder = self.root / "images", self.root / "store"
        self.images.mkdir()
        self.store: Store = toy.space(self.images, self.folder).store
        self.model: dict[str, bytes] = {}
        self.all_bytes: dict[bytes, bytes] = {}
        self.said: dict[int, Said] = {}
        self.cursed: dict[bytes, str] = {}  # images that end a child: with any view, or only with variants
        self.has_failed: set[bytes] = set()  # ever: old shards may still say so
        self.released: set[bytes] = set()  # by a retry that no run has answered yet
        self.verified: set[Path] = set()  # the files of the store when nothing was wrong with it

    def teardown(self):
        shutil.rmtree(self.root)

    # The images

    @initialize(files=st.dictionaries(paths, seeds, min_size=3))
    def begin(self, files):
        for path, seed in files.items():
            self.write(path, seed)
        self.run()

    @rule(path=paths, seed=seeds)
    def write(self, path, seed):
        """An image that is added, or has other bytes, or those of another."""
        data = toy.picture(self.images / path, seed).read_bytes()
        self.model[path], self.all_bytes[hashlib.sha256(data).digest()] = data, data

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def delete(self, data):
        path = data.draw(st.sampled_from(sorted(self.model)))
        (self.images / path).unlink()
        del self.model[path]

    @precondition(lambda self: self.model)
    @rule(data=st.data(), to=paths)
    def rename(self, data, to):
        """Within a class a move, to another a new label too."""
        path = data.draw(st.sampled_from(sorted(self.model)))
        (self.images / to).parent.mkdir(parents=True, exist_ok=True)
        (self.images / path).replace(self.images / to)
        self.model[to] = self.model.pop(path)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), to=paths)
    def copy(self, data, to):
        path = data.draw(st.sampled_from(sorted(self.model)))
        if path != to:
            (self.images / to).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.images / path, self.images / to)
            self.model[to] = self.model[path]

    @rule(path=paths, seed=st.integers(8, 12), how=st.sampled_from(["any", "variants"]))
    def curse(self, path, seed, how):
        """An image that kills the child that processes it, or only the child that makes its variants."""
        self.write(path, seed)
        self.cursed[hashlib.sha256(self.model[path]).digest()] = how

    # The store

    def extract(self, planned: Plan, chunks: range) -> list[ShardRef]:
        """The shards of chunks, with what workers/runners/isolation.py says of the images that end a child."""
        condemned: dict[str, str] = {}
        plain_only: dict[str, str] = {}
        size = planned.chunk_size
        for row in planned.todo.slice(chunks.start * size, len(chunks) * size).to_pylist():
            how = self.cursed.get(row["digest"])
            if how == "any" or (how and 0 not in row["views"]):
                condemned[row["digest"].hex()] = "crashed"
            elif how and any(row["views"]):
                plain_only[row["digest"].hex()] = "crashed"
        self.has_failed |= {bytes.fromhex(digest) for digest in (*condemned, *plain_only)}
        return toy.extract(self.images, self.folder, planned, chunks, condemned=condemned, plain_only=plain_only)

    def plan(self, chunk_size: int, variants: int, augmentation: str, limit: int | None = None) -> Plan:
        """chunk_size: at most; a chunk has as many images as a shard has room for."""
        varied = {"variants": variants, "augmentation": augmentation} if augmentation and variants > 1 else {}
        size = min(chunk_size, MAX_ROWS // variants)
        return toy.plan(self.images, self.folder, chunk_size=size, limit=limit, allow_removals=True, **varied)

    @rule(
        chunk_size=st.integers(1, MAX_ROWS),
        variants=st.integers(1, 3),
        augmentation=st.sampled_from(AUGMENTATIONS),
        limit=st.none() | st.integers(0, 4),
    )
    def run(self, chunk_size=3, variants=1, augmentation="", limit=None):
        if not self.model and latest_version(self.store) is None:
            return  # nothing to begin with
        options = chunk_size, variants, augmentation
        planned = self.plan(*options, limit)
        refs = self.extract(planned, range(planned.num_chunks))
        version = commit(self.store, planned.parent, *finish(self.store, planned, refs))
        files = version.read_files(self.store).to_pylist()
        now = {path: (path.partition("/")[0], hashlib.sha256(data).digest()) for path, data in self.model.items()}
        assert {row["path"].decode(): (row["class"], row["digest"]) for row in files} == now
        self.check_variants(planned, version)
        self.check_statuses(planned, files, is_whole=limit is None)
        self.check(version, said := self.said_by(version))
        self.said[version.number] = said
        if limit is None:
            again = self.plan(*options)
            assert (again.todo.num_rows, again.needs_commit) == (0, False)
        if now and all(row["status"] == "ok" for row in files):
            _, fresh = toy.run(self.images, self.root / "fresh", chunk_size=4)
            assert (version.data_digest, version.counts) == (fresh.data_digest, fresh.counts)
            shutil.rmtree(self.root / "fresh")

    @precondition(lambda self: self.model)
    @rule(data=st.data(), variants=st.integers(1, 3))
    def die_in_extraction(self, data, variants):
        planned = self.plan(2, variants, AUGMENTATIONS[1])
        self.extract(planned, range(data.draw(st.integers(0, planned.num_chunks))))

    @precondition(lambda self: self.has_failed and version_numbers(self.store))
    @rule(is_healed=st.booleans(), is_compacted=st.booleans())
    def retry(self, is_healed, is_compacted):
        """What was wrong with some machine is mended, or not; the night's maintenance may come first."""
        if is_compacted:
            self.compact(rows=MAX_ROWS, drop_variants=False, dead_fraction=0.5)
        if is_healed:
            self.cursed.clear()
        version = latest_version(self.store)
        files = version.read_files(self.store).to_pylist()
        self.released |= {row["digest"] for row in files if row["status"] == "quarantined"}
        made = release(self.store, version)
        self.said[made.number] = self.said_by(made)
        assert all(row["reason"] is None for row in made.read_files(self.store).to_pylist())
        if is_healed:
            self.run()

    @rule(rows=st.integers(1, MAX_ROWS + 3), drop_variants=st.booleans(), dead_fraction=st.sampled_from([0, 0.5, 1]))
    def compact(self, rows, drop_variants, dead_fraction):
        version = latest_version(self.store)
        if version is None:
            return
        if rows > MAX_ROWS:
            with pytest.raises(InputError, match="`rows`"):
                CompactOptions(rows, dead_fraction, drop_variants)
            return
        done = compact(self.store, version, CompactOptions(rows, dead_fraction, drop_variants))
        made = read_version(self.store, done.version) if done else version
        if done and version.number in self.said:
            self.said[made.number] = self.said[version.number]
            assert (made.data_digest, made.counts) == (version.data_digest, version.counts)
            self.check(made, self.said[made.number])
        if not dead_fraction:
            live = set(made.read_files(self.store)["digest"].to_pylist())
            there = (Shard(self.store, ref) for ref in made.shards.values())
            assert all(live.issuperset(shard.digests()) for shard in there)

    @rule(keep=st.integers(1, 3), is_graceful=st.booleans())
    def collect(self, keep, is_graceful):
        before = version_numbers(self.store)
        collect(self.folder, keep, 3600 if is_graceful else -3600)
        assert version_numbers(self.store) == (before if is_graceful else before[-keep:])
        self.said = {number: said for number, said in self.said.items() if number in version_numbers(self.store)}

    @rule()
    def travel_in_time(self):
        for number, said in self.said.items():
            self.check(read_version(self.store, number), said)

    @precondition(lambda self: version_numbers(self.store))
    @rule(which=st.integers(0, 2**16), seed=st.integers(0, 2**16), way=st.sampled_from(["flipped", "cut", "gone"]))
    def damage_and_repair(self, which, seed, way):
        paths = self.referenced()
        path, draw = paths[which % len(paths)], random.Random(seed)
        content = path.read_bytes()
        if way == "gone":
            path.unlink()
        elif way == "cut":
            path.write_bytes(content[: draw.randrange(len(content))])
        else:
            at = draw.randrange(len(content))
            path.write_bytes(content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :])
        if way == "gone" and path.parent == self.store.versions:
            self.said.pop(int(path.stem), None)  # as if it had never been
            self.released.clear()
            return
        assert list(verify_space(self.store, is_deep=True)), (path, way)
        done = repair_space(self.store, is_deep=True)
        for number in done.dropped:
            self.said.pop(number, None)
        self.released.clear()  # whose lines may be among what was lost
        self.run()

    def referenced(self) -> list[Path]:
        """Every file that a version needs; in an order that does not hang on the times in them."""
        found: dict[Path, None] = {}
        for number in version_numbers(self.store):
            version = read_version(self.store, number)
            found |= dict.fromkeys(self.store.segments / name for name in (*version.files, *version.rows))
            found |= dict.fromkeys(self.store.shard(name) for name in sorted(version.shards))
            found[self.store.version(number)] = None
        return list(found)

    # What must hold

    @invariant()
    def nothing_is_wrong(self):
        there = set(self.folder.rglob("*"))
        if there != self.verified and self.store.space.exists():  # its files never change, apart from the damage below
            assert not list(verify_space(self.store, is_deep=False))
        self.verified = there

    def said_by(self, version: Version) -> Said:
        files = version.read_files(self.store).to_pylist()
        return {row["path"].decode(): (row["class"], row["digest"], row["status"]) for row in files}

    def check(self, version: Version, said: Said):
        assert self.said_by(version) == said
        found = toy.views_of(self.images, self.folder, version)
        assert {(digest, "", 0) for _, digest, status in said.values() if status == "ok"} <= found.keys()
        for (digest, augmentation, variant), row in found.items():
            assert np.array_equal(row, feature_of(self.all_bytes[digest], augmentation, variant))

    def check_statuses(self, planned: Plan, files: list[dict], is_whole: bool):
        """What failed cost itself alone, what was good stays so, and who asks for a retry has it."""
        status = {row["digest"]: row["status"] for row in files}
        before = planned.parent.read_files(self.store).to_pylist() if planned.parent else []
        lost = planned.lost > 0
        assert lost or all(status.get(row["digest"], "ok") == "ok" for row in before if row["status"] == "ok")
        assert all(digest in self.has_failed for digest, found in status.items() if found == "quarantined")
        assert not is_whole or "pending" not in status.values()
        self.released &= status.keys()
        for digest in self.released:
            assert status[digest] != "quarantined" or self.cursed.get(digest) == "any", digest
        self.released -= {digest for digest, found in status.items() if found != "pending"}

    def check_variants(self, planned: Plan, version: Version):
        """What was wanted is there."""
        found = toy.views_of(self.images, self.folder, version)
        for row in planned.todo.to_pylist():
            assert row["digest"] in self.cursed or all(
                (row["digest"], planned.augmentation if k else "", k) in found for k in row["views"]
            )


def test_the_store_says_what_a_fresh_run_would_say(monkeypatch):
    toy.without_keras(monkeypatch)
    for module in ("shards.shard", "planning.options", "maintenance.compact"):
        monkeypatch.setattr(f"storage.{module}.MAX_ROWS", MAX_ROWS)
    count = int(os.environ.get("STATES", "20"))
    run_state_machine_as_test(StoreMachine, settings=settings(max_examples=count, stateful_step_count=15))
