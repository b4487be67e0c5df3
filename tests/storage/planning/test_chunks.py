import pyarrow as pa

from storage.planning.chunks import IMAGES_A_BATCH, MAX_IMAGES, MIN_CHUNKS, automatic_size, chunk
from storage.planning.options import PlanOptions
from storage.shards.shard import MAX_ROWS
from storage.shards.view_ids import MOST_VARIANTS
from tests import toy
from vision.engines.mnn_engine import TILES_AT_A_TIME
from vision.engines.tensorflow_engine import batch_size_for


def test_work_of_any_size_is_cut_into_whole_batches_and_enough_pieces():
    for num_images in (*range(1, 1_000), *range(1_000, 5_001, 19)):
        size = automatic_size(num_images)
        todo = pa.table({"image": range(num_images)})
        pieces = [chunk(todo, index, size) for index in range(-(-num_images // size))]
        assert pa.concat_tables(pieces)["image"].to_pylist() == list(range(num_images))
        sizes = [piece.num_rows for piece in pieces]
        assert all(rows == size for rows in sizes[:-1])
        assert 0 < sizes[-1] <= size <= MAX_IMAGES
        assert size % IMAGES_A_BATCH == 0
        assert len(pieces) >= MIN_CHUNKS or num_images < MIN_CHUNKS * IMAGES_A_BATCH


def test_a_chunk_is_whole_batches_of_every_engine_at_the_usual_size():
    for batch_size in (*TILES_AT_A_TIME, batch_size_for(224)):
        assert IMAGES_A_BATCH % batch_size == 0


def test_a_chunk_of_automatic_size_never_has_more_rows_than_a_shard():
    assert automatic_size(10**9) * (MOST_VARIANTS + 1) <= MAX_ROWS
    PlanOptions(variants=MOST_VARIANTS + 1, augmentation="any")


def test_a_plan_is_cut_by_its_number_of_images_unless_a_size_is_given(tmp_path):
    images = toy.pictures(tmp_path / "images", per_class=40)
    planned = toy.plan(images, tmp_path / "store", chunk_size=None)
    assert (planned.chunk_size, planned.num_chunks) == (48, 2)
    assert toy.plan(images, tmp_path / "store", chunk_size=None, limit=48).num_chunks == 1
    assert toy.plan(images, tmp_path / "store", chunk_size=7).num_chunks == 12
