"""The variants of the recipe, and the plan: its parts train all that an answer needs."""

import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import get_args

import jax
import pytest

from experiments.analysis.block import LABELS
from experiments.analysis.evidence import SCALES
from experiments.compare import BEST_RATES, Part
from experiments.groundwork.recipe import BLOCKS, Block, PixelScale, Recipe, keys_of
from experiments.groundwork.variants import (
    CANDIDATES,
    PLAN,
    RATES,
    REPORT,
    VARIANTS,
    best_rate_cells,
    variant_at,
)
from mnist_jax import store
from mnist_jax.data import PIXELS
from mnist_jax.model import PLACEMENTS

PLANNED = {(cell.variant, cell.placement): cell.seeds for part in PLAN.values() for cell in part}
RESULTS = Path(__file__).parents[1] / "experiments" / "results"
WORDS = (RESULTS / "plan.md").read_text()


def test_every_choice_of_a_recipe_is_made():
    assert get_args(PixelScale) == tuple(PIXELS)
    assert get_args(Block) == tuple(BLOCKS)
    for recipe in VARIANTS.values():
        recipe.check()


@pytest.mark.parametrize(
    ("variant", "block"),
    [
        ("no_shortcut", "no shortcut"),
        ("no_batch_norm", "no batch norm"),
        ("plain_block", "neither"),
        ("batch_norm_only", "batch norm only"),
    ],
)
def test_another_block_is_all_that_tells_a_variant_from_the_report(variant, block):
    assert VARIANTS[variant] == replace(REPORT, block=block)


def test_each_network_stands_in_the_plan_once():
    assert len(PLANNED) == sum(map(len, PLAN.values()))
    assert {variant for variant, _ in PLANNED} <= set(VARIANTS)


def test_the_plan_in_words_has_every_part_and_no_other():
    """Its commands are of the day it was written: `compare train --plan PART` trains a part now."""
    parts = {*PLAN, BEST_RATES}
    assert set(get_args(Part)) == parts
    assert {*re.findall(r"^\| `(\w+)` \| ", WORDS, re.MULTILINE)} == parts
    assert {*re.findall(r"experiments\.compare --plan (\w+) ", WORDS)} == parts


def test_the_size_of_the_plan_is_as_it_says():
    """With the last three cells, which follow from the rates that are chosen."""
    runs = sum(map(len, PLANNED.values())) + 3 * 30
    epochs = sum(len(seeds) * VARIANTS[name].epochs for (name, _), seeds in PLANNED.items()) + 900
    assert f"{runs:,} runs and {epochs:,} epochs" in WORDS


def test_seeds_are_fresh_and_others_choose_the_rates():
    for (variant, placement), seeds in PLANNED.items():
        first = 2000 if VARIANTS[variant].held_out else 1000
        assert seeds.start == first, (variant, placement)


def test_claims_3_and_4_get_their_runs():
    for variant in SCALES:
        assert {len(PLANNED[variant, place]) for place in ("before_fc1", "after_fc1")} == {200}
    for variant in (*SCALES, "unnormalised"):
        assert min(len(PLANNED[variant, place]) for place in PLACEMENTS) == 100


def test_every_cell_of_the_likelihood_gets_thirty_seeds():
    assert min(len(PLANNED[name, place]) for name in CANDIDATES for place in PLACEMENTS) == 30


def test_every_arm_is_trained():
    for arm in LABELS:
        assert len(PLANNED[arm[:2]]) >= (30 if arm.variant == "longer" else 40), arm


def test_rates_are_tried_for_every_network_and_the_best_one_trained():
    tried = {
        (VARIANTS[variant].learning_rate, placement, len(seeds))
        for (variant, placement), seeds in PLANNED.items()
        if VARIANTS[variant].held_out == 10_000
    }
    assert tried == {(rate, placement, 3) for rate in RATES for placement in PLACEMENTS}
    cells = best_rate_cells({"none": 0.03, "before_fc1": 0.001, "after_fc1": 0.01})
    assert [cell.variant for cell in cells] == ["rate_0.03", "report", "rate_0.01"]
    assert {(cell.seeds.start, len(cell.seeds)) for cell in cells} == {(1000, 30)}
    assert VARIANTS[variant_at(0.1)] == replace(REPORT, learning_rate=0.1)


@pytest.mark.parametrize(
    ("seed", "init", "order"),
    [
        (0, [1797259609, 2579123966], [928981903, 3453687069]),
        (1000, [76005737, 2103553955], [3121172949, 1033489290]),
    ],
)
def test_a_seed_gives_the_keys_that_every_result_was_computed_with(seed, init, order):
    """Other keys are other weights and another order, so no published run could be repeated."""
    assert [jax.random.key_data(key).tolist() for key in keys_of(seed)] == [init, order]


def test_the_peak_of_one_cycle_is_the_one_that_was_chosen():
    """It was best on held-out images, for every network and length, and was measured since."""
    best = {}
    for row in store.read_json(RESULTS / "schedule_choice.json")["rows"]:
        training = row["placement"], row["epochs"]
        tried = statistics.mean(row["accuracy_percent"]), row["peak_learning_rate"]
        best[training] = max(tried, best.get(training, tried))
    assert {rate for _, rate in best.values()} == {Recipe.peak_learning_rate}
    measured = store.read_json(RESULTS / "time_to_accuracy.json")["rows"]
    assert {row["peak_learning_rate"] for row in measured} == {Recipe.peak_learning_rate}
