"""Pins record which version a training reads, so that gc keeps it."""

import json

from storage.backend.atomic import replace
from storage.backend.bounded_read import read_whole
from storage.errors import StoreDamaged
from storage.heads.registry import PIN, UNREADABLE
from storage.layout import Store
from storage.records import sealed, unsealed


def pin_version(store: Store, name: str, version: int) -> None:
    """Pin the version that the training of a head reads, until `unpin`."""
    record = {"fingerprint": store.fingerprint, "version": version}
    replace(store.head(name) / PIN, json.dumps(sealed(record)).encode())


def unpin(store: Store, name: str) -> None:
    """Remove the pin of a head's training, if there is one."""
    (store.head(name) / PIN).unlink(missing_ok=True)


def pinned_version(store: Store, name: str) -> int | None:
    """The version that the training of a head has pinned; None without a pin, or with one in another feature space.

    Raises StoreDamaged if the pin is damaged.
    """
    try:
        record = unsealed(json.loads(read_whole(store.head(name) / PIN)))
        return int(record["version"]) if record["fingerprint"] == store.fingerprint else None
    except FileNotFoundError:
        return None
    except UNREADABLE as error:
        raise StoreDamaged(f"the pin of head {name} is damaged ({PIN}: {error}); {store.way_out}") from error
