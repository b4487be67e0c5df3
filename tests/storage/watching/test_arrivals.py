"""A watcher over real folders that others write to, and over a real S3 server."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.backend.paths import Place
from storage.errors import InputError
from storage.source.scan import scan_folder
from storage.source.scan_table import Scan
from storage.source.walk import SCAN_SCHEMA
from storage.watching.arrivals import Announced, Arrival, WatchTiming, arrivals
from storage.watching.mounts import file_system, mounts
from storage.watching.notifier import Events, Polling, notifier
from storage.watching.open_files import incomplete
from tests import toy
from tests.flows.conftest import PROJECT

QUIET = 0.15


class Watcher(threading.Thread):
    """Watches a folder and takes down what it announces."""

    def __init__(self, images: Place, memory: Path, how: str = "auto", quiet: float = QUIET, most_seconds: float = 60):
        super().__init__(daemon=True)
        self.told: list[Arrival] = []
        self.looks = 0
        self._images, self._announced = images, Announced(memory)
        self.how, self._timing = how, WatchTiming(quiet, most_seconds, poll_seconds=QUIET)
        self._is_over = threading.Event()

    def run(self):
        with notifier(self._images, self.how) as notices:
            for arrival in arrivals(self._look, notices, self._announced, self._timing):
                if arrival:
                    self.told.append(arrival)
                    self._announced.remember(arrival)
                if self._is_over.is_set():
                    break

    def _look(self) -> Scan:
        self.looks += 1
        return scan_folder(self._images)

    def stop(self):
        self._is_over.set()
        self.join()

    def counts(self) -> list[tuple[int, int, int]]:
        return [(arrival.new, arrival.changed, arrival.gone) for arrival in self.told]

    def until(self, condition: Callable[[], object]):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.counts()
            assert self.is_alive()
            time.sleep(0.02)

    def has_looked_again(self, times: int = 4):
        """Wait until it has looked so often that it would have told of whatever there is."""
        before = self.looks
        self.until(lambda: self.looks >= before + times)


@contextmanager
def watching(images: Place, memory: Path, **options):
    watcher = Watcher(images, memory, **options)
    watcher.start()
    try:
        yield watcher
    finally:
        watcher.stop()


class Both:
    """Two watchers of one folder: one waits for events, the other lists it."""

    def __init__(self, watchers: list[Watcher]):
        self._watchers = watchers

    def have_told(self, *counts: tuple[int, int, int]):
        """Wait until each has made as many announcements, and compare their counts."""
        for watcher in self._watchers:
            watcher.until(lambda watcher=watcher: len(watcher.told) >= len(counts))
        for watcher in self._watchers:
            assert watcher.counts() == list(counts), watcher.how

    def have_looked_again(self):
        for watcher in self._watchers:
            watcher.has_looked_again()

    def last(self) -> list[Arrival]:
        return [watcher.told[-1] for watcher in self._watchers]


@contextmanager
def both_watching(images: Path, memory: Path, **options):
    with (
        watching(images, memory / "by events", how="events", **options) as one,
        watching(images, memory / "by listing", how="listing", **options) as other,
    ):
        yield Both([one, other])


def test_a_burst_makes_one_announcement_of_all_its_images(images, tmp_path):
    pictures = [toy.picture(tmp_path / "elsewhere" / f"{i}.png", 9000 + i) for i in range(50)]
    with both_watching(images, tmp_path / "memory", quiet=1.0) as watchers:
        watchers.have_told((20, 0, 0))
        for path in pictures:
            path.rename(images / "cats" / f"new {path.name}")
        watchers.have_told((20, 0, 0), (50, 0, 0))
        watchers.have_looked_again()
        watchers.have_told((20, 0, 0), (50, 0, 0))


def test_a_file_that_is_still_written_is_not_announced_however_long_nothing_comes(images, tmp_path):
    data = toy.picture(tmp_path / "elsewhere.png", 9000).read_bytes()
    with both_watching(images, tmp_path / "memory") as watchers:
        watchers.have_told((20, 0, 0))
        with open(images / "cats" / "slow.png", "wb", buffering=0) as file:
            file.write(data[: len(data) // 2])
            watchers.have_looked_again()
            watchers.have_told((20, 0, 0))
            file.write(data[len(data) // 2 :])
        watchers.have_told((20, 0, 0), (1, 0, 0))
        for arrival in watchers.last():
            sizes = {row["path"]: row["size"] for row in arrival.scan.files.to_pylist()}
            assert sizes[b"cats/slow.png"] == len(data)


def test_where_images_never_stop_arriving_the_complete_ones_are_announced_all_the_same(images, tmp_path):
    data = (images / "cats" / "000.png").read_bytes()
    with (
        watching(images, tmp_path / "memory", most_seconds=0.5) as watcher,
        open(images / "dogs" / "open.png", "wb", buffering=0) as file,
    ):
        number = 0
        while len(watcher.told) < 3:
            file.write(data)
            (images / "cats" / f"{number:05d}.png").write_bytes(data)
            number += 1
            time.sleep(0.05)
            assert number < 2000
        for arrival in watcher.told:
            assert b"dogs/open.png" not in arrival.scan.files["path"].to_pylist()
    assert all(arrival.new for arrival in watcher.told)


def test_what_is_deleted_moved_or_changed_is_noticed(images, tmp_path):
    changes = [
        (lambda: (images / "cats" / "000.png").unlink(), (0, 0, 1)),
        (lambda: (images / "cats" / "001.png").rename(images / "dogs" / "moved.png"), (1, 0, 1)),
        (lambda: toy.picture(images / "cats" / "002.png", 9000), (0, 1, 0)),
        (lambda: (images / "cats").rename(images / "lions"), (8, 0, 8)),
    ]
    with both_watching(images, tmp_path / "memory") as watchers:
        expected = [(20, 0, 0)]
        watchers.have_told(*expected)
        for change, counts in changes:
            change()
            expected.append(counts)
            watchers.have_told(*expected)


def test_what_is_no_image_is_not_announced(images, tmp_path):
    with watching(images, tmp_path / "memory", how="events") as watcher:
        watcher.until(lambda: len(watcher.told) == 1)
        (images / "cats" / "notes.txt").write_text("nothing to see")
        (images / "cats" / ".half.png").write_bytes(b"still written under another name")
        watcher.has_looked_again()
        assert len(watcher.told) == 1


def test_a_folder_that_is_away_for_a_while_does_not_end_the_watching(images, tmp_path):
    with both_watching(images, tmp_path / "memory") as watchers:
        watchers.have_told((20, 0, 0))
        images.rename(tmp_path / "away")
        watchers.have_looked_again()
        toy.picture(tmp_path / "away" / "cats" / "new.png", 9000)
        (tmp_path / "away").rename(images)
        watchers.have_told((20, 0, 0), (1, 0, 0))


def test_a_folder_that_is_not_there_is_an_error_at_the_start(tmp_path):
    looks = arrivals(
        lambda: scan_folder(tmp_path / "nowhere"),
        Polling(),
        Announced(tmp_path / "memory"),
        WatchTiming(poll_seconds=0),
    )
    with pytest.raises(InputError, match="nowhere"):
        next(looks)


def test_what_could_not_be_announced_comes_again(images, tmp_path):
    announced, timing = Announced(tmp_path / "memory"), WatchTiming(0.01, 60, 0.01)
    found = (arrival for arrival in arrivals(lambda: scan_folder(images), Polling(), announced, timing) if arrival)
    assert [next(found).new, next(found).new] == [20, 20]
    toy.picture(images / "cats" / "new.png", 9000)
    last = next(arrival for arrival in found if arrival.new == 21)
    announced.remember(last)
    (images / "cats" / "new.png").unlink()
    assert (lambda arrival: (arrival.new, arrival.gone))(next(found)) == (0, 1)


WATCHER = """
import json, sys
from pathlib import Path
from storage.watching.arrivals import Announced, WatchTiming, arrivals
from storage.watching.notifier import notifier
from storage.source.scan import scan_folder
images, announced = Path(sys.argv[1]), Announced(Path(sys.argv[2]))
with notifier(images) as notices:
    for arrival in arrivals(lambda: scan_folder(images), notices, announced, WatchTiming(0.2, 60, 60)):
        if arrival:
            announced.remember(arrival)
            print(json.dumps([arrival.new, arrival.changed, arrival.gone]), flush=True)
"""


@contextmanager
def watching_process(images: Path, memory: Path):
    """A watcher in a process of its own, which ends by kill -9."""
    with subprocess.Popen(
        [sys.executable, "-c", WATCHER, str(images), str(memory)], cwd=PROJECT, stdout=subprocess.PIPE
    ) as process:
        try:
            yield lambda: json.loads(process.stdout.readline())
        finally:
            process.kill()


def test_a_watcher_that_was_killed_goes_on_where_it_was(images, tmp_path):
    with watching_process(images, tmp_path / "memory") as told:
        assert told() == [20, 0, 0]
        toy.picture(images / "cats" / "seen.png", 8000)
        assert told() == [1, 0, 0]
    toy.picture(images / "cats" / "new.png", 9000)
    toy.picture(images / "cats" / "001.png", 9001)
    (images / "dogs" / "000.png").unlink()
    with watching_process(images, tmp_path / "memory") as told:
        assert told() == [1, 1, 1]


@pytest.mark.parametrize("content", [b"", b"ARROW1", None])
def test_a_memory_that_cannot_be_read_announces_everything_again(images, tmp_path, content):
    with watching(images, tmp_path / "memory", how="listing") as watcher:
        watcher.until(lambda: watcher.told)
    (path,) = (tmp_path / "memory").iterdir()
    path.unlink() if content is None else path.write_bytes(content)
    with watching(images, tmp_path / "memory", how="listing") as watcher:
        watcher.until(lambda: watcher.told)
        assert watcher.counts() == [(20, 0, 0)]


def test_objects_that_arrive_in_a_bucket_are_announced(bucket, tmp_path):
    for name in ("cats/1.png", "dogs/2.png"):
        (bucket / name).write_bytes(name.encode())
    with watching(bucket, tmp_path / "memory") as watcher:
        watcher.until(lambda: len(watcher.told) == 1)
        (bucket / "cats/3.png").write_bytes(b"new")
        (bucket / "cats/1.png").write_bytes(b"other bytes")
        (bucket / "dogs/2.png").unlink()
        watcher.until(lambda: sum(map(sum, watcher.counts())) == 5)
    with watching(bucket, tmp_path / "memory") as watcher:
        watcher.has_looked_again()
        assert watcher.told == []


files = st.dictionaries(st.sampled_from([b"a/1.png", b"a/2.png", b"b/1.png", b"b/2.png"]), st.integers(0, 2))


def scanned(sizes: dict[bytes, int]) -> Scan:
    rows = [(path, size, 1, 1, path[:1].decode(), None) for path, size in sorted(sizes.items())]
    columns = zip(*rows, strict=True) if rows else [()] * len(SCAN_SCHEMA)
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, SCAN_SCHEMA, strict=True)]
    return Scan(Path("/images"), pa.Table.from_arrays(arrays, schema=SCAN_SCHEMA), 0, (), 1)


@given(before=files, now=files, later=files, data=st.data())
def test_counts_are_those_of_sets_and_unfinished_files_come_once_they_are_finished(
    tmp_path_factory, before, now, later, data
):
    announced = Announced(tmp_path_factory.mktemp("memory") / "memory")
    announced.remember(announced.arrival(scanned(before), SCAN_SCHEMA.empty_table()))
    arrived = {path for path, size in now.items() if before.get(path) != size}
    assert set(announced.arrived(scanned(now))["path"].to_pylist()) == arrived

    unfinished = data.draw(st.sets(st.sampled_from(sorted(arrived)))) if arrived else set()
    arrival = announced.arrival(scanned(now), scanned({path: now[path] for path in unfinished}).files)
    finished = arrived - unfinished
    assert arrival.new == len(finished - before.keys())
    assert arrival.changed == len(finished & before.keys())
    assert arrival.gone == len(before.keys() - now.keys())
    announced.remember(arrival)
    rest = announced.arrival(scanned(now), SCAN_SCHEMA.empty_table())
    assert (rest.new + rest.changed, rest.gone) == (len(unfinished), 0)
    announced.remember(rest)
    assert announced.arrival(scanned(now), SCAN_SCHEMA.empty_table()).is_empty


def test_a_file_is_being_written_from_its_opening_to_its_closing_and_reading_it_does_not_count(images):
    rows = scan_folder(images).files.slice(0, 1)
    path = images / os.fsdecode(rows["path"][0].as_py())
    with open(path, "rb"):
        assert incomplete(images, rows).num_rows == 0
    with open(path, "ab"):
        assert incomplete(images, rows).num_rows == 1
    assert incomplete(images, rows).num_rows == 0


def test_a_file_of_a_far_date_is_complete(images):
    os.utime(images / "cats/000.png", ns=(10**19, 10**19))
    assert incomplete(images, scan_folder(images).files).num_rows == 0


def test_what_was_written_between_its_scan_and_the_check_is_not_complete_until_it_is_scanned_again(images):
    path = images / "cats" / "000.png"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    half = scan_folder(images).files
    path.write_bytes(data)  # opened, written and closed: nobody writes to it when it is asked about
    assert incomplete(images, half)["path"].to_pylist() == [b"cats/000.png"]
    assert incomplete(images, scan_folder(images).files).num_rows == 0


TABLE = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:25 / /mnt/our\\040share rw,relatime shared:9 - nfs4 server:/photos rw
31 22 0:26 / /mnt/our rw,relatime - fuse.sshfs someone@there:/ rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/mnt/our share/cats", "nfs4"), ("/mnt/our", "fuse.sshfs"), ("/mnt/ours", "ext4"), ("/", "ext4")],
)
def test_a_folder_lies_on_the_file_system_mounted_nearest_above_it(folder, kind):
    assert file_system(Path(folder), TABLE) == kind


def test_a_folder_of_this_machine_is_watched_by_events_and_a_mount_by_listing(images, monkeypatch):
    with notifier(images) as notices:
        assert isinstance(notices, Events)
    monkeypatch.setattr("storage.watching.notifier.mounts", lambda: f"1 1 0:1 / {images} rw - cifs //there/photos rw\n")
    with notifier(images) as notices:
        assert isinstance(notices, Polling)
    with notifier(images, "events") as notices:
        assert isinstance(notices, Events)


@pytest.mark.parametrize("inode", ["its own", "that of the folder before it"])
def test_events_go_on_where_the_folder_is_made_again(images, monkeypatch, inode):
    if inode != "its own":
        monkeypatch.setattr("storage.watching.notifier._identity", lambda folder: (1, 1) if folder.exists() else None)
    with notifier(images, "events") as notices:
        assert not notices.wait(0.2)
        shutil.rmtree(images)
        notices.rest(0.4, 10)
        toy.pictures(images)
        notices.wait(10)  # it is another folder, which is to be looked at
        notices.rest(0.2, 10)
        toy.picture(images / "cats" / "new.png", 9000)
        assert notices.wait(10)


def wait_on(notices) -> None:
    """Wait without end: an event of the folder may end one wait before the signal comes."""
    while True:
        notices.wait(60)


def test_a_signal_ends_the_waiting_as_what_it_is(images):
    class Told(Exception):
        pass

    def tell(number, frame):
        raise Told

    before = signal.signal(signal.SIGUSR1, tell)
    try:
        for how in ("events", "listing"):
            with notifier(images, how) as notices:
                threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
                with pytest.raises(Told):
                    wait_on(notices)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_this_machine_says_what_its_folders_lie_on(tmp_path):
    assert file_system(tmp_path, mounts())
