"""The figure of the epoch times."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.figures.style import LOOKS, WIDTH, legend_line, save, styled


def epoch_times(timing: Mapping[str, Any], path: Path) -> None:
    """Draws the seconds of an epoch by program and placement: bars are medians, marks processes.

    Args:
      timing: the JSON that `benchmarks.epoch_time` writes.
      path: where the figure goes, as `experiments.figures` explains.
    """
    rows = timing["rows"]
    groups = list(dict.fromkeys((row["program"], row["threads"]) for row in rows))
    placements = [name for name in LOOKS if any(row["placement"] == name for row in rows)]
    with styled():
        figure = Figure(figsize=(WIDTH, 1.1 + 0.75 * len(groups)), layout="constrained")
        axes = figure.subplots()
        height = 0.8 / len(placements)
        for row in rows:
            look = LOOKS[row["placement"]]
            order = placements.index(row["placement"]) - (len(placements) - 1) / 2
            y = groups.index((row["program"], row["threads"])) + order * height
            seconds = np.asarray(row["epoch_seconds"])
            axes.barh(y, np.median(seconds), 0.9 * height, color=look.colour, alpha=0.75)
            axes.plot(seconds, np.full(len(seconds), y), look.marker, color="white", mec="black")
            text = f"{np.median(seconds):.2f}"
            axes.annotate(
                text,
                (seconds.max(), y),
                (7, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axes.set_yticks(range(len(groups)), [f"{p}\n{t} threads" for p, t in groups])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.08)
        axes.set_xlim(left=0)
        axes.set_xlabel("seconds an epoch (bar: median; mark: one process)")
        handles = [
            legend_line(LOOKS[p].label, LOOKS[p].colour, "", LOOKS[p].marker) for p in placements
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        save(figure, path)
