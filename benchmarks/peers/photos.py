"""The photos that every peer gets, their pixels, the null network, and the reference of the outputs."""

from collections.abc import Iterable
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

SIZE = 224
CELLS, CHANNELS = SIZE // 32, 512
FEATURES = (CELLS, CELLS, CHANNELS)


class Photo(NamedTuple):
    path: str
    label: int


def first_photos(folder: Path, count: int) -> list[Photo]:
    """The first `count` files (0: all) of the class folders in `folder` or its train/, sorted, alternating classes."""
    root = folder / "train" if (folder / "train").is_dir() else folder
    classes = sorted(path for path in root.iterdir() if path.is_dir())
    columns = [[Photo(str(path), label) for path in sorted(name.iterdir())] for label, name in enumerate(classes)]
    found = [photo for photo in chain.from_iterable(zip_longest(*columns)) if photo]
    assert len(found) >= count, f"{folder} holds {len(found)} photos, {count} are wanted"
    return found[: count or None]


def decode(path: str) -> np.ndarray:
    """(224, 224, 3) uint8 RGB by Pillow's antialiased bilinear resize, equal to vision.pixels.decode.decode."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def block_means(pixels: np.ndarray) -> np.ndarray:
    """The null network: (n, 224, 224, 3) → means of 32x32 pixels, tiled to (n, 7, 7, 512) float32."""
    rows = pixels.reshape(-1, CELLS, 32, SIZE * 3).sum(axis=2, dtype=np.uint16)  # contiguous, thus 20 times as fast
    means = rows.reshape(-1, CELLS, CELLS, 32, 3).sum(axis=3, dtype=np.float32) / 1024
    return np.tile(means, -(-CHANNELS // 3))[..., :CHANNELS]


def largest_distance(out: Path, photos: list[Photo], weights: Path, count: int) -> float:
    """The largest relative L2 distance of `count` outputs from Keras' own VGG16 on the pixels of `decode`."""
    import keras

    found = {name: features for path in sorted(out.iterdir()) for name, features in _read(path, photos)}
    assert found.keys() == {photo.path for photo in photos}, f"{len(found)} of {len(photos)} photos in {out}"
    chosen = photos[:: max(1, len(photos) // count)][:count]
    model = keras.applications.VGG16(weights=None, include_top=False)
    model.load_weights(weights)
    pixels = np.stack([decode(photo.path) for photo in chosen]).astype(np.float32)
    expected = model.predict(keras.applications.vgg16.preprocess_input(pixels), batch_size=8, verbose=0)
    got = np.stack([found[photo.path] for photo in chosen])
    assert got.shape == expected.shape, got.shape
    assert got.dtype == np.float32, got.dtype
    distances = np.linalg.norm((got - expected).reshape(len(chosen), -1), axis=1)
    return float((distances / np.linalg.norm(expected.reshape(len(chosen), -1), axis=1)).max())


def _read(path: Path, photos: list[Photo]) -> Iterable[tuple[str, np.ndarray]]:
    """Read pairs of path and features from an output file of a peer."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.ParquetFile(path).read()  # read as a plain list, since only Ray knows its tensor type
        column = table["features"].combine_chunks()
        column = getattr(column, "storage", column)
        features = np.concatenate([column.flatten().to_numpy()]).reshape(-1, *FEATURES)
        return zip(table["path"].to_pylist(), features, strict=True)
    with np.load(path) as file:
        if "paths" in file:
            return zip(file["paths"].tolist(), file["features"], strict=True)
        return [(photos[int(path.stem.partition("_")[0])].path, file["features"].reshape(FEATURES))]
