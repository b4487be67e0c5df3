import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.planning.chunks import IMAGES_A_BATCH, IMAGES_A_LAST_CHUNK, MAX_IMAGES, MIN_CHUNKS, automatic_size, cut
from storage.planning.options import PlanOptions
from storage.shards.shard import MAX_ROWS
from storage.shards.view_ids import MOST_VARIANTS
from tests import toy
from vision.engines.mnn_engine import TILES_AT_A_TIME
from vision.engines.tensorflow_engine import batch_size_for


def pieces_of(num_images: int) -> list[pa.Table]:
    todo, cut_there = pa.table({"image": range(num_images)}), cut(num_images)
    return [cut_there.rows(todo, index, 1) for index in range(cut_there.num_chunks(num_images))]


def test_every_image_lands_in_exactly_one_chunk_of_whole_batches():
    for num_images in (*range(0, 2_000), *range(2_000, 30_000, 997)):
        pieces, size = pieces_of(num_images), automatic_size(num_images)
        assert [value for piece in pieces for value in piece["image"].to_pylist()] == list(range(num_images))
        sizes = [piece.num_rows for piece in pieces]
        full = sizes.count(size)
        assert sizes[:full] == [size] * full
        assert all(rows == IMAGES_A_LAST_CHUNK for rows in sizes[full:-1])
        assert not sizes or 0 < sizes[-1] <= IMAGES_A_LAST_CHUNK
        assert size % IMAGES_A_BATCH == 0
        assert size <= MAX_IMAGES
        assert len(sizes) >= MIN_CHUNKS or num_images < MIN_CHUNKS * IMAGES_A_BATCH


@pytest.mark.parametrize(("children", "largest_wait"), [(1, 0), (2, 16), (3, 16), (4, 80)])
def test_equally_fast_children_end_within_a_small_chunk_of_each_other(children, largest_wait):
    for num_images in range(1, 12_000, 7):
        where, done = cut(num_images), [0] * children
        for index in range(where.num_chunks(num_images)):
            done[done.index(min(done))] += min(where.start(index + 1), num_images) - where.start(index)
        assert max(done) - min(done) <= largest_wait


@given(st.integers(0, 3_000), st.none() | st.integers(1, 300), st.data())
def test_a_job_of_any_chunks_has_the_rows_that_the_plan_has_there(num_images, size, data):
    whole, where = pa.table({"image": range(num_images)}), cut(num_images, size)
    count = where.num_chunks(num_images)
    start = data.draw(st.integers(0, count))
    length = data.draw(st.integers(0, count - start))
    job = where.rows(whole, start, length)
    for index in range(start, start + length):
        assert where.rows(job, index, 1, start) == where.rows(whole, index, 1)


def test_a_chunk_is_whole_batches_of_every_engine_at_the_usual_size():
    for batch_size in (*TILES_AT_A_TIME, batch_size_for(224)):
        assert IMAGES_A_BATCH % batch_size == 0
    assert IMAGES_A_LAST_CHUNK % batch_size_for(224) == 0


def test_a_chunk_of_automatic_size_never_has_more_rows_than_a_shard():
    assert automatic_size(10**9) * (MOST_VARIANTS + 1) <= MAX_ROWS
    PlanOptions(variants=MOST_VARIANTS + 1, augmentation="any")


def test_a_plan_is_cut_by_its_number_of_images_unless_a_size_is_given(tmp_path):
    images = toy.pictures(tmp_path / "images", per_class=40)
    planned = toy.plan(images, tmp_path / "store", chunk_size=None)
    assert (planned.chunk_size, planned.full_chunks, planned.num_chunks) == (48, 0, 5)
    assert toy.plan(images, tmp_path / "store", chunk_size=None, limit=150).num_chunks == 5
    assert toy.plan(images, tmp_path / "store", chunk_size=7).num_chunks == 12
