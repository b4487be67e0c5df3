"""Prediction jobs: every image is predicted once, from what is cheapest, and one that kills its child costs one row."""

import hashlib
import json
import random
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from storage.layout import Store
from storage.manifest.space import create_space
from storage.planning.chunks import pack
from storage.planning.plan_files import open_todo
from storage.predictions.output import Columns, read_output
from storage.predictions.pieces import pieces_folder, read_pieces, write_piece
from storage.source.listing import list_images
from storage.source.scan_files import read_table
from storage.source.unlabelled import scan_inbox
from tests import hostile, toy
from tests.workers.runners.test_isolation import LIMITS, Mortal
from vision.pixels.decode import decode
from workers.jobs import predict
from workers.jobs.opened_head import OpenedHead
from workers.jobs.predict import PredictJob, StoredJob, predict_chunks, predict_stored
from workers.jobs.prediction_plan import InboxRecord, PredictionPlan, make_plan, save_inbox, stored_digests
from workers.jobs.predictor import Predictor
from workers.jobs.written_predictions import write_predictions
from workers.runners.isolation import Isolation

CLASSES = ("cats", "dogs", "owls")
NAME = "0" * 32


def scores(features: np.ndarray) -> np.ndarray:
    """The probabilities of a head that looks at three numbers."""
    some = features.reshape(len(features), -1)[:, :3].astype(np.float32) + 1
    return some / some.sum(axis=1, keepdims=True)


class Toy:
    """A store of toy features, a head of it, and a run of prediction without Prefect."""

    def __init__(self, root: Path):
        self.store = root / "store"
        self.space = toy.space(root / "unused", self.store)
        create_space(self.space.store, toy.SPEC.record())
        self.head = OpenedHead(NAME, self.space.fingerprint, toy.SPEC, CLASSES, 1, root / "none", False, {})
        self.out = root / "p.jsonl"

    @property
    def pieces(self) -> Path:
        return pieces_folder(Store(self.store, ""), NAME, self.out)

    def plan(self, images: Path, **options) -> tuple[InboxRecord, PredictionPlan]:
        inbox = scan_inbox(images)
        record = save_inbox(inbox, list_images(inbox.scan, self.space.store.cache).files, self.pieces)
        return record, make_plan(self.space, record, self.head, self.pieces, **{"chunk_size": 4} | options)

    def job(self, plan: PredictionPlan, **options) -> PredictJob:
        rows, sizes = pack(open_todo(Path(plan.path))), (0, plan.num_chunks, plan.chunk_size, "parquet")
        where = {"head": NAME, "pieces": plan.pieces}
        return PredictJob(plan.space, rows, *sizes, threads=1, engine="toy", **where | options)

    def compute(self, plan: PredictionPlan) -> int:
        """Compute what the plan says, and return the number of images that went through the network."""
        if plan.stored:
            job = StoredJob(plan.space, NAME, plan.pieces, stored_digests(plan))
            assert predict_stored(StoredJob.of(json.loads(json.dumps(job.record()))), lambda _: None).lost == 0
        return sum(result.rows for result in predict_chunks(self.job(plan), lambda _: None))

    def write(self, record: InboxRecord, plan: PredictionPlan, append: bool = False) -> list[dict]:
        columns = Columns(CLASSES)
        write_predictions(record, plan, columns, self.out, append)
        return pa.concat_tables(read_output(self.out, columns.schema)).to_pylist()


@pytest.fixture
def made(tmp_path, monkeypatch) -> Toy:
    made = Toy(tmp_path)
    predictor = Predictor.__new__(Predictor)
    predictor.head, predictor.engine = made.head, hostile.HostileEngine()
    predictor._scorer = SimpleNamespace(probabilities=scores)
    monkeypatch.setattr(predict, "_predictor", lambda *_: predictor)
    monkeypatch.setattr(predict, "_reader", lambda *_: predictor._scorer)
    return made


@pytest.mark.parametrize("seed", range(3))
def test_every_image_has_one_row_and_is_computed_at_most_once(made, tmp_path, seed):
    """Some are stored, some predicted before, some equal, some broken, in folders of any depth."""
    draw, inbox = random.Random(seed), tmp_path / "inbox"
    labelled = toy.pictures(tmp_path / "labelled", per_class=4)
    shutil.rmtree(made.space.store.space)
    toy.run(labelled, made.store)
    sources = [*labelled.rglob("*.png"), *(toy.picture(tmp_path / "new" / f"{n}.png", 500 + n) for n in range(8))]
    for number in range(30):
        target = inbox / "/".join(draw.choices("abc", k=draw.randrange(4))) / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(draw.choice(sources), target)
    (inbox / "broken.png").write_bytes(b"not an image")
    digests = {path: hashlib.sha256(path.read_bytes()).digest() for path in inbox.rglob("*.png")}
    stored = {hashlib.sha256(path.read_bytes()).digest() for path in labelled.rglob("*.png")}
    before = sorted(set(digests.values()) - stored)[:2]
    write_piece(made.pieces, before, np.full((len(before), 3), 1 / 3, np.float32), {})

    record, plan = made.plan(inbox)
    different = set(digests.values())
    assert (plan.known, plan.stored) == (len(before), len(different & stored))
    assert plan.known + plan.stored + plan.images == len(different)
    todo = read_table(Path(plan.path) / "todo")[0].to_pylist()
    paths = [path for row in todo for path in (row["path"], *row["twins"])]
    assert sorted(paths) == sorted(
        str(path.relative_to(inbox)).encode() for path, own in digests.items() if own not in {*stored, *before}
    )
    assert made.compute(plan) == plan.images - 1
    again = made.plan(inbox)[1]
    assert (again.images, again.stored) == (0, 0)
    rows = {row["path"]: row for row in made.write(record, plan)}
    assert list(rows) == sorted(str(path.relative_to(inbox)) for path in digests)
    assert {path for path, row in rows.items() if row["status"] != "ok"} == {"broken.png"}
    by_digest: dict[bytes, set] = {}
    for path, own in digests.items():
        row = rows[str(path.relative_to(inbox))]
        by_digest.setdefault(own, set()).add((row["class"], row["p.cats"], row["reason"]))
    assert {len(answers) for answers in by_digest.values()} == {1}
    assert not made.pieces.exists()


def test_stored_features_and_computed_ones_give_the_same(made, tmp_path):
    labelled = toy.pictures(tmp_path / "labelled", per_class=4)
    shutil.rmtree(made.space.store.space)
    toy.run(labelled, made.store)
    found = []
    for use_stored in (True, False):
        record, plan = made.plan(labelled, use_stored=use_stored)
        assert (plan.stored, plan.images) == ((8, 0) if use_stored else (0, 8))
        made.compute(plan)
        found.append(made.write(record, plan))
    for one, two in zip(*found, strict=True):
        assert one["path"] == two["path"]
        assert one["p.cats"] == pytest.approx(two["p.cats"], abs=1e-3)  # float16


def test_appending_knows_what_an_earlier_run_predicted_until_the_head_is_another(made, tmp_path):
    inbox = toy.pictures(tmp_path / "inbox", per_class=3)
    record, plan = made.plan(inbox)
    made.compute(plan)
    first = made.write(record, plan, append=True)
    (inbox / "cats" / "000.png").unlink()
    toy.picture(inbox / "cats" / "new.png", 900)
    record, plan = made.plan(inbox)
    assert (plan.known, plan.images) == (5, 1)
    made.compute(plan)
    rows = made.write(record, plan, append=True)
    assert sorted(row["path"] for row in rows) == sorted([*(row["path"] for row in first), "cats/new.png"])
    assert rows[0] == first[0]


@pytest.mark.parametrize("keep_features", [False, True])
@pytest.mark.parametrize(("stage", "deed"), [("decode", "crash"), ("infer", "fill"), ("infer", hostile.IN_COMPANY)])
def test_an_image_that_kills_its_child_costs_its_own_row(made, monkeypatch, tmp_path, stage, deed, keep_features):
    lease = Mortal()
    monkeypatch.setattr("vision.engines.extract.decode", hostile.obedient)
    monkeypatch.setattr(hostile, "do", lambda deed: lease.die() if deed in hostile.DEEDS else None)
    inbox = toy.pictures(tmp_path / "inbox", per_class=5)
    bad = hashlib.sha256(hostile.spoil(inbox / "cats" / "002.png", stage, deed)).digest()
    record, plan = made.plan(inbox)
    results = Isolation(lease, made.job(plan, keep_features=keep_features), lambda _: None, LIMITS).run()
    is_usable = deed == hostile.IN_COMPANY
    assert sum(result.rows for result in results) == 9 + is_usable
    assert sum(result.quarantined for result in results) == 1 - is_usable
    found = read_pieces(made.pieces, 3)
    assert [found.reasons[found.digests.index(bad).as_py()].as_py()] == [None if is_usable else "crashed"]
    rows = made.write(record, plan)
    assert [row["path"] for row in rows if row["status"] == "quarantined"] == ([] if is_usable else ["cats/002.png"])
    assert bool(list(made.space.store.shards.rglob("*.parquet"))) == keep_features


def test_a_job_is_the_same_after_json(made, tmp_path):
    job = made.job(made.plan(toy.pictures(tmp_path / "inbox", per_class=2))[1], keep_features=True)
    assert asdict(PredictJob.of(json.loads(json.dumps(job.record())))) == asdict(job)


def test_a_fine_tuned_head_predicts_pixels_and_uses_no_stored_features(made, tmp_path, monkeypatch):
    labelled = toy.pictures(tmp_path / "labelled", per_class=3)
    shutil.rmtree(made.space.store.space)
    toy.run(labelled, made.store)
    (labelled / "cats" / "broken.png").write_bytes(b"not an image")
    made.head = replace(made.head, is_whole=True)
    predictor = predict._predictor()
    predictor.head, predictor.engine = made.head, None
    record, plan = made.plan(labelled)
    assert (plan.stored, plan.images) == (0, 7)
    assert made.compute(plan) == 6
    rows = made.write(record, plan)
    assert [row["path"] for row in rows if row["status"] == "quarantined"] == ["cats/broken.png"]
    for row in rows:
        if row["status"] == "ok":
            pixels = decode((labelled / row["path"]).read_bytes(), toy.SPEC.image_size)
            assert row["p.cats"] == pytest.approx(scores(pixels[None])[0, 0])
