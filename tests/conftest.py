"""What all tests share: no telemetry, no user's settings, a folder of tiny pictures."""

import os
from pathlib import Path

import pytest

from tests import toy

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return toy.pictures(tmp_path / "images")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"
