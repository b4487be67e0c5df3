import hashlib
import os
import time
from pathlib import Path

import pytest

from storage.source.listing import Listing, list_images
from storage.source.scan import scan_folder
from tests import toy

TICK_SECONDS = 0.05  # file times move on in steps of a few milliseconds


def digests(listing: Listing) -> dict[bytes, bytes]:
    return dict(zip(listing.files["path"].to_pylist(), listing.files["digest"].to_pylist(), strict=True))


def true_digests(root: Path) -> dict[bytes, bytes]:
    found = root.glob("*/*.png")
    return {os.fsencode(p.relative_to(root)): hashlib.sha256(p.read_bytes()).digest() for p in found}


def list_again(images: Path, cache: Path, **options) -> Listing:
    return list_images(scan_folder(images), cache, **options)


def cache_file(cache: Path) -> Path:
    (path,) = cache.glob("digests-*.parquet")
    return path


def test_the_digest_of_an_image_is_the_sha256_of_its_bytes(images, store):
    assert digests(list_again(images, store)) == true_digests(images)


def test_what_is_unchanged_is_not_read_again(images, store, settled):
    first = list_again(images, store)
    second = list_again(images, store)
    assert (first.hashed, second.hashed) == (20, 0)
    assert second.files.equals(first.files)


def test_only_what_was_touched_is_read_again(images, store, settled):
    before = digests(list_again(images, store))
    os.utime(images / "cats/000.png", (1, 1))
    again = list_again(images, store)
    assert (again.hashed, digests(again)) == (1, before)
    assert list_again(images, store).hashed == 0


def test_other_bytes_are_noticed_at_the_same_size_and_mtime(images, store, settled):
    list_again(images, store)
    path = images / "cats/000.png"
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    time.sleep(TICK_SECONDS)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = list_again(images, store)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert (again.hashed, digests(again)) == (1, true_digests(images))


def test_files_too_young_to_be_sure_of_are_read_every_time(images, store, monkeypatch):
    monkeypatch.setattr("storage.source.scan_table.RACY_NS", 3_600_000_000_000)
    assert [list_again(images, store).hashed for _ in range(3)] == [20, 20, 20]


def test_files_are_cached_once_they_are_old_enough(images, store, monkeypatch):
    monkeypatch.setattr("storage.source.scan_table.RACY_NS", int(TICK_SECONDS * 1e9))
    time.sleep(2 * TICK_SECONDS)
    assert [list_again(images, store).hashed for _ in range(2)] == [20, 0]


def test_an_old_mtime_does_not_make_a_young_file_sure(images, store, monkeypatch):
    monkeypatch.setattr("storage.source.scan_table.RACY_NS", 3_600_000_000_000)
    for path in images.glob("*/*.png"):
        os.utime(path, (1, 1))
    assert [list_again(images, store).hashed for _ in range(2)] == [20, 20]


def test_the_cache_follows_images_that_come_and_go(images, store, settled):
    list_again(images, store)
    (images / "cats/000.png").unlink()
    toy.picture(images / "cats/new.png", seed=77)
    assert list_again(images, store).hashed == 1
    again = list_again(images, store)
    assert (again.hashed, digests(again)) == (0, true_digests(images))


FAR = (-(2**62), 2**63, 10**19, 15_032_385_535 * 10**9)  # ns: 1823, 2262, 2286, 2446 (the end of ext4)


@pytest.mark.parametrize("mtime_ns", FAR)
def test_a_file_of_any_date_is_listed_cached_and_noticed_when_it_changes(images, store, settled, mtime_ns):
    path = images / "cats/000.png"
    os.utime(path, ns=(mtime_ns, mtime_ns))
    assert [list_again(images, store).hashed for _ in range(2)] == [20, 0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    time.sleep(TICK_SECONDS)
    path.write_bytes(data)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    again = list_again(images, store)
    assert (again.hashed, digests(again)) == (1, true_digests(images))


def test_the_cache_is_of_use_where_a_piece_of_it_has_no_file_left(images, store, settled, monkeypatch, caplog):
    monkeypatch.setattr("storage.source.digest_cache.CACHE_ROWS_AT_A_TIME", 5)
    list_again(images, store)
    (images / "cats").rename(images / "zebras")
    again = list_again(images, store)
    assert (again.hashed, digests(again)) == (10, true_digests(images))
    assert not caplog.records


def test_rehash_believes_nothing(images, store, settled):
    first = list_again(images, store)
    again = list_again(images, store, rehash=True)
    assert again.hashed == 20
    assert digests(again) == digests(first)


def test_two_folders_do_not_share_a_cache(tmp_path, store, settled):
    one = toy.pictures(tmp_path / "one")
    other = toy.pictures(tmp_path / "other", classes=("dogs", "cats"))
    list_again(one, store)
    listing = list_again(other, store)
    assert (listing.hashed, digests(listing)) == (20, true_digests(other))


def test_a_missing_cache_only_costs_time(images, store, settled):
    list_again(images, store)
    cache_file(store).unlink()
    listing = list_again(images, store)
    assert (listing.hashed, digests(listing)) == (20, true_digests(images))


@pytest.mark.parametrize(
    "damage",
    [lambda d: b"", lambda d: b"nonsense", lambda d: d[:-1], lambda d: d[: len(d) // 2]],
    ids=["empty", "nonsense", "cut short", "half"],
)
def test_a_damaged_cache_only_costs_time(images, store, settled, damage):
    list_again(images, store)
    path = cache_file(store)
    path.write_bytes(damage(path.read_bytes()))
    listing = list_again(images, store)
    assert (listing.hashed, digests(listing)) == (20, true_digests(images))
    assert list_again(images, store).hashed == 0


def test_no_flipped_byte_in_the_cache_gives_a_wrong_digest(tmp_path, store, settled):
    images = toy.pictures(tmp_path / "images", per_class=2)
    truth = digests(list_again(images, store))
    scan, path = scan_folder(images), cache_file(store)
    data = path.read_bytes()
    for position in range(0, len(data), 29):
        flipped = bytearray(data)
        flipped[position] ^= 0x41
        path.write_bytes(flipped)
        assert digests(list_images(scan, store)) == truth, position


def test_a_cache_that_cannot_be_written_stops_nothing(images, tmp_path, settled):
    (tmp_path / "file").write_bytes(b"")
    listing = list_again(images, tmp_path / "file" / "cache")
    assert digests(listing) == true_digests(images)


def test_an_image_that_vanished_after_the_scan_is_not_listed(images, store):
    scan = scan_folder(images)
    (images / "cats/003.png").unlink()
    assert digests(list_images(scan, store)) == true_digests(images)


def test_an_image_that_may_not_be_read_has_a_reason_and_no_digest(public, as_a_user, settled):
    images = toy.pictures(public / "images", per_class=2)
    truth = true_digests(images)
    (images / "cats/000.png").chmod(0)
    with as_a_user():
        listing = list_again(images, public / "cache")
    assert digests(listing) == truth | {b"cats/000.png": None}
    assert listing.files["reason"].to_pylist() == ["permission", None, None, None]
    (images / "cats/000.png").chmod(0o644)
    with as_a_user():
        assert digests(list_again(images, public / "cache")) == truth


def test_names_that_are_not_utf8_are_read(tmp_path, store):
    path = os.path.join(os.fsencode(tmp_path), b"images", b"caf\xe9", b"\xff.png")
    os.makedirs(os.path.dirname(path))
    toy.picture(tmp_path / "picture.png", seed=1).rename(os.fsdecode(path))
    listing = list_again(tmp_path / "images", store)
    with open(path, "rb") as file:
        assert digests(listing) == {b"caf\xe9/\xff.png": hashlib.sha256(file.read()).digest()}
