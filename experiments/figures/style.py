"""What all figures share: colours, scales of axes, legends, and how they are saved.

Widths suit a README about 800 pixels wide. A placement has one colour (Okabe & Ito, Color
Universal Design, 2008), one marker and one line style everywhere, and so reads in grey too.
"""

import io
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from mnist_jax.store import write_whole

LineStyle = Literal["-", "--", ":", ""]


class Look(NamedTuple):
    """How a placement is drawn, and what it is called."""

    colour: str
    marker: str
    line: LineStyle
    label: str


LOOKS: dict[str, Look] = {
    "none": Look("#767676", "s", ":", "no block"),
    "before_fc1": Look("#0072B2", "o", "-", "block before fc1"),
    "after_fc1": Look("#E69F00", "^", "--", "block after fc1"),
}
REPORT = "#000000"  # the report's own numbers: dashes or hollow markers
STYLE: dict[Any, Any] = {  # keys are names of matplotlib's, which types them one by one
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E0E0E0",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.markersize": 4.0,
    "savefig.dpi": 200,
    "svg.hashsalt": "mnist_jax",  # otherwise ids in an SVG differ from run to run
}
WIDTH = 8.0  # inches


@contextmanager
def styled() -> Iterator[None]:
    """The context in which a figure is made and saved.

    It starts from matplotlib's own defaults. A user's matplotlibrc would change the figures, or end
    a finished run where it asks for a TeX that is not there.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def epochs_axis(axes: Axes) -> None:
    """Puts whole epochs along the bottom."""
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")


def marker_of(points: Sized) -> str:
    """The marker of a line that has none: a dot if a single point is all there is to see."""
    return "." if len(points) == 1 else ""


def metric_axis(axes: Axes, what: str, values: ArrayLike) -> None:
    """Makes the axis logarithmic for a loss, and logarithmic in the error for an accuracy."""
    if what == "loss":
        axes.set_yscale("log")
        ticks = [a * 10.0**b for b in range(-4, 2) for a in (1, 2, 5)]
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.set_ylabel("loss, nats (log axis)")
    else:
        _accuracy_scale(axes, values)
        axes.set_ylabel("accuracy, % (log error axis)")


def _accuracy_scale(axes: Axes, values: ArrayLike) -> None:
    """Spaces accuracies by the logarithm of their error: 98 to 99 % is as long as 96 to 98 %.

    The logarithm's origin is 100.1 %, because otherwise 100 % would lie at infinity.
    """
    end = 100.1
    there = lambda percent: -np.log10(np.maximum(end - np.asarray(percent), 1e-9))  # noqa: E731
    back = lambda length: end - 10.0 ** -np.asarray(length)  # noqa: E731
    axes.set_yscale("function", functions=(there, back))
    ticks = np.array([0, 40, 60, 70, 80, 85, 90, 94, 96, 97, 98, 98.5, 99, 99.5, 99.8, 100])
    lowest, highest = np.min(values), np.max(values)
    # Half a step of the scale beyond the data, on both sides.
    low, high = end - (end - lowest) * 1.15, end - (end - highest) / 1.15
    axes.yaxis.set_major_locator(FixedLocator(ticks[(ticks >= low) & (ticks <= high)].tolist()))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda percent, _: f"{percent:g}"))
    axes.set_ylim(low, high)


def legend_line(
    label: str,
    colour: str,
    style: LineStyle,
    marker: str,
    *,
    width: float = 1.4,
    fill: str | None = None,
) -> Line2D:
    """An entry of a legend."""
    return Line2D(
        [],
        [],
        color=colour,
        linestyle=style,
        marker=marker,
        linewidth=width,
        markerfacecolor=fill or colour,
        label=label,
    )


def save(figure: Figure, path: Path) -> None:
    """Writes one file if the path has a suffix, else a PNG and an SVG, each whole or not at all.

    Raises:
      OSError: a file cannot be written, which it names.
    """
    for file in (path,) if path.suffix else (path.with_suffix(".png"), path.with_suffix(".svg")):
        content = io.BytesIO()
        metadata = {"Date": None} if file.suffix == ".svg" else None
        figure.savefig(content, format=file.suffix.removeprefix("."), metadata=metadata)
        write_whole(file, content.getvalue())
