"""Flow `store-maintenance`: verify a store, merge its small shards, and remove what its newest versions do not need.

    python flows/store_maintenance.py --store STORE --keep 10

The steps are those of `python -m storage` (docs/store.md). A store that fails verification is left as it is.
"""

if __name__ == "__main__":
    from flows.cli.leaving import leave  # isort: split
    from flows.cli.command import main
    from flows.registry import MAINTENANCE

    raise leave(main(MAINTENANCE))

from dataclasses import asdict, dataclass, field
from typing import Any

from prefect import flow, get_run_logger

from flows.options.flat import takes_options
from flows.options.maintenance import MaintenanceOptions
from flows.steps.convergence import turn_seconds
from tasks.artifacts import show_maintenance
from tasks.maintain_store import Unsound, collect_store, compact_store, verify_store
from tasks.run_identity import name_process


@dataclass
class Maintained:
    """The result of maintaining a store: the lines of each step."""

    store: str
    verify: list[str] = field(default_factory=list)
    compact: list[str] = field(default_factory=list)
    gc: list[str] = field(default_factory=list)

    def line(self, elapsed_seconds: float) -> dict[str, Any]:
        return {**asdict(self), "elapsed_seconds": round(elapsed_seconds, 4)}


@flow(name="store-maintenance", flow_run_name="{store}", validate_parameters=True, on_running=[name_process])
@takes_options
def store_maintenance(options: MaintenanceOptions) -> Maintained:
    """Run the steps in order, and stop at the first failure. The artifact shows every step that ran."""
    target, done = options.target(turn_seconds(options.wait)), dict[str, list[str]]()
    steps = {
        "verify": lambda: verify_store(target, options.deep),
        "compact": lambda: compact_store(target, options.compaction()),
        "gc": lambda: collect_store(target, options.keep, options.grace),
    }
    log = get_run_logger()
    try:
        for step, take in steps.items():
            done[step] = []
            done[step] = take()
            log.info("%s: %s", step, "; ".join(done[step]))
    except Exception as error:
        done[step] += [*(error.lines if isinstance(error, Unsound) else ()), str(error)]
        raise
    finally:
        show_maintenance(options.store, done)
    return Maintained(options.store, **done)
