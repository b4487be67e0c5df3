"""Two runs on one object store: both may work, one wins each version, and the other builds on it."""

from collections.abc import Callable
from typing import TypeVar

from storage.errors import VersionConflict

T = TypeVar("T")
# So many runs would have to commit in a row, each within the time of one of our scans.
TRIES = 10


def until_committed(work: Callable[[], T], say: Callable[[str], None]) -> T:
    """Do `work`, from the scan to the commit, until its commit is the next version.

    The shards of an attempt that lost are in the store: the next one adopts what is still wanted of them. Raises
    VersionConflict after TRIES.
    """
    for _ in range(TRIES - 1):
        try:
            return work()
        except VersionConflict as conflict:
            say(f"{str(conflict).partition(';')[0]}: planning again")
    return work()
