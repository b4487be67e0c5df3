"""The database of a run's own Prefect server: one per store and Prefect version.

A newer Prefect migrates a database, and an older one then refuses it. PREFECT_HOME belongs to every Prefect of the
machine, so the database lies in the cache of the store, under the version of its Prefect. Migrating an empty database
takes ten seconds, so each machine keeps a migrated one as a template, and a new store gets a copy.
"""

import logging
import os
import shlex
import shutil
import sqlite3
import uuid
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from storage.layout import Store, machine_cache
from storage.records import sha256

logger = logging.getLogger(__name__)

FOLDER = "prefect-server"
URL = "sqlite+aiosqlite:///"


@dataclass(frozen=True)
class Database:
    """The database at `path`, and the template of this machine. is_new: the server has to migrate and fill it."""

    path: Path
    template: Path
    is_new: bool

    @property
    def environment(self) -> dict[str, str]:
        """The settings of a server with this database. A copy of the template has its block types already."""
        return {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"{URL}{self.path}",
            "PREFECT_API_BLOCKS_REGISTER_ON_START": str(self.is_new),
            "PREFECT_MEMOIZE_BLOCK_AUTO_REGISTRATION": "False",  # its memory is in PREFECT_HOME, of all Prefects
        }

    @property
    def way_out(self) -> str:
        return f"remove its database with `rm -f {shlex.quote(str(self.path))}*`"

    def keep_template(self) -> None:
        """Keep a new database as the template, if the cache of this machine takes it. Call before the first run."""
        if not self.is_new:
            return
        _unfinished(self.path).unlink(missing_ok=True)
        temporary = self.template.with_name(f"{uuid.uuid4().hex}.new")
        try:
            self.template.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with closing(_opened(self.path)) as source, closing(sqlite3.connect(temporary)) as copy:
                source.backup(copy)
            os.replace(temporary, self.template)
        except (OSError, sqlite3.Error) as error:
            logger.warning("the next store's first run migrates its database again: %s: %s", self.template, error)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def find_database(store: Store, version: str) -> Database:
    """The database for runs on this store with this version of Prefect. Makes it from the template, if there is one.

    Sets a database aside with a warning if it is damaged or of another Prefect: it only lists past runs. If the file
    system of the store cannot hold a database of SQLite, the cache of this machine does. Raises OSError if neither can.
    """
    machine, name = machine_cache() / FOLDER, f"{version}.db"
    template, elsewhere = machine / name, machine / sha256(str(store.root).encode())[:16]
    for folder in (store.cache / FOLDER, elsewhere):
        path = folder / name
        if "?" in str(path):  # would end the path within a URL
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            is_new = _is_half_made(path) or (not _is_there(path, template) and not _copied(template, path))
            mark = _unfinished(path)
            mark.touch() if is_new else mark.unlink(missing_ok=True)
            return Database(path, template, is_new)
        except (OSError, sqlite3.OperationalError) as error:
            logger.warning("%s cannot hold the list of runs: %s", folder, error)
    raise OSError("no folder can hold the database of the Prefect server; set XDG_CACHE_HOME to a folder that can")


def _unfinished(path: Path) -> Path:
    """The mark of a database that its first server has not filled yet."""
    return path.with_name(f"{path.name}.unfinished")


def _is_half_made(path: Path) -> bool:
    """Whether the first server of a database was stopped while it migrated, or still migrates. The next one goes on."""
    return _unfinished(path).exists() and path.exists() and _revision(path) is not None


def _is_there(path: Path, template: Path) -> bool:
    """Whether there is a database for this Prefect. Any other is set aside."""
    if not path.exists():
        return False
    found, expected = _revision(path), _revision(template) if template.exists() else None
    if found is not None and expected in (None, found):
        return True
    aside, why = path.with_name(f"{path.name}.old"), "damaged" if found is None else "of another Prefect"
    logger.warning("the list of past runs is %s; a new one begins, and the old one is %s", why, aside)
    for end in ("-wal", "-shm"):  # they belong to that database alone
        path.with_name(path.name + end).unlink(missing_ok=True)
    os.replace(path, aside)
    return False


def _copied(template: Path, path: Path) -> bool:
    """Copy the template to `path`. Returns False if there is none, or if it is damaged."""
    if not template.exists() or _revision(template) is None:
        return False
    temporary = path.with_name(f"{uuid.uuid4().hex}.new")
    try:
        shutil.copyfile(template, temporary)
        _use_as_prefect(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _revision(path: Path) -> str | None:
    """The revision of the tables; None for a database that is damaged, or whose first migration did not end.

    Raises sqlite3.OperationalError if the file cannot be read or locked.
    """
    try:
        with closing(_opened(path)) as database:
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
            revision = database.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and "no such table" not in str(error):
            raise
        return None
    return revision[0] if found == "ok" and revision else None


def _use_as_prefect(path: Path) -> None:
    """Write in the mode that Prefect uses. Raises sqlite3.OperationalError on a file system without its locks."""
    with closing(_opened(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA user_version=0")


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=60.0)
