"""Quarantine: list the unusable images of a version, and release them for another try."""

import pyarrow as pa
import pyarrow.compute as pc

from storage.layout import Store
from storage.manifest.file_table import OK, PENDING, QUARANTINED
from storage.manifest.versions import Version, commit


def quarantined(version: Version, store: Store) -> pa.Table:
    """FILES_SCHEMA of the images that cannot be used, in order of path."""
    files = version.read_files(store)
    return files.filter(pc.equal(files["status"], QUARANTINED))


def without_variants(version: Version, store: Store) -> pa.Table:
    """The same of the images that can be used, and of which the variants could not be made."""
    files = version.read_files(store)
    return files.filter(pc.and_(pc.equal(files["status"], OK), pc.is_valid(files["reason"])))


def release(store: Store, version: Version) -> Version:
    """Commit a version in which every quarantined image is pending and no variants are given up: all are tried again.

    The attempts stay, which tells a later plan that older shards have no say about these images (`Known.retried`).
    """
    files = version.read_files(store)
    is_bad = pc.equal(files["status"], QUARANTINED)
    for name, value in (("status", pc.if_else(is_bad, PENDING, files["status"])), ("reason", pa.nulls(files.num_rows))):
        index = files.schema.get_field_index(name)
        files = files.set_column(index, files.schema.field(index), value.cast(pa.string()))
    return commit(store, version, files, version.read_rows(store), version.shards)
