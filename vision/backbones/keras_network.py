"""Let Keras make, load and describe a network: `python -m vision.backbones.keras_network FOLDER`, in its own process.

FOLDER has request.json and, for a backbone or weights of the user, a link to the file. The process writes network.keras
(not for a backbone of the user), expected.npy and network.json there; or error.txt if Keras refuses.
"""

import json
import sys
from importlib import import_module
from math import log, prod, sqrt
from pathlib import Path

import h5py
import numpy as np

from vision.backbones.own_file import EXPECTED, NETWORK, network_digest
from vision.backbones.preprocessing import preprocessed
from vision.errors import SpecError
from vision.sample import sample_picture
from vision.specs import FeatureSpec, backbone_of

OWN, WEIGHTS, REQUEST, FOUND, ERROR = "own.keras", "given.h5", "request.json", "network.json", "error.txt"
SCALES = ("gamma", "moving_variance", "variance")
KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")


def make(folder: Path) -> None:
    """Write what the module says. Raises what Keras raises, and SpecError for a network that has no features of an image."""
    request = json.loads((folder / REQUEST).read_text())
    spec = FeatureSpec(**request["spec"])
    picture = sample_picture(spec.image_size)[None]
    if backbone_of(spec.backbone).application:
        pixels = _preprocessed_by_keras(spec, picture)
        network = _application(spec, request["weights"], pixels, folder)
        network.save(folder / NETWORK)
    else:
        network, pixels = _loaded(folder / OWN, spec.image_size), preprocessed(picture, spec)
    expected = np.asarray(network(pixels, training=False), np.float32)
    if expected.ndim not in (2, 4) or 0 in expected.shape:
        raise SpecError(
            f"its output has the shape {expected.shape[1:]}; expected (height, width, channels) or (channels,)"
        )
    np.save(folder / EXPECTED, expected)
    data = (folder / (NETWORK if (folder / NETWORK).exists() else OWN)).read_bytes()
    (folder / FOUND).write_text(json.dumps({"maps": expected.shape[1:], "weights": network_digest(data)}))


def _application(spec: FeatureSpec, weights: str, pixels: np.ndarray, folder: Path):
    """Keras' own network without its top, with the weights: `imagenet`, `random`, or empty for the file in the folder."""
    import keras

    keras.config.set_image_data_format("channels_last")  # overrides the user's keras.json
    function = getattr(keras.applications, backbone_of(spec.backbone).application.partition(":")[2])
    side = spec.image_size
    network = function(
        weights="imagenet" if weights == "imagenet" else None, include_top=False, input_shape=(side, side, 3)
    )
    if weights == "random":
        set_random(network, pixels)
    elif weights != "imagenet":
        network.load_weights(_as_keras_names_it(folder / WEIGHTS))
    return network


def _as_keras_names_it(path: Path) -> Path:
    """The file under a name that tells Keras whether Keras 2 or Keras 3 wrote it."""
    with h5py.File(path) as file:
        is_keras3 = "layer_names" not in file.attrs and "model_weights" not in file
    return path.rename(path.with_name("given.weights.h5")) if is_keras3 else path


def _preprocessed_by_keras(spec: FeatureSpec, picture: np.ndarray) -> np.ndarray:
    module = import_module(backbone_of(spec.backbone).application.partition(":")[0])
    return module.preprocess_input(picture.astype(np.float32)) * np.float32(spec.rescale)


def _loaded(path: Path, side: int):
    """A user's model, loaded in safe mode. Raises SpecError if it is no network of images of this size."""
    import keras

    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    if len(getattr(model, "inputs", None) or ()) != 1 or len(model.outputs) != 1:
        raise SpecError("it has no image as its only input, or more than one output")
    shape = tuple(model.inputs[0].shape)
    if len(shape) != 4 or shape[-1] not in (3, None):
        raise SpecError(f"it has no image input: its input has the shape {shape[1:]}, expected (height, width, 3)")
    if any(given not in (side, None) for given in shape[1:3]):
        raise SpecError(f"it takes images of {shape[1]} x {shape[2]} pixels, not of {side}; change `image_size`")
    return model


def set_random(network, pixels: np.ndarray) -> None:
    """Set weights that a seed and the image size decide, the same on every machine.

    Kernels are He-normal (He et al. 2015), scales 1, the rest 0. The variance of each batch normalisation is the mean square of
    what reaches it from `pixels`, rounded to a power of 4, so that values neither vanish nor grow beyond float16.
    """
    from keras.layers import BatchNormalization

    generator = np.random.Generator(np.random.PCG64(0))
    for layer in network.layers:
        layer.set_weights([_draw(generator, tuple(weight.shape), weight.name) for weight in layer.weights])

    def adapted(layer):
        def call(*values, **options):
            if isinstance(layer, BatchNormalization):
                square = max(float(np.square(np.asarray(values[0], np.float64)).mean()), 4.0**-20)
                layer.moving_variance.assign(np.full(layer.moving_variance.shape, 4.0 ** round(log(square, 4))))
            return layer(*values, **options)

        return call

    network._run_through_graph(pixels, operation_fn=adapted)


def _draw(generator: np.random.Generator, shape: tuple[int, ...], name: str) -> np.ndarray:
    if name in KERNELS:
        inputs = prod(shape[:2]) if name == "depthwise_kernel" else prod(shape[:-1])
        return generator.standard_normal(shape, np.float32) * np.float32(sqrt(2 / inputs))
    return np.full(shape, float(name in SCALES), np.float32)


def main(folder: Path) -> int:
    """Make the network. A refusal is one line in error.txt."""
    from vision.runtime import prepare_tensorflow

    prepare_tensorflow(2)
    try:
        make(folder)
    except Exception as error:  # Keras raises almost anything on other files
        (folder / ERROR).write_text(" ".join(str(error).split()) or type(error).__name__)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
