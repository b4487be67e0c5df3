"""Does the memory of a training grow with its data? The last line is one JSON object.

    python benchmarks/training_memory.py --folder FOLDER

Makes a store of each size with synthetic rows (7x7x512 float16, six of seven values zero, as in VGG16's features). A
separate process trains a head on it as a run does (`workers.jobs.train.train_head`), while a thread samples its
resident memory.

The growth is the peak after the 50th training batch minus the peak over the ten batches up to it. It may be FIXED_MB
plus BYTES_A_SAMPLE for each sample. The memory at the moment of the 50th batch is no baseline: within each step, the
first and the last alike, memory swings by more than 100 MB, as the optimizer's temporaries come and go. The growth over
that moment is reported too. The stores take 11 KB per row, and are deleted at the end.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

from storage.manifest.file_table import OK  # noqa: E402
from storage.manifest.space import create_space  # noqa: E402
from storage.manifest.versions import commit, latest_version  # noqa: E402
from storage.reading.stream import FeatureStream  # noqa: E402
from storage.records import fingerprint  # noqa: E402
from storage.schemas import FILES_SCHEMA, ROWS_SCHEMA  # noqa: E402
from storage.shards.shard import ShardRef, write_shard  # noqa: E402
from vision.specs import FeatureSpec  # noqa: E402
from vision.training.head import HeadSpec  # noqa: E402
from workers.jobs.records import Space  # noqa: E402
from workers.jobs.spaces import head_job, version_record  # noqa: E402
from workers.jobs.train import train_head  # noqa: E402

SPEC = FeatureSpec(weights="0" * 32)
CLASSES = ("cats", "dogs")
ROWS_A_SHARD = 256  # the default of --chunk-size
NONZERO = 1 / 7  # 86 % of real VGG16 features are zero
BASELINE_BATCH = 50
EARLY, BASELINE = f"batches 1 to {BASELINE_BATCH - 10}", f"batches {BASELINE_BATCH - 9} to {BASELINE_BATCH}"
BEFORE = ("before", "statistics", EARLY)
FIXED_MB, BYTES_A_SAMPLE = 32, 8
SAMPLE_SECONDS = 0.02
MB = 2**20


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def space_in(folder: Path) -> Space:
    return Space(str(folder), "none", fingerprint(SPEC.record()), SPEC, "random")


def synthetic_features(number: int) -> np.ndarray:
    """(ROWS_A_SHARD, 7, 7, 512) float16. The first channel tells odd rows (dogs) from even ones (cats)."""
    draw = np.random.default_rng(number)
    shape = (ROWS_A_SHARD, *SPEC.shape)
    values = draw.normal(0, 8, shape).astype(np.float32)
    features = np.where(draw.random(shape, np.float32) < NONZERO, np.abs(values), 0).astype(np.float16)
    features[0::2, ..., 0], features[1::2, ..., 0] = 0, 8
    return features


def build_store(folder: Path, num_training: int, num_validation: int) -> None:
    """Build a store of one version with so many rows. Each row has its own digest; features repeat every few shards."""
    store = space_in(folder).store
    create_space(store, SPEC.record())
    blocks = [synthetic_features(number) for number in range(8)]
    files: list[dict] = []
    rows: list[dict] = []
    shards: dict[str, ShardRef] = {}
    for split, count in (("train", num_training), ("validation", num_validation)):
        for start in range(0, count, ROWS_A_SHARD):
            indices = range(start, min(start + ROWS_A_SHARD, count))
            digests = [hashlib.sha256(f"{split} {index}".encode()).digest() for index in indices]
            features = blocks[len(shards) % len(blocks)][: len(indices)]
            ref = write_shard(store, digests, features, {}, {"fingerprint": store.fingerprint})
            shards[ref.name] = ref
            for row, (index, digest) in enumerate(zip(indices, digests, strict=True)):
                files.append(_file(split, index, digest))
                rows.append({"digest": digest, "view": 0, "shard": ref.name, "row": row})
    commit(
        store,
        None,
        pa.Table.from_pylist(files, FILES_SCHEMA).sort_by("path"),
        pa.Table.from_pylist(rows, ROWS_SCHEMA).sort_by("digest"),
        shards,
    )


def _file(split: str, index: int, digest: bytes) -> dict:
    name = CLASSES[index % 2]
    times = dict.fromkeys(("mtime_ns", "ctime_ns", "first_seen_ns", "last_seen_ns"), 1)
    file = {"path": f"{split}/{name}/{index:07d}.jpg".encode(), "digest": digest, "size": 1, "class": name}
    return file | {"split": split, "status": OK, "attempts": 1, **times}


class Memory:
    """The resident memory of this process, which a thread samples.

    phases: peak bytes of each phase. A phase ends where the next begins.
    """

    def __init__(self):
        self.phases: dict[str, int] = {}
        self.samples = 0
        self._phase = "before"
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._is_over.wait(SAMPLE_SECONDS):
            self.sample()
            self.samples += 1

    def sample(self) -> int:
        """Sample the resident memory, and return its bytes."""
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        self.phases[self._phase] = max(now, self.phases.get(self._phase, 0))
        return now

    def begin(self, phase: str) -> int:
        self.sample()
        self._phase = phase
        return self.sample()

    def end(self) -> None:
        self._is_over.set()
        self._thread.join()
        self.sample()


def measure(folder: Path, memory_mb: int, epochs: int) -> dict:
    """Train on the store in `folder`, and report the memory of this process. Call it once per process."""
    space = space_in(folder)
    version = latest_version(space.store)
    assert version is not None
    spec = HeadSpec(CLASSES, epochs=epochs, shuffle_memory_mb=memory_mb)
    memory, held_at_baseline, given = Memory(), 0, Counter()
    batches = FeatureStream.batches

    def watched(stream: FeatureStream, epoch: int = 0, first_step: int = 0, **options):
        """Pass the batches through. A phase begins with each epoch, at training batch BASELINE_BATCH and ten before."""
        nonlocal held_at_baseline
        is_training = stream.order.seed is not None
        kind = "training" if is_training else "validation" if given["training"] else "statistics"
        memory.begin(EARLY if is_training else kind)
        for batch in batches(stream, epoch, first_step, **options):
            given[kind] += 1
            yield batch
            if is_training and given[kind] == BASELINE_BATCH - 10:
                memory.begin(BASELINE)
            if is_training and given[kind] == BASELINE_BATCH:
                held_at_baseline = memory.begin("epoch 1")
            elif is_training and given[kind] > BASELINE_BATCH:
                memory.begin(f"epoch {given[kind] // stream.steps + 1}")

    FeatureStream.batches = watched  # type: ignore[method-assign]
    began = time.perf_counter()
    result = train_head(head_job(space, version_record(version), spec, seed=0), lambda record: None)
    seconds = time.perf_counter() - began
    memory.end()
    baseline = memory.phases[BASELINE]
    most_after = max(size for name, size in memory.phases.items() if name not in (*BEFORE, BASELINE))
    return {
        "epochs": result.epochs,
        "batches": dict(given),
        "val_accuracy": result.val_accuracy,
        "samples_per_second": round(result.train_samples_per_second),
        "seconds": round(seconds),
        "rss_samples": memory.samples,
        "baseline_mb": baseline / MB,
        "after_mb": most_after / MB,
        "growth_mb": (most_after - baseline) / MB,
        "growth_over_one_moment_mb": (most_after - held_at_baseline) / MB,
        "phases_mb": {name: round(size / MB, 1) for name, size in memory.phases.items()},
    }


def measured_apart(folder: Path, memory_mb: int, epochs: int) -> dict:
    """Run `measure` in a separate process."""
    command = [sys.executable, __file__, "--measure", folder, "--shuffle-memory-mb", memory_mb, "--epochs", epochs]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def report_of(num_rows: int, folder: Path, memory_mb: int, epochs: int) -> dict:
    num_validation = num_rows // 10
    say(f"{num_rows:,} training and {num_validation:,} validation rows: writing")
    build_store(folder, num_rows, num_validation)
    say("  training")
    found = measured_apart(folder, memory_mb, epochs)
    batch_size = HeadSpec(CLASSES).batch_size
    assert found["batches"]["training"] == epochs * -(-num_rows // batch_size) > BASELINE_BATCH, found
    allowed = FIXED_MB + BYTES_A_SAMPLE * (num_rows + num_validation) / MB
    return {"rows": num_rows, "validation_rows": num_validation, "allowed_mb": allowed, **found}


def table(reports: list[dict]) -> str:
    """A table of each size's peak memory in each phase, and its growth, in MB."""
    phases = {name: None for report in reports for name in report["phases_mb"]}
    lines = [("MB", *(f"{report['rows']:,} rows" for report in reports))]
    lines += [
        (phase, *(f"{report['phases_mb'].get(phase, float('nan')):,.0f}" for report in reports)) for phase in phases
    ]
    for name in ("growth_mb", "growth_over_one_moment_mb", "allowed_mb"):
        lines.append((name.removesuffix("_mb").replace("_", " "), *(f"{report[name]:,.1f}" for report in reports)))
    return "\n".join(f"{first:24}" + "".join(f"{cell:>16}" for cell in cells) for first, *cells in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the stores are made (the system's folder for such)")
    parser.add_argument("--rows", type=int, nargs="+", default=[24_000, 240_000], help="training rows; a tenth on top")
    parser.add_argument("--shuffle-memory-mb", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.shuffle_memory_mb, given.epochs)))
        return
    if given.folder:
        given.folder.mkdir(parents=True, exist_ok=True)
    reports = []
    for num_rows in given.rows:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            reports.append(report_of(num_rows, Path(folder), given.shuffle_memory_mb, given.epochs))
    say(table(reports))
    print(json.dumps({"shuffle_memory_mb": given.shuffle_memory_mb, "sizes": reports}))
    for report in reports:
        assert report["growth_mb"] <= report["allowed_mb"], report


if __name__ == "__main__":
    main()
