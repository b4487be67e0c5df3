"""How fast does a head train from the stream, compared with memory and with other data loaders?

    python benchmarks/training.py
    python benchmarks/training.py --store STORE --accuracy

Each way trains with the same features, head, optimizer and seed, in a separate process, in turn, for several rounds;
every second round runs in reverse order. The result compares medians, with the 95 % interval of a bootstrap over
rounds, and ratios within a round. benchmarks/training_way.py describes the measurement, benchmarks/peers/feeds.py the
other loaders.

`--synthetic N` generates N rows of VGG16's shape. `--steps` limits the batches per epoch, so that an epoch takes about
as long with small batches. `--store STORE` uses the training split of a store. `--accuracy` compares heads from the
stream and from memory, on the images of STORE (benchmarks/training_accuracy.py). `--chart FILE.png` draws the rates.
The last line is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

BENCHMARKS = Path(__file__).parent
sys.path.insert(0, str(BENCHMARKS.parent))

from training_memory import build_store, say  # noqa: E402

from storage.manifest.space import spaces  # noqa: E402
from storage.manifest.versions import latest_version  # noqa: E402

NAMES = {
    "one_batch": "one batch, repeated",
    "npz": "tutorial's npz generator",
    "ram": "memory, float16",
    "ram_float32": "memory, float32",
    "ram_compiled": "memory, with our update",
    "datasets": "HF datasets",
    "tfrecord": "TFRecord",
    "stream": "ours",
    "stream_dataset": "ours, through tf.data",
}
WAYS = ("one_batch", "npz", "datasets", "tfrecord", "ram", "ram_float32", "ram_compiled", "stream")
READERS = ("npz", "datasets", "tfrecord", "stream_dataset", "stream")
IN_MEMORY = ("ram", "ram_float32")
RATES = {
    "samples_per_second": "",
    "samples_per_second_of_steps": "_of_steps",
}  # rate → the suffix of the names of its ratios
DRAWS = 10_000
BIGGEST = 128  # batch size of the reader benchmarks


def child(script: str, *options: object, home: Path) -> dict:
    """Run a script of this folder in a separate process, and return the JSON object of its last line."""
    command = [sys.executable, str(BENCHMARKS / script), *map(str, options)]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}"
    return json.loads(done.stdout.splitlines()[-1])


class Runs:
    """Runs of each way on a number of rows. The first run of a way writes its files."""

    def __init__(self, store: Path, home: Path):
        self._store, self._home = store, home
        self.bytes_a_row: dict[str, float] = {}

    def __call__(self, verb: str, way: str, rows: int, *options: object) -> dict:
        folder = self._home / f"{way}-{rows}"
        where = (way, "--store", self._store, "--folder", folder, "--rows", rows)
        if not folder.exists():
            size = child("training_way.py", "write", *where, home=self._home)["bytes"]
            subprocess.run(["sync", "-f", folder], check=True)  # otherwise the disk is busy during the measurement
            if size:
                self.bytes_a_row[way] = round(size / rows)
        return child("training_way.py", verb, *where, *options, home=self._home)


def compare(given: argparse.Namespace, runs: Runs, num_rows: int) -> list[dict]:
    """Measure training by every way, for each batch size."""
    found = {size: {way: [] for way in given.ways} for size in given.batch_sizes}
    rows = {size: min(num_rows // size, given.steps) * size for size in given.batch_sizes}
    for number in range(given.rounds):
        for size in given.batch_sizes:
            for way in given.ways[:: -1 if number % 2 else 1]:
                options = ("--batch-size", size, "--epochs", given.epochs)
                found[size][way].append(runs("train", way, rows[size], *options))
                run = found[size][way][-1]
                rate, share = np.median(run["samples_per_second"]), run["wait_share"]
                say(f"round {number + 1}, batch {size}: {way} {rate:.0f} samples/s, {share:.2%} waiting")
    return [
        {"batch_size": size, "rows": rows[size], "steps": rows[size] // size} | training_figures(ways)
        for size, ways in found.items()
    ]


def training_figures(ways: dict[str, list[dict]]) -> dict:
    result: dict = {"ways": {way: {} for way in ways}}
    for key in RATES:
        rates = {way: [float(np.median(run[key])) for run in found] for way, found in ways.items()}
        for way in ways:
            result["ways"][way][key] = with_interval(rates[way])
        result |= {f"{name}{RATES[key]}": value for name, value in ratios(rates).items()}
    for way, found in ways.items():
        numbers = [name for name, value in found[0].items() if isinstance(value, float)]
        result["ways"][way] |= {name: rounded(np.median([run[name] for run in found])) for name in numbers}
    if {"stream", "one_batch"} <= ways.keys():  # both include the cost of calling for a batch
        shares = zip(ways["stream"], ways["one_batch"], strict=True)
        result["wait_share_beyond_one_batch"] = with_interval([a["wait_share"] - b["wait_share"] for a, b in shares])
    return result


def ratios(rates: dict[str, list[float]]) -> dict[str, dict]:
    """The ratio of ours to each other way, round by round. In-memory arrays count as one way, the faster of them."""
    if "stream" not in rates:
        return {}
    others = {way: way for way in rates if way not in ("stream", *IN_MEMORY)}
    if in_memory := [way for way in IN_MEMORY if way in rates]:
        others["memory"] = max(in_memory, key=lambda way: np.median(rates[way]))
    return {f"stream_to_{word}": ratio(rates["stream"], rates[way]) for word, way in others.items()}


def compare_readers(given: argparse.Namespace, runs: Runs, num_rows: int) -> dict:
    """Measure the batches alone: every reader, compared with a plain sequential read."""
    size = min(BIGGEST, num_rows)
    rows = num_rows // size * size
    found: dict[str, list[dict]] = {way: [] for way in given.readers}
    for number in range(given.rounds):
        for way in given.readers:
            found[way].append(runs("read", way, rows, "--batch-size", size, "--epochs", given.epochs))
            run = {name: round(float(np.median(values)), 3) for name, values in found[way][-1].items()}
            say(f"round {number + 1}: {way} {run}")
    rates = {way: [float(np.median(run["rows_per_second"])) for run in runs_] for way, runs_ in found.items()}
    plain = [float(np.median(run["plain_rows_per_second"])) for runs_ in found.values() for run in runs_]
    result = {"rows": rows, "batch_size": size, "plain_rows_per_second": with_interval(plain), "ways": {}}
    for way, runs_ in found.items():
        to_plain = [float(np.median(run["to_plain"])) for run in runs_]
        result["ways"][way] = {"rows_per_second": with_interval(rates[way]), "to_plain": with_interval(to_plain)}
    if "stream" in rates:
        others = [way for way in rates if not way.startswith("stream")]
        result |= {f"stream_to_{way}": ratio(rates["stream"], rates[way]) for way in others}
    return result


def ratio(ours: list[float], theirs: list[float]) -> dict:
    return with_interval([one / other for one, other in zip(ours, theirs, strict=True)])


def with_interval(values: list[float]) -> dict:
    """The median over rounds, and its 95 % interval from a bootstrap over rounds."""
    draws = np.random.default_rng(0).choice(values, (DRAWS, len(values)))
    interval = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return {
        "median": rounded(np.median(values)),
        "interval": [rounded(end) for end in interval],
        "rounds": [rounded(value) for value in values],
    }


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def chart(trainings: list[dict], rounds: int, path: Path) -> None:
    """Draw one panel per batch size: rates as bars, and rounds as dashes."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(trainings), figsize=(4 * len(trainings) + 1, 3.2), layout="constrained")
    for axes, training in zip(np.atleast_1d(panels), trainings, strict=True):
        ways = list(training["ways"].items())[::-1]
        for place, (way, figures) in enumerate(ways):
            rates = figures["samples_per_second"]
            axes.barh(place, rates["median"], color="tab:blue" if way == "stream" else "lightgrey")
            axes.plot(rates["rounds"], [place] * len(rates["rounds"]), "k|", markersize=8)
            axes.text(max(rates["rounds"]), place, f"  {rates['median']:,.0f}", va="center")
        is_first = axes is np.atleast_1d(panels)[0]
        axes.set_yticks(range(len(ways)), [NAMES[way] if is_first else "" for way, _ in ways])
        axes.set_title(f"batch {training['batch_size']}, {training['rows']:,} rows", fontsize=10)
        axes.set_xlim(0, 1.25 * max(max(figures["samples_per_second"]["rounds"]) for _, figures in ways))
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(f"training samples/s, median of {rounds} rounds", fontsize=10)
    figure.savefig(path, dpi=120)


def num_training(store: Path) -> int:
    (version,) = [version for space in spaces(store) if (version := latest_version(space))]
    return sum(version.classes["train"].values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="a store with one feature space (made here if not given)")
    parser.add_argument("--synthetic", type=int, default=12_288, metavar="N")
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[8, 32, 128])
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--readers", nargs="*", choices=READERS, default=list(READERS))
    parser.add_argument("--steps", type=int, default=192)
    parser.add_argument("--epochs", type=int, default=2, help="that count, of each run; or passes of a reader")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--accuracy-epochs", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="where files are made (the system's folder for such)")
    parser.add_argument("--chart", type=Path)
    given = parser.parse_args()
    if given.accuracy and not given.store:
        parser.error("--accuracy needs --store: a head learns little from synthetic rows")
    result: dict = {"rounds": given.rounds}
    with tempfile.TemporaryDirectory(prefix="training-", dir=given.folder) as name:
        home = Path(name)
        store = given.store.resolve() if given.store else home / "store"
        if given.store is None:
            say(f"writing {given.synthetic:,} synthetic rows")
            build_store(store, given.synthetic, 0)
        runs, num_rows = Runs(store, home), num_training(store)
        result["rows"] = num_rows
        if given.readers:
            result["readers"] = compare_readers(given, runs, num_rows)
        if given.batch_sizes and given.ways:
            result["training"] = compare(given, runs, num_rows)
        result["bytes_a_row"] = runs.bytes_a_row
        if given.accuracy:
            options = ("--seeds", *given.seeds, "--batch-sizes", *given.batch_sizes, "--epochs", given.accuracy_epochs)
            result["accuracy"] = child("training_accuracy.py", "--store", store, *options, home=home)
    if given.chart:
        chart(result["training"], given.rounds, given.chart)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
