"""Why does the block help: networks that have a part of it, or something else in its place.

Every question is a contrast, a weighted sum of final test accuracies of several networks with the
same seed, whose weights add up to 0. Holm's correction covers all contrasts of the plan together. A
contrast whose runs a study does not have counts in it with p = 1, as an untested claim does.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from experiments.analysis.paired import LEVEL, paired
from experiments.analysis.runs import (
    comparable,
    evaluated,
    evaluations_of,
    final,
    reaches_its_end,
)
from experiments.groundwork.variants import RATES, VARIANTS, model_of, variant_at
from mnist_jax.model import Placement, centres


class Arm(NamedTuple):
    """A network in a setting."""

    variant: str
    placement: Placement


NONE = Arm("report", "none")
# Variants by what stands at the place of the block, and the networks without a block that are as
# large as those with one.
WHOLE, NO_SHORTCUT, NO_NORM, NEITHER = "report", "no_shortcut", "no_batch_norm", "plain_block"
NORM_ONLY, LONGER = "batch_norm_only", "longer"
AS_LARGE: dict[Placement, Arm] = {
    "before_fc1": Arm("wide_134", "none"),
    "after_fc1": Arm("wide_206", "none"),
}
LABELS: dict[Arm, str] = {
    NONE: "no block",
    AS_LARGE["before_fc1"]: "no block, fc1 of 134",
    AS_LARGE["after_fc1"]: "no block, fc1 of 206",
    Arm(LONGER, "none"): "no block, 30 epochs",
} | {
    Arm(variant, place): f"{what} {place.replace('_', ' ')}{more}"
    for place in AS_LARGE
    for variant, what, more in (
        (WHOLE, "block", ""),
        (NO_SHORTCUT, "block without shortcut", ""),
        (NO_NORM, "block without batch norm", ""),
        (NEITHER, "block without either", ""),
        (NORM_ONLY, "batch norm and ReLU", ""),
        (LONGER, "block", ", 30 epochs"),
    )
}


CONTRASTS = 28  # of the plan, once a rate is chosen for each placement


class Contrast(NamedTuple):
    """A weighted sum of final accuracies, and the question that it answers."""

    question: str
    name: str
    weights: Mapping[Arm, float]


def contrasts_of(rates: Mapping[Placement, float]) -> list[Contrast]:
    """Every contrast of the plan.

    Args:
      rates: the learning rate that `chosen_rates` chose for each placement; may be empty.
    """
    found = []
    for arm in LABELS:
        if arm != NONE and arm.variant != LONGER:
            name = f"{LABELS[arm]} - no block"
            found.append(Contrast("does it help", name, {arm: 1, NONE: -1}))
    for place, large in AS_LARGE.items():
        whole, no_shortcut, no_norm, neither = (
            Arm(variant, place) for variant in (WHOLE, NO_SHORTCUT, NO_NORM, NEITHER)
        )
        at = place.replace("_", " ")
        found += [
            Contrast(
                "which part carries the gain",
                f"shortcut, {at}",
                {whole: 0.5, no_norm: 0.5, no_shortcut: -0.5, neither: -0.5},
            ),
            Contrast(
                "which part carries the gain",
                f"batch norm, {at}",
                {whole: 0.5, no_shortcut: 0.5, no_norm: -0.5, neither: -0.5},
            ),
            Contrast(
                "do the parts interact",
                f"shortcut x batch norm, {at}",
                {whole: 1, no_shortcut: -1, no_norm: -1, neither: 1},
            ),
            Contrast(
                "is batch norm alone enough",
                f"block - batch norm and ReLU, {at}",
                {whole: 1, Arm(NORM_ONLY, place): -1},
            ),
            Contrast(
                "is it capacity",
                f"block {at} - {LABELS[large]}",
                {whole: 1, large: -1},
            ),
            Contrast(
                "does it only learn faster",
                f"block {at} at 10 epochs - no block at 30",
                {whole: 1, Arm(LONGER, "none"): -1},
            ),
            Contrast(
                "does it only learn faster",
                f"block {at} - no block, both at 30 epochs",
                {Arm(LONGER, place): 1, Arm(LONGER, "none"): -1},
            ),
        ]
        if place in rates and "none" in rates:
            mine, other = (variant_at(rates[name]) for name in (place, "none"))
            found.append(
                Contrast(
                    "does it help at the best rate",
                    f"block {at} at {rates[place]:g} - no block at {rates['none']:g}",
                    {Arm(mine, place): 1, Arm(other, "none"): -1},
                )
            )
    questions = list(dict.fromkeys(contrast.question for contrast in found))
    return sorted(found, key=lambda contrast: questions.index(contrast.question))


def contrasts(runs: pd.DataFrame, rates: Mapping[Placement, float]) -> pd.DataFrame:
    """Computes the contrasts whose networks the study has.

    The tests use the accuracies with running statistics; the differences with recalibrated ones
    stand beside them. All are in percentage points.

    Args:
      runs: results, as `runs.complete_runs` returns them.
      rates: the learning rate chosen for each placement; may be empty.

    Returns:
      A row for each contrast: question, contrast, what `paired.paired` returns, p_holm, answer, and
      recalibrated, recalibrated_low, recalibrated_high: the same difference with recalibrated
      statistics.
    """
    wanted = contrasts_of(rates)
    if not reaches_its_end(runs, LONGER):  # their names tell of 30 epochs
        wanted = [one for one in wanted if all(arm.variant != LONGER for arm in one.weights)]
    wanted = [one for one in wanted if len(comparable(runs, *(arm.variant for arm in one.weights)))]
    running = _finals(runs, wanted)
    exact = (
        _finals(evaluated(runs, "recalibrated"), wanted)
        if "recalibrated" in evaluations_of(runs)
        else {}
    )
    rows = []
    for question, name, weights in wanted:
        row = {"question": question, "contrast": name} | paired(_weighted(running, weights))
        if row["n"]:
            other = paired(_weighted(exact, weights))
            row |= {"recalibrated": other["effect"], "recalibrated_low": other["low"]}
            rows.append(row | {"recalibrated_high": other["high"]})
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    tested = np.ones(CONTRASTS)
    tested[: len(table)] = table["p"].fillna(1.0)
    adjusted: Any = multipletests(tested, method="holm")[1]
    table["p_holm"] = np.where(table["p"].isna(), np.nan, adjusted[: len(table)])
    table["answer"] = [_answer(row) for row in table.to_dict("records")]
    return table


def arms(runs: pd.DataFrame) -> pd.DataFrame:
    """Lists the networks that the study has.

    Returns:
      A row for each network: network, variant, placement, n, parameters (those that receive a
      gradient), running and recalibrated (final test accuracy, percent), train_loss (of the last
      epoch), difference, low, high (to the network without a block, paired by seed, with running
      statistics, and its 95 % interval).
    """
    exact = evaluated(runs, "recalibrated") if "recalibrated" in evaluations_of(runs) else None
    rows = []
    for arm, label in LABELS.items():
        accuracy = final(runs, *arm)
        if accuracy.empty or (arm.variant == LONGER and not reaches_its_end(runs, LONGER)):
            continue
        row = {
            "network": label,
            "variant": arm.variant,
            "placement": arm.placement,
            "n": len(accuracy),
        }
        row |= {"parameters": trained_parameters(*arm), "running": accuracy.mean()}
        row |= {"recalibrated": np.nan if exact is None else final(exact, *arm).mean()}
        mine = runs[(runs["variant"] == arm.variant) & (runs["placement"] == arm.placement)]
        row["train_loss"] = mine[mine["epoch"] == mine["epoch"].max()]["train_loss"].mean()
        alike = comparable(runs, arm.variant, NONE.variant)
        beside = paired(
            final(alike, *arm) - final(alike, *NONE) if arm != NONE else pd.Series(dtype=float)
        )
        row |= {"difference": beside["effect"], "low": beside["low"], "high": beside["high"]}
        rows.append(row)
    return pd.DataFrame(rows)


def trained_parameters(variant: str, placement: Placement) -> int:
    """How many parameters of a network receive a gradient.

    After fc1 the block sees images of one pixel. A 3x3 kernel with padding 1 touches that pixel
    with its centre only, and its eight other weights always meet zeros.
    """
    images = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.uint8)
    model = model_of(VARIANTS[variant], placement)

    def trained(key: jax.Array, images: jax.Array) -> Any:
        return centres(model, model.init(key, images, train=False)["params"])

    shapes = jax.eval_shape(trained, jax.random.key(0), images)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def chosen_rates(runs: pd.DataFrame) -> pd.DataFrame:
    """Chooses a learning rate for each placement by training images that were held out.

    The rate with the highest mean accuracy after the last epoch is chosen; if two are equal, the
    lower one is. As long as a rate has not been tried for all its epochs, none is.

    Returns:
      A row for each placement and rate that was tried: placement, learning_rate, n, mean and sd
      (accuracy on the held-out images, percent), chosen.
    """
    rows = []
    for place in ("none", *AS_LARGE):
        tried = []
        for rate in RATES:
            accuracy = final(runs, held_out_at(rate), place)
            if len(accuracy):
                row = {"placement": place, "learning_rate": rate, "n": len(accuracy)}
                tried.append(row | {"mean": accuracy.mean(), "sd": accuracy.std()})
        best = max(
            tried, key=lambda row: (round(row["mean"], 6), -row["learning_rate"]), default=None
        )
        ended = all(reaches_its_end(runs, held_out_at(row["learning_rate"])) for row in tried)
        known = ended and len(tried) == len(RATES)
        rows += [row | {"chosen": known and row is best} for row in tried]
    return pd.DataFrame(rows)


def rates_in(table: pd.DataFrame) -> dict[Placement, float]:
    """The rate that `chosen_rates` has chosen for each placement."""
    if table.empty:
        return {}
    best = table[table["chosen"]]
    return dict(zip(best["placement"], best["learning_rate"], strict=True))


def rates_at_an_end(table: pd.DataFrame) -> list[str]:
    """A sentence for each chosen rate that is the lowest or the highest that was tried."""
    return [
        f"for {place} the learning rate {rate:g} was chosen, at an end of those that were tried"
        for place, rate in rates_in(table).items()
        if rate in (min(RATES), max(RATES))
    ]


def held_out_at(rate: float) -> str:
    """The setting in which a learning rate is tried on held-out images."""
    return next(
        name
        for name, setting in VARIANTS.items()
        if setting.held_out and setting.learning_rate == rate
    )


def _finals(runs: pd.DataFrame, wanted: Iterable[Contrast]) -> dict[Arm, pd.Series]:
    """The final test accuracy by seed of each network that the contrasts need."""
    needed = dict.fromkeys(arm for contrast in wanted for arm in contrast.weights)
    return {arm: final(runs, *arm) for arm in needed}


def _weighted(finals: Mapping[Arm, pd.Series], weights: Mapping[Arm, float]) -> pd.Series:
    """The value of a contrast for each seed that all its networks have."""
    if not weights.keys() <= finals.keys():
        return pd.Series(dtype=float)
    parts = [weight * finals[arm] for arm, weight in weights.items()]
    return pd.concat(parts, axis=1, join="inner").sum(axis=1)


def _answer(row: Mapping[Any, Any]) -> str:
    if np.isnan(row["low"]):
        return ""
    if row["p_holm"] < LEVEL:
        return "more" if row["effect"] > 0 else "less"
    return f"not shown: between {row['low']:+.2f} and {row['high']:+.2f}"
