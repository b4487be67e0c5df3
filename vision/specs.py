"""The backbones, and the specification of a feature: everything that changes its value. Imports no Keras."""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from math import inf, sqrt
from typing import Literal, get_args

from vision.errors import SpecError
from vision.families import FAMILIES, ModeName

Pooling = Literal["none", "avg", "max"]
Dtype = Literal["float16", "float32"]
Precision = Literal["float32", "mixed_float16", "bfloat16", "int8"]
Exif = Literal["ignore", "apply"]
SixteenBit = Literal["clip", "scale"]


@dataclass(frozen=True)
class Tensor:
    """One array of a layer. Random weights are `value`, or, given a deviation, normally distributed around zero."""

    shape: tuple[int, ...]
    value: float = 0.0
    deviation: float = 0.0


@dataclass(frozen=True)
class Backbone:
    """A frozen network without its top. A new backbone is only an entry, in FAMILIES or in BACKBONES.

    application: module and function of Keras that build it; empty for a file of the user. preprocessing: decoding, resizing
    and the mode of the module's `preprocess_input` (vision/backbones/preprocessing.py), as recorded in a fingerprint; empty
    for a file of the user, who declares it. credit: authors and licence of Keras' ImageNet weights. differs_by_weights: see
    vision/families.py.

    The rest describes the network to processes without Keras; without it, Keras does (vision/backbones/network.py).
    tensors: name of each layer with weights → its arrays in Keras' order (`Layer.get_weights`). side: side of the image in
    pixels → side of the feature map in cells, for images of at least smallest_image. imagenet: file name, address and md5
    of Keras' ImageNet weights. is_vgg: whether it consists of blocks of 3x3 convolutions, as in
    vision/backbones/vgg_reference.py.
    """

    name: str
    application: str
    preprocessing: str
    tensors: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    channels: int = 0
    side: Callable[[int], int] = lambda pixels: 0
    smallest_image: int = 1
    imagenet: tuple[str, str, str] = ("", "", "")
    is_vgg: bool = False
    credit: str = ""
    differs_by_weights: bool = False

    @property
    def is_described(self) -> bool:
        """Whether the entry describes the network, so that nobody has to ask Keras."""
        return self.channels > 0


# Decode to RGB with Pillow, first frame, EXIF orientation ignored as Keras does (unless the spec says so); Pillow's
# antialiased bilinear resize; Keras' "caffe" preprocessing (RGB to BGR, ImageNet means subtracted). ResNet50, version 1, is
# "caffe" in Keras as well: its weights were converted from Caffe; "tf" and "torch" are those of later networks.
PREPROCESSING = "pillow-rgb bilinear {} 1"
CAFFE = PREPROCESSING.format("caffe")
# A file of the user, by the digest of its architecture (vision/backbones/own_file.py).
OWN = re.compile(r"keras-[0-9a-f]{32}")

# How int8 finds the ranges of its activations (vision/engines/calibration.py). Part of the fingerprint of an int8 space.
CALIBRATION = "china+flower max*1.5 1"
OXFORD = (
    "Karen Simonyan and Andrew Zisserman, Visual Geometry Group, University of Oxford, CC BY 4.0; converted by Keras"
)
KAIMING_HE = "Kaiming He and others, MIT licence; converted by Keras"


def _convolution(size: int, inputs: int, outputs: int) -> tuple[Tensor, ...]:
    """Kernel and bias. Random kernels are He-normal (He et al. 2015: variance 2 / inputs), biases zero."""
    return Tensor((size, size, inputs, outputs), deviation=sqrt(2.0 / (size * size * inputs))), Tensor((outputs,))


def _batch_norm(channels: int, gamma: float = 1.0) -> tuple[Tensor, ...]:
    """Gamma, beta, moving mean and variance."""
    shape = (channels,)
    return Tensor(shape, gamma), Tensor(shape), Tensor(shape), Tensor(shape, 1.0)


def _vgg(*convolutions: int) -> dict[str, tuple[Tensor, ...]]:
    """Five blocks of 3x3 convolutions (Simonyan and Zisserman 2014, table 1)."""
    tensors, channels = {}, 3
    for block, (count, width) in enumerate(zip(convolutions, (64, 128, 256, 512, 512), strict=True), 1):
        for number in range(1, count + 1):
            tensors[f"block{block}_conv{number}"] = _convolution(3, channels, width)
            channels = width
    return tensors


def _resnet(*blocks: int) -> dict[str, tuple[Tensor, ...]]:
    """Four stages of bottleneck blocks, the first with a projection for its shortcut (He et al. 2015, table 1).

    With random weights the values would grow from block to block beyond float16 (4.5e5 at 224 pixels, measured). So the
    last gamma of a residual branch is 1 / sqrt(blocks), as in Hayou et al. 2021, "Stable ResNet".
    """
    tensors = {"conv1_conv": _convolution(7, 3, 64), "conv1_bn": _batch_norm(64)}
    channels, damped = 64, 1 / sqrt(sum(blocks))
    for stage, (count, width) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), 2):
        for block in range(1, count + 1):
            name, last = f"conv{stage}_block{block}", 4 * width
            if block == 1:
                tensors |= {f"{name}_0_conv": _convolution(1, channels, last), f"{name}_0_bn": _batch_norm(last)}
            tensors |= {f"{name}_1_conv": _convolution(1, channels, width), f"{name}_1_bn": _batch_norm(width)}
            tensors |= {f"{name}_2_conv": _convolution(3, width, width), f"{name}_2_bn": _batch_norm(width)}
            tensors |= {f"{name}_3_conv": _convolution(1, width, last), f"{name}_3_bn": _batch_norm(last, damped)}
            channels = last
    return tensors


def _imagenet(folder: str, name: str, md5: str) -> tuple[str, str, str]:
    file = f"{name}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    return file, f"https://storage.googleapis.com/tensorflow/keras-applications/{folder}/{file}", md5


BACKBONES = {
    "vgg16": Backbone(
        name="vgg16",
        application="keras.applications.vgg16:VGG16",
        preprocessing=CAFFE,
        tensors=_vgg(2, 2, 3, 3, 3),
        channels=512,
        side=lambda pixels: pixels // 32,  # five poolings of 2, without padding
        smallest_image=32,
        imagenet=_imagenet("vgg16", "vgg16", "6d6bbae143d832006294945121d1f1fc"),
        credit=OXFORD,
        is_vgg=True,
    ),
    "vgg19": Backbone(
        name="vgg19",
        application="keras.applications.vgg19:VGG19",
        preprocessing=CAFFE,
        tensors=_vgg(2, 2, 4, 4, 4),
        channels=512,
        side=lambda pixels: pixels // 32,
        smallest_image=32,
        imagenet=_imagenet("vgg19", "vgg19", "253f8cb515780f3b799900260a226db6"),
        credit=OXFORD,
        is_vgg=True,
    ),
    "resnet50": Backbone(
        name="resnet50",
        application="keras.applications.resnet50:ResNet50",
        preprocessing=CAFFE,
        tensors=_resnet(3, 4, 6, 3),
        channels=2048,
        side=lambda pixels: -(-pixels // 32),  # five strides of 2, each padded so that it rounds up
        smallest_image=32,  # the smallest size that Keras accepts
        imagenet=_imagenet("resnet", "resnet50", "4d473c1dd8becc155b73f8504c6f6626"),
        credit=KAIMING_HE,
    ),
}
BACKBONES |= {
    name: Backbone(
        name=name,
        application=f"keras.applications.{family.module}:{function}",
        preprocessing=PREPROCESSING.format(family.mode),
        credit=family.credit,
        differs_by_weights=family.differs_by_weights,
    )
    for family in FAMILIES
    for name, function in family.members.items()
}


def backbone_of(name: str) -> Backbone:
    """The backbone that a spec names. Raises SpecError if there is none."""
    if name in BACKBONES:
        return BACKBONES[name]
    if OWN.fullmatch(name):
        return Backbone(name, application="", preprocessing="")
    similar = get_close_matches(name, BACKBONES, n=3) or ("vgg16", "resnet50", "convnext_tiny")
    raise SpecError(
        f"`backbone`: unknown backbone {name!r}; expected the path of a .keras file or one of the names in "
        f"docs/backbones.md, for example {', '.join(similar)}"
    )


@dataclass(frozen=True)
class FeatureSpec:
    """Everything that changes the value of a feature. Its hash names the feature space.

    weights: digest of the weights' tensors (weights.py). image_size: side of the square in pixels. preprocessing: that of
    the backbone; empty is filled in, anything else is refused; that of a user's file is any of Keras' modes. exif: whether to apply the orientation of the EXIF. rescale:
    factor for the preprocessed values, as in Keras' ImageDataGenerator. sixteen_bit: whether to clip 16-bit greys at 255, as
    Pillow and Keras do, or to scale them. calibration: that of int8; empty is filled in, anything else is refused. The
    record omits the defaults of rescale and sixteen_bit, and an empty calibration, so that older spaces keep their names.
    Raises SpecError.
    """

    weights: str
    backbone: str = "vgg16"
    image_size: int = 224
    pooling: Pooling = "none"
    dtype: Dtype = "float16"
    precision: Precision = "float32"
    preprocessing: str = ""
    exif: Exif = "ignore"
    rescale: float = 1.0
    sixteen_bit: SixteenBit = "clip"
    calibration: str = ""
    maps: tuple[int, ...] = ()

    def __post_init__(self):
        own = backbone_of(self.backbone)
        if self.image_size < own.smallest_image:
            raise SpecError(
                f"`image_size`: {own.name} needs at least {own.smallest_image} pixels, got {self.image_size}"
            )
        allowed = [own.preprocessing] if own.application else [PREPROCESSING.format(m) for m in get_args(ModeName)]
        if self.preprocessing not in ("", *allowed) or (not own.application and not self.preprocessing):
            raise SpecError(
                f"{own.name} has the preprocessing {' or '.join(map(repr, allowed))}, not {self.preprocessing!r}"
            )
        if not 0 < self.rescale < inf:
            raise SpecError(
                f"`rescale`: expected a finite number over 0, for example 0.00392156862745098; got {self.rescale}"
            )
        calibration = CALIBRATION if self.precision == "int8" else ""
        if self.calibration not in ("", calibration):
            raise SpecError(
                f"`precision={self.precision}` has the calibration {calibration or 'none'!r}, not {self.calibration!r}"
            )
        # frozen for everyone else
        object.__setattr__(self, "preprocessing", self.preprocessing or own.preprocessing)
        object.__setattr__(self, "maps", tuple(self.maps))  # a list in JSON
        object.__setattr__(self, "calibration", calibration)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image's features: (height, width, channels), or (channels,) if pooled."""
        backbone = backbone_of(self.backbone)
        side = backbone.side(self.image_size)
        maps = (side, side, backbone.channels) if backbone.is_described else self.maps
        return maps if self.pooling == "none" else maps[-1:]

    def record(self) -> dict:
        """The fields as JSON types, which are hashed to the fingerprint."""
        record = asdict(self)
        if self.rescale == 1.0:
            del record["rescale"]
        if self.sixteen_bit == "clip":
            del record["sixteen_bit"]
        if not self.calibration:
            del record["calibration"]
        if not self.maps:
            del record["maps"]
        return record


def cut_shape(spec: FeatureSpec, before: str | None) -> tuple[int, ...]:
    """The shape of the maps of one image if the network ends in front of a block: (height, width, channels).

    before: `block2` to `block5`; the maps are the output of the pooling before it. None is the whole network: spec.shape.
    Raises SpecError if there is no such block, or if the backbone is no VGG.
    """
    if before is None:
        return spec.shape
    backbone = backbone_of(spec.backbone)
    if not backbone.is_vgg:
        family = ", ".join(name for name, other in BACKBONES.items() if other.is_vgg)
        raise SpecError(
            f"`fine_tune`: {backbone.name} has no blocks that can be trained separately; choose a backbone of {family}"
        )
    blocks = list(dict.fromkeys(name.partition("_")[0] for name in backbone.tensors))
    if before not in blocks[1:]:
        raise SpecError(f"`fine_tune`: cannot start at block {before!r}; expected one of {', '.join(blocks[1:])}")
    poolings = blocks.index(before)
    last = [layer for name, layer in backbone.tensors.items() if name.startswith(blocks[poolings - 1] + "_")][-1]
    side = spec.image_size >> poolings  # each pooling of 2 rounds down
    return (side, side, last[0].shape[-1])
