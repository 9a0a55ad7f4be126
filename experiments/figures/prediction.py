"""The figure of what a network says of pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib.figure import Figure

from experiments.figures.style import LOOKS, WIDTH, save, styled


class Answer(Protocol):
    """The parts of an answer that are drawn."""

    @property
    def file(self) -> Path: ...  # noqa: D102
    @property
    def digit(self) -> int: ...  # noqa: D102
    @property
    def probabilities(self) -> Sequence[float]: ...  # noqa: D102


def answers(
    shown: Sequence[tuple[np.ndarray | None, np.ndarray]], answers: Sequence[Answer], path: Path
) -> None:
    """Draws a row for each picture: as it was given, as the network saw it, and ten bars.

    Args:
      shown: for each answer the picture `[H, W]` or `[H, W, 3]`, which may be None, and the image
        `[28, 28]` uint8 that the network saw.
      answers: what the network says of each picture.
      path: where the figure goes, as `experiments.figures` explains.
    """
    rows = len(answers)
    colour = LOOKS["before_fc1"].colour
    with styled():
        figure = Figure(figsize=(WIDTH, 0.3 + 1.5 * rows), layout="constrained")
        grid = figure.subplots(rows, 3, squeeze=False, width_ratios=(1, 1, 2.6))
        for (given, seen, bars), (picture, image), answer in zip(grid, shown, answers, strict=True):
            for axes, pixels in ((given, picture), (seen, image)):
                axes.set(xticks=[], yticks=[])
                axes.grid(visible=False)
                axes.spines[:].set(visible=True, color="#BBBBBB", linewidth=0.6)
                if pixels is not None:
                    axes.imshow(pixels, cmap="gray", vmin=0, vmax=np.iinfo(pixels.dtype).max)
            given.set_title(_title(answer.file), fontsize=8, parse_math=False)  # a $ is a $
            percent = 100 * np.asarray(answer.probabilities)  # [10]
            bars.bar(range(10), percent, color=colour)
            bars.set(xticks=range(10), ylim=(0, 109), yticks=(0, 50, 100))
            bars.grid(axis="x", visible=False)
            bars.annotate(
                f"{percent[answer.digit]:.1f} %",
                (answer.digit, percent[answer.digit]),
                (0, 1),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        grid[0][1].set_title("as the network saw it", fontsize=8)
        grid[0][2].set_title("probability of each digit, %", fontsize=8)
        save(figure, path)


def _title(file: Path) -> str:
    """The end of a file's name, in the letters that matplotlib's own font has."""
    latin = file.name.encode("latin-1", "replace").decode("latin-1")
    name = "".join(letter if letter.isprintable() else "?" for letter in latin)
    return name if len(name) <= 28 else "..." + name[-25:]
