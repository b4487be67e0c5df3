"""What does a prediction cost? The last line is one JSON object.

    python benchmarks/predict.py
    python benchmarks/predict.py --count 2000 --small 500 --rounds 1 --engine mnn

* Many images: `flows/predict.py` and `flows/pipeline.py --extract-only` compute the same generated pictures, in turn. The
  ratio of their rates says what the head and the rows cost.
* Memory: the largest process of a prediction of `--small` pictures, and of `--count`.
* One image: a fresh process loads the classifier and predicts one picture. In turn with a plain script that does the
  same with Keras: VGG16, its weights, the head, one picture.

All pictures are generated, and the weights are random: neither changes the time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

from watch import Watched, watch  # noqa: E402

OURS = """
import resource, sys, time
began = time.perf_counter()
from workers.classifier import Classifier
store, image, size, engine = sys.argv[1:5]
(found,) = Classifier.load(store, engine=engine).predict([image])
print(found.label, found.probability, time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
KERAS = """
import resource, sys, time
began = time.perf_counter()
import json, os
import keras
store, image, size, weights, head = sys.argv[1:6]
size = int(size)
network = keras.applications.VGG16(include_top=False, weights=None, input_shape=(size, size, 3))
network.load_weights(weights)
top = keras.models.load_model(f"{head}/head.keras")
picture = keras.utils.img_to_array(keras.utils.load_img(image, target_size=(size, size), interpolation="bilinear"))
pixels = keras.applications.vgg16.preprocess_input(picture[None])
(answer,) = top.predict(network.predict(pixels, verbose=0), verbose=0)
classes = json.load(open(f"{head}/head.json"))["classes"]
both = [1 - float(answer[0]), float(answer[0])] if len(answer) == 1 else answer.tolist()
best = max(range(len(both)), key=both.__getitem__)
print(classes[best], both[best], time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
WEIGHTS = """
import sys, keras
keras.utils.set_random_seed(1)
size = int(sys.argv[1])
keras.applications.VGG16(include_top=False, weights=None, input_shape=(size, size, 3)).save_weights(sys.argv[2])
"""


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    path = os.pathsep.join([str(PROJECT), *filter(None, [kept.get("PYTHONPATH")])])
    return kept | {"PREFECT_HOME": str(home / "prefect"), "DO_NOT_TRACK": "1", "PYTHONPATH": path}


def pictures(folder: Path, count: int, size: int) -> Path:
    """Generated JPEGs of `size` pixels in two folders, each of another content."""
    draw = np.random.default_rng(list(folder.name.encode()))
    for number in range(count):
        path = folder / ("cats", "dogs")[number % 2] / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (size, size, 3), np.uint8)).save(path)
    return folder


def run(script: str, words: list, home: Path) -> tuple[dict, Watched]:
    """Run a command of ours. Returns its JSON record, and what was seen of its processes."""
    seen = watch([sys.executable, PROJECT / "flows" / script, *words], environment(home))
    if seen.status:
        raise RuntimeError("\n".join(line for _, line in seen.lines[-20:]))
    return json.loads(seen.stdout.splitlines()[-1]), seen


def many(given: argparse.Namespace, store: Path, options: list, home: Path) -> dict:
    """Rates of prediction and of extraction alone on the same pictures, and the memory of predictions."""
    inbox, small = (pictures(home / f"inbox-{count}", count, given.image_size) for count in (given.count, given.small))
    running = ["--engine", given.engine, *(["--workers", given.workers] if given.workers else [])]
    rates: dict[str, list[float]] = {"predict": [], "extract": []}
    memory: dict[int, float] = {}
    for number in range(given.rounds):
        for images, count in ((small, given.small), (inbox, given.count)):
            words = ["--store", store, "--images", images, "--out", home / f"{number}-{count}.csv", *running]
            found, _ = run("predict.py", words, home)
            assert (found["images"], found["computed"], found["ok"]) == (count, count, count), found
            assert len(set((home / f"{number}-{count}.csv").read_text().splitlines())) == count + 1
            memory[count] = max(memory.get(count, 0), found["peak_rss_mb"])
        rates["predict"].append(found["predict_images_per_second"])
        words = ["--store", home / f"store-{number}", "--images", inbox, "--extract-only", *options, *running]
        rates["extract"].append(run("pipeline.py", words, home)[0]["extract_images_per_second"])
        say(f"round {number + 1}: predict {rates['predict'][-1]:.1f}, extract {rates['extract'][-1]:.1f} images/s")
    ratios = [one / two for one, two in zip(rates["predict"], rates["extract"], strict=True)]
    return {
        "predict_images_per_second": middle(rates["predict"]),
        "extract_images_per_second": middle(rates["extract"]),
        "predict_to_extract": middle(ratios),
        f"peak_rss_mb_{given.small}": round(memory[given.small], 1),
        f"peak_rss_mb_{given.count}": round(memory[given.count], 1),
    }


def one(given: argparse.Namespace, store: Path, weights: Path, head: Path, home: Path) -> dict:
    """Seconds and memory of a fresh process that predicts one picture, ours and plain Keras' in turn."""
    image = next((home / f"inbox-{given.small}").rglob("*.jpg"))
    ways = {"ours": (OURS, given.engine), "keras": (KERAS, weights, head)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    memory: dict[str, float] = {}
    for number in range(given.rounds + 1):  # the first fills the caches of the disk
        answers = {}
        for name, (code, *own) in ways.items():
            words = [sys.executable, "-c", code, store, image, given.image_size, *own]
            done = subprocess.run([*map(str, words)], env=environment(home), capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr)
            label, probability, took, memory[name] = done.stdout.splitlines()[-1].split()
            answers[name] = label, float(probability)
            memory[name] = round(float(memory[name]), 1)
            seconds[name] += [float(took)] if number else []
        assert answers["ours"][0] == answers["keras"][0], answers
        assert abs(answers["ours"][1] - answers["keras"][1]) < 5e-3, answers
        say(f"one image: {answers['ours']}, {took}")
    ratio = middle([ours / keras for ours, keras in zip(seconds["ours"], seconds["keras"], strict=True)])
    return {
        **{f"one_{name}_seconds": middle(found) for name, found in seconds.items()},
        **{f"one_{name}_mb": mb for name, mb in memory.items()},
        "one_ours_to_keras": ratio,
    }


def middle(values: list[float]) -> float:
    return round(statistics.median(values), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--small", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--engine", default="mnn")
    parser.add_argument("--workers", type=int, default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home, store = Path(folder), Path(folder) / "store"
        weights = home / "vgg16_notop.weights.h5"
        words = [sys.executable, "-c", WEIGHTS, str(given.image_size), str(weights)]
        subprocess.run(words, check=True, capture_output=True)
        options = ["--weights", weights, "--image-size", given.image_size]
        labelled = pictures(home / "labelled", 60, given.image_size)
        trained, _ = run(
            "pipeline.py", ["--store", store, "--images", labelled, *options, "--head", "mlp", "--epochs", "2"], home
        )
        result = many(given, store, options, home)
        result |= one(given, store, weights, store / "heads" / trained["head"], home)
    print(json.dumps({"images": given.count, "engine": given.engine, "image_size": given.image_size} | result))


if __name__ == "__main__":
    main()
