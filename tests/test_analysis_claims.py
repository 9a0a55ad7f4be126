"""The rules of the four claims, on evidence whose truth is known."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from simulated import SHIFT, study, timing
from statsmodels.stats.weightstats import ttost_paired

from experiments.analysis import claims, complete_runs, evidence, measures, paired
from experiments.groundwork import published
from experiments.groundwork.variants import WITH_BLOCK

MARGIN = evidence.MARGIN_POINTS
SCALES = evidence.SCALES
ORDERS = {"claim": 4, "reading": evidence.ORDER, "where": "", "variant": "", "unit": "points"}


def evidence_of(runs: pd.DataFrame, times: dict | None = None) -> pd.DataFrame:
    return evidence.evidence_of(measures.measures_of(complete_runs(runs)), times)


def verdict(runs: pd.DataFrame, number: int, times: dict | None = None) -> str:
    return claims.verdicts(evidence_of(runs, times))["verdict"][number - 1]


def row(effect: float, half: float, n: int = 30) -> dict[str, Any]:
    """Differences whose 90 % interval reaches `half` to each side of their mean."""
    values = np.random.default_rng(0).normal(size=n)
    found = paired.paired(pd.Series(values))
    scale = 2 * half / (found["high90"] - found["low90"])
    return paired.paired(pd.Series((values - values.mean()) * scale + effect))


def times_of(ratio: float, spread: float, rounds: int = 20) -> dict:
    """Rounds of the author's program whose log ratio has this mean and standard deviation."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=rounds)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    before = np.exp(rng.normal(0, 0.5, size=rounds))  # the machine's moods meet both
    after = before * ratio * np.exp(spread * noise)
    return timing({"mnist_jax": ([1, 1.1], [3, 3.2]), "pytorch dataloader": (before, after)})


def test_the_plan_is_not_changed_by_accident():
    """A changed rule changes answers that experiments/results/plan.md has fixed."""
    assert (MARGIN, evidence.SAME_RATIO, measures.TARGET_PERCENT) == (0.08, 1.25, 97.0)
    assert measures.EARLY["early"] == (1, 2)
    assert claims.REPORTED_GAIN == (5.0, 7.29)
    assert (SCALES, evidence.PRIMARY) == (("report", "mnist"), "running")
    assert evidence.AUTHORS_PROGRAM == "pytorch dataloader"
    assert (paired.LEVEL, paired.CLAIMS, paired.HOLM_LEVEL) == (0.05, 4, 0.0125)
    before, after = (history[-1].test_accuracy_percent for history in published.HISTORY.values())
    assert after - before == pytest.approx(MARGIN)
    low, high = claims.REPORTED_GAIN
    assert (low, high) == pytest.approx((97.5 - 92.5, after - 91.5))


# Differences by seed --------------------------------------------------------------------------


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    rows = [paired.paired(pd.Series(rng.normal(0.3, 1, size=12))) for _ in range(500)]
    for low, high, share in (("low", "high", 0.95), ("low90", "high90", 0.90)):
        covered = np.mean([r[low] < 0.3 < r[high] for r in rows])
        assert covered == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 500))


def test_one_seed_gives_no_number_and_a_tie_is_half_ahead():
    found, other = (paired.paired(pd.Series(values)) for values in ([0.3], [0.3, 0.4]))
    assert found.keys() == other.keys()
    assert (found.pop("n"), found.pop("differences")) == (1, (0.3,))
    assert np.isnan(list(found.values())).all()
    assert paired.paired(pd.Series([0.0, 0.1, -0.1, 0.2]))["ahead"] == 0.625


def test_equivalence_is_that_of_statsmodels():
    values = np.random.default_rng(0).normal(0.02, 0.1, size=20)
    expected = ttost_paired(values, np.zeros(20), -0.08, 0.08)[0]
    assert paired.p_within(paired.paired(pd.Series(values)), 0.08) == pytest.approx(expected)


def test_the_power_that_the_plan_promises():
    """Cohen, Statistical Power Analysis, 1988: d = 0.5 takes 34 pairs at 5 %; then the plan's."""
    assert paired.power(0.5, 1.0, 34, level=0.05) == pytest.approx(0.8, abs=0.01)
    assert paired.power(6.0, 0.2, 200) == 1.0  # no overflow
    for sd, at_holms, at_five in ((0.35, 0.76, 0.90), (0.24, 0.99, 1.00)):
        assert paired.power(0.08, sd, 200) == pytest.approx(at_holms, abs=0.006)
        assert paired.power(0.08, sd, 200, level=0.05) == pytest.approx(at_five, abs=0.006)
    for sd, same in ((0.35, 0.89), (0.24, 1.00)):
        assert paired.power_within(0.08, sd, 200, level=0.05) == pytest.approx(same, abs=0.006)
    assert paired.power_within(np.log(1.25), 0.2, 20) == pytest.approx(0.98, abs=0.005)


# The claims -----------------------------------------------------------------------------------


def test_claim_1_asks_for_the_reports_gain():
    """More than reported is not as reported."""
    sign = "the sign holds, the size does not"
    words = {6.0: "holds", 4.0: sign, 8.5: sign, -1.0: "does not hold", 0.0: "undecided"}
    for gain, word in words.items():
        better = {"none": -9.0, "before_fc1": gain - 9.0, "after_fc1": gain - 9.0}
        assert verdict(study(12, variants=SCALES, better=better), 1) == word


def test_claim_1_names_the_baseline_that_ends_where_the_reports_does():
    """The block is worth 0.3 points, momentum 6 with one scale of pixels and 13 with the other."""
    shift = SHIFT | {"no_momentum": -13.0, "no_momentum_mnist": -6.0}
    found = verdict(
        study(30, variants=(*SCALES, "no_momentum", "no_momentum_mnist"), better=shift), 1
    )
    assert found == "the sign holds, the size only without momentum, pixels mnist"
    wide = pd.DataFrame([row(6.0, 0.4), row(6.0, 4.0), row(6.9, 0.3), row(7.1, 0.3)])
    assert list(claims.within_reported(wide)) == [True, False, True, False]


def test_claim_2_by_the_authors_program():
    """Ratio and spread of the rounds; another program is told beside it."""
    cases = {
        "holds": ((1.00, 0.02), (1.20, 0.02), (0.83, 0.02)),
        "at the margin": ((1.24, 0.05), (0.79, 0.05)),
        "does not hold": ((1.32, 0.02), (0.75, 0.02)),
        "undecided": ((1.10, 0.60),),
    }
    for word, given in cases.items():
        for ratio, spread in given:
            found = evidence_of(study(2, variants=("report",)), times_of(ratio, spread))
            assert claims.verdicts(found)["verdict"][1] == word
            told = found.assign(answer=claims.answers(found)).query("claim == 2")
            assert told["answer"].tolist() == [word, "does not hold"]
            assert told["n"].tolist() == [20, 2]


def test_claim_2_pairs_the_rounds_and_is_tested_at_its_margin():
    """Drift that meets both networks alike does not widen the interval."""
    drift = np.linspace(1, 3, 10)
    after = 1.1 * drift * np.exp(0.01 * np.random.default_rng(0).normal(size=10))
    times = timing({"pytorch dataloader": (drift, after)})
    found = evidence_of(study(2, variants=("report",)), times).query("claim == 2").iloc[0]
    assert found["effect"] == pytest.approx(1.1, abs=0.01)
    assert found["high"] - found["low"] < 0.03
    margin = np.log(1.25)
    expected = ttost_paired(np.log(after), np.log(drift), -margin, margin)[0]
    assert found["p"] == pytest.approx(expected)
    assert found["note"] == f"smallest margin that passes: {found['high90']:.2f}"
    assert evidence.smallest_margin({"low90": 0.90, "high90": 1.05}) == pytest.approx(1 / 0.90)
    equal = timing({"pytorch dataloader": ([1.0, 1.1, 1.2], [1.1, 1.21, 1.32])})
    assert verdict(study(2, variants=("report",)), 2, equal) == "could not be tested"


def test_claim_3_has_every_answer():
    words = {-0.4: "holds", 0.6: "the opposite is true", 0.075: "depends on network and scale"}
    for unnormalised, word in words.items():
        better = {"report": 0.0, "mnist": 0.15, "unnormalised": unnormalised}
        runs = study(60, variants=[*better], better=better, noise=(0.05, 0), epochs=2)
        assert verdict(runs, 3) == word


def test_claim_3_is_about_the_logarithm_of_early_losses():
    """The generator moves it by half a point of accuracy, 0.4 between the two and 0.55."""
    runs = study(30, variants=(*SCALES, "unnormalised"))
    found = evidence_of(runs).query("claim == 3")
    primary = found[found["primary"]].set_index(["variant", "where"])["effect"]
    assert set(primary.index.get_level_values("where")) == set(WITH_BLOCK)
    assert primary["report", "before_fc1"] == pytest.approx(0.2, abs=0.03)
    assert primary["mnist", "after_fc1"] == pytest.approx(0.275, abs=0.03)
    gained = found[found["reading"] == "final accuracy gained"].query("variant == 'report'")
    np.testing.assert_allclose(gained["effect"], SHIFT["report"] - SHIFT["unnormalised"], atol=0.1)
    slow = runs[(runs["variant"] != "unnormalised") | (runs["epoch"] < 2)]
    assert verdict(slow, 3) == "could not be tested"


def test_claim_3_says_whether_the_block_absorbs_the_benefit():
    """Without a block normalising is worth a point; with one, this share of it."""
    for left, without, said in ((0.3, 1.0, True), (0.7, 1.0, False), (0.3, -1.0, False)):
        better = dict.fromkeys(("none", *WITH_BLOCK, *SCALES, "unnormalised"), 0.0)
        better |= {f"unnormalised/{block}": -left for block in WITH_BLOCK}
        better |= {"unnormalised/none": -without}
        runs = study(30, variants=(*SCALES, "unnormalised"), better=better, epochs=2)
        assert ("absorbed" in claims.answers(evidence_of(runs))) == said


def test_claim_4_follows_its_rule():
    """The 95 % interval decides better and worse, the 90 % interval the same."""
    cases = {
        "better": ((0.10, 0.03), (0.051, 0.03)),
        "better, by less than reported": ((0.049, 0.03),),
        "worse": ((-0.10, 0.03),),
        "the same": ((0.02, 0.059), (-0.02, 0.059)),
        # In the last two the 90 % interval leaves 0 out, the 95 % interval does not.
        "undecided": ((0.02, 0.061), (-0.02, 0.061), (0.062, 0.06), (-0.062, 0.06)),
    }
    for word, given in cases.items():
        table = pd.DataFrame([row(effect, half) for effect, half in given])
        assert set(claims.answers(table.assign(**ORDERS))) == {word}


def test_claim_4_errs_as_rarely_as_it_should():
    """200 pairs whose differences have the standard deviation that 30 pairs had before."""
    rng = np.random.default_rng(0)
    for truth, share in ((0.0, {"the same": 0.89, "better": 0.025}), (0.08, {"better": 0.90})):
        samples = rng.normal(truth, 0.35, size=(300, 200))
        rows = pd.DataFrame([paired.paired(pd.Series(sample)) for sample in samples])
        words = claims.answers(rows.assign(**ORDERS))
        for word, expected in share.items():
            found = np.mean([said.startswith(word) for said in words])
            assert found == pytest.approx(expected, abs=0.07)


def test_claim_4_needs_both_scales():
    words = {(0.2, 0.2): "holds", (-0.2, -0.2): "does not hold, before fc1 is better"}
    words |= {(0.0, 0.0): "the same", (0.2, 0.0): "depends on the scale"}
    for (half, mnist), word in words.items():
        better = {"before_fc1": 0, "report/after_fc1": half, "mnist/after_fc1": mnist}
        runs = study(60, variants=SCALES, better=better, noise=(0.1, 2))
        assert verdict(runs, 4) == word
        gap = evidence_of(runs).query(f"reading == 'mnist - half, of {evidence.ORDER}'")
        assert gap["effect"].iloc[0] == pytest.approx(mnist - half, abs=0.1)
    one = study(60, variants=("mnist",), better={"before_fc1": 0, "after_fc1": 0.2})
    assert verdict(one, 4) == "holds; asked of 1 of 2 comparisons"


def test_claim_4_finds_that_the_order_turns_on_the_evaluation():
    """After fc1 gains from recalibration what before fc1 does not."""
    runs = study(60, variants=SCALES, better=dict.fromkeys(WITH_BLOCK, 0))
    after = runs["placement"] == "after_fc1"
    runs.loc[after, "recalibrated_test_accuracy_percent"] += 0.2
    found = evidence_of(runs)
    words = found.assign(answer=claims.answers(found)).query("variant == 'report'")
    words = words[words["reading"] == evidence.ORDER].set_index("evaluation")["answer"]
    assert words.to_dict() == {"running": "the same", "batch": "the same", "recalibrated": "better"}
    turns = found[found["reading"].str.startswith("recalibrated - running")]
    np.testing.assert_allclose(turns["effect"], 0.2, atol=1e-6)


def test_claim_4_says_how_often_two_equal_networks_differ():
    """By hand: of three runs of each network 2 and 1 of 3 pairs differ by 0.08 or more."""
    first, second = pd.Series([98.70, 98.78, 98.70]), pd.Series([98.70, 98.77, 98.78])
    assert evidence.single_pair(first, second) == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_holm_covers_all_four_claims_and_each_rests_on_all_its_rows():
    """A claim without data counts as p = 1; the network and scale that shows least decides."""
    found = evidence_of(study(12, variants=(*SCALES, "unnormalised")))
    table = claims.verdicts(found)
    assert np.isnan(table["p"][1]) and table["verdict"][1] == "could not be tested"
    assert table["p_holm"].min() == pytest.approx(4 * table["p"].min())
    assert table["p"][0] == found.query("claim == 1 and primary")["p"].max()
    assert (found["p"].notna() == found["primary"]).all()
    spreads = found.query("claim == 4 and primary")["sd"]
    assert table["power"][3] == min(paired.power(MARGIN, sd, 12, level=0.0125) for sd in spreads)
    assert np.isnan(table["power"][2])  # the report names no size


def test_an_answer_that_the_correction_undoes_is_told_with_that():
    found = evidence_of(study(12, variants=(*SCALES, "unnormalised"), noise=(0.01, 0)))
    for number, word in ((1, "the sign holds, the size does not"), (3, "holds"), (4, "holds")):
        told = {"claim": number, "p": 0.02, "p_holm": 0.049}
        assert claims._verdict(found, told) == word
        undone = claims._verdict(found, told | {"p_holm": 0.05})
        assert undone == f"{word}; not after the correction for four claims"
