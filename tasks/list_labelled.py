"""Task `list_labelled`: lists the labelled images that an evaluation predicts."""

from pathlib import Path

from prefect import task

from storage.source.folder_layout import Layout
from tasks.caching import RETRY
from workers.jobs.labelled import LabelledRecord, list_folder, list_split
from workers.jobs.opened_head import OpenedHead
from workers.jobs.records import Space


@task(name="list_labelled", **RETRY, cache_policy=None)
def list_labelled(
    space: Space,
    head: OpenedHead,
    folder: str,
    images: str | None,
    split: str | None = None,
    version: int | None = None,
    layout: Layout = "auto",
    labels: str | None = None,
    outside_links: bool = False,
    rehash: bool = False,
) -> LabelledRecord:
    """List a split of a version, or else the images in a folder, and write the listing to `folder`. Files of unchanged size and times are not read again."""
    if split:
        return list_split(space, head, Path(folder), split, version, images)
    return list_folder(space, head, Path(folder), images or "", layout, labels, outside_links, rehash)
