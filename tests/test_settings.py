"""Settings, and the plan of the study: its commands train all that an answer needs."""

import shlex
from pathlib import Path

import pytest

from experiments.analysis.block import LABELS
from experiments.analysis.claims import SCALES
from experiments.settings import BLOCKS, CANDIDATES, RATES, SETTINGS
from mnist_jax.data import PIXELS
from mnist_jax.model import PLACEMENTS

PLAN = Path(__file__).parents[1] / "experiments" / "results" / "plan.md"


@pytest.fixture(scope="module")
def planned() -> dict[tuple[str, str], range]:
    """The seeds of each variant and placement, as the commands of the plan give them."""
    found = {}
    for line in PLAN.read_text().splitlines():
        if not line.startswith("python -m experiments.compare --out") or "rate_X" in line:
            continue
        words = [word for word in shlex.split(line)[3:] if word != "--resume"]
        options = dict(zip(words[::2], words[1::2], strict=True))
        first, count = int(options["--first-seed"]), int(options["--seeds"])
        for variant in options["--variants"].split(","):
            for placement in options.get("--placements", ",".join(PLACEMENTS)).split(","):
                assert (variant, placement) not in found
                found[variant, placement] = range(first, first + count)
    return found


def test_every_setting_names_pixels_and_a_block():
    for name, setting in SETTINGS.items():
        assert setting.normalisation in PIXELS, name
        assert setting.block in BLOCKS, name


def test_the_size_of_the_plan_is_as_it_says(planned):
    """With the last three cells, which follow from the rates that are chosen."""
    assert {variant for variant, _ in planned} <= set(SETTINGS)
    runs = sum(map(len, planned.values())) + 3 * 30
    epochs = sum(len(seeds) * SETTINGS[name].epochs for (name, _), seeds in planned.items()) + 900
    assert f"{runs:,} runs and {epochs:,} epochs" in PLAN.read_text()


def test_seeds_are_fresh_and_others_choose_the_rates(planned):
    for (variant, placement), seeds in planned.items():
        first = 2000 if SETTINGS[variant].held_out else 1000
        assert seeds.start == first, (variant, placement)


def test_claims_3_and_4_get_their_runs(planned):
    for variant in SCALES:
        assert {len(planned[variant, place]) for place in ("before_fc1", "after_fc1")} == {200}
    for variant in (*SCALES, "unnormalised"):
        assert min(len(planned[variant, place]) for place in PLACEMENTS) == 100


def test_every_cell_of_the_likelihood_gets_thirty_seeds(planned):
    assert min(len(planned[name, place]) for name in CANDIDATES for place in PLACEMENTS) == 30


def test_every_arm_is_trained(planned):
    for arm in LABELS:
        assert len(planned[arm]) >= (30 if arm.variant == "longer" else 40), arm


def test_every_rate_is_tried_for_every_network(planned):
    tried = {
        (SETTINGS[variant].learning_rate, placement, len(seeds))
        for (variant, placement), seeds in planned.items()
        if SETTINGS[variant].held_out == 10_000
    }
    assert tried == {(rate, placement, 3) for rate in RATES for placement in PLACEMENTS}
