import dataclasses
import errno
import json
import os
import pickle
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from storage.errors import InputError, StorageError, StoreDamaged, VersionConflict
from storage.heads.current import promote_head
from storage.source.listing import list_images
from storage.source.scan import scan_folder
from storage.source.scan_files import save_listing, save_scan
from tasks.caching import CheckedRecords, StaleRecord, can_help, is_true, kept
from tasks.list_images import list_images as list_images_task
from tests import toy
from vision.errors import SpecError, WeightsError
from vision.training.head import HeadSpec
from workers.errors import PoolClosed, WorkerDied, WorkerFailed
from workers.jobs.head_identity import find_head, head_name
from workers.jobs.records import ChunkResult, HeadResult, ListingRecord, ScanRecord
from workers.jobs.spaces import version_record


def failed(error: BaseException):
    """The state that Prefect's task engine passes to retry_condition_fn (prefect/task_engine.py, can_retry)."""
    from prefect.states import Failed

    return Failed(data=error, message=f"Task run encountered unexpected exception: {error!r}")


@pytest.mark.parametrize(
    "error",
    [
        InputError("one class only"),
        StoreDamaged("a shard is damaged"),
        StorageError("no hard links"),
        VersionConflict("version 2 was taken"),
        SpecError("image size"),
        WeightsError("no such file"),
        PoolClosed("the run has ended"),
        WorkerFailed("ValueError: a buffer of 8 bytes cannot hold 10", can_help=False),
        ValueError("a buffer of 8 bytes cannot hold 10"),
        KeyError("a column"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only file system"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        PermissionError(errno.EACCES, "Permission denied"),
    ],
    ids=repr,
)
def test_bad_input_a_full_disk_and_a_fault_of_ours_are_not_tried_again(error):
    assert not can_help(failed(error))


@pytest.mark.parametrize(
    "error",
    [
        WorkerDied("child 7 ended with status -9"),
        WorkerFailed("ResourceExhaustedError: who knows"),
        MemoryError("none left"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ESTALE, "Stale file handle"),
        FileNotFoundError(errno.ENOENT, "the share hiccups"),
    ],
    ids=repr,
)
def test_a_dead_child_and_a_hiccup_of_the_disk_are_tried_again(error):
    assert can_help(failed(error))


# Which cached records are valid


@pytest.fixture
def records(images, store) -> CheckedRecords:
    return CheckedRecords(root=str(store), fingerprint=toy.space(images, store).fingerprint)


@pytest.fixture
def chunks(images, store) -> list[ChunkResult]:
    refs = toy.extract(images, store, toy.plan(images, store))
    return [
        ChunkResult(
            ref.name,
            ref.size_bytes,
            ref.num_rows,
            ref.footer_checksum,
            8,
            0,
            {},
            1.0,
            2.0,
            {"read": 0.5},
            100.0,
            "toy 1",
            None,
        )
        for ref in refs
    ]


def head(store, images) -> HeadResult:
    """Write a head with the head.json that training writes, and return its result."""
    space = toy.space(images, store)
    name = head_name(space.fingerprint, "data", HeadSpec(("cats", "dogs")), seed=0)
    metrics = {
        "epochs": 1,
        "val_accuracy": 0.75,
        "val_loss": 0.5,
        "train_seconds": 2.0,
        "train_samples_per_second": 10.0,
    }
    history = ({"loss": 1.0, "accuracy": 0.5, "val_loss": 0.5, "val_accuracy": 0.75},)
    toy.head(space.store, name, {"metrics": metrics, "history": history}, b"a head")
    promote_head(space.store, name)
    return HeadResult(name, True, True, **metrics, history=history)


def listing(images, store) -> ListingRecord:
    folder = store / "cache" / "plans"
    folder.mkdir(parents=True)
    scan = scan_folder(images)
    found = list_images(scan, store / "cache")
    return ListingRecord(str(save_listing(found, save_scan(scan, folder))), 20, 20, 0)


def test_chunk_results_come_back_as_they_went_in(records, chunks):
    assert records.loads(records.dumps(chunks)) == chunks
    assert records.loads(records.dumps(chunks[0])) == chunks[0]
    assert records.loads(records.dumps([])) == []


def test_a_listing_record_comes_back_as_it_went_in(records, images, store):
    record = listing(images, store)
    assert records.loads(records.dumps(record)) == record


def test_a_listing_with_an_image_that_could_not_be_read_is_made_again(records, images, store):
    record = dataclasses.replace(listing(images, store), unreadable=1)
    with pytest.raises(StaleRecord):
        records.loads(records.dumps(record))


@pytest.mark.parametrize("damage", ["cut", "emptied"])
def test_a_listing_that_a_power_cut_left_short_is_made_again(records, images, store, damage):
    record = listing(images, store)
    blob = records.dumps(record)
    os.truncate(record.path, os.path.getsize(record.path) // 2 if damage == "cut" else 0)
    with pytest.raises(StaleRecord):
        records.loads(blob)


def test_a_chunk_of_which_images_were_skipped_is_done_again(records, chunks):
    with pytest.raises(StaleRecord):
        records.loads(records.dumps(dataclasses.replace(chunks[0], skipped={"read_error": 1})))


def test_a_copied_store_has_no_records_of_the_first(images, store, tmp_path):
    space = toy.space(images, store)
    folders = {kept(list_images_task, where).result_storage for where in (space, toy.space(images, tmp_path / "copy"))}
    assert len({Path(folder).name for folder in folders}) == 2


def test_a_version_record_comes_back_as_it_went_in(records, images, store):
    record = version_record(toy.run(images, store)[1])
    assert records.loads(records.dumps(record)) == record


def test_a_head_result_comes_back_as_one_that_was_found(records, images, store):
    """The run that reads the record neither trained the head nor decided on it."""
    record = replace(head(store, images), promotion="it was better")
    found = records.loads(records.dumps(record))
    assert found == replace(record, is_new=False, promotion=None)
    assert found.history == find_head(toy.space(images, store).store, record.name).history
    assert {type(result.history) for result in (found, HeadResult.of(json.loads(json.dumps(asdict(record)))))} == {
        tuple
    }


def test_a_head_that_diverged_is_not_trained_again_for_want_of_a_number(records, images, store):
    record = replace(head(store, images), val_loss=None, history=({"loss": None},), diverged="it diverged")
    assert json.loads(records.dumps(record), parse_constant=lambda constant: pytest.fail(f"a bare {constant}"))
    assert records.loads(records.dumps(record)).diverged == "it diverged"


def test_a_head_that_another_has_replaced_is_asked_about_again(records, images, store):
    blob = records.dumps(head(store, images))
    promote_head(toy.space(images, store).store, "0" * 32)
    with pytest.raises(StaleRecord):
        records.loads(blob)


def test_records_are_kept_as_json_and_never_as_a_pickle(records, chunks):
    assert json.loads(records.dumps(chunks))["records"][0]["kind"] == "ChunkResult"
    with pytest.raises(ValueError, match=r"can't decode|Expecting value"):
        records.loads(pickle.dumps(chunks))


def test_a_record_of_a_kind_that_is_not_cached_is_not_built(records):
    blob = records.dumps(ScanRecord("/scan", "d", 1, 0, True))
    with pytest.raises(KeyError):
        records.loads(blob)


def test_a_record_of_a_deleted_shard_is_stale(records, chunks, images, store):
    blob = records.dumps(chunks)
    toy.space(images, store).store.shard(chunks[1].shard).unlink()
    with pytest.raises(StaleRecord, match=chunks[1].shard):
        records.loads(blob)


def test_a_record_of_a_truncated_shard_is_stale(records, chunks, images, store):
    blob = records.dumps(chunks[0])
    path = toy.space(images, store).store.shard(chunks[0].shard)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(StaleRecord):
        records.loads(blob)


def test_a_record_of_a_listing_that_was_swept_away_is_stale(records, images, store):
    record = listing(images, store)
    blob = records.dumps(record)
    os.unlink(record.path)
    with pytest.raises(StaleRecord):
        records.loads(blob)


def test_a_version_is_believed_only_while_it_is_the_newest(records, images, store):
    first = records.dumps(version_record(toy.run(images, store)[1]))
    records.loads(first)
    toy.picture(images / "cats" / "new.png", seed=4000)
    second = records.dumps(version_record(toy.run(images, store)[1]))
    with pytest.raises(StaleRecord):
        records.loads(first)
    assert records.loads(second).number == 2


def test_a_version_of_a_store_that_was_deleted_is_stale(records, images, store):
    blob = records.dumps(version_record(toy.run(images, store)[1]))
    for path in toy.space(images, store).store.versions.iterdir():
        path.unlink()
    with pytest.raises(StaleRecord):
        records.loads(blob)


def test_a_version_of_the_same_number_that_says_something_else_is_stale(records, images, store):
    """The user deletes the damaged newest version, as its error advises, and another version takes its number."""
    blob = records.dumps(version_record(toy.run(images, store)[1]))
    for path in toy.space(images, store).store.versions.iterdir():
        path.unlink()
    toy.picture(images / "cats" / "new.png", seed=4000)
    assert toy.run(images, store)[1].number == 1
    with pytest.raises(StaleRecord):
        records.loads(blob)


@pytest.mark.parametrize("gone", ["head.json", "head.keras"])
def test_a_head_without_its_files_is_stale(gone, records, images, store):
    record = head(store, images)
    blob = records.dumps(record)
    assert is_true(toy.space(images, store).store, record)
    (toy.space(images, store).store.head(record.name) / gone).unlink()
    with pytest.raises(StaleRecord):
        records.loads(blob)
