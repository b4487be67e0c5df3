"""What a run does when another one commits before it: a real store, and a rival that is always a moment earlier."""

import pytest

from flows.steps.convergence import TRIES, until_committed
from storage.errors import VersionConflict
from storage.manifest.versions import commit, latest_version
from storage.planning.plan import finish
from tests import toy


def test_a_run_whose_commit_came_second_builds_on_the_first(images, store):
    where, rivals = toy.space(images, store).store, ["cats/rival 1.png", "dogs/rival 2.png"]
    said: list[str] = []

    def work():
        planned = toy.plan(images, store)
        refs = toy.extract(images, store, planned)
        if rivals:  # commits on the same parent, with one image more
            toy.picture(images / rivals[-1], seed=len(rivals) + 5000)
            rivals.pop()
            toy.run(images, store)
        return commit(where, planned.parent, *finish(where, planned, refs))

    version = until_committed(work, said.append)
    assert version == latest_version(where)
    assert version.counts == {"images": 22, "ok": 22, "pending": 0, "quarantined": 0}
    assert [line.partition(";")[0] for line in said] == [
        "another run committed version 1 first",
        "another run committed version 2 first",
    ]


def test_a_run_that_always_comes_second_gives_up_with_the_conflict():
    tried: list[int] = []

    def work():
        tried.append(1)
        raise VersionConflict("another run committed version 1 first")

    with pytest.raises(VersionConflict):
        until_committed(work, lambda line: None)
    assert len(tried) == TRIES
