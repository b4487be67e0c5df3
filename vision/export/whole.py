"""One Keras model from pixels to the probabilities of all classes."""

from dataclasses import replace

from vision.backbones.weights_file import Tensors
from vision.specs import FeatureSpec
from vision.training.fine_tuning import through_head


def build_classifier(spec: FeatureSpec, tensors: Tensors, head):
    """A model from (n, size, size, 3) uint8 RGB to (n, classes) float32 probabilities.

    It has the backbone with `tensors`, then the layers of `head`. It computes in float32, whatever the precision of the
    spec, and rounds features to the spec's dtype as the store does, because the head was trained on those.
    """
    import keras
    from keras.layers import Activation

    from vision.backbones.keras_model import build_backbone

    backbone = build_backbone(replace(spec, precision="float32"), tensors)
    features = backbone.output
    if spec.dtype != "float32":
        stored = Activation("linear", dtype=spec.dtype, name="as_stored")(features)
        features = Activation("linear", dtype="float32", name="as_read")(stored)
    return with_all_classes(keras.Model(backbone.input, through_head(features, head)), f"{spec.backbone}_with_head")


def with_all_classes(model, name: str):
    """The model with one output per class; see `class_scores` for a model with a single output."""
    import keras
    from keras.layers import Concatenate, Rescaling

    outputs = model.output
    if model.output_shape[-1] == 1:
        first = Rescaling(-1.0, 1.0, name="first_class")(outputs)
        outputs = Concatenate(name="probabilities")([first, outputs])
    return keras.Model(model.input, outputs, name=name)
