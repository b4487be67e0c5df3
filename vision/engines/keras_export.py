"""A backbone as a graph of OpenVINO by Keras' exporter, made once per weights in a process of its own.

    python -m vision.engines.keras_export FOLDER

Children therefore load no TensorFlow. FOLDER has spec.json and tensors.npz; the process writes network.npz there.
"""

import io
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from vision.backbones.weights_file import Tensors
from vision.engines.networks import kept_network
from vision.sample import sample_picture
from vision.specs import FeatureSpec

logger = logging.getLogger(__name__)

LONGEST_EXPORT_SECONDS = 900  # 4 to 12 s were measured on an idle machine


class Network(NamedTuple):
    """graph, weights: the two files of OpenVINO's format. expected: Keras' features of the sample picture, (1, *shape)."""

    graph: bytes
    weights: bytes
    expected: np.ndarray


def exported(spec: FeatureSpec, tensors: Tensors) -> Network:
    """The network of a spec, from the cache or made now. Raises RuntimeError if Keras or OpenVINO cannot convert it."""
    record = spec.record() | {"precision": "float32"}
    libraries = {name: version(name) for name in ("keras", "openvino", "tensorflow")}
    data = kept_network(record, ".npz", libraries, lambda: _export(record, tensors))
    with np.load(io.BytesIO(data)) as arrays:
        return Network(arrays["graph"].tobytes(), arrays["weights"].tobytes(), arrays["expected"])


def _export(record: dict[str, Any], tensors: Tensors) -> bytes:
    logger.info("converting %s for OpenVINO, once for these weights", record["backbone"])
    with TemporaryDirectory() as folder:
        Path(folder, "spec.json").write_text(json.dumps(record))
        arrays = {f"{layer} {place}": array for layer, own in tensors.items() for place, array in enumerate(own)}
        np.savez(Path(folder, "tensors.npz"), **arrays)  # type: ignore[arg-type]
        done = _run([sys.executable, "-m", __name__, folder])
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise RuntimeError(f"{record['backbone']} cannot be converted for OpenVINO ({reason})")
        return Path(folder, "network.npz").read_bytes()


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the process of an export. Its standard input closes with this process, however this process ends."""
    reading, writing = os.pipe()
    try:
        return subprocess.run(
            command,
            stdin=reading,
            capture_output=True,
            text=True,
            timeout=LONGEST_EXPORT_SECONDS,
            cwd=Path(__file__).parents[2],
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"the conversion for OpenVINO took more than {LONGEST_EXPORT_SECONDS} s") from error
    finally:
        os.close(reading)
        os.close(writing)


def export(folder: Path) -> None:
    from vision.engines.openvino_library import load_openvino

    load_openvino()  # before Keras does
    from vision.backbones.keras_model import build_backbone

    spec = FeatureSpec(**json.loads((folder / "spec.json").read_text()))
    tensors: dict[str, tuple[np.ndarray, ...]] = {}
    with np.load(folder / "tensors.npz") as arrays:
        for name in arrays.files:
            layer = name.rpartition(" ")[0]
            tensors[layer] = (*tensors.get(layer, ()), arrays[name])
    model = build_backbone(spec, tensors)
    model.export(str(folder / "network.xml"), format="openvino", verbose=False)
    expected = np.asarray(model(sample_picture(spec.image_size)[None], training=False), np.float32)
    files = {
        name: (folder / f"network.{suffix}").read_bytes() for name, suffix in (("graph", "xml"), ("weights", "bin"))
    }
    as_arrays = {name: np.frombuffer(data, np.uint8) for name, data in files.items()}
    np.savez(folder / "network.npz", **(as_arrays | {"expected": expected}))  # type: ignore[arg-type]


def _leave_with_parent(folder: Path) -> None:
    """End this process, and remove its folder, when standard input closes: nobody waits for the network any more."""
    os.read(sys.stdin.fileno(), 1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_leave_with_parent, args=(Path(sys.argv[1]),), daemon=True).start()
    export(Path(sys.argv[1]))
