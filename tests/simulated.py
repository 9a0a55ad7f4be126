"""Results of a study whose truth is known."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from experiments.analysis import Answers
from experiments.groundwork import published
from experiments.groundwork.variants import CANDIDATES, VARIANTS
from mnist_jax.model import PLACEMENTS, Placement

BLOCKS = ("before_fc1", "after_fc1")
# Points of every accuracy; a variant that is not named has -6.
SHIFT = {"report": 0.0, "mnist": 0.15, "unnormalised": -0.4}
GAIN = {"none": -0.3, "before_fc1": 0.0, "after_fc1": 0.1}
EVALUATION = {"": 0.0, "batch_": 0.2, "recalibrated_": 0.4}  # points of the test accuracy


def study(
    seeds: int = 12,
    *,
    variants: Sequence[str] = tuple(CANDIDATES),
    placements: Sequence[str] = PLACEMENTS,
    epochs: int | None = None,
    gain: Mapping[str, float] = GAIN,
    shift: Mapping[str, float] = SHIFT,
    evaluation: Mapping[str, float] = EVALUATION,
    sd: float = 0.1,
    rng_seed: int = 0,
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
      gain: points of accuracy by placement, or by variant/placement.
      shift: points of accuracy by variant.
      evaluation: points of test accuracy by prefix of the evaluation's columns.
      sd: of an accuracy, in points.
      rng_seed: of the noise.
    """
    rng = np.random.default_rng(rng_seed)
    history = published.HISTORY["before_fc1"]
    longest = max(epochs or VARIANTS[variant].epochs for variant in variants)
    curve = np.array([line[1:] for line in history])[np.minimum(np.arange(longest), 9)]  # [E, 4]
    shared = rng.normal(size=(seeds, longest, 1))
    tables = []
    for variant in variants:
        for placement in placements:
            count = epochs or VARIANTS[variant].epochs
            own, run = rng.normal(size=(seeds, count, 1)), rng.normal(size=(seeds, 1, 1))
            noise = sd * (own + run + shared[:, :count]) / np.sqrt(3)
            better = shift.get(variant, -6.0)
            better += gain.get(f"{variant}/{placement}", gain.get(placement, 0.0))
            points = better + noise  # [S, E, 1]
            table = pd.DataFrame(
                {
                    "variant": variant,
                    "placement": placement,
                    "seed": np.repeat(np.arange(seeds), count),
                    "epoch": np.tile(np.arange(1, count + 1), seeds),
                }
            )
            values = curve[None, :count]
            trained = values[..., 1:2] + points
            table["train_loss"] = (values[..., :1] * np.exp(-points / 2)).ravel()
            table["train_accuracy_percent"] = _counts(trained, 60_000).ravel()
            for prefix, more in evaluation.items():
                # Statistics say nothing where no block has any.
                more = 0.0 if placement == "none" else more
                tested = values[..., 3:4] + points + more
                table[f"{prefix}test_loss"] = (
                    values[..., 2:3] * np.exp(-(points + more) / 2)
                ).ravel()
                table[f"{prefix}test_accuracy_percent"] = _counts(tested, 10_000).ravel()
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


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
    hard: float = 8.0,
    rng_seed: int = 0,
) -> Answers:
    """Runs that make mistakes; some images are harder than others, the same for every run.

    Args:
      digits: `[N]` labels.
      variant: see `Answers`.
      placement: see `Answers`.
      evaluation: see `Answers`.
      seeds: how many runs.
      error: mean share of mistakes.
      hard: how many times as hard the hardest tenth of the images is as the rest.
      rng_seed: of the runs' noise; which images are hard is the same for every one.
    """
    harder = np.where(np.random.default_rng(1).random(len(digits)) < 0.1, hard, 1.0)
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
