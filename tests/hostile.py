"""A child of extraction that does what some images tell it: the hook for tests of what a child's death costs.

    python -m tests.hostile

Run as the child (workers.runners.local.CHILD). Its engine is the toy one. What a file has behind its picture happens in
the decoder; what a picture of one colour stands for happens in the engine.
"""

import ctypes
import os
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tests.toy import SPEC, ToyEngine
from vision.pixels.decode import decode
from vision.specs import FeatureSpec

CHILD = (sys.executable, "-m", "tests.hostile")
DEEDS = ("hang", "crash", "fill")
IN_COMPANY, AFTER_OTHERS = "crash in company", "crash after others"
COLOURS = {(40 + index, 7, 7): deed for index, deed in enumerate((*DEEDS, IN_COMPANY, AFTER_OTHERS))}


def do(deed: str) -> None:
    """Never end, end by a signal, or fill memory until somebody stops it."""
    if deed == "hang":
        time.sleep(3600)
    elif deed == "crash":
        ctypes.string_at(0)
    elif deed == "fill":
        kept = []
        while len(kept) < 2000:  # 32 GB: whoever does not stop it shall not need the machine's reset button
            kept.append(np.ones(2**24, np.uint8))
            time.sleep(0.001)


def spoil(path: Path, stage: str, deed: str) -> bytes:
    """Let a picture do something in a stage; returns its bytes."""
    if stage == "infer":
        colour = next(colour for colour, name in COLOURS.items() if name == deed)
        Image.new("RGB", (SPEC.image_size, SPEC.image_size), colour).save(path, format="PNG")
    with open(path, "ab") as file:
        file.write(b"decode:" + deed.encode() if stage == "decode" else os.fsencode(path.name))
    return path.read_bytes()


class HostileEngine(ToyEngine):
    seen = 0

    def features(self, pixels: np.ndarray) -> np.ndarray:
        for picture in pixels:
            deed = COLOURS.get(tuple(picture[0, 0].tolist()))
            if (deed == IN_COMPANY and len(pixels) > 1) or (deed == AFTER_OTHERS and self.seen):
                do("crash")
            do(deed or "")
            self.seen += 1
        return super().features(pixels)


def obedient(data: bytes, *more):
    """In place of vision.engines.extract.decode."""
    do(data.rpartition(b"decode:")[2].decode(errors="replace") if b"decode:" in data else "")
    return decode(data, *more)


def loaded(name: str, spec: FeatureSpec, *more) -> HostileEngine:
    """In place of vision.engines.load_engine."""
    engine = HostileEngine()
    engine.spec = spec
    return engine


def main() -> None:
    import vision.engines
    import vision.engines.extract
    from workers.children import child as worker

    vision.engines.extract.decode = obedient
    vision.engines.load_engine = loaded
    worker.main()


if __name__ == "__main__":
    main()
