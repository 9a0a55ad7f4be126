"""Why the block helps: the contrasts recover effects that were simulated."""

import numpy as np
import pandas as pd
import pytest
from simulated import GAIN, study

from experiments.analysis import block, complete_runs, paired
from experiments.groundwork.variants import RATES, REPORT, VARIANTS, model_of, variant_at
from mnist_jax.model import NormReLU

BEFORE, AFTER = "before_fc1", "after_fc1"
# Shortcut worth 0.1, batch norm 0.3, both together 0.2 more than that, against a plain block.
PARTS = {
    f"{variant}/{BEFORE}": -0.3 + points
    for variant, points in (
        ("plain_block", 0.0),
        ("no_batch_norm", 0.1),
        ("no_shortcut", 0.3),
        ("report", 0.6),
    )
}


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    variants = ("report", "no_shortcut", "no_batch_norm", "plain_block", "batch_norm_only")
    arms = [
        study(40, variants=variants, shift=dict.fromkeys(variants, 0.0), gain=GAIN | PARTS),
        study(
            40,
            variants=("wide_134", "wide_206"),
            placements=("none",),
            shift={"wide_134": 0.05, "wide_206": 0.05},
            rng_seed=1,
        ),
        study(30, variants=("longer",), shift={"longer": 0.2}, rng_seed=2),
    ]
    return complete_runs(pd.concat(arms, ignore_index=True))


def test_contrasts_add_up_to_nothing():
    """So what all networks of a seed share cancels."""
    rates = {"none": 0.01, BEFORE: 0.03, AFTER: 0.001}
    for contrast in block.contrasts_of(rates):
        assert sum(contrast.weights.values()) == pytest.approx(0), contrast.name
        assert all(arm.variant in VARIANTS for arm in contrast.weights)


def test_the_plans_contrasts_are_all_there():
    """Twelve networks against none, and eight questions for each placement, best rate included."""
    rates = {"none": 0.01, BEFORE: 0.03, AFTER: 0.001}
    assert len(block.contrasts_of(rates)) == 12 + 2 * 8 == block.CONTRASTS
    assert len(block.contrasts_of({})) == 12 + 2 * 7
    names = [contrast.name for contrast in block.contrasts_of(rates)]
    assert len(set(names)) == len(names)


def test_the_two_by_two_recovers_what_was_put_in(runs):
    table = block.contrasts(runs, {}).set_index("contrast")
    effects = table["effect"]
    assert effects["shortcut x batch norm, before fc1"] == pytest.approx(0.2, abs=0.06)
    assert effects["shortcut, before fc1"] == pytest.approx((0.1 + 0.3) / 2, abs=0.05)
    assert effects["batch norm, before fc1"] == pytest.approx((0.3 + 0.5) / 2, abs=0.05)
    assert effects["block before fc1 - no block"] == pytest.approx(0.6, abs=0.05)
    assert effects["block before fc1 - no block, fc1 of 134"] == pytest.approx(0.55, abs=0.06)
    assert table["n"]["block before fc1 at 10 epochs - no block at 30"] == 30
    assert table["answer"]["shortcut, before fc1"] == "more"


def test_what_a_recalibration_adds_stands_beside(runs):
    """The generator adds 0.4 points to networks with a block and nothing to those without."""
    table = block.contrasts(runs, {}).set_index("contrast")
    helped = table.loc["block after fc1 - no block"]
    assert helped["recalibrated"] - helped["effect"] == pytest.approx(0.4, abs=0.01)
    parts = table.loc["shortcut, after fc1"]
    assert parts["recalibrated"] == pytest.approx(parts["effect"])


def test_holm_covers_all_contrasts_also_those_without_runs(runs):
    table = block.contrasts(runs, {})
    assert len(table) == 26
    assert table["p_holm"].min() == pytest.approx(28 * table["p"].min())
    assert (table["p_holm"] >= table["p"]).all()
    few = block.contrasts(runs[runs["variant"] == "report"], {})
    assert len(few) == 2
    assert few["p_holm"].min() == pytest.approx(28 * few["p"].min())


def test_nothing_is_claimed_where_nothing_is_there():
    """Of studies without any effect, one in twenty at most finds one in any of its contrasts."""
    variants = ("report", "no_shortcut", "no_batch_norm", "plain_block")
    equal = dict.fromkeys(("none", BEFORE, AFTER), 0.0)
    found = 0
    for trial in range(40):
        results = study(
            10,
            variants=variants,
            epochs=1,
            gain=equal,
            shift=dict.fromkeys(variants, 0.0),
            evaluation={"": 0.0},
            rng_seed=trial,
        )
        table = block.contrasts(results, {})
        found += table["answer"].isin(["more", "less"]).any()
    assert found <= 7  # binomial(40, 0.05): 2 +- 1.4


def test_a_seed_that_one_network_lacks_does_not_count(runs):
    fewer = runs[~((runs["variant"] == "no_shortcut") & (runs["seed"] < 5))]
    table = block.contrasts(fewer, {}).set_index("contrast")
    assert table["n"]["shortcut, before fc1"] == 35
    assert table["n"]["block before fc1 - no block"] == 40


def test_runs_that_were_not_trained_to_the_end_are_not_told_as_longer_ones(runs):
    short = runs[~((runs["variant"] == "longer") & (runs["epoch"] > 29))]
    names = set(block.contrasts(runs, {})["contrast"])
    assert names - set(block.contrasts(short, {})["contrast"]) == {
        name for name in names if "30" in name
    }
    assert not block.arms(short)["network"].str.contains("30").any()


def test_each_variant_has_the_parts_that_its_name_says():
    """A shortcut has no parameters, so no count would tell."""
    parts = {
        "report": (True, True),
        "no_shortcut": (False, True),
        "no_batch_norm": (True, False),
        "plain_block": (False, False),
    }
    for variant, (shortcut, normalise) in parts.items():
        made = model_of(VARIANTS[variant], BEFORE).resnet_block
        assert (made.shortcut, made.normalise) == (shortcut, normalise), variant
    assert isinstance(model_of(VARIANTS["batch_norm_only"], BEFORE).resnet_block, NormReLU)


def test_the_power_that_the_plan_promises_for_the_contrasts():
    """0.2 to 0.27 points by 40 pairs, where differences scatter by 0.3 to 0.4, at Holm's level."""
    for points, sd in ((0.2, 0.3), (0.27, 0.4)):
        found = paired.power(points, sd, 40, level=paired.LEVEL / block.CONTRASTS)
        assert found == pytest.approx(0.8, abs=0.011)


def test_arms_beside_each_other(runs):
    table = block.arms(runs).set_index("network")
    assert np.isnan(table["difference"]["no block"])
    assert table["difference"]["block before fc1"] == pytest.approx(0.6, abs=0.05)
    assert table["n"]["block after fc1, 30 epochs"] == 30
    last = runs.query("variant == 'longer' and placement == 'none' and epoch == 30")
    assert table["train_loss"]["no block, 30 epochs"] == pytest.approx(last["train_loss"].mean())
    assert table["recalibrated"]["no block"] == pytest.approx(table["running"]["no block"])


@pytest.mark.parametrize(
    ("variant", "placement", "count"),
    [
        ("report", "none", 44_426),
        ("report", BEFORE, 49_098),
        ("report", AFTER, 73_706),  # of 304,106
        ("wide_134", "none", 49_200),
        ("wide_206", "none", 73_752),
        ("batch_norm_only", AFTER, 44_426 + 2 * 120),
        ("no_shortcut", BEFORE, 49_098),
        ("no_batch_norm", BEFORE, 49_098 - 2 * 2 * 16 + 2 * 16),  # biases in place of two vectors
        ("plain_block", AFTER, 44_426 + 2 * (120 * 120 + 120)),
    ],
)
def test_parameters_that_receive_a_gradient(variant, placement, count):
    """The widened networks are as large as those with a block, to 0.3 %."""
    assert block.trained_parameters(variant, placement) == count


def test_the_best_rate_is_chosen_on_held_out_images_for_each_network():
    best = {"none": 0.03, BEFORE: 0.01, AFTER: 0.01}
    gain = {f"held_out_{rate}/{place}": 0.5 for place, rate in best.items()}
    variants = [f"held_out_{rate}" for rate in RATES]
    runs = study(3, variants=variants, gain=gain, shift=dict.fromkeys(variants, 0.0))
    table = block.chosen_rates(runs)
    assert len(table) == 15
    assert block.rates_in(table) == best
    assert block.rates_at_an_end(table) == []


def test_no_rate_is_chosen_before_all_are_tried():
    """Neither while one lacks epochs, nor while one has no runs."""
    variants = [f"held_out_{rate}" for rate in RATES]
    runs = study(3, variants=variants, shift=dict.fromkeys(variants, 0.0))
    last = runs["variant"] == variants[-1]
    assert block.rates_in(block.chosen_rates(runs[~last | (runs["epoch"] < 5)])) == {}
    assert block.rates_in(block.chosen_rates(runs[~last])) == {}
    assert len(block.rates_in(block.chosen_rates(runs))) == 3


def test_networks_of_unlike_age_are_not_compared():
    runs = study(5, variants=("report", "wide_134"))
    young = (runs["variant"] == "wide_134") & (runs["epoch"] > 4)
    contrast = "no block, fc1 of 134 - no block"
    assert contrast in set(block.contrasts(runs, {})["contrast"])
    assert contrast not in set(block.contrasts(runs[~young], {})["contrast"])
    for results, told in ((runs, True), (runs[~young], False)):
        difference = block.arms(results).set_index("network")["difference"]
        assert np.isfinite(difference["no block, fc1 of 134"]) == told


def test_a_network_of_30_epochs_is_compared_with_one_that_has_all_its_own(runs):
    contrast = "block before fc1 at 10 epochs - no block at 30"
    younger = runs[(runs["variant"] == "longer") | (runs["epoch"] <= 4)]
    for results, told in ((runs, True), (younger, False)):
        assert (contrast in set(block.contrasts(results, {})["contrast"])) == told
        difference = block.arms(results).set_index("network")["difference"]
        assert np.isfinite(difference["no block, 30 epochs"]) == told


def test_of_equally_good_rates_the_lower_is_chosen():
    variants = [f"held_out_{rate}" for rate in RATES]
    runs = study(3, variants=variants, shift=dict.fromkeys(variants, 0.0), sd=0)
    table = block.chosen_rates(runs)
    assert block.rates_in(table) == {"none": 0.001, BEFORE: 0.001, AFTER: 0.001}
    assert block.rates_at_an_end(table)[0] == (
        "for none the learning rate 0.001 was chosen, at an end of those that were tried"
    )


def test_a_rate_that_diverges_is_not_chosen():
    variants = [f"held_out_{rate}" for rate in RATES]
    shift = {name: (-89.0 if name == "held_out_0.1" else 0.0) for name in variants}
    table = block.chosen_rates(study(3, variants=variants, shift=shift))
    assert not table[table["learning_rate"] == 0.1]["chosen"].any()


def test_the_chosen_rates_networks_are_compared():
    rates = {"none": 0.03, BEFORE: 0.001, AFTER: 0.01}
    variants = ("report", "rate_0.01", "rate_0.03")
    shift = {"report": 0.0, "rate_0.01": 0.2, "rate_0.03": 0.5}
    runs = study(30, variants=variants, shift=shift)
    table = block.contrasts(runs, rates).set_index("contrast")
    lost = table["effect"]["block before fc1 at 0.001 - no block at 0.03"]
    assert lost == pytest.approx(0.3 - 0.5, abs=0.06)
    assert "block after fc1 at 0.01 - no block at 0.03" in table.index


def test_the_plan_is_not_changed_by_accident():
    assert RATES == (0.001, 0.003, 0.01, 0.03, 0.1)
    assert VARIANTS["longer"] == REPORT._replace(epochs=30)
    assert VARIANTS["wide_134"] == REPORT._replace(fc1_features=134)
    assert VARIANTS["wide_206"] == REPORT._replace(fc1_features=206)
    for rate in RATES:
        tried = VARIANTS[block.held_out_at(rate)]
        assert tried == REPORT._replace(learning_rate=rate, held_out=10_000)
        assert VARIANTS[variant_at(rate)] == REPORT._replace(learning_rate=rate)
