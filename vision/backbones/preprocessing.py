"""From RGB pixels to what a backbone expects: Keras' three modes and two more, once for numpy and once as Keras layers.

Both forms give the same bits in mode "caffe", the mode of every backbone that an engine other than TensorFlow runs.
"""

from dataclasses import dataclass

import numpy as np

from vision.specs import FeatureSpec


@dataclass(frozen=True)
class Mode:
    """Pixels times `scale` plus `offset`, each one number or one per channel. is_bgr: the channels are reversed first."""

    scale: float | tuple[float, ...]
    offset: float | tuple[float, ...]
    is_bgr: bool = False


# keras.applications.imagenet_utils.preprocess_input. The means and deviations are those of ImageNet's channels. `none` is for
# networks that take pixels of 0 to 255, `scale` for those that take numbers of 0 to 1.
MODES = {
    "caffe": Mode(1.0, (-103.939, -116.779, -123.68), is_bgr=True),
    "tf": Mode(1 / 127.5, -1.0),
    "torch": Mode(
        (1 / (255 * 0.229), 1 / (255 * 0.224), 1 / (255 * 0.225)), (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225)
    ),
    "none": Mode(1.0, 0.0),
    "scale": Mode(1 / 255, 0.0),
}


def mode_of(spec: FeatureSpec) -> Mode:
    """The mode that the record of the preprocessing names: "pillow-rgb bilinear caffe 1"."""
    _, _, name, _ = spec.preprocessing.split()
    return MODES[name]


def preprocessed(pixels: np.ndarray, spec: FeatureSpec) -> np.ndarray:
    """(n, h, w, 3) uint8 RGB → float32 in the spec's mode, times `spec.rescale`."""
    mode = mode_of(spec)
    ordered = pixels[..., ::-1] if mode.is_bgr else pixels
    values = ordered.astype(np.float32) * np.asarray(mode.scale, np.float32) + np.asarray(mode.offset, np.float32)
    return values * np.float32(spec.rescale)


def preprocessing_layers(pixels, spec: FeatureSpec):
    """The same for a Keras tensor, by layers that Keras saves and loads in safe mode. A Lambda would hold code of ours."""
    import keras
    from keras.layers import Rescaling

    mode = mode_of(spec)
    scale, offset = (list(each) if isinstance(each, tuple) else each for each in (mode.scale, mode.offset))
    ordered = keras.ops.flip(pixels, axis=-1) if mode.is_bgr else pixels
    values = Rescaling(scale, offset, dtype="float32", name="preprocessing")(ordered)
    if spec.rescale == 1.0:
        return values
    return Rescaling(spec.rescale, dtype="float32", name="rescale")(values)
