"""Images and stores in an object store: a real S3 server, real requests, real races."""

import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from storage.backend.atomic import create, put, replace
from storage.backend.lock import hold
from storage.backend.paths import place
from storage.cli.main import main
from storage.errors import InputError, StorageError, VersionConflict
from storage.layout import Store
from storage.maintenance.verify import verify_space
from storage.manifest.file_table import CONTENT_COLUMNS
from storage.manifest.versions import commit, latest_version, read_version, version_numbers
from storage.source.scan import scan_folder
from tests import toy
from tests.storage.manifest.test_versions import content
from tests.storage.s3 import LISTED, between

PROJECT = Path(__file__).parents[2]


def upload(path, seed: int) -> bytes:
    """Put a small picture that only this seed gives."""
    local = toy.picture(Path(os.environ["XDG_CACHE_HOME"]) / "upload.png", seed)
    data = local.read_bytes()
    path.fs.pipe_file(path.path, data)
    return data


def images_of(bucket, per_class: int = 4):
    for number, name in enumerate(("cats", "dogs")):
        for index in range(per_class):
            upload(bucket / "photos" / name / f"{index:03d}.png", 1000 * number + index)
    return bucket / "photos"


def run(images, store, **options):
    return toy.run(images, store, allow_removals=True, **options)


# Files


def test_an_object_is_created_once_whoever_comes_at_the_same_time(bucket):
    path = bucket / "store/file"
    data = [b"%d" % number * 1000 for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda content: create(path, content, bucket), data))
    assert won.count(True) == 1
    assert path.read_bytes() == data[won.index(True)]
    replace(path, b"other")
    assert path.read_bytes() == b"other"
    put(path, b"what its name stands for", bucket)
    assert path.read_bytes() == b"what its name stands for"


@pytest.mark.parametrize("address", ["ftp://host/folder", "s3://", "gs:///", "nothing://x"])
def test_other_addresses_are_refused(address):
    with pytest.raises(InputError, match="s3://bucket/prefix"):
        place(address)


def test_what_is_not_installed_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match=r"extra gs.*pip install"):
        place("gs://bucket/photos")


# Listing


def test_every_object_is_listed_page_by_page_in_the_order_of_a_local_scan(bucket, tmp_path):
    names = [f"cats/{number:04d}.jpg" for number in range(LISTED + 10)]
    names += [
        "dogs/a/b.png",
        "dogs/a-b.png",
        "dogs/a.png",
        "dogs/é ü.png",
        "dogs/notes.txt",
        ".hidden/x.png",
        "top.png",
    ]
    for name in names:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    bucket.fs.put(f"{tmp_path}/images/", f"{(bucket / 'photos').path}/", recursive=True)
    found, local = scan_folder(bucket / "photos"), scan_folder(tmp_path / "images")
    columns = ["path", "size", "class", "split"]
    assert found.files.select(columns).equals(local.files.select(columns))
    assert found.files.num_rows == len(set(found.files["digest"].to_pylist())) == LISTED + 14
    name, _, prefix = (bucket / "photos").path.partition("/")
    page = bucket.fs.call_s3("list_objects_v2", Bucket=name, Prefix=prefix)
    assert (page["IsTruncated"], len(page["Contents"])) == (True, LISTED)


def test_a_bucket_that_is_not_there_is_said_in_one_line(bucket):
    with pytest.raises(InputError, match="`images`: there is nothing below s3://no-such-bucket/photos"):
        scan_folder(place("s3://no-such-bucket/photos"))


def test_split_prefixes_and_tables_of_labels_are_understood(bucket, tmp_path):
    for number, name in enumerate(("train/cats/a.png", "val/cats/b.png", "train/dogs/c.png")):
        upload(bucket / "photos" / name, number)
    files = scan_folder(bucket / "photos").files.to_pylist()
    assert [(row["class"], row["split"]) for row in files] == [
        ("cats", "train"),
        ("dogs", "train"),
        ("cats", "validation"),
    ]
    table = tmp_path / "labels.csv"
    table.write_text(f"path,class\ntrain/cats/a.png,one\n{bucket}/photos/val/cats/b.png,two\n")
    files = scan_folder(bucket / "photos", labels=table).files.to_pylist()
    assert [(row["path"], row["class"]) for row in files] == [(b"train/cats/a.png", "one"), (b"val/cats/b.png", "two")]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_of_labels_may_be_an_object(bucket, tmp_path, suffix):
    images = toy.pictures(tmp_path / "images", per_class=1)
    table = pa.table({"path": ["cats/000.png"], "class": ["one"]})
    (pq.write_table if suffix == ".parquet" else csv.write_csv)(table, tmp_path / f"l{suffix}")
    bucket.fs.put(f"{tmp_path}/l{suffix}", (bucket / f"l{suffix}").path)
    assert scan_folder(images, labels=place(f"{bucket}/l{suffix}")).files["class"].to_pylist() == ["one"]
    with pytest.raises(InputError, match=f"`labels`: {bucket}/none{suffix} cannot be read"):
        scan_folder(images, labels=place(f"{bucket}/none{suffix}"))


def test_keys_with_an_empty_name_are_named_and_cost_nothing_else(bucket, caplog):
    for number, name in enumerate(("cats/a.png", "cats//b.png", "dogs/c.png", "/dogs/d.png")):
        bucket.fs.pipe_file(f"{(bucket / 'photos').path}/{name}", b"%d" % number)
    bucket.fs.pipe_file(f"{(bucket / 'photos').path}/cats/", b"")  # the mark of a folder, as consoles leave it
    files = scan_folder(bucket / "photos").files
    assert files["path"].to_pylist() == [b"cats/a.png", b"dogs/c.png"]
    assert "2 folders with an empty name" in caplog.text
    assert "copy its images to keys without //" in caplog.text


@pytest.mark.parametrize("names", [["train/cats", "train/dogs", "Dev/cats", "Dev/dogs"], ["all/cats", "all/dogs"]])
def test_folders_of_objects_are_labelled_as_those_of_a_disk(bucket, tmp_path, names):
    for number, name in enumerate([*names, "logs", "@eaDir/cats"]):
        toy.picture(tmp_path / "images" / name / ("1.txt" if name == "logs" else "1.png"), number)
    bucket.fs.put(f"{tmp_path}/images/", f"{(bucket / 'photos').path}/", recursive=True)
    found, local = scan_folder(bucket / "photos"), scan_folder(tmp_path / "images")
    columns = ["path", "class", "split"]
    assert found.files.select(columns).equals(local.files.select(columns))
    assert found.layout.parts == local.layout.parts
    assert len(found.layout.remarks) == len(local.layout.remarks) == 4


# Runs


@pytest.mark.parametrize("format", ["parquet", "npz"])
def test_a_store_of_objects_follows_its_images(bucket, format):
    images, store = images_of(bucket), bucket / "store"
    _, first = run(images, store, format=format)
    assert first.counts == {"images": 8, "ok": 8, "pending": 0, "quarantined": 0}
    upload(images / "cats/new.png", 5000)
    upload(images / "dogs/001.png", 6000)
    (images / "dogs/002.png").unlink()
    for name in ("cats/000.png", "dogs/was a cat.png"):
        (images / name).write_bytes((images / "cats/001.png").read_bytes())
    (images / "cats/001.png").unlink()
    planned, second = run(images, store, format=format)
    assert planned.todo.num_rows == 2
    _, fresh = run(images, bucket / "fresh", format=format)
    assert second.data_digest == fresh.data_digest
    where, other = (toy.space(images, root).store for root in (store, bucket / "fresh"))
    assert second.read_files(where).select(CONTENT_COLUMNS).equals(fresh.read_files(other).select(CONTENT_COLUMNS))
    found, expected = toy.features_of(images, store, second), toy.features_of(images, bucket / "fresh", fresh)
    assert all(np.array_equal(found[digest], expected[digest]) for digest in expected)
    assert not toy.plan(images, store).needs_commit


def test_local_images_and_a_store_of_objects_go_together(bucket, tmp_path):
    images = toy.pictures(tmp_path / "images", per_class=3)
    _, version = run(images, bucket / "store")
    assert version.counts["ok"] == 6
    assert not (tmp_path / "cats").exists()
    assert toy.plan(images, bucket / "store").todo.num_rows == 0


def test_what_a_dead_run_left_is_adopted(bucket):
    images, store = images_of(bucket), bucket / "store"
    toy.extract(images, store, toy.plan(images, store, chunk_size=2), range(2))
    planned, version = run(images, store)
    assert (planned.adopted, planned.todo.num_rows, version.counts["ok"]) == (4, 4, 8)


@pytest.mark.parametrize("fate", ["vanishes", "changes"])
def test_an_object_that_goes_or_changes_between_listing_and_reading_costs_its_row_alone(bucket, fate):
    images, store = images_of(bucket), bucket / "store"
    planned = toy.plan(images, store)
    victim = images / "cats/002.png"
    victim.unlink() if fate == "vanishes" else upload(victim, 7000)
    refs = toy.extract(images, store, planned)
    assert sum(ref.num_rows for ref in refs) == 7
    _, version = run(images, store)
    assert version.counts == {
        "images": 7 + (fate == "changes"),
        "ok": 7 + (fate == "changes"),
        "pending": 0,
        "quarantined": 0,
    }


def test_a_lost_shard_is_noticed_and_repaired(bucket, capsys):
    images, store = images_of(bucket), bucket / "store"
    _, version = run(images, store, chunk_size=4)
    where = toy.space(images, store).store
    name = sorted(version.shards)[0]
    where.shard(name).write_bytes(where.shard(name).read_bytes()[:-1])
    assert toy.plan(images, store).lost == 4
    assert main(["verify", "--store", str(store)]) == 1
    assert name in capsys.readouterr().out
    assert main(["repair", "--store", str(store)]) == 0
    assert main(["verify", "--deep", "--store", str(store)]) == 0
    planned, _ = run(images, store)
    assert planned.todo.num_rows == 4


def test_upkeep_works_on_objects(bucket, capsys):
    images, store = images_of(bucket), bucket / "store"
    run(images, store, chunk_size=2)
    upload(images / "cats/new.png", 5000)
    _, version = run(images, store, chunk_size=2)
    features = toy.features_of(images, store, version)
    for command in (
        ["compact"],
        ["gc", "--keep", "1", "--grace", "0"],
        ["verify", "--deep"],
        ["show"],
        ["history"],
        ["quarantine"],
    ):
        assert main([*command, "--store", str(store)]) == 0, capsys.readouterr().err
    where = toy.space(images, store).store
    newest = latest_version(where)
    assert version_numbers(where) == [newest.number] == [3]
    assert len(newest.shards) == 1
    found = toy.features_of(images, store, newest)
    assert all(np.array_equal(found[digest], features[digest]) for digest in features)


# Requests that are refused, and replies that are lost


@pytest.mark.slow
def test_throttled_requests_are_made_again(bucket, address, monkeypatch):
    images, store = images_of(bucket), bucket / "store"
    seen: dict[tuple[str, str], int] = {}

    def manner(method: str, path: str) -> str:
        seen[method, path] = seen.get((method, path), 0) + 1
        refused = 2 * ("versions" in path) or len(seen) % 4 == 0
        return "slow down" if seen[method, path] <= refused else "pass"

    with between(address, manner) as slow:
        monkeypatch.setenv("AWS_ENDPOINT_URL", slow)
        images.fs.clear_instance_cache()
        _, version = run(place(str(images)), place(str(store)))
        place(str(store)).fs.clear_instance_cache()
    assert version.counts["ok"] == 8
    assert max(seen.values()) > 2


def test_a_commit_whose_reply_is_lost_knows_itself(bucket, address, monkeypatch):
    images, store = images_of(bucket), bucket / "store"
    lost: list[str] = []

    def manner(method: str, path: str) -> str:
        if method == "PUT" and "/versions/" in path and not lost:
            lost.append(path)
            return "lose"
        return "pass"

    with between(address, manner) as careless:
        monkeypatch.setenv("AWS_ENDPOINT_URL", careless)
        images.fs.clear_instance_cache()
        _, version = run(place(str(images)), place(str(store)))
        place(str(store)).fs.clear_instance_cache()
    assert len(lost) == 1
    assert version.number == 1


@pytest.mark.slow
def test_whatever_request_is_the_last_the_store_is_whole_and_the_next_run_ends_as_if_nothing_had_been(
    bucket, address, monkeypatch
):
    """REQUESTS says how many moments are tried."""
    images, counted = images_of(bucket), [0]
    last = 10**9

    def manner(method: str, path: str) -> str:
        counted[0] += 1
        return "pass" if counted[0] <= last else "deny"

    with between(address, manner) as fickle:

        def attempt(store) -> None:
            counted[0] = 0
            monkeypatch.setenv("AWS_ENDPOINT_URL", fickle)
            images.fs.clear_instance_cache()
            with suppress(OSError, StorageError):
                run(place(str(images)), place(str(store)), chunk_size=2)
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            images.fs.clear_instance_cache()

        attempt(bucket / "whole")
        requests = counted[0]
        tried = random.Random(0).sample(range(requests), int(os.environ.get("REQUESTS", "6")))
        for last in tried:
            store = bucket / f"store {last}"
            attempt(store)
            assert counted[0] > last
            where = toy.space(images, store).store
            assert not [
                found for found in verify_space(where, is_deep=True) if found.file != f"{where.fingerprint}/space.json"
            ]
            _, version = run(place(str(images)), place(str(store)), chunk_size=2)
            assert version.counts["ok"] == 8
            assert not list(verify_space(where, is_deep=True))


# Two at once


def test_a_store_of_objects_is_never_busy(bucket):
    with hold(bucket / "store"), hold(bucket / "store"):
        pass


def win(store: Store, first: int, count: int) -> dict[int, str]:
    """Commit so many versions, beside whoever else does; returns version → commit id."""
    won: dict[int, str] = {}
    while len(won) < count:
        with suppress(VersionConflict):
            made = commit(store, latest_version(store), *content(store, [*range(3), 1000 * first + len(won)]))
            won[made.number] = made.commit_id
    return won


OTHER = """
import json, sys
from storage.backend.paths import place
from storage.layout import Store
from tests.storage.test_objects import win

print("ready", flush=True)
sys.stdin.readline()
print(json.dumps(win(Store(place(sys.argv[1]), "0" * 32), 2, int(sys.argv[2]))))
"""


def test_of_two_committers_racing_no_version_is_lost(bucket):
    """COMMITS says how many versions, 12 where it does not."""
    each = int(os.environ.get("COMMITS", "12")) // 2
    store = Store(bucket / "store", "0" * 32)
    call = [sys.executable, "-c", OTHER, str(store.root), str(each)]
    with subprocess.Popen(call, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("go\n")
        process.stdin.flush()
        won = win(store, 1, each)
        others = {int(number): of for number, of in json.loads(process.communicate()[0]).items()}
    assert sorted([*won, *others]) == version_numbers(store) == list(range(1, 2 * each + 1))
    assert all(read_version(store, number).commit_id == of for number, of in (won | others).items())
