"""A toy pipeline on tiny real pictures: every room as in a run, without Prefect, children or TensorFlow."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from PIL import Image

from storage.heads.registry import working_folder, write_head
from storage.layout import Store
from storage.manifest.space import create_space
from storage.manifest.versions import Version, commit, precedent
from storage.planning.chunks import pack
from storage.planning.options import PlanOptions
from storage.planning.plan import Plan, finish, make_plan
from storage.records import fingerprint
from storage.shards.shard import Shard, ShardRef
from storage.source.folder_layout import Layout
from storage.source.listing import list_images
from storage.source.scan import scan_folder
from vision.pixels.augmentation import Augmentation
from vision.pixels.draws import Draws
from vision.specs import BACKBONES, FeatureSpec
from workers.jobs.extract import process_chunks
from workers.jobs.records import ChunksJob, Space

if TYPE_CHECKING:
    import pytest

SPEC = FeatureSpec(weights="0" * 32, image_size=32)


class ToyEngine:
    """Mean colour of 4x4 blocks, in the first channels of a VGG-shaped feature: real, fast, and different for each image."""

    name = "toy 1"
    spec = SPEC
    batch_size = 8
    before: str | None = None
    fallback: str | None = None

    def features(self, pixels: np.ndarray) -> np.ndarray:
        blocks = pixels.reshape(len(pixels), 8, 4, 8, 4, 3).mean(axis=(2, 4)).reshape(len(pixels), -1)
        features = np.zeros((len(pixels), *self.spec.shape), np.float32)
        features[..., : blocks.shape[1]] = blocks.reshape(len(blocks), *[1] * (len(self.spec.shape) - 1), -1)
        return features


def picture(path: Path, seed: int) -> Path:
    """Write a small picture that only this seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")
    return path


def pictures(root: Path, per_class: int = 10, classes: tuple[str, ...] = ("cats", "dogs")) -> Path:
    """Class folders of small pictures, each of another content."""
    for number, name in enumerate(classes):
        for index in range(per_class):
            picture(root / name / f"{index:03d}.png", seed=number * 1000 + index)
    return root


def space(images: Path, store: Path) -> Space:
    return Space(str(store), str(images), fingerprint(SPEC.record()), SPEC, "random")


def plan(
    images: Path,
    store: Path,
    labels: Path | None = None,
    outside_links: bool = False,
    layout: Layout = "auto",
    allow_relabels: bool = False,
    **options,
) -> Plan:
    where = space(images, store)
    before = None if allow_relabels else partial(precedent, where.store)
    listing = list_images(scan_folder(images, layout, labels, outside_links, before), where.store.cache)
    return make_plan(where.store, listing, PlanOptions(**{"chunk_size": 8} | options))


def extract(
    images: Path, store: Path, planned: Plan, chunks: range | None = None, **condemned: dict[str, str]
) -> list[ShardRef]:
    """Write the shards of a plan, or of some of its chunks as a run that died would have.

    condemned: `condemned` and `plain_only` of a ChunksJob, for images that end a child.
    """
    where = space(images, store)
    create_space(where.store, SPEC.record())
    refs = []
    for index in chunks if chunks is not None else range(planned.num_chunks):
        sizes = index, 1, planned.chunk_size, planned.format
        augmentation = planned.augmentation
        rows = pack(planned.cut.rows(planned.todo, index, 1))
        job = ChunksJob(where, rows, *sizes, threads=1, engine="toy", augmentation=augmentation, **condemned)
        (result,) = process_chunks(job, ToyEngine(), lambda _: None)
        refs.append(ShardRef(result.shard, result.size_bytes, result.rows, result.footer_checksum))
    return refs


def run(images: Path, store: Path, **options) -> tuple[Plan, Version]:
    """A whole run up to the commit: scan, list, plan, extract, commit."""
    planned = plan(images, store, **options)
    where = space(images, store).store
    refs = extract(images, store, planned)
    return planned, commit(where, planned.parent, *finish(where, planned, refs), corrections=planned.corrections)


def features_of(images: Path, store: Path, version: Version) -> dict[bytes, np.ndarray]:
    """Digest → features of the plain image, read back from the shards of a version."""
    found = views_of(images, store, version)
    return {digest: features for (digest, augmentation, _), features in found.items() if not augmentation}


def views_of(images: Path, store: Path, version: Version) -> dict[tuple[bytes, str, int], np.ndarray]:
    """(digest, augmentation or an empty text, k) → features, read back from the shards of a version."""
    where = space(images, store).store
    arrays = {name: Shard(where, ref).read() for name, ref in version.shards.items()}
    found = {}
    for row in version.read_rows(where).to_pylist():
        index, variant = divmod(row["view"], 256)
        key = row["digest"], version.augmentations[index] if variant else "", variant
        assert key not in found
        found[key] = arrays[row["shard"]][row["row"]]
    return found


def augmented(pixels: np.ndarray, draws: Draws, augmentation: Augmentation) -> np.ndarray:
    """In place of vision.pixels.augment: pictures that every draw makes others of, without Keras."""
    offsets = [1 + int(np.abs(matrix).sum() * 1e6) % 255 for matrix in draws.matrices]
    return pixels + np.array(offsets, np.uint8)[:, None, None, None]


def without_keras(monkeypatch: "pytest.MonkeyPatch") -> None:
    """Let variants be made by `augmented` above, in no time."""
    monkeypatch.setattr("vision.pixels.augment.augmented", augmented)
    monkeypatch.setattr("vision.pixels.variants.prepare_tensorflow", lambda threads: None)


def adopt_space(images: Path, store: Path, other: Space) -> None:
    """Let a toy store be of the feature space that the command line's options name."""
    space(images, store).store.space.rename(other.store.space)


def weights_file(path: Path, seed: int) -> Path:
    """Random weights of VGG16 as Keras 3 keeps them, another set for each seed."""
    draw = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for name, tensors in BACKBONES["vgg16"].tensors.items():
            group = file.create_group(f"layers/{name}/vars")
            group.attrs["name"] = name
            for index, tensor in enumerate(tensors):
                group[str(index)] = draw.normal(0, 0.05, tensor.shape).astype(np.float32)
    return path


def head(store: Store, name: str, record: dict, model: bytes) -> None:
    """A head of these bytes, as a training leaves it."""
    file = working_folder(store, name) / "writing.keras"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(model)
    write_head(store, name, record, file)
