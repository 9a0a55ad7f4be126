"""Results of a study whose truth is known."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from experiments.analysis import Answers
from experiments.groundwork import published
from experiments.groundwork.variants import CANDIDATES, VARIANTS
from mnist_jax.model import PLACEMENTS, Placement

BLOCKS = ("before_fc1", "after_fc1")
# Points of every accuracy by variant; one that is not named has -6. Then by placement.
SHIFT = {"report": 0.0, "mnist": 0.15, "unnormalised": -0.4}
GAIN = {"none": -0.3, "before_fc1": 0.0, "after_fc1": 0.1}
EVALUATION = {"": 0.0, "batch_": 0.2, "recalibrated_": 0.4}  # points of the test accuracy


def study(
    seeds: int = 12,
    *,
    variants: Sequence[str] = tuple(CANDIDATES),
    placements: Sequence[str] = PLACEMENTS,
    epochs: int | None = None,
    better: Mapping[str, float] | None = None,
    evaluation: Mapping[str, float] = EVALUATION,
    noise: tuple[float, int] = (0.1, 0),
) -> pd.DataFrame:
    """Results around the report's curve before fc1.

    Some of the noise is the same in all epochs of a run, and some in all runs of a seed, so epochs
    and networks are correlated. The logarithm of a loss moves by half as much as an accuracy does
    in points.

    Args:
      seeds: how many, from 0.
      variants: keys of `VARIANTS`.
      placements: of the block.
      epochs: the number of epochs; None means that of each setting.
      better: points of accuracy by variant, by placement and by variant/placement, in place of
        those of `SHIFT` and `GAIN`.
      evaluation: points of test accuracy by prefix of the evaluation's columns.
      noise: standard deviation of an accuracy, in points, and the seed of the generator.
    """
    sd, rng_seed = noise
    rng, known = np.random.default_rng(rng_seed), SHIFT | GAIN | dict(better or {})
    history = published.HISTORY["before_fc1"]
    longest = max(epochs or VARIANTS[variant].epochs for variant in variants)
    curve = np.array([line[1:] for line in history])[np.minimum(np.arange(longest), 9)]  # [E, 4]
    shared = rng.normal(size=(seeds, longest, 1))
    tables = []
    for variant in variants:
        for placement in placements:
            count = epochs or VARIANTS[variant].epochs
            own, run = rng.normal(size=(seeds, count, 1)), rng.normal(size=(seeds, 1, 1))
            points = sd * (own + run + shared[:, :count]) / np.sqrt(3)
            points += known.get(variant, -6.0)
            points += known.get(f"{variant}/{placement}", known[placement])
            # Statistics say nothing where no block has any.
            none = placement == "none"
            more = {prefix: 0.0 if none else value for prefix, value in evaluation.items()}
            table = _runs(curve[None, :count], points, more)
            table.insert(0, "placement", placement)
            table.insert(0, "variant", variant)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _runs(values: np.ndarray, points: np.ndarray, evaluation: Mapping[str, float]) -> pd.DataFrame:
    """Runs around a curve `[1, E, 4]`, better by `points` `[S, E, 1]` and those by evaluation."""
    seeds, count = points.shape[:2]
    columns = {
        "seed": np.repeat(np.arange(seeds), count),
        "epoch": np.tile(np.arange(1, count + 1), seeds),
        "train_loss": values[..., :1] * np.exp(-points / 2),
        "train_accuracy_percent": _counts(values[..., 1:2] + points, 60_000),
    }
    for prefix, more in evaluation.items():
        columns[f"{prefix}test_loss"] = values[..., 2:3] * np.exp(-(points + more) / 2)
        tested = _counts(values[..., 3:4] + points + more, 10_000)
        columns[f"{prefix}test_accuracy_percent"] = tested
    return pd.DataFrame({name: column.ravel() for name, column in columns.items()})


def held_out(results: pd.DataFrame, variant: str, seed: int) -> dict[str, tuple]:
    """A run of a study in the form of `published.HISTORY`."""
    run = results[(results["variant"] == variant) & (results["seed"] == seed)]
    columns = ["epoch", *published.METRICS]
    return {
        placement: tuple(
            published.PublishedEpoch(*line)
            for line in run[run["placement"] == placement][columns].itertuples(index=False)
        )
        for placement in BLOCKS
    }


def labels(size: int = 10_000, rng_seed: int = 0) -> np.ndarray:
    """Labels of `size` test images."""
    return np.random.default_rng(rng_seed).integers(10, size=size).astype(np.uint8)


def answers(
    digits: np.ndarray,
    *,
    variant: str = "report",
    placement: Placement = "after_fc1",
    evaluation: str = "running",
    seeds: int = 12,
    error: float = 0.015,
    rng_seed: int = 0,
) -> Answers:
    """Runs that make mistakes; a tenth of the images is harder, the same for every run.

    Args:
      digits: `[N]` labels.
      variant: see `Answers`.
      placement: see `Answers`.
      evaluation: see `Answers`.
      seeds: how many runs.
      error: mean share of mistakes.
      rng_seed: of the runs' noise; which images are hard is the same for every one.
    """
    harder = np.where(np.random.default_rng(1).random(len(digits)) < 0.1, 8.0, 1.0)
    rng = np.random.default_rng([rng_seed, PLACEMENTS.index(placement)])
    level = error * np.exp(0.1 * rng.normal(size=(seeds, 1)))
    wrong = rng.random((seeds, len(digits))) < level * harder / harder.mean()
    said = np.where(wrong, (digits + 1) % 10, digits)
    confusion = np.stack(
        [np.bincount(10 * digits.astype(int) + row, minlength=100) for row in said]
    ).reshape(seeds, 10, 10)
    right = np.packbits(~wrong, axis=1)
    return Answers(variant, placement, evaluation, np.arange(seeds), confusion, right)


def timing(seconds: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> dict:
    """Epoch times by program, before_fc1 and after_fc1."""
    rows = [
        {
            "program": program,
            "placement": placement,
            "threads": 2,
            "epoch_seconds": list(measured),
        }
        for program, both in seconds.items()
        for placement, measured in zip(BLOCKS, both, strict=True)
    ]
    return {"conditions": {}, "rows": rows}


def _counts(percent: np.ndarray, size: int) -> np.ndarray:
    """Percentages rounded to counts of `size` images."""
    return np.clip(np.rint(percent / 100 * size), 0, size) / size * 100
