"""How fast a store was extracted last: what --plan bases its expected time on. No Prefect here."""

import json

from storage.backend.atomic import replace
from storage.layout import Store
from storage.shards.shard import Format
from workers.jobs.records import Space


def known_rate(store: Store) -> float | None:
    """Pictures a second of the last extraction in this feature space, each view counted; None before the first."""
    try:
        rate = json.loads((store.cache / f"rate-{store.fingerprint}.json").read_text())["images_per_second"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(rate) if rate else None


def seconds_a_chunk(store: Store, pictures: float, workers: int) -> float | None:
    """How long a child is busy with a chunk of so many pictures, as the last extraction went; None before the first."""
    rate = known_rate(store)
    return pictures * workers / rate if rate else None


def remember_rate(store: Store, images_per_second: float | None) -> None:
    if images_per_second:
        record = json.dumps({"images_per_second": images_per_second}).encode()
        replace(store.cache / f"rate-{store.fingerprint}.json", record)


# Of trained VGG16's feature maps, 86 % of them zeros, zstd at level 1 keeps this part (docs/store.md). Of others
# nothing was measured: they are taken to be kept whole, so that no run begins that may not fit.
MEASURED_PART = 0.22


def row_bytes(space: Space, format: Format) -> float:
    """Bytes that an image will take in shards of a format, where the store has none yet to go by."""
    spec = space.spec
    is_measured = format == "parquet" and spec.backbone == "vgg16" and spec.pooling == "none"
    return space.kind.row_bytes * (MEASURED_PART if is_measured and space.weights != "random" else 1.0)
