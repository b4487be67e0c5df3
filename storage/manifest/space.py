"""Create, check and list the feature spaces of a store."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from storage.backend.atomic import SINGLE_WRITER, create, replace, sweep
from storage.backend.bounded_read import read_whole
from storage.backend.paths import Place, is_local
from storage.errors import InputError, StoreDamaged
from storage.layout import FINGERPRINT, FORMAT_VERSION, Store
from storage.records import fingerprint
from storage.text import visible


def check_space(store: Store) -> None:
    """Raise InputError if the space has an unknown format, StoreDamaged if space.json is no JSON.

    A space that does not exist yet passes.
    """
    path = store.space / "space.json"
    try:
        found = json.loads(read_whole(path)).get("format_version")
    except FileNotFoundError:
        return
    except (ValueError, AttributeError) as error:
        raise StoreDamaged(f"{path} is not readable as JSON; {store.way_out}") from error
    check_format(path, found)


def check_format(path: Place, found: object) -> None:
    """Raise InputError if a file has a format version that this program does not know."""
    if found != FORMAT_VERSION:
        raise InputError(
            f"{path} has format_version {found}, expected {FORMAT_VERSION}; "
            "use the release of this program that wrote it, or another `store`"
        )


def create_space(store: Store, spec: Mapping, is_single_writer: bool = False) -> None:
    """Create the space with its spec, and remove half-written files of dead runs.

    is_single_writer: declare permanently that no two processes write this store at the same time.
    """
    if is_single_writer and is_local(store.root):
        replace(store.root / SINGLE_WRITER, b"")
    record = {"format_version": FORMAT_VERSION, "spec": dict(spec)}
    create(store.space / "space.json", json.dumps(record, indent=1, sort_keys=True).encode(), store.aside)
    check_space(store)
    if not is_local(store.root):
        return  # an object store never holds a half-written file
    for left in store.aside.iterdir():
        left.unlink(missing_ok=True)
    for folder in (store.cache, store.heads, *store.heads.glob("*/")):
        sweep(folder)


def has_spec(store: Store) -> bool:
    """Whether the space's space.json exists. A run writes a missing one."""
    return (store.space / "space.json").exists()


def spaces(root: Place) -> list[Store]:
    """The feature spaces in the store at `root`, sorted by fingerprint."""
    if not root.is_dir():
        return []
    return [
        Store(root, path.name) for path in sorted(root.iterdir()) if FINGERPRINT.fullmatch(path.name) and path.is_dir()
    ]


def other_spaces(store: Store) -> list[Store]:
    """The other feature spaces in the same root."""
    return [other for other in spaces(store.root) if other != store]


def read_spec(store: Store) -> dict:
    """Read the spec of a feature space.

    Raises StoreDamaged if it is missing or damaged, InputError if its format is unknown.
    """
    check_space(store)
    path = store.space / "space.json"
    try:
        spec = dict(json.loads(read_whole(path))["spec"])
    except FileNotFoundError:
        raise StoreDamaged(
            f"{path} is missing; run the pipeline again with `store={shlex.quote(str(store.root))}` and the `images` and "
            "other options that made this feature space: it writes the file"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreDamaged(f"{path} has no spec; {store.way_out}") from error
    if fingerprint(spec) != store.fingerprint:
        raise StoreDamaged(f"{path} is damaged: its spec belongs to another feature space; {store.way_out}")
    return spec


def differences(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describe each spec by the keys in which the specs differ: `dtype float16, weights 1a2b3c4d…`.

    Empty for a spec that equals all others.
    """
    names = sorted({name for spec in specs for name in spec})
    differing = [name for name in names if any(spec.get(name) != specs[0].get(name) for spec in specs)]
    return [", ".join(_described(spec, name) for name in differing) for spec in specs]


def _described(spec: Mapping[str, Any], name: str) -> str:
    if name not in spec:
        return f"no {visible(name)}"
    value = str(spec[name])
    return visible(f"{name} {value[:8]}…" if name == "weights" else f"{name} {value}")
