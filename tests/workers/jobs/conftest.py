"""Jobs run in this process, where TensorFlow is loaded once for all of them."""

from collections.abc import Iterator

import pytest

from workers.devices import Slot
from workers.runners.inline import InlineRunner
from workers.runners.local import LocalRunner


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InlineRunner]:
    """A job and its result are JSON on their way, as to and from a child."""
    made = InlineRunner((Slot(None, 1),), tmp_path_factory.mktemp("logs"))
    yield made
    made.close()


@pytest.fixture
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRunner]:
    """A process to be killed."""
    made = LocalRunner((Slot(None, 1),), tmp_path_factory.mktemp("logs"))
    yield made
    made.close()
