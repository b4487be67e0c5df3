"""What a person sees: a run in a real pseudo-terminal, read off the screen as a terminal draws it."""

import json
import re
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.terminal import Watched, has, watch
from tests import toy
from tests.flows.conftest import PROJECT, TINY
from tests.flows.started import start, wait_until


def watched(
    arguments: list[str], environment: dict[str, str], moments: dict, interrupt_at: str | None = None
) -> Watched:
    command = [sys.executable, str(PROJECT / "flows" / "pipeline.py"), *arguments]
    return watch(command, PROJECT, environment, moments, interrupt_at)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    images = toy.pictures(tmp_path / "images", per_class=60)
    return ["--images", str(images), "--store", str(tmp_path / "store"), *TINY]


@pytest.mark.slow
def test_a_person_sees_bars_and_then_what_each_step_came_to(environment, arguments):
    seen = watched(arguments, environment, {"extract": has(r"extract ━.* of 120 images"), "train": has(r"train ━")})
    screen = seen.end
    assert (seen.status, seen.moments.keys()) == (0, {"extract", "train"}), screen
    assert not has("━")(screen)
    record = json.loads("".join(screen[screen.index(next(line for line in screen if line.startswith("{"))) :]))
    assert record["images"] == 120
    lines = [
        r"starting Prefect",
        r"120 images: 120 new$",
        r"found images +train +validation +all$",
        r"  cats +\d+ +\d+ +60$",
        r"  dogs +\d+ +\d+ +60$",
        r"  all 2 classes +\d+ +\d+ +120$",
        r"extracting 120 images in 8 chunks on mnn with \d+ workers?: .+$",
        r"version 1: 120 extracted, .* images/s \(read \d+%, decode \d+%, infer \d+%, write \d+%\)$",
        r"training on \d+ images of 2 classes, validating on \d+$",
        r"epoch 1 of 2: loss .*, val_accuracy \d",
        r"epoch 2 of 2: ",
        r"mlp head [0-9a-f]{32}: val_accuracy .*; it is current$",
        r"report: /",
        r".*/report\.html$",  # a path too long for one line
        r"time: scan .*, list .*, plan .*, extract .*, commit .*, train ",
        r"\{",
    ]
    for expected, line in zip(lines, screen, strict=False):
        assert re.match(expected, line), screen


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_ends_a_run_with_a_server_of_its_own(without_server, arguments):
    at = {"extract": has(r"extract ━.* of 120 images")}
    seen = watched([*arguments, "--image-size", "128"], without_server, at, interrupt_at="extract")
    assert (seen.status, seen.moments.keys()) == (130, {"extract"}), seen.end
    assert seen.end[-1] == "error: interrupted; finished shards are kept, and the next run continues from them"
    assert len(seen.end) < 10  # of which four are the table of classes
    assert not has("Crash|ERROR")(seen.end)
    assert not processes_of(without_server["PREFECT_HOME"])


def test_the_server_of_a_run_leaves_with_it_even_if_the_run_is_killed(without_server, arguments):
    home = without_server["PREFECT_HOME"]
    process = start(without_server, *arguments)
    wait_until(lambda: any("flows.cli.prefect_server" in words for words in commands_of(home)), process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while processes_of(home) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes_of(home)


def processes_of(prefect_home: str) -> list[int]:
    """Processes that were started with this Prefect home in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"PREFECT_HOME={prefect_home}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def commands_of(prefect_home: str) -> list[str]:
    found = []
    for pid in processes_of(prefect_home):
        with suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def test_elsewhere_there_are_lines_without_escapes(command, images, store):
    done = command("--images", images, "--store", store, *TINY, "--workers", "1")
    assert done.status == 0, done.stderr
    assert "\x1b" not in done.stderr
    assert "━" not in done.stderr
    assert "Flow run" in done.stderr
    assert re.search(r"version 1: 20 extracted, .* images/s", done.stderr)
    assert set(done.record["stage_seconds"]) == {"scan", "list", "plan", "extract", "commit", "train"}
