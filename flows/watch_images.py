"""Flow `watch-images`: watch a folder of images, and announce changes to Prefect.

    python flows/watch_images.py --images FOLDER --store STORE

Each time the folder has changed and settled, the flow emits one event `images.arrived` of the resource
`images:FOLDER`; docs/new-images.md says what follows. It runs until it is cancelled, or until --hours are over.
"""

if __name__ == "__main__":
    from flows.cli.leaving import leave  # isort: split
    from flows.cli.command import main
    from flows.registry import WATCH

    raise leave(main(WATCH))

import time
from dataclasses import asdict, dataclass
from typing import Any
from uuid import uuid4

from prefect import flow, get_run_logger

from flows.console.messages import arrived
from flows.options.flat import takes_options
from flows.options.watch import WatchOptions
from storage.watching.arrivals import Announced, Arrival, arrivals
from storage.watching.notifier import notifier
from tasks.announce_images import announce_images
from tasks.run_identity import name_process


@dataclass(frozen=True)
class Watched:
    """The result of a watcher: how many events it emitted, and how many new, changed and removed images they name."""

    events: int = 0
    new: int = 0
    changed: int = 0
    gone: int = 0

    def after(self, arrival: Arrival) -> "Watched":
        """Add an announced arrival."""
        return Watched(
            self.events + 1, self.new + arrival.new, self.changed + arrival.changed, self.gone + arrival.gone
        )

    def line(self, elapsed_seconds: float) -> dict[str, Any]:
        return {**asdict(self), "elapsed_seconds": round(elapsed_seconds, 4)}


@flow(name="watch-images", flow_run_name="{images}", validate_parameters=True, on_running=[name_process])
@takes_options
def watch_images(options: WatchOptions) -> Watched:
    """Announce changes until `hours` are over."""
    deadline = time.monotonic() + 3600 * options.hours if options.hours else None
    announced, watched = Announced.of(options.watched(), options.folder), Watched()
    get_run_logger().info("watching %s", options.folder)
    with notifier(options.folder, options.how) as notices:
        for arrival in arrivals(options.scan, notices, announced, options.timing()):
            if arrival is not None and announce(arrival):
                announced.remember(arrival)
                watched = watched.after(arrival)
            if deadline and time.monotonic() >= deadline:
                break
    return watched


def announce(arrival: Arrival) -> bool:
    """Emit the event of an arrival. Returns False if the server did not accept it; the watcher then tries again."""
    get_run_logger().info(arrived(arrival))
    images = str(arrival.scan.root)
    state = announce_images(
        uuid4(), images, arrival.images, arrival.new, arrival.changed, arrival.gone, return_state=True
    )
    return state.is_completed()
