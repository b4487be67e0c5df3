from collections.abc import Iterator

import pytest

from workers.devices import Slot
from workers.runners.local import LocalRunner


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRunner]:
    """One child that trains, for all tests of a file."""
    made = LocalRunner((Slot(None, 1),), tmp_path_factory.mktemp("logs"))
    yield made
    made.close()
