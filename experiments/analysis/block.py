"""Why does the block help: networks that have a part of it, or something else in its place.

Every question is a contrast, a weighted sum of final test accuracies of several networks with the
same seed. Holm's correction covers all contrasts of the plan together. A contrast whose runs a
study does not have counts in it with p = 1, as an untested claim does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from experiments.analysis.measures import Arm, Measures, ended, weighted
from experiments.analysis.paired import LEVEL, paired
from experiments.groundwork.evaluation import EVALUATIONS
from experiments.groundwork.recipe import Recipe, network
from experiments.groundwork.variants import RATES, VARIANTS, WITH_BLOCK, variant_at
from mnist_jax.model import Placement, centres

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

CONTRASTS_SHOWN = (
    "question contrast n effect:+.3f low:+.3f high:+.3f p:.2g p_holm:.2g recalibrated:+.3f "
    "recalibrated_low:+.3f recalibrated_high:+.3f answer"
)
ARMS_SHOWN = (
    "network n parameters:,.0f running:.2f recalibrated:.2f train_loss:.4f difference:+.2f "
    "low:+.2f high:+.2f"
)
RATES_SHOWN = "placement learning_rate n mean:.2f sd:.2f chosen"
RATES_GAIN_SHOWN = (
    "placement evaluation learning_rate n accuracy:.2f effect:+.3f low:+.3f high:+.3f"
)


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
    found = [
        Contrast("does it help", f"{label} - no block", {arm: 1, NONE: -1})
        for arm, label in LABELS.items()
        if arm != NONE and arm.variant != LONGER
    ]
    for place in AS_LARGE:
        found += _contrasts_at(place, rates)
    questions = list(dict.fromkeys(contrast.question for contrast in found))
    return sorted(found, key=lambda contrast: questions.index(contrast.question))


def _contrasts_at(place: Placement, rates: Mapping[Placement, float]) -> Iterator[Contrast]:
    whole, no_shortcut, no_norm, neither, norm_only, long = (
        Arm(variant, place) for variant in (WHOLE, NO_SHORTCUT, NO_NORM, NEITHER, NORM_ONLY, LONGER)
    )
    at, large, bare = place.replace("_", " "), AS_LARGE[place], Arm(LONGER, "none")
    carries, faster = "which part carries the gain", "does it only learn faster"
    shortcut = {whole: 0.5, no_norm: 0.5, no_shortcut: -0.5, neither: -0.5}
    yield Contrast(carries, f"shortcut, {at}", shortcut)
    norm = {whole: 0.5, no_shortcut: 0.5, no_norm: -0.5, neither: -0.5}
    yield Contrast(carries, f"batch norm, {at}", norm)
    both = {whole: 1, no_shortcut: -1, no_norm: -1, neither: 1}
    yield Contrast("do the parts interact", f"shortcut x batch norm, {at}", both)
    alone = f"block - batch norm and ReLU, {at}"
    yield Contrast("is batch norm alone enough", alone, {whole: 1, norm_only: -1})
    yield Contrast("is it capacity", f"block {at} - {LABELS[large]}", {whole: 1, large: -1})
    yield Contrast(faster, f"block {at} at 10 epochs - no block at 30", {whole: 1, bare: -1})
    yield Contrast(faster, f"block {at} - no block, both at 30 epochs", {long: 1, bare: -1})
    if place in rates and "none" in rates:
        mine, other = rates[place], rates["none"]
        name = f"block {at} at {mine:g} - no block at {other:g}"
        weights = {Arm(variant_at(mine), place): 1, Arm(variant_at(other), "none"): -1}
        yield Contrast("does it help at the best rate", name, weights)


def contrasts(measures: Measures, rates: Mapping[Placement, float]) -> pd.DataFrame:
    """Computes the contrasts whose networks the study has.

    The tests use the accuracies with running statistics; the differences with recalibrated ones
    stand beside them. All are in percentage points.

    Args:
      measures: of all runs.
      rates: the learning rate chosen for each placement; may be empty.

    Returns:
      A row for each contrast: question, contrast, what `paired.paired` returns, recalibrated,
      recalibrated_low, recalibrated_high (the same difference with recalibrated statistics),
      p_holm, answer (more, less, or not shown).
    """
    rows = []
    for question, name, weights in contrasts_of(rates):
        # Their names tell of 30 epochs.
        if any(arm.variant == LONGER and not ended(measures, LONGER) for arm in weights):
            continue
        row = {"question": question, "contrast": name} | paired(weighted(measures, weights))
        if row["n"]:
            exact = {arm._replace(evaluation="recalibrated"): x for arm, x in weights.items()}
            other = paired(weighted(measures, exact))
            row |= {"recalibrated": other["effect"], "recalibrated_low": other["low"]}
            rows.append(row | {"recalibrated_high": other["high"]})
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    tested = np.ones(CONTRASTS)
    tested[: len(table)] = table["p"].fillna(1.0)
    adjusted: Any = multipletests(tested, method="holm")[1]
    table["p_holm"] = np.where(table["p"].isna(), np.nan, adjusted[: len(table)])
    shown = np.where(table["effect"] > 0, "more", "less")
    answer = np.where(table["p_holm"] < LEVEL, shown, "not shown")
    table["answer"] = np.where(table["p"].isna(), "", answer)
    return table


def arms(runs: pd.DataFrame, measures: Measures) -> pd.DataFrame:
    """Lists the networks that the study has.

    Returns:
      A row for each network: network, variant, placement, n, parameters (those that receive a
      gradient), running and recalibrated (final test accuracy, percent), train_loss (of the last
      epoch), difference, low, high (to the network without a block, paired by seed, with running
      statistics, and its 95 % interval).
    """
    rows = []
    for arm, label in LABELS.items():
        if arm not in measures.by_seed or (arm.variant == LONGER and not ended(measures, LONGER)):
            continue
        accuracy = measures.by_seed[arm]
        exact = measures.by_seed.get(arm._replace(evaluation="recalibrated"))
        mine = runs[(runs["variant"] == arm.variant) & (runs["placement"] == arm.placement)]
        weights = {arm: 1, NONE: -1} if arm != NONE else {}
        beside = paired(weighted(measures, weights))
        rows.append(
            {
                "network": label,
                "variant": arm.variant,
                "placement": arm.placement,
                "n": len(accuracy),
                "parameters": trained_parameters(VARIANTS[arm.variant], arm.placement),
                "running": accuracy.mean(),
                "recalibrated": np.nan if exact is None else exact.mean(),
                "train_loss": mine[mine["epoch"] == mine["epoch"].max()]["train_loss"].mean(),
                "difference": beside["effect"],
                "low": beside["low"],
                "high": beside["high"],
            }
        )
    return pd.DataFrame(rows)


def trained_parameters(recipe: Recipe, placement: Placement) -> int:
    """How many parameters of a network receive a gradient.

    After fc1 the block sees images of one pixel. A 3x3 kernel with padding 1 touches that pixel
    with its centre only, and its eight other weights always meet zeros.
    """
    model = network(replace(recipe, placement=placement))
    images = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.uint8)

    def trained(key: jax.Array, images: jax.Array) -> Any:
        return centres(model, model.init(key, images, train=False)["params"])

    shapes = jax.eval_shape(trained, jax.random.key(0), images)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def chosen_rates(measures: Measures) -> pd.DataFrame:
    """Chooses a learning rate for each placement by training images that were held out.

    The rate with the highest mean accuracy after the last epoch is chosen; if two are equal, the
    lower one is. As long as a rate has not been tried for all its epochs, none is.

    Returns:
      A row for each placement and rate that was tried: placement, learning_rate, n, mean and sd
      (accuracy on the held-out images, percent), chosen.
    """
    rows = []
    for place in ("none", *WITH_BLOCK):
        tried = []
        for rate in RATES:
            accuracy = measures.by_seed.get(Arm(held_out_at(rate), place))
            if accuracy is not None:
                row = {"placement": place, "learning_rate": rate, "n": len(accuracy)}
                tried.append(row | {"mean": accuracy.mean(), "sd": accuracy.std()})
        best = max(
            tried, key=lambda row: (round(row["mean"], 6), -row["learning_rate"]), default=None
        )
        known = len(tried) == len(RATES) and all(ended(measures, held_out_at(x)) for x in RATES)
        rows += [row | {"chosen": known and row is best} for row in tried]
    return pd.DataFrame(rows)


def chosen_rates_gain(measures: Measures, rates: Mapping[Placement, float]) -> pd.DataFrame:
    """What the chosen rates, which few seeds chose, gain over the report's on the test images.

    Returns:
      A row for each placement and evaluation: placement, evaluation, learning_rate, accuracy (mean
      at this rate, percent), and what `paired.paired` returns of the gain, in points.
    """
    rows = []
    for place, rate in rates.items():
        for evaluation in EVALUATIONS:
            mine, report = (
                Arm(name, place, evaluation) for name in (variant_at(rate), NONE.variant)
            )
            row = {"placement": place, "evaluation": evaluation, "learning_rate": rate}
            row |= paired(weighted(measures, {mine: 1, report: -1} if mine != report else {}))
            if row["n"]:
                rows.append(row | {"accuracy": measures.by_seed[mine].mean()})
    return pd.DataFrame(rows)


def rates_in(table: pd.DataFrame) -> dict[Placement, float]:
    """The rate that `chosen_rates` has chosen for each placement."""
    if table.empty:
        return {}
    best = table[table["chosen"]]
    return dict(zip(best["placement"], best["learning_rate"], strict=True))


def held_out_at(rate: float) -> str:
    """The variant in which a learning rate is tried on held-out images."""
    return next(
        name
        for name, recipe in VARIANTS.items()
        if recipe.held_out and recipe.learning_rate == rate
    )
