"""Flow `head-study`: train heads over kinds, poolings, regularisations and batch sizes on one version; compare them.

    python flows/head_study.py --store STORE --heads mlp,pooled,logistic --batch-sizes 32,128

As a script it checks whether there is anything to train (flows/preflight/study.py) before it imports Prefect.
docs/head-study.md explains the result.
"""

if __name__ == "__main__":
    from flows.cli.leaving import leave  # isort: split
    from flows.cli.command import main
    from flows.registry import HEAD_STUDY

    raise leave(main(HEAD_STUDY))

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.options.flat import takes_options
from flows.options.study import HeadStudyOptions
from flows.steps.training_study import run_study
from flows.study.report import StudyOutcome
from tasks.run_identity import name_process
from workers.devices import training_slots


# A training uses every core or one GPU, so one runs at a time, or one per GPU.
@flow(
    name="head-study",
    flow_run_name="{store}",
    validate_parameters=True,
    on_running=[name_process],
    task_runner=ThreadPoolTaskRunner(max_workers=len(training_slots())),
)
@takes_options
def head_study(options: HeadStudyOptions) -> StudyOutcome:
    """Train the missing heads, and report on all of them."""
    return run_study(options, "head-study")
