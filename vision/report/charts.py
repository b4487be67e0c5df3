"""Charts as inline SVG with the font and the colours of the page, light or dark.

matplotlib draws with placeholder colours, one per role. In the text of the SVG, CSS variables replace them.
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# Placeholder colours, and the CSS variable that replaces each.
INK, LINES, TRAINING, VALIDATION = ROLES = "#010203", "#040506", "#070809", "#0a0b0c"
VARIABLES = dict(zip(ROLES, ("muted", "line", "training", "validation"), strict=True))
HEAT = "#2f6fdb"

STYLE = {
    "svg.fonttype": "none",  # text stays text: searchable, and in the page's font
    "svg.image_inline": True,
    "font.size": 9.5,
    "axes.edgecolor": LINES,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINES,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": LINES,
    "ytick.color": LINES,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


def learning_curve(
    name: str,
    training: Sequence[float],
    validation: Sequence[float],
    best: int | None,
    before: int = 0,
    top: float | None = None,
) -> str:
    """Two lines over the epochs. name: what they show, with its unit. best: the kept epoch of these, counted from 1.

    before: how many epochs were done before the first of these.
    """

    def draw(figure) -> None:
        axes = figure.add_subplot()
        epochs = np.arange(before + 1, before + len(training) + 1)
        line: dict[str, Any] = {"linewidth": 1.6, "clip_on": False}  # a line on the axis is drawn at its full width
        mark = {"marker": "o", "markersize": 3} if len(epochs) <= 30 else {}
        axes.plot(epochs, training, color=TRAINING, linestyle=(0, (4, 1.5)), **line, **mark)
        axes.plot(epochs, validation, color=VALIDATION, **line, **mark)
        axes.set(xlabel="epoch", ylabel=name, xlim=(epochs[0] - 0.02 * len(epochs), epochs[-1] + 0.02 * len(epochs)))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=None if top else 0, top=top)
        if best is not None:
            _mark_best(axes, before + best, validation[best - 1], best / len(epochs))

    return _svg(draw, (4.2, 2.7), name)


def _mark_best(axes, best: int, value: float, place: float) -> None:
    """place: of the best epoch on the axis, from 0 to 1."""
    axes.axvline(best, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
    axes.plot([best], [value], "o", color=VALIDATION, markersize=6, clip_on=False)
    side = "left" if place < 0.3 else "right" if place > 0.7 else "center"
    axes.annotate(
        f"best epoch: {best}",
        (best, 1.03),
        xycoords=("data", "axes fraction"),
        ha=side,
        va="bottom",
        annotation_clip=False,
    )


def reliability(heads: Sequence[Sequence[tuple[float, float, int]]], name: str) -> str:
    """How often predictions of a probability are right. heads: for each of one or two heads, (mean probability, accuracy, images).

    A calibrated head lies on the diagonal. The area of a point grows with its images.
    """

    def draw(figure) -> None:
        axes = figure.add_subplot()
        axes.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        for points, colour, style in zip(heads, (VALIDATION, TRAINING), ("-", (0, (4, 1.5))), strict=False):
            confidence, accuracy, images = np.array(points, np.float64).reshape(-1, 3).T
            line: dict[str, Any] = {"color": colour, "clip_on": False}
            axes.plot(100 * confidence, 100 * accuracy, linewidth=1.6, linestyle=style, **line)
            axes.scatter(100 * confidence, 100 * accuracy, 12 + 120 * images / images.sum(), linewidths=0, **line)
        axes.set(xlabel="probability of the predicted class, %", ylabel="accuracy, %", xlim=(0, 100), ylim=(0, 100))

    return _svg(draw, (4.2, 3.4), name)


def heat_map(confusion: np.ndarray, name: str) -> str:
    """A confusion matrix that is too wide for a table. confusion: (classes, classes) counts."""

    def draw(figure) -> None:
        from matplotlib.colors import LinearSegmentedColormap, PowerNorm

        axes = figure.add_subplot()
        shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
        # A square-root scale: a quarter of a class has half of the colour, so that rare mistakes stay visible.
        axes.imshow(
            shares,
            cmap=LinearSegmentedColormap.from_list("heat", [f"{HEAT}00", HEAT]),
            norm=PowerNorm(0.5, vmin=0, vmax=1),
        )
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.grid(False)

    return _svg(draw, (4.2, 4.2), name)


def _svg(draw: Callable, inches: tuple[float, float], name: str) -> str:
    """The SVG element of what `draw` draws. Equal figures give equal text."""
    from matplotlib import style
    from matplotlib.figure import Figure

    sink = io.StringIO()
    with style.context(["default", STYLE | {"svg.hashsalt": name}]):
        figure = Figure(inches, layout="constrained")
        draw(figure)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(sink, format="svg", transparent=True, metadata=nothing)
    text = sink.getvalue()
    return _at_home(text[text.index("<svg") :], re.sub(r"\W+", "-", name))


def _at_home(svg: str, prefix: str) -> str:
    """The SVG with the page's colours, and with ids that are unique in the page."""
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg
