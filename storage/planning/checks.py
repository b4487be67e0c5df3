"""Refuse a listing that no version should be made of: nothing found, too much gone, or a chosen class without images."""

import pyarrow as pa
import pyarrow.compute as pc

from storage.classes import check_found
from storage.errors import InputError, TooManyRemovals
from storage.manifest.diff import Changes
from storage.manifest.versions import Version
from storage.planning.options import PlanOptions
from storage.source.listing import Listing
from storage.text import count


def check_not_empty(listing: Listing, parent: Version | None) -> None:
    """Raise InputError if a first run finds no image."""
    if listing.files.num_rows == 0 and parent is None and not listing.scan.unreadable:
        ignored = (
            f" ({count(listing.scan.ignored, 'file')} without an image or a class: {'; '.join(listing.scan.layout.remarks)})"
            if listing.scan.ignored
            else " (the folder is empty)"
        )
        raise InputError(
            f"`images`: no images in {listing.scan.root}{ignored}; expected class folders (cats/1.jpg, dogs/2.jpg), "
            "split folders of class folders (train/cats/1.jpg), or `labels` with a table of paths and classes"
        )


def check_listed(
    listing: Listing, files: pa.Table, changes: Changes, parent: Version | None, options: PlanOptions, left_out: int
) -> None:
    """Raise TooManyRemovals if too many images are gone, InputError if a chosen class has no image.

    left_out: images of the parent that `exclude` names. They are not gone.
    """
    before, removed = parent.counts["images"] if parent else 0, changes.removed - left_out
    if removed > options.max_removed_fraction * before and not options.allow_removals:
        raise TooManyRemovals(
            f"{removed:,} of {count(before, 'image')} disappeared from {listing.scan.root} ({files.num_rows:,} remain), "
            f"more than `max_removed_fraction={options.max_removed_fraction:g}` allows; nothing was committed. "
            "Run again with `allow_removals` if this is intended"
        )
    if options.classes is not None:
        check_found(options.classes, pc.unique(files["class"]).to_pylist())
