"""What does a terminal show? Runs commands in a real pseudo-terminal, and writes the drawn screens as text.

    python benchmarks/terminal.py --write docs/terminal.md

Needs the `test` extra (pyte, a terminal emulator in memory). The commands are those of the demo.
"""

import argparse
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyte

PROJECT = Path(__file__).parents[1]
COLUMNS, LINES = 100, 60


@dataclass
class Watched:
    """What a command showed: the screen at chosen moments and at the end, and its exit status."""

    status: int = 0
    moments: dict[str, list[str]] = field(default_factory=dict)
    end: list[str] = field(default_factory=list)


def watch(
    command: list[str],
    folder: Path,
    environment: dict[str, str],
    moments: dict[str, Callable[[list[str]], bool]] | None = None,
    interrupt_at: str | None = None,
) -> Watched:
    """Run a command in a terminal of COLUMNS by LINES.

    moments: name → a predicate of a screen's lines; the first screen that matches is kept. interrupt_at: the moment
    at which to press Ctrl-C.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**environment, "TERM": "xterm-256color"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    found = Watched()
    while data := _read(master):
        stream.feed(data)
        lines = _lines(screen)
        for name, is_it in (moments or {}).items():
            if name not in found.moments and is_it(lines):
                found.moments[name] = lines
                if name == interrupt_at:
                    os.killpg(process.pid, signal.SIGINT)
    os.close(master)
    found.status, found.end = process.wait(60), _lines(screen)
    return found


def _lines(screen: pyte.Screen) -> list[str]:
    """The lines of the screen, without the empty ones at its end."""
    return "\n".join(line.rstrip() for line in screen.display).rstrip().split("\n")


def _read(master: int) -> bytes:
    try:
        return os.read(master, 4096)
    except OSError:  # the other end has closed
        return b""


def has(pattern: str) -> Callable[[list[str]], bool]:
    return lambda lines: any(re.search(pattern, line) for line in lines)


def write_down(folder: Path) -> tuple[str, list[int]]:
    """Run the commands. Returns the document, and the exit status of each command."""
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    environment |= {"PREFECT_HOME": str(folder / "prefect"), "PYTHONPATH": str(PROJECT)}
    text, statuses = [HEAD], []

    def show(title: str, typed: str, moments: dict | None = None, interrupt_at: str | None = None) -> None:
        print(typed, file=sys.stderr)
        words = typed.replace("flows/pipeline.py", str(PROJECT / "flows" / "pipeline.py")).split()
        seen = watch([sys.executable, *words[1:]], folder, environment, moments, interrupt_at)
        statuses.append(seen.status)
        text.append(f"## {title}\n\n    $ {typed}\n")
        for name, lines in seen.moments.items():
            text.append(f"{name}:\n\n" + _block(lines) + "\n")
        text.append(f"At the end, with exit status {seen.status}:\n\n" + _block(seen.end) + "\n")

    extracting = {"During extraction": has(r"extract ━.* [5-9]\d\d of 1,797 images,.*left")}
    training = {"During training": has(r"train ━.* steps,.*left")}
    show("The first run", "python flows/pipeline.py", extracting | training)
    show("A second run", "python flows/pipeline.py")
    show("Preview", "python flows/pipeline.py --image-size 48 --plan")
    pressed = {"At Ctrl-C": has(r"extract ━.* [2-9]\d\d of 1,797 images,.*left")}
    show("Interrupted", "python flows/pipeline.py --image-size 48 --extract-only", pressed, *pressed)
    show("Inspect the store", "python -m storage show --store demo/store")
    show("Verify the store", "python -m storage verify --deep --store demo/store")
    _flip_a_bit(next((folder / "demo" / "store").glob("2658*/shards/*/*.parquet")))
    show("Verify after one bit of a shard has changed", "python -m storage verify --deep --store demo/store")
    show("Repair", "python -m storage repair --deep --store demo/store --space 2658")
    show("The next run extracts what was lost", "python flows/pipeline.py")
    show("Remove what no version needs", "python -m storage gc --keep 1 --grace 0 --store demo/store")
    show("List unusable images", "python -m storage quarantine --store demo/store --space 2658")
    show("A wrong folder", "python flows/pipeline.py --images demo/digitz --weights random")
    return "\n".join(text).replace(str(folder), "/home/you"), statuses


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _block(lines: list[str]) -> str:
    return "\n".join(f"    {line}".rstrip() for line in lines)


HEAD = f"""# What a terminal shows

`python benchmarks/terminal.py --write docs/terminal.md` writes this page. It shows real runs in a terminal of {COLUMNS} columns, without colours.
If standard error is not a terminal, and in runs of a deployment, lines of the flow run's log replace the bars.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="the document to be written; standard error without")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        document, statuses = write_down(Path(folder))
    assert statuses == [0, 0, 0, 130, 0, 0, 1, 0, 0, 0, 0, 2], statuses
    assert "Traceback" not in document
    assert str(PROJECT) not in document
    if given.write:
        given.write.write_text(document)
    else:
        print(document, file=sys.stderr)
    print(json.dumps({"commands": len(statuses), "statuses": statuses}))


if __name__ == "__main__":
    main()
