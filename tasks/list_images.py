"""Task `list_images`: lists every image once, with the digest of its bytes."""

from pathlib import Path

from prefect import task

import storage.source.listing
from storage.source.scan_files import load_scan, save_listing
from tasks.caching import RETRY, keyed
from workers.jobs.records import ListingRecord, ScanRecord, Space


def _key(space: Space, scan: ScanRecord, rehash: bool) -> str | None:
    return f"list-{scan.digest}" if scan.is_settled and not rehash else None


@task(name="list_images", task_run_name="list_images ({scan.images})", **RETRY, cache_key_fn=keyed(_key))
def list_images(space: Space, scan: ScanRecord, rehash: bool) -> ListingRecord:
    """List the images of a scan. The digest of the scan is the cache key.

    The list is not cached with `rehash`, or if a file is so young that it may have changed since the scan.
    """
    listing = storage.source.listing.list_images(load_scan(Path(scan.path)), space.store.cache, rehash)
    path = save_listing(listing, Path(scan.path))
    num_readable = len(listing.files["digest"].drop_null())
    return ListingRecord(str(path), listing.files.num_rows, listing.hashed, unreadable=scan.images - num_readable)
