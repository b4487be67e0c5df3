"""The database of a run's own Prefect server: which file it is, and what happens to one that cannot be used."""

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from flows.cli.server_database import find_database
from storage.layout import Store
from tests import toy
from tests.flows.conftest import PROJECT, TINY


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine"))
    return tmp_path / "machine/extract-and-train/prefect-server"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", "0" * 32)


def write(path: Path, revision: str | None = "abc", rows: int = 0) -> None:
    """A database with a revision and rows; of a migration that did not end, if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE runs (name)")
        database.executemany("INSERT INTO runs VALUES (?)", [("run " * 1000,)] * rows)
        if revision is not None:
            database.execute("CREATE TABLE alembic_version (version_num)")
            database.execute("INSERT INTO alembic_version VALUES (?)", (revision,))


def runs_in(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT count(*) FROM runs").fetchone()[0]


def test_a_first_database_is_new_and_becomes_the_template_of_the_next_store(store, tmp_path):
    first = find_database(store, "1.0")
    assert (first.is_new, first.path.exists(), first.path.parent.parent) == (True, False, store.cache)
    write(first.path, rows=3)  # as the server does
    first.keep_template()
    other = find_database(Store(tmp_path / "other", "0" * 32), "1.0")
    assert (other.is_new, runs_in(other.path)) == (False, 3)
    assert not find_database(store, "1.0").is_new
    assert [path.name for path in first.template.parent.iterdir()] == ["1.0.db"]


def test_each_version_of_prefect_has_a_database_of_its_own(store):
    older = find_database(store, "1.0")
    write(older.path, revision="old")
    older.keep_template()
    newer = find_database(store, "2.0")
    assert newer.is_new
    write(newer.path, revision="new")
    newer.keep_template()
    assert not find_database(store, "1.0").is_new


def test_the_past_runs_of_a_store_stay_when_there_is_a_template(store, machine):
    write(machine / "1.0.db")
    path = find_database(store, "1.0").path
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT INTO runs VALUES ('kept')")
    assert runs_in(find_database(store, "1.0").path) == 1


def damage(path: Path, kind: str) -> None:
    if kind == "text":
        path.write_bytes(b"no database " * 1000)
    elif kind == "truncated":
        write(path, rows=50)
        os.truncate(path, path.stat().st_size // 2)
    elif kind == "empty":
        path.touch()
    else:
        write(path, revision=None if kind == "migration that did not end" else "of a newer Prefect")


KINDS = ["text", "truncated", "empty", "migration that did not end", "another revision"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_database_that_cannot_be_used_is_set_aside_with_one_line(store, machine, caplog, kind):
    write(machine / "1.0.db", rows=1)
    path = store.cache / "prefect-server/1.0.db"
    path.parent.mkdir(parents=True)
    damage(path, kind)
    before = path.read_bytes()
    assert runs_in(find_database(store, "1.0").path) == 1
    (line,) = caplog.messages
    aside = Path(line.rpartition(" is ")[2])
    assert aside.read_bytes() == before
    assert ("of another Prefect" in line) == (kind == "another revision")


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a_damaged_template_is_replaced(store, machine, kind):
    machine.mkdir(parents=True)
    damage(machine / "1.0.db", kind)
    database = find_database(store, "1.0")
    assert database.is_new
    write(database.path, rows=2)
    database.keep_template()
    assert runs_in(machine / "1.0.db") == 2


@pytest.mark.parametrize("has_template", [False, True])
def test_a_server_that_was_stopped_while_it_migrated_goes_on_where_it_was(store, machine, caplog, has_template):
    first = find_database(store, "1.0")
    write(first.path, revision="half")
    if has_template:  # another store's run has made it meanwhile
        write(machine / "1.0.db", revision="whole")
    again = find_database(store, "1.0")
    assert (again.is_new, again.path, caplog.text) == (True, first.path, "")
    with closing(sqlite3.connect(again.path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'whole'")
    again.keep_template()
    assert not find_database(store, "1.0").is_new
    first.path.unlink()
    find_database(store, "1.0")
    assert not find_database(store, "1.0").is_new, "a copy of the template is whole"
    assert not find_database(Store(store.root.with_name("other"), "0" * 32), "1.0").is_new


def test_a_machine_without_a_cache_makes_no_template(store, machine, caplog):
    database = find_database(store, "1.0")
    write(database.path)
    machine.parent.mkdir(parents=True)
    machine.touch()  # a file in place of the folder
    database.keep_template()
    assert "migrates its database again" in caplog.text
    assert not find_database(store, "1.0").is_new


def test_a_store_that_cannot_hold_a_database_has_it_in_the_cache_of_the_machine(store, machine, tmp_path, caplog):
    write(machine / "1.0.db")
    store.cache.mkdir(parents=True)
    (store.cache / "prefect-server").touch()  # a file in place of the folder
    path = find_database(store, "1.0").path
    assert path.is_relative_to(machine)
    assert "cannot hold the list of runs" in caplog.text
    asked = find_database(Store(tmp_path / "what?", "0" * 32), "1.0").path
    assert asked.is_relative_to(machine)
    assert asked != path


def test_no_folder_for_a_database_is_told_in_one_line(store, machine, tmp_path):
    store.cache.mkdir(parents=True)
    (store.cache / "prefect-server").touch()
    machine.parent.mkdir(parents=True)
    machine.touch()
    with pytest.raises(OSError, match="set XDG_CACHE_HOME"):
        find_database(store, "1.0")


@pytest.mark.slow
def test_a_database_that_the_server_refuses_is_told_with_advice_that_works_as_it_is_typed(without_server, tmp_path):
    """Without a template nothing shows that a newer Prefect migrated it. The database in PREFECT_HOME does not matter."""
    images, store = toy.pictures(tmp_path / "images"), tmp_path / "a store"
    home = Path(without_server["PREFECT_HOME"])
    write(home / "prefect.db", revision="of a newer Prefect")
    before = (home / "prefect.db").read_bytes()
    (template,) = (tmp_path / "machine").rglob("*.db")
    kept = template.rename(tmp_path / "kept")
    write(store / "cache/prefect-server" / template.name, revision="of a newer Prefect")

    def run() -> subprocess.CompletedProcess:
        words = ["flows/pipeline.py", "--images", images, "--store", store, *TINY, "--extract-only"]
        return subprocess.run([sys.executable, *words], env=without_server, cwd=PROJECT, capture_output=True, text=True)

    done = run()
    line = done.stderr.strip().splitlines()[-1]
    assert (done.returncode, "did not start" in line) == (1, True), done.stderr
    kept.rename(template)
    subprocess.run(["sh", "-c", re.findall("`([^`]*)`", line)[0]], check=True)
    done = run()
    assert done.returncode == 0, done.stderr
    assert (home / "prefect.db").read_bytes() == before
