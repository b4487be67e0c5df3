"""Coverage-guided fuzzing of what reads files from elsewhere: only our own errors may come out.

    pip install atheris
    python -m tests.fuzz.fuzz image -max_total_time=600

Targets: image, labels, segment, shard. What follows goes to libFuzzer, which is told to keep what it finds new in
a folder beside the corpus (or in the one that CORPUS names) and to write an input that breaks the rule to the
working folder. `python -m tests.fuzz.corpus` writes the corpus anew.
"""

import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL", "storage", "vision", "zipfile", "numpy.lib"]):
    import PIL.BmpImagePlugin
    import PIL.GifImagePlugin
    import PIL.JpegImagePlugin
    import PIL.PngImagePlugin
    import PIL.WebPImagePlugin  # noqa: F401
    from PIL import Image

    from storage.errors import StorageError
    from storage.layout import Store
    from storage.manifest.segments import read_segments
    from storage.records import sha256
    from storage.shards.shard import ENCODINGS, Shard, ShardRef
    from storage.source.labels import read_labels
    from vision.pixels.decode import ImageError, decode

HERE = Path(__file__).parent


def image(data: bytes) -> None:
    with suppress(ImageError):
        assert decode(data, 32, "apply").shape == (32, 32, 3)


def labels(data: bytes) -> None:
    """The first byte says which kind of file the others are."""
    path = WORK / ("labels.parquet" if data[:1] == b"P" else "labels.csv")
    path.write_bytes(data[1:])
    with suppress(StorageError):
        read_labels(path, WORK)


def segment(data: bytes) -> None:
    """The first byte says of which table it is."""
    kind = "rows" if data[:1] == b"R" else "files"
    name = f"{kind}-{sha256(data[1:])}.parquet"
    path = STORE.segment(name)
    path.write_bytes(data[1:])
    try:
        read_segments(STORE, kind, (name,)).to_pylist()
    except StorageError:
        pass
    finally:
        path.unlink()


def shard(data: bytes) -> None:
    """The first byte says which format it has, the second how many rows its version says."""
    format, body = ("npz" if data[:1] == b"N" else "parquet"), data[2:]
    try:
        footer = body[-ENCODINGS[format].footer_size(body[-ENCODINGS[format].TAIL :]) :]
    except Exception:  # no version would have named it: a writer takes its footer's checksum
        footer = b""
    ref = ShardRef(f"{sha256(body)}.{format}", len(body), data[1] if len(data) > 1 else 0, sha256(footer))
    path = STORE.shard(ref.name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(body)
    try:
        opened = Shard(STORE, ref)
        opened.digests()
        opened.errors()
        opened.read()
    except StorageError:
        pass
    finally:
        path.unlink()


TARGETS: dict[str, Callable[[bytes], None]] = {each.__name__: each for each in (image, labels, segment, shard)}


def main() -> None:
    name, *options = sys.argv[1:]
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = 2**20  # larger ones only cost time
    found = Path(os.environ.get("CORPUS", WORK / "found")) / name
    found.mkdir(parents=True, exist_ok=True)
    limits = ["-timeout=20", "-rss_limit_mb=3000", "-max_len=65536"]
    atheris.Setup([sys.argv[0], *limits, *options, str(found), str(HERE / "corpus" / name)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        WORK = Path(folder)
        STORE = Store(WORK, "0" * 32)
        STORE.segments.mkdir(parents=True)
        STORE.shards.mkdir()
        main()
