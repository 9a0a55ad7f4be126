"""Runs, the groups in which they train, and what their networks said. Nothing here is a file."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import numpy as np

from experiments.groundwork.recipe import Recipe
from experiments.groundwork.variants import Cell

GROUP = 20  # seeds, rounded up to a multiple of the devices; a kill loses a group in progress


class Run(NamedTuple):
    """What tells the runs of a study apart."""

    variant: str  # a key of `variants.VARIANTS`
    placement: str
    seed: int

    def __str__(self) -> str:
        return f"{self.variant}/{self.placement}, seed {self.seed}"


class Group(NamedTuple):
    """Runs that differ by seed only, and so train side by side."""

    variant: str
    recipe: Recipe  # of the variant, at the placement of these runs
    seeds: range

    def __str__(self) -> str:
        return f"{self.variant}/{self.recipe.placement}, seeds {self.seeds[0]} to {self.seeds[-1]}"


class Answers(NamedTuple):
    """What `n` networks that differ by seed said of the test images after the last epoch."""

    variant: str
    placement: str
    evaluation: str  # a key of `evaluation.EVALUATIONS`
    seeds: np.ndarray  # [n]
    confusion: np.ndarray  # [n, 10, 10] uint16 images, row = label, column = prediction
    correct: np.ndarray  # [n, ceil(N / 8)] uint8, `np.packbits` of whether each image was right


def share(cells: Iterable[Cell], number: int, shards: int) -> tuple[Cell, ...]:
    """The runs of machine `number`, from 1 to `shards`: a part of the seeds of each cell."""
    return tuple(
        cell._replace(seeds=cell.seeds[size * (number - 1) // shards : size * number // shards])
        for cell in cells
        for size in (len(cell.seeds),)
    )


def groups(
    cells: Iterable[Cell], recipes: Mapping[str, Recipe], done: Set[Run], *, devices: int
) -> list[Group]:
    """Divides the runs that are asked for and not done into groups of seeds that follow each other.

    Args:
      cells: the runs that are asked for.
      recipes: the recipe of each variant.
      done: the runs that are done.
      devices: the number of devices, each of which should have equally many seeds to train.
    """
    most = -(-GROUP // devices) * devices
    found = []
    for variant, placement, seeds in cells:
        recipe = replace(recipes[variant], placement=placement)
        left = [seed for seed in seeds if Run(variant, placement, seed) not in done]
        for _, pairs in groupby(enumerate(left), lambda pair: pair[1] - pair[0]):
            span = [seed for _, seed in pairs]
            for part in (span[start : start + most] for start in range(0, len(span), most)):
                found.append(Group(variant, recipe, range(part[0], part[-1] + 1)))
    return found
