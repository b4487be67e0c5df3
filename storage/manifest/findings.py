"""Count images by split and class and warn of likely mistakes, before extraction starts."""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from storage.classes import learnt, names_in, only
from storage.manifest.file_table import QUARANTINED
from storage.source.folder_layout import text
from storage.source.splits import SPLITS, splits_of
from storage.text import columns, count, first_few, folded, quoted, visible

Classes = dict[str, dict[str, int]]  # split → class → images


def findings(files: pa.Table, root: str, chosen: tuple[str, ...] | None = None, by_hash: bool = False) -> list[str]:
    """Lines of the counts by split and class, then a line for each likely mistake. Quarantined images do not count.

    files: FILES_SCHEMA. root: the image folder. chosen: the classes to train on; None means all that can be learnt.
    by_hash: whether the hash of the bytes decides the split of some files.
    """
    live = files.filter(pc.not_equal(files["status"], QUARANTINED))
    classes = class_counts(live)
    names = learnt(classes) if chosen is None else chosen
    trained_on = live.filter(pc.is_in(live["class"], pa.array(names, pa.string())))
    warnings = [
        *_without_images(classes, names, by_hash),
        *_left_out(classes, names, chosen is None),
        *_alone(trained_on, names, root),
        *_padded(names_in(classes)),
        *_similar(names_in(classes)),
        *unusable_classes(files),
        *_same_bytes(trained_on),
    ]
    return [*class_lines(classes, "found images"), *(f"warning: {line}" for line in warnings)]


def class_counts(files: pa.Table) -> Classes:
    """Counts of images: split → class → images."""
    found: Classes = {}
    for row in files.group_by(["split", "class"]).aggregate([([], "count_all")]).to_pylist():
        found.setdefault(row["split"], {})[row["class"]] = row["count_all"]
    return found


def _without_images(classes: Classes, names: Sequence[str], by_hash: bool) -> Iterator[str]:
    """Warn of empty splits, and of classes without training or validation images."""
    chosen = only(classes, names)
    empty = [split for split in ("train", "validation") if not chosen.get(split)]
    if empty:
        yield f"there are no images in {' and '.join(empty)}: the run extracts features but cannot train a head"
    side = "; a hash of the bytes decides the split: add images, or change `validation_fraction`" if by_hash else ""
    untrained = [name for name in names if name not in chosen.get("train", {})]
    if untrained and "train" not in empty:
        yield f"no training images of {first_few(untrained)}: the head cannot learn these classes{side}"
    unseen = [name for name in names if name in chosen.get("train", {}) and name not in chosen.get("validation", {})]
    if unseen and "validation" not in empty:
        yield f"no validation images of {first_few(unseen)}: the accuracy says nothing about them{side}"


def _left_out(classes: Classes, names: Sequence[str], is_by_test: bool) -> Iterator[str]:
    """Warn of classes that no head learns: they have only test images, or `classes` does not name them."""
    others = [name for name in names_in(classes) if name not in names]
    if others and is_by_test:
        yield f"only test images of {first_few(others)}: the head has no output for them, and is not tested on them"
    elif others:
        images = sum(sum(of.values()) for of in only(classes, others).values())
        yield f"`classes` leaves out {count(images, 'image')} of {first_few(others)}"


def _alone(files: pa.Table, names: Sequence[str], root: str) -> Iterator[str]:
    """Warn of a single class, which may be a folder around the class folders."""
    if len(names) != 1:
        return
    (name,) = names
    first = pc.binary_slice(files["path"], 0, len(name.encode()) + 1)
    inside = {path.split(b"/")[1] for path in files["path"].to_pylist() if path.count(b"/") > 1}
    hint = ""
    if len(inside) > 1 and not splits_of(map(text, inside)) and pc.all(pc.equal(first, name.encode() + b"/")).as_py():
        shown = first_few(sorted(map(visible, inside)))
        hint = (
            f"; if the classes are the folders in it, {shown}, give `images={visible(shlex.quote(f'{root}/{name}'))}`"
        )
    yield f"there is only one class, {quoted(name)}, but training needs two{hint}"


def _padded(names: Sequence[str]) -> Iterator[str]:
    padded = [name for name in names if name != name.strip()]
    if padded:
        yield f"classes whose names begin or end with white space: {first_few(padded)}"


def _similar(names: Sequence[str]) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(folded(name), []).append(name)
    similar = [group for group in groups.values() if len(group) > 1]
    if similar:
        shown = "; ".join(", ".join(map(ascii, group)) for group in similar[:5])
        more = f"; and {len(similar) - 5:,} more" if len(similar) > 5 else ""
        yield f"class names that differ only in case, white space or Unicode form: {shown}{more}"


def unusable_classes(files: pa.Table) -> list[str]:
    """A line for each class whose images are all unusable, because no head learns it."""
    bad = files.filter(pc.equal(files["status"], QUARANTINED))
    lost = set(bad["class"].to_pylist()) - set(
        pc.unique(files.filter(pc.not_equal(files["status"], QUARANTINED))["class"]).to_pylist()
    )
    lines = []
    for name in sorted(lost)[:5]:
        reasons = Counter(bad.filter(pc.equal(bad["class"], name))["reason"].to_pylist())
        shown = ", ".join(f"{number:,} {visible(str(reason))}" for reason, number in reasons.most_common(3))
        lines.append(f"class {quoted(name)} has no usable image ({shown}): no head learns it")
    return lines + (
        [f"no usable image in {count(len(lost) - 5, 'more class', 'more classes')}"] if len(lost) > 5 else []
    )


def _same_bytes(files: pa.Table) -> Iterator[str]:
    """Warn of equal bytes in two classes, and of equal bytes in the training split and another one."""
    known = files.filter(pc.is_valid(files["digest"])).select(["digest", "class", "split", "path"])
    groups = known.group_by("digest").aggregate([("class", "count_distinct"), ("split", "count_distinct")])
    shared = groups.filter(pc.greater(groups["class_count_distinct"], 1))
    if shared.num_rows:
        rows = known.filter(pc.is_in(known["digest"], shared["digest"].combine_chunks()))
        yield f"{count(rows.num_rows, 'image')} with the same bytes in different classes{_example(rows, 'class')}"
    shared = groups.filter(pc.greater(groups["split_count_distinct"], 1))
    both = (
        known.filter(pc.is_in(known["digest"], shared["digest"].combine_chunks()))
        if shared.num_rows
        else known.slice(0, 0)
    )
    trained = pc.unique(both.filter(pc.equal(both["split"], "train"))["digest"])
    rows = both.filter(pc.is_in(both["digest"], trained))
    if rows.num_rows:
        held_out = pc.sum(pc.not_equal(rows["split"], "train")).as_py()
        yield (
            f"{count(held_out, 'validation or test image')} with the same bytes as a training image, which inflates the "
            f"accuracy{_example(rows, 'split')}"
        )


def _example(rows: pa.Table, differs: str) -> str:
    """Two paths of equal bytes whose column `differs` is different."""
    same = rows.filter(pc.equal(rows["digest"], rows["digest"][0])).to_pylist()
    other = next(row for row in same if row[differs] != same[0][differs])
    return f", for example '{visible(same[0]['path'])}' and '{visible(other['path'])}'"


SHOWN_CLASSES = 20


def class_lines(classes: Mapping[str, Mapping[str, int]], title: str = "usable images") -> list[str]:
    """A table of image counts by class and split. classes: split → class → images. title: the table's heading."""
    splits = [split for split in SPLITS if classes.get(split)]
    names = sorted({name for split in splits for name in classes[split]})
    if not names:
        return []
    table = [[classes[split].get(name, 0) for split in splits] for name in names]
    rows = [[title, *splits, "all"]]
    shown = zip(names[:SHOWN_CLASSES], table, strict=False)
    rows += [[f"  {visible(name)}", *(f"{n:,}" for n in (*numbers, sum(numbers)))] for name, numbers in shown]
    if len(names) > SHOWN_CLASSES:
        rows.append([f"  ... and {len(names) - SHOWN_CLASSES:,} more", *[""] * (len(splits) + 1)])
    if len(names) > 1:
        totals = [sum(column) for column in zip(*table, strict=True)]
        rows.append([f"  all {count(len(names), 'class', 'classes')}", *(f"{n:,}" for n in (*totals, sum(totals)))])
    return columns(rows, right=" " + "r" * (len(splits) + 1))
