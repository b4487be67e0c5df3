"""What all tests share: no telemetry, no user's settings, a folder of tiny pictures."""

import gc
import logging
import os
import re
import uuid
from pathlib import Path

import pytest

from flows.console.loggers import LOGGERS
from storage.backend.paths import place
from tests import examples, toy
from tests.storage.s3 import KEYS, s3_server

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
examples.load_profile()


@pytest.fixture(autouse=True)
def _log_goes_where_it_went():
    """A command sends what the rooms log to standard error, for the rest of its process: here for its test alone."""
    rooms = [logging.getLogger(room) for room in LOGGERS]
    before = [(room, room.level, room.handlers) for room in rooms]
    yield
    for room, level, handlers in before:
        room.setLevel(level)
        room.handlers = handlers


@pytest.fixture(autouse=True, scope="module")
def _libraries_are_no_garbage():
    """A collection looks only at what a module made: looking at all of TensorFlow, Keras and pytest takes half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _the_power_stays():
    """fsync takes time and no test cuts the power: tests/storage/faults.py simulates a disk that loses what was not synced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _caches_of_this_session(tmp_path_factory):
    """Facts about engines are kept in a folder of the session, which its processes share."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        # Matplotlib lists the machine's fonts once, which takes seconds.
        patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR") or str(Path.home() / ".cache" / "matplotlib"))
        patch.setenv("XDG_CACHE_HOME", str(shared / "cache-home"))
        yield


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return toy.pictures(tmp_path / "images")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture(scope="session")
def address(tmp_path_factory):
    """The address of a real S3 server, for the session."""
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as found:
        yield found


@pytest.fixture
def bucket(address, monkeypatch, tmp_path, request):
    """A prefix of a new bucket, as a place; the environment leads to its server, and caches of its stores to the test's folder."""
    import s3fs

    for name, value in {**KEYS, "AWS_ENDPOINT_URL": address, "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    words = f"b{os.getpid()} {request.node.name.lower()} {uuid.uuid4().hex[:8]}"
    name = re.sub(r"[^a-z0-9]+", "-", words)[-60:].strip("-")
    found = place(f"s3://{name}/data")
    found.fs.mkdir(name)
    yield found
    s3fs.S3FileSystem.clear_instance_cache()
