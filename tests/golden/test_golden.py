"""The golden store, as write.py here wrote it once, means to the code of today what it meant then.

Two classes, two equal pictures, one that is quarantined, an npz shard and two Parquet shards, a variant, a head without and
one with variants, and a training that was interrupted. Never write it anew to make a test pass: a change of what is on
disk needs a new format version, and a second store beside this one.
"""

import hashlib
import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import storage.__main__
from flows.cli.command import parse
from flows.options.pipeline import PipelineOptions
from flows.preflight.pipeline import check_pipeline
from flows.preflight.start import Start
from flows.registry import PIPELINE
from storage.errors import StoreDamaged
from storage.heads.checkpoints import read_checkpoint
from storage.heads.current import current_head
from storage.layout import Store
from storage.manifest.file_table import data_digest
from storage.manifest.space import read_spec
from storage.manifest.versions import latest_version
from storage.planning.plan import make_plan
from storage.reading import open_split
from storage.source.listing import list_images
from storage.source.scan import scan_folder
from workers.devices import Slot
from workers.jobs.spaces import version_record
from workers.runners.local import LocalRunner

GOLDEN = Path(__file__).parent
OPTIONS = json.loads((GOLDEN / "options.json").read_text())
FINGERPRINT = "c520172344d0d8c6793f7c63de7e8a93"
DATA = "3cf0dd3f0b4f20629b904330fd4295ec7dbd9db5d49c61b414d826ad385cbaa2"
HEADS = {
    "plain": "7b8382882706f0e78681c2090ee710ad",
    "varied": "17d30c899d1afd1f8dde78247b3c0c5b",
    "begun": "8cb36183993a9c71c1ef6eb00d8f09ac",
}


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy: the times of its files are new, as after a `git clone`, and there is no cache of digests."""
    for name in ("images", "store"):
        shutil.copytree(GOLDEN / name, tmp_path / name, copy_function=shutil.copyfile)
    return tmp_path


def options_of(golden: Path, name: str, *more: str) -> PipelineOptions:
    where = ["--images", str(golden / "images"), "--store", str(golden / "store")]
    return parse(PIPELINE, [*where, *OPTIONS[name], *more])[0]


def head_of(options: PipelineOptions):
    space = options.space()
    version = latest_version(space.store)
    assert version is not None
    (job,) = options.head_jobs(space, version_record(version))
    return job


@pytest.mark.parametrize("name", ["plain", "varied"])
@pytest.mark.parametrize("more", [[], ["--rehash"], ["--format", "npz"]], ids=" ".join)
def test_a_store_of_before_leaves_nothing_to_do(golden, name, more):
    found = check_pipeline(options_of(golden, name, *more))
    assert not isinstance(found, Start), "there is something to do"
    record = found.line(0)
    assert (record["version"], record["images"], record["quarantined"], record["unchanged"]) == (3, 26, 1, 26)
    assert (record["fingerprint"], record["head"]) == (FINGERPRINT, HEADS[name])


def test_a_run_writes_a_missing_space_file_as_the_error_about_it_says(golden):
    options = options_of(golden, "plain")
    store = options.space().store
    (store.space / "space.json").unlink()
    with pytest.raises(StoreDamaged, match=r"run the pipeline again with `store=\S+` and the `images`"):
        read_spec(store)
    assert isinstance(check_pipeline(options), Start)


@pytest.mark.parametrize("name", HEADS)
def test_the_same_options_on_the_same_data_name_the_same_head(golden, name):
    assert head_of(options_of(golden, name)).name == HEADS[name]


def test_the_data_have_the_digest_they_had(golden):
    options = options_of(golden, "plain")
    store = options.space().store
    plan = make_plan(store, list_images(scan_folder(options.folder), store.cache), options.plan_options())
    assert plan.parent is not None
    assert data_digest(plan.files) == plan.parent.data_digest == DATA


def test_no_byte_of_it_is_taken_for_damage(golden, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["storage", "verify", "--deep", "--store", str(golden / "store")])
    assert storage.cli.main.main() == 0
    assert "no faults: 3 versions in 1 feature space (every byte)" in capsys.readouterr().out


def test_the_current_head_stays_current(golden):
    assert current_head(Store(golden / "store", FINGERPRINT)) == HEADS["varied"]


@pytest.mark.parametrize(
    ("split", "how", "labels", "digest"),
    [
        ("train", {"seed": 0}, "11011000000101000111111", "9b976a5918450d0f"),
        ("train", {"seed": 7}, "01101100110000011100111", "08230122f4f8a142"),
        ("train", {"seed": 7, "steps": 3}, "011011001100", "2e278bba4e675bb6"),
        ("train", {"seed": 7, "with_replacement": True}, "01111010011110111100010", "f59b6f78bebf87ac"),
        ("train", {"seed": None}, "01100110000101110010111", "318f238f2591e60a"),
        ("validation", {"seed": None}, "11", "ae5fec2d7ac8024d"),
    ],
    ids=str,
)
def test_a_seed_gives_the_order_that_it_gave(golden, split, how, labels, digest):
    """The labels of the first epoch, and a hash of every byte of features and labels of two epochs."""
    stream = open_split(golden / "store", split, batch_size=4, **how)
    batches = [(features.copy(), labels.copy()) for features, labels in islice(stream.epochs(), 2 * stream.steps)]
    seen = hashlib.sha256()
    for array in (array for batch in batches for array in batch):
        seen.update(np.ascontiguousarray(array).tobytes())
    first = "".join(str(int(label)) for _, labels in batches[: stream.steps] for label in labels)
    assert (first, seen.hexdigest()[:16]) == (labels, digest)


def test_a_checkpoint_of_before_can_be_read(golden):
    kept = read_checkpoint(Store(golden / "store", FINGERPRINT), HEADS["begun"])
    assert kept is not None
    arrays, record = kept
    seen = hashlib.sha256()
    for name, array in arrays.items():
        seen.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    assert (record["version"], record["epoch"], record["step"]) == (3, 0, 5)
    assert (len(arrays), seen.hexdigest()[:16]) == (14, "b0a14f3ff9e85b36")


@pytest.mark.slow
def test_a_training_of_before_goes_on_from_its_checkpoint(golden, tmp_path):
    job, heard = head_of(options_of(golden, "begun")), []
    workers = LocalRunner((Slot(None, 1),), tmp_path / "logs")
    try:
        with workers.lease() as worker:
            worker.call("head", job.record(), heard.append)
    finally:
        workers.close()
    assert [each for each in heard if "resumed" in each] == [{"resumed": True, "epoch": 1, "after_steps": 5}]
