"""The process of a flow run. The server records it, so that others can tell whether it is alive."""

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

    boot: the kernel's identifier of its boot. started: ticks from the boot to the start of the process. The two
    distinguish a process from a later one with the same number. They are empty and 0 if the system does not tell.
    """

    host: str
    boot: str
    pid: int
    started: int

    @classmethod
    def own(cls) -> "Process":
        """The process that calls it."""
        return cls(socket.gethostname(), _boot(), os.getpid(), _started(os.getpid()))

    def labels(self) -> dict[str, Any]:
        """The process as labels of a flow run."""
        return {f"{PREFIX}{name}": value for name, value in asdict(self).items()}

    @classmethod
    def of(cls, labels: dict[str, Any]) -> "Process | None":
        """The process that the labels of a flow run name, or None."""
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
        """Whether the process exists; None for a process of another machine, which this one cannot check."""
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
    """Ticks from the boot to the start of the process; -1 for a zombie, 0 if the system does not tell."""
    with suppress(OSError):
        # The name, in parentheses, may contain anything. After it come the state and, 19 fields later, the start.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return -1 if fields[0] in (b"Z", b"X") else int(fields[19])
    return 0
