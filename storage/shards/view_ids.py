"""View numbers: a shard stores the variant number k (0 is the plain image), and a version adds the augmentation.

To this room an augmentation is a text. A version lists the augmentations of its rows. A view has the index in that list
in its upper eight bits and k in its lower eight bits. The view of a plain row is 0.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import InputError
from storage.layout import Store

VARIANT_BITS = 8
MOST_VARIANTS = 2**VARIANT_BITS - 1
MOST_AUGMENTATIONS = 2 ** (16 - VARIANT_BITS)
PLAIN = 0


def views_of(known: tuple[str, ...], augmentation: str, variants: int) -> list[int | None]:
    """The views of k = 0 to variants - 1 in a version that lists `known`.

    The variants of an augmentation that is not listed are None.
    """
    if augmentation not in known:
        return [PLAIN, *[None] * (variants - 1)]
    base = known.index(augmentation) << VARIANT_BITS
    return [PLAIN, *(base | variant for variant in range(1, variants))]


def views_in_version(known: tuple[str, ...], augmentation: str, variants: np.ndarray) -> np.ndarray:
    """The views (n,) uint16 of a shard's rows in a version that lists `known`. variants: (n,) the k of each row.

    Raises ValueError if there are variants but `augmentation` is not in `known`.
    """
    base = known.index(augmentation) << VARIANT_BITS if np.any(variants) else 0
    return np.where(variants, base + variants.astype(np.int64), PLAIN).astype(np.uint16)


def variants_of(views: np.ndarray) -> np.ndarray:
    """(n,) uint16: the variant number k of each view."""
    return views & np.uint16(MOST_VARIANTS)


def indices_of(views: np.ndarray) -> np.ndarray:
    """(n,) uint16: the index of each view's augmentation. A plain row has none and gets 0."""
    return views >> np.uint16(VARIANT_BITS)


def are_listed(views: np.ndarray, known: tuple[str, ...]) -> bool:
    """Whether each view is plain or a variant of an augmentation in `known`."""
    variants = views[views != PLAIN]
    return bool(np.all(variants_of(variants) > 0) and np.all(indices_of(variants) < len(known)))


def with_augmentation(known: tuple[str, ...], augmentation: str, store: Store) -> tuple[str, ...]:
    """`known`, of a version of `store`, with the augmentation appended if it is new.

    Raises InputError if `known` is full.
    """
    if augmentation in known:
        return known
    if len(known) == MOST_AUGMENTATIONS:
        raise InputError(
            f"`augment`: the store has variants of {MOST_AUGMENTATIONS} augmentations, which is the maximum; "
            f"`{store.command(f'compact --drop-variants --space {store.fingerprint}')}` drops all variants"
        )
    return (*known, augmentation)


def plain(rows: pa.Table) -> pa.Table:
    """The plain rows of a table of ROWS_SCHEMA."""
    return of_view(rows, PLAIN)


def of_view(rows: pa.Table, view: int) -> pa.Table:
    """The rows of one view."""
    return rows.filter(pc.equal(rows["view"], pa.scalar(view, pa.uint16())))
