"""Do the report's four claims hold? A word for each, by rules that were fixed beforehand.

The rules are those of `experiments/results/plan.md`, as data: for each claim a list of words, of
which the first whose condition the evidence meets is the answer. If a claim speaks of both networks
or is tested with both pixel scales, its p-value is the largest of its rows. This is the
intersection-union test (Berger, Technometrics 24, 1982), which needs no correction inside a claim.
Holm's correction covers the four claims.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from experiments.analysis import paired as pairs
from experiments.analysis.evidence import (
    ABSORBED,
    EQUAL,
    MARGIN_POINTS,
    ORDER,
    PRIMARY,
    SAME_RATIO,
    SAVED_LOSS,
    SCALES,
    UNEQUAL,
)
from experiments.analysis.paired import LEVEL
from experiments.groundwork import published
from experiments.groundwork.variants import VARIANTS, WITH_BLOCK

Row = Mapping[Any, Any]  # of the evidence

# Claim 1. "About 92 %" is 91.5 to 92.5. "Nearly 98 %" is at least 97.5, and the two networks' own
# lines end at 98.71 and 98.79 %. So the report's gain is between 97.5 - 92.5 and 98.79 - 91.5.
REPORTED_GAIN = (5.0, 7.29)  # points

SHOWN = "claim statement effects test n p:.2g p_holm:.2g power:.2f verdict"

# The word for one row of the evidence: the first whose condition holds. Intervals of 95 % decide
# what differs, those of 90 % what is the same.
TIMES: dict[str, Callable[[Row], bool]] = {
    "holds": lambda row: row["low90"] > 1 / SAME_RATIO and row["high90"] < SAME_RATIO,
    "does not hold": lambda row: row["low90"] > SAME_RATIO or row["high90"] < 1 / SAME_RATIO,
    "at the margin": lambda row: row["high90"] / row["low90"] < SAME_RATIO,
    "undecided": lambda row: True,
}
ORDERS: dict[str, Callable[[Row], bool]] = {
    "better, by less than reported": lambda row: row["low"] > 0 and row["high90"] < MARGIN_POINTS,
    "better": lambda row: row["low"] > 0,
    "worse": lambda row: row["high"] < 0,
    "the same": lambda row: row["low90"] > -MARGIN_POINTS and row["high90"] < MARGIN_POINTS,
    "undecided": lambda row: True,
}
# The word for claims 1 and 3, whose rows are judged together; p is not yet corrected.
GAINS: dict[str, Callable[[pd.DataFrame, float], Any]] = {
    "undecided": lambda rows, p: not p < LEVEL,
    "does not hold": lambda rows, p: (rows["effect"] < 0).any(),
    "holds": lambda rows, p: within_reported(rows).all(),
    "the sign holds, the size does not": lambda rows, p: True,
}
SPEEDS: dict[str, Callable[[pd.DataFrame, float], Any]] = {
    "holds": lambda rows, p: p < LEVEL and (rows["effect"] > 0).all(),
    "the opposite is true": lambda rows, p: p < LEVEL and (rows["effect"] < 0).all(),
    "depends on network and scale": lambda rows, p: (
        (rows["low"] > 0).any() and (rows["high"] < 0).any()
    ),
    "undecided": lambda rows, p: True,
}
# Claim 4 is judged for each pixel scale; this is its answer if both give the same word.
BOTH = {"better": "holds", "worse": "does not hold, before fc1 is better"}
COMPARISONS = {1: len(SCALES) * len(WITH_BLOCK), 2: 1, 3: len(SCALES) * len(WITH_BLOCK), 4: 2}


def verdicts(evidence: pd.DataFrame) -> pd.DataFrame:
    """Answers the four claims, each with one p-value and a word.

    A claim that could not be tested counts as p = 1 in Holm's correction.

    Args:
      evidence: what `evidence.evidence_of` returned.

    Returns:
      A row for each claim: claim, statement, effects (the rows that the answer rests on), test, n,
      p, p_holm, power (the chance of finding what the report says, at Holm's level and the observed
      spread; for claim 2 the chance of finding equal times equal; NaN for claim 3, for which the
      report gives no size), verdict.
    """
    rows = []
    for number, statement in enumerate(published.CLAIMS, start=1):
        mine = evidence[(evidence["claim"] == number) & evidence["primary"]]
        row = {"claim": number, "statement": statement, "effects": "", "test": "", "n": 0}
        row |= {"p": np.nan, "power": np.nan}
        if len(mine):
            row["effects"] = "; ".join(_in_words(line) for line in mine.to_dict("records"))
            row |= {"test": mine["test"].iloc[0], "n": int(mine["n"].min())}
            row["p"] = mine["p"].max(skipna=False)
            row["power"] = min(_power(number, line) for line in mine.to_dict("records"))
        rows.append(row)
    table = pd.DataFrame(rows)
    adjusted: Any = multipletests(table["p"].fillna(1.0), method="holm")[1]
    table.insert(7, "p_holm", np.where(table["p"].isna(), np.nan, adjusted))
    table["verdict"] = [_verdict(evidence, row) for row in table.to_dict("records")]
    return table[[column.split(":")[0] for column in SHOWN.split()]]


def answers(evidence: pd.DataFrame) -> list[str]:
    """The word of each row of the evidence for which the plan has a rule; of others nothing."""
    saving = evidence[evidence["reading"].eq(SAVED_LOSS["early"]) & (evidence["low"] > 0)]
    gaining = set(saving[saving["where"] == "none"]["variant"])

    def answer(row: Row) -> str:
        if row["claim"] == 2:
            return _word(TIMES, row)
        if row["reading"] == ORDER:
            return _word(ORDERS, row)
        if row["reading"] == UNEQUAL or row["reading"] == EQUAL:
            return "as reported" if within_reported(row) else ""
        absorbed = row["reading"] == ABSORBED and row["unit"] == "log ratio" and row["high"] < 0
        return "absorbed" if absorbed and row["variant"] in gaining else ""

    return [answer(row) for row in evidence.to_dict("records")]


def within_reported(rows: Any) -> Any:
    """Whether the 95 % interval of a gain lies inside what the report's words can mean."""
    low, high = REPORTED_GAIN
    return (rows["low"] >= low) & (rows["high"] <= high)


def _verdict(evidence: pd.DataFrame, row: Row) -> str:
    """The answer to one claim, from the evidence and the claim's row of the table."""
    number, p = row["claim"], row["p"]
    if np.isnan(p):
        return "could not be tested"
    mine = evidence[evidence["claim"] == number]
    primary = mine[mine["primary"]]
    if number in (1, 3):
        rules = GAINS if number == 1 else SPEEDS
        word = next(word for word, holds in rules.items() if holds(primary, p))
    else:
        rules = TIMES if number == 2 else ORDERS
        words = {_word(rules, line).split(",")[0] for line in primary.to_dict("records")}
        word = words.pop() if len(words) == 1 else "depends on the scale"
        word = BOTH.get(word, word)
    if word == "the sign holds, the size does not":
        slow = mine[mine["reading"].eq(UNEQUAL) & mine["evaluation"].eq(PRIMARY)]
        fits = within_reported(slow).groupby(slow["variant"], sort=False).all()
        if scales := [VARIANTS[str(name)].pixels for name, fit in fits.items() if fit]:
            word = f"the sign holds, the size only without momentum, pixels {' or '.join(scales)}"
    if p < LEVEL <= row["p_holm"]:
        word += "; not after the correction for four claims"
    if (asked := len(primary)) < COMPARISONS[number]:
        word += f"; asked of {asked} of {COMPARISONS[number]} comparisons"
    return word


def _word(rules: Mapping[str, Callable[[Row], bool]], row: Row) -> str:
    return next(word for word, holds in rules.items() if holds(row))


def _power(claim: int, row: Row) -> float:
    """The power of one row's test, as `verdicts` explains it."""
    if claim == 3 or row["n"] < 2 or not row["sd"] > 1e-9:
        return np.nan
    if claim == 2:
        return pairs.power_within(np.log(SAME_RATIO), row["sd"], row["n"])
    effect = REPORTED_GAIN[0] if claim == 1 else MARGIN_POINTS
    return pairs.power(effect, row["sd"], row["n"])


def _in_words(row: Row) -> str:
    """Where something was measured, and its effect with its 95 % interval."""
    where = row["where"] or ORDER
    where += f" with pixels {VARIANTS[row['variant']].pixels}" if row["variant"] else ""
    if np.isnan(row["effect"]):
        return f"{where} not computed"
    form = ".2f" if row["unit"] == "ratio" else "+.2f"
    effect, low, high = (format(row[key], form) for key in ("effect", "low", "high"))
    return f"{where} {effect} [{low}, {high}] {row['unit']}"
