"""What does the store cost? The last line is one JSON object.

    python benchmarks/store.py --paths 100000 1000000
    python benchmarks/store.py --formats STORE
    python benchmarks/store.py --faults
    python benchmarks/store.py --kills 30

`--paths`: measures seconds and peak memory of the command when it finds nothing to do on so many empty files, compared
with a plain walk and a stat of each file. Also measures which part of the segments is rewritten when a hundredth more
images arrive in one folder.
`--formats`: writes and reads back the real features of a store, in our shards and in other formats, in turn.
`--faults`: makes each call of a run fail, die or lose power.
`--kills`: kills that many runs at random moments.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

BENCHMARKS = Path(__file__).parent
sys.path.insert(0, str(BENCHMARKS.parent))

from extraction import environment, middle, say  # noqa: E402
from watch import watch  # noqa: E402

from storage.layout import Store  # noqa: E402
from storage.manifest.segments import in_order  # noqa: E402
from storage.manifest.space import spaces  # noqa: E402
from storage.manifest.versions import Version, commit, latest_version  # noqa: E402
from storage.schemas import FILES_SCHEMA, ROWS_SCHEMA  # noqa: E402
from storage.shards.shard import Shard, ShardRef, write_shard  # noqa: E402

FILES_A_FOLDER = 1000


# A million paths


def empty_files(folder: Path, count: int) -> None:
    """Create empty files in two classes of many folders."""
    for start in range(0, count, FILES_A_FOLDER):
        below = folder / ("even", "odd")[start // FILES_A_FOLDER % 2] / f"{start // FILES_A_FOLDER:05d}"
        below.mkdir(parents=True)
        for number in range(start, min(start + FILES_A_FOLDER, count)):
            os.close(os.open(below / f"{number:07d}.jpg", os.O_CREAT | os.O_WRONLY))


WALK = """
import os, sys
count, waiting = 0, [sys.argv[1]]
while waiting:
    for entry in os.scandir(waiting.pop()):
        if entry.is_dir():
            waiting.append(entry.path)
        else:
            entry.stat()
            count += 1
print(count)
"""


def scale(count: int, rounds: int, home: Path) -> dict:
    images, store = home / f"images-{count}", home / f"store-{count}"
    empty_files(images, count)
    command = [sys.executable, BENCHMARKS.parent / "flows" / "pipeline.py", "--images", images, "--store", store]
    command += ["--weights", "random", "--image-size", "32", "--extract-only", "--max-bad-fraction", "1"]
    time.sleep(3)  # the index trusts a file's time stamp only once the file is older than this
    first = watch(command, environment(home))
    say(f"{count:,} paths: first run {first.seconds:.1f} s, {first.peak_rss_mb:.0f} MB")
    runs, walks = [], []
    for _ in range(rounds):
        walks.append(watch([sys.executable, "-c", WALK, images], environment(home)).seconds)
        runs.append(watch(command, environment(home)))
        record = json.loads(runs[-1].stdout.splitlines()[-1])
        assert (record["images"], record["unchanged"], record["extracted"]) == (count, count, 0), record
        say(f"{count:,} paths: nothing to do in {runs[-1].seconds:.1f} s, {runs[-1].peak_rss_mb:.0f} MB")
    shutil.rmtree(images)
    return {
        "paths": count,
        "first_run_seconds": round(first.seconds, 2),
        "first_run_peak_rss_mb": round(first.peak_rss_mb),
        "nothing_to_do_seconds": middle([run.seconds for run in runs]),
        "nothing_to_do_peak_rss_mb": middle([run.peak_rss_mb for run in runs]),
        "walk_seconds": middle(walks),
    }


def rewritten(count: int, home: Path) -> dict:
    """The part of the segments of a version of `count` images that a hundredth more images in one folder replaces."""
    store = Store(home / "segments", "0" * 32)
    first = _grown(store, None, count, "photos")
    second = _grown(store, first, count // 100, "photos/00500/new")
    result = {"images": count, "new": count // 100}
    for kind in ("files", "rows"):
        before, after = set(getattr(first, kind)), set(getattr(second, kind))
        result[f"{kind}_segments"] = len(before)
        result[f"{kind}_rewritten_part"] = round(len(before - after) / len(before), 4)
        result[f"{kind}_new_segments"] = len(after - before)
    return result


def _grown(store: Store, parent: Version | None, count: int, folder: str) -> Version:
    names = [f"{folder}/{number // FILES_A_FOLDER:05d}/{number:07d}.jpg".encode() for number in range(count)]
    digests = [hashlib.sha256(name).digest() for name in names]
    shards: dict[str, ShardRef] = dict(parent.shards) if parent else {}
    rows = [parent.read_rows(store)] if parent else []
    for start in range(0, count, 60_000):
        some = sorted(digests[start : start + 60_000])
        ref = write_shard(store, some, np.zeros((len(some), 1), np.float16), {}, {})
        shards[ref.name] = ref
        columns = [some, [0] * len(some), [ref.name] * len(some), list(range(len(some)))]
        rows.append(
            pa.table([pa.array(c, f.type) for c, f in zip(columns, ROWS_SCHEMA, strict=True)], schema=ROWS_SCHEMA)
        )
    numbers = pa.array(np.ones(count, np.int64))
    texts = {"class": folder.partition("/")[0], "split": "train", "status": "ok"}
    columns = {
        "path": pa.array(names, pa.binary()),
        "digest": pa.array(digests, pa.binary(32)),
        "reason": pa.nulls(count, pa.string()),
    }
    columns |= {name: pa.array([text] * count) for name, text in texts.items()}
    files = pa.table(
        [columns.get(f.name, numbers.cast(f.type) if f.name not in columns else None) for f in FILES_SCHEMA],
        schema=FILES_SCHEMA,
    )
    tables = [files, parent.read_files(store)] if parent else [files]
    return commit(store, parent, pa.concat_tables(tables).sort_by("path"), in_order(pa.concat_tables(rows)), shards)


# Formats

Write = Callable[[list[bytes], np.ndarray, Path], None]
Read = Callable[[Path], int]


def write_ours(digests: list[bytes], features: np.ndarray, out: Path, format: str = "parquet") -> None:
    store = Store(out, "0" * 32)
    refs = [
        write_shard(store, digests[start : start + 256], features[start : start + 256], {}, {}, format)  # type: ignore[arg-type]
        for start in range(0, len(features), 256)
    ]
    (out / "refs.json").write_text(json.dumps([list(vars(ref).values()) for ref in refs]))


def read_ours(out: Path) -> int:
    store = Store(out, "0" * 32)
    images = 0
    for values in json.loads((out / "refs.json").read_text()):
        shard = Shard(store, ShardRef(*values))
        for group in range(-(-shard.ref.num_rows // 128)):
            images += len(shard.read_group(group))
    return images


def write_npz(digests: list[bytes], features: np.ndarray, out: Path) -> None:
    for number, feature in enumerate(features):
        np.savez(out / f"{number}_{number % 2}.npz", features=feature.astype(np.float32), label=number % 2)


def read_npz(out: Path) -> int:
    images = 0
    for path in sorted(out.glob("*.npz")):
        with np.load(path) as content:
            images += len(content["features"][None])
    return images


def write_datasets(digests: list[bytes], features: np.ndarray, out: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    kinds = datasets.Features(
        {"features": datasets.Array3D(features.shape[1:], "float16"), "label": datasets.Value("int64")}
    )

    def rows():
        for number, feature in enumerate(features):
            yield {"features": feature, "label": number % 2}

    data = datasets.Dataset.from_generator(rows, features=kinds, cache_dir=str(out / "cache"))
    data.save_to_disk(out / "data")
    shutil.rmtree(out / "cache")


def read_datasets(out: Path) -> int:
    import datasets

    data = datasets.load_from_disk(out / "data").with_format("numpy")
    return sum(len(batch["features"]) for batch in data.iter(batch_size=128))


def write_tfrecord(digests: list[bytes], features: np.ndarray, out: Path, compression: str = "") -> None:
    import tensorflow as tf

    for start in range(0, len(features), 256):
        with tf.io.TFRecordWriter(str(out / f"{start:06d}.tfrecord"), compression) as writer:
            for number, feature in enumerate(features[start : start + 256], start):
                kinds = {
                    "features": tf.train.Feature(bytes_list=tf.train.BytesList(value=[feature.tobytes()])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number % 2])),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=kinds)).SerializeToString())


def read_tfrecord(out: Path, compression: str = "") -> int:
    import tensorflow as tf

    kinds = {"features": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def parsed(examples):
        return tf.io.decode_raw(tf.io.parse_example(examples, kinds)["features"], tf.float16)

    files = sorted(map(str, out.glob("*.tfrecord")))
    data = tf.data.TFRecordDataset(files, compression).batch(128).map(parsed, num_parallel_calls=tf.data.AUTOTUNE)
    return sum(len(batch) for batch in data.prefetch(2).as_numpy_iterator())


def write_webdataset(digests: list[bytes], features: np.ndarray, out: Path) -> None:
    import webdataset

    with webdataset.ShardWriter(str(out / "%06d.tar"), maxcount=256, verbose=0) as sink:
        for number, feature in enumerate(features):
            buffer = io.BytesIO()
            np.save(buffer, feature)
            sink.write({"__key__": f"{number:08d}", "features.npy": buffer.getvalue(), "label.cls": str(number % 2)})


def read_webdataset(out: Path) -> int:
    import webdataset

    data = webdataset.WebDataset(sorted(map(str, out.glob("*.tar"))), shardshuffle=False, empty_check=False)
    return sum(len(sample[0][None]) for sample in data.decode().to_tuple("features.npy", "label.cls"))


FORMATS: dict[str, tuple[Write, Read]] = {
    "ours": (write_ours, read_ours),
    "ours, npz shards": (lambda *given: write_ours(*given, format="npz"), read_ours),
    "npz an image, float32": (write_npz, read_npz),
    "HF datasets": (write_datasets, read_datasets),
    "TFRecord": (write_tfrecord, read_tfrecord),
    "TFRecord, zlib": (
        lambda *given: write_tfrecord(*given, compression="ZLIB"),
        lambda out: read_tfrecord(out, "ZLIB"),
    ),
    "WebDataset": (write_webdataset, read_webdataset),
}


def compare_formats(store: Store, rounds: int, home: Path) -> dict:
    version = latest_version(store)
    assert version is not None, f"{store.space} has no version"
    shards = [Shard(store, ref) for ref in version.shards.values()]
    digests = [digest for shard in shards for digest in shard.digests()]
    features = np.concatenate([shard.read() for shard in shards])
    seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in FORMATS}
    for number in range(rounds + 1):  # the first round loads and warms the libraries
        for name, (write, read) in FORMATS.items():
            out = home / "out"
            out.mkdir()
            began = time.perf_counter()
            write(digests, features, out)
            subprocess.run(["sync", "-f", out], check=True)  # ours syncs each file, so every format must
            written = time.perf_counter()
            assert read(out) == len(features), name
            ended = time.perf_counter()
            size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
            shutil.rmtree(out)
            if number:
                seen[name].append((len(features) / (written - began), len(features) / (ended - written), size))
        say(f"round {number} of {rounds}")
    return {
        "images": len(features),
        "rounds": rounds,
        "formats": {
            name: {
                "written_a_second": round(statistics.median(rates[0] for rates in found)),
                "read_a_second": round(statistics.median(rates[1] for rates in found)),
                "kb_an_image": round(found[-1][2] / len(features) / 1000, 2),
            }
            for name, found in seen.items()
        },
    }


# Faults and kills


def tests(selected: str, settings: dict[str, str], *options: str) -> dict:
    """Run tests with higher counts than CI has time for."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", selected, *options]
    done = subprocess.run(command, cwd=BENCHMARKS.parent, env=os.environ | settings, stdout=sys.stderr)
    assert done.returncode == 0, f"{selected} failed"
    return {"passed": selected, **settings, "seconds": round(time.perf_counter() - began)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, nargs="*", default=[])
    parser.add_argument("--formats", type=Path, metavar="STORE")
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--states", type=int, default=0)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    result: dict = {}
    with tempfile.TemporaryDirectory(prefix="store-") as home:
        if given.paths:
            result["paths"] = [scale(count, given.rounds, Path(home)) for count in given.paths]
            result["rewritten"] = rewritten(max(given.paths), Path(home))
        if given.formats:
            (store, *_) = spaces(given.formats)
            result["formats"] = compare_formats(store, given.rounds, Path(home))
    if given.faults:
        result["faults"] = tests("tests/storage/test_faults.py", {"FAULTS": "all"})
    if given.states:
        result["states"] = tests("tests/storage/test_machine.py", {"STATES": str(given.states)})
    if given.kills:
        result["kills"] = tests("tests/flows/test_killed.py", {"KILLS": str(given.kills)}, "-m", "slow")
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
