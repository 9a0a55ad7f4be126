"""The study's statistics: from a table of results to the tables the README shows.

A result is one line of `results.jsonl`: variant, placement, seed, epoch, the four metrics of
`published.METRICS`, and the confusion matrix of the test split, row = label, column = prediction.
Equal seeds saw equal batches in equal order, whatever the placement and the variant, so
comparisons are paired by seed. `analyse` makes every table, `to_markdown` renders them, `summary`
turns them into JSON. Nothing here trains, draws or prints.

What cannot be computed, because seeds, placements or variants are missing, is left empty (NaN)
and named in `Tables.notes`.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW, ttost_ind

from experiments import published

FINAL = "test_accuracy_percent"
TARGET_PERCENT = 97.0  # of claim 3, the speed of learning
# Two times are "about the same" where their ratio lies within 0.8 .. 1.25, that is within 25 % of
# the smaller: the bioequivalence margin (FDA, Statistical Approaches to Establishing
# Bioequivalence, 2001), symmetric in the logarithm.
SAME_RATIO = 1.25
LEVEL = 0.05

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


@dataclass(frozen=True)
class JointFit:
    """Whether the report's two runs, taken together, look like two more of ours."""

    statistic: float  # mean squared standardised deviation of the report's numbers; about 1
    p: float  # of the pair of runs
    p_by_placement: dict[str, float]
    n: int  # our pairs of runs; the smallest p that n pairs can give is 1/(n+1)
    inside: int  # numbers inside their 95 % prediction interval
    total: int


@dataclass(frozen=True)
class Tables:
    """Every table of the study; the functions that make them describe their columns."""

    reproduction: pd.DataFrame
    joint: JointFit | None  # None with fewer than two seeds
    claims: pd.DataFrame
    evidence: pd.DataFrame
    settings: pd.DataFrame
    per_class: pd.DataFrame
    sampling: pd.DataFrame
    notes: tuple[str, ...]


def analyse(results: pd.DataFrame, timing: Mapping[str, Any] | None = None) -> Tables:
    """Makes every table.

    Args:
      results: the lines of `results.jsonl`.
      timing: the JSON that `benchmarks.epoch_time` writes; claim 2 needs it.

    Returns:
      The tables.

    Raises:
      ValueError: a variant, placement, seed and epoch occur twice.
    """
    runs = complete_runs(results)
    evidence = claim_evidence(runs, timing)
    return Tables(
        reproduction=reproduction(runs),
        joint=joint_fit(runs),
        claims=claim_verdicts(evidence),
        evidence=evidence,
        settings=settings(runs),
        per_class=per_class(runs),
        sampling=sampling(runs),
        notes=_notes(results, runs, timing),
    )


def complete_runs(results: pd.DataFrame) -> pd.DataFrame:
    """The runs that have every epoch up to the study's last, or the report's tenth, and are finite.

    Raises:
      ValueError: a variant, placement, seed and epoch occur twice.
    """
    run = ["variant", "placement", "seed"]
    if results.duplicated([*run, "epoch"]).any():
        raise ValueError("results hold a variant, placement, seed and epoch twice")
    last = min(results["epoch"].max(), len(published.HISTORY["after_fc1"]))
    rows = results[results["epoch"] <= last]
    finite = np.isfinite(rows[list(published.METRICS)].astype(float)).all(axis=1)
    epochs = finite.groupby([rows[key] for key in run]).transform("sum")
    return rows[epochs == last]


# Reproduction --------------------------------------------------------------------------------


def reproduction(runs: pd.DataFrame, variant: str = "report") -> pd.DataFrame:
    """The report's numbers against the seeds of one variant.

    The 95 % prediction interval for one new run is mean ± t(0.975, n-1) · sd · sqrt(1 + 1/n), of
    normal runs (Hahn & Meeker, Statistical Intervals, 1991, section 4.7).

    Returns:
      A row for each placement, epoch and metric: published, mean, sd, low, high, t (the deviation
      in units of sd · sqrt(1 + 1/n)), inside, n. Empty with fewer than two seeds.
    """
    curves = _curves(runs, variant)
    n = len(curves)
    if n < 2:
        return pd.DataFrame()
    mean, scale = (
        curves.mean(),
        pd.Series(_scale(curves.to_numpy(), _floor(curves)), curves.columns),
    )
    low, high = stats.t.interval(0.95, n - 1, mean, scale)
    numbers = _published(curves)
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
    table = reproduction(runs, variant)
    if table.empty:
        return None
    curves = _curves(runs, variant)
    together = pd.concat([curves, _published(curves).to_frame().T])
    scores = _deviations(together.to_numpy(), _floor(curves)) ** 2

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


def _curves(runs: pd.DataFrame, variant: str) -> pd.DataFrame:
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


def _published(curves: pd.DataFrame) -> pd.Series:
    """The report's number for each column of `_curves`."""
    numbers = [
        getattr(published.HISTORY[placement][epoch - 1], metric)
        for placement, epoch, metric in curves.columns
    ]
    return pd.Series(numbers, curves.columns, name="published")


def _floor(curves: pd.DataFrame) -> np.ndarray:
    """The standard deviation that rounding to the printed digits gives: step / sqrt(12).

    No spread is taken for smaller, so that seeds which happen to agree do not exclude every other
    number.
    """
    steps = [published.PRINTED_STEP[metric] for metric in curves.columns.get_level_values("metric")]
    return np.array(steps) / np.sqrt(12)


def _scale(runs: np.ndarray, floor: np.ndarray) -> np.ndarray:
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
    return (runs - others.mean(axis=1)) / _scale(others, floor)


# The settings the report does not state ------------------------------------------------------


def settings(runs: pd.DataFrame, *, resamples: int = 500) -> pd.DataFrame:
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
      A row for each of `published.SETTINGS`: variant, momentum, normalisation, n, log_likelihood,
      behind (the best's minus this one's), inside, total, max_abs_t, p (of `joint_fit`), best_share
      (of the resamples), recognised (own runs given back), baseline_mean and baseline_sd (final
      test accuracy without a block, percent; the report has about 92). NaN where there are fewer
      than three seeds of both placements.
    """
    curves = {name: _curves(runs, name) for name in published.SETTINGS}
    widest = max(curves.values(), key=lambda table: len(table.columns))
    known = {
        name: table.to_numpy()
        for name, table in curves.items()
        if len(table) > 2 and table.columns.equals(widest.columns)
    }
    numbers, floor = _published(widest).to_numpy(), _floor(widest)
    rng = np.random.default_rng(0)

    rows, resampled = [], {}
    for name, setting in published.SETTINGS.items():
        baseline = _final(runs, name, "none")
        row = {"variant": name, **setting._asdict(), "n": len(curves[name])}
        row |= {"baseline_mean": baseline.mean(), "baseline_sd": baseline.std()}
        row |= dict.fromkeys(("log_likelihood", "inside", "total", "max_abs_t", "p", "recognised"))
        if name in known:
            own = known[name]
            fit = joint_fit(runs, name)
            without = np.array(
                [_log_density(run, np.delete(own, i, axis=0), floor) for i, run in enumerate(own)]
            )
            behind = [without > _log_density(own, known[k], floor) for k in known if k != name]
            row |= {
                "log_likelihood": _log_density(numbers, own, floor),
                "inside": fit.inside,
                "total": fit.total,
                "max_abs_t": reproduction(runs, name)["t"].abs().max(),
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
    scale = _scale(runs, floor)
    return stats.t.logpdf(numbers, runs.shape[-2] - 1, runs.mean(axis=-2), scale).sum(axis=-1)


# The four claims -----------------------------------------------------------------------------


def claim_evidence(runs: pd.DataFrame, timing: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Every comparison that bears on a claim of the report, one a row.

    Claims 1, 3 and 4 are differences paired by seed: their mean, its 95 % confidence interval and
    the p-value of the two-sided paired t-test; beside it the p-value of the sign test, which
    assumes no distribution of the differences and leaves ties out. Claim 2 is the ratio of
    geometric mean epoch times, after_fc1 to before_fc1, with Welch's interval on the logarithm and
    the p-value of two one-sided tests (Schuirmann 1987) of a ratio outside 1/`SAME_RATIO` ..
    `SAME_RATIO`: there a small p says that the times are the same.

    Returns:
      claim (1 to 4), reading, variant, where (a placement, or the program that was timed), unit,
      effect, low, high, d (effect in standard deviations of the difference), test, p, p_sign, n,
      primary (whether the verdict rests on the row), note, differences (tuple, one a seed).
    """
    variants = [name for name in published.SETTINGS if name in set(runs["variant"])]
    blocks = tuple(published.HISTORY)
    rows = []

    def add(claim: int, reading: str, variant: str, where: str, pair: dict, **more: Any) -> None:
        row = {"claim": claim, "reading": reading, "variant": variant, "where": where}
        rows.append(row | {"unit": "points", "primary": False, "note": ""} | pair | more)

    for variant in variants:
        for block in blocks:
            pair = _paired(_final(runs, variant, block), _final(runs, variant, "none"))
            add(1, "equal settings", variant, block, pair, primary=variant == "report")
    # The report's networks against one without block and without momentum, for both pixel scales
    # that explain its curves: it is the scale that decides where this baseline ends.
    for variant, baseline in (("report", "no_momentum"), ("mnist", "no_momentum_mnist")):
        for block in blocks:
            pair = _paired(_final(runs, variant, block), _final(runs, baseline, "none"))
            add(1, "baseline without momentum", variant, block, pair)

    rows += _timing_evidence(timing)

    for variant in ("report", "mnist"):
        for block in (*blocks, "none"):
            saved, note = _epochs_saved(runs, variant, block)
            primary = variant == "report" and block != "none"
            more = {"unit": "epochs", "note": note, "primary": primary}
            add(3, "epochs to 97 % saved", variant, block, saved, **more)
            gain = _paired(_final(runs, variant, block), _final(runs, "unnormalised", block))
            add(3, "final accuracy gained", variant, block, gain)

    for variant in variants:
        pair = _paired(_final(runs, variant, "after_fc1"), _final(runs, variant, "before_fc1"))
        add(4, "after_fc1 - before_fc1", variant, "", pair, primary=variant == "report")
    order = {"kind": "stable", "ignore_index": True}
    return pd.DataFrame(rows).sort_values(["claim", "primary"], ascending=[True, False], **order)


def epochs_to_target(runs: pd.DataFrame, variant: str, placement: str) -> pd.Series:
    """Epochs until test accuracy first reaches `TARGET_PERCENT`, by seed; NaN where it never does.

    Accuracy is measured after each epoch. Between two measurements it is taken as a straight
    line, and before the first one as a line from 10 %, which guessing gives.
    """
    rows = runs[(runs["variant"] == variant) & (runs["placement"] == placement)]
    curves = rows.pivot(index="seed", columns="epoch", values=FINAL).sort_index(axis=1)
    curves = curves.to_numpy(dtype=float), curves.index
    accuracy = np.column_stack([np.full(len(curves[0]), 10.0), curves[0]])
    reached = accuracy >= TARGET_PERCENT
    epoch = reached.argmax(axis=1)
    seeds = np.arange(len(accuracy))
    after, before = accuracy[seeds, epoch], accuracy[seeds, epoch - 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        crossed = epoch - (after - TARGET_PERCENT) / (after - before)
    return pd.Series(np.where(reached.any(axis=1), crossed, np.nan), curves[1], dtype=float)


def _epochs_saved(runs: pd.DataFrame, variant: str, placement: str) -> tuple[dict, str]:
    """Epochs to the target without normalisation minus epochs with it, and what to know of it."""
    plain = epochs_to_target(runs, "unnormalised", placement)
    normalised = epochs_to_target(runs, variant, placement)
    if normalised.isna().any():
        missed = f"{normalised.isna().sum()} of {len(normalised)} normalised runs"
        return _paired(
            normalised, normalised.iloc[:0]
        ), f"{missed} never reached {TARGET_PERCENT} %"
    note = ""
    if plain.isna().any():
        note = (
            f"{plain.isna().sum()} of {len(plain)} runs without normalisation never reached it and "
            "count as the last epoch: a lower bound"
        )
    return _paired(plain.fillna(float(runs["epoch"].max())), normalised), note


def _final(runs: pd.DataFrame, variant: str, placement: str) -> pd.Series:
    """Test accuracy after the last epoch, percent, by seed."""
    rows = runs[(runs["variant"] == variant) & (runs["placement"] == placement)]
    return rows[rows["epoch"] == runs["epoch"].max()].set_index("seed")[FINAL].astype(float)


def _paired(first: pd.Series, second: pd.Series) -> dict[str, Any]:
    """First minus second over the seeds that both have."""
    differences = (first - second).dropna()
    row = {"effect": np.nan, "low": np.nan, "high": np.nan, "d": np.nan, "p": np.nan}
    row |= {"test": "paired t", "p_sign": np.nan, "n": len(differences)}
    row["differences"] = tuple(differences)
    if len(differences) < 2:
        return row
    row["effect"] = differences.mean()
    if np.ptp(differences) < 1e-9:  # no spread: no test can be made of it
        return row
    test = stats.ttest_1samp(differences, 0.0)
    row["low"], row["high"] = test.confidence_interval(0.95)
    row["d"], row["p"] = differences.mean() / differences.std(), test.pvalue
    ahead, behind = (differences > 1e-9).sum(), (differences < -1e-9).sum()
    row["p_sign"] = stats.binomtest(int(ahead), int(ahead + behind)).pvalue
    return row


def _timing_evidence(timing: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """A row for each program and thread count that was timed with both blocks, twice or more."""
    seconds: dict[tuple[str, int], dict[str, list[float]]] = {}
    for row in (timing or {"rows": []})["rows"]:
        key = (row["program"], row["threads"])
        seconds.setdefault(key, {})[row["placement"]] = row["epoch_seconds"]
    rows = []
    for (program, threads), measured in seconds.items():
        after, before = (np.log(measured.get(p, [])) for p in ("after_fc1", "before_fc1"))
        if min(len(after), len(before)) < 2:
            continue
        means = CompareMeans(DescrStatsW(after), DescrStatsW(before))
        low, high = means.tconfint_diff(LEVEL, usevar="unequal")
        margin = np.log(SAME_RATIO)
        p, *_ = ttost_ind(after, before, -margin, margin, usevar="unequal")
        rows.append(
            {
                "claim": 2,
                "reading": "seconds an epoch, after_fc1 / before_fc1",
                "where": f"{program} ({threads} threads)",
                "unit": "ratio",
                "effect": np.exp(after.mean() - before.mean()),
                "low": np.exp(low),
                "high": np.exp(high),
                "test": f"equivalence within x{SAME_RATIO}",
                "p": p,
                "n": min(len(after), len(before)),
                "primary": True,
                "note": "",
            }
        )
    return rows


def claim_verdicts(evidence: pd.DataFrame) -> pd.DataFrame:
    """The four claims, each with one p-value and a verdict in plain words.

    A claim speaks of both networks, or of any program, so its p-value is the largest of its
    primary rows: the intersection-union test (Berger, Technometrics 24, 1982), which needs no
    correction inside a claim. Holm's correction then covers the four claims; one that could not be
    tested counts as p = 1. Rows of the evidence that are not primary are not corrected.

    Returns:
      claim, statement, effects (the primary rows in words), test, n, p, p_holm, verdict.
    """
    rows = []
    for number, statement in enumerate(published.CLAIMS, start=1):
        mine = evidence[(evidence["claim"] == number) & evidence["primary"].astype(bool)]
        row = {"claim": number, "statement": statement, "effects": "", "test": "", "n": 0}
        row["p"] = np.nan
        if len(mine):
            row["effects"] = "; ".join(_in_words(line) for line in mine.to_dict("records"))
            row |= {"test": mine["test"].iloc[0], "n": int(mine["n"].min())}
            row["p"] = mine["p"].max(skipna=False)
        rows.append(row)
    table = pd.DataFrame(rows)
    adjusted = multipletests(table["p"].fillna(1.0), method="holm")[1]
    table["p_holm"] = np.where(table["p"].isna(), np.nan, adjusted)
    judges: tuple[Callable[[pd.DataFrame, float], str], ...] = (
        _judge_block,
        _judge_times,
        _judge_normalisation,
        _judge_order,
    )
    table["verdict"] = [
        "could not be tested" if np.isnan(p) else judge(evidence[evidence["claim"] == number], p)
        for number, (judge, p) in enumerate(zip(judges, table["p_holm"], strict=True), start=1)
    ]
    return table


def _in_words(row: Mapping[str, Any]) -> str:
    """An effect with its 95 % interval, as in `before_fc1 +0.31 [+0.27, +0.35] points`."""
    note = f" ({row['note']})" if row["note"] else ""
    if np.isnan(row["effect"]):
        return f"{row['where']} not computed{note}".strip()
    form = "{:.2f}" if row["unit"] == "ratio" else "{:+.2f}"
    effect, low, high = (form.format(row[key]) for key in ("effect", "low", "high"))
    return f"{row['where']} {effect} [{low}, {high}] {row['unit']}{note}".strip()


def _judge_block(rows: pd.DataFrame, p: float) -> str:
    equal, unequal = rows[rows["primary"]], rows[rows["reading"] != "equal settings"]
    finals = [history[-1].test_accuracy_percent for history in published.HISTORY.values()]
    claimed = min(finals) - published.BASELINE_TEST_ACCURACY_PERCENT
    least = claimed - 0.5  # "about 92" is a whole number
    found = f"at equal settings the block is worth {_span(equal['effect'])} points"
    if p >= LEVEL:
        return f"undecided: {found}, and that both networks gain is not shown"
    if (equal["effect"] < 0).any():
        return f"does not hold: {found}"
    if (equal["high"] >= least).all():
        return f"holds: {found}"
    if (unequal["high"] >= least).any():
        gains = ", ".join(
            f"{_span(gain['effect'])} points with pixels {published.SETTINGS[name].normalisation}"
            for name, gain in unequal.dropna(subset="effect").groupby("variant", sort=False)
        )
        return (
            f"holds only against a baseline without momentum: {gains}; {found}, not the report's "
            f"{claimed:+.1f}"
        )
    return f"holds in sign only: {found}, not the report's {claimed:+.1f}"


def _judge_times(rows: pd.DataFrame, p: float) -> str:
    if p < LEVEL:
        return f"holds: within a factor of {SAME_RATIO} in every program timed"
    same = rows[rows["p"] < LEVEL]["where"]
    other = rows[(rows["low"] > SAME_RATIO) | (rows["high"] < 1 / SAME_RATIO)]["where"]
    open_ = rows[~rows["where"].isin([*same, *other])]["where"]
    parts = [
        f"{said} {', '.join(names)}"
        for said, names in (
            ("holds only in", same),
            ("does not hold in", other),
            ("undecided in", open_),
        )
        if len(names)
    ]
    return "; ".join(parts)


def _judge_normalisation(rows: pd.DataFrame, p: float) -> str:
    speed = rows[rows["primary"]]
    final = rows[(rows["variant"] == "report") & (rows["reading"] == "final accuracy gained")]
    final = final[final["where"] != "none"]
    found = (
        f"{_span(speed['effect'])} epochs to {TARGET_PERCENT:.0f} % saved, "
        f"final accuracy {_span(final['effect'])} points"
    )
    if p < LEVEL and (speed["effect"] > 0).all():
        return f"holds: {found}"
    if p < LEVEL and (speed["effect"] < 0).all():
        return f"does not hold, the opposite is true: {found}"
    return f"undecided: {found}"


def _judge_order(rows: pd.DataFrame, p: float) -> str:
    row = rows[rows["primary"]].iloc[0]
    before, after = (history[-1].test_accuracy_percent for history in published.HISTORY.values())
    claimed = after - before
    needed = [seeds_needed(row["d"]), seeds_needed(row["d"] * claimed / row["effect"])]
    now, then = ("over 10,000" if n is None else f"{n:,}" for n in needed)
    found = (
        f"{row['effect']:+.3f} points, ahead in {np.mean(np.array(row['differences']) > 0):.0%} of "
        f"seeds; 80 % power needs {now} seeds at this size, {then} at the report's {claimed:+.2f}"
    )
    if p >= LEVEL:
        return f"undecided: {found}"
    return f"holds: {found}" if row["effect"] > 0 else f"does not hold, reversed: {found}"


def seeds_needed(d: float, *, power: float = 0.8) -> int | None:
    """Seeds for a two-sided paired t-test at 5 % to find a difference.

    The difference is d of its own standard deviations. Where d is an estimate, the number is as
    uncertain as d (Hoenig & Heisey, The American Statistician 55, 2001). None means over 10,000.
    """
    n = np.arange(2, 10_001)
    enough = TTestPower().power(abs(d), n, LEVEL) >= power
    return int(n[enough.argmax()]) if enough.any() else None


def _span(effects: Iterable[float]) -> str:
    """Smallest and largest effect, as in `+0.31 to +0.44`."""
    ends = sorted({f"{value:+.2f}" for value in (min(effects), max(effects))}, key=float)
    return " to ".join(ends)


# Per-class accuracy --------------------------------------------------------------------------


def per_class(runs: pd.DataFrame, variant: str = "report") -> pd.DataFrame:
    """Accuracy by digit over the whole test split after the last epoch, beside the report's.

    Returns:
      A row for each placement and digit, in percent: mean over seeds, sd, low and high (95 %
      prediction interval for one new run, as in `reproduction`), images, published (NaN where the
      report has none), inside, n. One seed gives no interval.
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
            scale = _scale(accuracy, np.full(10, 100 / images[0].max() / np.sqrt(12)))
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
        for placement in published.PLACEMENTS
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


# Rendering -----------------------------------------------------------------------------------


def to_markdown(tables: Tables) -> dict[str, str]:
    """Every table as Markdown, aligned so that a terminal shows it well, by its name.

    Returns:
      joint (a sentence), reproduction (a row an epoch), numbers (a row for each of the report's
      numbers), claims, evidence, settings, per_class, sampling, notes (a list). An empty table
      gives an empty string.
    """
    return {
        "joint": _joint_sentence(tables.joint),
        "reproduction": _reproduction_markdown(tables.reproduction),
        "numbers": _markdown(
            tables.reproduction,
            "placement epoch metric published:.4f mean:.4f sd:.4f low:.4f high:.4f t:+.2f inside",
        ),
        "claims": _markdown(
            tables.claims, "claim statement effects test n p:.2g p_holm:.2g verdict"
        ),
        "evidence": _markdown(
            tables.evidence.query("n > 0"),
            "claim reading variant where effect:+.3f low:+.3f high:+.3f unit d:+.2f test p:.2g "
            "p_sign:.2g n note",
        ),
        "settings": _markdown(
            tables.settings,
            "variant momentum normalisation n log_likelihood:.0f behind:.0f inside:.0f "
            "max_abs_t:.1f p:.2g best_share:.0% recognised:.0f baseline_mean:.2f baseline_sd:.2f",
        ),
        "per_class": _markdown(
            tables.per_class,
            "placement digit images mean:.2f sd:.2f low:.2f high:.2f published:.0f inside",
        ),
        "sampling": _markdown(
            tables.sampling,
            "sampling printed images:, step_percent:.1f reachable total mean_percent:.1f "
            "hundreds:.1f p_low_before_fc1:.2g p_low_after_fc1:.2g log10_probability:.1f",
        ),
        "notes": "\n".join(f"- {note}" for note in tables.notes),
    }


def summary(tables: Tables) -> dict[str, Any]:
    """Every table as plain JSON values: a list of rows each, null for what was not computed."""
    frames = {
        "reproduction": tables.reproduction,
        "claims": tables.claims,
        "evidence": tables.evidence,
        "settings": tables.settings,
        "per_class": tables.per_class,
        "sampling": tables.sampling,
    }
    rows = {
        name: json.loads(frame.to_json(orient="records", double_precision=6))
        for name, frame in frames.items()
    }
    joint = None if tables.joint is None else asdict(tables.joint)
    return {"joint": joint, **rows, "notes": list(tables.notes)}


def _joint_sentence(joint: JointFit | None) -> str:
    if joint is None:
        return "The reproduction needs at least two seeds."
    single = ", ".join(f"{name} {p:.2g}" for name, p in joint.p_by_placement.items())
    return (
        f"{joint.inside} of {joint.total} numbers lie inside their 95 % prediction interval; joint "
        f"conformal p = {joint.p:.2g} from {joint.n} seeds, the smallest possible being "
        f"{1 / (joint.n + 1):.2g} (alone: {single})."
    )


def _reproduction_markdown(table: pd.DataFrame) -> str:
    """A row an epoch: the report's number and our interval; bold where the number is outside."""
    if table.empty:
        return ""
    cells = []
    for row in table.itertuples():
        digits = 2 if "accuracy" in row.metric else 4
        number, low, high = (f"{x:.{digits}f}" for x in (row.published, row.low, row.high))
        cells.append(
            f"{number} in [{low}, {high}]" if row.inside else f"**{number}** not in [{low}, {high}]"
        )
    wide = table.assign(cell=cells).pivot(
        index=["placement", "epoch"], columns="metric", values="cell"
    )
    wide = wide.sort_index(ascending=[False, True])[list(published.METRICS)].reset_index()
    return _markdown(wide, " ".join(wide))


def _markdown(table: pd.DataFrame, columns: str) -> str:
    """Columns as `name` or `name:format`, those the table has; `-` for what is missing."""
    if table.empty:
        return ""
    lines = []
    for column in columns.split():
        name, _, form = column.partition(":")
        if name not in table:
            continue
        words = {True: "yes", False: "no"} if is_bool_dtype(table[name]) else {}
        cells = ["-" if pd.isna(v) else format(words.get(v, v), form) for v in table[name]]
        left = all(isinstance(v, str) for v in table[name])
        heading = name.replace("_", " ")
        width = max(len(heading), 3, *map(len, cells))
        align = str.ljust if left else str.rjust
        rule = "-" * width if left else "-" * (width - 1) + ":"
        lines.append([align(heading, width), rule, *(align(cell, width) for cell in cells)])
    return "\n".join("| " + " | ".join(line) + " |" for line in zip(*lines, strict=True))


def _notes(
    results: pd.DataFrame, runs: pd.DataFrame, timing: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """What is missing, and what the tables therefore do not say."""
    run = ["variant", "placement", "seed"]
    notes = []
    if dropped := len(results[run].drop_duplicates()) - len(runs[run].drop_duplicates()):
        notes.append(f"{dropped} unfinished or diverged runs are left out")
    last, full = runs["epoch"].max(), len(published.HISTORY["after_fc1"])
    if last < full:
        notes.append(f"final means epoch {last}: the report's final is epoch {full}")
    found = set(zip(runs["variant"], runs["placement"], strict=True))
    wanted = [(v, p) for v in published.SETTINGS for p in published.PLACEMENTS]
    if missing := [f"{v}/{p}" for v, p in wanted if (v, p) not in found]:
        notes.append(f"not run: {', '.join(missing)}")
    if timing is None:
        notes.append("no epoch times were given: claim 2 is not tested")
    if (seeds := runs.loc[runs["variant"] == "report", "seed"].nunique()) < 20:
        least = 1 / (seeds + 1)
        notes.append(
            f"seeds at the report's setting: {seeds}; the joint p cannot be below {least:.2g}"
        )
    return tuple(notes)
