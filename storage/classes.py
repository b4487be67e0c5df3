"""Choose the classes of a head or an export and their index order."""

from collections.abc import Iterable, Mapping

from storage.errors import InputError
from storage.text import first_few, folded

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


def index_order(chosen: tuple[str, ...] | None, classes: Counts) -> tuple[str, ...]:
    """The classes in index order: `chosen` as it is, or the learnt classes, sorted, if it is None.

    Raises InputError if `chosen` is empty, has a duplicate, or names a class without images.
    """
    if chosen is None:
        return learnt(classes)
    check_found(chosen, names_in(classes))
    return chosen


def check_found(chosen: tuple[str, ...], found: Iterable[str]) -> None:
    """Raise InputError if `chosen` is empty, has a duplicate, or names a class that is not in `found`."""
    if not chosen:
        raise InputError("`classes` is empty; omit it to use all classes")
    found = set(found)
    if twice := [name for name in dict.fromkeys(chosen) if chosen.count(name) > 1]:
        raise InputError(f"`classes` names {first_few(twice)} more than once")
    if missing := [name for name in chosen if name not in found]:
        similar = {folded(name): name for name in sorted(found)}
        near = [f"{name!a} is like {similar[key]!a}" for name in missing if (key := folded(name)) in similar]
        hint = f" ({', '.join(near[:SHOWN])})" if near else ""
        raise InputError(
            f"`classes` names {first_few(missing, SHOWN)}, but there are no such images{hint}; "
            f"given: {first_few(chosen, SHOWN)}; classes of the images: {first_few(sorted(found), SHOWN) or 'none'}"
        )


def only(classes: Counts, names: Iterable[str]) -> dict[str, dict[str, int]]:
    """The counts of the named classes only. Omits a split that has none of them."""
    kept_names = set(names)
    kept = {split: {name: n for name, n in of.items() if name in kept_names} for split, of in classes.items()}
    return {split: of for split, of in kept.items() if of}
