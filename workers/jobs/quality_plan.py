"""Plan the measurement of pictures: the images of a version that have no figures yet, cut into chunks."""

import shutil
import time
import uuid
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from storage.manifest.file_table import usable
from storage.manifest.versions import Version
from storage.planning.chunks import cut
from storage.reading.figures import read_figures
from storage.schemas import TODO_SCHEMA
from storage.shards.view_ids import PLAIN
from storage.source.scan_files import write_table
from workers.jobs.quality import SCHEMA, quality_folder
from workers.jobs.records import PlanRecord, Space

LEFT_SECONDS = 86_400.0  # a plan this old belongs to an inspection that was killed


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
    folder = _new_folder(space.store.cache / "quality-plans")
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


def remove_plan(plan: PlanRecord) -> None:
    """Remove the files of a plan that is done."""
    shutil.rmtree(plan.path, ignore_errors=True)


def _new_folder(above: Path) -> Path:
    """A folder of its own, so that two inspections never share one. Removes those of inspections that were killed."""
    above.mkdir(parents=True, exist_ok=True)
    for path in above.iterdir():
        if path.stat().st_mtime < time.time() - LEFT_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
    folder = above / uuid.uuid4().hex
    folder.mkdir()
    return folder
