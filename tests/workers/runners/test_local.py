"""Real child processes. Most jobs ask for a head of a version that is missing, or that is a named pipe on which the
child waits. Both happen before TensorFlow loads, so that a child takes one second to start instead of eight."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.states import Failed

from flows.console.exit_status import exit_status, is_foreseen
from storage.errors import InputError, NoRoom, StoreBusy, StoreDamaged
from storage.manifest.space import create_space
from storage.planning.chunks import pack
from storage.planning.plan import Plan
from storage.records import fingerprint
from storage.shards.shard import Shard, ShardRef
from tasks.caching import can_help
from tests import toy
from vision.backbones.weights import weights_digest
from vision.errors import SpecError, WeightsError
from vision.specs import BACKBONES, FeatureSpec
from vision.training.head import HeadSpec
from workers.children.watchdog import Limits
from workers.devices import Slot
from workers.errors import PoolClosed, WorkerDied, WorkerFailed
from workers.jobs.records import ChunkResult, ChunksJob, HeadJob, Space
from workers.runners import local as worker_pool
from workers.runners.local import ChildLease, LocalRunner
from workers.runners.running import runner, running

PROJECT = Path(__file__).parents[3]
SLOT = Slot(None, 1)
LIMITS = Limits(300.0)


def ignore(record: dict) -> None:
    pass


def eventually(is_true: Callable[[], bool]) -> bool:
    """Whether `is_true` becomes true. The time limit only ends a test that has failed."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if is_true():
            return True
        time.sleep(0.02)
    return False


def pid_of(worker: ChildLease) -> int:
    assert worker._process is not None
    return worker._process.pid


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[LocalRunner]:
    made = LocalRunner((SLOT,), tmp_path / "logs")
    yield made
    made.close()


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRunner]:
    """A runner that tests share. They may kill its child, because the next lease replaces it."""
    made = LocalRunner((SLOT,), tmp_path_factory.mktemp("lasting"))
    yield made
    made.close()


@pytest.fixture
def quick(images: Path, store: Path) -> dict:
    """A job that fails at once with StoreDamaged, because there is no version 1."""
    return HeadJob(toy.space(images, store), 1, "a" * 32, HeadSpec(("cats", "dogs")), seed=0).record()


class Pipe:
    """A named pipe in place of a version's file: its readers wait until the test is over."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True)
        os.mkfifo(path)
        self._path = path
        self._writer: int | None = None

    def has_reader(self) -> bool:
        try:
            self._writer = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        return True

    def close(self) -> None:
        if self._writer is not None:
            os.close(self._writer)


@pytest.fixture
def pipe(images: Path, store: Path) -> Iterator[Pipe]:
    made = Pipe(toy.space(images, store).store.versions / f"{1:020d}.json")
    yield made
    made.close()


@pytest.fixture
def endless(pipe: Pipe, quick: dict) -> dict:
    """A job that never finishes, because its version is a pipe to which nobody writes."""
    return quick


def answers_at_once(workers: LocalRunner, quick: dict) -> int:
    """Run a quick job and return the pid of the child that answered."""
    with workers.lease() as worker, pytest.raises(StoreDamaged):
        worker.call("head", quick, ignore, LIMITS)
    with workers.lease() as worker:
        return pid_of(worker)


class Calling(threading.Thread):
    """A lease and a call in their own thread, as in a Prefect task. It keeps the error that the call raises."""

    def __init__(self, workers: LocalRunner, job: dict, kind: str = "head", silence_seconds: float | None = None):
        super().__init__(daemon=True)
        self.raised: BaseException | None = None
        self._arguments = workers, kind, job, silence_seconds
        self.start()

    def run(self) -> None:
        workers, kind, job, silence_seconds = self._arguments
        try:
            with workers.lease() as worker:
                worker.call(kind, job, ignore, Limits(silence_seconds))
        except BaseException as error:
            self.raised = error

    def error(self) -> BaseException | None:
        self.join(60)
        assert not self.is_alive(), "the call never ended"
        return self.raised


# Children that die, hang and are replaced


def test_one_child_answers_job_after_job(lasting, quick):
    assert answers_at_once(lasting, quick) == answers_at_once(lasting, quick)


def test_a_child_killed_in_the_middle_of_a_job_is_replaced_at_the_next_lease(lasting, endless, pipe, quick):
    call = Calling(lasting, endless)
    assert eventually(pipe.has_reader)
    (worker,) = lasting.leases
    killed = pid_of(worker)
    os.kill(killed, signal.SIGKILL)
    error = call.error()
    assert isinstance(error, WorkerDied)
    assert f"child {killed} ended with status -9 during a job of kind head" in str(error)
    assert str(worker.log) in str(error)
    pipe._path.unlink()
    assert answers_at_once(lasting, quick) != killed


def test_a_child_that_is_silent_for_too_long_is_killed(lasting, endless, pipe):
    call = Calling(lasting, endless, silence_seconds=0.5)
    assert isinstance(call.error(), WorkerDied)
    assert not pipe.has_reader()


@pytest.mark.parametrize("wait", [True, False], ids=["a while ago", "a moment ago"])
def test_an_idle_child_that_left_is_replaced_unnoticed(wait, lasting, quick):
    left = answers_at_once(lasting, quick)
    os.kill(left, signal.SIGTERM)
    if wait:
        assert eventually(lambda: not is_running(left))
    assert answers_at_once(lasting, quick) != left


def test_an_idle_child_leaves_in_peace():
    """IDLE_SECONDS is shorter here. The child's standard input stays open, as a parent keeps it."""
    script = "import workers.children.child; workers.children.child.IDLE_SECONDS = 0.1; workers.children.child.main()"
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    status = child.wait(60)
    with child.stdin, child.stdout, child.stderr:
        assert (status, child.stdout.read(), child.stderr.read()) == (0, b"", b"")


def test_a_child_ends_with_its_pipe():
    child = subprocess.Popen([sys.executable, "-m", "workers.children.child"], cwd=PROJECT, stdin=subprocess.PIPE)
    assert child.poll() is None
    child.stdin.close()
    assert child.wait(60) == 0


def test_ctrl_c_is_for_the_parent_to_handle(lasting, quick):
    child = answers_at_once(lasting, quick)
    os.kill(child, signal.SIGINT)
    assert answers_at_once(lasting, quick) == child


@pytest.mark.parametrize("is_busy", [True, False], ids=["in the middle of a job", "idle"])
def test_a_child_leaves_when_its_parent_is_killed(is_busy, endless, quick, pipe, tmp_path):
    if not is_busy:
        pipe._path.unlink()
    script = f"""
import pathlib, sys, threading, time
from workers.devices import Slot
from workers.runners.local import LocalRunner
workers = LocalRunner((Slot(None, 1),), pathlib.Path({str(tmp_path / "logs")!r}))
def call():
    with workers.lease() as worker:
        try:
            worker.call("head", {quick!r}, print)
        except Exception:
            pass
thread = threading.Thread(target=call, daemon=True)
thread.start()
if not {is_busy}:
    thread.join()
while workers.leases[0]._process is None:
    time.sleep(0.01)
print(workers.leases[0]._process.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        try:
            assert eventually(pipe.has_reader) if is_busy else is_running(child)
            assert is_running(child)
        finally:
            parent.kill()
    assert eventually(lambda: not is_running(child))


SILENT = (sys.executable, "-c", "import time; time.sleep(3600)")
LARGE = {"padding": "x" * 2**20}  # characters; a pipe holds a sixteenth of that


def test_a_job_of_any_length_reaches_the_child_whole(raising):
    with raising.lease() as worker:
        for _ in range(2):
            with pytest.raises(InputError, match="1048576"):
                worker.call("head", LARGE | {"error": "InputError(str(len(job['job']['padding'])))"}, ignore, LIMITS)


def test_a_child_that_never_reads_a_long_job_is_given_up(workers, monkeypatch):
    monkeypatch.setattr(worker_pool, "CHILD", SILENT)
    monkeypatch.setattr(worker_pool, "START", Limits(0.3))
    error = Calling(workers, LARGE).error()
    assert isinstance(error, WorkerDied), repr(error)
    assert "could not be started" in str(error)


def test_close_while_a_long_job_is_on_its_way_is_the_end_of_the_run(workers, monkeypatch):
    monkeypatch.setattr(worker_pool, "CHILD", SILENT)
    call = Calling(workers, LARGE)
    assert eventually(lambda: workers.leases[0]._process is not None)
    time.sleep(0.05)  # by now it should be writing; if not, the test checks less, but does not fail
    workers.close()
    assert isinstance(call.error(), PoolClosed)


# Results and errors


def test_errors_of_ours_keep_their_type_and_words(lasting, quick):
    with lasting.lease() as worker, pytest.raises(StoreDamaged, match="version 1 is missing from"):
        worker.call("head", quick, ignore, LIMITS)


def test_errors_of_the_machine_keep_their_type_and_number(lasting, quick, images, store):
    (toy.space(images, store).store.versions / f"{1:020d}.json").mkdir(parents=True)
    with lasting.lease() as worker, pytest.raises(IsADirectoryError) as caught:
        worker.call("head", quick, ignore, LIMITS)
    assert caught.value.errno == 21


def test_an_error_that_nobody_foresaw_leads_to_the_log_with_its_traceback(lasting):
    with lasting.lease() as worker, pytest.raises(WorkerFailed, match="KeyError") as caught:
        worker.call("head", {}, ignore, LIMITS)
    assert str(worker.log) in str(caught.value)
    assert "Traceback" in worker.log.read_text()


RAISING = """
import errno
from storage.errors import *
from vision.errors import SpecError
from vision.errors import WeightsError
import workers.children.child as worker

class Lost(StoreDamaged): pass
class Exhausted(Exception): pass

def perform(job, report):
    raise eval(job["job"]["error"])

worker._perform = perform
worker.main()
"""


@pytest.fixture(scope="module")
def raising(tmp_path_factory) -> Iterator[LocalRunner]:
    """A runner whose child raises the error that a job names."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("workers.runners.local.CHILD", (sys.executable, "-c", RAISING))
        made = LocalRunner((SLOT,), tmp_path_factory.mktemp("raising"))
        with made.lease() as worker, pytest.raises(InputError):
            worker.call("head", {"error": "InputError('it is started')"}, ignore, LIMITS)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("error", "kind", "status", "is_tried_again"),
    [
        ("StoreDamaged('words')", StoreDamaged, 1, False),
        ("Lost('words')", StoreDamaged, 1, False),
        ("InputError('words')", InputError, 2, False),
        ("StoreBusy('words')", StoreBusy, 5, False),
        ("NoRoom('words')", NoRoom, 1, False),
        ("SpecError('words')", SpecError, 2, False),
        ("WeightsError('words')", WeightsError, 2, False),
        ("OSError(errno.EIO, 'words', 'shard')", OSError, 1, True),
        ("OSError(errno.ENOSPC, 'words', 'shard')", OSError, 1, False),
        ("OSError(errno.EIO, 'words', b'shard \\xff')", OSError, 1, True),
        ("OSError(errno.EIO, 'words', 7)", OSError, 1, True),
        ("OSError(errno.EIO, 'words ' * 1000)", OSError, 1, True),
        ("OSError('words')", WorkerFailed, 1, True),
        ("ValueError('words')", WorkerFailed, 1, False),
        ("UnicodeDecodeError('utf-8', b'', 0, 1, 'words')", WorkerFailed, 1, False),
        ("Exhausted('words\\n' * 1000)", WorkerFailed, 1, True),
    ],
    ids=str,
)
def test_an_error_in_a_child_is_one_line_with_its_status_and_is_tried_again_where_that_can_help(
    error, kind, status, is_tried_again, raising
):
    with pytest.raises(kind) as caught, raising.lease() as worker:
        worker.call("head", {"error": error}, ignore, LIMITS)
    assert type(caught.value) is kind
    assert is_foreseen(caught.value), "no traceback on the terminal"
    assert exit_status(caught.value) == status
    assert can_help(Failed(data=caught.value, message="failed")) == is_tried_again
    assert len(str(caught.value)) < 1000
    assert "words" in str(caught.value), "Arrow names the file in them"


# Leases


def test_a_worker_is_leased_to_one_caller_at_a_time(lasting):
    order = []

    def lease() -> None:
        with lasting.lease():
            order.append("second")

    with lasting.lease():
        second = threading.Thread(target=lease)
        second.start()
        time.sleep(0.05)
        order.append("first")
    second.join(60)
    assert order == ["first", "second"]


def test_two_slots_give_two_children(tmp_path, quick):
    workers = LocalRunner((SLOT, SLOT), tmp_path / "logs")
    try:
        with workers.lease() as one, workers.lease() as other:
            for worker in (one, other):
                with pytest.raises(StoreDamaged):
                    worker.call("head", quick, ignore, LIMITS)
            assert pid_of(one) != pid_of(other)
            assert one.log != other.log
    finally:
        workers.close()


def test_a_child_sees_the_gpu_of_its_slot_alone(tmp_path, quick, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    workers = LocalRunner((Slot("7", 1),), tmp_path / "logs")
    try:
        environment = Path(f"/proc/{answers_at_once(workers, quick)}/environ").read_bytes().split(b"\0")
    finally:
        workers.close()
    assert b"CUDA_VISIBLE_DEVICES=7" in environment
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,7"


def test_a_pool_is_made_once_for_its_slots_and_logs(tmp_path):
    assert runner("local", (SLOT,), tmp_path) is runner("local", (SLOT,), tmp_path)
    assert runner("local", (SLOT,), tmp_path) is not runner("local", (SLOT, SLOT), tmp_path)


# The end of a run


def test_close_ends_the_children_and_later_leases_are_refused(workers, quick):
    child = answers_at_once(workers, quick)
    workers.close()
    assert not is_running(child)
    for _ in range(2):
        with pytest.raises(PoolClosed), workers.lease():
            pass


def test_after_a_run_no_child_is_started_for_it_and_the_next_run_has_its_own(tmp_path):
    with running(tmp_path):
        first = runner("local", (SLOT,), tmp_path)
    with pytest.raises(PoolClosed):
        runner("local", (SLOT,), tmp_path)
    with pytest.raises(PoolClosed), first.lease():
        pass
    with running(tmp_path), runner("local", (SLOT,), tmp_path).lease() as worker:
        assert not worker.is_closed


def test_close_ends_a_job_that_is_going_on_and_whoever_waits_for_the_worker(workers, endless, pipe):
    working = Calling(workers, endless)
    assert eventually(pipe.has_reader)
    waiting = Calling(workers, endless)
    child = pid_of(workers.leases[0])
    workers.close()
    assert isinstance(working.error(), PoolClosed)
    assert isinstance(waiting.error(), PoolClosed)
    assert not is_running(child)


def test_close_while_a_child_is_starting_starts_no_other(workers, quick):
    call = Calling(workers, quick)
    (worker,) = workers.leases
    assert eventually(lambda: worker._process is not None)
    workers.close()
    error = call.error()
    assert worker._process is None or not is_running(pid_of(worker))
    assert isinstance(error, PoolClosed), repr(error)


# Extraction: the one child here that loads an engine


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Space:
    folder = tmp_path_factory.mktemp("extraction")
    toy.pictures(folder / "images")
    spec = FeatureSpec(weights_digest(BACKBONES["vgg16"], "random", folder / "memo"), image_size=32)
    return Space(str(folder / "store"), str(folder / "images"), fingerprint(spec.record()), spec, "random")


@pytest.fixture(scope="module")
def plan(space: Space) -> Plan:
    create_space(space.store, space.spec.record())
    return toy.plan(Path(space.images), Path(space.root))


def chunk_job(space: Space, plan: Plan, index: int) -> dict:
    rows = pack(plan.cut.rows(plan.todo, index, 1))
    return ChunksJob(space, rows, index, 1, 8, "parquet", 1, "mnn").record()


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRunner]:
    made = LocalRunner((SLOT,), tmp_path_factory.mktemp("logs"))
    yield made
    made.close()


def test_a_chunk_becomes_a_shard_in_a_child_that_knows_no_prefect(warm, space, plan):
    heard = []
    with warm.lease() as worker:
        answer = worker.call("chunks", chunk_job(space, plan, 0), heard.append, LIMITS)
        child = pid_of(worker)
    (result,) = (ChunkResult(**record) for record in answer)
    assert (result.images, result.rows, result.quarantined, result.skipped) == (8, 8, 0, {})
    shard = Shard(space.store, ShardRef(result.shard, result.size_bytes, result.rows, result.footer_checksum))
    assert shard.read().shape == (8, 1, 1, 512)
    assert shard.metadata["fingerprint"] == space.fingerprint
    assert heard == [{"chunk": 0, "done": 8}, {"finished": answer[0]}]
    # Prefect cannot be imported without pydantic_core, its compiled part.
    mapped = Path(f"/proc/{child}/maps").read_text()
    assert "mnn" in mapped.lower()
    assert "pydantic_core" not in mapped


def test_a_chunk_has_the_same_bytes_whatever_came_before_it_and_the_last_holds_what_is_left(warm, space, plan):
    with warm.lease() as worker:
        results = [
            result for i in (1, 2, 1) for result in worker.call("chunks", chunk_job(space, plan, i), ignore, LIMITS)
        ]
    assert [result["rows"] for result in results] == [8, 4, 8]
    assert results[0]["shard"] == results[2]["shard"] != results[1]["shard"]


def test_close_in_the_middle_of_an_answer_is_the_end_of_the_run_and_no_fault(warm, space, plan):
    """This test kills the warm child, so it must be the last one that uses it."""
    with pytest.raises(PoolClosed), warm.lease() as worker:
        worker.call("chunks", chunk_job(space, plan, 0), lambda _: warm.close(), LIMITS)


def test_weights_that_cannot_be_read_are_a_weights_error(lasting, space, plan):
    job = chunk_job(space, plan, 0)
    job["space"]["weights"] = "/no/such/weights.h5"
    with pytest.raises(WeightsError, match=r"there is no file /no/such/weights\.h5"), lasting.lease() as worker:
        worker.call("chunks", job, ignore, LIMITS)


def test_what_a_child_imports_knows_no_prefect_and_loads_tensorflow_only_with_a_job():
    ours = "workers.children.child, workers.jobs.extract, workers.jobs.train, vision.engines, vision.training.loop"
    script = f"import sys, {ours}; print(*{{'keras', 'tensorflow', 'prefect'}}.intersection(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
