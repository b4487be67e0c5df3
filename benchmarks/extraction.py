"""How fast is feature extraction, compared with its alternatives? The last line is one JSON object.

    python benchmarks/extraction.py --photos FOLDER --weights vgg16_notop.weights.h5
    python benchmarks/extraction.py --null 20000
    python benchmarks/extraction.py --memory --photos FOLDER --weights vgg16_notop.weights.h5

Each way extracts the same photos with the same weights and pixels, in turn, for several rounds. The result compares
medians, and ratios within a round, of the steady rate and of the whole command from its start to its end. Ours is the
command that users type, with --extract-only. benchmarks/peers.py has
the peers; `pip install -c constraints.txt -e '.[bench]'` installs their requirements.

`--null N` leaves out the network and uses N generated JPEGs. `--memory` extracts all photos once and measures how much
the children grow. `--chart FILE.png` draws the result.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

BENCHMARKS = Path(__file__).parent
sys.path.insert(0, str(BENCHMARKS.parent))

from peers.photos import first_photos  # noqa: E402
from watch import Watched, watch  # noqa: E402

from vision.backbones.weights import tensors_digest  # noqa: E402
from vision.backbones.weights_file import read_weights  # noqa: E402
from vision.engines import load_engine  # noqa: E402
from vision.pixels.decode import decode  # noqa: E402
from vision.specs import BACKBONES, FeatureSpec  # noqa: E402
from workers.devices import available_cores  # noqa: E402

PEERS = ("loop", "loop_on_batch", "directory", "onnxruntime", "openvino", "openvino_native", "ray")
FLOAT32_PEERS = tuple(name for name in PEERS if name != "openvino_native")
# Ours → its options. A precision is a feature space of its own.
OURS = {
    "tensorflow": ("--engine", "tensorflow"),
    "mnn": ("--engine", "mnn"),
    "bfloat16": ("--precision", "bfloat16"),
    "int8": ("--precision", "int8"),
}
ENGINES = {"bfloat16": "openvino", "int8": "openvino"}
NULL_PEERS = ("pool", "directory", "ray")
VARIANTS = {"loop_on_batch": ("loop", "--variant", "predict_on_batch")}
LOG_NAMES = {
    "loop": "tutorial's loop",
    "loop_on_batch": "loop, predict_on_batch",
    "directory": "dataset + predict",
    "onnxruntime": "ONNX Runtime",
}
LOG_NAMES |= {"openvino": "OpenVINO", "openvino_native": "OpenVINO as it comes", "ray": "Ray Data"}
LOG_NAMES |= {"tensorflow": "ours, TensorFlow", "mnn": "ours, MNN", "bfloat16": "ours, bfloat16", "int8": "ours, int8"}
LOG_NAMES |= {"pool": "pool of processes", "ours": "ours", "decode": "decode + resize alone"}


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return kept | {"PREFECT_HOME": str(home), "DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}


def figures(seen: Watched, images: int, steady: float) -> dict:
    return {
        "steady_images_per_second": steady,
        "wall_seconds": seen.seconds,
        "cpu_seconds_an_image": seen.cpu_seconds / images,
        "peak_rss_mb": seen.peak_rss_mb,
    }


def run_peer(name: str, photos: Path, count: int, options: list, home: Path) -> dict:
    peer, *variant = VARIANTS.get(name, (name,))
    with tempfile.TemporaryDirectory(dir=home) as out:
        command = [sys.executable, BENCHMARKS / "peers.py", peer, *variant]
        command += ["--photos", photos, "--count", count, "--out", out]
        seen = watch([*command, *options], environment(home))
    report = json.loads(seen.stdout.splitlines()[-1])
    if "engine_images_per_second" in report:
        return report
    return figures(seen, report["images"], report["steady_images_per_second"]) | {"settings": report["settings"]}


def run_ours(command: list, images: int, home: Path) -> tuple[dict, Watched]:
    """Run our command on a new store. Returns its figures, with Prefect's share of CPU time while children work."""
    with tempfile.TemporaryDirectory(dir=home) as store:
        seen = watch([*command, "--store", Path(store) / "store", "--extract-only"], environment(home))
    record = json.loads(seen.stdout.splitlines()[-1])
    assert (record["extracted"], record["quarantined"], record["fallback"]) == (images, 0, None), record
    # Measure from the first task run until the commit of the features, without the start of the children.
    used = seen.cpu_between(seen.said("extracting "), seen.said("version "))
    prefect = sum(cpu for name, cpu in used.items() if "worker" not in name and "--child" not in name)
    found = figures(seen, images, record["extract_images_per_second"])
    return found | {"prefect_cpu_share": prefect / sum(used.values()), "stages": record["stage_seconds"]}, seen


def linked(photos: Path, count: int, folder: Path) -> Path:
    """Make a folder of links to the photos that the peers get."""
    for photo in first_photos(photos, count):
        path = Path(photo.path).resolve()
        link = folder / path.parent.name / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return folder


# Engines alone, on pixels in memory, in one single-threaded process per core


def engine_rate(name: str, weights: Path, photos: Path, count: int) -> float:
    """Images per second of warm processes that start together, until the last is done. Peers' engines count alike."""
    context = multiprocessing.get_context("spawn")
    cores = available_cores()
    barrier = context.Barrier(cores)
    answers = context.Queue()
    children = [
        context.Process(target=_infer, args=(name, weights, photos, count, number, cores, barrier, answers))
        for number in range(cores)
    ]
    for child in children:
        child.start()
    begins, ends = zip(*(answers.get() for _ in children), strict=True)
    for child in children:
        child.join()
    return count / (max(ends) - min(begins))


def _infer(name, weights, photos, count, number, cores, barrier, answers) -> None:
    tensors = read_weights(BACKBONES["vgg16"], weights)
    precision = name if name in ENGINES else "float32"
    spec = FeatureSpec(tensors_digest(tensors), precision=precision)
    engine = load_engine(ENGINES.get(name, name), spec, str(weights), 1)
    mine = first_photos(photos, count)[number::cores]
    pixels = np.stack([decode(Path(photo.path).read_bytes(), 224) for photo in mine])
    barrier.wait()
    began = time.perf_counter()
    for start in range(0, len(pixels), engine.batch_size):
        engine.features(pixels[start : start + engine.batch_size])
    answers.put((began, time.perf_counter()))  # one clock for all processes, on Linux


def compare(given: argparse.Namespace, home: Path) -> dict:
    images = linked(given.photos, given.count, home / "images")
    pipeline = [sys.executable, BENCHMARKS.parent / "flows" / "pipeline.py", "--images", images]
    pipeline += ["--weights", given.weights, "--outside-links"]
    runs: dict[str, list[dict]] = {name: [] for name in (*given.peers, *given.ours)}
    engines: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(given.rounds):
        for name in given.peers:
            options = ["--weights", given.weights]
            runs[name].append(run_peer(name, given.photos, given.count, options, home))
            if number == 0:
                alone = run_peer(name, given.photos, given.count, [*options, "--engine-only"], home)
                engines[name].append(alone["engine_images_per_second"])
            wall, rate = runs[name][-1]["wall_seconds"], runs[name][-1]["steady_images_per_second"]
            say(f"round {number + 1}: {name} {rate:.2f} images/s, command {wall:.1f} s")
        for name in given.ours:
            # Measured before and after the run, because the machine's speed changes from minute to minute.
            before = engine_rate(name, given.weights, given.photos, given.count)
            found, _ = run_ours([*pipeline, *OURS[name]], given.count, home)
            after = engine_rate(name, given.weights, given.photos, given.count)
            engines[name].append((before + after) / 2)
            runs[name].append(found | {"of_its_engine": found["steady_images_per_second"] / engines[name][-1]})
            steady, rate = found["steady_images_per_second"], engines[name][-1]
            wall = found["wall_seconds"]
            say(f"round {number + 1}: ours, {name} {steady:.2f} images/s, its engine {rate:.2f}, command {wall:.1f} s")
    ways = {name: summary(found) | {"engine": middle(engines[name])} for name, found in runs.items()}
    result = {"images": given.count, "rounds": given.rounds, "ways": ways}
    result |= {f"{name}_of_its_engine": ways[name]["of_its_engine"] for name in given.ours}
    if "mnn" in given.ours:
        result["prefect_cpu_share"] = ways["mnn"]["prefect_cpu_share"]
    float32 = [name for name in given.peers if name in FLOAT32_PEERS]
    groups = {"best_float32_peer": float32} | {name: [name] for name in given.peers}
    for name in given.ours:
        for word, names in groups.items():
            if names:
                result[f"{name}_to_{word}"] = ratio(runs, name, names)
                result[f"{name}_command_to_{word}"] = ratio(runs, name, names, "wall_seconds", min)
    return result


def ratio(
    runs: dict[str, list[dict]], ours: str, peers: list[str], key: str = "steady_images_per_second", best=max
) -> float:
    """The median over rounds of one of our figures divided by the round's best of some peers."""
    rounds = zip(runs[ours], *(runs[peer] for peer in peers), strict=True)
    return middle([own[key] / best(found[key] for found in others) for own, *others in rounds])


def middle(values: list[float]) -> float:
    return round(statistics.median(values), 4)


def summary(found: list[dict]) -> dict:
    """The median of each figure over the rounds, and the steady rate of each round."""
    numbers = [name for name, value in found[0].items() if isinstance(value, float)]
    rates = [round(run["steady_images_per_second"], 2) for run in found]
    others = {name: value for name, value in found[-1].items() if name in ("settings", "stages")}
    return {name: middle([run[name] for run in found]) for name in numbers} | {"rates": rates} | others


def watch_memory(given: argparse.Namespace, home: Path) -> dict:
    """The memory of each child while it extracts all photos: in the second quarter of that time, and in the last."""
    command = [sys.executable, BENCHMARKS.parent / "flows" / "pipeline.py", "--images", given.photos]
    images = sum(path.is_file() for path in given.photos.rglob("*.jpg"))
    found, seen = run_ours([*command, "--weights", given.weights], images, home)
    start, end = seen.said("extracting "), seen.said("version ")
    quarter = (end - start) / 4
    held: dict[str, dict[int, list[float]]] = {}
    for moment, processes in seen.samples:
        for (pid, name), (_, rss) in processes.items():
            if "workers.children.child" in name and start <= moment < end:
                held.setdefault(pid, {}).setdefault(int((moment - start) // quarter), []).append(rss)
    children = [
        {
            "second_quarter_mb": middle(parts[1]),
            "last_quarter_mb": middle(parts[3]),
            "most_mb": max(map(max, parts.values())),
        }
        for parts in held.values()
    ]
    growth = max(child["last_quarter_mb"] - child["second_quarter_mb"] for child in children)
    return {"images": images, "children": children, "growth_mb": growth} | found


# Without a network


def draw_jpegs(folder: Path, count: int) -> Path:
    """Draw 500x375 pictures in two classes, with random colours and grain. Their files are as large as photos'."""
    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(lambda number: _draw(folder, number), range(count)))
    return folder


def _draw(folder: Path, number: int) -> None:
    from PIL import Image

    draw = np.random.default_rng(number)
    coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375), Image.BICUBIC)
    grain = draw.integers(0, 24, (375, 500, 1), dtype=np.uint8)
    picture = Image.fromarray(np.clip(np.asarray(coarse).astype(np.int16) + grain, 0, 255).astype(np.uint8))
    path = folder / ("even", "odd")[number % 2] / f"{number:06d}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=80)


def decode_rate(images: Path) -> float:
    """Images per second that one process per core reads, decodes and resizes, with no other work."""
    paths = sorted(images.glob("*/*"))
    context = multiprocessing.get_context("spawn")
    cores = available_cores()
    with context.Pool(cores) as pool:
        pool.map(_decode_all, [paths[:50]] * cores)  # warm
        began = time.perf_counter()
        pool.map(_decode_all, [paths[start : start + 200] for start in range(0, len(paths), 200)], chunksize=1)
        return len(paths) / (time.perf_counter() - began)


def _decode_all(paths: list[Path]) -> None:
    for path in paths:
        decode(path.read_bytes(), 224)


def compare_null(given: argparse.Namespace, home: Path) -> dict:
    images = draw_jpegs(home / "images", given.null)
    say(f"{given.null} JPEGs of {sum(p.stat().st_size for p in images.glob('*/*')) / given.null / 1000:.0f} KB drawn")
    command = [sys.executable, BENCHMARKS / "null_backbone.py", "--images", images]
    runs: dict[str, list[dict]] = {name: [] for name in ("ours", *NULL_PEERS)}
    alone: list[float] = []
    for number in range(given.rounds):
        before = decode_rate(images)
        runs["ours"].append(run_ours(command, given.null, home)[0])
        alone.append((before + decode_rate(images)) / 2)
        runs["ours"][-1]["of_decoding"] = runs["ours"][-1]["steady_images_per_second"] / alone[-1]
        for name in NULL_PEERS:
            runs[name].append(run_peer(name, images, 0, ["--null"], home))
        rates = {name: f"{found[-1]['steady_images_per_second']:.0f}" for name, found in runs.items()}
        say(f"round {number + 1}: {rates} images/s, decode + resize alone {alone[-1]:.0f}")
    same = ("pool", "ray")  # without `directory`, since the dataset of Keras resizes in another way
    best = [max(runs[peer][i]["steady_images_per_second"] for peer in same) for i in range(given.rounds)]
    ours = [found["steady_images_per_second"] for found in runs["ours"]]
    ways = {name: summary(found) for name, found in runs.items()}
    return {
        "images": given.null,
        "rounds": given.rounds,
        "ways": ways | {"decode": {"steady_images_per_second": middle(alone)}},
        "ours_of_decoding": ways["ours"]["of_decoding"],
        "ours_to_best_peer": middle([one / other for one, other in zip(ours, best, strict=True)]),
        "ours_images_per_second_a_core": middle(ours) / available_cores(),
        "prefect_cpu_share": ways["ours"]["prefect_cpu_share"],
    }


def chart(result: dict, path: Path) -> None:
    """Draw the steady rates as bars, and the rounds as dots."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    ways = sorted(result["ways"].items(), key=lambda way: way[1]["steady_images_per_second"])
    figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(ways) + 1.2), layout="constrained")
    for place, (name, way) in enumerate(ways):
        is_ours = LOG_NAMES[name].startswith("ours")
        rate = way["steady_images_per_second"]
        axes.barh(place, rate, color="tab:blue" if is_ours else "lightgrey")
        rates = way.get("rates", [])
        axes.plot(rates, [place] * len(rates), "k|", markersize=8)
        axes.text(max([rate, *rates]), place, f"  {rate:,.1f}", va="center")
    axes.set_yticks(range(len(ways)), [LOG_NAMES[name] for name, _ in ways])
    axes.set_xlabel(f"images/s on {available_cores()} cores, {result['images']:,} images, median of {result['rounds']}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(0, 1.12 * max(way["steady_images_per_second"] for _, way in ways))
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=os.environ.get("PHOTOS"))
    parser.add_argument("--weights", type=Path, default=os.environ.get("VGG16_WEIGHTS"))
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--ours", nargs="*", choices=list(OURS), default=["tensorflow", "mnn"])
    parser.add_argument("--null", type=int, default=0, metavar="N")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--chart", type=Path)
    given = parser.parse_args()
    if not given.null and not (given.photos and given.weights):
        parser.error("--photos and --weights (or PHOTOS and VGG16_WEIGHTS) say where they are")
    with tempfile.TemporaryDirectory(prefix="extraction-") as home:
        way = compare_null if given.null else watch_memory if given.memory else compare
        result = way(given, Path(home))
    if given.chart:
        chart(result, given.chart)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
