"""The engine of a run. A large first run with `--engine auto` measures the engines that can compute its features."""

from collections.abc import Callable

from vision.engines.rates import is_worth_measuring, known_rates
from vision.engines.selection import EngineName, candidates, choose
from vision.errors import WeightsError
from vision.specs import FeatureSpec
from workers.devices import Slot, visible_gpus
from workers.errors import WorkerDied, WorkerFailed
from workers.jobs.records import PlanRecord
from workers.runners import running as runners
from workers.runners.base import RunnerName


def must_measure(name: EngineName, spec: FeatureSpec, pictures: int, runner: RunnerName) -> bool:
    """Whether a run of so many pictures measures its engines first."""
    return name == "auto" and runner == "local" and not visible_gpus() and is_worth_measuring(spec, pictures)


def settle_engine(name: EngineName, plan: PlanRecord, runner: RunnerName, say: Callable[..., None]) -> str:
    """The engine for every child of the run.

    Engines are measured in a child of its own, which ends with the measurement, since it has loaded all of them. If the
    measurement fails, the order of the table decides.
    """
    spec, rates = plan.space.spec, known_rates(plan.space.spec)
    if must_measure(name, spec, plan.rows, runner):
        say(f"measuring once on this machine: {', '.join(candidates(spec))}")
        try:
            rates = _measured(plan)
            say("images/s per core: " + ", ".join(f"{each} {rate:.1f}" for each, rate in rates.items()))
        except (OSError, WorkerDied, WorkerFailed, WeightsError) as error:
            say(f"warning: the engines could not be measured: {error}")
    return choose(name, spec, bool(visible_gpus()), rates)


def _measured(plan: PlanRecord) -> dict[str, float]:
    logs = plan.space.store.cache / "logs" / "engines"
    with runners.running(logs), runners.runner("local", (Slot(None, 1),), logs).lease() as lease:
        job = {"spec": plan.space.spec.record(), "weights": plan.space.weights}
        return lease.call("rates", job, lambda record: None)
