"""Every figure of the project, drawn from results; nothing here trains or computes a statistic.

A path with a suffix gives that one file; a path without one gives a PNG and an SVG beside each
other. Both are the same, byte for byte, for the same input and the same version of matplotlib.
Widths suit a README about 800 pixels wide. A placement has one colour (Okabe & Ito, Color
Universal Design, 2008), one marker and one line style everywhere, and so reads in grey too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from experiments import published

if TYPE_CHECKING:  # a run's own figures need no pandas
    import pandas as pd


class Look(NamedTuple):
    """How a placement is drawn, and what it is called."""

    colour: str
    marker: str
    line: str
    label: str


LOOKS: dict[str, Look] = {
    "none": Look("#767676", "s", ":", "no block"),
    "before_fc1": Look("#0072B2", "o", "-", "block before fc1"),
    "after_fc1": Look("#E69F00", "^", "--", "block after fc1"),
}
REPORT = "#000000"  # the report's own numbers: dashes or hollow markers
STYLE = {
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


# A run's own figures -------------------------------------------------------------------------


def curves(history: Sequence[Mapping[str, float]], placement: str, path: Path) -> None:
    """Loss and accuracy of one run against the epoch; the report's curves dashed, where it has any.

    Args:
      history: one mapping an epoch, with `epoch` and the keys of `published.METRICS`.
      placement: where the block stands.
      path: the file, see the module.
    """
    look = LOOKS[placement]
    reported = [epoch._asdict() for epoch in published.HISTORY.get(placement, ())]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy_percent"), strict=True):
            for split, fill, width in (("train", "white", 0.9), ("test", look.colour, 1.4)):
                metric = f"{split}_{what}"
                ours = [[row[key] for row in history] for key in ("epoch", metric)]
                theirs = [[row[key] for row in reported] for key in ("epoch", metric)]
                drawn = {"color": look.colour, "marker": look.marker, "markerfacecolor": fill}
                axes.plot(*ours, "-", linewidth=width, **drawn)
                axes.plot(*theirs, "--", linewidth=width, color=REPORT)
            _epochs_axis(axes)
            metrics = (f"train_{what}", f"test_{what}")
            _metric_axis(axes, what, [row[m] for row in [*history, *reported] for m in metrics])
        handles = [
            _line("test", look.colour, "-", look.marker, width=1.4),
            _line("train", look.colour, "-", look.marker, width=0.9, fill="white"),
        ]
        if reported:
            handles.append(_line("the report's test", REPORT, "--", "", width=1.4))
            handles.append(_line("the report's train", REPORT, "--", "", width=0.9))
        figure.suptitle(f"LeNet, {look.label}")
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        _save(figure, path)


def confusion(matrix: np.ndarray, path: Path) -> None:
    """A confusion matrix of the test split.

    Args:
      matrix: [10, 10] images, row = label, column = prediction.
      path: the file, see the module.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.9, 5.0), layout="constrained")
        _draw_confusion(figure.subplots(), np.asarray(matrix))
        _save(figure, path)


def mistakes(
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    probabilities: np.ndarray,
    path: Path,
) -> None:
    """The worst-scored test images, each with its label, the prediction and its probability.

    `K` is the number of images; beyond 24 the rest is not drawn.

    Args:
      images: [K, 28, 28] uint8, the worst first.
      labels: [K] digits.
      predictions: [K] digits.
      probabilities: [K] of the prediction, 0 to 1.
      path: the file, see the module.
    """
    shown, columns = min(len(images), 24), 8
    rows = max(1, -(-shown // columns))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.4 + 1.35 * rows), layout="constrained")
        for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
            axes.set_visible(i < shown)
            axes.set(xticks=[], yticks=[])
            if i < shown:
                axes.imshow(images[i], cmap="gray_r", vmin=0, vmax=255)
                axes.spines[:].set(visible=True, color="#BBBBBB", linewidth=0.6)
                percent = f"{100 * probabilities[i]:.1f} %"
                axes.set_title(f"{labels[i]} read as {predictions[i]}\n{percent}", fontsize=8)
        title = "The worst mistakes: label, prediction and its probability"
        figure.suptitle(title if shown else "No mistakes")
        _save(figure, path)


# The study's figures -------------------------------------------------------------------------


def study_curves(runs: "pd.DataFrame", path: Path, *, variant: str = "report") -> None:
    """Median and 95 % band over seeds by placement, the report's numbers on top.

    Args:
      runs: results, see `experiments.analysis`.
      path: the file, see the module.
      variant: which setting.
    """
    runs = runs[runs["variant"] == variant]
    placements = [name for name in LOOKS if name in set(runs["placement"])]
    with mpl.rc_context(STYLE):
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
                _metric_axis(axes, what, runs[[f"train_{what}", f"test_{what}"]].to_numpy().ravel())
                axes.label_outer()
                if what == "accuracy_percent":
                    _epochs_axis(axes)
        handles = [
            _line("test, median and 95 % of seeds", REPORT, "-", ""),
            _line("train", REPORT, ":", ""),
            _line("the report, test", REPORT, "", "o", fill="none"),
            _line("the report, train", REPORT, "", "x"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        _save(figure, path)


def final_accuracy(runs: "pd.DataFrame", path: Path) -> None:
    """Test accuracy after the last epoch by setting and placement, every seed a dot.

    Args:
      runs: results, see `experiments.analysis`.
      path: the file, see the module.
    """
    last = runs[runs["epoch"] == runs["epoch"].max()]
    settings = [name for name in published.SETTINGS if name in set(last["variant"])]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.2 + 0.75 * len(settings)), layout="constrained")
        axes = figure.subplots()
        for row, setting in enumerate(settings):
            for shift, (placement, look) in zip((-0.26, 0.0, 0.26), LOOKS.items(), strict=True):
                chosen = (last["variant"] == setting) & (last["placement"] == placement)
                values = last[chosen]["test_accuracy_percent"].to_numpy()
                if not len(values):
                    continue
                y = row + shift
                _dots(axes, values, y, look)
                axes.plot(np.median(values), y, "|", color="black", markersize=13, mew=1.6)
                if setting == "report" and placement in published.HISTORY:
                    number = published.HISTORY[placement][-1].test_accuracy_percent
                    axes.plot(number, y, "D", color=REPORT, mfc="none", markersize=7, mew=1.4)
        baseline = published.BASELINE_TEST_ACCURACY_PERCENT
        axes.axvline(baseline, color=REPORT, linestyle="--", linewidth=1.1)
        names = [
            f"momentum {s.momentum:g}\npixels: {s.normalisation}"
            for s in published.SETTINGS.values()
        ]
        labels = dict(zip(published.SETTINGS, names, strict=True))
        axes.set_yticks(range(len(settings)), [labels[name] for name in settings])
        axes.set_ylim(len(settings) - 0.45, -0.55)
        axes.grid(axis="y", visible=False)
        for line in range(1, len(settings)):
            axes.axhline(line - 0.5, color="#BBBBBB", linewidth=0.6)
        _accuracy_scale(axes, "x", [*last["test_accuracy_percent"], baseline])
        epoch = last["epoch"].max()
        axes.set_xlabel(f"test accuracy after epoch {epoch}, % (log error axis)")
        handles = [_line(k.label, k.colour, "", k.marker) for k in LOOKS.values()]
        handles.append(_line("median", "black", "", "|"))
        handles.append(_line("the report", REPORT, "", "D", fill="none"))
        handles.append(_line('its "about 92 %", no block', REPORT, "--", ""))
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        _save(figure, path)


def paired_differences(evidence: "pd.DataFrame", path: Path) -> None:
    """Differences in final test accuracy between placements, paired by seed, at momentum 0.9.

    Without momentum the differences are some ten times larger and would hide these;
    `final_accuracy` shows them.

    Args:
      evidence: `experiments.analysis.claim_evidence`.
      path: the file, see the module.
    """
    momentum = {name for name, setting in published.SETTINGS.items() if setting.momentum}
    claims = evidence["reading"].isin(["equal settings", "after_fc1 - before_fc1"])
    rows = evidence[claims & evidence["variant"].isin(momentum) & (evidence["n"] > 0)]
    kinds = {
        (1, "before_fc1"): ("block before fc1 - no block", LOOKS["before_fc1"]),
        (1, "after_fc1"): ("block after fc1 - no block", LOOKS["after_fc1"]),
        (4, ""): ("after fc1 - before fc1", Look("#009E73", "v", "-", "")),
    }
    before, after = (history[-1].test_accuracy_percent for history in published.HISTORY.values())
    claimed = after - before
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.0 + 0.42 * max(1, len(rows))), layout="constrained")
        axes = figure.subplots()
        labels = []
        for (claim, where), (title, look) in kinds.items():
            for row in rows[(rows["claim"] == claim) & (rows["where"] == where)].to_dict("records"):
                y = len(labels)
                _dots(axes, np.array(row["differences"]), y, look)
                axes.plot([row["low"], row["high"]], [y, y], color="black", linewidth=2.2)
                axes.plot(row["effect"], y, "|", color="black", markersize=14, mew=1.8)
                if row["variant"] == "report" and claim == 4:
                    axes.plot(claimed, y, "D", color=REPORT, mfc="none", markersize=8, mew=1.4)
                pixels = published.SETTINGS[row["variant"]].normalisation
                labels.append(f"{title}\npixels: {pixels}, {row['n']} seeds")
        axes.axvline(0, color="#767676", linewidth=1.0)
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        axes.set_ylim(max(1, len(labels)) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("difference in final test accuracy, percentage points")
        handles = [
            _line("a small mark: a seed", "#767676", "", "."),
            _line("mean and its 95 % interval", "black", "-", "|", width=2.2),
            _line(f"the report's two runs, {claimed:+.2f}", REPORT, "", "D", fill="none"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        _save(figure, path)


def per_class(table: "pd.DataFrame", path: Path) -> None:
    """Accuracy by digit: mean and 95 % prediction interval of one run, and the report's numbers.

    Args:
      table: `experiments.analysis.per_class`.
      path: the file, see the module.
    """
    placements = [name for name in LOOKS if name in set(table["placement"])]
    shifts = np.linspace(-0.25, 0.25, len(placements)) if len(placements) > 1 else [0.0]
    with mpl.rc_context(STYLE):
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
        handles = [_line(look.label, look.colour, "-", look.marker) for look in looks]
        handles += [
            _line(
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
        _save(figure, path)


def pooled_confusion(matrices: Mapping[str, np.ndarray], path: Path) -> None:
    """Confusion matrices side by side, mean over seeds.

    Args:
      matrices: [10, 10] images by placement, `experiments.analysis.pooled_confusion`.
      path: the file, see the module.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / 2 * len(matrices), 4.5), layout="constrained")
        panels = figure.subplots(1, len(matrices), squeeze=False)[0]
        for axes, (placement, matrix) in zip(panels, matrices.items(), strict=True):
            _draw_confusion(axes, matrix)
            axes.set_title(f"{LOOKS[placement].label}: {axes.get_title()}", fontsize=9)
        figure.suptitle("Test images after the last epoch, mean over seeds")
        _save(figure, path)


def epoch_times(timing: Mapping[str, Any], path: Path) -> None:
    """Seconds an epoch by program and placement; a bar is the median, a dot one process.

    Args:
      timing: the JSON that `benchmarks.epoch_time` writes.
      path: the file, see the module.
    """
    rows = timing["rows"]
    groups = list(dict.fromkeys((row["program"], row["threads"]) for row in rows))
    placements = [name for name in LOOKS if any(row["placement"] == name for row in rows)]
    with mpl.rc_context(STYLE):
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
        handles = [_line(LOOKS[p].label, LOOKS[p].colour, "", LOOKS[p].marker) for p in placements]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        _save(figure, path)


# Parts ---------------------------------------------------------------------------------------


def _draw_confusion(axes: Axes, matrix: np.ndarray) -> None:
    """Mistakes shaded by their number; correct images stand on the diagonal as plain counts."""
    wrong = np.where(np.eye(10, dtype=bool), 0, matrix)
    axes.imshow(np.sqrt(wrong), cmap="Blues", vmin=0, vmax=max(1.0, 2 * np.sqrt(wrong.max())))
    whole = np.issubdtype(matrix.dtype, np.integer)
    for label, prediction in np.ndindex(10, 10):
        number, right = matrix[label, prediction], label == prediction
        text = f"{number:.0f}" if whole or right else f"{number:.1f}"
        if right:
            style = {"color": "black", "fontweight": "bold", "fontsize": 7}
        else:
            style = {"color": "black" if number else "#AAAAAA", "fontsize": 7}
        axes.text(prediction, label, text if number else "0", ha="center", va="center", **style)
    axes.set_xticks(range(10))
    axes.set_yticks(range(10))
    axes.tick_params(length=0)
    axes.grid(visible=False)
    total = matrix.sum()
    mistaken = f"{wrong.sum():.0f}" if whole else f"{wrong.sum():.1f}"
    axes.set_title(f"{mistaken} mistakes in {total:,.0f}")
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")


def _epochs_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.set_xlabel("epoch")


def _metric_axis(axes: Axes, what: str, values: Sequence[float]) -> None:
    """A logarithmic axis for a loss; for an accuracy one that is logarithmic in the error."""
    if what == "loss":
        axes.set_yscale("log")
        ticks = [a * 10.0**b for b in range(-4, 2) for a in (1, 2, 5)]
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.set_ylabel("loss, nats (log axis)")
    else:
        _accuracy_scale(axes, "y", values)
        axes.set_ylabel("accuracy, % (log error axis)")


def _accuracy_scale(axes: Axes, name: str, values: Sequence[float]) -> None:
    """Spaces accuracies by the logarithm of their error: 98 to 99 % is as long as 96 to 98 %.

    The logarithm's origin is 100.1 %, or an accuracy of 100 % would lie at infinity.
    """
    end = 100.1
    scale = {
        "functions": (
            lambda percent: -np.log10(np.maximum(end - np.asarray(percent), 1e-9)),
            lambda length: end - 10.0 ** -np.asarray(length),
        )
    }
    (axes.set_xscale if name == "x" else axes.set_yscale)("function", **scale)
    ticks = np.array([0, 40, 60, 70, 80, 85, 90, 92, 94, 96, 97, 98, 98.5, 99, 99.5, 99.8, 100])
    if name == "y":
        ticks = ticks[ticks != 92]  # its label would touch that of 90
    axis = axes.xaxis if name == "x" else axes.yaxis
    lowest, highest = np.min(values), np.max(values)
    # Half a step of the scale beyond the data, on both sides.
    low, high = end - (end - lowest) * 1.15, end - (end - highest) / 1.15
    axis.set_major_locator(FixedLocator(ticks[(ticks >= low) & (ticks <= high)]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda percent, _: f"{percent:g}"))
    (axes.set_xlim if name == "x" else axes.set_ylim)(low, high)


def _dots(axes: Axes, values: np.ndarray, y: float, look: Look) -> None:
    """Every value a mark, spread a little by the golden ratio so that equal ones stay visible."""
    spread = 0.12 * (2 * (np.arange(len(values)) * 0.618034 % 1) - 1)
    axes.plot(values, y + spread, look.marker, color=look.colour, alpha=0.55, markersize=3.5, mew=0)


def _line(
    label: str, colour: str, style: str, marker: str, *, width: float = 1.4, fill: str | None = None
) -> Line2D:
    """An entry of a legend."""
    return Line2D(
        [],
        [],
        color=colour,
        linestyle=style or "none",
        marker=marker,
        linewidth=width,
        markerfacecolor=fill or colour,
        label=label,
    )


def _save(figure: Figure, path: Path) -> None:
    path = Path(path)
    for file in (path,) if path.suffix else (path.with_suffix(".png"), path.with_suffix(".svg")):
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
