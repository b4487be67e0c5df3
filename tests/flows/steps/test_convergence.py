"""Images that arrive while a run works are in the version that it ends with."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.console.outcome import Outcome
from flows.steps import convergence as rounds
from flows.steps.convergence import ROUNDS, at_rest, until_current
from storage.layout import Store
from storage.manifest.versions import latest_version, version_numbers
from tests import toy
from tests.flows.conftest import TINY
from workers.jobs.records import ScanRecord

NOTHING = Outcome(
    **dict.fromkeys(
        ("images", "classes", "new", "changed", "moved", "relabelled", "removed", "unchanged", "pending", "ignored"), 0
    ),
    **dict.fromkeys(("quarantined", "extracted", "extracted_views", "adopted", "shards_written"), 0),
    version=1,
    fingerprint="",
    extract_seconds=None,
    extract_images_per_second=None,
)


def scan(digest: str, is_settled: bool = True) -> ScanRecord:
    return ScanRecord("", digest, 0, 0, is_settled)


def work_on(digests: list[str], outcomes: list[Outcome] | None = None):
    """Work that sees one digest after the other; and what it has worked on."""
    worked_on: list[str] = []

    def work():
        worked_on.append(digests[len(worked_on)])
        return (outcomes[len(worked_on) - 1] if outcomes else NOTHING), worked_on[-1]

    return work, worked_on


def test_nothing_new_ends_it_after_one_round():
    work, worked_on = work_on(["a"])
    until_current(work, lambda: scan("a"), lambda line: None)
    assert worked_on == ["a"]


def test_a_scan_that_fails_ends_it():
    work, worked_on = work_on(["a"])
    until_current(work, lambda: None, lambda line: None)
    assert worked_on == ["a"]


def test_images_that_never_stop_arriving_do_not_keep_a_run_for_ever():
    work, worked_on = work_on([str(number) for number in range(100)])
    until_current(work, lambda: scan(f"{worked_on[-1]} and one"), lambda line: None)
    assert len(worked_on) == ROUNDS


def test_a_round_begins_once_the_images_have_come_to_rest_or_after_a_while(monkeypatch):
    monkeypatch.setattr(rounds, "PAUSE_SECONDS", 0)
    work, worked_on = work_on(["a", "d"])
    seen = iter([scan("b", False), scan("c", False), scan("d"), scan("d")])
    until_current(work, lambda: next(seen), lambda line: None)
    assert worked_on == ["a", "d"]
    assert next(seen, None) is None

    work, worked_on = work_on([str(number) for number in range(100)])
    until_current(work, lambda: scan("never at rest", False), lambda line: None)
    assert len(worked_on) == ROUNDS


def test_a_deployed_run_waits_for_files_that_are_being_copied_but_not_for_ever(monkeypatch):
    monkeypatch.setattr(rounds, "PAUSE_SECONDS", 0)
    seen = iter([scan("a", False), scan("b", False), scan("c"), scan("d")])
    assert at_rest(lambda: next(seen)) == scan("c")
    looks = iter(range(1000))
    assert not at_rest(lambda: scan(str(next(looks)), False)).is_settled
    assert next(looks) < 100


def test_what_goes_as_it_came_needs_no_round(monkeypatch):
    monkeypatch.setattr(rounds, "PAUSE_SECONDS", 0)
    work, worked_on = work_on(["a"])
    seen = iter([scan("a and a half-written one", False), scan("a")])
    until_current(work, lambda: next(seen), lambda line: None)
    assert worked_on == ["a"]


def test_the_outcome_is_that_of_all_rounds_together():
    first = replace(NOTHING, images=60, new=60, extracted=60, extracted_views=60, extract_seconds=3.0)
    first = replace(first, engine="mnn", peak_rss_mb=700.0)
    second = replace(NOTHING, images=62, new=2, unchanged=60, version=2, head="b", engine="mnn", peak_rss_mb=650.0)
    second = replace(second, extracted=3, extracted_views=12, extract_seconds=1.5)
    third = replace(NOTHING, images=61, removed=1, unchanged=61, version=3, head="c")
    work, _ = work_on(["a", "b", "c"], [first, second, third])
    seen = iter([scan("b"), scan("c"), scan("c")])
    outcome = until_current(work, lambda: next(seen), lambda line: None)
    assert (outcome.images, outcome.new, outcome.removed, outcome.unchanged, outcome.extracted) == (61, 62, 1, 0, 63)
    assert outcome.extracted_views == 72
    assert (outcome.version, outcome.head, outcome.engine, outcome.peak_rss_mb) == (3, "c", "mnn", 700.0)
    assert (outcome.extract_seconds, outcome.extract_images_per_second) == (4.5, 16.0)


@pytest.fixture
def arriving(monkeypatch, tmp_path):
    """Let an image arrive in a folder when the first head of a run is about to be trained."""
    from flows import pipeline

    new, train = toy.picture(tmp_path / "new.png", 9000), pipeline.train

    def arrive_in(images: Path) -> None:
        def trained(*given):
            if new.exists():
                new.rename(images / "cats" / "new.png")
            return train(*given)

        monkeypatch.setattr(pipeline, "train", trained)

    return arrive_in


@pytest.mark.slow
def test_an_image_that_arrives_while_the_head_is_trained_is_in_the_version_and_head_that_the_run_ends_with(
    pipeline, arriving, tmp_path
):
    images, store = toy.pictures(tmp_path / "images", per_class=20), tmp_path / "store"
    arriving(images)
    done = pipeline("--images", images, "--store", store, *TINY, "--epochs", "3")
    assert done.status == 0, done.stderr
    where = Store(store, done.record["fingerprint"])
    assert version_numbers(where) == [1, 2]
    assert b"cats/new.png" in latest_version(where).read_files(where)["path"].to_pylist()
    assert (done.record["images"], done.record["new"], done.record["version"]) == (41, 41, 2)
    assert sum(1 for head in store.glob("heads/*/head.json")) == 2
    assert (store / "heads" / "current").read_text().strip() == done.record["head"] or not done.record["promoted"]


@pytest.mark.slow
def test_a_limited_run_leaves_what_arrives_to_the_next(pipeline, arriving, tmp_path):
    images, store = toy.pictures(tmp_path / "images", per_class=20), tmp_path / "store"
    arriving(images)
    done = pipeline("--images", images, "--store", store, *TINY, "--epochs", "3", "--limit", "40")
    assert (images / "cats" / "new.png").exists()
    assert done.record["version"] == 1
