"""The instructions of this machine's processor, by their names in Linux' /proc/cpuinfo."""

import platform
from contextlib import suppress
from functools import lru_cache
from pathlib import Path


@lru_cache
def instructions() -> frozenset[str]:
    """For example {"avx2", "avx512_vnni", …} on x86 or {"asimddp", "i8mm", …} on ARM; empty if the machine does not tell.

    OpenVINO's own property OPTIMIZATION_CAPABILITIES is no substitute: it names BF16 on every processor with AVX-512,
    most of which emulate it, and INT8 on every processor.
    """
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return frozenset({"asimddp"})  # every Apple processor since the M1
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return frozenset(value.split())
    return frozenset()
