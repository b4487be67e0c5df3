"""Flow `batch-size-study`: train heads over batch sizes, seeds, features and samplings on one version; compare them.

    python flows/batch_size_study.py --store STORE --batch-sizes 8,32,128 --seeds 0,1,2

As a script it checks whether there is anything to train (flows/preflight/study.py) before it imports Prefect.
docs/batch-size.md reports results.
"""

if __name__ == "__main__":
    from flows.cli.leaving import leave  # isort: split
    from flows.cli.command import main
    from flows.registry import STUDY

    raise leave(main(STUDY))

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.console.messages import cautions, spent, studied, training_on
from flows.console.progress import Progress, shown
from flows.console.training_progress import Trainings
from flows.options.flat import takes_options
from flows.options.study import StudyOptions
from flows.steps.convergence import turn_seconds
from flows.study.report import StudyOutcome, report, table
from flows.study.study import Study
from storage.backend.lock import hold
from storage.manifest.space import create_space
from storage.text import count
from tasks.artifacts import show_study
from tasks.caching import kept
from tasks.run_identity import name_process
from tasks.train_head import logs_of, train_head
from workers.devices import training_slots
from workers.jobs.records import HeadResult
from workers.runners.base import RunnerName
from workers.runners.running import running


# A training uses every core or one GPU, so one runs at a time, or one per GPU.
@flow(
    name="batch-size-study",
    flow_run_name="{store}",
    validate_parameters=True,
    on_running=[name_process],
    task_runner=ThreadPoolTaskRunner(max_workers=len(training_slots())),
)
@takes_options
def batch_size_study(options: StudyOptions) -> StudyOutcome:
    """Train the missing heads, each in a task run, and report on all heads."""
    study = options.study()
    with shown() as progress, hold(study.space.store.root, turn_seconds(options.wait), progress.say):
        progress.say(*cautions(options.runner))
        with progress.step("train"):
            heads = train_missing(study, options.runner, progress)
        outcome, text = report(
            study, options.folder, len(heads), max((head.peak_rss_mb for head in heads), default=None)
        )
        show_study(table(study.rows()), f"Version {study.version.number}, {count(len(study.jobs), 'training')}")
        progress.say(f"{text}\ntime: {spent(progress.seconds)}")
        return outcome


def train_missing(study: Study, runner: RunnerName, progress: Progress) -> list[HeadResult]:
    """Train the missing heads. A failed training ends the study; the heads before it are kept."""
    create_space(study.space.store, study.space.spec.record())  # also cleans up after dead runs
    jobs = study.missing()
    progress.say(f"{training_on(study.version)}; {len(jobs)} of {count(len(study.jobs), 'training')} to do")
    if not jobs:
        return []
    task, trainings, heads = kept(train_head, study.space), Trainings(progress, study.version, jobs), []
    # `running` ends every child when it exits, also on Ctrl-C.
    with running(logs_of(jobs[0])):
        futures = [task.submit(job, trainings.listener(job), runner) for job in jobs]
        for number, (job, future) in enumerate(zip(jobs, futures, strict=True), 1):
            heads.append(future.result())
            progress.say(f"{number} of {len(jobs)}: {studied(job, heads[-1])}")
    return heads
