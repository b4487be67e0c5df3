"""Task `scan_images`: finds names, sizes and times of the images, by stat alone."""

from functools import partial

from prefect import task

from storage.backend.paths import is_local, place
from storage.manifest.versions import precedent
from storage.source.folder_layout import Layout
from storage.source.scan import scan_folder
from storage.source.scan_files import prepare, save_scan
from tasks.caching import RETRY
from workers.jobs.records import ScanRecord, Space


@task(name="scan_images", **RETRY, cache_policy=None)
def scan_images(
    space: Space, layout: Layout, labels: str | None, outside_links: bool = False, allow_relabels: bool = False
) -> ScanRecord:
    """Scan the image folder. Never cached, because only a scan can tell whether something has changed."""
    before = None if allow_relabels else partial(precedent, space.store)
    scan = scan_folder(place(space.images), layout, place(labels) if labels else None, outside_links, before)
    if is_local(space.store.root):  # on objects, other runs may use the folder (storage/planning/plan_files.py, using)
        prepare(space.store.plans, keep=scan.digest)
    path = save_scan(scan, space.store.plans)
    return ScanRecord(str(path), scan.digest, scan.files.num_rows, scan.ignored, scan.is_settled)
