"""What folders or a table say of the files of a version: its labels without the corrections of a person."""

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc


def undone_classes(
    classes: Mapping[str, Mapping[str, int]], corrections: pa.Table, files: pa.Table
) -> dict[str, dict[str, int]]:
    """Split → class → images, as if nothing had been corrected. files: FILES_SCHEMA. Excluded images count again."""
    found = {split: dict(of) for split, of in classes.items()}
    at = pc.index_in(corrections["path"].combine_chunks(), files["path"].combine_chunks())
    splits = pc.coalesce(files["split"].take(at), corrections["split"], "train").to_pylist()
    for split, listed, name in zip(
        splits, corrections["listed"].to_pylist(), corrections["class"].to_pylist(), strict=True
    ):
        of = found.setdefault(split, {})
        of[listed] = of.get(listed, 0) + 1
        if name is not None:
            of[name] = of.get(name, 0) - 1
    return {split: {name: number for name, number in of.items() if number > 0} for split, of in found.items()}


def undone(pieces: Iterator[pa.Table], corrections: pa.Table) -> Iterator[pa.Table]:
    """Yield pieces of FILES_SCHEMA in which relabelled files have the class of their folder."""
    relabelled = corrections.filter(corrections["class"].is_valid())
    paths, listed = (relabelled[name].combine_chunks() for name in ("path", "listed"))
    for piece in pieces:
        at = pc.index_in(piece["path"].combine_chunks(), paths)
        index = piece.schema.get_field_index("class")
        column = pc.coalesce(listed.take(at), piece["class"].combine_chunks())
        yield piece.set_column(index, piece.schema.field(index), column)
