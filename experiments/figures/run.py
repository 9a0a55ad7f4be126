"""The figures of one run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments import published
from experiments.figures.style import (
    LOOKS,
    REPORT,
    WIDTH,
    draw_confusion,
    epochs_axis,
    legend_line,
    metric_axis,
    save,
    styled,
)


def curves(history: Sequence[Mapping[str, float]], placement: str, path: Path) -> None:
    """Draws loss and accuracy of one run against the epoch, with the report's curves dashed.

    Args:
      history: one mapping for each epoch, with `epoch` and the keys of `published.METRICS`.
      placement: where the block stands; the report has no curves for `none`.
      path: where the figure goes, as `experiments.figures` explains.
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
            epochs_axis(axes)
            metrics = (f"train_{what}", f"test_{what}")
            metric_axis(axes, what, [row[m] for row in [*history, *reported] for m in metrics])
        handles = [
            legend_line("test", look.colour, "-", look.marker, width=1.4),
            legend_line("train", look.colour, "-", look.marker, width=0.9, fill="white"),
        ]
        if reported:
            handles.append(legend_line("the report's test", REPORT, "--", "", width=1.4))
            handles.append(legend_line("the report's train", REPORT, "--", "", width=0.9))
        figure.suptitle(f"LeNet, {look.label}")
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        save(figure, path)


def confusion(matrix: np.ndarray, path: Path) -> None:
    """Draws a confusion matrix of the test split.

    Args:
      matrix: [10, 10] images, row = label, column = prediction.
      path: where the figure goes, as `experiments.figures` explains.
    """
    with styled():
        figure = Figure(figsize=(4.9, 5.0), layout="constrained")
        draw_confusion(figure.subplots(), np.asarray(matrix))
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
    with styled():
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
        save(figure, path)
