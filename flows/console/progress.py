"""Progress of a run: bars on a terminal, and always lines in the flow run's log."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefect import get_run_logger
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.runtime import deployment
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from flows.console.messages import duration
from storage.text import as_flags

SAY_EVERY_SECONDS = 10.0


class Meter:
    """Progress of one long step: a bar on a terminal, and a log line every SAY_EVERY_SECONDS.

    total: in units of `unit`; None until it is known.
    """

    def __init__(self, name: str, total: int | None, unit: str, log: Callable[[str], None], bars: Bars | None):
        self._name, self._total, self._unit = name, total, unit
        self._log, self._bars = log, bars
        self._bar: TaskID | None = bars.add_task(name, total=total, figures="starting") if bars else None
        self._began: tuple[float, int] | None = None
        self._logged = time.monotonic()

    def begin(self, name: str, total: int) -> None:
        """Start the next part of the step, from zero."""
        self._name, self._total, self._began = name, total, None
        if self._bars is not None and self._bar is not None:
            self._bars.reset(self._bar, total=total, description=name, figures="")

    def update(self, done: int, note: str = "") -> None:
        """Report how many are done. `note` adds information to log lines only."""
        now = time.monotonic()
        self._began = self._began or (now, done)
        figures = self._figures(done, now)
        if self._bars is not None and self._bar is not None:
            self._bars.update(self._bar, completed=done, figures=figures)
        if now - self._logged >= SAY_EVERY_SECONDS:
            self._logged = now
            self._log(f"{self._name}: {figures}{f' ({note})' if note else ''}")

    def _figures(self, done: int, now: float) -> str:
        """Done, rate and time left. The rate counts from the first report, which excludes a slow start."""
        began, done_then = self._began or (now, done)
        rate = (done - done_then) / max(now - began, 1e-9)
        total = self._total or done
        pace = f", {rate:,.1f} {self._unit}/s, {duration((total - done) / rate)} left" if rate else ""
        return f"{done:,} of {total:,} {self._unit}{pace}"

    def end(self) -> None:
        """Remove the bar."""
        if self._bars is not None and self._bar is not None:
            self._bars.remove_task(self._bar)


class Progress:
    """Progress of a run: `seconds` of each step, lines, and meters of long steps."""

    def __init__(self, log: Callable[[str], None], bars: Bars | None = None):
        self.seconds: dict[str, float] = {}
        self._log, self._bars = log, bars
        self._meters: list[Meter] = []

    def say(self, *lines: str) -> None:
        """Write lines to the log, and to the terminal if it shows bars."""
        for line in lines:
            self._log(line)
            if self._bars is not None:
                self._bars.console.print(as_flags(line), soft_wrap=True)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step, and add to its earlier time. Its meters end with it."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began
            while self._meters:
                self._meters.pop().end()

    def meter(self, name: str, total: int | None, unit: str) -> Meter:
        """Add a meter to the current step. total: None if it is unknown."""
        self._meters.append(Meter(name, total, unit, self._log, self._bars))
        return self._meters[-1]


@contextmanager
def shown() -> Iterator[Progress]:
    """Provide the progress of the flow run that calls it."""
    log = get_run_logger().info
    console = Console(stderr=True, markup=False, highlight=False)
    # Nobody watches a deployment's run, even if its worker was started on a terminal.
    if not console.is_terminal or console.is_dumb_terminal or deployment.id is not None:
        yield Progress(log)
        return
    columns = TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[figures]}", markup=False)
    with _logging_to(console), Bars(*columns, console=console, transient=True) as bars:
        yield Progress(log, bars)


@contextmanager
def _logging_to(console: Console) -> Iterator[None]:
    """Print Prefect's lines above the bars instead of through them."""
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, PrefectConsoleHandler)]
    before = [handler.console for handler in handlers]
    for handler in handlers:
        handler.console = console
    try:
        yield
    finally:
        for handler, own in zip(handlers, before, strict=True):
            handler.console = own
