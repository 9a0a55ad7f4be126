"""What made the report's curves: the method names choices that are known."""

import numpy as np
import pandas as pd
import pytest
from simulated import held_out, study

from experiments.analysis import complete_runs, evaluated, likelihood
from experiments.analysis.measures import measures_of
from experiments.groundwork import published
from experiments.groundwork.evaluation import EVALUATIONS
from experiments.groundwork.variants import CANDIDATES, VARIANTS


@pytest.fixture(scope="module")
def results() -> pd.DataFrame:
    """Thirteen seeds of the three variants with momentum; tests do not change it."""
    shift = {"report": 0.0, "mnist": 0.3, "unnormalised": -0.4}
    return study(13, variants=tuple(shift), better=shift, noise=(0.05, 0))


def likelihoods(runs: pd.DataFrame) -> pd.DataFrame:
    return likelihood.likelihoods(runs, measures_of(runs), likelihood.cells_of(runs))


@pytest.mark.parametrize(
    ("variant", "evaluation"),
    [("report", "batch"), ("mnist", "running"), ("unnormalised", "recalibrated")],
)
def test_the_cell_that_made_the_numbers_is_named(monkeypatch, results, variant, evaluation):
    """Pixels and evaluation of a run that was left out, and with a lead as its cell's runs have."""
    history = held_out(evaluated(results, evaluation), variant, 12)
    monkeypatch.setattr(published, "HISTORY", history)
    runs = complete_runs(results[results["seed"] < 12])
    best = likelihoods(runs).iloc[0]
    assert (best["variant"], best["evaluation"], best["behind"]) == (variant, evaluation, 0)
    assert best["best_share"] > 0.9
    without = runs.query(f"variant == '{variant}' and placement == 'none' and epoch == 10")
    assert best["baseline_mean"] == pytest.approx(without["test_accuracy_percent"].mean())
    said = likelihood.statements(likelihood.cells_of(runs)).set_index("thing")
    assert said.loc["pixels", "says"] == VARIANTS[variant].pixels
    assert said.loc["evaluation", "says"] == evaluation
    assert np.isnan(said.loc["step", "lead"])  # all have the same
    for thing in ("pixels", "evaluation"):
        row = said.loc[thing]
        assert row["lead"] > 0 and row["typical_low"] < row["typical_high"]
        assert (row["n_here"], row["n"]) == (12, 9 * 12)
        assert row["right"] > 0.9 * row["n"]


def test_every_cell_has_equally_many_seeds(results):
    """More runs of one variant, which would favour it, change nothing."""
    few = results[(results["variant"] == "report") | (results["seed"] < 8)]
    table, other = (likelihoods(runs) for runs in (few, results[results["seed"] < 8]))
    assert set(table["n"]) == {8} and set(table["among"]) == {9}
    assert table["log_likelihood"].equals(other["log_likelihood"])
    assert table["place"].equals(other["place"])


def test_a_cell_needs_three_seeds_and_all_of_the_reports_curves(monkeypatch, results):
    """Two seeds of one variant, and of another nothing after fc1."""
    few = (results["variant"] == "unnormalised") & (results["seed"] > 1)
    half = (results["variant"] == "mnist") & (results["placement"] == "after_fc1")
    monkeypatch.setattr(likelihood, "SEEDS", 5)
    cells = likelihood.cells_of(results[~few & ~half])
    assert cells is not None
    assert cells.names == tuple(("report", evaluation) for evaluation in EVALUATIONS)
    assert cells.seeds == (0, 1, 2, 3, 4)
    two = study(2, variants=("report",))
    assert likelihood.cells_of(two) is None
    assert likelihood.recognition(None).empty and likelihood.statements(None).empty
    assert likelihoods(two)["log_likelihood"].isna().all()


def test_a_score_is_that_of_a_run_whose_seed_is_in_no_cell(monkeypatch, results):
    """Scored by hand: the run is the report, and its seed is taken out of every cell."""
    cells = likelihood.cells_of(results)
    assert cells is not None
    history = held_out(evaluated(results, "batch"), "mnist", 4)
    monkeypatch.setattr(published, "HISTORY", history)
    other = likelihood.cells_of(results[results["seed"] != 4])
    assert other is not None
    place = cells.names.index(("mnist", "batch"))
    expected = likelihood._log_density(other, other.curves)
    np.testing.assert_allclose(likelihood.own_scores(cells)[place, 4], expected, rtol=1e-6)


def test_recognition_counts_what_is_named(results):
    """Cells that are far apart are told apart; two names for one truth are not."""
    table = likelihood.recognition(likelihood.cells_of(results))
    assert (table["right"] >= 12).all()
    assert (table["taken_for"][table["right"] == table["n"]] == "").all()
    mnist = study(13, variants=("report",), noise=(0.05, 1)).assign(variant="mnist")
    twice = pd.concat([results[results["variant"] == "report"], mnist], ignore_index=True)
    table = likelihood.recognition(likelihood.cells_of(twice)).set_index(["variant", "evaluation"])
    assert table["right"].sum() + table["named_wrongly"].sum() == 6 * 13
    mistaken = table.loc[("report", "batch")]
    assert mistaken["right"] < 13 and mistaken["taken_for"].startswith("mnist / batch")


def test_the_plan_is_not_changed_by_accident():
    """Thirty seeds a cell; three scales with and without momentum, and the equal step at two."""
    assert (likelihood.SEEDS, likelihood.RESAMPLES) == (30, 500)
    steps = {(r.momentum, r.learning_rate, r.pixels) for r in CANDIDATES.values()}
    scales = ("half", "mnist", "none")
    wanted = {(momentum, 0.001, scale) for momentum in (0, 0.9) for scale in scales}
    assert steps == wanted | {(0, 0.01, "half"), (0, 0.01, "mnist")} and len(CANDIDATES) == 8
