"""The store against a plain dict: whatever is done to the images and to the store, it says what a fresh run would say.

STATES=N tries N sequences of steps instead of 20.
"""

import hashlib
import os
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
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

from storage.layout import Store
from storage.plan import Plan
from storage.upkeep.compaction import compact
from storage.upkeep.repair import repair_space
from storage.upkeep.retention import collect
from storage.upkeep.verification import verify_space
from storage.versions import Version, latest_version, read_version, version_numbers
from tests import toy
from vision.images import decode
from vision.variants import Variants, plain_views

AUGMENTATIONS = ("", '{"rotation_range":20.0}', '{"horizontal_flip":true,"shear_range":30.0}')
CLASSES, NAMES = ("cats", "dogs", "owls"), ("a.png", "b.png", "c/d.png", "c/e.png")
paths = st.builds("{}/{}".format, st.sampled_from(CLASSES), st.sampled_from(NAMES))
seeds = st.integers(0, 7)
Said = dict[str, tuple[str, bytes]]  # path → class and digest


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

    # The store

    @rule(chunk_size=st.integers(1, 5), variants=st.integers(1, 3), augmentation=st.sampled_from(AUGMENTATIONS))
    def run(self, chunk_size=3, variants=1, augmentation=""):
        if not self.model and latest_version(self.store) is None:
            return  # nothing to begin with
        options = {"variants": variants if augmentation else 1, "augmentation": augmentation}
        planned, version = toy.run(self.images, self.folder, chunk_size=chunk_size, allow_removals=True, **options)
        self.check_variants(planned, version)
        now = {path: (path.partition("/")[0], hashlib.sha256(data).digest()) for path, data in self.model.items()}
        self.check(version, now)
        self.said[version.number] = now
        if now:
            _, fresh = toy.run(self.images, self.root / "fresh", chunk_size=4)
            assert (version.data_digest, version.counts) == (fresh.data_digest, fresh.counts)
            shutil.rmtree(self.root / "fresh")

    @precondition(lambda self: self.model)
    @rule(data=st.data(), variants=st.integers(1, 3))
    def die_in_extraction(self, data, variants):
        options = {"variants": variants, "augmentation": AUGMENTATIONS[1]}
        planned = toy.plan(self.images, self.folder, chunk_size=2, allow_removals=True, **options)
        done = data.draw(st.integers(0, planned.num_chunks))
        toy.extract(self.images, self.folder, planned, range(done))

    @rule(rows=st.integers(1, 6), drop_variants=st.booleans())
    def compact(self, rows, drop_variants):
        version = latest_version(self.store)
        done = compact(self.store, version, rows, drop_variants) if version else None
        if done and version.number in self.said:
            self.said[done.version] = self.said[version.number]
            made = read_version(self.store, done.version)
            assert (made.data_digest, made.counts) == (version.data_digest, version.counts)
            self.check(made, self.said[done.version])

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
            return
        assert list(verify_space(self.store, is_deep=True)), (path, way)
        done = repair_space(self.store, is_deep=True)
        for number in done.dropped:
            self.said.pop(number, None)
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
        assert not list(verify_space(self.store, is_deep=False)) or not self.store.space.exists()

    def check(self, version: Version, said: Said):
        files = version.read_files(self.store).to_pylist()
        assert {row["path"].decode(): (row["class"], row["digest"]) for row in files} == said
        assert all(row["status"] == "ok" for row in files)
        found = toy.features_of(self.images, self.folder, version)
        for digest in {digest for _, digest in said.values()}:
            assert np.array_equal(found[digest], feature_of(self.all_bytes[digest]))
        for (digest, augmentation, variant), row in toy.views_of(self.images, self.folder, version).items():
            if augmentation:
                assert np.array_equal(row, feature_of(self.all_bytes[digest], augmentation, variant))

    def check_variants(self, planned: Plan, version: Version):
        """What was wanted is there."""
        found = toy.views_of(self.images, self.folder, version)
        for row in planned.todo.to_pylist():
            assert all((row["digest"], planned.augmentation if k else "", k) in found for k in row["views"])


def test_the_store_says_what_a_fresh_run_would_say(monkeypatch):
    toy.without_keras(monkeypatch)
    count = int(os.environ.get("STATES", "20"))
    run_state_machine_as_test(StoreMachine, settings=settings(max_examples=count, stateful_step_count=15))
