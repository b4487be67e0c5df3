"""Facts about engines: found once per machine, by one process, and never believed when they are not true."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.vision.engines.test_tensorflow_engine import pixels
from vision.engines import facts, load_engine, unload_engine
from vision.engines.facts import builds, cache_folder, engine_key, kept, known, machine, path_of, remarks
from vision.engines.mnn_engine import MnnEngine
from vision.engines.parity import LARGEST_ERROR

PROJECT = Path(__file__).parents[3]
KEY = {"engine": "one 1.0", "threads": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    yield cache_folder()
    unload_engine()


class Finding:
    """A search that counts how often it runs."""

    def __init__(self, found: dict):
        self.found, self.times = found, 0

    def __call__(self) -> dict:
        self.times += 1
        return self.found


@pytest.fixture
def finding() -> Finding:
    return Finding({"whole": 24, "error": 1.5e-5})


def test_a_fact_is_found_once_and_then_read(finding):
    assert [kept(KEY, finding) for _ in range(3)] == [finding.found] * 3
    assert finding.times == 1
    assert known(KEY) == finding.found


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.1, 5e-324])
def test_a_fact_keeps_its_numbers_to_the_last_digit(value):
    kept(KEY, lambda: {"value": value})
    assert np.array_equal(known(KEY)["value"], value, equal_nan=True)


def test_another_key_has_another_fact(finding):
    kept(KEY, finding)
    for other in ({**KEY, "threads": 2}, {**KEY, "engine": "one 1.1"}, {**KEY, "new": None}):
        assert known(other) is None
        kept(other, finding)
    assert finding.times == 4


def test_a_fact_that_no_longer_holds_is_found_anew_and_replaced(finding, caplog):
    kept(KEY, lambda: {"whole": 48})
    assert kept(KEY, finding, lambda fact: fact["whole"] == 24) == finding.found
    assert known(KEY) == finding.found
    assert "is no longer true: the engine is checked again" in caplog.text
    assert kept(KEY, finding, lambda fact: fact["whole"] == 24) == finding.found
    assert finding.times == 1


DAMAGES = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "no JSON": lambda data: b"\x00\xff" * 9,
    "other JSON": lambda data: b"[1, 2, 3]",
    "a number": lambda data: b"7",
    "another value": lambda data: data.replace(b"24", b"48"),
    "no checksum": lambda data: json.dumps(["", json.loads(data)[1]]).encode(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_fact_is_told_once_and_found_anew(finding, damage, caplog):
    kept(KEY, finding)
    path = path_of(KEY)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert [kept(KEY, finding) for _ in range(3)] == [finding.found] * 3
    assert finding.times == 2
    assert caplog.text.count("is damaged: the engine is checked again") == 1


def test_the_command_deletes_damaged_facts_with_one_line_and_keeps_the_others(finding, cache):
    kept(KEY, finding)
    for number in range(3):
        (cache / f"{number:032x}.json").write_bytes(b"damaged")
    assert remarks() == [f"engine facts: 3 damaged in {cache}, deleted: the engines are checked again"]
    assert remarks() == []
    assert known(KEY) == finding.found


@pytest.mark.parametrize("obstacle", ["a file", "a file above", "a dangling link"])
def test_without_a_usable_folder_a_fact_is_found_each_time_and_the_command_says_so_once(
    finding, obstacle, cache, caplog
):
    cache.parent.parent.mkdir()
    if obstacle == "a file":
        cache.parent.mkdir()
        cache.write_bytes(b"")
    elif obstacle == "a file above":
        cache.parent.write_bytes(b"")
    else:
        cache.parent.symlink_to(cache.parent.parent / "nothing" / "here")
    assert [kept(KEY, finding) for _ in range(2)] == [finding.found] * 2
    assert finding.times == 2
    (line,) = remarks()
    assert line.startswith(f"engine facts cannot be kept in {cache} (")
    assert line.endswith("each worker checks its engine by itself")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_read_but_not_written(finding, cache):
    kept(KEY, finding)
    cache.chmod(0o500)
    assert kept(KEY, finding) == finding.found
    assert len(remarks()) == 1
    cache.chmod(0o700)


def test_a_file_system_without_locks_keeps_facts_all_the_same(finding, monkeypatch, caplog):
    def refused(*arguments):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(facts.fcntl, "flock", refused)
    assert [kept(KEY, finding) for _ in range(2)] == [finding.found] * 2
    assert finding.times == 1
    assert "cannot be locked: No locks available" in caplog.text


def test_an_error_of_the_search_passes_through_and_nothing_is_kept(finding):
    def broken() -> dict:
        raise OSError("no engine")

    with pytest.raises(OSError, match="no engine"):
        kept(KEY, broken)
    assert known(KEY) is None
    assert kept(KEY, finding) == finding.found


FINDER = """
import sys, time
from pathlib import Path
from vision.engines.facts import kept
log, seconds = Path(sys.argv[1]), float(sys.argv[2])
def find():
    with log.open("a") as file:
        file.write("x")
    time.sleep(seconds)
    return {"found": 1}
print(kept({"shared": True}, find), flush=True)
"""


def finder(log: Path, seconds: float) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen([sys.executable, "-c", FINDER, log, str(seconds)], env=environment, stdout=subprocess.PIPE)


def test_of_several_processes_one_finds_and_the_others_wait_for_its_word(tmp_path):
    log = tmp_path / "log"
    processes = [finder(log, 0.5) for _ in range(5)]
    assert {process.communicate()[0] for process in processes} == {b"{'found': 1}\n"}
    assert log.read_text() == "x"


def test_when_the_finder_dies_the_next_process_finds(tmp_path):
    log = tmp_path / "log"
    first = finder(log, 600)
    while not log.exists():
        time.sleep(0.02)
    second = finder(log, 0)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert second.communicate()[0] == b"{'found': 1}\n"
    assert log.read_text() == "xx"


def test_who_has_waited_long_enough_finds_by_itself(tmp_path, finding, monkeypatch, caplog):
    log = tmp_path / "log"
    first = finder(log, 600)
    while not log.exists():
        time.sleep(0.02)
    monkeypatch.setattr(facts, "LONGEST_WAIT_SECONDS", 0.2)
    assert kept({"shared": True}, finding) == finding.found
    assert "another process has held" in caplog.text
    first.kill()
    first.communicate()


@pytest.mark.parametrize("home", [None, "", "relative/folder"])
def test_the_folder_is_below_the_users_home_unless_the_environment_names_another(home, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME") if home is None else monkeypatch.setenv("XDG_CACHE_HOME", home)
    assert cache_folder() == tmp_path / ".cache" / "extract-and-train" / "engines"


def test_the_key_names_all_that_can_change_a_feature(spec, tensors, monkeypatch):
    engine = MnnEngine(spec, tensors, 1)
    own = engine_key(engine, 1)
    assert own["spec"]["weights"] == spec.weights
    assert own["builds"].keys() == {"MNN", "numpy"}
    others = [engine_key(engine, 2), engine_key(MnnEngine(spec, tensors, 1, "block3"), 1)]
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    others.append(engine_key(engine, 1))
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    for name in ("machine", "sources"):
        with monkeypatch.context() as patch:
            patch.setattr(facts, name, lambda: "another")
            others.append(engine_key(engine, 1))
    with monkeypatch.context() as patch:
        patch.setattr(facts, "builds", lambda names: dict.fromkeys(names, "rebuilt"))
        others.append(engine_key(engine, 1))
    assert len({path_of(key) for key in (own, *others)}) == 7
    assert path_of(engine_key(engine, 1)) == path_of(own)


def test_a_machine_has_a_name_and_a_digest_and_a_build_a_version():
    assert machine()["processors"]
    assert len(machine()["digest"]) == 32
    version, digest = builds(("numpy",))["numpy"].split()
    assert (version, len(digest)) == (np.__version__, 16)


@pytest.fixture
def searches(monkeypatch) -> list[str]:
    """What engines measured, and what was held against the reference."""
    found: list[str] = []
    measure, distance = MnnEngine.measure, load_engine.__globals__["distance"]
    monkeypatch.setattr(MnnEngine, "measure", lambda self: (found.append("measure"), measure(self))[1])
    monkeypatch.setitem(load_engine.__globals__, "distance", lambda *of: (found.append("distance"), distance(*of))[1])
    return found


def loaded(spec):
    """Two blocks of the network, which load sooner than all of it."""
    unload_engine()
    return load_engine("mnn", spec, "random", 1, "block3")


def test_an_engine_is_measured_and_checked_once_per_machine_and_computes_the_same_after_it(spec, searches):
    first = loaded(spec)
    features, shapes = first.features(pixels(5)), (first.batch_size, first._whole, first._spare)
    assert searches == ["measure", "distance"]
    again = loaded(spec)
    assert searches == ["measure", "distance"]
    assert (again.batch_size, again._whole, again._spare) == shapes
    assert np.array_equal(again.features(pixels(5)), features)


def test_an_engine_that_computes_other_features_than_it_did_is_checked_again(spec, searches, monkeypatch):
    """Whatever the key may lack: a fact is believed only as long as one picture has the features that it had."""
    loaded(spec)
    run = MnnEngine._run
    monkeypatch.setattr(MnnEngine, "_run", lambda self, *given: run(self, *given) * np.float32(1.01))
    assert "differs from the reference" in loaded(spec).fallback
    assert searches == ["measure", "distance"] * 2


def test_the_bound_of_today_decides_over_a_distance_that_was_kept(spec, searches, monkeypatch):
    assert loaded(spec).fallback is None
    with monkeypatch.context() as patch:
        patch.setitem(LARGEST_ERROR, spec.dtype, 0.0)
        assert "tensorflow replaces mnn" in loaded(spec).fallback
    assert loaded(spec).fallback is None
    assert searches == ["measure", "distance"]


def test_a_failed_check_is_kept_until_the_fact_is_deleted(spec, searches, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(load_engine.__globals__, "distance", lambda *of: {"relative_l2": 0.5})
        assert "differs from the reference by 5.0e-01" in loaded(spec).fallback
    told = loaded(spec).fallback
    assert "differs from the reference by 5.0e-01" in told
    assert str(cache_folder()) in told
    for path in cache_folder().glob("*.json"):
        path.unlink()
    assert loaded(spec).fallback is None
