"""Figures of images by digest, in files of the cache: what was measured once is not measured again.

    <store>/cache/figures/<key>/<sha256>.arrow

The files may be deleted at the cost of time.
"""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.backend.atomic import replace
from storage.layout import Store
from storage.records import file_sha256, sha256

logger = logging.getLogger(__name__)


def figures_folder(store: Store, key: str) -> Path:
    """The folder of one kind of figures. key: 32 hex digits, a hash of everything that changes them."""
    return store.cache / "figures" / key


def write_figures(folder: Path, table: pa.Table) -> Path:
    """Write a table with the column `digest` to a file that is named by its bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    data = sink.getvalue().to_pybytes()
    path = folder / f"{sha256(data)}.arrow"
    replace(path, data)
    return path


def read_figures(folder: Path, schema: pa.Schema) -> pa.Table:
    """All figures in a folder, each digest once, in order of digest. Removes damaged files."""
    tables = [schema.empty_table()]
    for path in sorted(folder.glob("*.arrow")):
        if file_sha256(path) != path.stem:
            logger.warning("%s is damaged, so its images are measured again", path)
            path.unlink(missing_ok=True)
            continue
        with pa.memory_map(str(path)) as file:
            tables.append(pa.ipc.open_file(file).read_all().cast(schema))
    table = pa.concat_tables(tables).combine_chunks()
    table = table.take(pc.sort_indices(table["digest"]))
    digests = table["digest"].combine_chunks()
    codes = pc.index_in(digests, digests.unique()).to_numpy()
    return table.take(pa.array(np.unique(codes, return_index=True)[1])).combine_chunks()
