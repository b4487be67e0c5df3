"""The pipeline without a network: 32x32 block means, tiled to the shape of VGG16's features, replace it.

    python benchmarks/null_backbone.py --images FOLDER --store FOLDER --extract-only

This leaves the cost of the pipeline itself: listing, decoding, writing and orchestration. It takes the flags of
flows/pipeline.py. This file adds the backbone to the tables of vision/, also in each child, which runs it too.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from peers.photos import block_means

from vision import engines, specs
from workers.runners import local as worker_pool

CHILD = "--child"


class NullEngine:
    name = "null 1"
    batch_size = 32
    before: str | None = None
    fallback: str | None = None

    def __init__(self, spec: specs.FeatureSpec):
        self.spec = spec

    def features(self, pixels: np.ndarray) -> np.ndarray:
        return block_means(pixels)


def register() -> None:
    specs.BACKBONES["null"] = specs.Backbone(
        name="null",
        application="",
        preprocessing=specs.CAFFE,
        tensors={},
        channels=512,
        side=lambda pixels: pixels // 32,
        smallest_image=32,
        imagenet=("", "", ""),
    )
    engines.choose = lambda wanted, spec, has_gpu: "null"
    engines.load_engine = lambda name, spec, *others: NullEngine(spec)
    worker_pool.CHILD = (sys.executable, __file__, CHILD)


def main() -> int:
    register()
    if CHILD in sys.argv:
        from workers.children import child as worker

        worker.main()
    from flows.cli.command import main
    from flows.registry import PIPELINE

    return main(PIPELINE, [*sys.argv[1:], "--backbone", "null", "--weights", "random"])


if __name__ == "__main__":
    raise SystemExit(main())
