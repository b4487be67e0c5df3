"""Images without labels: every image below a folder, or every file that a list names, exactly once."""

import os
import shlex
from pathlib import Path

import pytest

from storage.errors import InputError
from storage.source.listing import list_images
from storage.source.unlabelled import Inbox, check_target, is_list, scan_inbox
from tests import toy


def shown(inbox: Inbox) -> list[bytes]:
    return [inbox.names.get(path, path) for path in inbox.scan.files["path"].to_pylist()]


def readable(inbox: Inbox, cache: Path) -> bool:
    """Whether every scanned file can be read at its path."""
    files = list_images(inbox.scan, cache).files
    return files.num_rows == inbox.scan.files.num_rows and not files["digest"].null_count


def test_images_of_any_depth_and_name_come_once_in_order_of_path(tmp_path):
    names = [b"a.png", b"b/c.JPG", b"b/d/e/f/g/h.webp", b"train/cats/x.png", b"x-\xff.png", b"new\nline.png"]
    for number, name in enumerate(names):
        toy.picture(Path(os.fsdecode(os.path.join(os.fsencode(tmp_path / "in"), name))), number)
    for other in (".hidden.png", "notes.txt", "b/.cache/x.png"):
        toy.picture(tmp_path / "in" / other, 1)
    inbox = scan_inbox(tmp_path / "in")
    assert shown(inbox) == sorted(names)
    assert readable(inbox, tmp_path / "cache")


def test_a_list_names_files_as_it_likes(tmp_path, monkeypatch):
    toy.pictures(tmp_path / "photos", per_class=2)
    os.symlink(tmp_path / "photos" / "dogs", tmp_path / "link")
    (tmp_path / "no-suffix").write_bytes((tmp_path / "photos/cats/001.png").read_bytes())
    lines = [
        "photos/cats/000.png",
        "./photos//cats/000.png",  # the same file, so one row
        f"{tmp_path}/photos/cats/001.png",
        "link/../dogs/000.png",  # as the kernel resolves it
        "no-suffix",
        "gone.png",
        "photos",
        "",
        "  photos/dogs/001.png  ",
    ]
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    monkeypatch.chdir("/")
    inbox = scan_inbox(tmp_path / "list.txt")
    expected = [lines[0], lines[2], lines[3], lines[4], lines[8].strip()]
    assert sorted(shown(inbox)) == sorted(line.encode() for line in expected)
    assert inbox.missing == (b"gone.png", b"photos")
    assert readable(inbox, tmp_path / "cache")


def test_a_list_may_name_bytes_that_are_no_text(tmp_path):
    name = b"x-\xff\xfe.png"
    toy.picture(Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))), 1)
    (tmp_path / "list.txt").write_bytes(name)
    assert shown(scan_inbox(tmp_path / "list.txt")) == [name]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "names no file"),
        (b"\n \r\n", "names no file"),
        ("a.png".encode("utf-16"), "UTF-8"),
        (b"gone.png\nlost.png", "none of the 2 paths"),
    ],
    ids=["empty", "blank", "utf-16", "gone"],
)
def test_a_list_that_names_nothing_is_refused(tmp_path, data, told):
    (tmp_path / "list.txt").write_bytes(data)
    with pytest.raises(InputError, match=told):
        scan_inbox(tmp_path / "list.txt")


def test_the_advice_for_a_list_works(tmp_path):
    """A relative path starts at the folder of its list, as the refusal says."""
    picture = toy.picture(tmp_path / "photos" / "a.png", 1)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.txt").write_text("photos/a.png")
    with pytest.raises(InputError, match="absolute or relative to") as error:
        scan_inbox(tmp_path / "lists" / "list.txt")
    folder = Path(shlex.split(str(error.value))[-1])
    (tmp_path / "lists" / "list.txt").write_text(os.path.relpath(picture, folder))
    assert len(shown(scan_inbox(tmp_path / "lists" / "list.txt"))) == 1


def test_one_image_is_shown_by_its_name(tmp_path):
    picture = toy.picture(tmp_path / "deep" / "a.png", 1)
    inbox = scan_inbox(picture)
    assert shown(inbox) == [b"a.png"]
    assert readable(inbox, tmp_path / "cache")


def test_the_prefix_of_a_bucket_is_a_folder(bucket, tmp_path):
    picture = toy.picture(tmp_path / "a.png", 1)
    for name in ("a.png", "deep/er/b.png", "notes.md"):
        (bucket / "inbox" / name).write_bytes(picture.read_bytes())
    inbox = scan_inbox(bucket / "inbox")
    assert shown(inbox) == [b"a.png", b"deep/er/b.png"]
    assert readable(inbox, tmp_path / "cache")


def test_nothing_there_is_refused(tmp_path):
    for name in ("gone", "gone.png", "gone.txt"):
        with pytest.raises(InputError):
            check_target(tmp_path / name)
        assert not is_list(tmp_path / name)
