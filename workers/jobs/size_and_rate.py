"""Rate of the last extraction and size of a row: --plan and the check of free space use them. No Prefect here."""

import json

from storage.backend.atomic import replace
from storage.layout import Store
from storage.shards.shard import Format
from workers.jobs.records import Space


def known_rate(store: Store) -> float | None:
    """Images per second of the last extraction in this feature space, with each view counted; None before the first."""
    try:
        rate = json.loads((store.cache / f"rate-{store.fingerprint}.json").read_text())["images_per_second"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(rate) if rate else None


def seconds_a_chunk(store: Store, pictures: float, workers: int) -> float | None:
    """Seconds that a child needs for a chunk, at the rate of the last extraction; None before the first.

    pictures: images in the chunk, with each view counted.
    """
    rate = known_rate(store)
    return pictures * workers / rate if rate else None


def remember_rate(store: Store, images_per_second: float | None) -> None:
    """Record the rate of an extraction, with each view counted. None, if nothing was extracted, keeps the old one."""
    if images_per_second:
        record = json.dumps({"images_per_second": images_per_second}).encode()
        replace(store.cache / f"rate-{store.fingerprint}.json", record)


# zstd at level 1 compresses the feature maps of trained VGG16, 86 % zeros, to this fraction (docs/store.md). Others are
# not measured and count in full, so that no run begins that may not fit.
MEASURED_PART = 0.22


def row_bytes(space: Space, format: Format) -> float:
    """Expected bytes of a row in shards of a format, for a store that has none yet to measure."""
    spec = space.spec
    is_measured = format == "parquet" and spec.backbone == "vgg16" and spec.pooling == "none"
    return space.kind.row_bytes * (MEASURED_PART if is_measured and space.weights != "random" else 1.0)
