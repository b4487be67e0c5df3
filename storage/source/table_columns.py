"""Find the columns `path`, `class` and `split` of a table, and report other columns that may be meant."""

import logging

import pyarrow as pa
import pyarrow.compute as pc

from storage.backend.paths import Place
from storage.errors import InputError
from storage.source.splits import splits_of, stems_of, words_of
from storage.text import quoted, visible

logger = logging.getLogger(__name__)

# Paths are bytes, because a file's name need not be text. Classes are strings, so that one that looks like a number
# stays as written.
COLUMNS = {"path": pa.binary(), "class": pa.string(), "split": pa.string()}
# Common names of these columns, for hints only. They are never read, because a table may have several of them.
OTHER_NAMES = {
    "path": [
        "filename",
        "file_name",
        "file",
        "filepath",
        "filepaths",
        "file_path",
        "image",
        "image_path",
        "image_name",
        "imagename",
        "img",
        "image_id",
        "id",
    ],
    "class": ["label", "labels", "class_name", "classname", "category", "target", "breed", "species", "diagnosis", "y"],
}
MOST_SPLITS = 12  # distinct values of a column that may hold splits
SPLIT_WORDS = {"train", "training", "test", "testing", "val", "valid", "validation"}
FLAGS = ({"0", "1"}, {"true", "false"}, {"yes", "no"})


def with_our_names(table: pa.Table, file: Place) -> pa.Table:
    """Rename the columns of a table to the names in COLUMNS. `split` may be missing.

    Strips white space around the header's names, and then around the cells too. Ignores the case of the names. Logs a
    warning for each of these, and for columns that look like `split`.
    Raises InputError if a column is missing or occurs twice.
    """
    table = _in_lower_case(_stripped(table, file), file)
    _check_columns(table, file)
    _warn_of_splits_of_other_names(table, file)
    return table


def _stripped(table: pa.Table, file: Place) -> pa.Table:
    """Strip white space around the names, and around the cells if one of the names in COLUMNS has any."""
    names = [name.strip() for name in table.column_names]
    padded = [name for name in table.column_names if name != name.strip() and name.strip() in COLUMNS]
    table = table.rename_columns(names)
    if padded:
        logger.warning(
            "the header of %s has white space around %s: stripped it from the names and the cells",
            visible(str(file)),
            quoted(*padded),
        )
        for index, name in enumerate(names):
            if name in COLUMNS and pa.types.is_string(table.schema.field(index).type):
                table = table.set_column(index, name, pc.utf8_trim_whitespace(table[index]))
            elif name in COLUMNS and pa.types.is_binary(table.schema.field(index).type):
                cells = [cell and cell.strip() for cell in table[index].to_pylist()]
                table = table.set_column(index, name, pa.array(cells, pa.binary()))
    return table


def _in_lower_case(table: pa.Table, file: Place) -> pa.Table:
    """Rename columns that match a name in COLUMNS except for case, if only one column matches."""
    names = table.column_names
    folded = [name.casefold() for name in names]
    ours = {
        name: name.casefold()
        for name, lower in zip(names, folded, strict=True)
        if lower in COLUMNS and folded.count(lower) == 1 and name != lower
    }
    if "split" in ours.values() and not _are_splits(table[folded.index("split")]):
        ours = {name: lower for name, lower in ours.items() if lower != "split"}
    if ours:
        read = ", ".join(f"{quoted(name)} as {lower}" for name, lower in ours.items())
        logger.warning("matched the header of %s ignoring case: %s", visible(str(file)), read)
    return table.rename_columns([ours.get(name, name) for name in names])


def _are_splits(column: pa.ChunkedArray) -> bool:
    """Whether all values of a column mean splits, train and at least one other among them."""
    values = [value.strip() for value in _few_values(column) if value and value.strip()]
    found = {**{name: split for name, (_, split) in stems_of(values).items()}, **splits_of(values)}
    return bool(values) and len(found) == len(set(values)) and {"train"} < set(found.values())


def _few_values(column: pa.ChunkedArray) -> list[str]:
    """The distinct values of a column as text; none if there are more than MOST_SPLITS."""
    try:
        for part in (column.slice(0, 1000), column):  # most columns have many values even in their first rows
            values = part.unique()
            if len(values) > MOST_SPLITS:
                return []
        return pc.cast(values, pa.string()).to_pylist()
    except pa.ArrowException:  # lists, or bytes that are not text
        return []


def _warn_of_splits_of_other_names(table: pa.Table, file: Place) -> None:
    """Warn of a column that seems to hold splits, if the table has no column `split`."""
    if "split" in table.column_names:
        return
    for name in table.column_names:
        if name in COLUMNS or table.column_names.count(name) > 1:
            continue
        is_flag = (
            set(words_of(name)) & SPLIT_WORDS
            and {value.casefold() for value in _few_values(table[name]) if value} in FLAGS
        )
        if is_flag or _are_splits(table[name]):
            logger.warning(
                "ignored the column %s of %s, which looks like splits: only a column named split is used, with the "
                "values train, validation and test",
                quoted(name),
                visible(str(file)),
            )


def _check_columns(table: pa.Table, file: Place) -> None:
    missing = [name for name in ("path", "class") if name not in table.column_names]
    if missing:
        found = quoted(*table.column_names) or "none"
        like = {
            name: [other for other in table.column_names if other.casefold() in OTHER_NAMES[name]] for name in missing
        }
        hint = " and ".join(f"{quoted(others[0])} to {name}" for name, others in like.items() if others)
        raise InputError(
            f"`labels`: {visible(str(file))} has no column {missing[0]!r}; expected path, class and optionally split, "
            f"found {found}{hint and f'; rename {hint}'}"
        )
    twice = [name for name in COLUMNS if table.column_names.count(name) > 1]
    if twice:
        raise InputError(f"`labels`: {visible(str(file))} has the column {twice[0]!r} more than once")
