"""Export as a SavedModel with signatures for pixels and for the bytes of files, as TensorFlow Serving serves it."""

import json
from functools import partial
from pathlib import Path

import numpy as np

from vision.export.description import FILE, Description

FROM_BYTES = (
    "the signature 'bytes' decodes and resizes inside the graph, and ignores EXIF; on photos its probabilities differ from those of "
    "the pipeline by 3e-5 on average and at most 1e-3 (measured on 100 photos)"
)
PLACE = "assets.extra"  # TensorFlow leaves this folder of a SavedModel to others


def write(model, path: Path, description: Description) -> None:
    """Write the model. Signatures: `pixels` and `serving_default` take pixels, `bytes` takes files of any size."""
    import keras
    import tensorflow as tf

    size = description.spec.image_size
    archive = keras.export.ExportArchive()
    archive.track(model)
    names = tf.constant(description.classes)

    def by_pixels(pixels):
        found = model(pixels, training=False)
        classes = tf.repeat(names[tf.newaxis], tf.shape(found)[0], axis=0)
        return {"probabilities": found, "classes": classes, "label": tf.gather(names, tf.argmax(found, axis=1))}

    def by_bytes(data):
        read = partial(_pixels, size=size)
        return by_pixels(tf.map_fn(read, data, fn_output_signature=tf.TensorSpec((size, size, 3), tf.uint8)))

    pixels = tf.TensorSpec((None, size, size, 3), tf.uint8, "pixels")
    archive.add_endpoint("serving_default", by_pixels, [pixels])
    archive.add_endpoint("pixels", by_pixels, [pixels])
    archive.add_endpoint("bytes", by_bytes, [tf.TensorSpec((None,), tf.string, "data")])
    archive.write_out(str(path), verbose=False)
    (path / PLACE).mkdir()
    (path / PLACE / FILE).write_text(json.dumps(description.record() | {"from_bytes": FROM_BYTES}, indent=1))


def load(path: Path):
    """The probabilities that the signature `pixels` gives."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    run = loaded.signatures["pixels"]

    def probabilities(pixels: np.ndarray, keep=loaded) -> np.ndarray:  # the signature alone does not keep the variables
        return run(pixels=tf.constant(pixels))["probabilities"].numpy()

    return probabilities


def _pixels(data, size: int):
    """The pixels of a file, as vision/pixels/decode.py gives them; docs/export.md lists the differences.

    Pillow resizes columns, rounds to 8 bits, and then resizes rows. One resize of both at a time would differ in seven times
    as many pixels.
    """
    import tensorflow as tf

    image = tf.cond(
        tf.io.is_jpeg(data),
        # Pillow's transform. TensorFlow's default is faster and less accurate.
        lambda: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(data, channels=3, expand_animations=False),
    )
    image = tf.ensure_shape(image, (None, None, 3))
    narrow = _rounded(tf.image.resize(image, (tf.shape(image)[0], size), antialias=True))
    return tf.cast(_rounded(tf.image.resize(narrow, (size, size), antialias=True)), tf.uint8)


def _rounded(values):
    import tensorflow as tf

    return tf.floor(tf.clip_by_value(values, 0.0, 255.0) + 0.5)
