"""The variants of the report's recipe that the study trains, and its plan."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from experiments.groundwork.recipe import Recipe
from mnist_jax.model import PLACEMENTS, Placement

RATES = (0.001, 0.003, 0.01, 0.03, 0.1)  # learning rates that are tried for each network

REPORT = Recipe()
# Recipes that could have made the report's curves. The report states learning rate, batch size and
# epochs, but neither momentum nor pixel scale. `report` is the likeliest of them
# (experiments/results/README.md), and the project's default.
CANDIDATES: dict[str, Recipe] = {
    "report": REPORT,
    "mnist": Recipe(pixels="mnist"),
    "unnormalised": Recipe(pixels="none"),
    "no_momentum": Recipe(momentum=0),
    "no_momentum_mnist": Recipe(momentum=0, pixels="mnist"),
    "no_momentum_unnormalised": Recipe(momentum=0, pixels="none"),
    # No momentum, but the step size that momentum 0.9 reaches in the long run.
    "no_momentum_rate_0.01": Recipe(momentum=0, learning_rate=0.01),
    "no_momentum_mnist_rate_0.01": Recipe(momentum=0, pixels="mnist", learning_rate=0.01),
}
# Every variant that the study trains, at each placement that its plan asks for.
VARIANTS: dict[str, Recipe] = {
    **CANDIDATES,
    # For the question why the block helps: parts of it, or something else instead of it.
    "no_shortcut": Recipe(block="no shortcut"),
    "no_batch_norm": Recipe(block="no batch norm"),
    "plain_block": Recipe(block="neither"),
    "batch_norm_only": Recipe(block="batch norm only"),
    # As large as the networks with a block before and after fc1, by parameters that get a gradient.
    "wide_134": Recipe(fc1_features=134),
    "wide_206": Recipe(fc1_features=206),
    "longer": Recipe(epochs=30),
    **{f"rate_{rate}": Recipe(learning_rate=rate) for rate in RATES[1:]},
    **{f"held_out_{rate}": Recipe(learning_rate=rate, held_out=10_000) for rate in RATES},
}


class Cell(NamedTuple):
    """Runs that a plan asks for: one variant with one placement."""

    variant: str
    placement: Placement
    seeds: range


def cells(
    variants: Iterable[str], placements: Iterable[Placement], runs: int, *, first: int = 1000
) -> tuple[Cell, ...]:
    """Every variant with every placement, each with seeds from `first` to `first + runs - 1`."""
    seeds = range(first, first + runs)
    return tuple(Cell(variant, place, seeds) for variant in variants for place in placements)


WITH_BLOCK: tuple[Placement, ...] = ("before_fc1", "after_fc1")
# The parts of experiments/results/plan.md, which says what each is for. The runs of the last part,
# `best_rates`, follow from the results of `rates`, by `best_rate_cells`.
PLAN: dict[str, tuple[Cell, ...]] = {
    "pairs": cells(("report", "mnist"), WITH_BLOCK, 200),
    "normalising": (
        *cells(("report", "mnist"), ("none",), 100),
        *cells(("unnormalised",), PLACEMENTS, 100),
    ),
    "settings": cells([name for name in CANDIDATES if name.startswith("no_")], PLACEMENTS, 30),
    "parts": (
        *cells(("no_shortcut", "no_batch_norm", "plain_block", "batch_norm_only"), WITH_BLOCK, 40),
        *cells(("wide_134", "wide_206"), ("none",), 40),
    ),
    "longer": cells(("longer",), PLACEMENTS, 30),
    "rates": cells([f"held_out_{rate}" for rate in RATES], PLACEMENTS, 3, first=2000),
}


def variant_at(rate: float) -> str:
    """The name of the report's recipe with another learning rate."""
    wanted = replace(REPORT, learning_rate=rate)
    return next(name for name, recipe in VARIANTS.items() if recipe == wanted)


def best_rate_cells(rates: Mapping[Placement, float]) -> tuple[Cell, ...]:
    """The last part of the plan, with the learning rate that was chosen for each placement."""
    return tuple(
        cell for place, rate in rates.items() for cell in cells((variant_at(rate),), (place,), 30)
    )
