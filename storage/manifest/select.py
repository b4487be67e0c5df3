"""Find the feature space and the version that the flags of `python -m storage` name."""

import os
import shlex

from storage.backend.paths import Place
from storage.classes import only
from storage.errors import InputError
from storage.layout import Store
from storage.manifest.space import differences, read_spec, spaces
from storage.manifest.versions import Version, read_version, version_numbers
from storage.source.splits import SPLITS
from storage.text import ranges, visible


def chosen_spaces(root: Place, prefix: str) -> list[Store]:
    """The feature spaces of the store at `root` whose fingerprint begins with `prefix`.

    Raises InputError if there is none.
    """
    shown = visible(os.fsencode(str(root)))
    if not root.is_dir():
        raise InputError(f"`store`: there is no folder {shown}; give the `store` of a run")
    found = spaces(root)
    if not found:
        raise InputError(f"`store`: {shown} is not a store, or no run has filled it yet: it has no feature space")
    chosen = [store for store in found if store.fingerprint.startswith(prefix)]
    if not chosen:
        raise InputError(f"`space={shlex.quote(prefix)}`: there is no such feature space; {shown} has {_listed(found)}")
    return chosen


def one_space(root: Place, prefix: str) -> Store:
    """The only feature space of `chosen_spaces`. Raises InputError if there are several, or none."""
    found = chosen_spaces(root, prefix)
    if len(found) > 1:
        raise InputError(f"the store has {len(found)} feature spaces; choose one with `space=PREFIX`: {_listed(found)}")
    return found[0]


def _listed(found: list[Store]) -> str:
    """The fingerprints, each with what distinguishes its feature space from the others."""
    descriptions = differences([read_spec(store) for store in found])
    return "; ".join(
        f"{store.fingerprint} ({text})" if text else store.fingerprint
        for store, text in zip(found, descriptions, strict=True)
    )


def committed_numbers(store: Store) -> list[int]:
    """The version numbers of a space, oldest first. Raises InputError if there is none."""
    numbers = version_numbers(store)
    if not numbers:
        raise InputError(f"feature space {store.fingerprint} has no version yet, because no run has committed one")
    return numbers


def chosen_version(store: Store, number: int | None) -> Version:
    """The version `number`, by default the newest. Raises InputError if it does not exist."""
    numbers = committed_numbers(store)
    if number is not None and number not in numbers:
        raise InputError(f"there is no version {number}; feature space {store.fingerprint} has {ranges(numbers)}")
    return read_version(store, numbers[-1] if number is None else number)


def splits_of(version: Version, split: str, classes: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """The splits to export: `split`, or for `all` each split with usable images, of `classes` if given.

    Raises InputError if there is no usable image, or that split has none.
    """
    counts = version.classes if classes is None else only(version.classes, classes)
    found = tuple(name for name in SPLITS if counts.get(name))
    if not found:
        raise InputError(f"version {version.number} has no usable image; there is nothing to export")
    if split != "all" and split not in found:
        raise InputError(
            f"`split={shlex.quote(split)}`: version {version.number} has usable images only in {', '.join(found)}"
        )
    return found if split == "all" else (split,)
