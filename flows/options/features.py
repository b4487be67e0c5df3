"""The parameters of a feature space, and the one place that makes a FeatureSpec of them."""

from dataclasses import fields
from functools import cached_property
from typing import Literal

import pydantic
from pydantic import Field

from flows.options.paths import check_path
from vision.specs import BACKBONES, Dtype, Exif, FeatureSpec, Pooling, Precision, SixteenBit


class FeatureOptions(pydantic.BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """The group `features` of the pipeline's parameters: `weights`, and fields of FeatureSpec by their names there."""

    backbone: Literal[*BACKBONES] = Field(
        "vgg16", title="features", description="frozen network that computes the features"
    )
    weights: str = Field("imagenet", title="features", description="imagenet, random, or a Keras weights file")
    image_size: int = Field(
        224, title="features", description="side in pixels of the square that each image is resized to"
    )
    pooling: Pooling = Field("none", title="features", description="pooling of the last feature map")
    dtype: Dtype = Field("float16", title="features", description="type of the stored features")
    precision: Precision = Field("float32", title="features", description="arithmetic of the backbone")
    exif: Exif = Field(
        "ignore",
        title="features",
        description="apply: turn images by their EXIF orientation; ignore: do not, as in Keras",
    )
    sixteen_bit: SixteenBit = Field(
        "clip",
        title="features",
        description="scale: keep the high byte of 16-bit greys; clip: values over 255 become white, as in Keras",
    )
    rescale: float | None = Field(
        None,
        gt=0,
        title="features",
        description="multiply the preprocessed pixels of every image by this number; default: 1",
    )

    _weights_path = pydantic.field_validator("weights")(check_path)

    @cached_property
    def spec(self) -> FeatureSpec:
        """The feature space without the digest of its weights, which `find_space` fills in. Raises SpecError."""
        names = {field.name for field in fields(FeatureSpec)} - {"weights"}
        return FeatureSpec(weights="", **self.model_dump(include=names, exclude_none=True))
