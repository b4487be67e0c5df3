"""The properties once more, on many more examples than the default run has the time for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
MANY = {"EXAMPLES": "6", "STATES": "60", "FAULTS": "48"}
TWICE = ["-n", "2", "--dist", "loadfile"]  # CI runs this file on one of its cores


@pytest.mark.slow
@pytest.mark.parametrize(
    "tests",
    [
        ["-m", "hypothesis and not slow", *TWICE, "tests/storage", "tests/vision", "tests/workers"],
        ["-m", "not slow", "tests/storage/test_machine.py"],
        ["-m", "not slow", "tests/storage/test_faults.py"],
    ],
    ids=["examples", "states", "faults"],
)
def test_properties_hold_for_many_more_examples(tests, tmp_path):
    # What other tests of this process have set for Prefect would give the rooms its log handlers.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PREFECT_"))
    } | MANY
    command = [sys.executable, "-m", "pytest", "-q", "--basetemp", tmp_path / "base", *tests]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
