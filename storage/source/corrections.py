"""Apply corrections to the files of a listing: leave out images, or give them another class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import InputError
from storage.schemas import CORRECTIONS_SCHEMA, DIGEST
from storage.source.corrections_file import Correction
from storage.text import count, first_few, quoted, visible


@dataclass(frozen=True)
class Corrected:
    """The corrected files of a listing. applied: CORRECTIONS_SCHEMA, the files that it changed, sorted by path. remarks: lines
    about what it did, and about rows that match no image.
    """

    files: pa.Table
    applied: pa.Table
    remarks: tuple[str, ...]

    @property
    def excluded(self) -> pa.Array:
        """The paths that were left out."""
        return self.applied.filter(self.applied["class"].is_null())["path"].combine_chunks()


def correct(files: pa.Table, corrections: Sequence[Correction]) -> Corrected:
    """Apply corrections to the files of a listing, sorted by path.

    A row with a path is about that file, unless the row has a digest and the file has other bytes now. A file that cannot be read
    now counts as unchanged. A file that moved is found by the
    digest, if one file alone has it. A row without a path is about every file with its digest. Raises InputError if two rows
    contradict each other.
    """
    found, ambiguous, missing = _matched(files, corrections)
    names = dict(found)
    listed = files["class"].to_pylist() if found else []
    changed = sorted(at for at, name in names.items() if name is None or name != listed[at])
    places = pa.array(changed, pa.int64())
    rows = files.select(["path", "digest", "class", "split"]).take(places)
    rows = rows.rename_columns(["path", "digest", "listed", "split"])
    rows = rows.append_column("class", pa.array([names[at] for at in changed], pa.string()))
    applied = rows.select(CORRECTIONS_SCHEMA.names).cast(CORRECTIONS_SCHEMA).combine_chunks()
    remarks = _remarks(corrections, applied, set(listed), len(names) - len(changed), ambiguous, missing)
    return Corrected(_without(_relabelled(files, names), names), applied, tuple(remarks))


def _matched(
    files: pa.Table, corrections: Sequence[Correction]
) -> tuple[dict[int, str | None], list[Correction], list[Correction]]:
    """Place in `files` → class or None, the rows that fit several files, and those that fit none."""
    found: dict[int, str | None] = {}
    ambiguous, missing = [], []
    paths = pa.array([each.path for each in corrections], pa.binary())
    at_path = pc.fill_null(pc.index_in(paths, files["path"].combine_chunks()), -1).to_pylist() if corrections else []
    digests, by_digest = files["digest"], _by_digest(files, corrections)
    for each, at in zip(corrections, at_path, strict=True):
        places = [at] if at >= 0 and (each.digest is None or digests[at].as_py() in (None, each.digest)) else []
        if not places and each.digest is not None:
            places = by_digest.get(each.digest, [])
            if each.path and len(places) > 1:
                ambiguous.append(each)
                continue
        if not places:
            missing.append(each)
        for place in places:
            if found.setdefault(place, each.name) != each.name:
                raise InputError(_contradiction(files["path"][place].as_py(), found[place], each))
    return found, ambiguous, missing


def _by_digest(files: pa.Table, corrections: Sequence[Correction]) -> dict[bytes, list[int]]:
    wanted = pa.array({each.digest for each in corrections if each.digest}, DIGEST)
    found: dict[bytes, list[int]] = {}
    for at in np.flatnonzero(pc.is_in(files["digest"], wanted).to_numpy()).tolist() if len(wanted) else ():
        found.setdefault(files["digest"][at].as_py(), []).append(at)
    return found


def _contradiction(path: bytes, before: str | None, row: Correction) -> str:
    decisions = sorted("excluded" if name is None else f"of the class {quoted(name)}" for name in (before, row.name))
    return f"`{row.option}`: {quoted(visible(path))} shall be {decisions[0]} and {decisions[1]}; keep one of the rows"


def _relabelled(files: pa.Table, names: dict[int, str | None]) -> pa.Table:
    new = {at: name for at, name in names.items() if name is not None}
    if not new:
        return files
    mask = np.zeros(files.num_rows, bool)
    mask[list(new)] = True
    values = pa.array([new[at] for at in sorted(new)], pa.string())
    column = pc.replace_with_mask(files["class"].combine_chunks(), pa.array(mask), values)
    index = files.schema.get_field_index("class")
    return files.set_column(index, files.schema.field(index), column)


def _without(files: pa.Table, names: dict[int, str | None]) -> pa.Table:
    gone = [at for at, name in names.items() if name is None]
    if not gone:
        return files
    mask = np.ones(files.num_rows, bool)
    mask[gone] = False
    return files.filter(pa.array(mask)).combine_chunks()


def _remarks(
    corrections: Sequence[Correction],
    applied: pa.Table,
    classes: set[str],
    unchanged: int,
    ambiguous: Sequence[Correction],
    missing: Sequence[Correction],
) -> list[str]:
    options = dict.fromkeys(f"`{each.option}`" for each in corrections)
    if not options:
        return []
    excluded = applied["class"].null_count
    relabelled = applied.num_rows - excluded
    already = f"; {count(unchanged, 'image')} had the class already" if unchanged else ""
    lines = [f"{' and '.join(options)}: {count(excluded, 'image')} excluded, {relabelled:,} relabelled{already}"]
    created = sorted(set(applied["class"].drop_null().to_pylist()) - classes)
    if created:
        lines.append(f"`relabel` creates the {'class' if len(created) == 1 else 'classes'} {first_few(created)}")
    what = f"of {count(len(corrections), 'row')} in {' and '.join(options)}"
    if missing:
        lines.append(f"warning: {len(missing):,} {what} match no image, for example {_shown(missing[0])}")
    if ambiguous:
        lines.append(
            f"warning: {len(ambiguous):,} {what} name a file that is gone, and several files have its bytes, for example "
            f"{_shown(ambiguous[0])}: name the path that is meant"
        )
    return lines


def _shown(row: Correction) -> str:
    return quoted(visible(row.path)) if row.path else f"the digest {row.digest.hex() if row.digest else ''}"
