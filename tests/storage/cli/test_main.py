"""`python -m storage` as people call it: what it says, what each flag does, and how it ends."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from storage.backend.lock import hold
from storage.cli.main import main
from storage.heads.current import promote_head
from storage.layout import Store
from storage.manifest.space import create_space, spaces
from storage.manifest.versions import commit
from storage.records import fingerprint
from storage.schemas import FILES_SCHEMA, ROWS_SCHEMA
from tests import toy
from tests.storage.backend.test_atomic import full_disk

CALLS = [["show"], ["show", "--version", "2"], ["history"], ["diff", "1", "4"], ["export", "--out", "OUT"]]
OTHER_SPEC = toy.SPEC.record() | {"image_size": 64}
OTHER = fingerprint(OTHER_SPEC)


@pytest.fixture
def copied(lived_in: Path, tmp_path: Path) -> Path:
    """A copy of the store, to be harmed or added to."""
    return shutil.copytree(lived_in, tmp_path / "store")


@pytest.fixture
def two_spaces(copied: Path) -> Path:
    """The store with a second feature space, whose one version is empty."""
    other = Store(copied, OTHER)
    create_space(other, OTHER_SPEC)
    commit(other, None, FILES_SCHEMA.empty_table(), ROWS_SCHEMA.empty_table(), {})
    return copied


def say(capsys, store: Path, *arguments: object) -> list[str]:
    """The lines on standard output of a call that works."""
    status = main([str(argument) for argument in (*arguments, "--store", store)])
    captured = capsys.readouterr()
    assert (status, captured.err) == (0, "")
    return captured.out.splitlines()


def complaint(capsys, *arguments: object) -> tuple[int, str]:
    """Exit status and the one line of the error."""
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    return status, line


def as_process(store: Path, *arguments: object, **options) -> subprocess.Popen:
    call = [sys.executable, "-m", "storage", *map(str, arguments), "--store", str(store)]
    return subprocess.Popen(call, cwd=Path(__file__).parents[3], stderr=subprocess.PIPE, **options)


def test_show_tells_the_newest_version_and_names_files_on_one_line_each(capsys, lived_in):
    lines = say(capsys, lived_in, "show")
    assert lines[0] == f"feature space {spaces(lived_in)[0].fingerprint}"
    assert any("vgg16" in line and "32 x 32" in line for line in lines)
    assert "  20 images: 18 ok, 0 pending, 2 quarantined" in lines
    assert "      cats/two\\nlines.png" in lines
    table = [line.split() for line in lines if line.startswith("    ")]
    assert ["cats", "6"] in [[row[0], row[-1]] for row in table]
    assert ["caf\\xe9s", "2"] in [[row[0], row[-1]] for row in table]


def test_show_tells_an_older_version_when_asked(capsys, lived_in):
    lines = say(capsys, lived_in, "show", "--version", 1)
    assert any(line.startswith("  version 1 (the newest is 4)") for line in lines)
    assert "  16 images: 10 ok, 6 pending, 0 quarantined" in lines


def test_show_tells_the_heads_of_a_space_and_what_is_wrong_with_others(capsys, two_spaces):
    (own, other) = spaces(two_spaces)
    for name, space, accuracy in (("a" * 32, own, 0.95), ("b" * 32, own, 0.98), ("c" * 32, other, 0.5)):
        record = {"fingerprint": space.fingerprint, "version": 3, "created": "2025-09-01T12:00:00+00:00"}
        toy.head(own, name, record | {"metrics": {"val_accuracy": accuracy}}, b"a model")
    for name, content in (("d" * 32, None), ("e" * 32, b"{"), ("f" * 32, b"\xff")):
        own.head(name).mkdir()
        if content:
            (own.head(name) / "head.json").write_bytes(content)
    promote_head(own, "b" * 32)
    lines = say(capsys, two_spaces, "show", "--space", own.fingerprint)
    heads = [line.split() for line in lines if line.strip()[:32] in {letter * 32 for letter in "abcdef"}]
    assert [(words[0][0], words[1]) for words in heads] == [
        ("a", "3"),
        ("b", "3"),
        ("d", "no"),
        ("e", "head.json"),
        ("f", "head.json"),
    ]
    assert [words[0][0] for words in heads if words[-1] == "current"] == ["b"]
    assert heads[1][2] == "0.9800"
    (own.heads / "current").write_bytes(b"\xff")
    assert not any(line.endswith("current") for line in say(capsys, two_spaces, "show"))


def test_history_has_one_line_a_version(capsys, lived_in):
    head, *lines = say(capsys, lived_in, "history")
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "4"]
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    assert [row[2:6] for row in cells] == [
        ["16", "10", "6", "0"],
        ["16", "16", "0", "0"],
        ["19", "17", "0", "2"],
        ["20", "18", "0", "2"],
    ]
    assert [row[6] for row in cells[:3]] == ["16 new", "6 only in status", "4 new, 1 moved, 1 relabelled, 1 removed"]
    assert cells[3][6].startswith("1 new, 1 changed")
    assert [row[7].partition("(")[2] for row in cells] == ["10 rows)", "6 rows)", "2 rows)", "1 row)"]
    assert head.split()[:2] == ["version", "date"]


def test_history_says_where_a_version_is_gone(capsys, copied):
    (space,) = spaces(copied)
    (space.versions / f"{2:020d}.json").unlink()
    lines = say(capsys, copied, "history")
    assert [line.split()[0] for line in lines[1:]] == ["1", "3", "4"]
    assert "unknown: version 2 is gone" in lines[2]


def test_the_words_of_history_are_those_of_the_differences(capsys, lived_in):
    history = say(capsys, lived_in, "history")
    for number in (2, 3, 4):
        (changes,) = [
            line for line in say(capsys, lived_in, "diff", number - 1, number) if line.startswith("changes: ")
        ]
        assert changes.removeprefix("changes: ") in history[number]


def test_diff_names_each_image_that_is_not_what_it_was(capsys, lived_in):
    lines = say(capsys, lived_in, "diff", 2, 3)
    assert lines[-7:] == [
        "new         caf\\xe9s/\\xff0\\x1b[31m.png",
        "new         caf\\xe9s/\\xff1\\x1b[31m.png",
        "new         cats/broken.png: quarantined (not_image)",
        "new         cats/two\\nlines.png: quarantined (zero_byte)",
        "moved       cats/000.png → cats/zzz.png",
        "relabelled  cats/001.png → dogs/was a cat.png: cats → dogs",
        "removed     cats/002.png",
    ]
    back = say(capsys, lived_in, "diff", 3, 2)
    assert "relabelled  dogs/was a cat.png → cats/001.png: dogs → cats" in back
    assert "removed     cats/broken.png" in back


def test_diff_shows_as_many_images_as_its_limit(capsys, lived_in):
    every = say(capsys, lived_in, "diff", 2, 3, "--limit", 0)
    assert say(capsys, lived_in, "diff", 2, 3, "--limit", 2) == [*every[:-5], "... and 5 more; --limit 0 shows all"]


def test_export_writes_what_its_flags_say(capsys, lived_in, tmp_path):
    out = tmp_path / "out"
    wanted = ["dogs", "cats"]
    arguments = ["--out", out, "--split", "train", "--classes", ",".join(wanted), "--version", 2, "--format", "npz"]
    (line,) = say(capsys, lived_in, "export", *arguments)
    files = list((out / "train").iterdir())
    size_bytes = sum(path.stat().st_size for path in files)
    assert line.startswith(f"{len(files)} files, {size_bytes / 1000:.1f} kB, in {out}: train")
    assert {path.name for path in out.iterdir()} == {"train", "classes.json"}
    record = json.loads((out / "classes.json").read_text())
    assert (record["classes"], record["version"]) == (wanted, 2)
    first = json.loads((out / "classes.json").read_text())["classes"].index("cats")
    with np.load(out / "train" / f"0_{first}.npz", allow_pickle=False) as arrays:  # cats/... is the first path
        assert arrays["label"] == 1


@pytest.mark.parametrize("call", [["show"], ["history"], ["diff", "1", "1"], ["export", "--out", "OUT"]])
def test_space_chooses_one_of_several_by_the_beginning_of_its_fingerprint(capsys, two_spaces, tmp_path, call):
    own = spaces(two_spaces)[0].fingerprint
    call = [str(tmp_path / "out") if word == "OUT" else word for word in call]
    if call[0] == "show":
        assert [line for line in say(capsys, two_spaces, *call) if line.startswith("feature space")] == [
            f"feature space {own}",
            f"feature space {OTHER}",
        ]
        call = ["show", "--version", "1"]
    status, line = complaint(capsys, *call, "--store", two_spaces)
    assert status == 2
    assert f"{own} (image_size 32" in line
    assert f"{OTHER} (image_size 64" in line
    status, line = complaint(capsys, *call, "--store", two_spaces, "--space", "nothing")
    assert (status, OTHER in line) == (2, True)
    assert say(capsys, two_spaces, *call, "--space", own[:5])


def test_the_store_is_the_folder_store_unless_said_otherwise(capsys, copied, monkeypatch):
    monkeypatch.chdir(copied.parent)
    assert main(["history"]) == 0
    assert capsys.readouterr().out.splitlines() == say(capsys, copied, "history")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "show|history|diff|similar"),
        (["look"], "look"),
        (["show", "--colour", "red"], "--colour"),
        (["show", "--vers", "1"], "--vers"),
        (["show", "--version", "one"], "--version"),
        (["show", "--version", "9"], "there is no version 9"),
        (["diff", "1"], "V2"),
        (["diff", "1", "9"], "has 1 to 4"),
        (["diff", "-1", "1"], "there is no version -1"),
        (["diff", "1", "2", "--limit", "-1"], "--limit"),
        (["export"], "--out"),
        (["export", "--out", "OUT", "--format", "parquet"], "parquet"),
        (["export", "--out", "OUT", "--split", "val"], "val"),
        (["export", "--out", "OUT", "--split", "test"], "only in train, validation"),
        (["export", "--out", "OUT", "--classes", ""], "--classes"),
        (["export", "--out", "OUT", "--version", "0"], "has 1 to 4"),
        (["export", "--out", "."], "is not empty"),
    ],
)
def test_arguments_that_cannot_work_end_with_2_and_one_line(
    capsys, lived_in, tmp_path, monkeypatch, arguments, expected
):
    monkeypatch.chdir(tmp_path)
    Path("something").touch()
    status, line = complaint(capsys, *arguments, *(["--store", lived_in] if arguments else []))
    assert (status, expected in line) == (2, True), line
    assert not Path("OUT").exists()


def test_a_path_that_is_no_store_ends_with_2(capsys, tmp_path):
    (tmp_path / "file").touch()
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n")
    for path, expected in (
        (tmp_path / "none", "no folder"),
        (tmp_path / "file", "no folder"),
        (tmp_path, "not a store"),
        (strange, "/\\xff\\n;"),
    ):
        status, line = complaint(capsys, "show", "--store", path)
        assert (status, expected in line) == (2, True), line


def test_a_space_without_a_version_is_shown_and_has_no_history(capsys, tmp_path):
    create_space(Store(tmp_path, OTHER), OTHER_SPEC)
    assert any("no version yet" in line for line in say(capsys, tmp_path, "show"))
    status, line = complaint(capsys, "history", "--store", tmp_path)
    assert (status, "no version yet" in line) == (2, True)


@pytest.mark.parametrize("harmed", ["versions/*4.json", "segments/files-*", "segments/rows-*", "space.json"])
def test_a_damaged_store_ends_with_1_and_one_line(capsys, copied, harmed):
    for path in copied.glob(f"{'[0-9a-f]' * 32}/{harmed}"):
        path.write_bytes(b"\xff")
    assert complaint(capsys, "show", "--store", copied)[0] == 1


def test_a_missing_shard_is_shown_and_ends_an_export_with_1(capsys, copied, tmp_path):
    shutil.rmtree(spaces(copied)[0].shards)
    assert any("missing" in line for line in say(capsys, copied, "show"))
    status, line = complaint(capsys, "export", "--store", copied, "--out", tmp_path / "out")
    assert (status, "is missing" in line, "0 of 18 files" in line) == (1, True, True)


def test_a_full_disk_ends_an_export_with_1_and_one_line(capsys, lived_in, tmp_path):
    with full_disk(size_bytes=1000):
        status, line = complaint(capsys, "export", "--store", lived_in, "--out", tmp_path / "out")
    assert (status, "File too large" in line, "0 of 18 files" in line) == (1, True, True)


def test_nothing_in_the_store_changes_and_its_lock_is_not_wanted(capsys, copied, tmp_path):
    def state() -> dict[Path, tuple]:
        return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in copied.rglob("*")}

    with hold(copied):
        before = state()
        for call in CALLS:
            assert say(capsys, copied, *(tmp_path / "out" if word == "OUT" else word for word in call))
        assert state() == before


def test_neither_prefect_nor_tensorflow_nor_the_rooms_above_are_loaded():
    code = "import storage.__main__, sys; print(sorted(set(sys.modules) & {'prefect', 'tensorflow', 'keras', 'tasks', 'vision'}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert done.stdout.strip() == "[]"


def test_a_reader_who_leaves_early_sees_no_complaint(lived_in):
    read, write = os.pipe()
    os.close(read)
    process = as_process(lived_in, "show", stdout=write)
    os.close(write)
    assert process.communicate(timeout=60) == (None, b"")
    assert process.returncode == 0


def test_output_that_cannot_be_written_is_one_line_and_1(lived_in):
    with open("/dev/full", "w") as full:
        process = as_process(lived_in, "history", stdout=full)
    assert process.communicate(timeout=60) == (None, b"error: No space left on device\n")
    assert process.returncode == 1


def test_an_interrupted_export_says_what_is_there(lived_in, tmp_path, monkeypatch):
    """Progress is told after each file, and the one who reads it presses Ctrl-C."""

    class Impatient(io.StringIO):
        def write(self, text: str) -> int:
            if text.startswith("3 of "):
                signal.raise_signal(signal.SIGINT)
            return super().write(text)

    monkeypatch.setattr("storage.cli.commands.REPORT_SECONDS", 0)
    monkeypatch.setattr(sys, "stderr", Impatient())
    assert main(["export", "--store", str(lived_in), "--out", str(tmp_path / "out")]) == 130
    *progress, error = sys.stderr.getvalue().splitlines()
    assert [line.split(",")[0] for line in progress] == ["1 of 18 images", "2 of 18 images"]
    assert error.startswith("error: interrupted; 3 of 18 files")
    assert str(tmp_path / "out") in error
    assert len(list((tmp_path / "out").glob("*/*.npz"))) == 3
    assert not (tmp_path / "out" / "classes.json").exists()


ODD_NUMBERS = ("nan", "inf", "-inf", "-1", "1e999", "0x10", "one", "", "9" * 5000)


@pytest.mark.parametrize("number", ODD_NUMBERS, ids=lambda text: text[:6])
@pytest.mark.parametrize(
    "command",
    [
        ("gc", "--keep", "1", "--grace="),
        ("gc", "--keep="),
        ("gc", "--keep", "1", "--wait="),
        ("compact", "--rows="),
        ("compact", "--wait="),
        ("repair", "--wait="),
        ("quarantine", "--wait="),
        ("show", "--version="),
        ("export", "--out", "nowhere", "--version="),
        ("diff", "1", "2", "--limit="),
    ],
    ids=lambda command: "".join(command[::3]),
)
def test_a_number_that_cannot_be_meant_is_refused_in_one_line(capsys, tmp_path, command, number):
    *others, last = command
    assert main([*others, f"{last}{number}", "--store", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")


@pytest.mark.parametrize("command", [("gc", "--keep", "9" * 400, "--grace", "1e300"), ("show", "--version", "9" * 400)])
def test_a_number_that_is_huge_is_taken_as_it_is(capsys, lived_in, command):
    status = main([*command, "--store", str(lived_in)])
    assert status == (0 if "gc" in command else 2)
    assert len(capsys.readouterr().err.splitlines()) == (0 if status == 0 else 1)
