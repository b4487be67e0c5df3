"""Find the type of the file system that a folder is on."""

import os
import re
from contextlib import suppress
from pathlib import Path

# On these the kernel reports no changes by other machines.
NETWORK = (
    "nfs",
    "cifs",
    "smb",
    "fuse",
    "9p",
    "afs",
    "ceph",
    "gfs",
    "glusterfs",
    "lustre",
    "beegfs",
    "virtiofs",
    "vboxsf",
)


def mounts() -> str:
    """The kernel's table of mounts, the text of /proc/self/mountinfo; empty if there is none."""
    with suppress(OSError):
        return Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    return ""


def file_system(folder: Path, table: str) -> str:
    """The type of the file system that a folder is on; empty if the table has no mount for it.

    table: the text of /proc/self/mountinfo.
    """
    real = os.path.realpath(folder)
    found, longest = "", -1
    for line in table.splitlines():
        fields, _, rest = line.partition(" - ")
        point = _unescaped(fields.split(" ")[4]) if rest else ""
        if point and (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= longest:
            found, longest = rest.split(" ")[0], len(point)
    return found


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
