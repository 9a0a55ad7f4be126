"""Every comparison that bears on one of the report's four claims.

Claims 1, 3 and 4 are about differences that are paired by seed, claim 2 about times that are paired
by round. What is compared is a list; the rules that make an answer of it are in `claims`.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments.analysis import paired as pairs
from experiments.analysis.measures import (
    EARLY,
    TARGET_PERCENT,
    Arm,
    Measure,
    Measures,
    weighted,
)
from experiments.analysis.paired import paired
from experiments.groundwork.evaluation import EVALUATIONS, EvaluationName
from experiments.groundwork.variants import WITH_BLOCK
from mnist_jax.model import PLACEMENTS, Placement

SCALES = ("report", "mnist")  # the variants with the pixel scales of PyTorch's tutorials
PRIMARY = "running"  # the evaluation on which the answers rest
# The baseline without momentum that has the same scale of pixels.
SLOW = {"report": "no_momentum", "mnist": "no_momentum_mnist"}
# Claim 2. Two times are "about the same" where their ratio lies within 0.8 .. 1.25: the margin of
# bioequivalence (FDA, Statistical Approaches to Establishing Bioequivalence, 2001), symmetric in
# the logarithm.
SAME_RATIO = 1.25
AUTHORS_PROGRAM = "pytorch dataloader"  # the program that the report's claim is about
PROGRAMS = (AUTHORS_PROGRAM, "pytorch eager", "mnist_jax")  # the order in which they are listed
# Claim 4. The report's own difference between its two networks, 98.79 - 98.71, is also the margin
# within which they count as equally good.
MARGIN_POINTS = 0.08

EQUAL, UNEQUAL = "equal settings", "baseline without momentum"
SAVED_LOSS: dict[Measure, str] = {
    name: f"log training loss saved, epoch {' and '.join(map(str, epochs))}"
    for name, epochs in EARLY.items()
}
ABSORBED = "saved less half of what is saved without a block"
ORDER = "after_fc1 - before_fc1"
WITHOUT = f"{ORDER}, without the farthest seed"

WORDS = ["reading", "variant", "evaluation", "where", "unit", "test", "note"]
NUMBERS = ["effect", "low", "high", "low90", "high90", "sd", "p", "p_sign", "ahead", "single_pair"]
COLUMNS = ["claim", *WORDS, "primary", *NUMBERS, "n", "differences"]
SHOWN = (
    "claim reading variant evaluation where effect:+.3f low:+.3f high:+.3f low90:+.3f high90:+.3f "
    "unit sd:.3f test p:.2g p_sign:.2g ahead:.0% single_pair:.0% n note answer"
)


class Comparison(NamedTuple):
    """A weighted sum of what was measured, and the claim that it bears on."""

    claim: int
    reading: str  # what is compared
    variant: str
    evaluation: str
    where: str
    unit: str
    weights: Mapping[Arm, float]
    primary: bool = False  # whether the answer rests on it; the others have no p-values


def evidence_of(measures: Measures, timing: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Makes every comparison.

    Args:
      measures: of all runs.
      timing: the JSON that `benchmarks.epoch_time` writes; claim 2 needs it.

    Returns:
      A row for each comparison: claim (1 to 4), reading (what is compared), variant, evaluation,
      where (a placement, or the program that was timed), unit, what `paired.paired` returns, test,
      primary (whether the answer rests on the row; the others have no p-values), note, single_pair
      (claim 4: the share of pairs of runs of one and the same network that differ by
      `MARGIN_POINTS` or more). Effects of claim 2 are ratios, and their sd is that of the ratio's
      logarithm.
    """
    rows = list(_times(timing))
    for one in (*_gains(), *_speeds(), *_orders()):
        row = one._asdict() | {"test": "paired t"} | paired(weighted(measures, one.weights))
        if not row["n"]:  # a study need not have every variant
            continue
        if one.reading == ORDER:
            row["single_pair"] = single_pair(*(measures.by_seed[arm] for arm in one.weights))
        if one.reading == WITHOUT:
            row |= paired(_without_the_farthest(weighted(measures, one.weights)))
        if one.unit == "epochs" and one.reading != ABSORBED:
            row["note"] = _never_reached(measures, one.weights)
        rows.append(row)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["primary"] = table["primary"].eq(True)
    table.loc[~table["primary"], ["p", "p_sign"]] = np.nan
    table[WORDS] = table[WORDS].astype(object).fillna("")
    order = {"kind": "stable", "ignore_index": True}
    return table.sort_values(["claim", "primary"], ascending=[True, False], **order)


def _gains() -> Iterator[Comparison]:
    """Claim 1: what the block adds at equal settings, and against a baseline without momentum."""
    for evaluation in EVALUATIONS:
        for variant in SCALES:
            for place in WITH_BLOCK:
                common = (variant, evaluation, place, "points")
                block = Arm(variant, place, evaluation)
                bare, slow = (Arm(name, "none", evaluation) for name in (variant, SLOW[variant]))
                primary = evaluation == PRIMARY
                yield Comparison(1, EQUAL, *common, {block: 1, bare: -1}, primary)
                yield Comparison(1, UNEQUAL, *common, {block: 1, slow: -1})


def _speeds() -> Iterator[Comparison]:
    """Claim 3: what normalised pixels save."""
    for variant in SCALES:
        saved = partial(_saved, variant)
        for place in PLACEMENTS:
            common = (variant, PRIMARY, place)
            for measure, reading in SAVED_LOSS.items():
                primary = measure == "early" and place in WITH_BLOCK
                yield Comparison(3, reading, *common, "log ratio", saved(place, measure), primary)
            reading = f"epochs to {TARGET_PERCENT:g} % saved"
            yield Comparison(3, reading, *common, "epochs", saved(place, "epochs"))
            gained = saved(place, "final", -1)
            yield Comparison(3, "final accuracy gained", *common, "points", gained)
        # Below 0 if a network with a block gains less than half of what one without gains.
        for place in WITH_BLOCK:
            losses = saved(place, "early") | saved("none", "early", -0.5)
            yield Comparison(3, ABSORBED, variant, PRIMARY, place, "log ratio", losses)
            epochs = saved(place, "epochs") | saved("none", "epochs", -0.5)
            yield Comparison(3, ABSORBED, variant, PRIMARY, place, "epochs", epochs)


def _saved(variant: str, place: Placement, measure: Measure, share: float = 1) -> dict[Arm, float]:
    slow, quick = (Arm(name, place, PRIMARY, measure) for name in ("unnormalised", variant))
    return {slow: share, quick: -share}


def _orders() -> Iterator[Comparison]:
    """Claim 4: after fc1 less before fc1, and whether that depends on scale and evaluation."""

    def gap(variant: str, evaluation: EvaluationName, sign: float = 1) -> dict[Arm, float]:
        before, after = (Arm(variant, place, evaluation) for place in WITH_BLOCK)
        return {after: sign, before: -sign}

    for evaluation in EVALUATIONS:
        for variant in SCALES:
            weights = gap(variant, evaluation)
            primary = evaluation == PRIMARY
            yield Comparison(4, ORDER, variant, evaluation, "", "points", weights, primary)
            if primary:  # how much a single run decides
                yield Comparison(4, WITHOUT, variant, evaluation, "", "points", weights)
        weights = gap("mnist", evaluation) | gap("report", evaluation, -1)
        reading = f"mnist - half, of {ORDER}"
        yield Comparison(4, reading, "", evaluation, "", "points", weights)
    for evaluation in EVALUATIONS:
        if evaluation != PRIMARY:
            for variant in SCALES:
                weights = gap(variant, evaluation) | gap(variant, PRIMARY, -1)
                reading = f"{evaluation} - {PRIMARY}, of {ORDER}"
                yield Comparison(4, reading, variant, evaluation, "", "points", weights)


def _times(timing: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Claim 2: a row for each program and thread count that was timed twice or more.

    Measurement i of one placement and measurement i of the other come from the same round, so that
    a slow time of the machine meets both.
    """
    seconds: dict[tuple[str, int], dict[str, list[float]]] = {}
    for row in (timing or {"rows": []})["rows"]:
        key = (row["program"], row["threads"])
        seconds.setdefault(key, {})[row["placement"]] = row["epoch_seconds"]
    known = {name: place for place, name in enumerate(PROGRAMS)}
    for program, threads in sorted(seconds, key=lambda key: (known.get(key[0], 9), -key[1])):
        measured = seconds[program, threads]
        before, after = (np.log(measured.get(block, [])) for block in WITH_BLOCK)
        rounds = min(len(before), len(after))
        if rounds < 2:
            continue
        row = paired(pd.Series(after[:rounds] - before[:rounds]))
        row["p"] = pairs.p_within(row, np.log(SAME_RATIO))
        row |= {name: np.exp(row[name]) for name in ("effect", "low", "high", "low90", "high90")}
        most = max(count for name, count in seconds if name == program)
        yield row | {
            "claim": 2,
            "reading": "seconds an epoch, after_fc1 / before_fc1",
            "unit": "ratio",
            "where": f"{program} ({threads} threads)",
            "test": "two one-sided t-tests",
            "note": f"smallest margin that passes: {smallest_margin(row):.2f}",
            "primary": program == AUTHORS_PROGRAM and threads == most,
        }


def smallest_margin(row: Mapping[Any, Any]) -> float:
    """The smallest ratio within which the two times would count as the same, at 5 %."""
    return float(max(row["high90"], 1 / row["low90"]))


def single_pair(*networks: pd.Series) -> float:
    """The share of pairs of runs of one network that differ by `MARGIN_POINTS` or more.

    It is the mean over the networks. A report that trains two equally good networks once each would
    find one of them better by this margin with the same probability.
    """
    shares = []
    for accuracies in networks:
        first, second = np.triu_indices(len(accuracies), k=1)
        values = accuracies.to_numpy()
        if len(first):
            apart = np.abs(values[first] - values[second]) >= MARGIN_POINTS - 1e-9
            shares.append(float(apart.mean()))
    return float(np.mean(shares)) if shares else np.nan


def _without_the_farthest(differences: pd.Series) -> pd.Series:
    """The differences but the one that lies farthest from their median."""
    return differences.drop((differences - differences.median()).abs().idxmax())


def _never_reached(measures: Measures, arms: Mapping[Arm, float]) -> str:
    epochs = {arm.variant: measures.by_seed[arm] for arm in arms}
    missed = [
        f"{name}: {x.isna().sum()} of {len(x)}" for name, x in epochs.items() if x.isna().any()
    ]
    return f"never reached, counted as the last epoch: {', '.join(missed)}" if missed else ""
