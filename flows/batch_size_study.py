"""Flow `batch-size-study`: train heads over batch sizes, seeds, features and samplings on one version; compare them.

    python flows/batch_size_study.py --store STORE --batch-sizes 8,32,128 --seeds 0,1,2

As a script it checks whether there is anything to train (flows/preflight/study.py) before it imports Prefect.
It is `head-study` with one kind of head. docs/batch-size.md reports results.
"""

if __name__ == "__main__":
    from flows.cli.leaving import leave  # isort: split
    from flows.cli.command import main
    from flows.registry import STUDY

    raise leave(main(STUDY))

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.options.flat import takes_options
from flows.options.study import BatchSizeStudyOptions
from flows.steps.training_study import run_study
from flows.study.report import StudyOutcome
from tasks.run_identity import name_process
from workers.devices import training_slots


# A training uses every core or one GPU, so one runs at a time, or one per GPU.
@flow(
    name="batch-size-study",
    flow_run_name="{store}",
    validate_parameters=True,
    on_running=[name_process],
    task_runner=ThreadPoolTaskRunner(max_workers=len(training_slots())),
)
@takes_options
def batch_size_study(options: BatchSizeStudyOptions) -> StudyOutcome:
    """Train the missing heads of one kind, and report on all of them."""
    return run_study(options, "batch-size-study")
