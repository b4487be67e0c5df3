"""Options of a plan."""

from dataclasses import dataclass

from storage.errors import InputError
from storage.shards.shard import MAX_ROWS, Format
from storage.shards.view_ids import MOST_VARIANTS


@dataclass(frozen=True)
class PlanOptions:
    """Options of a plan. Raises InputError for invalid values.

    validation_fraction: the share of the images without a given split that goes to validation. chunk_size: images per
    chunk; None derives it from the number of images. limit: the maximum number of new images; the others stay pending.
    max_removed_fraction: if a larger fraction of the live images is gone, the plan is refused unless `allow_removals`.
    format: of new shards. variants: views of each training image, the plain one included; the others use
    `augmentation`, a text. classes: the classes to train on, each of which must have images. exclude, relabel: files of
    corrections (storage/source/corrections_file.py), or empty.
    """

    validation_fraction: float = 0.2
    chunk_size: int | None = None
    limit: int | None = None
    max_removed_fraction: float = 0.2
    allow_removals: bool = False
    format: Format = "parquet"
    variants: int = 1
    augmentation: str = ""
    classes: tuple[str, ...] | None = None
    exclude: str = ""
    relabel: str = ""

    def __post_init__(self):
        if self.chunk_size is not None and not 1 <= self.chunk_size <= MAX_ROWS:
            raise InputError(f"`chunk_size`: expected 1 to {MAX_ROWS} images, got {self.chunk_size}")
        if not 1 <= self.variants <= MOST_VARIANTS + 1:
            raise InputError(
                f"`variants`: expected 1 to {MOST_VARIANTS + 1} including the plain image, got {self.variants}"
            )
        if self.variants > 1 and not self.augmentation:
            raise InputError(f"`variants={self.variants}`: give their augmentation with `augment`")
        if self.chunk_size is not None and self.chunk_size * self.variants > MAX_ROWS:
            raise InputError(
                f"`chunk_size={self.chunk_size}` with `variants={self.variants}`: a shard can have at most {MAX_ROWS} rows; "
                f"`chunk_size={MAX_ROWS // self.variants}` is the maximum for this number of variants"
            )
        if self.limit is not None and self.limit < 0:
            raise InputError(f"`limit`: expected 0 or more images, got {self.limit}")
        for name in ("validation_fraction", "max_removed_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"`{name}`: expected 0 to 1, got {getattr(self, name)}")
