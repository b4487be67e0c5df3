"""The files of an inspection: a report with pictures, the findings as tables, and the file that a person reviews."""

import csv
import io
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from storage.backend.atomic import replace
from storage.backend.output import replacing
from storage.backend.paths import Place, place
from storage.manifest.versions import Version
from storage.schemas import DIGEST
from storage.text import date, visible
from vision.report.inspection_page import Found, InspectionReport, Picture, Section, render
from vision.report.thumbnails import thumbnail
from vision.specs import FeatureSpec
from workers.jobs.pictures import made
from workers.jobs.records import Space

SCHEMA = pa.schema(
    [
        pa.field("path", pa.binary(), nullable=False),
        pa.field("finding", pa.string(), nullable=False),
        pa.field("partner", pa.binary()),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("class", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("suggested", pa.string()),
        pa.field("digest", DIGEST, nullable=False),
    ]
)
REPORT, PARQUET, CSV, REVIEW = "report.html", "findings.parquet", "findings.csv", "review.csv"
REVIEW_COLUMNS = ("action", "proposal", "path", "class", "finding", "partner", "score", "listed", "split", "digest")
# What usually is done about a finding. A person decides.
PROPOSALS = {"leak": "exclude", "redundant": "exclude", "blank": "exclude", "suspect": "relabel"}
MOST_SHOWN = 36  # of each kind, in the report


def write_files(space: Space, version: Version, table: pa.Table, found: dict[str, Any], out: Path) -> None:
    """Write the four files to the folder. table: SCHEMA. found: the record of the inspection."""
    written = _as_text(table)
    with replacing(out / PARQUET) as path:
        pq.write_table(written, path, compression="zstd")
    with replacing(out / CSV) as path:
        pyarrow.csv.write_csv(written, path)
    replace(out / REVIEW, _review(table))
    page = InspectionReport(
        images=visible(space.images),
        number=version.number,
        committed=date(version.created),
        found=found,
        sections=tuple(_sections(space, version, table, found)),
    )
    replace(out / REPORT, render(page).encode())


def _as_text(table: pa.Table) -> pa.Table:
    """The table with paths as people see them, and digests in hex."""
    columns = {}
    for name in table.schema.names:
        values = table[name]
        if name in ("path", "partner"):
            values = pa.array([path and visible(path) for path in values.to_pylist()], pa.string())
        elif name == "digest":
            values = pa.array([digest.hex() for digest in values.to_pylist()], pa.string())
        columns[name] = values
    return pa.table(columns)


def _review(table: pa.Table) -> bytes:
    """review.csv: the file that `exclude` and `relabel` take once a person has filled in `action`. Paths keep their bytes."""
    sink = io.StringIO(newline="")
    writer = csv.writer(sink)
    writer.writerow(REVIEW_COLUMNS)
    rows = table.to_pylist()
    leaving = {row["path"] for row in rows if PROPOSALS.get(row["finding"]) == "exclude"}
    for row in rows:
        proposal = PROPOSALS.get(row["finding"], "")
        if proposal == "relabel" and row["path"] in leaving:
            proposal = ""  # one decision for an image
        partner = os.fsdecode(row["partner"] or b"")
        own = ["", proposal, os.fsdecode(row["path"]), row["suggested"] or row["class"]]
        writer.writerow(
            [*own, row["finding"], partner, f"{row['score']:.6f}", row["class"], row["split"], row["digest"].hex()]
        )
    return sink.getvalue().encode("utf-8", "surrogateescape")


def _sections(space: Space, version: Version, table: pa.Table, found: dict[str, Any]):
    """A section for each kind of finding that there is, with the pictures of its first images."""
    root = place(space.images) if space.images else None
    shown = {name: table.filter(pc.equal(table["finding"], name)).slice(0, MOST_SHOWN) for name in found["findings"]}
    partners = pa.concat_tables(list(shown.values()))["partner"].drop_null()
    others: dict[bytes, dict[str, Any]] = {}
    for piece in version.file_segments(space.store):
        wanted = piece.filter(pc.is_in(piece["path"], partners.combine_chunks()))
        others |= {row["path"]: row for row in wanted.select(["path", "class", "split", "digest"]).to_pylist()}
    for name, rows in shown.items():
        if rows.num_rows:
            pairs = [(row, others.get(row["partner"])) for row in rows.to_pylist()]
            images = tuple(
                Found(
                    _picture(root, row, space.spec),
                    _picture(root, other, space.spec) if other else None,
                    visible(row["suggested"] or ""),
                    row["score"],
                )
                for row, other in pairs
            )
            yield Section(name, found["findings"][name], images)


def _picture(root: Place | None, row: dict[str, Any], spec: FeatureSpec) -> Picture:
    jpeg, fault = made(root, row["path"], row["digest"], lambda data: thumbnail(data, spec.exif, spec.sixteen_bit))
    return Picture(visible(row["path"]), visible(row["class"]), row["split"], jpeg, fault)
