"""The preflight of the studies: if every head exists, only the report is written."""

from flows.console.messages import say
from flows.options.study import StudyOptions
from flows.preflight.start import Result, Start
from flows.study.report import report
from storage.backend.atomic import make_folder
from storage.text import count
from workers.runners.warm_up import training


def check_study(options: StudyOptions) -> Result | Start:
    """Return Start if a head is missing, and otherwise write the report and return its outcome. Raises InputError."""
    study = options.study()
    make_folder(options.folder)
    if study.missing():
        return Start(options, study.space.store, (training(options.runner, study.space),))
    say(f"nothing to train: {count(len(study.jobs), 'training')} done before")
    outcome, text = report(study, options.folder)
    say(text)
    return outcome
