"""Jobs run in this process, so that TensorFlow loads only once for all of them."""

from collections.abc import Iterator

import pytest

from tests import memo
from workers.devices import Slot
from workers.runners.inline import InlineRunner
from workers.runners.local import LocalRunner


@pytest.fixture(scope="module", autouse=True)
def _shared_engines() -> Iterator[None]:
    with memo.shared_weights(), memo.shared_engines():
        yield


@pytest.fixture(scope="session")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InlineRunner]:
    """An inline runner. It passes jobs and results on as JSON, as a child would."""
    made = InlineRunner((Slot(None, 1),), tmp_path_factory.mktemp("logs"))
    yield made
    made.close()


@pytest.fixture
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRunner]:
    """A local runner, whose child a test can kill."""
    made = LocalRunner((Slot(None, 1),), tmp_path_factory.mktemp("logs"))
    yield made
    made.close()
