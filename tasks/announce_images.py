"""Task `announce_images`: emits one event for images that arrived, and waits until the server has stored it."""

import time
from uuid import UUID

from prefect import task
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.events.filters import EventFilter, EventIDFilter

from tasks.caching import RETRY

EVENT = "images.arrived"
# The server stores events every few seconds.
WRITTEN_SECONDS = 60.0


class NotAnnounced(RuntimeError):
    """The server did not store the event within WRITTEN_SECONDS."""


def resource_id(images: str) -> str:
    """The resource of an image folder's events: one per folder, however many images it has."""
    return f"images:{images}"


@task(name="announce_images", task_run_name="announce_images {new}+{changed}-{gone}", **RETRY, cache_policy=None)
def announce_images(event_id: UUID, images: str, total: int, new: int, changed: int, gone: int) -> None:
    """Emit `images.arrived` for a folder, and wait until the server has stored it. The counts are only for people.

    event_id: lets the server recognize a retry as the same event. Raises NotAnnounced.
    """
    emit_event(
        EVENT,
        resource={"prefect.resource.id": resource_id(images), "prefect.resource.name": images},
        payload={"images": total, "new": new, "changed": changed, "gone": gone},
        id=event_id,
    )
    deadline = time.monotonic() + WRITTEN_SECONDS
    with get_client(sync_client=True) as client:
        while not client.read_events(EventFilter(id=EventIDFilter(id=[event_id])), limit=1).events:
            if time.monotonic() >= deadline:
                raise NotAnnounced(
                    f"the server did not store event {event_id} of {images} within {WRITTEN_SECONDS:.0f} s"
                )
            time.sleep(0.5)
