"""The parameters of a feature space, and the one place that makes a FeatureSpec of them."""

from dataclasses import fields
from functools import cached_property
from typing import get_args

import pydantic
from pydantic import Field

from flows.options.paths import check_path
from vision.backbones.network import described
from vision.backbones.own_file import is_own, own_name
from vision.errors import SpecError
from vision.families import ModeName
from vision.specs import PREPROCESSING, Dtype, Exif, FeatureSpec, Pooling, Precision, SixteenBit, backbone_of


class FeatureOptions(pydantic.BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """The group `features` of the pipeline's parameters: `weights`, and fields of FeatureSpec by their names there."""

    backbone: str = Field(
        "vgg16",
        title="features",
        description="frozen network that computes the features: any of keras.applications, for example vgg16, resnet50, "
        "convnext_tiny, efficientnet_v2_b0 (docs/backbones.md lists them), or the path of a .keras file",
    )
    preprocessing: ModeName | None = Field(
        None,
        title="features",
        description="what a backbone from a file expects: one of Keras' modes, none: pixels of 0 to 255, scale: of 0 to 1",
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

    _weights_path = pydantic.field_validator("weights", "backbone")(check_path)

    @property
    def source(self) -> str:
        """Where the weights come from: `imagenet`, `random` or a path."""
        return self.backbone if is_own(self.backbone) else self.weights

    @cached_property
    def spec(self) -> FeatureSpec:
        """The feature space without the digest of its weights, which `find_space` fills in.

        A backbone that Keras describes is described now, once per machine. Raises SpecError or WeightsError.
        """
        names = {field.name for field in fields(FeatureSpec)} - {"weights", "backbone", "preprocessing", "maps"}
        given = self.model_dump(include=names, exclude_none=True)
        backbone = self._own_backbone() if is_own(self.backbone) else self.backbone
        own = backbone_of(backbone).preprocessing
        mode = PREPROCESSING.format(self.preprocessing) if self.preprocessing else ""
        if own and mode not in ("", own):
            raise SpecError(f"`preprocessing`: {backbone} has its own, {own.split()[2]}; leave it out")
        return described(FeatureSpec(weights="", backbone=backbone, preprocessing=mode, **given), self.source)

    def _own_backbone(self) -> str:
        if self.weights != "imagenet":  # the default
            raise SpecError(f"`weights`: {self.backbone} has its own weights; leave them out")
        if not self.preprocessing:
            raise SpecError(
                f"`preprocessing`: {self.backbone} does not say what it expects; choose one of {', '.join(get_args(ModeName))}"
            )
        return own_name(self.backbone)
