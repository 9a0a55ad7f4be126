"""The figures of a study."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from experiments import published
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
    metric_axis,
    save,
    styled,
)
from experiments.settings import SETTINGS

if TYPE_CHECKING:  # a run's figures are drawn without pandas
    import pandas as pd


def study_curves(runs: "pd.DataFrame", path: Path, *, variant: str = "report") -> None:
    """Median and 95 % band over seeds by placement, the report's numbers on top.

    Args:
      runs: results, see `experiments.analysis`.
      path: the file, see the package.
      variant: which setting.
    """
    runs = runs[runs["variant"] == variant]
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
                    axes.plot(wide.index, middle, style, color=look.colour, linewidth=1.4)
                    reported = published.HISTORY.get(placement, ())
                    axes.plot(
                        [epoch.epoch for epoch in reported],
                        [getattr(epoch, metric) for epoch in reported],
                        "o" if split == "test" else "x",
                        color=REPORT,
                        markerfacecolor="none",
                        markersize=5,
                    )
                metric_axis(axes, what, runs[[f"train_{what}", f"test_{what}"]].to_numpy().ravel())
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


def final_accuracy(runs: "pd.DataFrame", path: Path) -> None:
    """Test accuracy after the last epoch by setting and placement, every seed a dot.

    Args:
      runs: results, see `experiments.analysis`.
      path: the file, see the package.
    """
    last = runs[runs["epoch"] == runs["epoch"].max()]
    settings = [name for name in SETTINGS if name in set(last["variant"])]
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
        baseline = published.BASELINE_TEST_ACCURACY_PERCENT
        axes.axvline(baseline, color=REPORT, linestyle="--", linewidth=1.1)
        names = [f"momentum {s.momentum:g}\npixels: {s.normalisation}" for s in SETTINGS.values()]
        labels = dict(zip(SETTINGS, names, strict=True))
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


def paired_differences(evidence: "pd.DataFrame", path: Path) -> None:
    """Differences in final test accuracy between placements, paired by seed, at momentum 0.9.

    Without momentum the differences are some ten times larger and would hide these;
    `final_accuracy` shows them.

    Args:
      evidence: `experiments.analysis.claim_evidence`.
      path: the file, see the package.
    """
    momentum = {name for name, setting in SETTINGS.items() if setting.momentum}
    claims = evidence["reading"].isin(["equal settings", "after_fc1 - before_fc1"])
    rows = evidence[claims & evidence["variant"].isin(momentum) & (evidence["n"] > 0)]
    kinds = {
        (1, "before_fc1"): ("block before fc1 - no block", LOOKS["before_fc1"]),
        (1, "after_fc1"): ("block after fc1 - no block", LOOKS["after_fc1"]),
        (4, ""): ("after fc1 - before fc1", Look("#009E73", "v", "-", "")),
    }
    before, after = (history[-1].test_accuracy_percent for history in published.HISTORY.values())
    claimed = after - before
    with styled():
        figure = Figure(figsize=(WIDTH, 1.0 + 0.42 * max(1, len(rows))), layout="constrained")
        axes = figure.subplots()
        labels = []
        for (claim, where), (title, look) in kinds.items():
            for row in rows[(rows["claim"] == claim) & (rows["where"] == where)].to_dict("records"):
                y = len(labels)
                dots(axes, np.array(row["differences"]), y, look)
                axes.plot([row["low"], row["high"]], [y, y], color="black", linewidth=2.2)
                axes.plot(row["effect"], y, "|", color="black", markersize=14, mew=1.8)
                if row["variant"] == "report" and claim == 4:
                    axes.plot(claimed, y, "D", color=REPORT, mfc="none", markersize=8, mew=1.4)
                pixels = SETTINGS[row["variant"]].normalisation
                labels.append(f"{title}\npixels: {pixels}, {row['n']} seeds")
        axes.axvline(0, color="#767676", linewidth=1.0)
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        axes.set_ylim(max(1, len(labels)) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("difference in final test accuracy, percentage points")
        handles = [
            legend_line("a small mark: a seed", "#767676", "", "."),
            legend_line("mean and its 95 % interval", "black", "-", "|", width=2.2),
            legend_line(f"the report's two runs, {claimed:+.2f}", REPORT, "", "D", fill="none"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        save(figure, path)


def per_class(table: "pd.DataFrame", path: Path) -> None:
    """Accuracy by digit: mean and 95 % prediction interval of one run, and the report's numbers.

    Args:
      table: `experiments.analysis.per_class`.
      path: the file, see the package.
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


def pooled_confusion(matrices: Mapping[str, np.ndarray], path: Path) -> None:
    """Confusion matrices side by side, mean over seeds.

    Args:
      matrices: [10, 10] images by placement, `experiments.analysis.pooled_confusion`.
      path: the file, see the package.
    """
    with styled():
        figure = Figure(figsize=(WIDTH / 2 * len(matrices), 4.5), layout="constrained")
        panels = figure.subplots(1, len(matrices), squeeze=False)[0]
        for axes, (placement, matrix) in zip(panels, matrices.items(), strict=True):
            draw_confusion(axes, matrix)
            axes.set_title(f"{LOOKS[placement].label}: {axes.get_title()}", fontsize=9)
        figure.suptitle("Test images after the last epoch, mean over seeds")
        save(figure, path)
