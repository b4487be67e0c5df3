"""What an exported model says about itself: a JSON record in the file or folder."""

from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from vision.specs import FeatureSpec, backbone_of

FILE = "classifier.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Description:
    """A head and its feature space, as an export describes them.

    classes: in the order of the probabilities. version: number of the store's version that the head was trained on.
    weights: where those of the backbone come from: `imagenet`, `random` or a path.
    """

    classes: tuple[str, ...]
    head: str
    version: int
    fingerprint: str
    spec: FeatureSpec
    weights: str = field(repr=False)

    def record(self) -> dict[str, Any]:
        """The record as JSON types."""
        size = self.spec.image_size
        return {
            "format_version": FORMAT_VERSION,
            "classes": list(self.classes),
            "head": self.head,
            "version": self.version,
            "fingerprint": self.fingerprint,
            "features": self.spec.record(),
            "input": f"pixels: uint8 RGB, shape (n, {size}, {size}, 3)",
            "output": f"probabilities: float32, shape (n, {len(self.classes)}), in the order of classes",
            "preprocessing": self._preprocessing(),
            "precision": f"the model computes in float32; the head was trained on features in {self.spec.precision}",
            "weights": self._weights(),
            "project": f"extract-and-train {version('extract-and-train')}",
        }

    def _preprocessing(self) -> str:
        turned = "turned as its EXIF says" if self.spec.exif == "apply" else "not turned by its EXIF"
        size = self.spec.image_size
        return (
            f"decode the first frame to 8-bit RGB, {turned}; resize it to {size} x {size} with Pillow's BILINEAR filter, without "
            "keeping the aspect ratio; the model does the rest"
        )

    def _weights(self) -> str:
        backbone = backbone_of(self.spec.backbone)
        if self.weights == "random":
            return "The weights of the backbone are random numbers, so predictions mean little."
        if self.weights == "imagenet":
            return f"The weights of the backbone were trained on ImageNet by {backbone.credit}."
        if not backbone.credit:
            return "The backbone and its weights come from a file, whose licence applies."
        return (
            f"The weights of the backbone come from a file, whose licence applies. If that file has the ImageNet weights of {backbone.name} "
            f"or others trained from them, their authors and licence are: {backbone.credit}."
        )
