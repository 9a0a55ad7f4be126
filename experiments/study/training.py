"""Trains a group of runs side by side; it writes no files."""

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.groundwork import recipe as recipes
from experiments.groundwork.evaluation import EVALUATIONS, evaluate_all
from experiments.groundwork.recipe import Recipe
from experiments.study.runs import Answers, Group
from mnist_jax import metrics, parallel, train
from mnist_jax.data import Dataset
from mnist_jax.metrics import Metrics
from mnist_jax.programs import Programs
from mnist_jax.train import Evaluation


class Epoch(NamedTuple):
    """One epoch of a group."""

    number: int
    rows: list[dict[str, Any]]  # one for each seed, with the columns that `analysis` describes
    answers: list[Answers]  # after the last epoch, unless training images were held out


def train_group(group: Group, dataset: Dataset, mesh: Mesh) -> Iterator[Epoch]:
    """Trains a group to the last epoch.

    Args:
      group: the runs.
      dataset: what they are trained and tested on. A recipe that holds training images out is
        tested on these, and trained on the others only.
      mesh: the devices over which the seeds are divided.

    Yields:
      Each epoch, when it is computed. On CPU each seed's numbers are those of a single run,
      whatever other seeds the group has.
    """
    recipe = group.recipe
    splits = recipes.splits(recipe, dataset)
    size, labels = len(splits[0].labels), np.asarray(splits[1].labels)
    train_split, test_split = parallel.replicate(splits, mesh)
    single, programs = _programs(recipe, mesh)
    init_keys, order_keys = zip(*map(recipes.keys_of, group.seeds), strict=True)
    # Drawn by the program of a single run, so that both have the same weights.
    fresh = [jax.device_get(single.init_state(key)) for key in init_keys]
    states: Any = jax.tree.map(lambda *leaves: np.stack(leaves), *fresh)  # [S, ...]
    for epoch in range(1, recipe.epochs + 1):
        orders: Any = np.stack(
            [train.epoch_order(key, epoch, size, recipe.held_out) for key in order_keys]
        )  # [S, N]
        states, trained = programs.train_epoch(states, train_split, orders)
        tested = evaluate_all(programs, train.variables_of(states), train_split, test_split)
        # The states become numpy arrays again. As they came from the program they would lie
        # elsewhere than those of the first epoch, and the program would be compiled once more.
        states, trained, tested = jax.device_get((states, trained, tested))
        said = tested if epoch == recipe.epochs and not recipe.held_out else {}
        answers = [_answers(group, name, one.logits, labels) for name, one in said.items()]
        yield Epoch(epoch, _rows(group, epoch, trained, tested), answers)


@lru_cache(maxsize=1)  # a study has many networks, and goes through them one after another
def _programs(recipe: Recipe, mesh: Mesh) -> tuple[Programs, Programs]:
    """The programs of a network for one seed and for many, the same objects for equal groups."""
    many = parallel.over_seeds(
        recipes.network(recipe),
        recipes.optimiser(recipe),
        mesh=mesh,
        batch_size=recipe.batch_size,
    )
    return recipes.programs(recipe), many


def _rows(
    group: Group, epoch: int, trained: Metrics, tested: Mapping[Any, Evaluation]
) -> list[dict[str, Any]]:
    """A row for each of `S` seeds, from sums `[S]` over the training and the test split."""
    sums = {"train": trained} | {
        f"{prefix}test": tested.get(name, tested["running"]).metrics
        for name, prefix in EVALUATIONS.items()
    }
    rows = []
    for place, seed in enumerate(group.seeds):
        row: dict[str, Any] = {"variant": group.variant, "placement": group.recipe.placement}
        row |= {"seed": seed, "epoch": epoch}
        for name, of_group in sums.items():
            of_seed = Metrics(*(x[place] for x in of_group))
            row[f"{name}_loss"] = _rounded(of_seed.mean_loss)
            row[f"{name}_accuracy_percent"] = _rounded(of_seed.accuracy_percent)
        rows.append(row)
    return rows


def _rounded(value: float) -> float:
    """Rounds to six digits, the precision of float32 sums; NaN if the value is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else math.nan


def _answers(group: Group, evaluation: str, logits: np.ndarray, labels: np.ndarray) -> Answers:
    """What the networks said, from their logits `[S, N, 10]` and the labels `[N]`."""
    said = logits.argmax(-1)  # [S, N]
    confusion = [np.asarray(metrics.confusion_matrix(one, labels)) for one in said]
    return Answers(
        group.variant,
        group.recipe.placement,
        evaluation,
        np.array(group.seeds),
        np.array(confusion, np.uint16),
        np.packbits(said == labels, axis=1),
    )
