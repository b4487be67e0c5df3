"""Keep the weights of a feature space, so that features can be computed from the store alone on another day.

<fingerprint>/weights.json           where the weights come from
<fingerprint>/weights/<sha256>.h5    a copy of them, unless they have a name (.keras: with the network, if that is the user's)
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from storage.backend.atomic import make_folder, put, replace
from storage.backend.bounded_read import read_whole
from storage.backend.paths import Place, is_local
from storage.errors import BytesDamaged, StoreDamaged
from storage.layout import Store
from storage.records import file_sha256, sealed, sha256, unsealed

RECORD = "weights.json"
COPY = re.compile(r"[0-9a-f]{64}\.(h5|keras)")


@dataclass(frozen=True)
class KeptWeights:
    """Where the weights of a feature space come from.

    source: their name (`imagenet`, `random`), or empty if the store has a copy. file, size_bytes: name and size of the copy.
    """

    source: str
    file: str = ""
    size_bytes: int = 0


def read_kept(store: Store) -> KeptWeights | None:
    """The record of the weights; None in a space of an older version of this program.

    Raises StoreDamaged if the record is damaged, or the copy is missing or has another size.
    """
    path = store.space / RECORD
    try:
        kept = KeptWeights(**unsealed(json.loads(read_whole(path))))
        is_whole = bool(kept.source) or (
            bool(COPY.fullmatch(kept.file)) and copy_of(store, kept).stat().st_size == kept.size_bytes
        )
    except FileNotFoundError as error:
        if not path.exists():
            return None
        raise StoreDamaged(f"the copy of the weights of {path} is missing; {store.way_out}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreDamaged(f"{path} is damaged ({error}); {store.way_out}") from error
    if not is_whole:
        raise StoreDamaged(f"the copy of the weights of {path} has another size; {store.way_out}")
    return kept


def keep_weights(store: Store, source: str, data: Callable[[], bytes], suffix: str = ".h5") -> KeptWeights:
    """Record the weights once. source: their name, or empty to keep `data()`, a file of theirs, in the store."""
    kept = KeptWeights(source)
    if not source:
        copy = data()
        kept = KeptWeights("", f"{sha256(copy)}{suffix}", len(copy))
        put(copy_of(store, kept), copy, store.aside)  # first: the record must never name a file that is not there
    make_folder(store.aside)
    replace(store.space / RECORD, json.dumps(sealed(asdict(kept)), indent=1).encode(), store.aside)
    return kept


def verified_copy(store: Store, kept: KeptWeights) -> Path:
    """The path of the copy on this machine, after its sha256 was verified. Raises BytesDamaged if it differs.

    The copy in an object store is downloaded once into the cache.
    """
    path = copy_of(store, kept)
    if is_local(path):
        _verify(store, path, kept)
        return path
    local = store.cache / "weights" / kept.file
    if not local.exists() or file_sha256(local) != kept.file.partition(".")[0]:
        data = path.read_bytes()
        replace(local, data)
        _verify(store, local, kept)
    return local


def copy_of(store: Store, kept: KeptWeights) -> Place:
    """The path of the copy of a space's weights."""
    return store.space / "weights" / kept.file


def check_kept(store: Store, is_deep: bool) -> None:
    """Raise StoreDamaged if the record or the copy is damaged. is_deep: read every byte of the copy."""
    kept = read_kept(store)
    if is_deep and kept is not None and not kept.source:
        _verify(store, copy_of(store, kept), kept)


def forget_weights(store: Store) -> None:
    """Remove the record. The next run of these options keeps the weights again."""
    (store.space / RECORD).unlink(missing_ok=True)


def spare_copies(store: Store) -> list[Place]:
    """Copies that no record names, as a run leaves them that dies between copy and record."""
    kept = read_kept(store)
    named = kept.file if kept else ""
    return [path for path in (store.space / "weights").glob("*") if path.name != named]


def _verify(store: Store, path: Place, kept: KeptWeights) -> None:
    if file_sha256(path) != kept.file.partition(".")[0]:
        raise BytesDamaged(f"{path}, the copy of the weights, has another sha256; {store.deep_way_out}")
