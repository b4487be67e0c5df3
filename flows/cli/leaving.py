"""The end of a command's process. Import this module before any other, because it has to run after all others' ends.

Python frees every module and object when a process ends, one by one. With Prefect loaded that takes half a second of
computing, and the memory goes back anyway.
"""

import atexit
import os
import sys

_statuses: list[int] = []


def leave(status: int) -> SystemExit:
    """The exception that ends the process with that status. Threads and `atexit` functions still end as always."""
    _statuses.append(status)
    return SystemExit(status)


@atexit.register  # the first to register is the last to run
def _leave() -> None:
    if _statuses:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_statuses[-1])
