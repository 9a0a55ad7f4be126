"""Which choices of what the report does not state made its curves.

Three things are not stated: how momentum enters the step, the scale of the pixels, and how batch
normalisation was told to normalise the test images. A cell is one choice of all three: a variant of
`groundwork.variants.CANDIDATES` and one of `groundwork.variants.EVALUATIONS`.

A cell's score is the sum over the report's 80 numbers of the log density of the predictive
Student-t distribution (mean, sd · sqrt(1 + 1/n), n - 1 degrees of freedom), on the scales of
`reproduction`: the logarithm of a loss and the logit of an accuracy. It is a composite likelihood
(Varin, Reid & Firth, Statistica Sinica 21, 2011): epochs and metrics are correlated, and it
multiplies them as if they were not. So it orders the cells, but its differences are not odds. How
reliable they are is measured: every run of every cell is left out in turn and treated as if it
were the report, and the same method names a cell for it. Its seed is left out of every cell,
because equal seeds share batches and initial weights.

All cells have equally many seeds. With more seeds a predictive density is better known, and that
alone would favour a cell: by 5.6 nats with 30 seeds against 10 when both cells are equally true.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from experiments.analysis.measures import Arm, Measures
from experiments.analysis.reproduction import (
    curves_of,
    intervals,
    metrics_of,
    numbers_of,
    rank,
    rounding_of,
    scale_of,
    transformed,
)
from experiments.analysis.runs import evaluated, evaluations_of
from experiments.groundwork.variants import CANDIDATES, VARIANTS

SEEDS = 30  # that are used of each cell
RESAMPLES = 500

CELLS_SHOWN = (
    "variant evaluation momentum learning_rate normalisation n log_likelihood:.0f behind:.0f "
    "inside:.0f max_abs_t:.1f place:.0f among:.0f best_share:.0% baseline_mean:.2f baseline_sd:.2f"
)
RECOGNITION_SHOWN = "variant evaluation n right taken_for named_wrongly"
STATEMENTS_SHOWN = "thing says lead:.0f typical_low:.0f typical_high:.0f right_here n_here right n"


class Cells(NamedTuple):
    """The cells that can be compared; `C` cells, `n` seeds, `k` numbers of the report.

    `names` are pairs of a variant and an evaluation.
    """

    names: tuple[tuple[str, str], ...]
    seeds: tuple[int, ...]  # [n], the same in every cell
    tables: tuple[pd.DataFrame, ...]  # [C] of [n, k], as `reproduction.curves_of` returns them
    curves: np.ndarray  # [C, n, k], transformed
    target: np.ndarray  # [k] the report's numbers, transformed
    floor: np.ndarray  # [k] the smallest spread, from `reproduction.rounding_of`


def cells_of(runs: pd.DataFrame) -> Cells | None:
    """The cells with all of the report's curves, and the first `SEEDS` seeds that all of them have.

    Returns:
      None if there are fewer than three such seeds.
    """
    tables = {
        (variant, evaluation): curves_of(evaluated(runs, evaluation), variant)
        for variant in CANDIDATES
        for evaluation in evaluations_of(runs)
    }
    widest = max(tables.values(), key=lambda table: len(table.columns), default=pd.DataFrame())
    known = {
        name: table
        for name, table in tables.items()
        if len(table) > 2 and table.columns.equals(widest.columns)
    }
    if not known:
        return None
    shared = set.intersection(*(set(table.index) for table in known.values()))
    seeds = sorted(shared)[:SEEDS]
    if len(seeds) < 3:
        return None
    metrics, numbers = metrics_of(widest), numbers_of(widest)
    chosen = tuple(table.loc[seeds] for table in known.values())
    return Cells(
        tuple(known),
        tuple(seeds),
        chosen,
        np.stack([transformed(table, metrics) for table in chosen]),
        transformed(numbers, metrics),
        rounding_of(numbers),
    )


def likelihoods(runs: pd.DataFrame, measures: Measures, cells: Cells | None) -> pd.DataFrame:
    """How well each cell explains the published curves.

    Beside the score stand numbers that need no likelihood: how many of the report's numbers are
    inside their interval, the largest |t|, the report's place among the runs.

    Args:
      runs: results, as `runs.complete_runs` returns them.
      measures: of these runs.
      cells: what `cells_of` returned.

    Returns:
      A row for each variant of `CANDIDATES` and evaluation that was run, the best first: variant,
      evaluation, momentum, learning_rate, normalisation, n, log_likelihood, behind (the best's
      minus this one's), inside, total, max_abs_t, place, among (as in `reproduction.Rank`, for
      the same seeds), best_share (of resamples of the seeds), baseline_mean and baseline_sd (final
      test accuracy without a block, percent; the report has about 92). NaN where a cell is not in
      `cells`.
    """
    scores, shares = {}, {}
    if cells:
        rng = np.random.default_rng(0)
        again = rng.integers(len(cells.seeds), size=(RESAMPLES, len(cells.seeds)))
        resampled = np.stack([_log_density(cells, own[again]) for own in cells.curves])
        share = np.bincount(resampled.argmax(axis=0), minlength=len(cells.names)) / RESAMPLES
        scores = dict(zip(cells.names, _log_density(cells, cells.curves), strict=True))
        shares = dict(zip(cells.names, share, strict=True))
    rows, nothing = [], pd.Series(dtype=float)
    for evaluation in evaluations_of(runs):
        for variant in [name for name in CANDIDATES if name in set(runs["variant"])]:
            recipe, name = VARIANTS[variant], (variant, evaluation)
            row = {"variant": variant, "evaluation": evaluation, "momentum": recipe.momentum}
            row |= {"learning_rate": recipe.learning_rate, "normalisation": recipe.pixels}
            row |= {"n": 0, "log_likelihood": scores.get(name, np.nan)}
            row |= dict.fromkeys(("inside", "total", "max_abs_t", "place", "among"), np.nan)
            if cells and name in cells.names:
                curves = cells.tables[cells.names.index(name)]
                fit = rank(curves)
                assert fit is not None  # there are three seeds at least
                row |= {"n": len(cells.seeds), "inside": fit.inside, "total": fit.total}
                row |= {"max_abs_t": intervals(curves)["t"].abs().max()}
                row |= {"place": fit.place, "among": fit.among}
            baseline = measures.by_seed.get(Arm(variant, "none", evaluation), nothing)
            row |= {"best_share": shares.get(name, np.nan)}
            row |= {"baseline_mean": baseline.mean(), "baseline_sd": baseline.std()}
            rows.append(row)
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    table["behind"] = table["log_likelihood"].max() - table["log_likelihood"]
    return table.sort_values("behind", kind="stable", ignore_index=True)


def own_scores(cells: Cells) -> np.ndarray:
    """The score that each cell would have if one of our runs were the report.

    Returns:
      `[C, n, C]`: the axes are the cell that made the run, its seed, and the cell that is scored.
      The seed is left out of the cell that is scored.
    """
    n = len(cells.seeds)
    others = np.stack([np.delete(cells.curves, i, axis=1) for i in range(n)])  # [n, C, n - 1, k]
    mean, scale = others.mean(axis=2), scale_of(others, cells.floor)  # [n, C, k]
    runs = cells.curves[:, :, None]  # [C, n, 1, k]
    return stats.t.logpdf(runs, n - 2, mean, scale).sum(axis=-1)


def recognition(cells: Cells | None) -> pd.DataFrame:
    """Which cell the method names for our own runs, whose cell is known.

    Returns:
      A row for each cell: variant, evaluation, n, right (runs for which it is named), taken_for
      (the cell that is named most often in its place, and how often), named_wrongly (runs of other
      cells for which it is named).
    """
    if not cells:
        return pd.DataFrame()
    count = len(cells.names)
    named = own_scores(cells).argmax(axis=-1)  # [C, n]
    table = np.stack([np.bincount(row, minlength=count) for row in named])  # [C, C]
    rows = []
    for i, (variant, evaluation) in enumerate(cells.names):
        wrong = np.where(np.arange(count) == i, 0, table[i])
        most = int(wrong.argmax())
        other = f"{' / '.join(cells.names[most])}: {wrong[most]}" if wrong[most] else ""
        rows.append(
            {
                "variant": variant,
                "evaluation": evaluation,
                "n": len(cells.seeds),
                "right": int(table[i, i]),
                "taken_for": other,
                "named_wrongly": int(table[:, i].sum() - table[i, i]),
            }
        )
    return pd.DataFrame(rows)


def statements(cells: Cells | None) -> pd.DataFrame:
    """What the curves say about step, pixels and evaluation, and how reliable that is.

    Returns:
      A row for each of these three things: thing, says (the best cell's choice), lead (nats of the
      best cell over the best one with another choice), typical_low and typical_high (the 5 and 95 %
      quantiles of the same lead over our own runs of the best cell; the report's should lie between
      them), right_here (of these runs, those for which the method names the right choice), n_here,
      right (the same for all runs of all cells), n.
    """
    if not cells:
        return pd.DataFrame()
    report = _log_density(cells, cells.curves)
    best = int(report.argmax())
    own = own_scores(cells)
    named = own.argmax(axis=-1)  # [C, n]
    rows = []
    for thing, levels in _levels(cells).items():
        same = levels == levels[best]
        row = {"thing": thing, "says": levels[best], "lead": np.nan}
        row |= {"typical_low": np.nan, "typical_high": np.nan}
        if not same.all():
            row["lead"] = report[best] - report[~same].max()
            leads = own[best][:, same].max(axis=-1) - own[best][:, ~same].max(axis=-1)  # [n]
            row["typical_low"], row["typical_high"] = np.quantile(leads, (0.05, 0.95))
        right = levels[named] == levels[:, None]  # [C, n]
        row |= {"right_here": int(right[best].sum()), "n_here": right.shape[1]}
        rows.append(row | {"right": int(right.sum()), "n": right.size})
    return pd.DataFrame(rows)


def _levels(cells: Cells) -> dict[str, np.ndarray]:
    """The choice of each cell in each of the three things, `[C]` words."""
    recipes = [VARIANTS[variant] for variant, _ in cells.names]
    steps = [f"momentum {r.momentum:g}, learning rate {r.learning_rate:g}" for r in recipes]
    words = {"step": steps, "pixels": [r.pixels for r in recipes]}
    words["evaluation"] = [evaluation for _, evaluation in cells.names]
    return {thing: np.array(each) for thing, each in words.items()}


def _log_density(cells: Cells, runs: np.ndarray) -> np.ndarray:
    """Log predictive density of the report's numbers after runs `[..., n, k]`, summed: `[...]`."""
    scale = scale_of(runs, cells.floor)
    return stats.t.logpdf(cells.target, runs.shape[-2] - 1, runs.mean(axis=-2), scale).sum(axis=-1)
