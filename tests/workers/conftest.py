from collections.abc import Iterator

import pytest

from workers.devices import Slot
from workers.runners.local import WorkerPool


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerPool]:
    """One child that trains, for the tests of a file."""
    made = WorkerPool((Slot(None, 1),), tmp_path_factory.mktemp("logs"))
    yield made
    made.close()
