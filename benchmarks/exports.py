"""Does every export give the probabilities of the head? The last line is one JSON object.

    python benchmarks/exports.py --photos FOLDER --weights vgg16_notop.weights.h5

Trains a head on some photos of FOLDER, which has `train/` and `validation/` with class folders, exports it in every format,
and loads each export in a new process that imports nothing of this project. Compares the probabilities of validation photos
with those of `Classifier`: from pixels as the project decodes them, and from the bytes of the files. `--store` takes the
current head of an existing store instead of training one.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BENCHMARKS = Path(__file__).parent
sys.path.insert(0, str(BENCHMARKS.parent))

from extraction import environment, say  # noqa: E402

from vision.export.formats import FORMATS  # noqa: E402
from vision.pixels.decode import decode  # noqa: E402
from workers.classifier import Classifier  # noqa: E402

BATCH = 10
LOADERS = {
    "keras": """
import keras
model = keras.saving.load_model(path, safe_mode=True)
run = lambda pixels: np.asarray(model(pixels, training=False))
""",
    "saved_model": """
import tensorflow as tf
model = tf.saved_model.load(path)
run = lambda pixels: model.signatures["serving_default"](pixels=tf.constant(pixels))["probabilities"].numpy()
read = lambda data: model.signatures["bytes"](data=tf.constant(data))["probabilities"].numpy()
""",
    "onnx": """
import onnxruntime
session = onnxruntime.InferenceSession(path)
run = lambda pixels: session.run(None, {"pixels": pixels})[0]
""",
    "litert": """
import tensorflow as tf
model = tf.lite.Interpreter(path, num_threads=2)
def run(pixels):
    given = model.get_input_details()[0]
    if tuple(given["shape"]) != pixels.shape:
        model.resize_tensor_input(given["index"], pixels.shape)
        model.allocate_tensors()
    model.set_tensor(given["index"], pixels)
    model.invoke()
    return model.get_tensor(model.get_output_details()[0]["index"]).copy()
""",
}
CODE = """
import json, sys, time
began = time.monotonic()
import numpy as np
path, pixels, files, result = sys.argv[1:]
pixels, read = np.load(pixels), None
BATCH = {batch}
{loader}
batches = [pixels[at : at + BATCH] for at in range(0, len(pixels), BATCH)]
first = run(batches[0])
loaded = time.monotonic()
found = {{"pixels": np.concatenate([run(batch) for batch in batches])}}
ended = time.monotonic()
if read:
    data = [open(name, "rb").read() for name in json.load(open(files))]
    found["bytes"] = np.concatenate([read(data[at : at + BATCH]) for at in range(0, len(data), BATCH)])
assert not {{"vision", "workers", "storage"}} & set(sys.modules)
np.savez(result, **found)
print(json.dumps({{"load_seconds": round(loaded - began, 2), "images_per_second": round(len(pixels) / (ended - loaded), 2)}}))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=Path, default=os.environ.get("PHOTOS"))
    parser.add_argument("--weights", type=Path, default=os.environ.get("VGG16_WEIGHTS"))
    parser.add_argument("--store", type=Path, help="existing store whose current head to export")
    parser.add_argument("--count", type=int, default=100, help="photos to compare (100)")
    parser.add_argument("--train", type=int, default=180, help="photos to train on (180)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        photos = validation(given.photos, given.count)
        store = given.store or train(given, folder)
        print(json.dumps(measure(store, photos, folder)))


def validation(photos: Path, count: int) -> list[Path]:
    """The last photos of each class, which no head of `train` has seen."""
    classes = sorted(path for path in (photos / "validation").iterdir() if path.is_dir())
    return [photo for folder in classes for photo in sorted(folder.glob("*.jpg"))[-(count // len(classes)) :]]


def train(given: argparse.Namespace, folder: Path) -> Path:
    """A store with a head that was trained on some of the photos."""
    for split, count in (("train", given.train), ("validation", given.train // 3)):
        for of_class in sorted((given.photos / split).iterdir()):
            target = folder / "photos" / split / of_class.name
            target.mkdir(parents=True)
            for photo in sorted(of_class.iterdir())[: count // 2]:
                shutil.copyfile(photo, target / photo.name)
    say("training a head")
    command = [sys.executable, "flows/pipeline.py", "--images", folder / "photos", "--store", folder / "store"]
    command += ["--weights", given.weights, "--head", "mlp", "--epochs", "5"]
    subprocess.run(command, cwd=BENCHMARKS.parent, env=environment(folder / "prefect"), check=True, stdout=sys.stderr)
    return folder / "store"


def measure(store: Path, photos: list[Path], folder: Path) -> dict:
    """Every export beside the classifier."""
    classifier = Classifier.load(store, engine="tensorflow")
    size = classifier.head.spec.image_size
    np.save(folder / "pixels.npy", np.stack([decode(photo.read_bytes(), size) for photo in photos]))
    (folder / "files.json").write_text(json.dumps([str(photo) for photo in photos]))
    expected = probabilities(classifier, photos)
    by_auto = probabilities(Classifier.load(store), photos)
    unsure = int((np.abs(expected - 0.5).max(axis=1) < 0.499).sum())
    return {
        "photos": len(photos),
        "unsure": unsure,
        "default_engine_max_difference": largest(by_auto, expected),
        "formats": {name: of_format(name, store, expected, folder) for name in FORMATS},
    }


def probabilities(classifier: Classifier, photos: list[Path]) -> np.ndarray:
    return np.array([found.probabilities for found in classifier.predict(photos)])


def of_format(name: str, store: Path, expected: np.ndarray, folder: Path) -> dict:
    """Export, load in a new process, and compare."""
    path = folder / f"export{FORMATS[name].suffix}"
    command = [sys.executable, "flows/export.py", "--store", store, "--format", name, "--out", path]
    exported = subprocess.run(command, cwd=BENCHMARKS.parent, check=True, stdout=subprocess.PIPE)
    line = json.loads(exported.stdout)
    result = folder / "found.npz"
    code = CODE.format(batch=BATCH, loader=LOADERS[name])
    began = time.monotonic()
    run = [sys.executable, "-I", "-c", code, path, folder / "pixels.npy", folder / "files.json", result]
    ran = subprocess.run(run, cwd=folder, check=True, stdout=subprocess.PIPE)
    say(f"{name}: {time.monotonic() - began:.1f} s in a new process")
    with np.load(result) as found:
        differences = {f"{of}_max_difference": largest(found[of], expected) for of in found.files}
        means = {"bytes_mean_difference": float(np.abs(found["bytes"] - expected).mean())} if "bytes" in found else {}
    assert differences["pixels_max_difference"] <= (1e-5 if name in ("keras", "saved_model") else 1e-4), differences
    return {
        **differences,
        **means,
        "export_seconds": line["export_seconds"],
        "command_seconds": round(line["elapsed_seconds"], 1),
        "mb": round(line["size_bytes"] / 1e6, 1),
        **json.loads(ran.stdout.splitlines()[-1]),
    }


def largest(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max())


if __name__ == "__main__":
    main()
