"""The table of all flows. The command line, deployments, `flows.reap` and tests read it.

The table names a flow's module as text, because importing the module imports Prefect.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pydantic

from flows.options.evaluate import EvaluateOptions
from flows.options.inspect_data import InspectOptions
from flows.options.maintenance import MaintenanceOptions
from flows.options.pipeline import PipelineOptions
from flows.options.predict import PredictOptions
from flows.options.study import BatchSizeStudyOptions, HeadStudyOptions
from flows.options.watch import WatchOptions
from flows.preflight.pipeline import check_pipeline
from flows.preflight.start import Result, Start, check_options
from flows.preflight.study import check_study

JSON_LINE = "The last line on standard output is one JSON object."


@dataclass(frozen=True)
class FlowEntry:
    """A flow and its command line.

    preflight: takes the options and the switches, and runs before Prefect is imported. switches: flags that only the command line has, each with its help. needs_server: why a configured Prefect
    server is required; if empty, a run starts a server when none is configured. interrupted: what remains after an
    interrupt. holds_store: whether a run holds the lock of the store, or only reads it.
    """

    name: str
    module: str
    function: str
    options: type[pydantic.BaseModel]
    usage: str
    description: str
    epilog: str
    interrupted: str
    preflight: Callable[..., Result | Start] = check_options
    switches: Mapping[str, str] = field(default_factory=dict)
    needs_server: str = ""
    holds_store: bool = True

    @property
    def path(self) -> str:
        """The flow's file, relative to the project's folder."""
        return f"{self.module.replace('.', '/')}.py"

    @property
    def entrypoint(self) -> str:
        """The flow for Prefect: file and function."""
        return f"{self.path}:{self.function}"

    def load(self) -> Callable[..., Result]:
        """The flow. This imports its module, hence Prefect."""
        return getattr(importlib.import_module(self.module), self.function)

    @property
    def prog(self) -> str:
        """The command that --help shows."""
        return f"python {self.path}"


PIPELINE = FlowEntry(
    "extract-and-train",
    "flows.pipeline",
    "extract_and_train",
    PipelineOptions,
    preflight=check_pipeline,
    usage="%(prog)s [--images FOLDER] [--store FOLDER] [--weights imagenet|random|FILE] [options]",
    description="Extract features of a folder of images, only what is new, and train a classifier on them. "
    "Without --images a demo runs.",
    epilog="Exit status: 0 done, 1 failure, 2 bad arguments or input, 3 too many unusable images, "
    f"4 too many images gone, or folders label images differently, 5 store busy, 130 interrupted. {JSON_LINE}",
    interrupted="finished shards are kept, and the next run continues from them",
    switches={"plan": "print what a run would do and why, and change nothing"},
)
STUDY = FlowEntry(
    "batch-size-study",
    "flows.batch_size_study",
    "batch_size_study",
    BatchSizeStudyOptions,
    preflight=check_study,
    usage="%(prog)s [--store STORE] [--batch-sizes 8,32,128] [--seeds 0,1,2] [options]",
    description="Train heads with several batch sizes on one version of a store, and compare them. "
    "Existing heads are not trained again, and none of them becomes the current head.",
    epilog=f"Exit status: 0 done, 1 failure, 2 bad arguments or input, 5 store busy, 130 interrupted. {JSON_LINE}",
    interrupted="finished trainings are kept, and the next study continues from them",
)
HEAD_STUDY = FlowEntry(
    "head-study",
    "flows.head_study",
    "head_study",
    HeadStudyOptions,
    preflight=check_study,
    usage="%(prog)s [--store STORE] [--heads mlp,pooled,logistic] [--batch-sizes 32,128] [--seeds 0,1,2] [options]",
    description="Train several kinds of heads on one version of a store, and compare them. "
    "Existing heads are not trained again, and none of them becomes the current head.",
    epilog=STUDY.epilog,
    interrupted=STUDY.interrupted,
)
WATCH = FlowEntry(
    "watch-images",
    "flows.watch_images",
    "watch_images",
    WatchOptions,
    usage="%(prog)s --images FOLDER [--store STORE] [options]",
    description="Watch a folder of images, and emit the event images.arrived to the Prefect server of PREFECT_API_URL "
    "each time the folder has changed and settled.",
    epilog=f"Exit status: 0 done, 1 failure, 2 bad arguments or input, 130 interrupted. {JSON_LINE}",
    interrupted="the next watcher announces what arrives in the meantime",
    needs_server="events go to a Prefect server that runs on",
)
MAINTENANCE = FlowEntry(
    "store-maintenance",
    "flows.store_maintenance",
    "store_maintenance",
    MaintenanceOptions,
    usage="%(prog)s [--store STORE] [--keep N] [options]",
    description="Verify a store, merge its small shards, and remove what its newest versions do not need.",
    epilog="Exit status: 0 done, 1 a damaged store or a failure, 2 bad arguments or input, 5 store busy, "
    f"130 interrupted. {JSON_LINE}",
    interrupted="the store is intact, and the next maintenance does the rest",
)
PREDICT = FlowEntry(
    "predict",
    "flows.predict",
    "predict",
    PredictOptions,
    usage="%(prog)s --images FOLDER|IMAGE|LIST.txt --out FILE.csv|jsonl|parquet [--store STORE] [--head HEAD] [options]",
    description="Label images with a trained head, and write one row per image. Images whose features the store has are "
    "not computed.",
    epilog="Exit status: 0 done, 1 failure, 2 bad arguments or input, 3 too many unusable images (the file is written), "
    f"5 another run writes the file, 130 interrupted. {JSON_LINE}",
    interrupted="finished predictions are kept, and the same command continues from them",
    holds_store=False,
)
EVALUATE = FlowEntry(
    "evaluate",
    "flows.evaluate",
    "evaluate",
    EvaluateOptions,
    usage="%(prog)s --images FOLDER|--split SPLIT [--store STORE] [--head HEAD] [--against HEAD] [options]",
    description="Say how good a trained head is on labelled images, and whether another one is better. Images whose features the "
    "store has are not computed.",
    epilog="Exit status: 0 done, 1 failure, 2 bad arguments or input, 3 too many unusable images (the report is written), "
    f"130 interrupted. {JSON_LINE}",
    interrupted="finished predictions are kept, and the same command continues from them",
    holds_store=False,
)
INSPECT = FlowEntry(
    "inspect-data",
    "flows.inspect_data",
    "inspect_images",
    InspectOptions,
    usage="%(prog)s [--store STORE] [--out FOLDER] [--images FOLDER] [options]",
    description="Find what is wrong with the data of a store: leaks between splits, images in two classes, suspect labels, odd "
    "pictures. Writes a report with pictures, tables, and a file to review that the pipeline takes back.",
    epilog=f"Exit status: 0 done, 1 failure, 2 bad arguments or input, 130 interrupted. {JSON_LINE}",
    interrupted="pictures that were measured are not measured again",
    holds_store=False,
)
FLOWS = {entry.name: entry for entry in (PIPELINE, HEAD_STUDY, STUDY, WATCH, MAINTENANCE, PREDICT, EVALUATE, INSPECT)}
