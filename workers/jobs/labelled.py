"""Find the images with labels that an evaluation predicts: in a folder, in a table, or in a split of a version."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

import pyarrow as pa
import pyarrow.compute as pc

from storage.backend.paths import Place, place
from storage.errors import InputError, StorageError
from storage.manifest.file_table import usable
from storage.manifest.versions import Version, read_version, version_numbers
from storage.source.folder_layout import Layout
from storage.source.listing import list_images
from storage.source.scan import scan_folder
from storage.source.scan_files import read_table, write_table
from storage.text import count, first_few, folded
from workers.jobs.opened_head import OpenedHead
from workers.jobs.prediction_plan import InboxRecord, PredictionPlan
from workers.jobs.records import Space

COLUMNS = ("path", "digest", "class", "reason")


@dataclass(frozen=True)
class LabelledRecord(InboxRecord):
    """Images with a class that the head knows, as an InboxRecord whose table also has the column `class`.

    split, version: where they come from; empty and None for a folder. unknown: class that the head does not know → number of
    images, which are left out. findings: lines about the layout of the folder.
    """

    split: str = ""
    version: int | None = None
    unknown: dict[str, int] = field(default_factory=dict)
    findings: tuple[str, ...] = ()

    @property
    def files_table(self) -> pa.Table:
        """COLUMNS of each image, in order of path."""
        return read_table(Path(self.path))[0]


def list_folder(
    space: Space,
    head: OpenedHead,
    folder: Path,
    images: str,
    layout: Layout = "auto",
    labels: str | None = None,
    outside_links: bool = False,
    rehash: bool = False,
) -> LabelledRecord:
    """List the labelled images in `images`, and write the listing to `folder`.

    Raises InputError if there are none, or none of a class that the head knows.
    """
    root = place(images)
    scan = scan_folder(root, layout, place(labels) if labels else None, outside_links)
    if not scan.files.num_rows:
        raise InputError(_unlabelled(root, labels, scan.layout.remarks, space.root))
    files = list_images(scan, space.store.cache, rehash).files
    return _saved(folder, head, files, str(root), scan.ignored, findings=scan.layout.remarks)


def _unlabelled(root: Place, labels: str | None, remarks: tuple[str, ...], store: str) -> str:
    if labels:
        return f"`labels`: {labels} names no file below {root}"
    found = f" ({'; '.join(remarks)})" if remarks else ""
    command = f"python flows/predict.py --store {quote(store)} --images {quote(str(root))} --out predictions.csv"
    return (
        f"`images`: {root} has no image in a class folder{found}, so there is nothing to compare predictions with; name a table of "
        f"classes as `labels`, or predict the classes: `{command}`"
    )


def list_split(
    space: Space, head: OpenedHead, folder: Path, split: str, version: int | None, images: str | None
) -> LabelledRecord:
    """List a split of a version, by default of the version that the head was trained on, and write the listing to `folder`.

    images: the folder that has its files.

    Raises InputError if there is no such version, or the split has no images of a class that the head knows.
    """
    number = version or head.version
    numbers = version_numbers(space.store)
    if number not in numbers:
        wanted = f"version {number}" if version else f"version {number}, on which head {head.name} was trained,"
        there = f"{numbers[0]} to {numbers[-1]}" if numbers else "none"
        raise InputError(f"{wanted} is not in feature space {space.fingerprint}; name one with `version`: {there}")
    found = read_version(space.store, number)
    files = _split(space, found, split)
    if not files.num_rows:
        others = first_few(sorted(name for name, classes in found.classes.items() if classes))
        raise InputError(f"`split={split}`: version {number} has no such images; it has {others or 'none at all'}")
    return _saved(folder, head, files, str(place(images)) if images else "", 0, split, number)


def _split(space: Space, version: Version, split: str) -> pa.Table:
    files = usable(version.read_files(space.store))
    return files.filter(pc.equal(files["split"], split))


def _saved(
    folder: Path,
    head: OpenedHead,
    files: pa.Table,
    root: str,
    ignored: int,
    split: str = "",
    version: int | None = None,
    findings: tuple[str, ...] = (),
) -> LabelledRecord:
    is_known = pc.is_in(files["class"], pa.array(head.classes, pa.string()))
    unknown = dict(sorted(Counter(files["class"].filter(pc.invert(is_known)).to_pylist()).items()))
    files = files.filter(is_known).select(COLUMNS).combine_chunks()
    if not files.num_rows:
        raise InputError(
            f"head {head.name} knows the classes {first_few(head.classes)}, and the images are of {first_few(list(unknown))}; "
            "name another head as `head`, or images of these classes"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "labelled"
    write_table(path, files)
    return LabelledRecord(str(path), root, files.num_rows, ignored, 0, split, version, unknown, findings)


def left_out(listed: LabelledRecord, head: OpenedHead) -> str:
    """The warning about images of classes that the head does not know; empty if there are none."""
    if not listed.unknown:
        return ""
    near = {folded(name): name for name in head.classes}
    like = [f"'{name}' is like '{near[folded(name)]}'" for name in listed.unknown if folded(name) in near]
    hint = f" ({', '.join(like[:5])})" if like else ""
    images = count(sum(listed.unknown.values()), "image")
    return (
        f"warning: {images} left out, of classes that the head does not know: {first_few(list(listed.unknown))}{hint}"
    )


def trained_on(listed: LabelledRecord, head: OpenedHead, space: Space) -> int | None:
    """How many of the images the head was trained on; None if the version that says so is gone."""
    try:
        files = _split(space, read_version(space.store, head.version), "train")
    except (StorageError, OSError):
        return None
    mine = files["digest"].filter(pc.is_in(files["class"], pa.array(head.classes, pa.string()))).combine_chunks()
    return pc.sum(pc.is_in(listed.files_table["digest"], mine)).as_py() or 0


def check_computable(plan: PredictionPlan, listed: LabelledRecord, head: OpenedHead) -> None:
    """Raise InputError if images have to be computed, and it is not known from what."""
    if not plan.images:
        return
    if not listed.root and head.is_whole:
        raise InputError(
            f"head {head.name} is fine-tuned and takes images, not stored features; name the folder of the images as `images`"
        )
    lacking = f"{count(plan.images, 'image')} of the split {listed.split} have no features in feature space {plan.space.fingerprint}"
    if not listed.root:
        raise InputError(
            f"{lacking}, so head {head.name} cannot predict them; name the folder of the images as `images`"
        )
    if not plan.space.weights:
        raise InputError(f"{lacking}, and it is not known which weights compute them; give them once as `weights`")
