"""The record of a job that predicts images from the network: JSON in and out."""

from dataclasses import asdict, dataclass

from workers.jobs.records import Space


@dataclass(frozen=True)
class UploadsJob:
    """Predict images that came over the network. head: name of a head of `space`, which has its weights.

    engine, threads, largest_batch: as in ChunksJob. images: base64 of each file. squares: numbers of the images whose
    pixels, as the network sees them, are part of the answer. vectors: likewise for the global average of their features.
    """

    space: Space
    head: str
    engine: str
    threads: int
    largest_batch: int | None = None
    images: tuple[str, ...] = ()
    squares: tuple[int, ...] = ()
    vectors: tuple[int, ...] = ()

    def record(self) -> dict:
        """The job as JSON types."""
        return asdict(self)

    @classmethod
    def of(cls, record: dict) -> "UploadsJob":
        """From record(), also after JSON."""
        lists = {name: tuple(record[name]) for name in ("images", "squares", "vectors")}
        return cls(**record | lists | {"space": Space.of(record["space"])})
