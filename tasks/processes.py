"""The process of a flow run: recorded on the server, so that others can tell whether it is alive."""

import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PREFIX = "process."


@dataclass(frozen=True)
class Process:
    """A process of a machine.

    boot: what the kernel calls its own start; started: ticks from there to that of the process. Both tell a process from
    a later one of the same number; where the system does not say, they are empty and 0.
    """

    host: str
    boot: str
    pid: int
    started: int

    @classmethod
    def own(cls) -> "Process":
        return cls(socket.gethostname(), _boot(), os.getpid(), _started(os.getpid()))

    def labels(self) -> dict[str, Any]:
        """As labels of a flow run."""
        return {f"{PREFIX}{name}": value for name, value in asdict(self).items()}

    @classmethod
    def of(cls, labels: dict[str, Any]) -> "Process | None":
        """The process that the labels of a flow run name, if they do."""
        try:
            return cls(
                str(labels[f"{PREFIX}host"]),
                str(labels[f"{PREFIX}boot"]),
                int(labels[f"{PREFIX}pid"]),
                int(labels[f"{PREFIX}started"]),
            )
        except (KeyError, TypeError, ValueError):
            return None

    def is_alive(self) -> bool | None:
        """Whether it is there; None for a process of another machine, of which nothing is known here."""
        if self.host != socket.gethostname():
            return None
        if self.boot != _boot():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return _started(self.pid) == self.started


def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _started(pid: int) -> int:
    """Ticks from the start of the machine to that of the process; -1 for one that has ended and waits for its parent."""
    with suppress(OSError):
        # The name, in brackets, may hold anything; behind it come the state and, 19 further, the start.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return -1 if fields[0] in (b"Z", b"X") else int(fields[19])
    return 0
