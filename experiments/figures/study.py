"""The figures of a study, which `experiments/results/README.md` shows."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.analysis import Tables, complete_runs, evaluated
from experiments.analysis.evidence import EQUAL, ORDER
from experiments.analysis.runs import evaluations_of
from experiments.figures.style import (
    LOOKS,
    REPORT,
    WIDTH,
    Look,
    epochs_axis,
    legend_line,
    marker_of,
    metric_axis,
    save,
    styled,
)
from experiments.groundwork import published
from experiments.groundwork.variants import VARIANTS, WITH_BLOCK

# A seed that lies farther from the middle 98 % than this many times their range is far out.
FAR = 3
EVALUATION_COLOURS = {"running": "#D55E00", "batch": "#009E73", "recalibrated": "#56B4E9"}

# What the block is compared with, and the names of these contrasts; {} is the place of the block.
GAINS = {
    "no block, at the report's rate": "block {} - no block",
    "no block, as many parameters": r"block {} - no block, fc1 of \d+",
    "batch norm and ReLU alone": "block - batch norm and ReLU, {}",
    "no block, both for 30 epochs": "block {} - no block, both at 30 epochs",
    "no block, each at its best rate": r"block {} at 0\S+ - no block at 0\S+",
}


def draw(results: pd.DataFrame, tables: Tables, folder: Path) -> None:
    """Draws every figure of a study for which there are results, each as PNG and SVG.

    Those for which there are none are removed, because earlier results may have had them.

    Args:
      results: the study's results, as `experiments.analysis` describes them.
      tables: what `experiments.analysis.analyse` made of them.
      folder: where the files go; it must exist.
    """
    runs = complete_runs(results)
    report, evidence, contrasts = (
        runs[runs["variant"] == "report"],
        *(tables.by_name[name] for name in ("evidence", "contrasts")),
    )
    drawing: dict[str, tuple[int, Callable[[Path], None]]] = {
        "evaluations": (len(report), lambda path: evaluations(report, path)),
        "paired_differences": (len(evidence), lambda path: paired_differences(evidence, path)),
        "gains": (len(contrasts), lambda path: gains(contrasts, path)),
    }
    for name, (rows, draw_it) in drawing.items():
        if rows:
            draw_it(folder / name)
        else:
            for suffix in (".png", ".svg"):
                (folder / f"{name}{suffix}").unlink(missing_ok=True)


def evaluations(runs: pd.DataFrame, path: Path) -> None:
    """Draws test loss and accuracy by the statistics that batch normalisation used.

    Args:
      runs: results of one variant, as `experiments.analysis` describes them.
      path: where the figure goes, as `experiments.figures` explains.
    """
    placements = [name for name in published.HISTORY if name in set(runs["placement"])]
    kinds = evaluations_of(runs)
    with styled():
        figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
        grid = figure.subplots(2, max(1, len(placements)), sharex=True, sharey="row", squeeze=False)
        for column, placement in zip(grid.T, placements, strict=False):
            rows = runs[runs["placement"] == placement]
            column[0].set_title(f"{LOOKS[placement].label} ({rows['seed'].nunique()} seeds)")
            for axes, what in zip(column, ("loss", "accuracy_percent"), strict=True):
                shown = [getattr(epoch, f"test_{what}") for epoch in published.HISTORY[placement]]
                epochs = [epoch.epoch for epoch in published.HISTORY[placement]]
                reported = list(shown)
                for kind in kinds:
                    chosen, colour = evaluated(rows, kind), EVALUATION_COLOURS[kind]
                    wide = chosen.pivot(index="epoch", columns="seed", values=f"test_{what}")
                    low, middle, high = np.nanquantile(wide, (0.025, 0.5, 0.975), axis=1)
                    axes.fill_between(wide.index, low, high, color=colour, alpha=0.3, lw=0)
                    line = {"linewidth": 1.4, "marker": marker_of(middle)}
                    axes.plot(wide.index, middle, color=colour, **line)
                    shown += [*low, *high]
                axes.plot(epochs, reported, "o", color=REPORT, mfc="none", markersize=5)
                metric_axis(axes, what, shown)
                axes.label_outer()
            epochs_axis(column[1])
        handles = [
            legend_line(f"{kind} statistics", EVALUATION_COLOURS[kind], "-", "") for kind in kinds
        ]
        handles.append(legend_line("the report, test", REPORT, "", "o", fill="none"))
        figure.suptitle("Test images, median and 95 % of seeds")
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        save(figure, path)


def paired_differences(evidence: pd.DataFrame, path: Path) -> None:
    """Draws differences in final test accuracy between placements, paired by seed.

    Args:
      evidence: what `experiments.analysis.evidence.evidence_of` returned.
      path: where the figure goes, as `experiments.figures` explains.
    """
    equal = evidence["reading"].eq(EQUAL) & evidence["primary"]
    rows = evidence[equal | evidence["reading"].eq(ORDER)].to_dict("records")
    before, after = (history[-1].test_accuracy_percent for history in published.HISTORY.values())
    claimed = after - before
    with styled():
        figure = Figure(figsize=(WIDTH, 1.0 + 0.42 * max(1, len(rows))), layout="constrained")
        axes = figure.subplots()
        labels = []
        for row in rows:
            look = LOOKS.get(row["where"], Look("#009E73", "v", "-", ""))
            title = "after fc1 - before fc1"
            if row["claim"] == 1:
                title = f"block {row['where'].replace('_', ' ')} - no block"
            _forest_row(axes, row, len(labels), look)
            if row["claim"] == 4:
                axes.plot(claimed, len(labels), "D", color=REPORT, mfc="none", markersize=7)
            pixels = VARIANTS[row["variant"]].pixels
            labels.append(f"{title}\npixels: {pixels}, {row['evaluation']}, {row['n']} seeds")
        _forest_axis(axes, rows, labels)
        handles = [
            legend_line("a small mark: a seed", "#767676", "", "."),
            legend_line("mean and its 95 % interval", "black", "-", "|", width=2.2),
            legend_line(f"the report's two runs, {claimed:+.2f}", REPORT, "", "D", fill="none"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        save(figure, path)


def gains(contrasts: pd.DataFrame, path: Path) -> None:
    """Draws what the block adds, by place and by what it is compared with.

    Args:
      contrasts: what `experiments.analysis.block.contrasts` returned.
      path: where the figure goes, as `experiments.figures` explains.
    """
    found = contrasts.set_index("contrast")
    with styled():
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color="#767676", linewidth=1.0)
        for y, pattern in enumerate(GAINS.values()):
            for shift, place in zip((-0.18, 0.18), WITH_BLOCK, strict=True):
                name = re.compile(pattern.format(place.replace("_", " ")))
                mine = found[[bool(name.fullmatch(str(one))) for one in found.index]]
                look = LOOKS[place]
                for row in mine.to_dict("records"):
                    for more, mark, face in ((0.0, "", look.colour), (0.11, "recalibrated", "w")):
                        low, high = (row[f"{mark}_{end}".strip("_")] for end in ("low", "high"))
                        line = {"color": look.colour, "linewidth": 1.6}
                        axes.plot([low, high], [y + shift + more] * 2, **line)
                        drawn = {"color": look.colour, "mfc": face, "markersize": 5.5}
                        axes.plot(row[mark or "effect"], y + shift + more, look.marker, **drawn)
        axes.set_yticks(range(len(GAINS)), list(GAINS))
        axes.set_ylim(len(GAINS) - 0.5, -0.5)
        axes.set_ylabel("compared with")
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("test accuracy gained by the block, percentage points, with 95 % intervals")
        looks = [LOOKS[place] for place in WITH_BLOCK]
        handles = [
            legend_line(f"{look.label}, {kind}", look.colour, "-", look.marker, fill=fill)
            for look in looks
            for kind, fill in (("running", None), ("recalibrated", "white"))
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        save(figure, path)


def limits_without_far(values: np.ndarray) -> tuple[float, float]:
    """The ends of an axis that shows all values but those that lie far out."""
    low, high = np.quantile(values, (0.01, 0.99))
    reach = FAR * (high - low)
    shown = values[(values >= low - reach) & (values <= high + reach)]
    margin = 0.05 * np.ptp(shown) or 0.1
    return shown.min() - margin, shown.max() + margin


def _forest_row(axes: Axes, row: Mapping[Any, Any], y: float, look: Look) -> None:
    """The differences of every seed, spread a little, their mean and its interval."""
    values = np.array(row["differences"])
    spread = 0.12 * (2 * (np.arange(len(values)) * 0.618034 % 1) - 1)
    mark = {"color": look.colour, "alpha": 0.3, "markersize": 3.5, "mew": 0}
    axes.plot(values, y + spread, look.marker, **mark)
    axes.plot([row["low"], row["high"]], [y, y], color="black", linewidth=2.2)
    axes.plot(row["effect"], y, "|", color="black", markersize=13, mew=1.8)


def _forest_axis(axes: Axes, rows: Sequence[Mapping[Any, Any]], labels: Sequence[str]) -> None:
    """A row for each label, the first on top, and a line where there is no difference.

    Where seeds lie so far out that all others would shrink to a line, an arrow at the edge has
    their numbers.
    """
    if rows:
        left, right = limits_without_far(np.concatenate([row["differences"] for row in rows]))
        # Means and their intervals are always shown; with one seed there is no interval.
        ends = np.array([row[name] for row in rows for name in ("low", "effect", "high")], float)
        left = min(left, *ends[np.isfinite(ends)])
        right = max(right, *ends[np.isfinite(ends)])
        axes.set_xlim(left, right)
        at_edge = {"textcoords": "offset points", "va": "center", "fontsize": 8}
        for y, row in enumerate(rows):
            lower, higher = (
                ", ".join(f"{x:+.1f}" for x in sorted(row["differences"]) if beyond(x))
                for beyond in (lambda x: x < left, lambda x: x > right)
            )
            if lower:  # above the interval
                axes.annotate(f"\u2190 {lower}", (left, y), (4, 7), ha="left", **at_edge)
            if higher:
                axes.annotate(f"{higher} \u2192", (right, y), (-4, 7), ha="right", **at_edge)
    axes.axvline(0, color="#767676", linewidth=1.0)
    axes.set_xlabel("difference in final test accuracy, percentage points")
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(max(1, len(labels)) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
