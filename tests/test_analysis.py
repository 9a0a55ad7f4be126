"""Which runs count, and the tables as a whole, on simulated results."""

import json

import numpy as np
import pandas as pd
import pytest
from simulated import answers, labels, study, timing

from experiments import analysis
from experiments.analysis.runs import FINAL, evaluated, evaluations_of, final
from experiments.groundwork import published
from experiments.groundwork.evaluation import EVALUATIONS
from experiments.groundwork.variants import VARIANTS

# Of the columns that stand beside each other: what is trained first, then by evaluation.
ORDER = {name: place for place, name in enumerate(["", *EVALUATIONS, *published.METRICS])}


@pytest.fixture(scope="module")
def results() -> pd.DataFrame:
    """A study of the settings that could be the report's; tests do not change it."""
    return study()


@pytest.fixture(scope="module")
def tables(results: pd.DataFrame) -> analysis.Tables:
    """All of its tables, without epoch times."""
    digits = labels()
    said = [
        answers(digits, placement=placement, evaluation=evaluation)
        for placement in ("none", "before_fc1", "after_fc1")
        for evaluation in ("running", "batch")
    ]
    return analysis.analyse(results, None, said, digits)


def cells(rendered: str, row: int) -> list[str]:
    return [cell.strip() for cell in rendered.splitlines()[row].split("|")[1:-1]]


def test_a_run_without_its_last_epoch_is_left_out(results):
    killed = (results["seed"] == 0) & (results["epoch"] > 5) & (results["variant"] == "report")
    tables = analysis.analyse(results[~killed])
    assert {rank.among for rank in tables.ranks.values()} == {12}
    assert tables.notes[0] == "3 unfinished runs are left out"
    killed = killed & (results["placement"] == "none")
    results = results.copy()
    results.loc[killed, "train_loss"] = np.nan
    results = results[~(killed & (results["epoch"] == 10))]
    assert "diverged" not in " ".join(analysis.analyse(results).notes)


def test_a_run_that_diverged_counts(results):
    """Its accuracy as it was measured, its loss as that of guessing."""
    broken = results.copy()
    run = (broken["variant"] == "report") & (broken["placement"] == "none") & (broken["epoch"] > 2)
    broken.loc[run & (broken["seed"] == 1), ["train_loss", "test_loss"]] = np.inf
    broken.loc[run & (broken["seed"] == 2), ["train_loss", "test_loss"]] = None
    for seed in (1, 2):
        broken.loc[run & (broken["seed"] == seed), FINAL] = 9.8
    runs = analysis.complete_runs(broken)
    assert len(runs) == len(results)
    chosen = runs.query("variant == 'report' and placement == 'none' and epoch > 2")
    for seed in (1, 2):
        losses = chosen[chosen["seed"] == seed][["train_loss", "test_loss"]]
        np.testing.assert_allclose(losses, np.log(10))
    assert list(final(runs, "report", "none")[[1, 2]]) == [9.8, 9.8]
    assert "2 runs diverged and count" in " ".join(analysis.analyse(broken).notes)
    gains = analysis.analyse(broken).evidence.query(
        "claim == 1 and primary and variant == 'report'"
    )
    assert set(gains["n"]) == {12}
    assert gains["effect"].min() > 10  # of twelve seeds two differ by 89 points


def test_each_variant_has_a_last_epoch_of_its_own():
    runs = analysis.complete_runs(study(3, variants=("report", "longer")))
    last = runs.groupby("variant")["epoch"].max()
    assert last["report"] == VARIANTS["report"].epochs == 10
    assert last["longer"] == VARIANTS["longer"].epochs == 30
    assert len(final(runs, "longer", "none")) == 3


def test_epochs_beyond_the_settings_own_do_not_count():
    """A run that was trained on is judged where the report's ended."""
    runs = analysis.complete_runs(study(3, variants=("report",), epochs=12))
    assert runs["epoch"].max() == 10


def test_evaluations_are_told_apart():
    """Each stands in its turn where the tables look for the test images' numbers."""
    runs = study(3, variants=("report",), sd=0, evaluation={"": 0.0, "recalibrated_": 0.4})
    assert evaluations_of(runs) == ("running", "recalibrated")
    running, exact = (
        final(evaluated(runs, name), "report", "after_fc1")
        for name in EVALUATIONS
        if name != "batch"
    )
    np.testing.assert_allclose(exact - running, 0.4)
    assert evaluated(runs, "running").equals(runs)


def test_runs_without_an_evaluation_do_not_count_for_it():
    runs = study(3, variants=("report",))
    runs.loc[runs["seed"] == 0, ["batch_test_loss", f"batch_{FINAL}"]] = np.nan
    assert set(evaluated(analysis.complete_runs(runs), "batch")["seed"]) == {1, 2}


def test_a_line_twice_is_an_error(results):
    """A resumed study that repeats an epoch must not count it twice."""
    with pytest.raises(ValueError, match="twice"):
        analysis.analyse(pd.concat([results, results.tail(1)]))


def test_an_unknown_variant_is_left_out_and_named(results):
    stranger = results[results["variant"] == "mnist"].assign(variant="stranger")
    digits = labels(640)
    said = [answers(digits, variant="stranger")]
    both = pd.concat([results, stranger], ignore_index=True)
    tables = analysis.analyse(both, None, said, digits)
    assert tables.per_class.empty
    assert "no such variant: stranger" in " ".join(tables.notes)
    assert "unfinished" not in " ".join(tables.notes)
    assert tables.claims.equals(analysis.analyse(results).claims)


def test_what_was_not_run_is_named(results):
    runs = results.query("variant != 'mnist'")
    runs = runs[(runs["variant"] != "no_momentum") | (runs["placement"] != "none")]
    missing = "not run: mnist/none, mnist/before_fc1, mnist/after_fc1, no_momentum/none"
    assert missing in analysis.tables._notes(runs, runs, None, ())
    every = analysis.tables._notes(results, results, None, ())
    assert not any(note.startswith("not run") for note in every)


@pytest.mark.parametrize(
    "shape",
    [
        {"seeds": 3, "epochs": 2, "variants": ("report",)},
        {"seeds": 2, "epochs": 1, "placements": ("after_fc1",), "evaluation": {"": 0.0}},
        {"seeds": 1, "placements": ("none",), "variants": ("no_momentum",)},
        {"seeds": 2, "variants": ("wide_134",), "placements": ("none",)},
    ],
)
def test_small_studies_say_what_is_missing(shape):
    """Tables stay whole, JSON stays strict, and the notes name what was not computed."""
    tables = analysis.analyse(study(**shape))
    assert len(tables.claims) == 4
    assert "claim 2 is not tested" in " ".join(tables.notes)
    json.dumps(analysis.summary(tables), allow_nan=False)
    assert all("nan" not in text for text in analysis.to_markdown(tables).values())


def test_markdown_tables_are_rectangular(tables):
    """Every line of a table has the length of its heading."""
    rendered = analysis.to_markdown(tables)
    for name in rendered.keys() - {"rank", "notes"}:
        assert len({len(line) for line in rendered[name].splitlines()}) <= 1, name
    assert len(rendered["reproduction"].splitlines()) == 2 + 20
    # 40 numbers of training, 40 of testing, the latter evaluated three ways.
    assert len(rendered["numbers"].splitlines()) == 2 + 40 + 3 * 40


def test_markdown_prints_each_column_as_the_table_says(tables):
    """Digits, signs, separators, yes and no, and a dash for what was not computed."""
    rendered = analysis.to_markdown(tables)
    first = tables.numbers.iloc[0]
    assert cells(rendered["numbers"], 2)[:5] == ["before_fc1", "1", "train_loss", "", "0.9363"]
    shown = cells(rendered["numbers"], 2)[9:]
    assert shown == [f"{first['t']:+.2f}", "yes" if first["inside"] else "no"]
    assert cells(rendered["claims"], 3)[4:8] == ["0", "-", "-", "-"]
    assert cells(rendered["per_class"], 2)[8:] == ["-", "-"]
    assert cells(rendered["sampling"], -1)[3] == "10,000"
    assert cells(rendered["arms"], 2)[2] == "44,426"


def test_markdown_shows_each_number_of_the_report_with_its_interval(tables):
    """Losses with four digits, percentages with two, and bold what lies outside."""
    shown = cells(analysis.to_markdown(tables)["reproduction"], 2)[2:]
    first = tables.numbers.query("placement == 'before_fc1' and epoch == 1")
    first = first.sort_values(["evaluation", "metric"], key=lambda column: column.map(ORDER))
    assert len(shown) == len(first) == 8
    for cell, row in zip(shown, first.to_dict("records"), strict=True):
        digits = 4 if "loss" in row["metric"] else 2
        number, low, high = (f"{row[name]:.{digits}f}" for name in ("published", "low", "high"))
        inside, outside = f"{number} in [{low}, {high}]", f"**{number}** not in [{low}, {high}]"
        assert cell == (inside if row["inside"] else outside)


def test_a_rank_is_said_as_a_rank(tables):
    """Nobody should read a probability of 1.0 as a proof."""
    text = analysis.to_markdown(tables)["rank"]
    rank = tables.ranks["running"]
    assert f"number {rank.place} of {rank.among}" in text
    assert "p =" not in text


def test_the_report_is_ranked_among_as_many_runs_as_the_plan_says():
    """The first 30 seeds of both networks; the intervals of the numbers rest on all."""
    tables = analysis.analyse(study(33, variants=("report",), epochs=2))
    assert {rank.among for rank in tables.ranks.values()} == {31}
    assert set(tables.numbers["n"]) == {33}


def test_seeds_without_a_block_take_no_place_in_the_rank():
    """Runs without a block whose seeds come first do not count among the 30."""
    results = study(33, variants=("report",), epochs=2)
    results = results[(results["placement"] == "none") | (results["seed"] >= 30)]
    ranks = analysis.analyse(results).ranks
    assert {rank.among for rank in ranks.values()} == {4}


def test_notes_tell_what_rests_on_fewer_runs_than_the_plan_has():
    notes = analysis.analyse(study(3, variants=("report", "mnist"), epochs=2)).notes
    assert "report: its final numbers are those of epoch 2 of 10" in notes
    assert "cells are compared on 3 seeds that they share; the plan has 30" in notes
    assert "2 of the plan's 28 contrasts have runs" in notes
    apart = study(3, variants=("report", "mnist"), epochs=2)
    apart.loc[apart["variant"] == "mnist", "seed"] += 10
    notes = analysis.analyse(apart).notes
    assert "cells are not compared, for lack of common seeds; the plan has 30" in notes


def test_answers_stand_in_the_order_of_evaluations_and_placements(results):
    digits = labels(640)
    said = [
        answers(digits, placement=placement, evaluation=evaluation)
        for placement in ("after_fc1", "before_fc1")
        for evaluation in ("batch", "running")
    ]
    table = analysis.analyse(results.query("seed < 3"), None, said, digits).per_class
    order = table[["evaluation", "placement"]].drop_duplicates().to_numpy().tolist()
    assert order == [
        [evaluation, placement]
        for evaluation in ("running", "batch")
        for placement in ("before_fc1", "after_fc1")
    ]


def test_the_summary_holds_every_table(tables):
    summary = analysis.summary(tables)
    assert len(summary["numbers"]) == 160
    assert summary["ranks"]["batch"]["among"] == 13
    assert len(summary["claims"]) == 4
    smallest = tables.claims["p"].min()
    assert smallest < 1e-6
    said = min(row["p"] for row in summary["claims"] if row["p"] is not None)
    assert said == pytest.approx(smallest, rel=1e-5)


def test_the_summary_is_strict_json(results):
    """A percentage that no number of mistakes gives has the log probability -inf."""
    digits = labels(640)
    said = [answers(digits, placement=place) for place in ("before_fc1", "after_fc1")]
    tables = analysis.analyse(results, None, said, digits)
    assert np.isneginf(tables.sampling["log10_probability"]).any()
    text = json.dumps(analysis.summary(tables), allow_nan=False)
    assert None in [row["log10_probability"] for row in json.loads(text)["sampling"]]


def test_epoch_times_reach_the_claims(results):
    times = timing({"pytorch dataloader": ([1.0, 1.02, 0.99], [1.01, 1.0, 1.03])})
    assert analysis.analyse(results, times).claims["verdict"][1] == "holds"
