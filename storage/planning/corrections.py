"""The corrections of a plan: what a person excluded or relabelled, and what an earlier version had corrected."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import InputError
from storage.layout import Store
from storage.manifest.versions import Version
from storage.planning.options import PlanOptions
from storage.source.corrections import Corrected, correct
from storage.source.corrections_file import read_corrections
from storage.source.listing import Listing
from storage.text import count, visible


class LeftOut:
    """Counts the files of a version that are excluded now. images: their number, once all pieces were collected."""

    def __init__(self, excluded: pa.Array):
        self._excluded = excluded
        self.images = 0

    def collect(self, pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield the segments of a version's files, and count."""
        for piece in pieces:
            self.images += pc.sum(pc.is_in(piece["path"], self._excluded)).as_py() or 0
            yield piece


def corrected_files(store: Store, parent: Version | None, listing: Listing, options: PlanOptions) -> Corrected:
    """Apply the corrections of the options to a listing. Raises InputError if they leave no image.

    Files in folders that could not be listed stay as they were, and so do their corrections in the parent.
    """
    rows = read_corrections(options.exclude, options.relabel, listing.scan.root)
    found = correct(listing.files, rows)
    if listing.files.num_rows and not found.files.num_rows:
        raise InputError(f"`exclude`: {visible(options.exclude)} leaves out every image of {listing.scan.root}")
    if parent is None or not parent.corrections or not listing.scan.unreadable:
        return found
    before = parent.read_corrections(store)
    unseen = [path.startswith(listing.scan.unreadable) for path in before["path"].to_pylist()]
    applied = pa.concat_tables([found.applied, before.filter(pa.array(unseen, pa.bool_()))])
    return replace(found, applied=applied.sort_by("path").combine_chunks())


def said(store: Store, parent: Version | None, now: Corrected) -> Iterator[str]:
    """Lines about the corrections of a plan, and about those of its parent that are taken back."""
    yield from now.remarks
    if parent is not None and parent.corrections:
        yield from _taken_back(parent.number, parent.read_corrections(store), now)


def _taken_back(number: int, before: pa.Table, now: Corrected) -> Iterator[str]:
    """A line about the corrections of version `number` that no longer apply to files that are still there."""
    left = before.filter(pc.invert(pc.is_in(before["path"], now.applied["path"].combine_chunks())))
    left = left.filter(pc.is_in(left["path"], now.files["path"].combine_chunks()))
    excluded = left["class"].null_count
    parts = []
    if excluded:
        parts.append(f"{count(excluded, 'image')} that it excluded {'is' if excluded == 1 else 'are'} back")
    if other := left.num_rows - excluded:
        parts.append(
            f"{count(other, 'image')} that it relabelled {'has' if other == 1 else 'have'} the listed class again"
        )
    if parts:
        yield f"version {number} had corrections that are not given now: {', and '.join(parts)}"
