import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.console.messages import lost
from storage.manifest.space import create_space
from storage.planning.adoption import intact_shards
from storage.planning.chunks import pack
from storage.planning.plan import Plan, finish
from storage.shards.inventory import unlisted_shards
from storage.shards.shard import Shard, ShardRef
from tests import toy
from vision.engines.extract import NoTracker
from workers.jobs.extract import process_chunks, try_alone
from workers.jobs.records import ChunkResult, ChunksJob, Space

TURN = '{"rotation_range":20.0}'


@pytest.fixture
def job(images, store) -> ChunksJob:
    """The first chunk of a plan: eight of twenty images."""
    where = toy.space(images, store)
    planned = toy.plan(images, store)
    create_space(where.store, toy.SPEC.record())
    return chunk_of(planned, where, 0)


def chunk_of(planned: Plan, where: Space, start: int, count: int = 1) -> ChunksJob:
    rows = pack(planned.todo.slice(start * planned.chunk_size, count * planned.chunk_size))
    sizes = start, count, planned.chunk_size, planned.format
    return ChunksJob(where, rows, *sizes, threads=1, engine="toy", augmentation=planned.augmentation)


def todo(job: ChunksJob) -> list[dict]:
    return job.chunk(job.start).to_pylist()


def path_of(job: ChunksJob, index: int) -> Path:
    return Path(job.space.images) / os.fsdecode(todo(job)[index]["path"])


def process(job: ChunksJob, report=lambda record: None) -> tuple[ChunkResult, Shard]:
    (result,) = process_chunks(job, toy.ToyEngine(), report)
    return result, Shard(
        job.space.store, ShardRef(result.shard, result.size_bytes, result.rows, result.footer_checksum)
    )


def test_a_chunk_becomes_one_shard_with_a_row_an_image(job):
    result, shard = process(job)
    assert (result.images, result.rows, result.quarantined, result.skipped) == (8, 8, 0, {})
    assert shard.digests() == [row["digest"] for row in todo(job)]
    assert shard.read().shape == (8, 1, 1, 512)


def test_a_shard_says_how_its_rows_were_made(job):
    metadata = process(job)[1].metadata
    assert metadata["fingerprint"] == job.space.fingerprint
    assert metadata["engine"] == "toy 1"
    assert (metadata["batch_size"], metadata["threads"]) == ("8", "1")


def test_the_same_chunk_twice_gives_the_same_shard(job):
    first, again = process(job)[0], process(job)[0]
    assert (first.shard, first.size_bytes, first.footer_checksum) == (
        again.shard,
        again.size_bytes,
        again.footer_checksum,
    )
    assert len(list(job.space.store.shards.glob("*/*"))) == 1


def test_a_file_that_changed_after_it_was_listed_has_no_row(job):
    toy.picture(path_of(job, 2), seed=999)
    result, shard = process(job)
    assert (result.images, result.rows, result.skipped, result.quarantined) == (8, 7, {"changed": 1}, 0)
    assert shard.digests() == [row["digest"] for index, row in enumerate(todo(job)) if index != 2]
    assert shard.errors() == {}


def test_a_file_that_vanished_after_it_was_listed_has_no_row(job):
    path_of(job, 0).unlink()
    path_of(job, 5).unlink()
    result, shard = process(job)
    assert (result.rows, result.skipped, result.quarantined) == (6, {"vanished": 2}, 0)
    assert shard.errors() == {}


def test_a_name_that_became_a_folder_is_skipped(job):
    path_of(job, 1).unlink()
    path_of(job, 1).mkdir()
    assert process(job)[0].skipped == {"read_error": 1}


def test_bytes_that_changed_into_no_image_are_not_blamed_on_the_listed_digest(job):
    path_of(job, 4).write_bytes(b"no image")
    result, shard = process(job)
    assert (result.skipped, result.quarantined) == ({"changed": 1}, 0)
    assert shard.errors() == {}


@pytest.mark.parametrize(
    ("content", "code"), [(b"no image", "not_image"), (b"", "zero_byte"), (b"\x89PNG\r\n\x1a\n", "decode_error")]
)
def test_a_file_that_never_was_an_image_is_named_in_the_shard_and_costs_its_row_only(
    content, code, images, store, caplog
):
    (images / "cats" / "bad.png").write_bytes(content)
    planned = toy.plan(images, store, chunk_size=100)
    where = toy.space(images, store)
    create_space(where.store, toy.SPEC.record())
    result, shard = process(chunk_of(planned, where, 0))
    assert (result.images, result.rows, result.quarantined, result.skipped) == (21, 20, 1, {})
    assert list(shard.errors().values()) == [code]
    assert set(shard.errors()).isdisjoint(shard.digests())
    assert f"cats/bad.png has no features ({code}): " in caplog.text


def test_a_chunk_of_which_nothing_is_left_still_becomes_a_shard(job):
    for index in range(8):
        path_of(job, index).unlink()
    result, shard = process(job)
    assert (result.rows, result.skipped) == (0, {"vanished": 8})
    assert shard.read().shape == (0, 1, 1, 512)


def test_chunks_of_one_job_give_the_shards_that_they_give_alone(job, images, store):
    planned = toy.plan(images, store)
    together = process_chunks(chunk_of(planned, job.space, 0, 3), toy.ToyEngine(), lambda record: None)
    alone = [process(chunk_of(planned, job.space, index))[0] for index in range(3)]
    assert [result.shard for result in together] == [result.shard for result in alone]
    assert [result.images for result in together] == [8, 8, 4]


def test_a_chunk_that_cannot_be_extracted_costs_no_shard_that_came_before_it(job, images, store):
    def report(record):
        if record.get("chunk") == 1:
            raise RuntimeError("in the middle of the second")

    with pytest.raises(RuntimeError, match="in the middle"):
        process_chunks(chunk_of(toy.plan(images, store), job.space, 0, 3), toy.ToyEngine(), report)
    (shard,) = intact_shards(job.space.store, unlisted_shards(job.space.store, {}), lambda shard: True)
    assert shard.num_rows == 8


def test_a_chunk_says_which_engine_made_it_and_why_that_stood_in(job):
    engine = toy.ToyEngine()
    engine.fallback = "tensorflow replaces another"
    (result,) = process_chunks(job, engine, lambda record: None)
    assert (result.engine, result.fallback) == ("toy 1", "tensorflow replaces another")


def test_progress_names_the_chunk_and_how_many_are_done(job):
    heard = []
    result, _ = process(job, heard.append)
    assert heard == [{"chunk": 0, "done": 8}, {"finished": asdict(result)}]


def test_a_chunk_knows_when_it_began_and_ended_and_where_the_time_went(job):
    result, _ = process(job)
    assert result.started <= result.ended
    assert set(result.seconds) == {"read", "decode", "infer", "write"}
    assert result.peak_rss_mb > 1


def test_images_that_were_skipped_stay_pending_in_the_version(images, store):
    planned = toy.plan(images, store)
    gone = images / "cats" / "000.png"
    gone.unlink()
    where = toy.space(images, store).store
    files, *_ = finish(where, planned, toy.extract(images, store, planned))
    status = {os.fsdecode(row["path"]): row["status"] for row in files.to_pylist()}
    assert status.pop("cats/000.png") == "pending"
    assert set(status.values()) == {"ok"}


def test_a_chunk_with_variants_counts_images_and_has_a_row_a_view(images, store, monkeypatch):
    toy.without_keras(monkeypatch)
    (images / "cats" / "bad.png").write_bytes(b"no image")
    planned = toy.plan(images, store, variants=3, augmentation=TURN, validation_fraction=0.0, chunk_size=30)
    where = toy.space(images, store)
    create_space(where.store, toy.SPEC.record())
    heard = []
    result, shard = process(chunk_of(planned, where, 0), heard.append)
    assert (result.images, result.rows, result.quarantined) == (21, 60, 1)
    assert heard[-2] == {"chunk": 0, "done": 21}
    assert (shard.augmentation, len(shard.errors())) == (TURN, 1)
    assert shard.views().tolist() == [view for view in range(3) for _ in range(20)]


def test_what_is_tried_alone_is_the_image_with_all_of_its_views(images, store, monkeypatch):
    toy.without_keras(monkeypatch)
    planned = toy.plan(images, store, variants=3, augmentation=TURN, validation_fraction=0.0)
    digest = planned.todo["digest"][3].as_py()
    seen = []

    class Watching(toy.ToyEngine):
        def features(self, pixels):
            seen.append(len(pixels))
            return super().features(pixels)

    job = chunk_of(planned, toy.space(images, store), 0, planned.num_chunks)
    assert try_alone(replace(job, alone=digest.hex()), Watching(), NoTracker()) is None
    assert seen == [3]


def test_what_is_lost_of_pictures_is_counted_with_an_example(job, images, store):
    for index in range(3):
        deep = np.random.default_rng(index).integers(0, 65_536, (9, 9), np.uint16)
        Image.fromarray(deep).save(images / "cats" / f"deep-{index}.png")
    planned = toy.plan(images, store, chunk_size=100)
    (result,) = process_chunks(chunk_of(planned, job.space, 0), toy.ToyEngine(), print)
    assert result.losses == {"sixteen_bit": 3}
    assert result.lossy["sixteen_bit"].startswith("cats/deep-")
    (line,) = lost([result, result])
    assert line.startswith("warning: 6 images with 16-bit greys, for example 'cats/deep-")
    assert "--sixteen-bit scale" in line
