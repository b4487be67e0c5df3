"""An inspection of a store: faults that were made on purpose are found, and a reviewed file mends them."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from storage.manifest.versions import Version
from storage.planning.chunks import pack
from storage.planning.plan_files import open_todo
from storage.reading.inspections import noted_inspection
from tests import toy
from workers.jobs.inspect_data import Inspected, InspectJob, inspect_data
from workers.jobs.quality import QualityJob, measure_chunks, quality_folder
from workers.jobs.quality_plan import plan_pictures
from workers.jobs.records import Space


def picture(path: Path, level: int, seed: int) -> Path:
    """A noisy picture of a brightness, which tells the classes apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    pixels = np.clip(
        draw.normal(level, 25, (64, 64, 3)) + draw.normal(0, 30, (4, 4, 3)).repeat(16, 0).repeat(16, 1), 0, 255
    )
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two classes in two splits, with a leak, a wrong label and a blank picture."""
    root = tmp_path / "photos"
    for split, count in (("train", 20), ("validation", 8)):
        for label, level in (("bright", 170), ("dim", 80)):
            for index in range(count):
                picture(root / split / label / f"{index}.png", level, hash_of(split, label, index))
    shutil.copy(root / "validation/dim/0.png", root / "train/dim/leak.png")
    picture(root / "train/dim/wrong.png", 170, 9999)
    Image.new("RGB", (64, 64), (80, 80, 80)).save(root / "train/dim/blank.png")
    return root


def hash_of(split: str, label: str, index: int) -> int:
    return index + 100 * (split == "train") + 1000 * (label == "dim")


def measured(space: Space, version: Version) -> int:
    """Measure the pictures without figures, as the task does. Returns their number."""
    plan = plan_pictures(space, version, None)
    if plan.num_chunks:
        rows = pack(open_todo(Path(plan.path)))
        sizes = 0, plan.num_chunks, plan.chunk_size, plan.format
        pieces = str(quality_folder(space))
        job = QualityJob(space, rows, *sizes, 1, "Pillow", full_chunks=plan.full_chunks, pieces=pieces)
        measure_chunks(QualityJob.of(job.record()), lambda record: None)
    return plan.images


def inspected(space: Space, version: Version, out: Path) -> Inspected:
    return inspect_data(InspectJob.of(InspectJob(space, version.number, str(out)).record()))


def test_faults_are_found_and_a_reviewed_file_mends_them(photos, store, tmp_path):
    _, version = toy.run(photos, store)
    space, out = toy.space(photos, store), tmp_path / "out"
    assert measured(space, version) == version.counts["images"] - 1  # equal bytes once
    found = inspected(space, version, out)
    table = pq.read_table(out / "findings.parquet").to_pylist()
    by_kind = {kind: [row["path"] for row in table if row["finding"] == kind] for kind in found.findings}
    assert by_kind["leak"] == ["train/dim/leak.png"]
    assert by_kind["suspect"] == ["train/dim/wrong.png"]
    assert by_kind["blank"] == ["train/dim/blank.png"]
    assert found.findings == {kind: len(paths) for kind, paths in by_kind.items()}
    assert noted_inspection(space.store, version.number) == str(out / "report.html")
    page = (out / "report.html").read_text()
    assert "wrong.png" in page
    assert "<script" not in page

    review = out / "review.csv"
    rows = list(csv.DictReader(review.read_text(encoding="utf-8").splitlines()))
    for row in rows:
        row["action"] = row["proposal"]
    with review.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    _, mended = toy.run(photos, store, exclude=str(review), relabel=str(review))
    assert measured(space, mended) == 0, "an image was measured again"
    after = inspected(space, mended, out).findings
    assert {kind: after[kind] for kind in ("leak", "suspect", "blank")} == {"leak": 0, "suspect": 0, "blank": 0}


def test_a_new_image_alone_is_measured(photos, store):
    _, version = toy.run(photos, store)
    measured(toy.space(photos, store), version)
    picture(photos / "train/dim/new.png", 80, 7777)
    _, version = toy.run(photos, store)
    assert measured(toy.space(photos, store), version) == 1
