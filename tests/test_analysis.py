"""Which runs count, what is measured of them, and the tables as a whole, on simulated results."""

import json

import numpy as np
import pandas as pd
import pytest
from simulated import answers, labels, study, timing

from experiments import analysis
from experiments.analysis import measures
from experiments.analysis.measures import Arm, measures_of, weighted
from experiments.analysis.runs import FINAL, evaluated, evaluations_of


@pytest.fixture(scope="module")
def tables() -> analysis.Tables:
    """Of a study of three variants that could be the report's."""
    results, digits = study(6, variants=("report", "mnist", "unnormalised")), labels()
    said = [
        answers(digits, placement=placement, evaluation=evaluation)
        for evaluation in ("batch", "running")
        for placement in ("after_fc1", "none", "before_fc1")
    ]
    times = timing({"pytorch dataloader": ([1.0, 1.02, 0.99], [1.01, 1.0, 1.03])})
    return analysis.analyse(results, times, said, digits)


def test_a_run_without_its_last_epoch_is_left_out():
    results = study(4, variants=("report",))
    tables = analysis.analyse(results[(results["seed"] > 0) | (results["epoch"] <= 5)])
    assert {rank.among for rank in tables.ranks.values()} == {4}
    assert tables.notes[0] == "3 unfinished runs are left out"


def test_a_run_that_diverged_counts():
    """Its accuracy as it was measured, its loss as that of guessing."""
    results = study(4, variants=("report",))
    broken = (results["placement"] == "none") & (results["epoch"] > 2)
    for seed, loss in ((1, np.inf), (2, None)):
        mine = broken & (results["seed"] == seed)
        results.loc[mine, ["train_loss", "test_loss"]] = loss
        results.loc[mine, FINAL] = 9.8
    runs = analysis.complete_runs(results)
    assert len(runs) == len(results)
    np.testing.assert_allclose(runs[broken & runs["seed"].isin([1, 2])]["test_loss"], np.log(10))
    assert measures_of(runs).by_seed[Arm("report", "none")][[1, 2]].tolist() == [9.8, 9.8]
    assert "2 runs diverged and count" in " ".join(analysis.analyse(results).notes)


def test_a_line_twice_is_an_error():
    """A resumed study that repeats an epoch must not count it twice."""
    results = study(2, variants=("report",))
    with pytest.raises(ValueError, match="twice"):
        analysis.analyse(pd.concat([results, results.tail(1)]))


def test_evaluations_are_told_apart():
    """Each stands in its turn where the tables look for the test images' numbers."""
    runs = study(3, variants=("report",), noise=(0, 0), evaluation={"": 0.0, "recalibrated_": 0.4})
    assert evaluations_of(runs) == ("running", "recalibrated")
    found = measures_of(runs).by_seed
    exact, running = (
        found[Arm("report", "after_fc1", name)] for name in ("recalibrated", "running")
    )
    np.testing.assert_allclose(exact - running, 0.4)
    runs.loc[runs["seed"] == 0, f"recalibrated_{FINAL}"] = np.nan
    assert set(evaluated(runs, "recalibrated")["seed"]) == {1, 2}


def test_epochs_to_the_target():
    """By hand: 96, 98 crosses 97 half-way through epoch 2; the line to 98.5 starts at 10."""
    curves = {0: (96.0, 98.0), 1: (97.0, 98.0), 2: (90.0, 96.9), 3: (98.5, 98.6)}
    lines = [
        {"seed": seed, "epoch": epoch, FINAL: accuracy}
        for seed, curve in curves.items()
        for epoch, accuracy in enumerate(curve, start=1)
    ]
    reached = measures.epochs_to_target(pd.DataFrame(lines))
    np.testing.assert_allclose(reached, [1.5, 1.0, np.nan, 87 / 88.5])


def test_a_weighted_sum_is_of_the_seeds_that_all_have():
    first = pd.Series([3.0, 4.0, 6.0], index=[0, 1, 2])
    second = pd.Series([1.0, np.nan, 9.0], index=[1, 2, 5])
    one, other = Arm("report", "none", measure="epochs"), Arm("mnist", "none", measure="epochs")
    known = measures.Measures({one: first, other: second}, {"report": 10, "mnist": 10})
    found = weighted(known, {one: 1, other: -1})
    assert found.to_dict() == {1: 3.0, 2: 6.0 - 10}  # a run that never gets there: the last epoch
    assert weighted(known, {one: 1, Arm("report", "after_fc1"): -1}).empty


def test_networks_of_unlike_age_are_not_compared():
    """Equally many epochs or all of their own; losses of the first epochs always."""
    wanted = {Arm("report", "none"): 1, Arm("longer", "none"): -1}
    early = {arm._replace(measure="early"): weight for arm, weight in wanted.items()}
    runs = study(3, variants=("report", "longer"), placements=("none",))
    long = runs["variant"] == "longer"
    for kept, told in ((~long | True, True), (~long | (runs["epoch"] <= 20), False)):
        known = measures_of(runs[kept])
        assert len(weighted(known, wanted)) == (3 if told else 0)
        assert len(weighted(known, early)) == 3
    assert len(weighted(measures_of(runs[runs["epoch"] <= 4]), wanted)) == 3


def test_strangers_and_gaps_are_named():
    rest = study(6, variants=("report", "unnormalised"))
    stranger = rest[rest["variant"] == "report"].assign(variant="stranger")
    rest = rest[(rest["variant"] == "report") | (rest["placement"] != "none")]
    digits = labels(640)
    said = [answers(digits, variant="stranger")]
    tables = analysis.analyse(pd.concat([rest, stranger]), None, said, digits)
    notes = " ".join(tables.notes)
    assert "no such variant: stranger" in notes and "unfinished" not in notes
    assert "not run: mnist/none, mnist/before_fc1, mnist/after_fc1, unnormalised/none" in notes
    assert "claim 2 is not tested" in notes and "no tables by digit" in notes
    assert "cells are compared on 6 seeds that they share; the plan has 30" in notes
    assert tables.by_name["per_class"].empty


@pytest.mark.parametrize(
    "shape",
    [
        {"seeds": 3, "epochs": 2, "variants": ("report",)},
        {"seeds": 2, "epochs": 1, "placements": ("after_fc1",), "evaluation": {"": 0.0}},
        {"seeds": 1, "placements": ("none",), "variants": ("no_momentum",)},
        {"seeds": 2, "variants": ("wide_134",), "placements": ("none",)},
    ],
)
def test_small_studies_make_whole_tables(shape):
    tables = analysis.analyse(study(**shape))
    assert len(tables.by_name["claims"]) == 4
    json.dumps(analysis.summary(tables), allow_nan=False)
    assert all("nan" not in text for text in analysis.to_markdown(tables).values())


def test_markdown_prints_each_column_in_its_format(tables):
    """Digits, signs, separators, yes and no, a dash for what was not computed, bold outside."""

    def cells(name: str, row: int) -> list[str]:
        return [cell.strip() for cell in rendered[name].splitlines()[row].split("|")[1:-1]]

    rendered = analysis.to_markdown(tables)
    for name in rendered.keys() - {"rank", "notes"}:
        assert len({len(line) for line in rendered[name].splitlines()}) <= 1, name
    first = tables.by_name["numbers"].iloc[0]
    inside = "yes" if first["inside"] else "no"
    assert cells("numbers", 2)[:5] == ["before_fc1", "1", "train_loss", "", "0.9363"]
    assert cells("numbers", 2)[9:] == [f"{first['t']:+.2f}", inside]
    assert cells("sampling", -1)[3] == "10,000"
    assert cells("arms", 2)[2] == "44,426" and cells("arms", 2)[6:] == ["-", "-", "-"]
    assert len(rendered["reproduction"].splitlines()) == 2 + 20
    number = f"{first['published']:.4f} in [{first['low']:.4f}, {first['high']:.4f}]"
    outside = number.replace(" in", "** not in").replace("0.", "**0.", 1)
    assert cells("reproduction", 2)[2] == (number if first["inside"] else outside)
    rank = tables.ranks["running"]
    assert f"number {rank.place} of {rank.among}" in rendered["rank"]


def test_the_summary_is_strict_json_with_small_p_values(tables):
    summary = json.loads(json.dumps(analysis.summary(tables), allow_nan=False))
    assert len(summary["numbers"]) == 160 and summary["ranks"]["batch"]["among"] == 7
    smallest = tables.by_name["claims"]["p"].min()
    said = min(row["p"] for row in summary["claims"] if row["p"] is not None)
    assert smallest < 1e-3 and said == pytest.approx(smallest, rel=1e-5)
    impossible = np.isneginf(tables.by_name["sampling"]["log10_probability"])
    found = [row["log10_probability"] is None for row in summary["sampling"]]
    assert found == impossible.tolist() and any(found)


def test_the_report_is_ranked_among_as_many_runs_as_the_plan_says():
    """The first 30 seeds of both networks; the intervals of the numbers rest on all."""
    results = study(33, variants=("report",), epochs=1)
    results = results[(results["placement"] == "none") | (results["seed"] != 3)]
    tables = analysis.analyse(results)
    assert {rank.among for rank in tables.ranks.values()} == {31}
    assert set(tables.by_name["numbers"]["n"]) == {32}
