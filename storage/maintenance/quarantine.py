"""Quarantine: list the unusable images of a version, and release them for a retry."""

import pyarrow as pa
import pyarrow.compute as pc

from storage.layout import Store
from storage.manifest.file_table import OK, PENDING, QUARANTINED
from storage.manifest.versions import Version, commit


def quarantined(version: Version, store: Store) -> pa.Table:
    """The quarantined images as a table of FILES_SCHEMA, in order of path."""
    files = version.read_files(store)
    return files.filter(pc.equal(files["status"], QUARANTINED))


def without_variants(version: Version, store: Store) -> pa.Table:
    """The usable images whose variants could not be made, as a table of FILES_SCHEMA, in order of path."""
    files = version.read_files(store)
    return files.filter(pc.and_(pc.equal(files["status"], OK), pc.is_valid(files["reason"])))


def release(store: Store, version: Version) -> Version:
    """Commit a version that marks each quarantined image as pending and no variants as failed, so that a run retries.

    The attempts stay. By them a later plan knows to ignore what older shards record about these images
    (`KnownFailures.retried`).
    """
    files = version.read_files(store)
    is_bad = pc.equal(files["status"], QUARANTINED)
    for name, value in (("status", pc.if_else(is_bad, PENDING, files["status"])), ("reason", pa.nulls(files.num_rows))):
        index = files.schema.get_field_index(name)
        files = files.set_column(index, files.schema.field(index), value.cast(pa.string()))
    return commit(store, version, files, version.read_rows(store), version.shards)
