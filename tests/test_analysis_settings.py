"""Which setting made the report's curves: the method names settings that are known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from simulated import held_out, study

from experiments.analysis import complete_runs, evaluated, settings
from experiments.groundwork import published
from experiments.groundwork.evaluation import EVALUATIONS
from experiments.groundwork.variants import CANDIDATES, VARIANTS


@pytest.fixture(scope="module")
def results() -> pd.DataFrame:
    """Thirteen seeds of the three settings with momentum; tests do not change it."""
    shift = {"report": 0.0, "mnist": 0.3, "unnormalised": -0.4}
    return study(13, variants=tuple(shift), shift=shift, sd=0.05)


@pytest.mark.parametrize(
    ("variant", "evaluation"),
    [("report", "batch"), ("mnist", "running"), ("unnormalised", "recalibrated")],
)
def test_the_cell_that_made_the_numbers_is_named(monkeypatch, results, variant, evaluation):
    """Pixels and evaluation of a run that was left out, and with a lead as its cell's runs have."""
    history = held_out(evaluated(results, evaluation), variant, 12)
    monkeypatch.setattr(published, "HISTORY", history)
    runs = complete_runs(results[results["seed"] < 12])
    cells = settings.cells_of(runs)
    best = settings.likelihoods(runs, cells).iloc[0]
    assert (best["variant"], best["evaluation"], best["behind"]) == (variant, evaluation, 0)
    assert best["best_share"] > 0.9
    said = settings.statements(cells).set_index("thing")
    assert said.loc["pixels", "says"] == VARIANTS[variant].normalisation
    assert said.loc["evaluation", "says"] == evaluation
    assert np.isnan(said.loc["step", "lead"])  # all have the same
    for thing in ("pixels", "evaluation"):
        row = said.loc[thing]
        assert row["lead"] > 0
        assert row["typical_low"] < row["typical_high"]
        assert (row["n_here"], row["n"]) == (12, 9 * 12)
        assert row["right"] > 0.9 * row["n"]


def test_every_cell_has_equally_many_seeds(results):
    """More runs of one setting, which would favour it, change nothing."""
    few = results[(results["variant"] == "report") | (results["seed"] < 8)]
    table, other = (
        settings.likelihoods(runs, settings.cells_of(runs))
        for runs in (few, results[results["seed"] < 8])
    )
    assert set(table["n"]) == {8}
    assert table["log_likelihood"].equals(other["log_likelihood"])
    assert table["place"].equals(other["place"])
    assert set(table["among"]) == {9}


def test_a_cell_needs_three_seeds_and_all_of_the_reports_curves(results):
    """Two seeds of one setting, and of another nothing after fc1."""
    few = (results["variant"] == "unnormalised") & (results["seed"] > 1)
    half = (results["variant"] == "mnist") & (results["placement"] == "after_fc1")
    cells = settings.cells_of(results[~few & ~half])
    assert cells is not None
    assert cells.names == tuple(("report", evaluation) for evaluation in EVALUATIONS)
    assert len(cells.seeds) == 13


def test_more_seeds_alone_would_be_rewarded():
    """Why they are equal: of two cells of one truth the one with 30 seeds beats that with 10."""
    rng = np.random.default_rng(0)
    lead = []
    for _ in range(400):
        number, few, many = (
            rng.normal(size=80),
            rng.normal(size=(10, 80)),
            rng.normal(size=(30, 80)),
        )
        densities = [
            stats.t.logpdf(
                number, n - 1, runs.mean(axis=0), runs.std(axis=0, ddof=1) * np.sqrt(1 + 1 / n)
            ).sum()
            for n, runs in ((30, many), (10, few))
        ]
        lead.append(densities[0] - densities[1])
    assert np.mean(lead) == pytest.approx(5.6, abs=1.0)


def test_no_more_than_the_planned_seeds_are_used(monkeypatch, results):
    monkeypatch.setattr(settings, "SEEDS", 5)
    cells = settings.cells_of(results)
    assert cells is not None
    assert cells.seeds == (0, 1, 2, 3, 4)
    assert cells.curves.shape == (9, 5, 80)


def test_a_run_is_scored_without_its_seed(results):
    """In its own cell and in every other: equal seeds share batches."""
    cells = settings.cells_of(results)
    assert cells is not None
    scores = settings.own_scores(cells)
    for truth, seed, named in [(0, 3, 0), (0, 3, 5), (7, 0, 2)]:
        others = np.delete(cells.curves[named], seed, axis=0)
        alone = cells._replace(target=cells.curves[truth, seed])
        assert scores[truth, seed, named] == pytest.approx(settings._log_density(alone, others))


def test_a_typical_lead_is_one_of_nine_in_ten(results):
    """Over the runs of the best cell: its score less that of the best cell that says otherwise."""
    cells = settings.cells_of(results)
    assert cells is not None
    best = int(settings._log_density(cells, cells.curves).argmax())
    said = settings.statements(cells).set_index("thing").loc["pixels"]
    other = [VARIANTS[variant].normalisation != said["says"] for variant, _ in cells.names]
    scores = settings.own_scores(cells)[best]
    leads = scores[:, np.logical_not(other)].max(axis=1) - scores[:, other].max(axis=1)
    expected = np.quantile(leads, (0.05, 0.95))
    np.testing.assert_allclose([said["typical_low"], said["typical_high"]], expected)


def test_recognition_counts_what_is_named(results):
    """Cells that are far apart are told apart; two names for one truth are not."""
    table = settings.recognition(settings.cells_of(results))
    assert (table["right"] >= 12).all()
    assert (table["taken_for"][table["right"] == table["n"]] == "").all()
    assert (table["right"] == table["n"]).any()
    twice = pd.concat(
        [
            results[results["variant"] == "report"],
            study(13, variants=("report",), sd=0.05, rng_seed=1).assign(variant="mnist"),
        ],
        ignore_index=True,
    )
    table = settings.recognition(settings.cells_of(twice)).set_index(["variant", "evaluation"])
    assert table["right"].sum() + table["named_wrongly"].sum() == 6 * 13
    mistaken = table.loc[("report", "batch")]
    assert mistaken["right"] < 13
    assert mistaken["taken_for"].startswith("mnist / batch")


def test_the_baseline_of_a_setting_stands_beside_it(results):
    table = settings.likelihoods(results, settings.cells_of(results))
    means = table.set_index(["variant", "evaluation"])["baseline_mean"]
    expected = results.query("variant == 'mnist' and placement == 'none' and epoch == 10")
    assert means["mnist", "batch"] == pytest.approx(expected["test_accuracy_percent"].mean())


def test_without_three_seeds_nothing_is_said():
    runs = study(2, variants=("report",))
    assert settings.cells_of(runs) is None
    assert settings.recognition(None).empty
    assert settings.statements(None).empty
    assert settings.likelihoods(runs, None)["log_likelihood"].isna().all()


def test_the_plan_is_not_changed_by_accident():
    """Thirty seeds a cell; three scales with and without momentum, and the equal step at two."""
    assert settings.SEEDS == 30
    assert settings.RESAMPLES == 500
    assert len(CANDIDATES) == 8
    assert set(CANDIDATES) <= set(VARIANTS)
    steps = {name: (s.momentum, s.learning_rate, s.normalisation) for name, s in CANDIDATES.items()}
    assert steps == {
        "report": (0.9, 0.001, "half"),
        "mnist": (0.9, 0.001, "mnist"),
        "unnormalised": (0.9, 0.001, "none"),
        "no_momentum": (0, 0.001, "half"),
        "no_momentum_mnist": (0, 0.001, "mnist"),
        "no_momentum_unnormalised": (0, 0.001, "none"),
        "no_momentum_rate_0.01": (0, 0.01, "half"),
        "no_momentum_mnist_rate_0.01": (0, 0.01, "mnist"),
    }
