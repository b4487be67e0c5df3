"""Names at the edges, through the whole way of a photo: scan, listing, cache, plan, shards, version, second run."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import InputError
from storage.manifest.diff import Changes
from storage.manifest.versions import latest_version
from storage.planning.plan_files import load_plan, save_plan
from storage.reading.samples import pin
from storage.source.folder_layout import text
from storage.source.listing import list_images
from storage.source.scan import scan_folder
from storage.source.scan_files import load_listing, load_scan, prepare, save_listing, save_scan
from storage.source.scan_table import Scan
from tests import odd, toy
from vision.pixels.decode import decode

PROJECT = Path(__file__).parents[2]
PATH_MAX = 4096  # with the NUL at its end: what Linux takes for one path


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    with odd.room_for_depth(tmp_path) as folder:
        yield folder


def paths(scan: Scan) -> list[bytes]:
    return scan.files["path"].to_pylist()


def labels(scan: Scan) -> dict[bytes, str]:
    return dict(zip(paths(scan), scan.files["class"].to_pylist(), strict=True))


def full(root: Path, path: bytes) -> bytes:
    return os.path.join(os.fsencode(root), path)


# Every name as class, as folder in it, and as file.


@pytest.fixture
def oddly_named(tmp_path: Path) -> tuple[Path, list[bytes]]:
    """A folder with every odd name in every place, and its paths."""
    root = tmp_path / "images"
    found = [
        odd.file(root, b"/".join([name, name, name + b".png"]), seed) for seed, name in enumerate(odd.NAMES.values())
    ]
    odd.need_distinct(tmp_path, *odd.NAMES.values())
    return root, sorted(found)


def test_any_name_goes_all_the_way_and_its_features_are_those_of_its_own_bytes(oddly_named, store):
    images, expected = oddly_named
    planned, version = toy.run(images, store)
    files = version.read_files(toy.space(images, store).store)
    assert files["path"].to_pylist() == expected
    assert set(files["status"].to_pylist()) == {"ok"}
    assert planned.changes == Changes(new=len(expected))
    features = toy.features_of(images, store, version)
    for path, digest in zip(expected, files["digest"].to_pylist(), strict=True):
        with open(full(images, path), "rb") as file:
            pixels = decode(file.read(), toy.SPEC.image_size)
        own = toy.ToyEngine().features(pixels[None])[0].astype(toy.SPEC.dtype)
        assert np.array_equal(features[digest], own), path


def test_any_class_name_is_a_class_of_its_own(oddly_named, store):
    images, expected = oddly_named
    _, version = toy.run(images, store)
    where = toy.space(images, store).store
    classes = version.read_files(where)["class"].to_pylist()
    assert Counter(classes) == Counter(text(path.split(b"/")[0]) for path in expected)
    assert max(Counter(classes).values()) == 1
    # The version is JSON: names come back from it as they went in.
    assert sorted(name for by_class in latest_version(where).classes.values() for name in by_class) == sorted(classes)


def test_any_name_is_found_again_in_the_cache_and_in_the_version(oddly_named, store, settled):
    images, expected = oddly_named
    toy.run(images, store)
    scan = scan_folder(images)
    assert list_images(scan, toy.space(images, store).store.cache).hashed == 0
    second = toy.plan(images, store)
    assert second.changes == Changes(unchanged=len(expected))
    assert (second.todo.num_rows, second.needs_commit) == (0, False)


def test_any_name_survives_being_handed_over(oddly_named, store):
    images, _ = oddly_named
    where = toy.space(images, store).store
    working = where.cache / "plans"
    prepare(working)
    scan = scan_folder(images)
    scan_path = save_scan(scan, working)
    assert load_scan(scan_path).digest == scan.digest
    listing = load_listing(save_listing(list_images(scan, where.cache), scan_path))
    assert paths(listing.scan) == listing.files["path"].to_pylist() == paths(scan)
    planned = toy.plan(images, store)
    loaded = load_plan(where, save_plan(planned, working))
    assert loaded.todo.equals(planned.todo)
    assert loaded.files.equals(planned.files)


def test_any_file_name_moves_to_any_other_without_being_extracted_again(oddly_named, store):
    images, expected = oddly_named
    toy.run(images, store)
    names = list(odd.NAMES.values())
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        os.rename(full(images, b"/".join([name] * 2 + [name + b".png"])), full(images, name + b"/" + other + b".png"))
    planned, _ = toy.run(images, store)
    assert planned.changes == Changes(moved=len(expected))
    assert planned.todo.num_rows == 0


def test_any_name_can_be_removed_alone(oddly_named, store):
    images, expected = oddly_named
    where = toy.space(images, store).store
    toy.run(images, store)
    for path in expected[::2]:
        os.unlink(full(images, path))
    planned, version = toy.run(images, store, allow_removals=True)
    assert version.read_files(where)["path"].to_pylist() == expected[1::2]
    assert planned.changes == Changes(unchanged=len(expected) // 2, removed=len(expected) - len(expected) // 2)


def test_any_class_folder_renamed_is_relabelled_and_nothing_is_extracted(oddly_named, store):
    images, expected = oddly_named
    where = toy.space(images, store).store
    toy.run(images, store)
    names = list(odd.NAMES.values())
    for number, name in enumerate(names):
        os.rename(full(images, name), full(images, b".aside %d" % number))
    for number, other in enumerate([*names[1:], names[0]]):
        os.rename(full(images, b".aside %d" % number), full(images, other))
    planned, version = toy.run(images, store)
    assert planned.changes == Changes(relabelled=len(expected))
    assert planned.todo.num_rows == 0
    found = version.read_files(where)
    assert found["class"].to_pylist() == [text(path.split(b"/")[0]) for path in found["path"].to_pylist()]


@pytest.mark.parametrize("names", [odd.TEXT, odd.BYTES], ids=["text", "bytes"])
def test_the_image_folder_may_have_any_name(tmp_path, store, names):
    images = tmp_path / os.fsdecode(names)
    odd.file(images, b"cat/1.png", 1)
    toy.run(images, store)
    where = toy.space(images, store).store
    scan = scan_folder(images)
    prepare(where.cache / "plans")
    assert load_scan(save_scan(scan, where.cache / "plans")).root == images
    assert toy.plan(images, store).changes == Changes(unchanged=1)


def test_the_store_may_have_any_name_in_utf8(tmp_path, images):
    odd.need_distinct(tmp_path, *odd.TEXT.split(b"/"))
    store = tmp_path / os.fsdecode(odd.TEXT)
    _, version = toy.run(images, store)
    assert len(toy.features_of(images, store, version)) == 20
    assert toy.plan(images, store).changes == Changes(unchanged=20)


# Classes.


@given(*[st.lists(st.sampled_from([b"\\", b"x", b"f", b"5", b"c", b"\xff", b"\xc3", b"\xa9"]), max_size=6)] * 2)
def test_two_folder_names_have_the_same_text_only_if_they_are_the_same(one, other):
    one, other = b"".join(one), b"".join(other)
    assert (text(one) == text(other)) == (one == other)


@given(st.binary(min_size=1).map(lambda name: name.decode("utf-8", "ignore")).filter(lambda name: "\\x" not in name))
def test_a_folder_name_in_utf8_is_its_own_text_unless_it_looks_like_an_escape(name):
    assert text(name.encode()) == name


@given(st.binary(min_size=1))
def test_the_text_of_any_folder_name_can_be_written_as_utf8_and_json(name):
    assert json.loads(json.dumps(text(name)).encode()) == text(name)
    assert text(name).encode().decode() == text(name)


@pytest.mark.parametrize(
    "names",
    [
        (b"\xff", rb"\xff"),
        (b"\xff", b"\xfe"),
        (b"cat", b"Cat", b"CAT"),
        ("é".encode(), "e\u0301".encode()),
        (b"cat", b"cat "),
        (b"cat", "c\u200bat".encode()),
        (b"cat", "c\u0430t".encode()),
        (b"nan", b"NaN", b"null", b"None", b"1", b"01", b"1.0", b"true"),
        (b"a,b", b"a", b"b"),
    ],
    ids=repr,
)
def test_names_that_look_alike_are_distinct_classes_in_the_samples_of_a_training(tmp_path, store, names):
    odd.need_distinct(tmp_path, *names)
    images = tmp_path / "images"
    expected = {}
    for number, name in enumerate(names):
        for split in ("train", "val"):
            path = odd.file(images, b"/".join([split.encode(), name, b"1.png"]), seed=number * 2 + (split == "val"))
            expected[path] = name
    _, version = toy.run(images, store)
    where = toy.space(images, store).store
    classes = tuple(sorted(set(version.read_files(where)["class"].to_pylist())))
    assert len(classes) == len(names)
    assert version.classes["train"] == dict.fromkeys(classes, 1)
    table = pin(where, version, "train", classes, tmp_path)
    assert sorted(table.samples["class"].tolist()) == list(range(len(names)))
    rows = {(row["shard"], row["row"]): row["digest"] for row in version.read_rows(where).to_pylist()}
    by_digest = {row["digest"]: row["path"] for row in version.read_files(where).to_pylist()}
    for shard, row, label in table.samples.tolist():
        path = by_digest[rows[table.shards[shard].name, row]]
        assert classes[label] == text(expected[path])


def test_a_class_renamed_to_the_escape_of_its_own_name_is_relabelled(tmp_path, store):
    odd.need_distinct(tmp_path, b"\xff")
    images = tmp_path / "images"
    odd.file(images, b"\xff/1.png", 1)
    odd.file(images, b"cat/1.png", 2)
    toy.run(images, store)
    os.rename(full(images, b"\xff"), full(images, rb"\xff"))
    assert toy.plan(images, store).changes == Changes(unchanged=1, relabelled=1)


def test_a_class_may_be_called_like_a_split(tmp_path, store):
    images = tmp_path / "images"
    for number, name in enumerate((b"train", b"cat", b"test", b"val")):
        odd.file(images, name + b"/1.png", number)
        if name == b"cat":
            assert toy.plan(images, store).files["class"].to_pylist() == ["cat", "train"]
    with pytest.raises(InputError, match="`layout=classes` treats these folders as the classes"):
        toy.plan(images, store)
    _, version = toy.run(images, store, validation_fraction=0.0, layout="classes")
    assert version.classes == {"train": {"cat": 1, "test": 1, "train": 1, "val": 1}}


def test_a_split_may_hold_a_class_called_like_a_split(tmp_path, store):
    images = tmp_path / "images"
    odd.file(images, b"train/val/1.png", 1)
    odd.file(images, b"val/train/1.png", 2)
    _, version = toy.run(images, store)
    assert version.classes == {"train": {"val": 1}, "validation": {"train": 1}}


# The same name twice, the same bytes twice.


def test_files_of_one_name_or_nearly_one_name_are_each_their_own(tmp_path, store):
    names = (b"1.png", b"1.PNG", "é.png".encode(), "e\u0301.png".encode(), b"1.png.png", b"1 .png")
    odd.need_distinct(tmp_path, *names)
    images = tmp_path / "images"
    for number, (folder, name) in enumerate((f, n) for f in (b"cat", b"Cat", b"cat/cat") for n in names):
        odd.file(images, folder + b"/" + name, number)
    _, version = toy.run(images, store)
    assert version.counts["ok"] == 18
    assert len(toy.features_of(images, store, version)) == 18
    assert version.classes.keys() <= {"train", "validation"}
    assert sum(by_class.get("cat", 0) for by_class in version.classes.values()) == 12


@pytest.mark.parametrize("copy", [shutil.copy, os.link, os.symlink], ids=["copy", "hard link", "link"])
def test_the_same_bytes_in_two_classes_are_one_row_and_two_samples(tmp_path, store, copy):
    images = tmp_path / "images"
    odd.file(images, b"cat/1.png", 1)
    (images / "dog").mkdir()
    copy(images / "cat" / "1.png", images / "dog" / "2.png")
    _, version = toy.run(images, store, validation_fraction=0.0)
    where = toy.space(images, store).store
    assert version.classes == {"train": {"cat": 1, "dog": 1}}
    assert version.read_rows(where).num_rows == 1
    table = pin(where, version, "train", ("cat", "dog"), tmp_path)
    assert sorted(table.samples["class"].tolist()) == [0, 1]
    assert len({tuple(sample)[:2] for sample in table.samples.tolist()}) == 1


def test_a_file_that_becomes_a_link_to_itself_elsewhere_stays_what_it_was(tmp_path, store):
    images = tmp_path / "images"
    odd.file(images, b"cat/1.png", 1)
    toy.run(images, store)
    shutil.move(images / "cat" / "1.png", tmp_path / "far.png")
    os.symlink(tmp_path / "far.png", images / "cat" / "1.png")
    assert toy.plan(images, store, outside_links=True).changes == Changes(unchanged=1)


# Links.


@pytest.mark.parametrize("count", [2, 6, 8])
def test_folders_that_all_link_to_each_other_are_each_seen_once_a_class(tmp_path, count):
    for one in range(count):
        odd.file(tmp_path, b"%d/1.png" % one, one)
        for other in range(count):
            os.symlink(tmp_path / str(other), tmp_path / str(one) / f"to {other}")
    scan = scan_folder(tmp_path)
    assert Counter(labels(scan).values()) == {str(one): count for one in range(count)}


def test_folders_outside_that_all_link_to_each_other_are_each_seen_once(tmp_path):
    for one in range(8):
        odd.file(tmp_path, b"outside/%d/1.png" % one, one)
        for other in range(8):
            os.symlink(tmp_path / "outside" / str(other), tmp_path / "outside" / str(one) / f"to {other}")
    (tmp_path / "images" / "cat").mkdir(parents=True)
    os.symlink(tmp_path / "outside" / "3", tmp_path / "images" / "cat" / "all")
    assert scan_folder(tmp_path / "images", outside_links=True).files.num_rows == 8


@pytest.mark.parametrize("name", ["a", "z"])
def test_a_link_to_a_folder_of_its_own_class_changes_nothing(tmp_path, name):
    odd.file(tmp_path, b"cat/m/1.png", 1)
    os.symlink(tmp_path / "cat" / "m", tmp_path / "cat" / name)
    assert paths(scan_folder(tmp_path)) == [b"cat/m/1.png"]


def test_of_two_links_to_one_folder_the_first_by_name_counts(tmp_path):
    odd.file(tmp_path, b"outside/1.png", 1)
    (tmp_path / "images" / "cat").mkdir(parents=True)
    for name in ("b", "a", "c"):
        os.symlink(tmp_path / "outside", tmp_path / "images" / "cat" / name)
    assert paths(scan_folder(tmp_path / "images", outside_links=True)) == [b"cat/a/1.png"]


def test_a_folder_linked_into_two_classes_is_in_both(tmp_path):
    odd.file(tmp_path, b"outside/1.png", 1)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        os.symlink(tmp_path / "outside", tmp_path / "images" / name / "both")
    assert paths(scan_folder(tmp_path / "images", outside_links=True)) == [b"cat/both/1.png", b"dog/both/1.png"]


def test_a_link_from_a_split_to_a_class_of_another_is_followed(tmp_path):
    odd.file(tmp_path, b"train/cat/1.png", 1)
    odd.file(tmp_path, b"val/dog/1.png", 2)
    os.symlink(tmp_path / "train" / "cat", tmp_path / "val" / "cat")
    os.symlink(tmp_path / "val", tmp_path / "val" / "dog" / "loop")
    scan = scan_folder(tmp_path)
    assert labels(scan) == {b"train/cat/1.png": "cat", b"val/cat/1.png": "cat", b"val/dog/1.png": "dog"}
    assert scan.files["split"].to_pylist() == ["train", "validation", "validation"]


def test_links_that_chase_each_other_hold_nothing_and_stop_nothing(tmp_path):
    odd.file(tmp_path, b"cat/1.png", 1)
    for one, other in (("a", "b"), ("b", "a"), ("a.png", "b.png"), ("b.png", "a.png")):
        os.symlink(other, tmp_path / "cat" / one)
    scan = scan_folder(tmp_path)
    assert (paths(scan), scan.unreadable) == ([b"cat/1.png"], ())


def test_a_chain_of_links_leads_to_its_end_and_a_broken_one_nowhere(tmp_path):
    odd.file(tmp_path, b"outside/1.png", 1)
    (tmp_path / "images" / "cat").mkdir(parents=True)
    cat = tmp_path / "images" / "cat"
    os.symlink(tmp_path / "outside" / "1.png", tmp_path / "chain 0")
    os.symlink(tmp_path / "outside" / "2.png", tmp_path / "broken 0")
    for number in range(20):
        for name in ("chain", "broken"):
            os.symlink(tmp_path / f"{name} {number}", tmp_path / f"{name} {number + 1}")
    os.symlink(tmp_path / "chain 20", cat / "chain.png")
    os.symlink(tmp_path / "broken 20", cat / "broken.png")
    scan = scan_folder(tmp_path / "images", outside_links=True)
    assert (paths(scan), scan.ignored) == ([b"cat/chain.png"], 1)


# What is no image.


def test_what_programs_leave_behind_is_ignored_and_counted(tmp_path):
    odd.file(tmp_path, b"cat/1.png", 1)
    left = [".DS_Store", "._1.jpg", "Thumbs.db", "1.jpg~", "1.jpg.part", ".1.jpg.swp", "#1.jpg#", "1.jpg.crdownload"]
    for name in [*left, ".jpg", "jpg", "desktop.ini", "1.jpg ", "1.jpg\n"]:
        (tmp_path / "cat" / name).write_bytes(b"left over")
    scan = scan_folder(tmp_path)
    assert paths(scan) == [b"cat/1.png"]
    assert scan.ignored == len(left) + 5


def test_a_folder_called_like_an_image_is_a_folder(tmp_path):
    for number, path in enumerate((b"x.jpg/1.png", b"cat/x.jpg/1.png", b"cat/x.png/x.png/x.png")):
        odd.file(tmp_path / "images", path, number)
    scan = scan_folder(tmp_path / "images")
    assert paths(scan) == [b"cat/x.jpg/1.png", b"cat/x.png/x.png/x.png", b"x.jpg/1.png"]
    assert scan.ignored == 0


def test_a_file_that_becomes_a_folder_of_its_name_moves_there(tmp_path, store):
    images = tmp_path / "images"
    odd.file(images, b"cat/1.png", 1)
    toy.run(images, store)
    shutil.move(images / "cat" / "1.png", tmp_path / "1.png")
    (images / "cat" / "1.png").mkdir()
    shutil.move(tmp_path / "1.png", images / "cat" / "1.png" / "1.png")
    assert toy.plan(images, store).changes == Changes(moved=1)


@pytest.fixture
def specials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One image among pipes, sockets and devices of an image's name, and links to them."""
    images = tmp_path / "images"
    odd.file(images, b"cat/1.png", 1)
    cat = images / "cat"
    os.mkfifo(cat / "pipe.jpg")
    monkeypatch.chdir(cat)  # a socket's path may have 107 bytes only
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.jpg")
    for name, target in (
        ("to-pipe", "pipe.jpg"),
        ("to-socket", "socket.jpg"),
        ("zero", "/dev/zero"),
        ("tty", "/dev/tty"),
    ):
        os.symlink(target, cat / f"{name}.jpg")
    for name, kind, device in (("chars", stat.S_IFCHR, (1, 5)), ("blocks", stat.S_IFBLK, (7, 0))):
        try:
            os.mknod(cat / f"{name}.jpg", kind | 0o600, os.makedev(*device))
        except PermissionError:  # only root may make devices; the links above lead to some in any case
            (cat / f"{name}.jpg~").touch()
    return images


def test_pipes_sockets_and_devices_are_never_listed(specials):
    scan = scan_folder(specials)
    assert (paths(scan), scan.ignored, scan.unreadable) == ([b"cat/1.png"], 8, ())


def test_no_step_waits_for_a_pipe(specials, store):
    code = f"""
from pathlib import Path
from tests import toy
print(toy.run(Path({str(specials)!r}), Path({str(store)!r}))[0].changes)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str(Changes(new=1)), done.stderr


# Long paths and deep folders.


def nested(length: int) -> list[bytes]:
    """Folder names that make a path of `length` bytes, the last `/` included."""
    names = [b"n" * 200] * (length // 201)
    rest = length - 201 * len(names)
    if rest == 1:  # a name has a byte at least
        return [*names[:-1], b"n" * 199, b"n"]
    return [*names, b"n" * (rest - 1)] if rest else names


def picture_bytes(tmp_path: Path, seed: int) -> bytes:
    return toy.picture(tmp_path / "of-bytes.png", seed).read_bytes()


def test_a_path_as_long_as_the_system_takes_goes_all_the_way_and_one_byte_more_is_out_of_reach(tmp_path, deep, store):
    room = PATH_MAX - 1 - len(os.fsencode(deep)) - 1 - len(b"1.png")
    longest = odd.nest(deep, nested(room), picture_bytes(tmp_path, 1))
    assert len(full(deep, longest)) == PATH_MAX - 1
    _, version = toy.run(deep, store)
    assert paths(scan_folder(deep)) == [longest]
    assert scan_folder(deep).unreadable == ()
    assert version.counts["ok"] == 1
    assert toy.plan(deep, store).changes == Changes(unchanged=1)
    too_long = odd.nest(deep, nested(room), picture_bytes(tmp_path, 2), b"10.png")
    scan = scan_folder(deep)
    assert paths(scan) == [longest]
    assert scan.unreadable == (os.path.dirname(too_long) + b"/",)


@pytest.mark.parametrize("beyond", [0, 1, 2, 1000, 8000])
def test_a_folder_out_of_reach_costs_only_itself(tmp_path, deep, store, beyond):
    odd.file(deep, b"cat/1.png", 1)
    odd.nest(deep, nested(PATH_MAX - len(os.fsencode(deep)) - 2 + beyond), b"out of reach")
    scan = scan_folder(deep)
    assert paths(scan) == [b"cat/1.png"]
    (prefix,) = scan.unreadable
    assert prefix.startswith(b"n" * 200 + b"/")
    planned, _ = toy.run(deep, store)
    assert planned.changes == Changes(new=1)


def test_what_went_out_of_reach_is_not_taken_for_removed(tmp_path, deep, store):
    odd.file(deep, b"cat/1.png", 1)
    far = odd.nest(deep, nested(PATH_MAX - len(os.fsencode(deep)) - 100), picture_bytes(tmp_path, 2))
    _, version = toy.run(deep, store)
    assert version.counts["ok"] == 2
    longer = deep.rename(deep.with_name("deep" + "r" * 200))
    planned, version = toy.run(longer, store)
    assert planned.changes == Changes(unchanged=2)
    assert far in version.read_files(toy.space(longer, store).store)["path"].to_pylist()
    longer.rename(deep)
    assert toy.plan(deep, store).changes == Changes(unchanged=2)


def test_what_is_removed_beside_what_is_out_of_reach_is_removed(tmp_path, deep, store):
    odd.file(deep, b"cat/1.png", 1)
    odd.file(deep, b"cat/2.png", 2)
    odd.nest(deep, [b"cat", *nested(PATH_MAX)], b"out of reach")
    toy.run(deep, store)
    (deep / "cat" / "2.png").unlink()
    assert toy.plan(deep, store, allow_removals=True).changes == Changes(unchanged=1, removed=1)


def test_folders_deeper_than_python_recurses_go_all_the_way(tmp_path, deep, store):
    path = odd.nest(deep, [b"d"] * (sys.getrecursionlimit() + 100), picture_bytes(tmp_path, 1))
    assert labels(scan_folder(deep)) == {path: "d"}
    _, version = toy.run(deep, store)
    assert version.counts["ok"] == 1
    assert toy.plan(deep, store).changes == Changes(unchanged=1)


# Many files.

# What is asked of a folder of `count` files, of bytes of their own: a version of them, and the plan after changes.
MANY = """
import json, os, resource, sys
from dataclasses import asdict
from pathlib import Path
from storage.planning.plan import finish
from storage.manifest.versions import commit
from tests import toy

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

root, count = Path(sys.argv[1]), int(sys.argv[2])
toy.run(toy.pictures(root / "few"), root / "few-store")  # everything imported, every pool at its size
before, images, store = peak(), root / "images", root / "store"
first = toy.plan(images, store, limit=0)
where = toy.space(images, store).store
commit(where, None, *finish(where, first, []))
part = count // 100
for number in range(part):
    (images / "many" / f"{number}.png").unlink()
    (images / "many" / f"{number + part}.png").rename(images / "many" / f"moved {number}.png")
    (images / "many" / f"{number + 2 * part}.png").rename(images / "other" / f"{number}.png")
    (images / "many" / f"{number + 3 * part}.png").write_bytes(b"changed %d" % number)
    (images / "many" / f"new {number}.png").write_bytes(b"new %d" % number)
second = toy.plan(images, store)
print(json.dumps({
    "first": asdict(first.changes), "second": asdict(second.changes), "todo": second.todo.num_rows,
    "ignored": second.ignored, "bytes": peak() - before,
}))
"""


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_files_in_one_folder_are_counted_right_in_bounded_memory(tmp_path, count):
    for name in ("many", "other"):
        (tmp_path / "images" / name).mkdir(parents=True)
    for number in range(count):
        (tmp_path / "images" / "many" / f"{number}.png").write_bytes(b"%d" % number)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", MANY, tmp_path, str(count)], cwd=PROJECT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    part = count // 100
    assert found["first"] == vars(Changes(new=count))
    assert found["second"] == vars(
        Changes(new=part, changed=part, moved=part, relabelled=part, unchanged=count - 4 * part, removed=part)
    )
    assert found["todo"] == count
    assert found["ignored"] == 0
    # 1,900 bytes a file were measured with 100,000 of them, beside some 25 MB for threads and buffers; anything that
    # kept pairs of files, or a folder's files once a file, would be over by orders of magnitude.
    assert found["bytes"] < 64e6 + 4_000 * count
