"""Why the block helps: the contrasts recover effects that were simulated."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from simulated import study

from experiments.analysis import block, complete_runs, paired
from experiments.analysis.measures import measures_of
from experiments.groundwork.variants import RATES, REPORT, VARIANTS, variant_at

BEFORE, AFTER = "before_fc1", "after_fc1"
HELD_OUT = [f"held_out_{rate}" for rate in RATES]
# Shortcut worth 0.1, batch norm 0.3, both together 0.2 more than that, against a plain block.
PARTS = {"plain_block": -0.3, "no_batch_norm": -0.2, "no_shortcut": 0.0, "report": 0.3}
GAINS = {f"{variant}/{BEFORE}": points for variant, points in PARTS.items()}


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    variants = (*PARTS, "batch_norm_only")
    arms = [
        study(40, variants=variants, better=dict.fromkeys(variants, 0.0) | GAINS),
        study(40, variants=("wide_134",), placements=("none",), better={"wide_134": 0.05}),
        study(30, variants=("longer",), better={"longer": 0.2}, noise=(0.1, 2)),
    ]
    return complete_runs(pd.concat(arms, ignore_index=True))


def contrasts(runs: pd.DataFrame, rates=None) -> pd.DataFrame:
    return block.contrasts(measures_of(runs), rates or {}).set_index("contrast")


def test_the_plans_contrasts_are_all_there_and_add_up_to_nothing():
    """Twelve networks against none, and eight questions for each placement, best rate included."""
    rates = {"none": 0.01, BEFORE: 0.03, AFTER: 0.001}
    found = block.contrasts_of(rates)
    assert len(found) == 12 + 2 * 8 == block.CONTRASTS == len({one.name for one in found})
    assert len(block.contrasts_of({})) == 12 + 2 * 7
    for contrast in found:
        assert sum(contrast.weights.values()) == pytest.approx(0), contrast.name
        assert all(arm.variant in VARIANTS for arm in contrast.weights)


def test_the_two_by_two_recovers_what_was_put_in(runs):
    table = contrasts(runs)
    effects = table["effect"]
    assert effects["shortcut x batch norm, before fc1"] == pytest.approx(0.2, abs=0.06)
    assert effects["shortcut, before fc1"] == pytest.approx((0.1 + 0.3) / 2, abs=0.05)
    assert effects["batch norm, before fc1"] == pytest.approx((0.3 + 0.5) / 2, abs=0.05)
    assert effects["block before fc1 - no block"] == pytest.approx(0.6, abs=0.05)
    assert effects["block before fc1 - no block, fc1 of 134"] == pytest.approx(0.55, abs=0.06)
    assert table["n"]["block before fc1 at 10 epochs - no block at 30"] == 30
    assert table["answer"]["shortcut, before fc1"] == "more"
    # The generator adds 0.4 points to recalibrated networks with a block, to others nothing.
    gained = table["recalibrated"] - effects
    assert gained["block after fc1 - no block"] == pytest.approx(0.4, abs=0.01)
    assert gained["shortcut, after fc1"] == pytest.approx(0, abs=1e-9)


def test_holm_covers_all_contrasts_also_those_without_runs(runs):
    for kept, count in ((runs, 24), (runs[runs["variant"] == "report"], 2)):
        table = contrasts(kept)
        assert len(table) == count
        assert table["p_holm"].min() == pytest.approx(28 * table["p"].min())
        assert (table["p_holm"] >= table["p"]).all()


def test_nothing_is_claimed_where_nothing_is_there():
    """Of studies without any effect, one in twenty at most finds one in any of its contrasts."""
    equal = dict.fromkeys((*PARTS, "none", BEFORE, AFTER), 0.0)
    options = {"variants": [*PARTS], "better": equal, "epochs": 1, "evaluation": {"": 0.0}}
    found = 0
    for trial in range(30):
        table = contrasts(study(10, noise=(0.1, trial), **options))
        found += table["answer"].isin(["more", "less"]).any()
    assert found <= 6  # binomial(30, 0.05): 1.5 +- 1.2


def test_runs_that_were_not_trained_to_the_end_are_not_told_as_longer_ones(runs):
    short = runs[(runs["variant"] != "longer") | (runs["epoch"] <= 29)]
    missing = set(contrasts(runs).index) - set(contrasts(short).index)
    assert missing == {name for name in contrasts(runs).index if "30" in name}
    assert not block.arms(short, measures_of(short))["network"].str.contains("30").any()


def test_arms_beside_each_other(runs):
    table = block.arms(runs, measures_of(runs)).set_index("network")
    assert np.isnan(table["difference"]["no block"])
    assert table["difference"]["block before fc1"] == pytest.approx(0.6, abs=0.05)
    assert table["n"]["block after fc1, 30 epochs"] == 30
    last = runs.query("variant == 'longer' and placement == 'none' and epoch == 30")
    assert table["train_loss"]["no block, 30 epochs"] == pytest.approx(last["train_loss"].mean())
    assert table["recalibrated"]["no block"] == pytest.approx(table["running"]["no block"])


def test_parameters_that_receive_a_gradient():
    """The widened networks are as large as those with a block, to 0.3 %."""
    counts = {
        ("report", "none"): 44_426,
        ("report", BEFORE): 49_098,
        ("report", AFTER): 73_706,  # of 304,106
        ("wide_134", "none"): 49_200,
        ("wide_206", "none"): 73_752,
        ("no_batch_norm", BEFORE): 49_098 - 2 * 2 * 16 + 2 * 16,  # biases in place of two vectors
        ("plain_block", AFTER): 44_426 + 2 * (120 * 120 + 120),
    }
    for (variant, placement), count in counts.items():
        assert block.trained_parameters(VARIANTS[variant], placement) == count


def rates_of(runs: pd.DataFrame) -> dict[str, float]:
    return block.rates_in(block.chosen_rates(measures_of(runs)))


def test_the_best_rate_is_chosen_on_held_out_images_for_each_network():
    """Of equally good ones the lower; none before all are tried to their end."""
    best = {"none": 0.03, BEFORE: 0.01, AFTER: 0.01}
    gain = {f"held_out_{rate}/{place}": 0.5 for place, rate in best.items()}
    shift = dict.fromkeys(HELD_OUT, 0.0)
    runs = study(3, variants=HELD_OUT, better=shift | gain)
    assert rates_of(runs) == best
    last = runs["variant"] == HELD_OUT[-1]
    assert rates_of(runs[~last | (runs["epoch"] < 5)]) == rates_of(runs[~last]) == {}
    equal = study(
        3,
        variants=HELD_OUT,
        better=shift | dict.fromkeys(("none", BEFORE, AFTER), 0.0),
        noise=(0, 0),
    )
    assert rates_of(equal) == {"none": 0.001, BEFORE: 0.001, AFTER: 0.001}


def test_the_chosen_rates_networks_are_compared():
    rates = {"none": 0.03, BEFORE: 0.001, AFTER: 0.01}
    shift = {"report": 0.0, "rate_0.01": 0.2, "rate_0.03": 0.5}
    runs = study(30, variants=tuple(shift), better=shift)
    gain = block.chosen_rates_gain(measures_of(runs), rates).query("evaluation == 'running'")
    assert gain["placement"].tolist() == ["none", AFTER]  # before fc1 it is the report's own
    np.testing.assert_allclose(gain["effect"], (0.5, 0.2), atol=0.05)
    table = contrasts(runs, rates)
    lost = table["effect"]["block before fc1 at 0.001 - no block at 0.03"]
    assert lost == pytest.approx(0.3 - 0.5, abs=0.06)
    assert "block after fc1 at 0.01 - no block at 0.03" in table.index


def test_the_plan_is_not_changed_by_accident():
    """With 40 pairs 0.2 to 0.27 points are found, where differences scatter by 0.3 to 0.4."""
    assert RATES == (0.001, 0.003, 0.01, 0.03, 0.1)
    for rate in RATES:
        tried = VARIANTS[block.held_out_at(rate)]
        assert tried == replace(REPORT, learning_rate=rate, held_out=10_000)
        assert VARIANTS[variant_at(rate)] == replace(REPORT, learning_rate=rate)
    for points, sd in ((0.2, 0.3), (0.27, 0.4)):
        found = paired.power(points, sd, 40, level=paired.LEVEL / block.CONTRASTS)
        assert found == pytest.approx(0.8, abs=0.011)
