"""The steps as plain functions, without Prefect's engine, when the image folder changes between them."""

from pathlib import Path

import pytest

from storage.errors import NoRoom
from storage.manifest.space import create_space
from storage.manifest.versions import latest_version
from storage.planning.chunks import pack
from storage.planning.options import PlanOptions
from storage.planning.plan_files import open_todo
from tasks.build_manifest import build_manifest
from tasks.extract_chunk import _key
from tasks.list_images import list_images
from tasks.plan_chunks import plan_chunks
from tasks.scan_images import scan_images
from tests import toy
from workers.jobs.extract import process_chunks
from workers.jobs.records import ChunkResult, ChunksJob, PlanRecord

TURN, FLIP = '{"rotation_range":20.0}', '{"horizontal_flip":true}'


@pytest.fixture
def space(images, store):
    made = toy.space(images, store)
    create_space(made.store, made.spec.record())
    return made


def planned(space) -> PlanRecord:
    scan = scan_images.fn(space, "auto", None)
    return plan_chunks.fn(space, list_images.fn(space, scan, False), PlanOptions(chunk_size=8))


def rows_of(plan: PlanRecord) -> str:
    return pack(open_todo(Path(plan.path)))


def extracted(plan: PlanRecord) -> list[ChunkResult]:
    job = ChunksJob(plan.space, rows_of(plan), 0, plan.num_chunks, plan.chunk_size, plan.format, 1, "toy")
    return process_chunks(job, toy.ToyEngine(), lambda _: None)


def test_a_listing_from_which_a_file_vanished_is_not_kept_as_whole(space, images):
    scan = scan_images.fn(space, "auto", None)
    (images / "cats" / "003.png").unlink()
    listing = list_images.fn(space, scan, False)
    assert (listing.images, listing.unreadable) == (19, 1)


def test_images_that_stay_out_of_reach_cost_no_version_a_run(space, images):
    plan = planned(space)
    away = images.rename(images.with_name("away"))  # a network share that fails for a moment
    first = build_manifest.fn(plan, extracted(plan))
    assert (first.number, first.counts["pending"]) == (1, 20)
    away.rename(images)
    for _ in range(2):
        plan = planned(space)
        away = images.rename(images.with_name("away"))
        again = build_manifest.fn(plan, extracted(plan))
        away.rename(images)
        assert again.number == 1
    plan = planned(space)
    done = build_manifest.fn(plan, extracted(plan))
    assert (done.number, done.counts["pending"]) == (2, 0)
    assert latest_version(space.store).number == 2


def test_a_plan_whose_features_will_not_fit_is_refused_by_the_flow_as_well(space, monkeypatch):
    monkeypatch.setattr("storage.planning.free_space.free_bytes", lambda root: 20 * space.kind.row_bytes)
    assert planned(space).images == 20
    monkeypatch.setattr("storage.planning.free_space.free_bytes", lambda root: 20 * space.kind.row_bytes - 1)
    with pytest.raises(NoRoom, match="20 images need about"):
        planned(space)


def test_chunks_of_other_views_or_another_augmentation_have_another_cache_key(space):
    scan = scan_images.fn(space, "auto", None)
    listing = list_images.fn(space, scan, False)

    def key(variants: int, augmentation: str) -> str:
        options = PlanOptions(chunk_size=8, variants=variants, augmentation=augmentation)
        return _key(plan_chunks.fn(space, listing, options), 0, 3, (), "toy", None)

    assert key(3, TURN) == key(3, TURN)
    assert key(1, TURN) == key(1, "")
    assert len({key(1, ""), key(2, TURN), key(3, TURN), key(3, FLIP)}) == 4


def test_a_plan_says_how_many_rows_its_images_will_have_and_what_the_job_needs(space, monkeypatch):
    toy.without_keras(monkeypatch)
    scan = scan_images.fn(space, "auto", None)
    options = PlanOptions(chunk_size=8, variants=3, augmentation=TURN, validation_fraction=0.0)
    plan = plan_chunks.fn(space, list_images.fn(space, scan, False), options)
    assert (plan.images, plan.rows, plan.augmentation) == (20, 60, TURN)
    job = ChunksJob(space, rows_of(plan), 0, 3, 8, plan.format, 1, "toy", augmentation=plan.augmentation)
    assert ChunksJob.of(job.record()) == job
    version = build_manifest.fn(plan, process_chunks(job, toy.ToyEngine(), lambda _: None))
    assert version.counts["ok"] == 20
    assert latest_version(space.store).augmentations == (TURN,)
