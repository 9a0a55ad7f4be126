"""Does the report reproduce: its numbers, and its curves as wholes, among our runs of a setting."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from experiments import published


@dataclass(frozen=True)
class JointFit:
    """Whether the report's two runs, taken together, look like two more of ours."""

    statistic: float  # mean squared standardised deviation of the report's numbers; about 1
    p: float  # of the pair of runs
    p_by_placement: dict[str, float]
    n: int  # our pairs of runs; the smallest p that n pairs can give is 1/(n+1)
    inside: int  # numbers inside their 95 % prediction interval
    total: int


def intervals(runs: pd.DataFrame, variant: str = "report") -> pd.DataFrame:
    """The report's numbers against the seeds of one variant.

    The 95 % prediction interval for one new run is mean ± t(0.975, n-1) · sd · sqrt(1 + 1/n), of
    normal runs (Hahn & Meeker, Statistical Intervals, 1991, section 4.7).

    Returns:
      A row for each placement, epoch and metric: published, mean, sd, low, high, t (the deviation
      in units of sd · sqrt(1 + 1/n)), inside, n. Empty with fewer than two seeds.
    """
    curves = curves_of(runs, variant)
    n = len(curves)
    if n < 2:
        return pd.DataFrame()
    mean, scale = (
        curves.mean(),
        pd.Series(scale_of(curves.to_numpy(), rounding_of(curves)), curves.columns),
    )
    low, high = stats.t.interval(0.95, n - 1, mean, scale)
    numbers = numbers_of(curves)
    table = pd.DataFrame(
        {
            "published": numbers,
            "mean": mean,
            "sd": curves.std(),
            "low": low,
            "high": high,
            "t": (numbers - mean) / scale,
            "inside": (low <= numbers) & (numbers <= high),
            "n": n,
        },
        index=curves.columns,
    )
    return table.reset_index()


def joint_fit(runs: pd.DataFrame, variant: str = "report") -> JointFit | None:
    """One p-value for all the report's numbers, exact however its epochs are correlated.

    The report's pair of runs joins our n pairs as number n+1. Each pair is scored by how far it
    lies from the other n: the mean over all numbers of its squared studentised deviation, mean
    and standard deviation taken without it. Were the report's pair one more of ours, its rank
    among the n+1 scores would be uniform, so p = (pairs with a score at least as large, itself
    included)/(n+1). This is the conformal p-value (Vovk, Gammerman & Shafer, Algorithmic Learning
    in a Random World, 2005, section 2.2). It assumes exchangeable pairs and no distribution.

    Two limits. Our pairs share a seed and the report's may not; the p-values by placement do not
    depend on that. And it is optimistic where the variant was chosen to fit the same numbers.
    """
    table = intervals(runs, variant)
    if table.empty:
        return None
    curves = curves_of(runs, variant)
    together = pd.concat([curves, numbers_of(curves).to_frame().T])
    scores = _deviations(together.to_numpy(), rounding_of(curves)) ** 2

    def rank(chosen: np.ndarray) -> float:
        score = scores[:, chosen].mean(axis=1)
        return float(np.mean(score >= score[-1]))

    placement = curves.columns.get_level_values("placement")
    return JointFit(
        statistic=float(scores[-1].mean()),
        p=rank(np.full(len(placement), True)),
        p_by_placement={name: rank(placement == name) for name in placement.unique()},
        n=len(curves),
        inside=int(table["inside"].sum()),
        total=len(table),
    )


def curves_of(runs: pd.DataFrame, variant: str) -> pd.DataFrame:
    """Seeds by (placement, epoch, metric); a seed must have every placement that the study has."""
    rows = runs[(runs["variant"] == variant) & runs["placement"].isin(published.HISTORY)]
    wide = rows.pivot(index="seed", columns=["placement", "epoch"], values=list(published.METRICS))
    wide.columns = wide.columns.set_names("metric", level=0)
    order = [
        (placement, epoch.epoch, metric)
        for placement, history in published.HISTORY.items()
        for epoch in history
        for metric in published.METRICS
    ]
    wide = wide.reorder_levels(["placement", "epoch", "metric"], axis=1).dropna().astype(float)
    return wide[[key for key in order if key in wide.columns]]


def numbers_of(curves: pd.DataFrame) -> pd.Series:
    """The report's number for each column of `curves_of`."""
    printed = {
        (placement, epoch.epoch, metric): getattr(epoch, metric)
        for placement, history in published.HISTORY.items()
        for epoch in history
        for metric in published.METRICS
    }
    return pd.Series(printed, name="published").reindex(curves.columns)


def rounding_of(curves: pd.DataFrame) -> np.ndarray:
    """The standard deviation that rounding to the printed digits gives: step / sqrt(12).

    No spread is taken for smaller, so that seeds which happen to agree do not exclude every other
    number.
    """
    steps = [published.PRINTED_STEP[metric] for metric in curves.columns.get_level_values("metric")]
    return np.array(steps) / np.sqrt(12)


def scale_of(runs: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """Standard deviation of a new run's deviation from the mean; runs [..., n, k] -> [..., k]."""
    n = runs.shape[-2]
    return np.maximum(runs.std(axis=-2, ddof=1), floor) * np.sqrt(1 + 1 / n)


def _deviations(runs: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """Each of n runs against the other n - 1: (x - mean) / (sd · sqrt(1 + 1/(n-1))), [n, k].

    It is the externally studentised residual of a constant model (Belsley, Kuh & Welsch,
    Regression Diagnostics, 1980, section 2.1); a test compares it with statsmodels' own.
    """
    n = len(runs)
    others = np.stack([np.delete(runs, i, axis=0) for i in range(n)])
    return (runs - others.mean(axis=1)) / scale_of(others, floor)
