"""Choose the classes of a head or an export and their index order."""

from collections.abc import Iterable, Mapping

from storage.errors import InputError
from storage.text import folded, some

SHOWN = 20  # names in a message
Counts = Mapping[str, Mapping[str, int]]  # split → class → images


def names_in(classes: Counts, *splits: str) -> tuple[str, ...]:
    """The classes that have images in the given splits, or in any split if none is given, sorted."""
    return tuple(sorted({name for split in splits or classes for name in classes.get(split, ())}))


def learnt(classes: Counts) -> tuple[str, ...]:
    """The classes that a head learns by default, sorted: those with training or validation images.

    If no class has any, all classes.
    """
    return names_in(classes, "train", "validation") or names_in(classes)


def index_order(wanted: tuple[str, ...] | None, classes: Counts) -> tuple[str, ...]:
    """The classes in index order: `wanted` as it is, or the learnt classes, sorted, if it is None.

    Raises InputError if `wanted` is empty, has a duplicate, or names a class without images.
    """
    if wanted is None:
        return learnt(classes)
    check_found(wanted, names_in(classes))
    return wanted


def check_found(wanted: tuple[str, ...], found: Iterable[str]) -> None:
    """Raise InputError if `wanted` is empty, has a duplicate, or names a class that is not in `found`."""
    if not wanted:
        raise InputError("`classes` is empty; omit it to use all classes")
    found = set(found)
    if twice := [name for name in dict.fromkeys(wanted) if wanted.count(name) > 1]:
        raise InputError(f"`classes` names {some(twice)} more than once")
    if missing := [name for name in wanted if name not in found]:
        similar = {folded(name): name for name in sorted(found)}
        near = [f"{name!a} is like {similar[key]!a}" for name in missing if (key := folded(name)) in similar]
        hint = f" ({', '.join(near[:SHOWN])})" if near else ""
        raise InputError(
            f"`classes` names {some(missing, SHOWN)}, but there are no such images{hint}; "
            f"given: {some(wanted, SHOWN)}; classes of the images: {some(sorted(found), SHOWN) or 'none'}"
        )


def only(classes: Counts, names: Iterable[str]) -> dict[str, dict[str, int]]:
    """The counts of the named classes only. Omits a split that has none of them."""
    wanted = set(names)
    kept = {split: {name: n for name, n in of.items() if name in wanted} for split, of in classes.items()}
    return {split: of for split, of in kept.items() if of}
