"""The parameters of the input: images, labels, classes and the store."""

import pydantic
from pydantic import Field

from flows.options.field_types import ClassNames, Fraction, OutsideLinks
from flows.options.paths import check_path
from storage.backend.paths import Place, place
from storage.errors import InputError
from storage.source.folder_layout import Layout


class ImageOptions(pydantic.BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """The group `input` of the pipeline's parameters."""

    images: str | None = Field(
        None,
        title="input",
        description="folder of class folders, or of train/ and validation/ folders that hold class folders; also s3://bucket/prefix or gs://bucket/prefix",
    )
    store: str = Field(
        "./store",
        title="input",
        validate_default=True,
        description="folder that keeps features, versions and heads; also s3://bucket/prefix or gs://bucket/prefix",
    )
    layout: Layout = Field("auto", title="input", description="how folders give labels; auto inspects them")
    labels: str | None = Field(
        None,
        title="input",
        description=".csv or .parquet table with columns path, class and optionally split, used instead of folder names",
    )
    exclude: str | None = Field(
        None,
        title="input",
        description=".csv or .parquet file of images to leave out, such as the reviewed review.csv of an inspection",
    )
    relabel: str | None = Field(
        None,
        title="input",
        description=".csv or .parquet file of images that have another class, such as the reviewed review.csv of an inspection",
    )
    classes: ClassNames | None = Field(
        None,
        title="input",
        description="classes to train on, in index order, for example cat,dog; default: all, sorted by name",
    )
    validation_fraction: Fraction = Field(
        0.2, title="input", description="share of the images held out when no image is assigned to validation"
    )
    outside_links: OutsideLinks = Field(
        False,
        title="input",
        description="follow links that lead out of the image folder; by default they are skipped with a warning",
    )
    allow_relabels: bool = Field(
        False,
        title="input",
        description="accept folders that label existing images differently from the newest version",
    )
    rehash: bool = Field(
        False, title="input", description="read every image again instead of trusting file sizes and times"
    )

    _image_paths = pydantic.field_validator("images", "store", "labels", "exclude", "relabel")(check_path)

    @property
    def folder(self) -> Place:
        """The image folder, absolute, or the prefix of an object store. Raises InputError if none was given."""
        if self.images is None:
            raise InputError("--images: the folder of images is missing")
        return place(self.images)

    @property
    def label_file(self) -> Place | None:
        """The table of labels; None if folders give the labels."""
        return place(self.labels) if self.labels else None

    @property
    def store_root(self) -> Place:
        """The root of the store. Raises InputError for one that the next scan would take for a class folder."""
        root, folder = place(self.store), self.folder
        above = f"{str(folder).rstrip('/')}/"
        inside = str(root).removeprefix(above) if str(root).startswith(above) else None
        if root == folder or (inside and not any(part.startswith(".") for part in inside.split("/"))):
            raise InputError(
                f"--store: {root} is in the image folder {folder}, where it would be read as a class; "
                "put it beside that folder, or choose a name that begins with a dot"
            )
        return root
