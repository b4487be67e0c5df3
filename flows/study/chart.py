"""The chart of a study: validation accuracy and seconds of a training by batch size."""

import io
from typing import Any

from flows.console.messages import features
from vision.study.advice import Cell

# Colour shows the head, or the sampling if there is one head; line style and marker show the features, also without colour.
COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#17becf")
LINES = {True: ("-", "o"), False: ("--", "s")}

# Each line is shifted by this factor against the next, so that error bars do not overlap.
ASIDE = 1.03


def draw(cells: list[Cell]) -> bytes:
    """Draw a PNG: mean and spread over the seeds above, seconds of a training below; one line per head, features and sampling.

    A head that a solver fitted has no batch size, so its line is level.
    """
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(7, 7), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    ways = list(dict.fromkeys(map(_way, cells)))
    sizes = sorted({cell.batch_size for cell in cells if cell.has_epochs}) or [1]
    colours = list(dict.fromkeys(map(_colour, cells)))
    for number, way in enumerate(ways):
        line = [cell for cell in cells if _way(cell) == way]
        look = _look(line[0], COLOURS[colours.index(_colour(line[0])) % len(COLOURS)])
        beside = ASIDE ** (number - (len(ways) - 1) / 2)
        _draw_line(above, below, line if line[0].has_epochs else line * len(sizes), sizes, beside, look)
    _label(above, below, sizes)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()


def _way(cell: Cell) -> tuple[str, bool, str]:
    return cell.label, cell.standardize, cell.sampling


def _colour(cell: Cell) -> tuple[str, str]:
    return cell.label, cell.sampling


def _look(cell: Cell, colour: str) -> dict[str, Any]:
    style, marker = LINES[cell.standardize]
    named = ", ".join(filter(None, (cell.label, features(cell.standardize), cell.sampling)))
    return {"color": colour, "linestyle": style, "marker": marker, "label": named}


def _draw_line(above, below, line: list[Cell], sizes: list[int], beside: float, look: dict[str, Any]) -> None:
    """One way of training in both axes. beside: what the batch sizes are multiplied by."""
    places = [(cell.batch_size or size) * beside for cell, size in zip(line, sizes, strict=False)]
    means, spreads = [cell.mean("val_accuracy") for cell in line], [cell.spread or 0.0 for cell in line]
    above.errorbar(places, means, spreads, capsize=4, **look)
    below.plot(places, [cell.seconds for cell in line], **look)


def _label(above, below, sizes: list[int]) -> None:
    above.set_ylabel("validation accuracy, mean and standard deviation")
    below.set_ylabel("seconds of a training")
    below.set_xlabel("batch size")
    below.set_xscale("log", base=2)
    below.set_xticks(sizes, [str(size) for size in sizes])
    below.minorticks_off()
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.margins(0.08)
    below.set_ylim(bottom=0)
    above.legend()
