"""Which of the settings that the report does not state made its curves."""

import numpy as np
import pandas as pd
from scipy import stats

from experiments.analysis.reproduction import (
    curves_of,
    intervals,
    joint_fit,
    numbers_of,
    rounding_of,
    scale_of,
)
from experiments.analysis.runs import final
from experiments.settings import SETTINGS


def likelihoods(runs: pd.DataFrame, *, resamples: int = 500) -> pd.DataFrame:
    """How well each undisclosed setting explains the published curves.

    The score is the sum over the report's numbers of the log density of the predictive Student-t
    distribution (mean, sd · sqrt(1 + 1/n), n - 1 degrees of freedom): a composite likelihood
    (Varin, Reid & Firth, Statistica Sinica 21, 2011), since epochs and metrics are correlated and
    it multiplies them as if they were not. It ranks settings; its differences are too large to be
    read as odds. Three columns guard against that: the numbers inside their interval and the
    largest |t|, which anyone can recompute from the reproduction table; how often the ranking
    survives resampling the seeds; and how many of a setting's own runs, each left out in turn and
    taken for the published one, the same method gives back to that setting.

    Returns:
      A row for each of `SETTINGS`: variant, momentum, normalisation, n, log_likelihood,
      behind (the best's minus this one's), inside, total, max_abs_t, p (of `joint_fit`), best_share
      (of the resamples), recognised (own runs given back), baseline_mean and baseline_sd (final
      test accuracy without a block, percent; the report has about 92). NaN where there are fewer
      than three seeds of both placements.
    """
    curves = {name: curves_of(runs, name) for name in SETTINGS}
    widest = max(curves.values(), key=lambda table: len(table.columns))
    known = {
        name: table.to_numpy()
        for name, table in curves.items()
        if len(table) > 2 and table.columns.equals(widest.columns)
    }
    numbers, floor = numbers_of(widest).to_numpy(), rounding_of(widest)
    rng = np.random.default_rng(0)

    rows, resampled = [], {}
    for name, setting in SETTINGS.items():
        baseline = final(runs, name, "none")
        row = {"variant": name, "momentum": setting.momentum}
        row |= {"normalisation": setting.normalisation, "n": len(curves[name])}
        row |= {"baseline_mean": baseline.mean(), "baseline_sd": baseline.std()}
        row |= dict.fromkeys(("log_likelihood", "inside", "total", "max_abs_t", "p", "recognised"))
        if name in known:
            own = known[name]
            fit = joint_fit(runs, name)
            assert fit is not None  # there are three seeds and more
            without = np.array(
                [_log_density(run, np.delete(own, i, axis=0), floor) for i, run in enumerate(own)]
            )
            behind = [without > _log_density(own, known[k], floor) for k in known if k != name]
            row |= {
                "log_likelihood": _log_density(numbers, own, floor),
                "inside": fit.inside,
                "total": fit.total,
                "max_abs_t": intervals(runs, name)["t"].abs().max(),
                "p": fit.p,
                "recognised": int(np.all(behind, axis=0).sum()) if behind else None,
            }
            again = own[rng.integers(len(own), size=(resamples, len(own)))]
            resampled[name] = _log_density(numbers, again, floor)
        rows.append(row)
    table = pd.DataFrame(rows).set_index("variant").astype({"log_likelihood": float})
    table["behind"] = table["log_likelihood"].max() - table["log_likelihood"]
    best = pd.DataFrame(resampled, dtype=float).idxmax(axis=1).value_counts(normalize=True)
    table["best_share"] = best.reindex(list(known), fill_value=0.0)
    return table.sort_values("behind").reset_index()


def _log_density(numbers: np.ndarray, runs: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """Log predictive density of numbers [..., k] after runs [..., n, k], summed over k."""
    scale = scale_of(runs, floor)
    return stats.t.logpdf(numbers, runs.shape[-2] - 1, runs.mean(axis=-2), scale).sum(axis=-1)
