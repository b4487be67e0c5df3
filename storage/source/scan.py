"""Scan a folder: list the names, sizes and times of its images without opening a file."""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from storage.backend.paths import Place, is_local
from storage.errors import InputError
from storage.source.folder_layout import CLASSES, FolderLayout, Layout, text, tree_of
from storage.source.ignored import SHOWN, kind_counts
from storage.source.labels import Label, read_labels
from storage.source.layout_guess import guess
from storage.source.matching import Rows
from storage.source.precedent import Precedent, agreed
from storage.source.scan_table import Scan
from storage.source.walk import SUFFIXES, Labeller, ObjectWalk, Walk, is_hidden
from storage.text import count, first_few, quoted, visible

logger = logging.getLogger(__name__)


def scan_folder(
    root: Place,
    layout: Layout = "auto",
    labels: Place | None = None,
    outside_links: bool = False,
    precedent: Callable[[], Precedent | None] | None = None,
) -> Scan:
    """List the images below `root` with stat calls only. Lists an object store page by page.

    layout: `classes` takes the first folder level as the class. `splits` expects folders of splits, with folders of
    classes in them or above them. `auto` guesses which (layout_guess.py), in agreement with the version that
    `precedent` returns. Below the class, files may lie at any depth.
    labels: a table; the images are then exactly the files that it names, whatever their folders and suffixes.
    outside_links: also follow links that lead out of `root`. By default these are skipped with a warning; other links
    are always followed.
    Raises InputError if `root` is not a folder that can be listed, if the table cannot be used, or if `labels` comes
    with a layout other than `auto`. A doubtful layout does not raise here: a plan refuses it.
    """
    scanned_ns = time.time_ns()
    check_folder(root)
    if labels is not None and layout != "auto":
        raise InputError(
            f"`layout={layout}` takes the labels from folders and `labels` from a table; give only one of them"
        )
    if labels is not None:
        walk, files, found = _scan_by_table(root, labels, outside_links)
    else:
        walk, files, found = _scan_by_folders(root, layout, outside_links, precedent)
    warn_of(root, walk)
    return Scan(root, files, walk.ignored.number, tuple(sorted(walk.unreadable)), scanned_ns, found)


def _scan_by_table(root: Place, labels: Place, outside_links: bool) -> tuple[Walk | ObjectWalk, pa.Table, FolderLayout]:
    rows = Rows(read_labels(labels, root), labels, root)
    walk = walk_folder(root, rows.label, CLASSES, outside_links)
    files, said = rows.matched(walk.rows.table(), is_whole=not walk.unreadable)
    if said:
        logger.warning("%s", said)
    remarks = [*_of_system(walk), *walk.ignored.summary()]
    splits = {label.split for label in rows.labels.values()}
    if "train" in splits and not splits & {None, "validation"}:
        remarks.append("there are no validation rows: `validation_fraction` of the training images is held out")
        files = _with_labels(files, files["class"], pc.if_else(pc.equal(files["split"], "train"), None, files["split"]))
    return walk, files, FolderLayout((), tuple(remarks))


def _scan_by_folders(
    root: Place, layout: Layout, outside_links: bool, precedent: Callable[[], Precedent | None] | None
) -> tuple[Walk | ObjectWalk, pa.Table, FolderLayout]:
    walk = walk_folder(root, _first_folder, CLASSES, outside_links)
    unknown = {text(folder.partition(b"/")[0]) for folder in walk.unreadable}
    found = guess(tree_of(walk.images), str(root), layout, unknown)
    version = precedent() if precedent and layout == "auto" else None
    if version is not None:
        found = agreed(found, walk.images.keys(), version)
    if walk.has_links and not found.is_plain:  # which links count twice depends on the class folders
        walk = walk_folder(root, _first_folder, found, outside_links)
    seen = walk.rows.table()
    files = seen if found.is_plain else _labelled(seen, found)
    if outside := seen.num_rows - files.num_rows:
        walk.ignored.kinds["in no class folder"] += outside
    unread = _unread(walk, found, files)
    remarks = (
        *_of_system(walk),
        *_empty(walk, unread),
        *walk.ignored.summary(),
        *_without_image(unread),
        *found.remarks,
    )
    return walk, files, replace(found, remarks=remarks)


def walk_folder(root: Place, label: Labeller, layout: FolderLayout, outside_links: bool) -> Walk | ObjectWalk:
    """Walk a folder or a prefix. layout: says which folders belong to a class, in which a linked folder counts once."""
    if is_local(root):
        walk: Walk | ObjectWalk = Walk(
            os.fsencode(root), lambda folder: layout.label(folder) is not None, label, outside_links
        )
    else:
        walk = ObjectWalk(root, label)
    walk.folders()
    return walk


def _first_folder(prefix: bytes, name: bytes) -> Label | None:
    """The label of an image: its first folder is the class. None if the file is no image, or in no folder."""
    if is_hidden(name) or not prefix or not name.lower().endswith(SUFFIXES):
        return None
    return Label(text(prefix.partition(b"/")[0]), None)


def _labelled(files: pa.Table, layout: FolderLayout) -> pa.Table:
    """The files that have a label, with class and split set to it."""
    by_folder: dict[bytes, Label | None] = {}
    labels: list[Label | None] = []
    for path in files["path"].to_pylist():
        folder = path[: path.rfind(b"/") + 1]
        if folder not in by_folder:
            by_folder[folder] = layout.label(folder)
        labels.append(by_folder[folder])
    names = pa.array([label and label.name for label in labels], pa.string())
    splits = pa.array([label and label.split for label in labels], pa.string())
    return _with_labels(files, names, splits, names.is_valid())


def _with_labels(files: pa.Table, names: pa.Array, splits: pa.Array, mask: pa.Array | None = None) -> pa.Table:
    columns = {name: files[name] for name in files.column_names} | {"class": names, "split": splits}
    table = pa.table(columns)
    return (table if mask is None else table.filter(mask)).cast(files.schema).combine_chunks()


def _of_system(walk: Walk | ObjectWalk) -> Iterator[str]:
    if walk.system:
        yield f"skipped {count(len(walk.system), 'system folder')}, for example {visible(walk.system[0])}"


def _empty(walk: Walk | ObjectWalk, unread: Mapping[Label, Counter[str]]) -> Iterator[str]:
    """A line on the first folders that do not influence the layout and that no other line names."""
    holding = {folder.partition(b"/")[0] for folder in (*walk.images, *walk.unreadable)}
    holding |= {folder for folder in walk.first_folders if Label(text(folder), None) in unread}
    if empty := [visible(name) for name in sorted(walk.first_folders) if name not in holding]:
        yield f"ignored folders without images: {first_few(empty)}"


def _unread(walk: Walk | ObjectWalk, layout: FolderLayout, files: pa.Table) -> dict[Label, Counter[str]]:
    """(class, split) whose files include no image → the kinds of those files."""
    pairs = files.group_by(["class", "split"]).aggregate([]).select(["class", "split"])
    there = {Label(*pair) for pair in zip(*pairs.to_pydict().values(), strict=True)}
    found: dict[Label, Counter[str]] = {}
    for folder, kinds in sorted(walk.ignored.folders.items()):
        label = layout.label(folder)
        if label is not None and label not in there and set(kinds) != {"hidden"}:
            found.setdefault(label, Counter()).update(kinds)
    return found


def _without_image(unread: Mapping[Label, Counter[str]]) -> Iterator[str]:
    for label, kinds in list(unread.items())[:SHOWN]:
        where = f" in {label.split}" if label.split else ""
        yield f"warning: class {quoted(label.name)} has no image files{where}, only {kind_counts(kinds)}"
    if len(unread) > SHOWN:
        yield f"warning: no image files in {count(len(unread) - SHOWN, 'more class', 'more classes')}"


def warn_of(root: Place, walk: Walk | ObjectWalk) -> None:
    """Log warnings about what a walk could not read or did not follow."""
    if walk.outside:
        logger.warning(
            "skipped %s out of %s, for example %s; `outside_links` follows them",
            count(len(walk.outside), "link that leads", "links that lead"),
            root,
            ascii(os.fsdecode(walk.outside[0])),
        )
    if isinstance(walk, ObjectWalk) and walk.nameless:
        logger.warning(
            "skipped %s with an empty name in %s, for example %s: it cannot be listed; copy its images to keys without //",
            count(len(walk.nameless), "folder"),
            root,
            visible(walk.nameless[0] + b"/"),
        )
    if walk.unreadable:
        logger.warning(
            "cannot read %s, for example %s: the store keeps its images as they were",
            count(len(walk.unreadable), "folder"),
            os.path.join(str(root), os.fsdecode(walk.unreadable[0])),
        )


def check_folder(root: Place) -> None:
    """Raise InputError if `root` is not a folder that can be listed, or is a prefix with nothing below it."""
    try:
        if isinstance(root, Path):
            os.scandir(os.fsencode(root)).close()
        else:
            root.fs.ls(root.path, detail=True)
    except FileNotFoundError:
        missing = f"no folder {root}" if isinstance(root, Path) else f"nothing below {root}"
        raise InputError(f"`images`: there is {missing}") from None
    except NotADirectoryError:
        raise InputError(f"`images`: {root} is a file; expected the folder that contains the class folders") from None
    except OSError as error:
        raise InputError(f"`images`: {root} cannot be listed: {error.strerror or error}") from error
