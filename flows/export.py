"""Export a head of a store, with the network in front of it, as one model for other programs.

    python flows/export.py --store STORE --format keras --out classifier.keras

No Prefect server is needed: an export is one job, which a child process does.
"""

import time
from dataclasses import asdict
from typing import Any

from flows.cli.command import finish
from flows.cli.parser import options_parser, read_options
from flows.console.messages import say
from flows.options.export import ExportOptions
from storage.backend.output import replacing
from storage.layout import Store
from vision.specs import FeatureSpec
from workers.devices import Slot, available_cores
from workers.jobs.export_model import ExportJob, ExportResult
from workers.jobs.opened_head import open_head
from workers.jobs.spaces import computable_space
from workers.runners.running import runner, running


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return finish(lambda given, began: run(parse(given), began), arguments)


def parse(arguments: list[str]) -> ExportOptions:
    """Parse the flags. Raises InputError for invalid ones."""
    parser, _ = options_parser(
        ExportOptions,
        prog="python flows/export.py",
        usage="%(prog)s [--store STORE] [--head HEAD] --format FORMAT --out PATH [options]",
        description="Export a head of a store, with the network in front of it, as one model for other programs.",
        epilog="Exit status: 0 done, 1 failure, 2 bad arguments or input, 130 interrupted. The last line on standard output is one "
        "JSON object.",
    )
    return read_options(ExportOptions, vars(parser.parse_args(arguments)))


def run(options: ExportOptions, began: float) -> dict[str, Any]:
    """Export the model, and return the JSON record."""
    options.check()
    head = open_head(options.root, options.head or None)
    space = computable_space(options.root, head.spec, options.weights)
    say(*cautions(head.spec, options))
    say(f"exporting head {head.name} with {head.spec.backbone} as {options.format}")
    try:
        with replacing(options.path) as path:
            job = ExportJob(space, head.name, options.target.name, str(path), available_cores())
            result = _exported(job, options)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("interrupted; nothing was written") from error
    unchecked = (
        "" if result.max_difference is not None else "; it was not checked, because onnxruntime is not installed"
    )
    say(f"wrote {options.path}, {result.size_bytes / 1e6:,.1f} MB, in {result.export_seconds:.1f} s{unchecked}")
    return {
        "head": head.name,
        "version": head.version,
        "fingerprint": head.fingerprint,
        "classes": len(head.classes),
        "class_names": list(head.classes),
        "format": options.format,
        "out": str(options.path),
        **asdict(result),
        "elapsed_seconds": round(time.monotonic() - began, 4),
    }


def cautions(spec: FeatureSpec, options: ExportOptions) -> list[str]:
    """Warnings about exports that give other probabilities than the pipeline."""
    lines = []
    if spec.precision != "float32":
        lines.append(
            f"warning: the head was trained on features in {spec.precision}, and the export computes in float32, so probabilities differ "
            "slightly"
        )
    if options.format == "saved_model" and spec.exif == "apply":
        lines.append(
            "warning: the head was trained on images that were turned as their EXIF says, and the signature 'bytes' does not turn them"
        )
    return lines


def _exported(job: ExportJob, options: ExportOptions) -> ExportResult:
    """Run the job, in a child process by default. It sees no GPU, so that it computes as any machine does."""
    logs = Store(options.root, "").cache / "logs" / "export"
    with running(logs), runner(options.runner, (Slot("", job.threads),), logs).lease() as lease:
        return ExportResult(**lease.call("export", asdict(job), lambda record: None))


if __name__ == "__main__":
    raise SystemExit(main())
