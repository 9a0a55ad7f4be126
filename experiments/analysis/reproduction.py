"""Does the report reproduce? Its numbers, and its curves as a whole, among our runs of a setting.

Losses are compared by their logarithm and accuracies by their logit, log(p / (1 - p)). So no
interval reaches below a loss of 0 or above 100 %, and a spread that is proportional to the error,
as it is here, becomes the same all along a curve.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special, stats

from experiments.groundwork import published

NUMBERS_SHOWN = (
    "placement epoch metric evaluation published:.4f mean:.4f sd:.4f low:.4f high:.4f t:+.2f inside"
)


@dataclass(frozen=True)
class Rank:
    """The place of the report's two runs, taken together, among ours by their distance."""

    place: int  # 1 is the farthest from the others, `among` the nearest to their middle
    among: int  # the number of our pairs of runs, plus the report's
    place_by_placement: dict[str, int]
    inside: int  # numbers inside their 95 % prediction interval
    total: int


def intervals(curves: pd.DataFrame) -> pd.DataFrame:
    """Compares the report's numbers with the seeds of one variant, as `curves_of` returns them.

    The 95 % prediction interval for one new run is mean ± t(0.975, n-1) · sd · sqrt(1 + 1/n), of
    normal runs (Hahn & Meeker, Statistical Intervals, 1991, section 4.7), on the scale of the
    logarithm or the logit.

    Returns:
      A row for each placement, epoch and metric: published, mean, sd, low, high, t (the deviation
      in units of sd · sqrt(1 + 1/n), on the transformed scale), inside, n. Mean and sd are those of
      the numbers as they are. Empty with fewer than two seeds.
    """
    n = len(curves)
    if n < 2:
        return pd.DataFrame()
    metrics, numbers = metrics_of(curves), numbers_of(curves)
    values, target = transformed(curves, metrics), transformed(numbers, metrics)
    mean, scale = values.mean(axis=0), scale_of(values, rounding_of(numbers))
    low, high = (transformed_back(x, metrics) for x in stats.t.interval(0.95, n - 1, mean, scale))
    table = pd.DataFrame(
        {
            "published": numbers,
            "mean": curves.mean(),
            "sd": curves.std(),
            "low": low,
            "high": high,
            "t": (target - mean) / scale,
            "inside": (low <= numbers) & (numbers <= high),
            "n": n,
        },
        index=curves.columns,
    )
    return table.reset_index()


def rank(curves: pd.DataFrame) -> Rank | None:
    """Finds the place of all the report's numbers, taken together, among the curves of our runs.

    The report's pair of runs joins our n pairs as number n+1. Each pair is scored by how far it
    lies from the other n: the mean over all numbers of its squared studentised deviation, mean
    and standard deviation taken without it. Were the report's pair one more of ours, each of the
    n+1 places would be equally likely (Vovk, Gammerman & Shafer, Algorithmic Learning in a Random
    World, 2005, section 2.2). This assumes that pairs are exchangeable, but no distribution, and it
    holds however epochs are correlated. Place 31 of 31 is as probable as place 1, namely 1/31, so
    it is no better than any place between them.

    There are two limits. Our pairs share a seed and the report's may not; the places by placement
    do not depend on that. And a place far from 1 means little if the variant was chosen because it
    fits the same numbers.

    Returns:
      None with fewer than two seeds.
    """
    table = intervals(curves)
    if table.empty:
        return None
    metrics, numbers = metrics_of(curves), numbers_of(curves)
    together = np.vstack([transformed(curves, metrics), transformed(numbers, metrics)])
    scores = _deviations(together, rounding_of(numbers)) ** 2

    def place(chosen: np.ndarray) -> int:
        score = scores[:, chosen].mean(axis=1)
        return int(np.sum(score >= score[-1]))

    placement = curves.columns.get_level_values("placement")
    return Rank(
        place=place(np.full(len(placement), True)),
        among=len(curves) + 1,
        place_by_placement={name: place(placement == name) for name in placement.unique()},
        inside=int(table["inside"].sum()),
        total=len(table),
    )


def curves_of(runs: pd.DataFrame, variant: str = "report") -> pd.DataFrame:
    """A table of seeds by (placement, epoch, metric), without seeds that lack a placement."""
    rows = runs[(runs["variant"] == variant) & runs["placement"].isin(published.HISTORY)]
    wide = rows.pivot(index="seed", columns=["placement", "epoch"], values=list(published.METRICS))
    wide.columns = wide.columns.set_names("metric", level=0)
    wide = wide.reorder_levels(["placement", "epoch", "metric"], axis=1).dropna().astype(float)
    return wide[[key for key in _printed() if key in wide.columns]]


def metrics_of(curves: pd.DataFrame) -> list[str]:
    """The metric of each column of `curves_of`."""
    return list(curves.columns.get_level_values("metric"))


def numbers_of(curves: pd.DataFrame) -> pd.Series:
    """The report's number for each column of `curves_of`."""
    return pd.Series(_printed(), name="published", dtype=float).reindex(curves.columns)


def _printed() -> dict[tuple[str, int, str], float]:
    """The report's numbers by (placement, epoch, metric), in the report's order."""
    return {
        (placement, epoch.epoch, metric): getattr(epoch, metric)
        for placement, history in published.HISTORY.items()
        for epoch in history
        for metric in published.METRICS
    }


def transformed(values: pd.DataFrame | pd.Series, metrics: Iterable[str]) -> np.ndarray:
    """Numbers `[..., k]` of k metrics as the logarithm of a loss or the logit of an accuracy.

    Numbers without a finite transform are first moved by half a unit of the last printed digit.
    """
    loss, step = _kinds(metrics)
    numbers = values.to_numpy(dtype=float)
    share = np.clip(numbers, step / 2, 100 - step / 2) / 100
    return np.where(loss, np.log(np.maximum(numbers, step / 2)), special.logit(share))


def transformed_back(values: np.ndarray, metrics: Iterable[str]) -> np.ndarray:
    """The inverse of `transformed`."""
    loss, _ = _kinds(metrics)
    return np.where(loss, np.exp(np.where(loss, values, 0)), 100 * special.expit(values))


def rounding_of(numbers: pd.Series) -> np.ndarray:
    """The standard deviation that rounding to the printed digits causes, on the transformed scale.

    It is that of a uniform distribution over one step, step / sqrt(12), at each of the report's
    numbers (`numbers_of`). It is the smallest spread that is used, so that seeds which happen to
    agree do not exclude every other number.
    """
    metrics = list(numbers.index.get_level_values("metric"))
    _, step = _kinds(metrics)
    around = (transformed(numbers + sign * step / 2, metrics) for sign in (1, -1))
    return np.abs(np.subtract(*around)) / np.sqrt(12)


def scale_of(runs: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """Standard deviation of a new run's deviation from the mean; runs [..., n, k] -> [..., k]."""
    n = runs.shape[-2]
    return np.maximum(runs.std(axis=-2, ddof=1), floor) * np.sqrt(1 + 1 / n)


def _kinds(metrics: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which of the metrics are losses, and the unit of the last printed digit of each."""
    names = list(metrics)
    return (
        np.array([name.endswith("loss") for name in names]),
        np.array([published.PRINTED_STEP[name] for name in names]),
    )


def _deviations(runs: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """Each of n runs against the other n - 1: (x - mean) / (sd · sqrt(1 + 1/(n-1))), [n, k].

    It is the externally studentised residual of a constant model (Belsley, Kuh & Welsch,
    Regression Diagnostics, 1980, section 2.1); a test compares it with statsmodels' own.
    """
    n = len(runs)
    others = np.stack([np.delete(runs, i, axis=0) for i in range(n)])
    return (runs - others.mean(axis=1)) / scale_of(others, floor)
