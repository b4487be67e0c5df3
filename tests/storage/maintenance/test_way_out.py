"""Every message about damage has a way out, and the way out works when it is typed as it stands."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.cli.main import main
from storage.errors import StorageError
from storage.heads.current import promote_head
from storage.heads.pins import pin_version
from storage.heads.registry import PIN, RECORD, list_heads, model_file
from storage.layout import Store
from storage.manifest.versions import Version, latest_version, read_version
from storage.reading import open_split
from storage.reading.samples import sample_table
from storage.reading.stream import FeatureStream
from storage.shards.shard import Shard
from tests import toy

HEAD = {"created": "2026-01-01T00:00:00+00:00", "metrics": {"val_accuracy": 0.5}}
CURRENT, TUNED, BEGUN = ("abc"[index] * 32 for index in range(3))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three versions with a current head, one that was fine-tuned, and one under way. Only to be copied."""
    root = tmp_path_factory.mktemp("it's whole")
    images, folder = toy.pictures(root / "images", per_class=12), root / "store"
    (images / "cats/broken.png").write_bytes(b"not a picture")
    toy.run(images, folder, limit=12)
    toy.run(images, folder)
    (images / "cats/000.png").rename(images / "dogs/was a cat.png")
    toy.run(images, folder)
    store = toy.space(images, folder).store
    record = HEAD | {"fingerprint": store.fingerprint, "version": 3}
    toy.head(store, CURRENT, record, b"a head " * 50)
    toy.head(store, TUNED, record | {"base": CURRENT}, b"a model " * 50)
    promote_head(store, CURRENT)
    pin_version(store, BEGUN, 2)
    (store.head(BEGUN) / "checkpoint.npz").write_bytes(b"half a checkpoint")
    return root


def store_of(root: Path) -> Store:
    return toy.space(root / "images", root / "store").store


def flip(path: Path, part: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(part * (len(data) - 1))] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def in_footer(path: Path) -> None:
    flip(path, 1 - 200 / path.stat().st_size)


def in_features(path: Path) -> None:
    """Of a shard: it opens, and tells its digests and views."""
    flip(path, 0.35)


def largest_shard(store: Store) -> Path:
    return store.shard(max(latest_version(store).shards.values(), key=lambda ref: ref.num_rows).name)


def segment(kind: str) -> Callable[[Store], Path]:
    return lambda store: store.segments / getattr(latest_version(store), kind)[0]


Where, Harm = Callable[[Store], Path], Callable[[Path], None]
DAMAGE: dict[str, tuple[Where, Harm]] = {
    "features of a shard": (largest_shard, in_features),
    "footer of a shard": (largest_shard, in_footer),
    "shard cut": (largest_shard, cut),
    "shard missing": (largest_shard, Path.unlink),
    "files": (segment("files"), flip),
    "files missing": (segment("files"), Path.unlink),
    "rows": (segment("rows"), flip),
    "rows missing": (segment("rows"), Path.unlink),
    "newest version": (lambda store: store.version(3), flip),
    "older version": (lambda store: store.version(1), cut),
    "space.json": (lambda store: store.space / "space.json", flip),
    "space.json cut": (lambda store: store.space / "space.json", cut),
    "space.json missing": (lambda store: store.space / "space.json", Path.unlink),
    "head.json": (lambda store: store.head(CURRENT) / RECORD, flip),
    "head.json missing": (lambda store: store.head(CURRENT) / RECORD, Path.unlink),
    "head.keras": (lambda store: store.head(CURRENT) / "head.keras", flip),
    "head.keras cut": (lambda store: store.head(CURRENT) / "head.keras", cut),
    "head.keras missing": (lambda store: store.head(CURRENT) / "head.keras", Path.unlink),
    "model.keras": (lambda store: store.head(TUNED) / "model.keras", flip),
    "model.keras cut": (lambda store: store.head(TUNED) / "model.keras", cut),
    "model.keras missing": (lambda store: store.head(TUNED) / "model.keras", Path.unlink),
    "current": (lambda store: store.heads / "current", flip),
    "pin": (lambda store: store.head(BEGUN) / PIN, flip),
    "digest cache": (lambda store: next(store.cache.glob("digests-*")), flip),
    "checkpoint": (lambda store: store.head(BEGUN) / "checkpoint.npz", flip),
}
# Caches, and what a training begins anew without: nothing is lost with them, and nothing has to be repaired.
HARMLESS = {"digest cache", "checkpoint", "head.json missing"}
# What only a read of every byte finds.
DEEP = {"features of a shard", "head.keras", "model.keras"}


def run(root: Path) -> None:
    toy.run(root / "images", root / "store")


def train(root: Path) -> None:
    store = store_of(root)
    version = latest_version(store)
    for split in version.classes:
        table = sample_table(store, version, split, ("cats", "dogs"))
        list(FeatureStream(store, table, 4, seed=1, memory_mb=1).batches())


def read_split(root: Path) -> None:
    for split in ("train", "validation"):
        next(open_split(root / "store", split).epochs())


def use_heads(root: Path) -> None:
    for head in list_heads(root / "store"):
        if not head.is_unfinished:
            model_file(store_of(root), head.name)


LOOKS: dict[str, Callable[[Path], None]] = {
    "run": run,
    "training": train,
    "open_split": read_split,
    "heads": use_heads,
}
COMMANDS = {"verify": [], "verify --deep": [], "gc": ["--keep", "1"], "compact": ["--rows", "100"]}


def told(look: str, root: Path, capsys) -> tuple[str, list[str]]:
    """What a look says of the damage, empty if it does not notice it; and the lines on standard output."""
    if look in COMMANDS:
        capsys.readouterr()
        main([*look.split(), *COMMANDS[look], "--store", str(root / "store")])
        out, error = capsys.readouterr()
        return error, out.splitlines()
    try:
        LOOKS[look](root)
    except (StorageError, FileNotFoundError) as error:
        return str(error), []
    return "", []


def lost_by(what: str, version: Version, store: Store, harmed: Path) -> int:
    """How many images a run has to extract again, once this is damaged."""
    if "shard" in what:
        live = set(version.read_files(store)["digest"].to_pylist())
        return len(live.intersection(Shard(store, version.shards[harmed.name]).digests()))
    return int(what.startswith("files"))  # that one image is broken was known there alone


def content(root: Path) -> dict[Path, bytes]:
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("what", DAMAGE)
def test_the_advice_of_whoever_finds_a_damage_mends_it_and_costs_no_more_than_was_lost(what, whole, tmp_path, capsys):
    """`verify --deep` also blames the damaged file; and only what needs it is told to read every byte again."""
    where, harm = DAMAGE[what]
    noticed, mended = set(), []
    for look in (*LOOKS, *COMMANDS):
        root = shutil.copytree(whole, tmp_path / "it's a copy")
        images, store = root / "images", store_of(root)
        before, harmed = read_version(store, 3), where(store)
        lost = lost_by(what, before, store, harmed)
        harm(harmed)
        message, lines = told(look, root, capsys)
        if look == "verify --deep" and message:
            assert any(line.startswith(f"{harmed.relative_to(store.root)}: ") for line in lines), lines
            # On a store of 100 GB that takes minutes, and in an object store money.
            assert ("repair --deep --store" in message) == (what in DEEP)
        if message:
            noticed.add(look)
            (advice,) = re.findall(r"`(python -m storage [^`]*)`", message)
            if (case := (advice, content(root))) not in mended:  # the same advice does the same to the same store
                mended.append(case)
                assert main(shlex.split(advice)[3:]) == 0, (look, advice)
                planned, version = toy.run(images, root / "store")
                assert (planned.todo.num_rows, version.data_digest) == (lost, before.data_digest), look
                assert main(["verify", "--deep", "--store", str(root / "store")]) == 0, (look, capsys.readouterr())
                assert not any(told(name, root, capsys)[0] for name in LOOKS), look
        shutil.rmtree(root)
    assert ("verify --deep" in noticed) == (what not in HARMLESS)
    assert what not in HARMLESS or not noticed


def test_the_advice_works_in_a_shell(whole, tmp_path):
    root = shutil.copytree(whole, tmp_path / "it's a copy; with spaces")
    in_features(largest_shard(store_of(root)))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def shell(line: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            line,
            shell=True,
            env=os.environ | {"PATH": path},
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=False,
        )

    verify = f"python -m storage verify --deep --store {shlex.quote(str(root / 'store'))}"
    found = shell(verify)
    assert found.returncode == 1
    (advice,) = re.findall(r"`(python -m storage [^`]*)`", found.stderr)
    assert shell(advice).returncode == 0
    assert shell(verify).returncode == 0
