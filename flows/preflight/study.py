"""The preflight of `batch-size-study`: if every head exists, only the report is written."""

from flows.console.messages import say
from flows.options.study import StudyOptions
from flows.preflight.start import Result, Start
from flows.study.report import report
from storage.backend.atomic import make_folder


def check_study(options: StudyOptions) -> Result | Start:
    study = options.study()
    make_folder(options.folder)
    if study.missing():
        return Start(options, study.space.store)
    say(f"nothing to train: all {len(study.jobs)} heads are there")
    outcome, text = report(study, options.folder)
    say(text)
    return outcome
