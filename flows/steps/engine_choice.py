"""The engine of a run. A large first run with `--engine auto` measures the engines that can compute its features."""

from collections.abc import Callable

from vision.engines.rates import known_rates, must_measure
from vision.engines.selection import EngineName, candidates, choose
from vision.errors import WeightsError
from workers.devices import Slot, visible_gpus
from workers.errors import WorkerDied, WorkerFailed
from workers.jobs.records import PlanRecord
from workers.runners import running as runners
from workers.runners.base import RunnerName


def settle_engine(name: EngineName, plan: PlanRecord, runner: RunnerName, say: Callable[..., None]) -> str:
    """The engine for every child of the run.

    Engines are measured in a child of its own, which ends with the measurement, since it has loaded all of them. If the
    measurement fails, the order of the table decides.
    """
    spec, has_gpu, rates = plan.space.spec, bool(visible_gpus()), known_rates(plan.space.spec)
    if runner == "local" and must_measure(name, spec, has_gpu, plan.rows):
        say(f"measuring once on this machine: {', '.join(candidates(spec))}")
        try:
            rates = _measured(plan)
            say("images/s per core: " + ", ".join(f"{each} {rate:.1f}" for each, rate in rates.items()))
        except (OSError, WorkerDied, WorkerFailed, WeightsError) as error:
            say(f"warning: the engines could not be measured: {error}")
    return choose(name, spec, has_gpu, rates)


def _measured(plan: PlanRecord) -> dict[str, float]:
    logs = plan.space.store.cache / "logs" / "engines"
    with runners.running(logs), runners.runner("local", (Slot(None, 1),), logs).lease() as lease:
        job = {"spec": plan.space.spec.record(), "weights": plan.space.weights}
        return lease.call("rates", job, lambda record: None)
