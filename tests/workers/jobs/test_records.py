import dataclasses
import json
from pathlib import Path

import pytest

from vision.specs import FeatureSpec
from vision.training.head import HeadSpec
from workers.jobs.records import (
    ChunkResult,
    ChunksJob,
    HeadJob,
    HeadResult,
    ListingRecord,
    PlanRecord,
    ScanRecord,
    Space,
    VersionRecord,
)

SPACE = Space("/store", "/images", "f" * 32, FeatureSpec("0" * 32, image_size=64, pooling="avg"), "random")
JOBS = [
    ChunksJob(SPACE, "/store/cache/plans/1.plan", 3, 2, 256, "npz", threads=1, engine="mnn"),
    HeadJob(SPACE, 7, "a" * 32, HeadSpec(("dog", "cat"), epochs=2, learning_rate=0.1), seed=5),
]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: type(job).__name__)
def test_a_job_that_went_through_json_is_the_same_job(job):
    assert type(job).of(json.loads(json.dumps(job.record()))) == job


def test_the_index_order_of_the_classes_survives_the_way_to_the_child():
    job = HeadJob.of(json.loads(json.dumps(JOBS[1].record())))
    assert job.spec.classes == ("dog", "cat")


def test_the_store_of_a_space_lies_below_its_root_by_fingerprint():
    assert SPACE.store.space == Path("/store") / ("f" * 32)


@pytest.mark.parametrize(
    "kind", [Space, ScanRecord, ListingRecord, PlanRecord, VersionRecord, ChunksJob, ChunkResult, HeadJob, HeadResult]
)
def test_records_are_frozen(kind):
    record = object.__new__(kind)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, dataclasses.fields(kind)[0].name, "changed")
