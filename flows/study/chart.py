"""The chart of a study: validation accuracy and seconds per epoch by batch size."""

import io

from flows.console.messages import features
from vision.study.batch_size import Cell

# Colour shows the sampling; line style and marker show the features, also without colour.
COLOURS = {"shuffle": "#1f77b4", "bootstrap": "#d95f02"}
LINES = {True: ("-", "o"), False: ("--", "s")}

# Each line is shifted by this factor against the next, so that error bars do not overlap.
ASIDE = 1.03


def draw(cells: list[Cell]) -> bytes:
    """Draw a PNG: mean and spread over the seeds above, seconds per epoch below; one line per features and sampling."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(7, 7), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    ways = list(dict.fromkeys((cell.standardize, cell.sampling) for cell in cells))
    for number, way in enumerate(ways):
        line = [cell for cell in cells if (cell.standardize, cell.sampling) == way]
        _draw_line(above, below, line, ASIDE ** (number - (len(ways) - 1) / 2))
    _label(above, below, sorted({cell.batch_size for cell in cells}))
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()


def _draw_line(above, below, line: list[Cell], beside: float) -> None:
    """One way of training in both axes. beside: what the batch sizes are multiplied by."""
    standardize, sampling = line[0].standardize, line[0].sampling
    style, marker = LINES[standardize]
    look = {
        "color": COLOURS[sampling],
        "linestyle": style,
        "marker": marker,
        "label": f"{features(standardize)}, {sampling}",
    }
    sizes = [cell.batch_size * beside for cell in line]
    means, spreads = [cell.mean("val_accuracy") for cell in line], [cell.spread or 0.0 for cell in line]
    above.errorbar(sizes, means, spreads, capsize=4, **look)
    below.plot(sizes, [cell.epoch_seconds for cell in line], **look)


def _label(above, below, sizes: list[int]) -> None:
    above.set_ylabel("validation accuracy, mean and standard deviation")
    below.set_ylabel("seconds per epoch")
    below.set_xlabel("batch size")
    below.set_xscale("log", base=2)
    below.set_xticks(sizes, [str(size) for size in sizes])
    below.minorticks_off()
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.margins(0.08)
    below.set_ylim(bottom=0)
    above.legend()
