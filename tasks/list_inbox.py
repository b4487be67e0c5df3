"""Task `list_inbox`: lists images without labels, with the digest of their bytes."""

from pathlib import Path

from prefect import task

from storage.backend.paths import place
from storage.source.listing import list_images
from storage.source.unlabelled import scan_inbox
from tasks.caching import RETRY
from workers.jobs.prediction_plan import InboxRecord, save_inbox
from workers.jobs.records import Space


@task(name="list_inbox", **RETRY, cache_policy=None)
def list_inbox(
    space: Space, images: str, pieces: str, outside_links: bool = False, rehash: bool = False
) -> InboxRecord:
    """List the images of a folder, a file or a list of files. Files of unchanged size and times are not read again.

    pieces: the folder of the run, which takes the listing.
    """
    inbox = scan_inbox(place(images), outside_links)
    listing = list_images(inbox.scan, space.store.cache, rehash)
    return save_inbox(inbox, listing.files, Path(pieces))
