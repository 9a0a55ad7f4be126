"""Do the report's four claims hold: the evidence for each, and a verdict in words."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW, ttost_ind

from experiments import published
from experiments.analysis.runs import FINAL, final
from experiments.settings import SETTINGS

TARGET_PERCENT = 97.0  # of claim 3, the speed of learning
# Two times are "about the same" where their ratio lies within 0.8 .. 1.25, that is within 25 % of
# the smaller: the bioequivalence margin (FDA, Statistical Approaches to Establishing
# Bioequivalence, 2001), symmetric in the logarithm.
SAME_RATIO = 1.25
LEVEL = 0.05


def evidence_of(runs: pd.DataFrame, timing: Mapping[str, Any] | None = None) -> pd.DataFrame:
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
    variants = [name for name in SETTINGS if name in set(runs["variant"])]
    blocks = tuple(published.HISTORY)
    rows = []

    def add(claim: int, reading: str, variant: str, where: str, pair: dict, **more: Any) -> None:
        row = {"claim": claim, "reading": reading, "variant": variant, "where": where}
        rows.append(row | {"unit": "points", "primary": False, "note": ""} | pair | more)

    for variant in variants:
        for block in blocks:
            pair = _paired(final(runs, variant, block), final(runs, variant, "none"))
            add(1, "equal settings", variant, block, pair, primary=variant == "report")
    # The report's networks against one without block and without momentum, for both pixel scales
    # that explain its curves: it is the scale that decides where this baseline ends.
    for variant, baseline in (("report", "no_momentum"), ("mnist", "no_momentum_mnist")):
        for block in blocks:
            pair = _paired(final(runs, variant, block), final(runs, baseline, "none"))
            add(1, "baseline without momentum", variant, block, pair)

    rows += _timing_evidence(timing)

    for variant in ("report", "mnist"):
        for block in (*blocks, "none"):
            saved, note = _epochs_saved(runs, variant, block)
            primary = variant == "report" and block != "none"
            more = {"unit": "epochs", "note": note, "primary": primary}
            add(3, "epochs to 97 % saved", variant, block, saved, **more)
            gain = _paired(final(runs, variant, block), final(runs, "unnormalised", block))
            add(3, "final accuracy gained", variant, block, gain)

    for variant in variants:
        pair = _paired(final(runs, variant, "after_fc1"), final(runs, variant, "before_fc1"))
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


def _paired(first: pd.Series, second: pd.Series) -> dict[str, Any]:
    """First minus second over the seeds that both have."""
    differences = (first - second).dropna()
    row: dict[str, Any] = {
        "effect": np.nan,
        "low": np.nan,
        "high": np.nan,
        "d": np.nan,
        "p": np.nan,
    }
    row |= {"test": "paired t", "p_sign": np.nan, "n": len(differences)}
    row["differences"] = tuple(differences)
    if len(differences) < 2:
        return row
    row["effect"] = differences.mean()
    if np.ptp(differences) < 1e-9:  # no spread: no test can be made of it
        return row
    test: Any = stats.ttest_1samp(differences, 0.0)
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


def verdicts(evidence: pd.DataFrame) -> pd.DataFrame:
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
    adjusted: Any = multipletests(table["p"].fillna(1.0), method="holm")[1]
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


def _in_words(row: Mapping[Any, Any]) -> str:
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
            f"{_span(gain['effect'])} points with pixels {SETTINGS[str(name)].normalisation}"
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
    enough = np.asarray(TTestPower().power(abs(d), n, LEVEL)) >= power
    return int(n[enough.argmax()]) if enough.any() else None


def _span(effects: Iterable[float]) -> str:
    """Smallest and largest effect, as in `+0.31 to +0.44`."""
    ends = sorted({f"{value:+.2f}" for value in (min(effects), max(effects))}, key=float)
    return " to ".join(ends)
