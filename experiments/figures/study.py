"""The figures of a study, which `experiments/results/README.md` shows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments.analysis import Tables, complete_runs, evaluated
from experiments.analysis.block import AS_LARGE, LABELS, LONGER, NORM_ONLY, WHOLE, Arm
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
from mnist_jax.model import PLACEMENTS

# What lies farther from the middle values than this many times their range is far out. The middle
# values are 98 % of seeds, or 80 % of the means of rows, of which there are fewer.
FAR = 3
EVALUATION_COLOURS = {"running": "#D55E00", "batch": "#009E73", "recalibrated": "#56B4E9"}


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
        "block": (len(contrasts), lambda path: block(contrasts, runs, path)),
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
        report = legend_line(f"the report's two runs, {claimed:+.2f}", REPORT, "", "D", fill="none")
        figure.legend(handles=[*_forest_legend(), report], loc="outside lower center", ncols=3)
        save(figure, path)


def block(contrasts: pd.DataFrame, runs: pd.DataFrame, path: Path) -> None:
    """Draws paired differences to networks without a block, and the error against the epoch.

    Args:
      contrasts: what `experiments.analysis.block.contrasts` returned.
      runs: results, as `experiments.analysis` describes them.
      path: where the figure goes, as `experiments.figures` explains.
    """
    rows = contrasts[contrasts["contrast"].str.contains("no block")].to_dict("records")
    with styled():
        height = 1.2 + 0.3 * max(8, len(rows))
        figure = Figure(figsize=(1.5 * WIDTH, height), layout="constrained")
        forest, errors = figure.subplots(1, 2, width_ratios=(3, 2))
        for y, row in enumerate(rows):
            placed = [name for name in WITH_BLOCK if name.replace("_", " ") in row["contrast"]]
            _forest_row(forest, row, y, LOOKS[placed[0] if placed else "none"])
            if y and row["question"] != rows[y - 1]["question"]:
                forest.axhline(y - 0.5, color="#BBBBBB", linewidth=0.6)
        _forest_axis(forest, rows, [f"{row['contrast']} ({row['n']})" for row in rows])
        for arm, look in _arm_looks(runs).items():
            mine = runs[(runs["variant"] == arm.variant) & (runs["placement"] == arm.placement)]
            error = 100 - mine.groupby("epoch")["test_accuracy_percent"].mean()
            line = {"color": look.colour, "marker": marker_of(error)}
            errors.plot(error.index, error, look.line, label=look.label, **line)
        errors.set_yscale("log")
        ticks = [0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20, 50]
        errors.yaxis.set_major_locator(FixedLocator(ticks))
        errors.yaxis.set_minor_locator(NullLocator())
        errors.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        errors.set_ylabel("test error, %, mean over seeds (log axis)")
        epochs_axis(errors)
        errors.legend(fontsize=8)
        figure.legend(handles=_forest_legend(), loc="outside lower center", ncols=2)
        save(figure, path)


def limits_without_far(values: np.ndarray) -> tuple[float, float]:
    """The ends of an axis that shows all values but those that lie far out."""
    shown = values[~_far_out(values, 0.98)]
    margin = 0.05 * np.ptp(shown) or 0.1
    return shown.min() - margin, shown.max() + margin


def _far_out(values: np.ndarray, middle: float) -> np.ndarray:
    """For each of the values `[n]`, whether it is far out; `middle` is the share of the middle."""
    low, high = np.quantile(values, ((1 - middle) / 2, (1 + middle) / 2))
    reach = FAR * (high - low)
    return (values < low - reach) | (values > high + reach)


def _forest_row(axes: Axes, row: Mapping[Any, Any], y: float, look: Look) -> None:
    """The differences of every seed, spread a little, their mean and its interval."""
    values = np.array(row["differences"])
    spread = 0.12 * (2 * (np.arange(len(values)) * 0.618034 % 1) - 1)
    mark = {"color": look.colour, "alpha": 0.3, "markersize": 3.5, "mew": 0}
    axes.plot(values, y + spread, look.marker, **mark)
    axes.plot([row["low"], row["high"]], [y, y], color="black", linewidth=2.2)
    axes.plot(row["effect"], y, "|", color="black", markersize=13, mew=1.8)


def _forest_legend() -> list[Line2D]:
    return [
        legend_line("a small mark: a seed", "#767676", "", "."),
        legend_line("mean and its 95 % interval", "black", "-", "|", width=2.2),
    ]


def _forest_axis(axes: Axes, rows: Sequence[Mapping[Any, Any]], labels: Sequence[str]) -> None:
    """A row for each label, the first on top, and a line where there is no difference.

    Where seeds lie so far out that all others would shrink to a line, an arrow at the edge has
    their numbers. Where the mean of a row does, the arrow has the mean and its interval.
    """
    means = np.array([row["effect"] for row in rows], float)
    far = _far_out(means, 0.8) if len(rows) else np.zeros(0, bool)
    near = [row for row, is_far in zip(rows, far, strict=True) if not is_far]
    seeds = [value for row in near for value in row["differences"]]
    if seeds:
        left, right = limits_without_far(np.array(seeds))
        # Means and their intervals are always shown; with one seed there is no interval.
        ends = np.array([row[name] for row in near for name in ("low", "effect", "high")], float)
        left = min(left, *ends[np.isfinite(ends)])
        right = max(right, *ends[np.isfinite(ends)])
        axes.set_xlim(left, right)
        for y, (row, is_far) in enumerate(zip(rows, far, strict=True)):
            if is_far:
                text = f"{row['effect']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"
                lower, higher = ([text], []) if row["effect"] < left else ([], [text])
            else:
                seeds = sorted(row["differences"])
                lower = [f"{value:+.1f}" for value in seeds if value < left]
                higher = [f"{value:+.1f}" for value in seeds if value > right]
            at_edge = {"textcoords": "offset points", "va": "center", "fontsize": 8}
            height = 0 if is_far else 7  # above the interval, which a far row does not show
            if lower:
                text = f"\u2190 {', '.join(lower)}"
                axes.annotate(text, (left, y), (4, height), ha="left", **at_edge)
            if higher:
                text = f"{', '.join(higher)} \u2192"
                axes.annotate(text, (right, y), (-4, height), ha="right", **at_edge)
    axes.axvline(0, color="#767676", linewidth=1.0)
    axes.set_xlabel("difference in final test accuracy, percentage points")
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(max(1, len(labels)) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def _arm_looks(runs: pd.DataFrame) -> dict[Arm, Look]:
    """The networks whose error is drawn, in their longer runs if these have ended."""
    found = {Arm(*cell) for cell in zip(runs["variant"], runs["placement"], strict=True)}
    last = runs[runs["variant"] == LONGER]["epoch"].max()  # NaN without runs
    ended = last >= VARIANTS[LONGER].epochs
    looks = {
        Arm(LONGER if ended and Arm(LONGER, name) in found else WHOLE, name): LOOKS[name]
        for name in PLACEMENTS
    }
    looks |= {
        large: LOOKS["none"]._replace(line=line, label=LABELS[large])
        for large, line in zip(AS_LARGE.values(), ("--", "-"), strict=True)
    }
    looks |= {
        Arm(NORM_ONLY, place): LOOKS[place]._replace(line=":", label=LABELS[Arm(NORM_ONLY, place)])
        for place in AS_LARGE
    }
    return {arm: look for arm, look in looks.items() if arm in found}
