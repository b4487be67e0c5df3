"""Detect arrivals: an image folder has changed and is quiet again."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from storage.backend.paths import Place
from storage.errors import InputError
from storage.layout import Store
from storage.records import sha256
from storage.source.scan_files import load_scan, prepare, save_scan
from storage.source.scan_table import Scan
from storage.source.walk import SCAN_SCHEMA
from storage.watching.notifier import Notifier
from storage.watching.open_files import incomplete

logger = logging.getLogger(__name__)

# The maximum share of the watcher's time for scans of an unchanged folder, however large it is.
MAX_SCAN_SHARE = 0.1


@dataclass(frozen=True)
class WatchTiming:
    """How long a watcher waits.

    quiet_seconds: the folder counts as quiet after so long without a change. most_seconds: the maximum wait for that;
    then complete files are announced anyway. poll_seconds: the time between scans if there are no events, or events may
    have been missed.
    """

    quiet_seconds: float = 3.0
    most_seconds: float = 60.0
    poll_seconds: float = 60.0


@dataclass(frozen=True)
class Arrival:
    """The changes of a scan to announce: how many of its images are new, changed or gone.

    A file that is still being written appears in `scan` as it was last announced, or not at all if it never was.
    """

    scan: Scan
    new: int
    changed: int
    gone: int

    @property
    def images(self) -> int:
        return self.scan.files.num_rows

    @property
    def is_empty(self) -> bool:
        return not (self.new or self.changed or self.gone)


class Announced:
    """The last announced scan, kept in a folder, so that a killed watcher resumes from it.

    Without one, every image counts as new, which costs one announcement.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._digest, self._files = "", SCAN_SCHEMA.empty_table()
        for path in sorted(folder.glob("*.scan"), key=lambda path: path.stat().st_mtime_ns):
            try:
                self._digest, self._files = path.stem, load_scan(path).files
            except (OSError, ValueError, KeyError, TypeError):
                logger.warning("cannot read %s: announcing its images again", path)

    @classmethod
    def of(cls, store: Store, images: Place) -> "Announced":
        """The last announced scan of the folder `images`, whose features go to this store."""
        return cls(store.cache / "watch" / sha256(os.fsencode(str(images)))[:16])

    def is_other(self, scan: Scan) -> bool:
        """Whether a scan differs from the announced one."""
        return scan.digest != self._digest

    def arrived(self, scan: Scan) -> pa.Table:
        """The rows of a scan that are new or changed since the announced one."""
        return scan.files.filter(pc.invert(_are_in(scan.files, self._files)))

    def arrival(self, scan: Scan, unfinished: pa.Table) -> Arrival:
        """The changes of a scan to announce. unfinished: the rows of files that are still being written."""
        if unfinished.num_rows:
            finished = scan.files.filter(pc.invert(_have_path_in(scan.files, unfinished)))
            before = self._files.filter(_have_path_in(self._files, unfinished))
            files = pa.concat_tables([finished, before.select(finished.column_names)]).sort_by("path").combine_chunks()
            scan = Scan(scan.root, files, scan.ignored, scan.unreadable, scan.scanned_ns)
        arrived = self.arrived(scan)
        changed = pc.sum(_have_path_in(arrived, self._files)).as_py() or 0
        gone = pc.sum(pc.invert(_have_path_in(self._files, scan.files))).as_py() or 0
        return Arrival(scan, arrived.num_rows - changed, changed, gone)

    def remember(self, arrival: Arrival) -> None:
        """Record an arrival as announced, so that it is not announced again."""
        self._digest, self._files = arrival.scan.digest, arrival.scan.files
        self._folder.mkdir(parents=True, exist_ok=True)
        save_scan(arrival.scan, self._folder)
        prepare(self._folder, keep=self._digest)


def _have_path_in(files: pa.Table, others: pa.Table) -> pa.Array:
    return pc.is_in(files["path"].combine_chunks(), others["path"].combine_chunks())


def _are_in(files: pa.Table, others: pa.Table) -> pa.Array:
    """Mask of the rows of `files` that are in `others` with the same value in every shared column."""
    then = others.take(pc.index_in(files["path"].combine_chunks(), others["path"].combine_chunks()))
    same = [_same(files[name], then[name]) for name in files.column_names if name in then.column_names]
    return reduce(pc.and_, same).combine_chunks()


def _same(one: pa.ChunkedArray, other: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.or_(pc.fill_null(pc.equal(one, other), False), pc.and_(pc.is_null(one), pc.is_null(other)))


def arrivals(
    rescan: Callable[[], Scan], notifier: Notifier, announced: Announced, timing: WatchTiming
) -> Iterator[Arrival | None]:
    """Yield the changes since the last announcement, each time the folder is quiet again. Never ends.

    Yields None from time to time while there is nothing to announce. A change comes again until the caller has
    `announced` remember it. A file that a process of this machine still writes has not arrived yet. If the folder does
    not become quiet, the complete files are announced without it. The first scan starts at once and finds what changed
    while no watcher ran.

    Raises InputError if the first scan cannot list the folder. Later it waits until the folder can be listed again.
    """
    scan, took, is_at_rest, previous, began = rescan(), 0.0, False, "", time.monotonic()
    while True:
        pause = max(timing.poll_seconds, took / MAX_SCAN_SHARE)
        if announced.is_other(scan):
            is_late = time.monotonic() - began >= timing.most_seconds
            arrival = None
            if is_at_rest or is_late or scan.digest == previous:
                arrival = _complete(scan, announced, is_late)
            yield arrival
            if arrival:
                began = time.monotonic()
                if announced.is_other(arrival.scan):
                    notifier.wait(pause)  # the caller could not announce it now
            previous = scan.digest
            is_at_rest = notifier.rest(timing.quiet_seconds, timing.most_seconds)
        else:
            yield None
            has_changed = notifier.wait(pause)
            began = time.monotonic()
            is_at_rest = has_changed and notifier.rest(timing.quiet_seconds, timing.most_seconds)
        started = time.monotonic()
        while (found := _try_rescan(rescan)) is None:
            yield None
            notifier.wait(pause)
            started = time.monotonic()
        scan, took = found, time.monotonic() - started


def _complete(scan: Scan, announced: Announced, is_late: bool) -> Arrival | None:
    """The arrival to announce; None if nothing has changed, or if files are unfinished and the wait is not over."""
    unfinished = incomplete(scan.root, announced.arrived(scan))
    arrival = announced.arrival(scan, unfinished)
    if arrival.is_empty or (unfinished.num_rows and not is_late):
        return None
    return arrival


def _try_rescan(rescan: Callable[[], Scan]) -> Scan | None:
    """Scan again; None, with a warning, if the folder cannot be listed now."""
    try:
        return rescan()
    except InputError as error:
        logger.warning("%s; trying again", error)
        return None
