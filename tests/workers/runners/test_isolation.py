"""Some images end the process that extracts them (tests/hostile.py); only those images are lost.

A few tests let real children hang, crash and fill memory. In the others, the job runs in this process, and an image
ends it where it would end a child.
"""

import hashlib
import json
import mmap
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storage.maintenance.quarantine import release, without_variants
from storage.manifest.space import create_space
from storage.manifest.versions import commit
from storage.planning.chunks import pack
from storage.planning.plan import finish
from storage.shards.shard import Shard, ShardRef
from tests import hostile, toy
from workers.children.in_flight import InFlight, Stage
from workers.children.watchdog import Limits, own_memory_mb
from workers.devices import Slot
from workers.errors import WorkerDied
from workers.jobs import extract, files
from workers.jobs.perform import perform
from workers.jobs.records import ChunkResult, ChunksJob
from workers.runners import local as worker_pool
from workers.runners.base import NO_LIMITS, Lease, Runner
from workers.runners.isolation import Isolation
from workers.runners.local import LocalRunner

PROJECT = Path(__file__).parents[3]
CODES = {"hang": "timeout", "crash": "crashed", "fill": "crashed"}
# Only a hang ends by the time limit of its stage: on a busy machine, any other stage may take seconds.
STAGES = {"read": 120.0, "decode": 120.0, "infer": 120.0}
LIMITS = Limits(300.0, memory_mb=600.0, stage_seconds=STAGES)


def impatient(seconds: float, *stages: str) -> Limits:
    """The limits with a shorter time for some stages."""
    return replace(LIMITS, stage_seconds=STAGES | dict.fromkeys(stages, seconds))


class Death(BaseException):
    """Raised where a child would die. Nothing in the job handles it."""


class Mortal(Lease):
    """A lease without a child. Each job after a death has a fresh engine, as in a new child.

    code: of each death, as the watchdog would give it.
    """

    def __init__(self, code: str = "crashed"):
        super().__init__(Slot(None, 1))
        self.code = code
        self._notes = InFlight.create()
        self._suspects: dict[bytes, Stage] = {}
        self._engine: hostile.HostileEngine | None = None

    def call(self, kind, job, on_progress, limits=NO_LIMITS):
        self._notes.clear()
        self._engine = self._engine or hostile.HostileEngine()
        try:
            return perform(kind, json.loads(json.dumps(job)), on_progress, self._notes)
        except Death:
            self._engine = None
            raise WorkerDied("ended with status -11", self.code) from None

    def die(self, *_) -> None:
        """End the job with what is in flight now."""
        self._suspects = self._notes.suspects()
        raise Death

    def in_flight(self) -> dict[bytes, Stage]:
        return self._suspects

    def stop(self) -> None:
        pass


@pytest.fixture
def mortal(monkeypatch) -> Mortal:
    made = Mortal()
    monkeypatch.setattr("vision.engines.load_engine", lambda *given: made._engine)
    monkeypatch.setattr("vision.engines.extract.decode", hostile.obedient)
    monkeypatch.setattr(hostile, "do", lambda deed: made.die() if deed in hostile.DEEDS else None)
    return made


@pytest.fixture
def inline(mortal: Mortal) -> Runner:
    """A runner whose jobs run in this process, and die there."""
    return Runner([mortal])


@pytest.fixture
def workers(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_pool, "CHILD", hostile.CHILD)
    made = LocalRunner((Slot(None, 1),), tmp_path / "logs")
    yield made
    made.close()


class Extraction:
    """All chunks of a folder as one job, which runs in children of `workers`."""

    def __init__(self, images: Path, store: Path, workers: Runner, **options):
        self.space = toy.space(images, store)
        self.plan = toy.plan(images, store, **options)
        create_space(self.space.store, toy.SPEC.record())
        sizes = 0, self.plan.num_chunks, 8, "parquet"
        augmentation = self.plan.augmentation
        self.job = ChunksJob(
            self.space, pack(self.plan.todo), *sizes, threads=1, engine="toy", augmentation=augmentation
        )
        self.heard: list[dict] = []
        self._workers = workers

    def run(self, limits: Limits = LIMITS) -> list[ChunkResult]:
        with self._workers.lease() as worker:
            return Isolation(worker, self.job, self.heard.append, limits).run()

    def shards(self, results: list[ChunkResult]) -> list[Shard]:
        refs = [ShardRef(each.shard, each.size_bytes, each.rows, each.footer_checksum) for each in results]
        return [Shard(self.space.store, ref) for ref in refs]


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@pytest.mark.parametrize(("stage", "deed"), [("decode", "crash"), ("decode", "hang"), ("infer", "fill")])
def test_an_image_that_ends_its_child_costs_its_own_row_and_no_other(deed, stage, images, store, workers):
    bad = digest(hostile.spoil(images / "cats" / "004.png", stage, deed))
    extraction = Extraction(images, store, workers)
    results = extraction.run(impatient(2.0, stage) if deed == "hang" else LIMITS)
    assert [(each.images, each.skipped) for each in results] == [(8, {}), (8, {}), (4, {})]
    assert sum(each.rows for each in results) == 19
    shards = extraction.shards(results)
    assert {key: code for shard in shards for key, code in shard.errors().items()} == {bad: CODES[deed]}
    rows = [key for shard in shards for key in shard.digests()]
    assert sorted([*rows, bad]) == sorted(extraction.plan.todo["digest"].to_pylist())


def test_the_rows_of_its_neighbours_are_those_of_a_run_in_which_nobody_died(images, store, inline, tmp_path):
    bad = digest(hostile.spoil(images / "dogs" / "001.png", "infer", "crash"))
    extraction = Extraction(images, store, inline)
    found = {}
    for shard in extraction.shards(extraction.run()):
        found |= dict(zip(shard.digests(), shard.read(), strict=True))
    _, version = toy.run(images, tmp_path / "other")
    expected = toy.features_of(images, tmp_path / "other", version)
    expected.pop(bad)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in found)


@pytest.mark.slow
def test_many_such_images_cost_their_rows_each_by_its_own_code(images, store, workers):
    bad = {}
    for index, (stage, deed) in enumerate([(stage, deed) for stage in ("decode", "infer") for deed in hostile.DEEDS]):
        bad[digest(hostile.spoil(images / "cats" / f"{index:03d}.png", stage, deed))] = CODES[deed]
    extraction = Extraction(images, store, workers)
    results = extraction.run(impatient(15.0, "decode", "infer"))
    named = {key: code for shard in extraction.shards(results) for key, code in shard.errors().items()}
    assert (named, sum(each.rows for each in results)) == (bad, 14)


def test_chunks_that_were_finished_before_a_death_are_not_extracted_again(images, store, inline):
    extraction = Extraction(images, store, inline)
    last = Path(os.fsdecode(extraction.plan.todo["path"][-1].as_py()))
    hostile.spoil(images / last, "infer", "crash")
    extraction = Extraction(images, store, inline)
    # The new digest of the spoiled image decides which chunk it is in.
    (bad,) = [i for i, row in enumerate(extraction.plan.todo.to_pylist()) if row["path"] == os.fsencode(last)]
    extraction.run()
    first_of = [record["chunk"] for record in extraction.heard]
    # The chunk before the bad one is left out, because it may not be written yet when the child dies.
    assert [first_of.count(index) for index in range(bad // 8 - 1)] == [1] * (bad // 8 - 1)


def test_an_image_that_kills_only_in_company_has_its_row(images, store, inline):
    hostile.spoil(images / "cats" / "000.png", "infer", hostile.IN_COMPANY)
    extraction = Extraction(images, store, inline)
    rows = [key for shard in extraction.shards(extraction.run()) for key in shard.digests()]
    assert sorted(rows) == sorted(extraction.plan.todo["digest"].to_pylist())


def test_an_image_that_kills_only_a_child_that_has_seen_others_is_not_condemned_and_the_death_is_told(
    images, store, inline
):
    bad = digest(hostile.spoil(images / "cats" / "000.png", "infer", hostile.AFTER_OTHERS))
    extraction = Extraction(images, store, inline)
    assert extraction.plan.todo["digest"].to_pylist().index(bad) % 8  # it comes after other images of its chunk
    with pytest.raises(WorkerDied, match="ended with status -11"):
        extraction.run()


def test_a_death_of_which_no_image_is_guilty_costs_no_row(images, store, mortal, inline):
    """Somebody kills the child twice in the middle of its work."""
    extraction = Extraction(images, store, inline)
    left = [2]

    def kill(record: dict) -> None:
        if left[0] and record.get("done"):
            left[0] -= 1
            mortal.die()

    extraction.heard = type("Killer", (), {"append": staticmethod(kill)})()
    results = extraction.run()
    assert left == [0]
    assert sum(each.rows for each in results) == 20
    assert all(each.quarantined == 0 for each in results)


@pytest.mark.parametrize("runner", ["inline", pytest.param("workers", marks=pytest.mark.slow)])
def test_a_file_that_never_comes_stays_pending_and_is_blamed_for_nothing(
    images, store, mortal, monkeypatch, request, runner
):
    extraction = Extraction(images, store, request.getfixturevalue(runner))
    path = images / os.fsdecode(extraction.plan.todo["path"][3].as_py())
    if runner == "inline":
        mortal.code = "timeout"
        whole = files.read_file

        def read(root, name):
            return mortal.die() if name == os.fsencode(path.relative_to(images)) else whole(root, name)

        monkeypatch.setattr(files, "read_file", read)
    else:
        monkeypatch.setattr(worker_pool, "CHILD", (hostile.CHILD[0], "-c", never_reading(path)))
    results = extraction.run(impatient(3.0, "read"))
    assert results[0].skipped == {"read_error": 1}
    assert (sum(each.rows for each in results), sum(each.quarantined for each in results)) == (19, 0)


def never_reading(path: Path) -> str:
    """The code of a child for which this file never comes."""
    return f"""
import sys; sys.path.insert(0, {str(Path(hostile.__file__).parents[1])!r})
import time, workers.jobs.files
whole = workers.jobs.files.read_file
workers.jobs.files.read_file = lambda root, path: time.sleep(3600) if path.endswith({os.fsencode(path.name)!r}) and {path.parent.name!r}.encode() in path else whole(root, path)
from tests import hostile
hostile.main()
"""


def test_condemned_images_are_quarantined_and_not_tried_again_until_somebody_asks(images, store, inline):
    hostile.spoil(images / "cats" / "004.png", "decode", "crash")
    extraction = Extraction(images, store, inline)
    refs = [shard.ref for shard in extraction.shards(extraction.run())]
    version = commit(extraction.space.store, None, *finish(extraction.space.store, extraction.plan, refs))
    assert (version.counts["ok"], version.counts["quarantined"]) == (19, 1)
    (row,) = [row for row in version.read_files(extraction.space.store).to_pylist() if row["status"] == "quarantined"]
    assert (row["path"], row["reason"], row["attempts"]) == (b"cats/004.png", "crashed", 1)
    assert toy.plan(images, store).todo.num_rows == 0


# In-flight notes and limits


def test_what_is_in_hand_is_read_by_another_process_and_outlives_its_writer():
    notes = InFlight.create()
    keys = [bytes([number]) * 32 for number in range(5)]
    code = f"""
import os
from workers.children.in_flight import InFlight, Stage
mine, keys = InFlight({notes.descriptor}), {keys!r}
mine.reading(keys[0])
mine.decoding(keys[1])
mine.inferring(keys[2:])
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, pass_fds=(notes.descriptor,))
    assert done.returncode == -9
    assert notes.suspects() == {keys[1]: "decode"} | dict.fromkeys(keys[2:], "infer")
    assert set(notes.seconds()) == {"decode", "infer"}
    notes.decoded()
    notes.inferred()
    assert (notes.suspects(), notes.seconds()) == ({}, {})


def test_a_batch_of_any_size_is_noted_as_far_as_there_is_room():
    notes = InFlight.create()
    notes.inferring([index.to_bytes(32, "big") for index in range(5000)])
    assert len(notes.suspects()) == 1024


def test_memory_is_what_a_process_has_filled_not_what_it_has_asked_for():
    before = own_memory_mb(os.getpid())
    asked = np.empty(300 * 2**20, np.uint8)
    assert own_memory_mb(os.getpid()) - before < 100
    asked.fill(1)
    assert own_memory_mb(os.getpid()) - before > 200
    with mmap.mmap(-1, 300 * 2**20) as shared:
        before = own_memory_mb(os.getpid())
        shared.write(bytes(len(shared)))
        assert own_memory_mb(os.getpid()) - before > 200
    assert own_memory_mb(2**22 + 1) == 0


def test_a_job_with_condemned_images_goes_through_a_pipe_whole(images, store):
    job = Extraction(images, store, None).job
    with_some = ChunksJob.of(
        json.loads(json.dumps(job.record())) | {"condemned": {"ab" * 32: "timeout"}, "alone": None}
    )
    assert with_some.condemned == {"ab" * 32: "timeout"}
    assert with_some.space == job.space


@pytest.mark.parametrize("order", ["plain rows first", "all at once"])
def test_an_image_of_which_only_the_variants_crash_keeps_its_plain_row(
    order, images, store, mortal, inline, monkeypatch
):
    (row, *_) = [row for row in toy.plan(images, store).todo.to_pylist() if row["split"] == "train"]

    class Variants:
        def __init__(self, *given):
            pass

        def views(self, pixels, key, numbers):
            if any(numbers) and key == row["digest"]:
                mortal.die()
            return np.stack([pixels + np.uint8(number) for number in numbers])

    monkeypatch.setattr(extract, "Variants", Variants)
    options = {"variants": 3, "augmentation": "a text"}
    if order == "plain rows first":
        toy.run(images, store)
    extraction = Extraction(images, store, inline, **options)
    refs = [shard.ref for shard in extraction.shards(extraction.run())]
    version = commit(
        extraction.space.store, extraction.plan.parent, *finish(extraction.space.store, extraction.plan, refs)
    )
    assert (version.counts["ok"], version.counts["quarantined"]) == (20, 0)
    (told,) = without_variants(version, extraction.space.store).to_pylist()
    assert (told["path"], told["reason"], told["attempts"]) == (row["path"], "crashed", 1)
    planned = toy.plan(images, store, **options)
    assert (planned.todo.num_rows, planned.needs_commit) == (0, False)
    release(extraction.space.store, version)
    assert toy.plan(images, store, **options).todo.select(["digest", "views"]).to_pylist() == [
        {"digest": row["digest"], "views": [1, 2]}
    ]


class Company(Lease):
    """A lease whose child dies of one image: always of its variants, and of its plain row only in company."""

    def __init__(self, culprit: bytes):
        super().__init__(Slot(None, 1))
        self.culprit = culprit
        self.calls: list[str] = []

    def call(self, kind, job, on_progress, limits=LIMITS):
        self.calls.append(kind)
        assert len(self.calls) < 20, "it goes on for ever"
        key = self.culprit.hex()
        if key in job["condemned"] or (key in job["plain_only"] and (kind == "trial" or key in job["apart"])):
            for _ in range(job["count"] if kind == "chunks" else 0):
                on_progress({"finished": {**FINISHED, "quarantined": key in job["condemned"]}})
            return None
        raise WorkerDied("it died")

    def in_flight(self):
        return {self.culprit: "infer"}

    def stop(self):
        pass


FINISHED = {
    **dict.fromkeys(("shard", "footer_checksum", "engine"), ""),
    **dict.fromkeys(("size_bytes", "rows", "images", "started", "ended", "peak_rss_mb"), 0),
    **{"skipped": {}, "seconds": {}, "fallback": None},
}


def test_an_image_that_ends_a_child_by_its_variants_and_by_its_company_is_extracted_plain_and_apart(images, store):
    extraction = Extraction(images, store, None, variants=2, augmentation="a text")
    (row, *_) = [row for row in extraction.plan.todo.to_pylist() if row["split"] == "train"]
    worker = Company(row["digest"])
    results = Isolation(worker, extraction.job, lambda _: None, LIMITS).run()
    assert len(results) == extraction.plan.num_chunks
    assert not any(result.quarantined for result in results)
