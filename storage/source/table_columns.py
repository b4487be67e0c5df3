"""Which columns of a table are `path`, `class` and `split`, and what is said of others that could be."""

import logging

import pyarrow as pa
import pyarrow.compute as pc

from storage.backend.paths import Place
from storage.errors import InputError
from storage.source.splits import splits_of, stems_of, words_of
from storage.text import quoted, visible

logger = logging.getLogger(__name__)

# Paths are bytes: a file's name need not be text. A class may look like a number and stays as written.
COLUMNS = {"path": pa.binary(), "class": pa.string(), "split": pa.string()}
# What others call these columns. Nothing is read so, since a table may have several of them.
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
MOST_SPLITS = 12  # values of a column that tells splits
SPLIT_WORDS = {"train", "training", "test", "testing", "val", "valid", "validation"}
FLAGS = ({"0", "1"}, {"true", "false"}, {"yes", "no"})


def with_our_names(table: pa.Table, file: Place) -> pa.Table:
    """The table with the columns of COLUMNS under these names; `split` may be missing.

    White space around the header's names is left out, and then around the cells too; the names may be in another case.
    A log line tells of each, and of columns that look like `split`. Raises InputError.
    """
    table = _in_lower_case(_stripped(table, file), file)
    _check_columns(table, file)
    _tell_splits_of_other_names(table, file)
    return table


def _stripped(table: pa.Table, file: Place) -> pa.Table:
    """The table with names, and cells where any of our names needs it, without white space around them."""
    names = [name.strip() for name in table.column_names]
    padded = [name for name in table.column_names if name != name.strip() and name.strip() in COLUMNS]
    table = table.rename_columns(names)
    if padded:
        logger.warning(
            "the header of %s has white space in %s: it is left out around names and cells",
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
    """The table with our names for columns that are called so in another case, where no other column is meant."""
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
        logger.warning("the header of %s is read without regard to case: %s", visible(str(file)), read)
    return table.rename_columns([ours.get(name, name) for name in names])


def _are_splits(column: pa.ChunkedArray) -> bool:
    """Whether all that a column says is splits, train and another among them."""
    values = [value.strip() for value in _few_values(column) if value and value.strip()]
    found = {**{name: split for name, (_, split) in stems_of(values).items()}, **splits_of(values)}
    return bool(values) and len(found) == len(set(values)) and {"train"} < set(found.values())


def _few_values(column: pa.ChunkedArray) -> list[str]:
    """The values of a column as text; none where there are many."""
    try:
        for part in (column.slice(0, 1000), column):  # most columns have many values, and most need no second look
            values = part.unique()
            if len(values) > MOST_SPLITS:
                return []
        return pc.cast(values, pa.string()).to_pylist()
    except pa.ArrowException:  # lists, or bytes that are no text
        return []


def _tell_splits_of_other_names(table: pa.Table, file: Place) -> None:
    """Warn of a column that seems to tell the splits, in a table without the column `split`."""
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
                "the column %s of %s looks like splits, and is passed over: a column split with train, validation and "
                "test is read",
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
        hint = " and ".join(f"{quoted(others[0])} {name}" for name, others in like.items() if others)
        raise InputError(
            f"--labels: {visible(str(file))} has no column {missing[0]!r}; expected path, class and maybe split, "
            f"found {found}{hint and f': call {hint}'}"
        )
    twice = [name for name in COLUMNS if table.column_names.count(name) > 1]
    if twice:
        raise InputError(f"--labels: {visible(str(file))} has the column {twice[0]!r} more than once")
