"""Write the corpus that fuzzing starts from: one small file of each kind, as the readers meet them.

python -m tests.fuzz.corpus
"""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.manifest.segments import SCHEMAS
from storage.shards.shard import ENCODINGS
from tests import bad

HERE = Path(__file__).parent / "corpus"
LARGEST = 4096


def packed(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def labels() -> dict[str, bytes]:
    rows = {"path": ["cats/1.jpg", "./dogs/2.jpg"], "class": ["cats", "dogs"], "split": ["train", ""]}
    text = b'path,class,split\ncats/1.jpg,cats,train\n"../a, ""b"".jpg",dogs,\n/root/c.jpg,1,val\n'
    return {"csv": b"C" + text, "parquet": b"P" + packed(pa.table(rows)), "without split": b"Cpath,class\na.jpg,a\n"}


def segments() -> dict[str, bytes]:
    digests = [bytes([number]) * 32 for number in range(3)]
    rows = pa.table([digests, [0, 0, 0], ["a" * 64 + ".parquet"] * 3, [0, 1, 2]], schema=SCHEMAS["rows"])
    columns = [[b"cats/1.jpg", b"dogs/2.jpg"], [digests[0], None], *[[1, 2]] * 3, ["cats", "dogs"], ["train"] * 2]
    columns += [["ok", "quarantined"], [None, "permission"], *[[1, 2]] * 3]
    return {"rows": b"R" + packed(rows), "files": b"F" + packed(pa.table(columns, schema=SCHEMAS["files"]))}


def shards() -> dict[str, bytes]:
    digests = [bytes([number]) * 32 for number in range(3)]
    facts = {"dtype": "<f2", "shape": "[2, 3]", "errors": json.dumps([["07" * 32, "truncated"]])}
    features = np.arange(18, dtype=np.float16).reshape(3, 2, 3)
    first = {"parquet": b"P\3", "npz": b"N\3"}
    return {format: start + ENCODINGS[format].encode(digests, features, facts) for format, start in first.items()}


def images() -> dict[str, bytes]:
    kinds = {name: data for name, (_, data) in bad.KINDS.items() if 0 < len(data) <= LARGEST}
    small = bad.picture(size=(9, 7))
    for format in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
        kinds[f"small.{format.lower()}"] = bad.encoded(small, format)
    return kinds | {"small turned.jpg": bad.encoded(small, "JPEG", exif=bad.turned(6), progressive=True)}


def main() -> None:
    for name, files in {"image": images(), "labels": labels(), "segment": segments(), "shard": shards()}.items():
        (HERE / name).mkdir(parents=True, exist_ok=True)
        for kind, data in files.items():
            (HERE / name / kind.replace(" ", "-")).write_bytes(data)


if __name__ == "__main__":
    main()
