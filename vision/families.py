"""The families of keras.applications that Keras itself describes: names, preprocessing and authors. Imports no Keras.

A new family is only an entry in FAMILIES. Shapes and weights are found by Keras (vision/backbones/network.py).
"""

from dataclasses import dataclass
from typing import Literal

ModeName = Literal["caffe", "tf", "torch", "none", "scale"]


@dataclass(frozen=True)
class Family:
    """Backbones of one module of keras.applications.

    mode: of the module's `preprocess_input`; `none` if the networks take pixels of 0 to 255 and preprocess them inside.
    members: name of each backbone → its function in keras.applications. credit: authors and licence of the ImageNet weights.
    differs_by_weights: whether Keras builds another network for `imagenet` than for a file of weights.
    """

    module: str
    mode: ModeName
    members: dict[str, str]
    credit: str
    differs_by_weights: bool = False


def _numbered(name: str, function: str, *numbers: str) -> dict[str, str]:
    return {name.format(number.lower()): function.format(number) for number in numbers}


GOOGLE = "Google, Apache License 2.0; converted by Keras"

FAMILIES = (
    Family(
        "resnet",
        "caffe",
        _numbered("resnet{}", "ResNet{}", "101", "152"),
        "Kaiming He and others, MIT licence; converted by Keras",
    ),
    Family(
        "resnet_v2",
        "tf",
        _numbered("resnet{}_v2", "ResNet{}V2", "50", "101", "152"),
        "Facebook, BSD licence; converted by Keras",
    ),
    Family(
        "convnext",
        "none",
        _numbered("convnext_{}", "ConvNeXt{}", "Tiny", "Small", "Base", "Large", "XLarge"),
        "Facebook Research, MIT licence; converted by Keras",
    ),
    Family(
        "efficientnet",
        "none",
        _numbered("efficientnet_b{}", "EfficientNetB{}", *"01234567"),
        GOOGLE,
        differs_by_weights=True,
    ),
    Family(
        "efficientnet_v2",
        "none",
        _numbered("efficientnet_v2_{}", "EfficientNetV2{}", "B0", "B1", "B2", "B3", "S", "M", "L"),
        GOOGLE,
    ),
    Family("mobilenet", "tf", {"mobilenet": "MobileNet"}, GOOGLE),
    Family("mobilenet_v2", "tf", {"mobilenet_v2": "MobileNetV2"}, GOOGLE),
    Family("mobilenet_v3", "none", _numbered("mobilenet_v3_{}", "MobileNetV3{}", "Small", "Large"), GOOGLE),
    Family(
        "densenet",
        "torch",
        _numbered("densenet{}", "DenseNet{}", "121", "169", "201"),
        "Zhuang Liu and others, BSD licence; converted by Keras",
    ),
    Family("inception_v3", "tf", {"inception_v3": "InceptionV3"}, GOOGLE),
    Family("inception_resnet_v2", "tf", {"inception_resnet_v2": "InceptionResNetV2"}, GOOGLE),
    Family("nasnet", "tf", _numbered("nasnet_{}", "NASNet{}", "Mobile", "Large"), GOOGLE),
    Family("xception", "tf", {"xception": "Xception"}, "François Chollet, MIT licence"),
)
