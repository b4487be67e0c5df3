"""Watch a command: its processes, their CPU time and memory, and the time of each line that it prints."""

import os
import subprocess
import threading
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

MARK = "BENCHMARK_RUN"
EVERY_SECONDS = 0.5
TICKS = os.sysconf("SC_CLK_TCK")
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass
class Watched:
    """The observations of a command.

    cpu_seconds: of all its processes, including those that it detached. peak_rss_mb: the peak of their summed memory,
    with shared pages counted in each process. lines: (seconds since the start, line of standard error).
    samples: (seconds since the start, {(pid, command line): (CPU seconds, MB)}).
    """

    status: int = 0
    stdout: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_rss_mb: float = 0.0
    lines: list[tuple[float, str]] = field(default_factory=list)
    samples: list[tuple[float, dict]] = field(default_factory=list)

    def cpu_between(self, start: float, end: float) -> dict[str, float]:
        """CPU seconds by command line, of processes that existed at both moments or began between them."""
        used: dict[str, float] = defaultdict(float)
        first: dict = {}
        last: dict = {}
        for moment, seen in self.samples:
            if moment <= start:
                first = seen
            if moment <= end:
                last = last | seen
        for (pid, command), (cpu, _) in last.items():
            used[command] += cpu - first.get((pid, command), (0.0, 0.0))[0]
        return used

    def said(self, text: str) -> float:
        """The time of the first line with this text, in seconds since the start."""
        return next(moment for moment, line in self.lines if text in line)


def watch(command: list, environment: dict[str, str]) -> Watched:
    """Run a command to its end, in its own process group."""
    mark = uuid.uuid4().hex
    began = time.monotonic()
    found = Watched()
    process = subprocess.Popen(
        [*map(str, command)],
        env=environment | {MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    over = threading.Event()

    def listen() -> None:
        for line in process.stderr:
            found.lines.append((time.monotonic() - began, line.rstrip()))

    def look() -> None:
        total: dict = {}
        while not over.wait(EVERY_SECONDS):
            seen = dict(_processes(mark))
            total |= {key: cpu for key, (cpu, _) in seen.items()}
            found.samples.append((time.monotonic() - began, seen))
            found.peak_rss_mb = max(found.peak_rss_mb, sum(rss for _, rss in seen.values()))
        found.cpu_seconds = sum(total.values())

    threads = [threading.Thread(target=listen), threading.Thread(target=look)]
    for thread in threads:
        thread.start()
    found.stdout = process.stdout.read()
    found.status = process.wait()
    found.seconds = time.monotonic() - began
    over.set()
    for thread in threads:
        thread.join()
    if found.status:
        raise RuntimeError(f"{command} ended with {found.status}:\n" + "\n".join(line for _, line in found.lines[-30:]))
    return found


def _processes(mark: str):
    """((pid, command line), (CPU seconds, MB)) of every process that carries the mark in its environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() not in (folder / "environ").read_bytes():
                continue
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # the process has ended
            continue
        yield (folder.name, command), ((int(fields[11]) + int(fields[12])) / TICKS, int(fields[21]) * PAGE_MB)
