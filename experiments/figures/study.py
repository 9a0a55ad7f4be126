"""The figures of a study."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments.analysis import Answers, Tables, complete_runs, evaluated, pooled_confusion
from experiments.analysis.block import AS_LARGE, LABELS, LONGER, NORM_ONLY, WHOLE, Arm
from experiments.analysis.runs import evaluations_of, reaches_its_end
from experiments.figures.style import (
    LOOKS,
    REPORT,
    WIDTH,
    Look,
    accuracy_scale,
    dots,
    draw_confusion,
    epochs_axis,
    legend_line,
    marker_of,
    metric_axis,
    save,
    styled,
)
from experiments.figures.timing import epoch_times
from experiments.groundwork import published
from experiments.groundwork.variants import CANDIDATES, VARIANTS, WITH_BLOCK
from mnist_jax.model import PLACEMENTS

DRAWN = (  # the figures of a study
    *("final_accuracy", "paired_differences", "curves", "evaluations"),
    *("block", "per_class", "confusion", "epoch_times"),
)
# What lies farther from the middle values than this many times their range is far out. The middle
# values are 98 % of seeds, or 80 % of the means of rows, of which there are fewer.
FAR = 3
EVALUATION_COLOURS = {"running": "#D55E00", "batch": "#009E73", "recalibrated": "#56B4E9"}


def draw(
    results: pd.DataFrame,
    tables: Tables,
    folder: Path,
    timing: Mapping[str, Any] | None = None,
    answers: Sequence[Answers] = (),
) -> None:
    """Draws every figure of a study for which there are results, each as PNG and SVG.

    The files have the names in `DRAWN`. Those for which there are no results are removed, because
    earlier results may have had them.

    Args:
      results: the study's results, as `experiments.analysis` describes them.
      tables: what `experiments.analysis.analyse` made of them.
      folder: where the files go; it must exist.
      timing: the JSON that `benchmarks.epoch_time` writes.
      answers: what the networks said of each test image.
    """
    runs = complete_runs(results)
    drawing: dict[str, Callable[[Path], None]] = {
        "paired_differences": partial(paired_differences, tables.evidence)
    }
    if runs["variant"].isin(CANDIDATES).any():
        drawing["final_accuracy"] = partial(final_accuracy, runs)
    report = runs[runs["variant"] == "report"]
    if len(report):
        drawing |= {"curves": partial(curves, report), "evaluations": partial(evaluations, report)}
    if len(tables.contrasts):
        drawing["block"] = partial(block, tables.contrasts, runs)
    if len(tables.per_class):
        evaluation = tables.per_class["evaluation"].iloc[0]
        shown = tables.per_class[tables.per_class["evaluation"] == evaluation]
        drawing["per_class"] = partial(per_class, shown)
        pooled = {
            answer.placement: pooled_confusion(answer)
            for answer in answers
            if (answer.variant, answer.evaluation) == ("report", evaluation)
        }
        in_order = {name: pooled[name] for name in PLACEMENTS if name in pooled}
        drawing["confusion"] = partial(confusions, in_order)
    if timing:
        drawing["epoch_times"] = partial(epoch_times, timing)
    for name in DRAWN:
        if name in drawing:
            drawing[name](folder / name)
        else:
            for suffix in (".png", ".svg"):
                (folder / f"{name}{suffix}").unlink(missing_ok=True)


def curves(runs: pd.DataFrame, path: Path) -> None:
    """Draws median and 95 % band over the seeds by placement, with the report's numbers on top.

    Args:
      runs: results of one setting, as `experiments.analysis` describes them.
      path: where the figure goes, as `experiments.figures` explains.
    """
    placements = [name for name in LOOKS if name in set(runs["placement"])]
    with styled():
        figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
        grid = figure.subplots(2, len(placements), sharex=True, sharey="row", squeeze=False)
        for column, placement in zip(grid.T, placements, strict=True):
            look, rows = LOOKS[placement], runs[runs["placement"] == placement]
            seeds = rows["seed"].nunique()
            column[0].set_title(f"{look.label} ({seeds} seeds)")
            for axes, what in zip(column, ("loss", "accuracy_percent"), strict=True):
                for split, style in (("train", ":"), ("test", "-")):
                    metric = f"{split}_{what}"
                    wide = rows.pivot(index="epoch", columns="seed", values=metric).sort_index()
                    low, middle, high = np.nanquantile(wide, (0.025, 0.5, 0.975), axis=1)
                    axes.fill_between(wide.index, low, high, color=look.colour, alpha=0.25, lw=0)
                    line = {"linewidth": 1.4, "marker": marker_of(middle)}
                    axes.plot(wide.index, middle, style, color=look.colour, **line)
                    reported = published.HISTORY.get(placement, ())
                    axes.plot(
                        [epoch.epoch for epoch in reported],
                        [getattr(epoch, metric) for epoch in reported],
                        "o" if split == "test" else "x",
                        color=REPORT,
                        markerfacecolor="none",
                        markersize=5,
                    )
                names = [f"train_{what}", f"test_{what}"]
                reports = [
                    getattr(epoch, name)
                    for shown in placements
                    for epoch in published.HISTORY.get(shown, ())
                    for name in names
                ]
                metric_axis(axes, what, [*runs[names].to_numpy().ravel(), *reports])
                axes.label_outer()
                if what == "accuracy_percent":
                    epochs_axis(axes)
        handles = [
            legend_line("test, median and 95 % of seeds", REPORT, "-", ""),
            legend_line("train", REPORT, ":", ""),
            legend_line("the report, test", REPORT, "", "o", fill="none"),
            legend_line("the report, train", REPORT, "", "x"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        save(figure, path)


def final_accuracy(runs: pd.DataFrame, path: Path) -> None:
    """Draws test accuracy after the last epoch by setting and placement, with a dot for each seed.

    Args:
      runs: results, as `experiments.analysis` describes them.
      path: where the figure goes, as `experiments.figures` explains.
    """
    runs = runs[runs["variant"].isin(CANDIDATES)]
    last = runs[runs["epoch"] == runs.groupby("variant")["epoch"].transform("max")]
    settings = [name for name in CANDIDATES if name in set(last["variant"])]
    with styled():
        figure = Figure(figsize=(WIDTH, 1.2 + 0.75 * len(settings)), layout="constrained")
        axes = figure.subplots()
        for row, setting in enumerate(settings):
            for shift, (placement, look) in zip((-0.26, 0.0, 0.26), LOOKS.items(), strict=True):
                chosen = (last["variant"] == setting) & (last["placement"] == placement)
                values = last[chosen]["test_accuracy_percent"].to_numpy()
                if not len(values):
                    continue
                y = row + shift
                dots(axes, values, y, look)
                axes.plot(np.median(values), y, "|", color="black", markersize=13, mew=1.6)
                if setting == "report" and placement in published.HISTORY:
                    number = published.HISTORY[placement][-1].test_accuracy_percent
                    axes.plot(number, y, "D", color=REPORT, mfc="none", markersize=7, mew=1.4)
        baseline = published.BASELINE_ACCURACY_PERCENT
        axes.axvline(baseline, color=REPORT, linestyle="--", linewidth=1.1)
        labels = {
            name: f"momentum {setting.momentum:g}, rate {setting.learning_rate:g}\n"
            f"pixels: {setting.pixels}"
            for name, setting in CANDIDATES.items()
        }
        axes.set_yticks(range(len(settings)), [labels[name] for name in settings])
        axes.set_ylim(len(settings) - 0.45, -0.55)
        axes.grid(axis="y", visible=False)
        for line in range(1, len(settings)):
            axes.axhline(line - 0.5, color="#BBBBBB", linewidth=0.6)
        accuracy_scale(axes, "x", [*last["test_accuracy_percent"], baseline])
        epoch = last["epoch"].max()
        axes.set_xlabel(f"test accuracy after epoch {epoch}, % (log error axis)")
        handles = [legend_line(k.label, k.colour, "", k.marker) for k in LOOKS.values()]
        handles.append(legend_line("median", "black", "", "|"))
        handles.append(legend_line("the report", REPORT, "", "D", fill="none"))
        handles.append(legend_line('its "about 92 %", no block', REPORT, "--", ""))
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        save(figure, path)


def paired_differences(evidence: pd.DataFrame, path: Path) -> None:
    """Draws differences in final test accuracy between placements, paired by seed.

    Args:
      evidence: what `experiments.analysis.claims.evidence_of` returned.
      path: where the figure goes, as `experiments.figures` explains.
    """
    equal = evidence["reading"].eq("equal settings") & evidence["primary"]
    orders = evidence["reading"].eq("after_fc1 - before_fc1")
    before, after = (history[-1].test_accuracy_percent for history in published.HISTORY.values())
    claimed = after - before
    rows = evidence[(equal | orders) & (evidence["n"] > 0)].to_dict("records")
    with styled():
        figure = Figure(figsize=(WIDTH, 1.0 + 0.42 * max(1, len(rows))), layout="constrained")
        axes = figure.subplots()
        labels = []
        for row in rows:
            look = LOOKS.get(row["where"], Look("#009E73", "v", "-", ""))
            what = f"block {row['where'].replace('_', ' ')} - no block"
            title = what if row["claim"] == 1 else "after fc1 - before fc1"
            _forest_row(axes, row, len(labels), look)
            if row["claim"] == 4:
                axes.plot(claimed, len(labels), "D", color=REPORT, mfc="none", markersize=7)
            pixels = VARIANTS[row["variant"]].pixels
            labels.append(f"{title}\npixels: {pixels}, {row['evaluation']}, {row['n']} seeds")
        _forest_axis(axes, rows, labels)
        axes.set_xlabel("difference in final test accuracy, percentage points")
        handles = [
            legend_line("a small mark: a seed", "#767676", "", "."),
            legend_line("mean and its 95 % interval", "black", "-", "|", width=2.2),
            legend_line(f"the report's two runs, {claimed:+.2f}", REPORT, "", "D", fill="none"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        save(figure, path)


def evaluations(runs: pd.DataFrame, path: Path) -> None:
    """Draws test loss and accuracy by the statistics that batch normalisation used.

    Args:
      runs: results of one setting, as `experiments.analysis` describes them.
      path: where the figure goes, as `experiments.figures` explains.
    """
    placements = [name for name in published.HISTORY if name in set(runs["placement"])]
    kinds = [name for name in EVALUATION_COLOURS if name in evaluations_of(runs)]
    with styled():
        figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
        grid = figure.subplots(2, max(1, len(placements)), sharex=True, sharey="row", squeeze=False)
        for column, placement in zip(grid.T, placements, strict=False):
            rows = runs[runs["placement"] == placement]
            column[0].set_title(f"{LOOKS[placement].label} ({rows['seed'].nunique()} seeds)")
            for axes, what in zip(column, ("loss", "accuracy_percent"), strict=True):
                shown = [getattr(epoch, f"test_{what}") for epoch in published.HISTORY[placement]]
                for kind in kinds:
                    chosen = evaluated(rows, kind)
                    wide = chosen.pivot(index="epoch", columns="seed", values=f"test_{what}")
                    low, middle, high = np.nanquantile(wide, (0.025, 0.5, 0.975), axis=1)
                    colour = EVALUATION_COLOURS[kind]
                    axes.fill_between(wide.index, low, high, color=colour, alpha=0.3, lw=0)
                    line = {"linewidth": 1.4, "marker": marker_of(middle)}
                    axes.plot(wide.index, middle, color=colour, **line)
                    shown += [*low, *high]
                reported = published.HISTORY[placement]
                axes.plot(
                    [epoch.epoch for epoch in reported],
                    [getattr(epoch, f"test_{what}") for epoch in reported],
                    "o",
                    color=REPORT,
                    markerfacecolor="none",
                    markersize=5,
                )
                metric_axis(axes, what, shown)
                axes.label_outer()
                if what == "accuracy_percent":
                    epochs_axis(axes)
        handles = [
            legend_line(f"{kind} statistics", EVALUATION_COLOURS[kind], "-", "") for kind in kinds
        ]
        handles.append(legend_line("the report, test", REPORT, "", "o", fill="none"))
        figure.suptitle("Test images, median and 95 % of seeds")
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        save(figure, path)


def block(contrasts: pd.DataFrame, runs: pd.DataFrame, path: Path) -> None:
    """Draws paired differences to networks without a block, and the error against the epoch.

    Args:
      contrasts: what `experiments.analysis.block.contrasts` returned.
      runs: results, as `experiments.analysis` describes them.
      path: where the figure goes, as `experiments.figures` explains.
    """
    rows = contrasts[contrasts["contrast"].str.contains("no block")].to_dict("records")
    height = 1.2 + 0.3 * max(8, len(rows))
    with styled():
        figure = Figure(figsize=(1.5 * WIDTH, height), layout="constrained")
        forest, errors = figure.subplots(1, 2, width_ratios=(3, 2))
        for y, row in enumerate(rows):
            placed = [name for name in WITH_BLOCK if name.replace("_", " ") in row["contrast"]]
            _forest_row(forest, row, y, LOOKS[placed[0] if placed else "none"])
            if y and row["question"] != rows[y - 1]["question"]:
                forest.axhline(y - 0.5, color="#BBBBBB", linewidth=0.6)
        _forest_axis(forest, rows, [f"{row['contrast']} ({row['n']})" for row in rows])
        forest.set_xlabel("difference in final test accuracy, percentage points")
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
        handles = [
            legend_line("a small mark: a seed", "#767676", "", "."),
            legend_line("mean and its 95 % interval", "black", "-", "|", width=2.2),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        save(figure, path)


def per_class(table: pd.DataFrame, path: Path) -> None:
    """Draws accuracy by digit: mean, 95 % prediction interval of one run, the report's numbers.

    Args:
      table: the rows of one evaluation of `experiments.analysis.per_class.accuracies`.
      path: where the figure goes, as `experiments.figures` explains.
    """
    placements = [name for name in LOOKS if name in set(table["placement"])]
    shifts = np.linspace(-0.25, 0.25, len(placements)) if len(placements) > 1 else [0.0]
    with styled():
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.subplots()
        for shift, placement in zip(shifts, placements, strict=True):
            look, rows = LOOKS[placement], table[table["placement"] == placement]
            x = rows["digit"] + shift
            axes.vlines(x, rows["low"], rows["high"], color=look.colour, linewidth=1.6)
            axes.plot(x, rows["mean"], look.marker, color=look.colour, markersize=5)
            axes.plot(x, rows["published"], look.marker, color=REPORT, mfc="none", markersize=7)
        axes.set_xticks(range(10))
        axes.grid(axis="x", visible=False)
        for line in range(1, 10):
            axes.axvline(line - 0.5, color="#BBBBBB", linewidth=0.6)
        axes.set_xlim(-0.5, 9.5)
        axes.set_xlabel("digit")
        axes.set_ylabel("test accuracy, % (mean, 95 % of runs)")
        axes.axhline(100, color="#767676", linewidth=0.8)
        looks = [LOOKS[name] for name in placements]
        handles = [legend_line(look.label, look.colour, "-", look.marker) for look in looks]
        handles += [
            legend_line(
                f"the report, {look.label.removeprefix('block ')}",
                REPORT,
                "",
                look.marker,
                fill="none",
            )
            for name, look in zip(placements, looks, strict=True)
            if name in published.PER_CLASS_ACCURACY_PERCENT
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=5)
        save(figure, path)


def confusions(matrices: Mapping[str, np.ndarray], path: Path) -> None:
    """Draws the mean confusion matrices over the seeds side by side.

    Args:
      matrices: [10, 10] images by placement, from `experiments.analysis.pooled_confusion`.
      path: where the figure goes, as `experiments.figures` explains.
    """
    with styled():
        figure = Figure(figsize=(WIDTH / 2 * len(matrices), 4.5), layout="constrained")
        panels = figure.subplots(1, len(matrices), squeeze=False)[0]
        for axes, (placement, matrix) in zip(panels, matrices.items(), strict=True):
            draw_confusion(axes, matrix)
            axes.set_title(f"{LOOKS[placement].label}: {axes.get_title()}", fontsize=9)
        figure.suptitle("Test images after the last epoch, mean over seeds")
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
    """The differences of every seed, their mean and its interval."""
    dots(axes, np.array(row["differences"]), y, look, alpha=0.3)
    axes.plot([row["low"], row["high"]], [y, y], color="black", linewidth=2.2)
    axes.plot(row["effect"], y, "|", color="black", markersize=13, mew=1.8)


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
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(max(1, len(labels)) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def _arm_looks(runs: pd.DataFrame) -> dict[Arm, Look]:
    """The networks whose error is drawn, in their longer runs if these have ended."""
    found = set(zip(runs["variant"], runs["placement"], strict=True))
    ended = reaches_its_end(runs, LONGER)
    looks = {
        Arm(LONGER if ended and (LONGER, name) in found else WHOLE, name): LOOKS[name]
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
