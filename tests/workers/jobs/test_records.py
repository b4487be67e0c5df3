import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pytest

from storage.planning.chunks import pack, unpack
from storage.schemas import TODO_SCHEMA
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
ROWS = pa.Table.from_pylist(
    [
        {
            "digest": bytes([index]) * 32,
            "path": b"cats/\xff\n%d.jpg" % index,  # any bytes that a file name may have
            "split": "train",
            "views": [0, 1, 2],
            "twins": [b"dogs/%d.jpg" % index] * index,
        }
        for index in range(5)
    ],
    TODO_SCHEMA,
)
JOBS = [
    ChunksJob(SPACE, pack(ROWS), 3, 3, 2, "npz", threads=1, engine="mnn"),
    HeadJob(SPACE, 7, "a" * 32, HeadSpec(("dog", "cat"), epochs=2, learning_rate=0.1), seed=5),
]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: type(job).__name__)
def test_a_job_that_went_through_json_is_the_same_job(job):
    assert type(job).of(json.loads(json.dumps(job.record()))) == job


def test_a_job_of_chunks_carries_the_rows_of_its_own_chunks_and_needs_no_file():
    job = ChunksJob.of(json.loads(json.dumps(JOBS[0].record())))
    assert job.todo.equals(ROWS)
    assert [job.chunk(index) for index in (3, 4, 5)] == [ROWS[:2], ROWS[2:4], ROWS[4:]]


@pytest.mark.parametrize("done", [0, 1, 2])
def test_the_rest_of_a_job_has_the_same_chunks_and_none_that_are_done(done):
    rest = JOBS[0].rest(done)
    assert (rest.start, rest.count, rest.todo.num_rows) == (3 + done, 3 - done, 5 - 2 * done)
    assert all(rest.chunk(index) == JOBS[0].chunk(index) for index in range(3 + done, 6))


def test_a_chunk_of_a_large_plan_is_packed_without_the_others():
    many = pa.concat_tables([ROWS] * 1000)
    assert len(pack(many.slice(2000, 5))) < len(pack(ROWS)) + 100


@pytest.mark.parametrize("packed", ["", "no base64!", "AAAA", pack(ROWS)[:100]])
def test_rows_that_were_cut_or_are_something_else_are_an_error_of_the_program(packed):
    with pytest.raises((ValueError, OSError)):
        unpack(packed)


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
