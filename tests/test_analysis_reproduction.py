"""The report's numbers among our runs: intervals and ranks of simulated runs with a known truth."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from simulated import BLOCKS, held_out, study
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.outliers_influence import OLSInfluence

from experiments.analysis import reproduction
from experiments.analysis.reproduction import curves_of, intervals, rank
from experiments.groundwork import published


def test_a_held_out_run_is_covered_and_its_place_is_uniform(monkeypatch):
    """19 of 20 numbers lie inside, and all places are equally likely although epochs correlate."""
    n, trials = 9, 80
    covered, places = [], []
    for trial in range(trials):
        results = study(
            n + 1, epochs=2, variants=("report",), placements=BLOCKS, noise=(0.1, trial)
        )
        monkeypatch.setattr(published, "HISTORY", held_out(results, "report", n))
        found = rank(curves_of(results[results["seed"] != n]))
        assert found is not None
        assert found.among == n + 1
        covered.append(found.inside / found.total)
        places.append(found.place)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)
    # Uniform on 1 .. 10: mean 5.5, standard deviation 2.87.
    assert np.mean(places) == pytest.approx(5.5, abs=4 * 2.87 / np.sqrt(trials))
    assert np.mean(np.array(places) <= 2) == pytest.approx(0.2, abs=4 * 0.4 / np.sqrt(trials))


def test_a_foreign_run_is_the_farthest(monkeypatch):
    """A run of another variant has place 1, in each network too."""
    results = study(13, variants=("report", "unnormalised"))
    monkeypatch.setattr(published, "HISTORY", held_out(results, "unnormalised", 12))
    found = rank(curves_of(results[results["seed"] < 12]))
    assert found is not None
    assert (found.place, found.among) == (1, 13)
    assert found.place_by_placement == {"before_fc1": 1, "after_fc1": 1}


def test_no_interval_leaves_what_is_possible():
    """With few seeds that lie far apart: above a loss of 0, below 100 %, and around the mean."""
    table = intervals(curves_of(study(3, variants=("report",), noise=(2.0, 0))))
    percent = table["metric"].str.endswith("percent")
    assert (table["low"] > 0).all() and (table["low"] < table["high"]).all()
    assert 99.9 < table["high"][percent].max() <= 100


def test_the_transformation_and_its_inverse():
    metrics = ["train_loss", "train_accuracy_percent", "test_loss", "test_accuracy_percent"]
    numbers = pd.Series([0.9363, 73.705, 0.037, 98.79])
    values = reproduction.transformed(numbers, metrics)
    np.testing.assert_allclose(values, [np.log(0.9363), 1.0307, np.log(0.037), 4.4024], atol=1e-4)
    np.testing.assert_allclose(reproduction.transformed_back(values, metrics), numbers)
    extremes = reproduction.transformed(pd.Series([0.0, 100.0, 0.0, 100.0]), metrics)
    assert np.isfinite(extremes).all()


def test_equal_seeds_do_not_exclude_every_other_number():
    """Seeds that agree to the last digit leave the spread that rounding has."""
    table = intervals(curves_of(study(5, variants=("report",), noise=(0, 0))))
    before = table[table["placement"] == "before_fc1"]
    assert before["inside"].all()
    loss = before[before["metric"] == "test_loss"].iloc[0]
    width = 2 * 2.776 * 1e-4 / np.sqrt(12) * np.sqrt(1.2)
    assert loss["high"] - loss["low"] == pytest.approx(width, rel=0.01)


def test_deviations_are_externally_studentised_residuals():
    """Against statsmodels: the residuals of a model that is a constant."""
    values = np.random.default_rng(0).normal(size=8)
    expected: Any = OLSInfluence(OLS(values, np.ones(8)).fit()).resid_studentized_external
    ours = reproduction._deviations(values[:, None], np.zeros(1))[:, 0]
    np.testing.assert_allclose(ours, expected, rtol=1e-10)
