"""What is measured of each run, and weighted sums of it that are paired by seed.

Every comparison of the study is such a sum. Its weights add up to 0, so what all networks of a seed
share cancels.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from experiments.analysis.runs import FINAL, evaluated, evaluations_of
from experiments.groundwork.evaluation import EvaluationName
from experiments.groundwork.variants import VARIANTS
from mnist_jax.model import Placement

TARGET_PERCENT = 97.0
Measure = Literal[
    "final",  # test accuracy after the last epoch, percent
    "epochs",  # epochs until test accuracy reaches `TARGET_PERCENT`
    "early",  # mean logarithm of the training loss of epochs 1 and 2
    "early 1",  # of epoch 1 alone
    "early 2",
]
EARLY: dict[Measure, tuple[int, ...]] = {"early": (1, 2), "early 1": (1,), "early 2": (2,)}


class Arm(NamedTuple):
    """A network of a variant, what is measured of it, and how it was evaluated."""

    variant: str
    placement: Placement
    evaluation: EvaluationName = "running"
    measure: Measure = "final"


class Measures(NamedTuple):
    """The measures of all runs."""

    by_seed: dict[Arm, pd.Series]  # NaN for a run that never reaches the target
    last_epoch: dict[str, int]  # by variant


def measures_of(runs: pd.DataFrame) -> Measures:
    """Measures results, as `runs.complete_runs` returns them."""
    found: dict[Arm, pd.Series] = {}
    for evaluation in evaluations_of(runs):
        groups: Any = evaluated(runs, evaluation).groupby(["variant", "placement"])
        for (variant, placement), rows in groups:
            arm = Arm(variant, placement, evaluation)
            last = rows[rows["epoch"] == rows["epoch"].max()]
            found[arm] = last.set_index("seed")[FINAL].astype(float)
            if evaluation == "running":
                found[arm._replace(measure="epochs")] = epochs_to_target(rows)
                for measure, epochs in EARLY.items():
                    found[arm._replace(measure=measure)] = early_loss(rows, epochs)
    last = runs.groupby("variant")["epoch"].max()
    return Measures(found, {str(name): int(epoch) for name, epoch in last.items()})


def weighted(measures: Measures, weights: Mapping[Arm, float]) -> pd.Series:
    """A weighted sum for each seed that all its networks have.

    A run that never reaches the target counts as reaching it in its last epoch. The sum is empty
    for networks of unlike age: while a study grows, some may have neither as many epochs as the
    others nor all that their recipe asks for. Losses of the first epochs have no such need.
    """
    aged = {arm.variant for arm in weights if arm.measure not in EARLY}
    last = {name: measures.last_epoch.get(name) for name in aged}
    alike = len(set(last.values())) <= 1 or all(ended(measures, name) for name in aged)
    if not alike or not weights or not weights.keys() <= measures.by_seed.keys():
        return pd.Series(dtype=float)
    parts = [
        weight * measures.by_seed[arm].fillna(float(measures.last_epoch[arm.variant]))
        for arm, weight in weights.items()
    ]
    return pd.concat(parts, axis=1, join="inner").sum(axis=1)


def ended(measures: Measures, variant: str) -> bool:
    """Whether the runs of a variant have all epochs of its recipe, and not fewer."""
    return measures.last_epoch.get(variant, 0) >= VARIANTS[variant].epochs


def early_loss(rows: pd.DataFrame, epochs: tuple[int, ...]) -> pd.Series:
    """The mean over some epochs of the logarithm of the training loss, by seeds that have them."""
    rows = rows[rows["epoch"].isin(epochs)]
    logarithm = pd.Series(np.log(rows["train_loss"].astype(float)))
    by_seed = logarithm.groupby(rows["seed"])
    return by_seed.mean()[by_seed.size() == len(epochs)]


def epochs_to_target(rows: pd.DataFrame) -> pd.Series:
    """Epochs until test accuracy reaches `TARGET_PERCENT`, by seed; NaN where it never does.

    Accuracy is measured after each epoch and interpolated linearly between the measurements.
    Before the first one the line starts at 10 %, which guessing gives.
    """
    curves = rows.pivot(index="seed", columns="epoch", values=FINAL).sort_index(axis=1)
    accuracy = np.column_stack([np.full(len(curves), 10.0), curves.to_numpy(dtype=float)])
    reached = accuracy >= TARGET_PERCENT
    epoch = reached.argmax(axis=1)
    seeds = np.arange(len(accuracy))
    after, before = accuracy[seeds, epoch], accuracy[seeds, epoch - 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        crossed = epoch - (after - TARGET_PERCENT) / (after - before)
    return pd.Series(np.where(reached.any(axis=1), crossed, np.nan), curves.index, dtype=float)
