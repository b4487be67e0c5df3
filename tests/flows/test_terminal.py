"""What a person sees: a run in a real pseudo-terminal, read off the screen as a terminal draws it."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pyte
import pytest

from tests import toy
from tests.flows.conftest import PROJECT, TINY

COLUMNS, LINES = 100, 50


def watched(arguments: list[str], environment: dict[str, str]) -> tuple[int, list[str], set[str]]:
    """Exit status, the screen at the end, and every line that was ever to be seen."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [sys.executable, PROJECT / "flows" / "pipeline.py", *arguments],
        env={**environment, "TERM": "xterm-256color"},
        stdout=slave,
        stderr=slave,
        stdin=slave,
        start_new_session=True,
    )
    os.close(slave)
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    seen: set[str] = set()
    while data := _read(master):
        stream.feed(data)
        seen |= {line.rstrip() for line in screen.display}
    os.close(master)
    return process.wait(60), [line.rstrip() for line in screen.display if line.strip()], seen


def _read(master: int) -> bytes:
    try:
        return os.read(master, 4096)
    except OSError:  # the other end is closed
        return b""


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    images = toy.pictures(tmp_path / "images", per_class=60)
    return ["--images", str(images), "--store", str(tmp_path / "store"), *TINY]


def test_a_person_sees_bars_and_then_what_each_step_came_to(environment, arguments):
    status, screen, seen = watched(arguments, environment)
    assert status == 0, screen
    assert any(re.match(r"extract ━+.* of 120 images", line) for line in seen)
    assert any(re.match(r"train ━+", line) for line in seen)
    assert not [line for line in screen if "━" in line]
    record = json.loads("".join(screen[screen.index(next(line for line in screen if line.startswith("{"))) :]))
    assert record["images"] == 120
    lines = [
        r"starting Prefect",
        r"120 images: 120 new$",
        r"extracting 120 images in 8 chunks with \d+ workers$",
        r"version 1: 120 extracted, .* images/s \(read \d+%, decode \d+%, infer \d+%, write \d+%\)$",
        r"training on \d+ images of 2 classes, validating on \d+$",
        r"epoch 1 of 2: loss .*, val_accuracy \d",
        r"epoch 2 of 2: ",
        r"head [0-9a-f]{32}: val_accuracy .* it is the current head$",
        r"time: scan .*, list .*, plan .*, extract .*, commit .*, train ",
        r"\{",
    ]
    for expected, line in zip(lines, screen, strict=False):
        assert re.match(expected, line), screen


def test_a_deployment_that_was_started_from_a_terminal_has_no_bars(environment, arguments):
    deployed = {"PREFECT__RUNTIME__DEPLOYMENT__ID": "0f7e2d9c-0000-0000-0000-000000000000"}
    status, screen, seen = watched([*arguments, "--extract-only"], environment | deployed)
    assert status == 0, screen
    assert not [line for line in seen if "━" in line]


def test_elsewhere_there_are_lines_without_escapes(pipeline, arguments):
    done = pipeline(*arguments, "--extract-only")
    assert done.status == 0, done.stderr
    assert "\x1b" not in done.stderr
    assert "━" not in done.stderr
    assert "Flow run" in done.stderr
    assert re.search(r"version 1: 120 extracted, .* images/s", done.stderr)
    assert set(done.record["stage_seconds"]) == {"scan", "list", "plan", "extract", "commit"}
