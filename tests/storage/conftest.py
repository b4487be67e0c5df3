"""What the tests of this room share: repeatable properties, files that count as old, a user who may not read all."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples every time; how long one takes says nothing on a shared machine.
settings.register_profile(
    "repeatable",
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("repeatable")

NOBODY = 65_534


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this very moment count as old, so that their digests are cached."""
    monkeypatch.setattr("storage.scan.RACY_NS", 0)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that any user may enter and write to; pytest's own are closed to all but one."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    for above, names, _ in os.walk(folder):  # open what a test has shut, so that it can be removed
        for path in (Path(above, name) for name in names):
            if not path.is_symlink():
                path.chmod(0o777)
    shutil.rmtree(folder)


@pytest.fixture
def as_a_user(public: Path) -> Callable[[], AbstractContextManager[None]]:
    """Be somebody whom mode bits bar; root is let through them everywhere."""

    @contextmanager
    def become() -> Iterator[None]:
        before = os.geteuid()
        if before == 0:
            os.seteuid(NOBODY)
        try:
            if not os.access(public, os.R_OK | os.X_OK, effective_ids=True):
                pytest.skip(f"{public} lies below a folder that a common user cannot enter")
            yield
        finally:
            os.seteuid(before)

    return become
