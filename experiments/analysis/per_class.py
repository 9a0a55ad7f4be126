"""How the report's per-class percentages lie among ours, and of which images they are."""

import numpy as np
import pandas as pd
from scipy import stats

from experiments import published
from experiments.analysis.reproduction import scale_of
from mnist_jax.model import PLACEMENTS

# How many images of each digit a sampling of the test split takes, in the order of the original
# file t10k-labels-idx1-ubyte, which a loader without shuffling keeps. With `labels` from it and
# `place = arange(10000) % 64`, "first k of each batch" is `bincount(labels[place < k])`.
SAMPLINGS: dict[str, tuple[int, ...]] = {
    "first image of each batch": (15, 19, 15, 19, 17, 7, 10, 18, 16, 21),
    "first 2 of each batch": (26, 33, 33, 32, 37, 22, 24, 35, 34, 38),
    "first 4 of each batch": (65, 73, 67, 63, 68, 40, 56, 59, 60, 77),
    "first 8 of each batch": (116, 145, 138, 129, 144, 99, 104, 132, 120, 129),
    "first 16 of each batch": (241, 288, 263, 261, 270, 216, 223, 263, 223, 264),
    "first batch": (6, 10, 5, 6, 10, 7, 5, 7, 1, 7),
    "first 1,000 images": (85, 126, 116, 107, 110, 87, 87, 99, 89, 94),
    "all images": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
}


def accuracies(runs: pd.DataFrame, variant: str = "report") -> pd.DataFrame:
    """Accuracy by digit over the whole test split after the last epoch, beside the report's.

    Returns:
      A row for each placement and digit, in percent: mean over seeds, sd, low and high (95 %
      prediction interval for one new run, as in `reproduction.intervals`), images, published (NaN
      where the report has none), inside, n. One seed gives no interval.
    """
    tables = []
    for placement, confusion in _confusions(runs, variant).items():
        images = confusion.sum(axis=2)  # [n, 10]
        accuracy = 100 * np.diagonal(confusion, axis1=1, axis2=2) / images
        n = len(accuracy)
        table = pd.DataFrame({"placement": placement, "digit": range(10), "images": images[0]})
        table["mean"], table["n"] = accuracy.mean(axis=0), n
        table["published"] = published.PER_CLASS_ACCURACY_PERCENT.get(placement, np.nan)
        table[["sd", "low", "high"]] = np.nan
        if n > 1:
            scale = scale_of(accuracy, np.full(10, 100 / images[0].max() / np.sqrt(12)))
            table["sd"] = accuracy.std(axis=0, ddof=1)
            table["low"], table["high"] = stats.t.interval(0.95, n - 1, table["mean"], scale)
            table["low"], table["high"] = table["low"].clip(0, 100), table["high"].clip(0, 100)
        inside = table["published"].between(table["low"], table["high"])
        table["inside"] = inside.astype("boolean").mask(
            table[["published", "low"]].isna().any(axis=1)
        )
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def pooled_confusion(runs: pd.DataFrame, placement: str, variant: str = "report") -> np.ndarray:
    """Confusion matrix after the last epoch, mean over seeds, [10, 10] images of the test split."""
    return _confusions(runs, variant)[placement].mean(axis=0)


def _confusions(runs: pd.DataFrame, variant: str) -> dict[str, np.ndarray]:
    """Confusion matrices after the last epoch, [n, 10, 10] for each placement that was run."""
    rows = runs[(runs["variant"] == variant) & (runs["epoch"] == runs["epoch"].max())]
    return {
        placement: np.array(rows[rows["placement"] == placement]["confusion"].tolist())
        for placement in PLACEMENTS
        if (rows["placement"] == placement).any()
    }


def sampling(runs: pd.DataFrame, *, draws: int = 4000) -> pd.DataFrame:
    """Which part of the test split could give the report's per-class percentages.

    The report's percentages are whole numbers, three of ten or so are 100, and their mean is 97.8
    where the same networks score 98.7 on all images. The PyTorch tutorial "Training a Classifier"
    (beginner_source/blitz/cifar10_tutorial.py, until 2021) has a per-class loop,
    `for i in range(4)`, written for batches of four, that counts the first four images of each
    batch, and prints with `%2d`, which cuts the decimals off. With batches of 64 it counts 628
    images. The tutorial has the report's layers, learning rate, format and, unstated in the
    report, momentum 0.9 and normalisation (0.5, 0.5).

    For each sampling of `SAMPLINGS`, cut off or rounded: a percentage is reachable if some number
    of mistakes among that many images prints as it. Probabilities take our own runs' mistakes and
    let chance choose which images of a digit are in the sample (hypergeometric), because the
    images of the report's sample are known only by their number: our results are in another order.
    What the percentages fix is the size of the sample and that decimals were cut off: the first
    650 images would explain them as well. That the loop is the program which was run is a guess.

    Returns:
      A row for each sampling and way of printing: sampling, printed, images, step_percent (one
      image of a digit, median over digits), reachable (of the report's numbers, as many as
      total), mean_percent (expected mean of ten printed percentages), hundreds (expected number of
      100 % digits), p_low_<placement> (probability of a mean as low as the report's) and
      log10_probability (of exactly the report's numbers, the two networks taken as independent;
      -inf where some is not reachable). Empty unless the results are of MNIST's whole test split.
    """
    confusions = {
        placement: matrices
        for placement, matrices in _confusions(runs, "report").items()
        if placement in published.HISTORY
    }
    everything = np.array(SAMPLINGS["all images"])
    if not all((m.sum(axis=2) == everything).all() for m in confusions.values()) or not confusions:
        return pd.DataFrame()
    rng = np.random.default_rng(0)
    rows = []
    for name, counts in SAMPLINGS.items():
        sample = np.array(counts)
        for printed, whole in (("cut off", np.floor), ("rounded", np.rint)):
            row = {"sampling": name, "printed": printed, "images": int(sample.sum())}
            row["step_percent"] = float(np.median(100 / sample))
            row |= {"reachable": 0, "total": 10 * len(confusions)}
            row |= {"mean_percent": 0.0, "hundreds": 0.0, "log10_probability": 0.0}
            for placement, matrices in confusions.items():
                target = np.array(published.PER_CLASS_ACCURACY_PERCENT[placement])
                images = matrices.sum(axis=2)
                mistakes = images - np.diagonal(matrices, axis1=1, axis2=2)  # [n, 10]

                # Exact: each possible number of mistakes, and whether it prints as the report's.
                wrong = np.arange(mistakes.max() + 1)[:, None]
                fits = (whole(100 * (sample - wrong) / sample) == target) & (wrong <= sample)
                chance = stats.hypergeom.pmf(wrong[:, None], images, mistakes, sample)
                by_run = np.where(fits[:, None], chance, 0).sum(axis=0).prod(axis=1)
                with np.errstate(divide="ignore"):
                    row["log10_probability"] += float(np.log10(by_run.mean()))
                row["reachable"] += int(fits.any(axis=0).sum())

                run = rng.integers(len(mistakes), size=draws)
                drawn = rng.hypergeometric(mistakes[run], (images - mistakes)[run], sample)
                percent = whole(100 * (sample - drawn) / sample)
                row["mean_percent"] += float(percent.mean()) / len(confusions)
                row["hundreds"] += float((percent == 100).sum(axis=1).mean()) / len(confusions)
                low = percent.mean(axis=1) <= target.mean() + 1e-9
                row[f"p_low_{placement}"] = float(low.mean())
            rows.append(row)
    return pd.DataFrame(rows)
