"""The figures of one run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.figures.style import (
    LOOKS,
    REPORT,
    WIDTH,
    epochs_axis,
    legend_line,
    metric_axis,
    save,
    styled,
)
from experiments.groundwork import published

SPLITS = ("train", "test")


def curves(
    history: Sequence[Mapping[str, float]],
    placement: str,
    path: Path,
    *,
    batch: Mapping[str, float] | None = None,
) -> None:
    """Draws loss and accuracy of one run against the epoch, with the report's curves dashed.

    Args:
      history: one mapping for each epoch, with `epoch` and the keys of `published.METRICS`.
      placement: where the block stands; the report has no curves for `none`.
      path: where the figure goes, as `experiments.figures` explains.
      batch: `test_loss` and `test_accuracy_percent` after the last epoch with the statistics of
        each batch, as the report very likely tested. They get a mark of their own, to be compared
        with the report's instead of a curve with running statistics.
    """
    look = LOOKS[placement]
    reported = [epoch._asdict() for epoch in published.HISTORY.get(placement, ())]
    with styled():
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy_percent"), strict=True):
            for split, fill, width in (("train", "white", 0.9), ("test", look.colour, 1.4)):
                metric = f"{split}_{what}"
                ours = [[row[key] for row in history] for key in ("epoch", metric)]
                theirs = [[row[key] for row in reported] for key in ("epoch", metric)]
                drawn = {"color": look.colour, "marker": look.marker, "markerfacecolor": fill}
                axes.plot(*ours, "-", linewidth=width, **drawn)
                axes.plot(*theirs, "--", linewidth=width, color=REPORT)
            shown = [row[f"{split}_{what}"] for row in [*history, *reported] for split in SPLITS]
            if batch:
                shown.append(batch[f"test_{what}"])
                axes.plot(history[-1]["epoch"], shown[-1], "D", color=look.colour, mfc="w", ms=7)
            epochs_axis(axes)
            metric_axis(axes, what, shown)
        tested = "test, running statistics" if batch else "test"
        handles = [
            legend_line(tested, look.colour, "-", look.marker, width=1.4),
            legend_line("train", look.colour, "-", look.marker, width=0.9, fill="white"),
        ]
        if reported:
            handles.append(legend_line("the report's test", REPORT, "--", "", width=1.4))
            handles.append(legend_line("the report's train", REPORT, "--", "", width=0.9))
        if batch:
            label = "test, batch statistics, as the report's"
            handles.insert(1, legend_line(label, look.colour, "", "D", fill="white"))
        figure.suptitle(f"LeNet, {look.label}")
        figure.legend(handles=handles, loc="outside lower center", ncols=3 if batch else 4)
        save(figure, path)


def confusion(matrix: np.ndarray, path: Path) -> None:
    """Draws a confusion matrix: mistakes shaded by their number, correct images as plain counts.

    Args:
      matrix: [10, 10] images of the test split, whole numbers, row = label, column = prediction.
      path: where the figure goes, as `experiments.figures` explains.
    """
    wrong = np.where(np.eye(10, dtype=bool), 0, matrix)
    with styled():
        figure = Figure(figsize=(4.9, 5.0), layout="constrained")
        axes = figure.subplots()
        axes.imshow(np.sqrt(wrong), cmap="Blues", vmin=0, vmax=max(1.0, 2 * np.sqrt(wrong.max())))
        for label, prediction in np.ndindex(10, 10):
            number, right = matrix[label, prediction], label == prediction
            style = {"fontweight": "bold" if right else "normal", "fontsize": 7}
            style["color"] = "black" if number or right else "#AAAAAA"
            axes.text(prediction, label, f"{number}", ha="center", va="center", **style)
        axes.set_xticks(range(10))
        axes.set_yticks(range(10))
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.set_title(f"{wrong.sum()} mistakes in {matrix.sum():,}")
        axes.set_xlabel("prediction")
        axes.set_ylabel("label")
        save(figure, path)


def mistakes(
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    probabilities: np.ndarray,
    path: Path,
) -> None:
    """Draws misread test images, each with its label, the prediction and its probability.

    `K` is the number of images, of which at most the first 24 are drawn.

    Args:
      images: [K, 28, 28] uint8, the worst first.
      labels: [K] digits.
      predictions: [K] digits.
      probabilities: [K] probabilities of the predictions, 0 to 1.
      path: where the figure goes, as `experiments.figures` explains.
    """
    shown, columns = min(len(images), 24), 8
    rows = max(1, -(-shown // columns))
    high, side = 1.35, 0.94  # inches of a row, and of an image; a column is an inch wide
    height = 0.4 + high * rows  # with the title
    with styled():
        figure = Figure(figsize=(columns, height))
        # All images share one pair of axes, in inches from the top left, because a pair for each
        # takes three times as long to draw.
        axes = figure.add_axes((0, 0, 1, high * rows / height))
        axes.set_axis_off()
        for i in range(shown):
            left, bottom = i % columns + (1 - side) / 2, high * (i // columns + 1) - 0.03
            edges = (left, left + side, bottom, bottom - side)
            axes.imshow(images[i], cmap="gray_r", vmin=0, vmax=255, extent=edges)
            axes.add_patch(
                Rectangle((left, bottom), side, -side, fill=False, color="#BBBBBB", linewidth=0.6)
            )
            what = f"{labels[i]} read as {predictions[i]}\n{100 * probabilities[i]:.1f} %"
            axes.text(
                left + side / 2, bottom - side - 0.05, what, ha="center", va="bottom", fontsize=8
            )
        axes.set(xlim=(0, columns), ylim=(high * rows, 0))
        title = "The worst mistakes: label, prediction and its probability"
        figure.suptitle(title if shown else "No mistakes", y=1 - 0.1 / height)
        save(figure, path)
