"""The steps of a study, which the flows `head-study` and `batch-size-study` share."""

from flows.console.messages import cautions, spent, studied, training_on
from flows.console.progress import Progress, shown
from flows.console.training_progress import Trainings
from flows.options.study import StudyOptions
from flows.steps.convergence import turn_seconds
from flows.study.report import StudyOutcome, report, table
from flows.study.study import Study
from storage.backend.lock import hold
from storage.manifest.space import create_space
from storage.text import count
from tasks.artifacts import show_study
from tasks.caching import kept
from tasks.train_head import logs_of, train_head
from workers.jobs.records import HeadResult
from workers.runners.base import RunnerName
from workers.runners.running import running


def run_study(options: StudyOptions, name: str) -> StudyOutcome:
    """Train the missing heads, each in a task run, and report on all heads. name: of the flow."""
    study = options.study()
    with shown() as progress, hold(study.space.store.root, turn_seconds(options.wait), progress.say):
        progress.say(*cautions(options.runner))
        with progress.step("train"):
            heads = train_missing(study, options.runner, progress)
        outcome, text = report(
            study, options.folder, len(heads), max((head.peak_rss_mb for head in heads), default=None)
        )
        show_study(name, table(study.rows()), f"Version {study.version.number}, {count(len(study.jobs), 'training')}")
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
