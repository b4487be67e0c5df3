"""Garbage collection: remove what no kept version, running training or current head needs, once it is old enough."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from storage.backend.atomic import sync_folder
from storage.backend.paths import Place
from storage.heads.current import current_head
from storage.heads.pins import pinned_version
from storage.heads.registry import PIN, list_heads, remove_head
from storage.layout import HEAD_NAME, SHARD_NAME, Store
from storage.manifest.kept_weights import spare_copies
from storage.manifest.space import spaces
from storage.manifest.versions import read_version, version_numbers

GRACE_HOURS = 24.0


@dataclass(frozen=True)
class Collected:
    """Counts of what gc removed. size_bytes: the bytes that this frees."""

    versions: int = 0
    segments: int = 0
    shards: int = 0
    heads: int = 0
    size_bytes: int = 0


def collect(root: Place, keep: int, grace_seconds: float, chosen: Collection[Store] | None = None) -> Collected:
    """Remove what the `keep` newest versions of each feature space do not need. The caller must hold the lock.

    chosen: the feature spaces to collect; None means all. The others stay untouched.

    Nothing younger than `grace_seconds` is removed. A version that was the newest within that time stays, because a
    reader may use it. A file that no version names stays, because a later run may adopt what a dead run wrote. Versions
    pinned by a running training stay, and so does the current head. A head is removed with the last version of the
    images that it was trained on.
    Raises StoreDamaged, before it removes anything, if a version or a pin cannot be read.
    """
    now = time.time()
    chosen = spaces(root) if chosen is None else chosen
    kept = {store: _kept_versions(store, keep, now - grace_seconds) for store in chosen}
    needed = {store: _needed(store, numbers) for store, numbers in kept.items()}
    total = Collected()
    for store, numbers in kept.items():
        total = _sum(total, _collect_space(store, numbers, needed[store], now - grace_seconds))
    return _sum(total, _collect_heads(Store(root, ""), kept, now - grace_seconds))


def _sum(one: Collected, other: Collected) -> Collected:
    return Collected(*(a + b for a, b in zip(vars(one).values(), vars(other).values(), strict=True)))


def _kept_versions(store: Store, keep: int, since: float) -> set[int]:
    numbers = version_numbers(store)
    kept = set(numbers[-keep:])
    for number, successor in pairwise(numbers):
        if datetime.fromisoformat(read_version(store, successor).created).timestamp() >= since:
            kept.add(number)
    folders = [folder for folder in store.heads.glob("*/") if _is_young(folder / PIN, since)]
    pins = [pinned_version(store, folder.name) for folder in folders if HEAD_NAME.fullmatch(folder.name)]
    return kept | {number for number in pins if number and number in numbers}


def _is_young(path: Place, since: float) -> bool:
    try:
        return path.stat().st_mtime >= since
    except FileNotFoundError:
        return False


def _needed(store: Store, kept: set[int]) -> set[str]:
    versions = [read_version(store, number) for number in kept]
    return {name for version in versions for name in (*version.segments, *version.shards, version.pooled_name)}


def _collect_space(store: Store, kept: set[int], needed: set[str], since: float) -> Collected:
    old = [number for number in version_numbers(store) if number not in kept]
    size = sum(_remove(store.version(number)) for number in old)
    if old:
        sync_folder(store.versions)  # else a power cut could bring a version back without the files that it names
    segments = [path for path in store.segments.glob("*.parquet") if path.name not in needed]
    shards = [path for path in store.shards.glob("*/*") if SHARD_NAME.fullmatch(path.name) and path.name not in needed]
    segments, shards, copies = (
        [path for path in paths if not _is_young(path, since)] for paths in (segments, shards, spare_copies(store))
    )
    size += sum(map(_remove, [*segments, *shards, *copies, *_pooled_files(store, needed)]))
    return Collected(len(old), len(segments), len(shards), 0, size)


def _pooled_files(store: Store, needed: set[str]) -> list[Path]:
    """The files of pooled vectors that belong to no kept version. A reader that has one open can still read it."""
    return [path for path in (store.cache / "pooled" / store.fingerprint).glob("*.pooled") if path.name not in needed]


def _remove(path: Place) -> int:
    try:
        size = path.stat().st_size
        path.unlink()
    except FileNotFoundError:
        return 0
    return size


def _collect_heads(root: Store, kept: dict[Store, set[int]], since: float) -> Collected:
    """Remove heads whose training images no version has any more. If all spaces are chosen, also dead trainings.

    A dead training stays until it is old enough. Heads depend only on a data digest, so a compacted version keeps them.
    """
    known = {
        (store.fingerprint, read_version(store, number).data_digest)
        for store, numbers in kept.items()
        for number in numbers
    }
    looked_at = {store.fingerprint for store in kept}
    if all(store in kept for store in spaces(root.root)):
        looked_at.add("")  # heads whose feature space is unknown
    current = current_head(root)
    size = count = 0
    for head in list_heads(root.root):
        folder = root.head(head.name)
        is_needed = head.name == current or (head.fingerprint, head.data_digest) in known
        is_needed = is_needed or head.fingerprint not in looked_at
        if is_needed or any(_is_young(path, since) for path in folder.rglob("*")):
            continue
        size += remove_head(root, head.name)
        count += 1
    return Collected(heads=count, size_bytes=size)
