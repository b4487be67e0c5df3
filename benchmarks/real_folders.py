"""Does a run do what its user means, or say why not, on realistic folders, tables and class lists?

    python benchmarks/real_folders.py [--only WORD]

Builds small image folders, tables and stores, and runs `flows/pipeline.py --plan` on each. Each case states what its
user means: the class and split of every image, or the exit status, and a text that the run must print. A run is
silently wrong if it ends with status 0 but labels images differently or omits that text. Exits with 1 if a case is
wrong.
"""

import argparse
import io
import json
import os
import sys
import tempfile
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

from flows.cli.command import main, parse  # noqa: E402
from flows.registry import PIPELINE  # noqa: E402
from storage.source.scan import scan_folder  # noqa: E402
from storage.text import columns  # noqa: E402
from tests import toy  # noqa: E402

Meant = dict[str, tuple[str | None, str]]  # path → (split, or None if the hash decides; class)


@dataclass(frozen=True)
class Case:
    """One folder, and what its user means by it.

    paths: images, and folders, which end in a slash. meant: the labels of the images; empty if the run must be refused.
    says: a text that the run must print. before: options of an earlier run, which committed a version of `paths`.
    added: paths that were added after that run.
    """

    name: str
    paths: list[str]
    meant: Meant = field(default_factory=dict)
    says: str = ""
    status: int = 0
    options: tuple[str, ...] = ()
    table: str | bytes | None = None
    before: dict | None = None
    added: list[str] = field(default_factory=list)


def images(pattern: str, *lists: str) -> list[str]:
    """Three paths for each combination of words. The words fill the braces of the pattern in turn."""
    paths = [pattern]
    for words in lists:
        paths = [path.replace("{}", word, 1) for path in paths for word in words.split()]
    return [f"{path}/{index}.png" for path in paths for index in range(3)]


def by(paths: list[str], class_at: int, split_at: int | None = None, **splits: str) -> Meant:
    """Labels from the path's folder number `class_at`, and splits from folder number `split_at`.

    splits: folder name → split. Without a validation split, the validation images are held out of train by hash.
    """
    held_out = "validation" not in splits.values()
    meant: Meant = {}
    for path in paths:
        parts = path.split("/")
        split = splits[parts[split_at]] if split_at is not None else None
        meant[path] = (None if split == "train" and held_out else split, parts[class_at])
    return meant


TVT = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
HELD_OUT = "--validation-fraction of the training images is held out"


def splits_case(**splits: str) -> Case:
    """A case with class folders in each split folder. The run must name the first split folder."""
    paths = images("{}/{}", " ".join(splits), "cats dogs")
    return Case(", ".join(splits), paths, by(paths, 1, 0, **splits), f"'{next(iter(splits))}'")


def layouts() -> list[Case]:
    plain, tv = images("{}", "cats dogs"), images("{}/{}", "train validation", "cats dogs")
    both = images("{}/{}", "cats dogs", "train val test")
    seg = images("seg_{}/seg_{}/{}", "train", "train", "sea street") + images(
        "seg_{}/seg_{}/{}", "test", "test", "sea street"
    )
    return [
        Case("class folders", plain, by(plain, 0)),
        Case("train and validation", tv, by(tv, 1, 0, **TVT)),
        splits_case(Train="train", Test="test"),
        splits_case(TRAIN="train", VALIDATION="validation", TEST="test"),
        splits_case(Training="train", Testing="test"),
        splits_case(training_set="train", test_set="test"),
        splits_case(dev="validation", eval="test", train="train"),
        splits_case(Validation="validation", train="train"),
        splits_case(train2017="train", val2017="validation"),
        splits_case(holdout="validation", train="train"),
        Case("trainers, test_tubes", (p := images("{}", "trainers test_tubes")), by(p, 0)),
        Case("a, b with the same folders", images("{}/{}", "a b", "cats dogs"), says="--layout classes", status=2),
        Case("years in classes", images("{}/{}", "cats dogs", "2019 2020"), says="--layout classes", status=2),
        Case("years in classes, --layout classes", (p := images("{}/{}", "cats dogs", "2019 2020")), by(p, 0), options=("--layout", "classes")),
        Case("train, validation, __MACOSX", [*tv, *images("__MACOSX/{}", "cats")], by(tv, 1, 0, **TVT), "skipped 1 system folder"),
        Case("train, validation, empty logs", [*tv, "logs/"], by(tv, 1, 0, **TVT), "'logs'"),
        Case("the same, --layout splits", [*tv, "logs/"], by(tv, 1, 0, **TVT), "'logs'", options=("--layout", "splits")),
        Case("train, validation, unlabelled heap", [*tv, *images("{}", "new")], by(tv, 1, 0, **TVT), "new/ contains no class folder"),
        Case("train, validation, other classes", [*tv, *images("{}/{}", "new", "cats")], says="'new' beside them", status=2),
        Case("cats/train, cats/val, cats/test", both, by(both, 0, 1, **TVT), "each class folder contains splits"),
        Case("splits in one class only", [*images("cats/{}", "train test"), *images("{}", "dogs")], says="--layout classes", status=2),
        Case("images beside splits in a class", [*both, "cats/9.png"], says="--layout classes", status=2),
        Case("a test folder in each class", [*plain, *images("{}/test", "cats dogs")], says="cats/test/", status=2),
        Case("seg_train/seg_train", seg, by(seg, 2, 0, seg_train="train", seg_test="test"), "'seg_test' is read as test"),
        Case("one folder above classes", (p := images("dataset/{}", "cats dogs")), by(p, 1), "dataset/ contains all images"),
        Case("one folder above splits", (p := images("archive/{}/{}", "train val", "cats dogs")), by(p, 2, 1, **TVT), "archive/ contains all images"),
        Case("two folders above splits", (p := images("a/b/{}/{}", "train val", "cats dogs")), by(p, 3, 2, **TVT), "a/b/ contains all images"),
        Case("one folder in each split", (p := images("{}/images/{}", "train val", "cats dogs")), by(p, 2, 0, **TVT), "each split contains only the folder 'images'"),
        Case("a set twice, once in itself", [*tv, *images("tv/{}/{}", "train validation", "cats dogs")], says="'tv' beside them", status=2),
        Case("a set within itself", images("{}", "rose tulip") + images("again/{}", "rose tulip"), says="again/", status=2),
        Case("the same in a folder", images("{}", "f/rose f/tulip f/f/rose f/f/tulip"), says="f/ --layout classes", status=2),
        Case("a set and its copy", images("{}/{}", "kept copy/kept", "rose tulip"), says="copy/", status=2),
        Case("images/ and samples/", [*images("images/{}", "cats dogs"), *images("samples")], says="uses the folders in it as the classes", status=2),
        Case("splits with a stem, wrapped, beside a heap", [*images("pets/x_{}/{}", "train test", "cats dogs"), *images("new")], says="pets/x_test/", status=2),
        Case("splits deep in classes", images("{}/{}/{}", "a b", "images", "train test"), says="a/images/test/", status=2),
        Case("cats, cats_test, dogs, dogs_test", images("{}", "cats cats_test dogs dogs_test"), says="and a split: put each into", status=2),
        Case("test/images", [*(p := images("train/{}", "cats dogs")), *images("test/images")], by(p, 1, 0, train="train"), "test/images/ contains no class folder"),
        Case("cats_train, cats_test", images("{}", "cats_train cats_test dogs_train dogs_test"), says="and a split: put each into", status=2),
        Case("flat train and test", images("{}", "Training Testing"), says="--labels", status=2),
        Case("only train", (p := images("{}/{}", "train", "cats dogs")), by(p, 1, 0, train="train"), HELD_OUT),
        Case("train and test", (p := images("{}/{}", "train test", "cats dogs")), by(p, 1, 0, train="train", test="test"), HELD_OUT),
        Case("an empty validation", [*(p := images("{}/{}", "train", "cats dogs")), "validation/cats/"], by(p, 1, 0, train="train"), HELD_OUT),
        Case("a class called train", (p := images("{}", "train car plane")), by(p, 0), "treated as classes"),
        Case("@eaDir in classes", [*plain, *images("{}/@eaDir", "cats dogs")], by(plain, 0), "@eaDir"),
        Case("recycle bins", [*tv, *images("{}", "#recycle $RECYCLE.BIN lost+found")], by(tv, 1, 0, **TVT), "skipped 3 system folders"),
        Case("classes like system folders", (p := images("{}", "#1 @home")), by(p, 0)),
    ]  # fmt: skip


def stores() -> list[Case]:
    plain, tv = images("{}", "cats dogs"), images("{}/{}", "train validation", "cats dogs")
    old, ab = images("{}/{}", "Train Test", "cats dogs"), images("{}/{}", "a b", "x y")
    return [
        Case("store of splits, then new/cats", tv, says="differently than version 1", status=4, before={}, added=images("{}/{}", "new", "cats")),
        Case("store of splits, then an empty new", tv, by(tv, 1, 0, **TVT), "'new'", before={}, added=["new/"]),
        Case("store whose classes are Train, Test", old, by(old, 0), "as in version 1", before={"layout": "classes"}),
        Case("store whose classes are alike", ab, by(ab, 0), "as in version 1", before={"layout": "classes"}),
        Case("store of classes, then train and test", plain, says="differently than version 1", status=4, before={}, added=images("{}/{}", "train test", "cats dogs")),
        Case("store of classes, one more", plain, by([*plain, *(p := images("{}", "birds"))], 0), before={}, added=p),
    ]  # fmt: skip


def rows(paths: list[str], spell=lambda path: path, header: str = "path,class", separator: str = ",") -> str:
    """A table that assigns the classes x and y to the images of a flat folder in turn."""
    lines = [f"{spell(path)}{separator}{'xy'[index % 2]}" for index, path in enumerate(paths)]
    return "\n".join([header, *lines, ""])


def tables() -> list[Case]:
    heap = images("{}", "heap")
    xy: Meant = {path: (None, "xy"[index % 2]) for index, path in enumerate(heap)}
    nothing = {"status": 2, "says": "no row of"}
    three = "path,class,split\n" + "".join(
        f"{path},{'xy'[i % 2]},{['Train', 'Train', 'TEST'][i]}\n" for i, path in enumerate(heap)
    )
    return [
        Case("table", heap, xy, table=rows(heap)),
        Case("table with backslashes", heap, xy, "backslashes as slashes", table=rows(heap, lambda path: path.replace("/", "\\"))),
        Case("a prefix too many", heap, table=rows(heap, lambda path: f"photos/{path}"), **nothing),
        Case("no suffix", heap, table=rows(heap, lambda path: path.removesuffix(".png")), **nothing),
        Case("other case", heap, table=rows(heap, str.upper), **nothing),
        Case("a slash in front", heap, table=rows(heap, lambda path: f"/{path}"), **nothing),
        Case("the same on a store", heap, table=rows(heap, lambda path: f"photos/{path}"), before={"table": rows(heap)}, **nothing),
        Case("padded header", heap, xy, "white space", table=rows(heap, header="path, class")),
        Case("tab-separated", heap, xy, "tab-separated", table=rows(heap, header="path\tclass", separator="\t")),
        Case("semicolons", heap, xy, "as semicolon-separated", table=rows(heap, header="path;class", separator=";")),
        Case("header in capitals", heap, xy, "ignoring case", table=rows(heap, header="PATH,Class")),
        Case("column Split", heap, {heap[0]: (None, "x"), heap[1]: (None, "y"), heap[2]: ("test", "x")}, "'Split' as split", table=three.replace("split", "Split")),
        Case("column Usage", heap, xy, "the column 'Usage'", table=three.replace("split", "Usage")),
        Case("UTF-16", heap, table=rows(heap).encode("utf-16"), status=2, says="UTF-16"),
        Case("no column class", heap, table=rows(heap, header="path,label"), status=2, says="'label'"),
        Case("splits Train and TEST", heap, {heap[0]: (None, "x"), heap[1]: (None, "y"), heap[2]: ("test", "x")}, HELD_OUT, table=three),
        Case("table of absolute paths", heap, xy, table=rows(heap, lambda path: f"@ROOT@/{path}")),
        Case("table that goes by a link", heap, xy, table=rows(heap, lambda path: f"@LINK@/{path}")),
        Case("folders after a table", images("{}", "cats dogs"), status=4, says="--labels if they came from a table", before={"table": rows(images("{}", "cats dogs"))}),
    ]  # fmt: skip


def classes() -> list[Case]:
    two, three = images("{}", "cats dogs"), images("{}", "birds cats dogs")
    return [
        Case("--classes with a space", two, by(two, 0), options=("--classes", "cats, dogs")),
        Case("--classes of a subset", three, by(three, 0), "leaves out", options=("--classes", "cats,dogs")),
        Case("--classes that are not there", two, options=("--classes", "cat,dog"), status=2, says="'cats', 'dogs'"),
        Case("cats and Cats", (p := images("{}", "cats Cats dogs")), by(p, 0), "case, white space or Unicode form"),
        Case("a single class", (p := images("{}", "cats")), by(p, 0), "there is only one class"),
        Case("a class without training images", (p := images("{}/{}", "train", "cats dogs") + images("{}/{}", "val", "cats dogs owls")), by(p, 1, 0, **TVT), "no training images of 'owls'"),
        Case("a class in test alone", (p := images("{}/{}", "train val", "cats dogs") + images("{}/{}", "test", "cats owls")), by(p, 1, 0, **TVT), "only test images of 'owls'"),
        Case("a class of TIFFs", [*two, "owls/1.tif", "owls/2.tif"], by(two, 0), "class 'owls' has no image files"),
        Case("the same picture twice", [*(p := images("{}", "cats dogs")), "dogs/same as cats.0.png"], by([*p, "dogs/same as cats.0.png"], 0), "the same bytes in different classes"),
    ]  # fmt: skip


def build(root: Path, paths: list[str]) -> None:
    for path in paths:
        if path.endswith("/"):
            (root / path).mkdir(parents=True, exist_ok=True)
        elif path.endswith(".tif"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(b"II*\0")
        else:
            seed = "cats/0.png" if "same as" in path else path
            toy.picture(root / path, crc32(seed.encode()))


def found_labels(arguments: list[str]) -> Meant:
    """The labels of the command's own scan, without its messages."""
    options, _ = parse(PIPELINE, arguments)
    space = options.space()
    scan = scan_folder(
        options.folder, options.layout, options.label_file, options.outside_links, options.precedent(space)
    )
    return {os.fsdecode(row["path"]): (row["split"], row["class"]) for row in scan.files.to_pylist()}


def ask(case: Case, work: Path) -> tuple[int, str, Meant]:
    """Run `--plan`. Returns its exit status, its messages and the labels that it found."""
    folder, store, table = work / "images", work / "store", work / "labels.csv"
    build(folder, case.paths)
    arguments = ["--images", str(folder), "--store", str(store), "--weights", "random", "--image-size", "32"]
    if case.before is not None:
        before = dict(case.before)
        if "table" in before:
            table.write_text(before.pop("table"))
            before["labels"] = table
        toy.run(folder, store, **before)
        toy.adopt_space(folder, store, parse(PIPELINE, arguments)[0].space())
    build(folder, case.added)
    if case.table is not None:
        (work / "link").symlink_to("images")
        places = {"@ROOT@": folder, "@LINK@": work / "link"}
        text = case.table
        for word, path in places.items() if isinstance(text, str) else ():
            text = text.replace(word, str(path))
        data = text.encode() if isinstance(text, str) else text
        table.write_bytes(data)
        arguments += ["--labels", str(table)]
    arguments += case.options
    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(io.StringIO()):
        status = main(PIPELINE, [*arguments, "--plan"])
        labels = {} if status else found_labels(arguments)
    return status, said.getvalue(), labels


def verdict(case: Case, status: int, said: str, labels: Meant) -> str:
    if status == case.status and labels == case.meant and case.says in said:
        return "as meant" if not status else "refused"
    return "SILENT WRONG" if status == 0 else "wrong"


def shown(case: Case, labels: Meant) -> str:
    """A summary of the labels that were found."""
    if not labels:
        return "-"
    sizes = Counter(split or "by hash" for split, _ in labels.values())
    names = sorted({name for _, name in labels.values()})
    return f"{', '.join(names)}; {', '.join(f'{split} {number}' for split, number in sorted(sizes.items()))}"


def told(case: Case, said: str) -> str:
    """The printed line that contains the text of the case, shortened to 90 characters."""
    lines = [line.removeprefix("error: ").removeprefix("warning: ") for line in said.splitlines()]
    about = [line for line in lines if case.says and case.says in line]
    line = about[0] if about else ""
    return f"{line[:87]}..." if len(line) > 90 else line


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="WORD", help="cases with this in their name")
    return parser.parse_args()


CASES = (*layouts(), *stores(), *tables(), *classes())

if __name__ == "__main__":
    only = parse_arguments().only
    cases = [case for case in CASES if only in case.name]
    lines, verdicts = [["case", "found", "said", "status", "verdict"]], Counter[str]()
    with tempfile.TemporaryDirectory() as work:
        for number, case in enumerate(cases):
            status, said, labels = ask(case, Path(work) / str(number))
            result = verdict(case, status, said, labels)
            verdicts[result] += 1
            line = told(case, said).replace(f"{work}/{number}/", "")
            lines.append([case.name, shown(case, labels), line, str(status), result])
            if "rong" in result:
                print(
                    f"{case.name}: status {status}, meant {case.status} {case.meant}, found {labels}\n{said}",
                    file=sys.stderr,
                )
    print("\n".join(columns(lines)))
    record = {"cases": len(cases), "as_meant": verdicts["as meant"], "refused": verdicts["refused"]}
    record |= {"silent_wrong": verdicts["SILENT WRONG"], "wrong": verdicts["wrong"]}
    print(json.dumps(record))
    sys.exit(bool(record["silent_wrong"] or record["wrong"]))
