"""Quarantine: the images of a version that cannot be used, and how they are given another try."""

import pyarrow as pa
import pyarrow.compute as pc

from storage.files import PENDING, QUARANTINED
from storage.layout import Store
from storage.versions import Version, commit


def quarantined(version: Version, store: Store) -> pa.Table:
    """FILES_SCHEMA of the images that cannot be used, in order of path."""
    files = version.read_files(store)
    return files.filter(pc.equal(files["status"], QUARANTINED))


def release(store: Store, version: Version) -> Version:
    """Commit a version in which every quarantined image is pending: the next run tries them again."""
    files = version.read_files(store)
    is_bad = pc.equal(files["status"], QUARANTINED)
    for name, value in (("status", PENDING), ("reason", None)):
        index = files.schema.get_field_index(name)
        column = pc.if_else(is_bad, pa.scalar(value, pa.string()), files[name])
        files = files.set_column(index, files.schema.field(index), column)
    return commit(store, version, files, version.read_rows(store), version.shards)
