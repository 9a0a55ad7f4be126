"""Differences between runs that share a seed: intervals, tests and their power."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.power import TTestPower

LEVEL = 0.05
CLAIMS = 4  # the number of the report's claims
HOLM_LEVEL = LEVEL / CLAIMS  # the level at which Holm's procedure tests the smallest p-value


def paired(differences: pd.Series) -> dict[str, Any]:
    """Tests whether the mean of paired differences is 0, and estimates it.

    Args:
      differences: one for each seed; missing ones (NaN) are left out.

    Returns:
      effect (the mean), low and high (its 95 % interval), low90 and high90 (its 90 % interval), sd
      (of the differences), p (two-sided paired t-test of no difference), p_sign (sign test, which
      assumes no distribution and leaves ties out), ahead (share of seeds above 0, a tie counting
      half), n, differences. All but the last two are NaN with fewer than two seeds; intervals and
      p-values are NaN if all differences are equal.
    """
    known = differences.dropna()
    row: dict[str, Any] = dict.fromkeys(
        ("effect", "low", "high", "low90", "high90", "sd", "p", "p_sign", "ahead"), np.nan
    )
    # A difference of 1e-14 points is noise of the arithmetic.
    row |= {"n": len(known), "differences": tuple(known.round(12) + 0.0)}
    if len(known) < 2:
        return row
    above, below = (known > 1e-9).sum(), (known < -1e-9).sum()
    row["effect"], row["sd"] = known.mean(), known.std()
    row["ahead"] = (above + (len(known) - above - below) / 2) / len(known)
    if np.ptp(known) < 1e-9:  # no test is possible without any spread
        return row
    test: Any = stats.ttest_1samp(known, 0.0)
    row["low"], row["high"] = test.confidence_interval(1 - LEVEL)
    row["low90"], row["high90"] = test.confidence_interval(1 - 2 * LEVEL)
    row["p"] = test.pvalue
    row["p_sign"] = stats.binomtest(int(above), int(above + below)).pvalue
    return row


def p_within(row: dict[str, Any], margin: float) -> float:
    """The p-value of two one-sided tests of a mean outside ± margin (Schuirmann, 1987).

    A small p-value says that the mean lies inside. `row` is what `paired` returns.
    """
    if np.isnan(row["low"]):
        return np.nan
    error = row["sd"] / np.sqrt(row["n"])
    below, above = (row["effect"] + margin) / error, (margin - row["effect"]) / error
    return float(stats.t.sf(min(below, above), row["n"] - 1))


def power(effect: float, sd: float, n: int, *, level: float = HOLM_LEVEL) -> float:
    """The chance that a two-sided paired t-test finds a difference of this size and spread."""
    return float(np.asarray(TTestPower().power(abs(effect) / sd, n, level)))


def power_within(margin: float, sd: float, n: int, *, level: float = HOLM_LEVEL) -> float:
    """The chance that `p_within` falls below the level if there is no difference at all.

    This is the power of two one-sided t-tests. They succeed if the mean lies closer to 0 than the
    margin less t · s / sqrt(n), where t is a quantile of Student's t and s the standard deviation
    of the sample. For a given s the normal distribution of the mean says how probable that is, and
    this is averaged over the distribution of s.
    """
    shares = (np.arange(2000) + 0.5) / 2000
    s = sd * np.sqrt(stats.chi2.ppf(shares, n - 1) / (n - 1))
    room = margin - stats.t.isf(level, n - 1) * s / np.sqrt(n)
    inside = 2 * stats.norm.cdf(room * np.sqrt(n) / sd) - 1
    return float(np.where(room > 0, inside, 0).mean())
