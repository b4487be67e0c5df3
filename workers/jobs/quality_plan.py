"""Plan the measurement of pictures: the images of a version that have no figures yet, cut into chunks."""

from dataclasses import asdict

import pyarrow as pa
import pyarrow.compute as pc

from storage.manifest.file_table import usable
from storage.manifest.versions import Version
from storage.planning.chunks import cut
from storage.reading.figures import read_figures
from storage.records import sha256
from storage.schemas import TODO_SCHEMA
from storage.shards.view_ids import PLAIN
from storage.source.scan_files import write_table
from workers.jobs.quality import SCHEMA, quality_folder
from workers.jobs.records import PlanRecord, Space


def plan_pictures(space: Space, version: Version, chunk_size: int | None) -> PlanRecord:
    """The plan, saved in the cache: one row per digest without figures, with the first of its files."""
    files = usable(version.read_files(space.store))
    known = read_figures(quality_folder(space), SCHEMA)["digest"].combine_chunks()
    new = files.filter(pc.invert(pc.is_in(files["digest"], known)))
    digests = new["digest"].combine_chunks()
    first = pc.index_in(digests.unique(), digests)
    todo = new.select(["digest", "path", "split"]).take(first).sort_by("digest")
    plain = pa.array([[PLAIN]] * todo.num_rows, TODO_SCHEMA.field("views").type)
    none = pa.array([[]] * todo.num_rows, TODO_SCHEMA.field("twins").type)
    todo = todo.append_column("views", plain).append_column("twins", none).cast(TODO_SCHEMA).combine_chunks()
    folder = space.store.cache / "quality-plans" / sha256(b"".join(todo["digest"].to_pylist()))[:32]
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "todo", todo)
    sizes = cut(todo.num_rows, chunk_size)
    return PlanRecord(
        path=str(folder),
        space=space,
        parent=version.number,
        images=todo.num_rows,
        format="parquet",
        num_chunks=sizes.num_chunks(todo.num_rows),
        needs_commit=False,
        counts={},
        **asdict(sizes),
    )
