"""What the tests of this room share: files that count as old, a user who may not read all,
a store with a history."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests import toy

NOBODY = 65_534


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this very moment count as old, so that their digests are cached."""
    monkeypatch.setattr("storage.source.scan_table.RACY_NS", 0)


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


@pytest.fixture(scope="session")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of four versions and strange names, only to be read; its images lie beside it in `images`.

    1: 16 images, 6 of them pending. 2: those are extracted. 3: cats/000 renamed, cats/001 relabelled,
    cats/002 removed; two broken images and two of a class whose name is not UTF-8 are new. 4: dogs/001 has
    other bytes, dogs/002 a copy, and some images change sides.
    """
    root = tmp_path_factory.mktemp("lived-in")
    store, images = root / "store", toy.pictures(root / "images", per_class=8)
    toy.run(images, store, limit=10)
    toy.run(images, store)
    (images / "cats/000.png").rename(images / "cats/zzz.png")
    (images / "cats/001.png").rename(images / "dogs/was a cat.png")
    (images / "cats/002.png").unlink()
    (images / "cats/broken.png").write_bytes(b"not a picture")
    (images / "cats/two\nlines.png").write_bytes(b"")
    strange = os.fsencode(images) + b"/caf\xe9s"
    os.mkdir(strange)
    for index in range(2):
        os.rename(toy.picture(images / "new.png", 5000 + index), strange + b"/\xff%d\x1b[31m.png" % index)
    toy.run(images, store)
    toy.picture(images / "dogs/001.png", 6000)
    shutil.copy(images / "dogs/002.png", images / "dogs/a\\copy.png")
    toy.run(images, store, validation_fraction=0.5)
    return store
