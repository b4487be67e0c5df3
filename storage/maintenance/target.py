"""Choose and lock the feature spaces that maintenance works on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from storage.backend.lock import hold
from storage.backend.paths import Place
from storage.layout import Store
from storage.manifest.select import chosen_spaces


@dataclass(frozen=True)
class Target:
    """The feature spaces of a store whose fingerprint begins with `space`, by default all.

    wait_seconds: how long to wait for another run on the store.
    """

    root: Place
    space: str = ""
    wait_seconds: float = 0.0

    def stores(self) -> list[Store]:
        """The feature spaces, at least one. Raises InputError if there is none."""
        return chosen_spaces(self.root, self.space)

    @contextmanager
    def held(self) -> Iterator[list[Store]]:
        """Hold the store's lock and yield the feature spaces. Raises InputError and StoreBusy."""
        found = self.stores()
        with hold(self.root, self.wait_seconds):
            yield found
