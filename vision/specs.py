"""What a feature is: the backbones, and everything that changes a feature's value. No Keras in here."""

from dataclasses import asdict, dataclass
from typing import Literal

Pooling = Literal["none", "avg", "max"]
Dtype = Literal["float16", "float32"]
Precision = Literal["float32", "mixed_float16"]

# Decode to RGB with Pillow, first frame, EXIF orientation ignored as Keras does; Pillow's antialiased
# bilinear resize; Keras' "caffe" preprocessing (RGB to BGR, ImageNet means subtracted).
PREPROCESSING = "pillow-rgb bilinear caffe 1"
SMALLEST_IMAGE = 32  # five poolings of 2 leave one pixel


class SpecError(ValueError):
    """A feature space that cannot be."""


@dataclass(frozen=True)
class Backbone:
    """A frozen network without its top.

    tensors: name of each layer with weights → shape of its kernel (height, width, in, out), in the
    order of the network; each has a bias of `out` values. stride: pixels of the image a feature cell.
    imagenet: file name, address and md5 of the ImageNet weights that Keras ships.
    """

    name: str
    tensors: tuple[tuple[str, tuple[int, int, int, int]], ...]
    channels: int
    stride: int
    imagenet: tuple[str, str, str]


def _vgg(*convolutions: int) -> tuple[tuple[str, tuple[int, int, int, int]], ...]:
    tensors, channels = [], 3
    for block, (count, width) in enumerate(zip(convolutions, (64, 128, 256, 512, 512), strict=True), 1):
        for number in range(1, count + 1):
            tensors.append((f"block{block}_conv{number}", (3, 3, channels, width)))
            channels = width
    return tuple(tensors)


BACKBONES = {
    "vgg16": Backbone(
        name="vgg16",
        tensors=_vgg(2, 2, 3, 3, 3),
        channels=512,
        stride=32,
        imagenet=(
            "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
            "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "6d6bbae143d832006294945121d1f1fc",
        ),
    )
}


@dataclass(frozen=True)
class FeatureSpec:
    """Everything that changes the value of a feature; its hash names the feature space.

    weights: digest of the weights' tensors (weights.py). image_size: side of the square in pixels.
    """

    weights: str
    backbone: str = "vgg16"
    image_size: int = 224
    pooling: Pooling = "none"
    dtype: Dtype = "float16"
    precision: Precision = "float32"
    preprocessing: str = PREPROCESSING
    exif: str = "ignore"

    def __post_init__(self):
        if self.backbone not in BACKBONES:
            raise SpecError(f"--backbone: {self.backbone!r} is not known; expected one of {', '.join(BACKBONES)}")
        if self.image_size < SMALLEST_IMAGE:
            raise SpecError(
                f"--image-size: at least {SMALLEST_IMAGE} pixels for {self.backbone}, got {self.image_size}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image's features: (height, width, channels), or (channels,) when pooled."""
        backbone = BACKBONES[self.backbone]
        side = self.image_size // backbone.stride
        return (side, side, backbone.channels) if self.pooling == "none" else (backbone.channels,)

    def record(self) -> dict:
        return asdict(self)
