"""The statistics on synthetic results whose truth is known."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.outliers_influence import OLSInfluence

from experiments import analysis, published
from experiments.analysis import claims, per_class, reproduction, settings
from experiments.analysis.runs import FINAL
from experiments.settings import SETTINGS
from mnist_jax.model import PLACEMENTS

CURVE = published.HISTORY["before_fc1"]
EPOCHS = len(CURVE)
BLOCKS = ("before_fc1", "after_fc1")
GAIN = {"none": -0.3, "before_fc1": 0.0, "after_fc1": 0.1}  # points of test accuracy
SHIFT = {"report": 0.0, "mnist": 0.15, "unnormalised": -0.4}  # points of every accuracy, else -6


def synthetic(
    seeds: int = 12,
    *,
    epochs: int = EPOCHS,
    variants: tuple[str, ...] = tuple(SETTINGS),
    placements: tuple[str, ...] = PLACEMENTS,
    gain: dict[str, float] = GAIN,
    rng_seed: int = 0,
) -> pd.DataFrame:
    """Results around before_fc1's published curve; noise is shared in a seed and over epochs."""
    rng = np.random.default_rng(rng_seed)
    shared = rng.normal(size=(seeds, epochs))
    images = np.array(per_class.SAMPLINGS["all images"])
    rows = []
    for variant in variants:
        for placement in placements:
            for seed in range(seeds):
                run = rng.normal()
                for line in CURVE[:epochs]:
                    noise = 0.5 * (run + shared[seed, line.epoch - 1] + rng.normal())
                    better = SHIFT.get(variant, -6.0) + gain[placement]
                    accuracy = line.test_accuracy_percent + better + 0.1 * noise
                    wrong = rng.multinomial(round(100 * (100 - accuracy)), images / images.sum())
                    confusion = np.diag(images - wrong)
                    confusion[range(10), (np.arange(10) + 1) % 10] = wrong
                    row = {"variant": variant, "placement": placement, "seed": seed}
                    row |= {
                        "epoch": line.epoch,
                        "train_loss": line.train_loss * np.exp(0.05 * noise - better),
                        "train_accuracy_percent": line.train_accuracy_percent + better + noise / 10,
                        "test_loss": line.test_loss * np.exp(0.05 * noise - better),
                        "test_accuracy_percent": 100 - wrong.sum() / 100,
                        "confusion": confusion.tolist(),
                    }
                    rows.append(row)
    return pd.DataFrame(rows)


def publish(monkeypatch: pytest.MonkeyPatch, run: pd.DataFrame) -> None:
    """Takes one seed of a setting for the report."""
    history = {
        placement: tuple(
            published.PublishedEpoch(*line)
            for line in run[run["placement"] == placement][
                ["epoch", *published.METRICS]
            ].itertuples(index=False)
        )
        for placement in ("before_fc1", "after_fc1")
    }
    monkeypatch.setattr(published, "HISTORY", history)


def timing(**seconds: tuple[list[float], list[float]]) -> dict:
    """Epoch times by program, before_fc1 and after_fc1."""
    rows = [
        {"program": program, "placement": placement, "threads": 2, "epoch_seconds": measured}
        for program, both in seconds.items()
        for placement, measured in zip(("before_fc1", "after_fc1"), both, strict=True)
    ]
    return {"conditions": {}, "rows": rows}


@pytest.fixture(scope="module")
def study() -> pd.DataFrame:
    """A whole study; tests do not change it."""
    return synthetic()


@pytest.fixture(scope="module")
def tables(study: pd.DataFrame) -> analysis.Tables:
    """The study's tables, without epoch times."""
    return analysis.analyse(study)


def test_a_held_out_run_is_covered_and_its_joint_p_is_uniform(monkeypatch):
    """19 of 20 numbers lie inside, and p is uniform although epochs and metrics are correlated."""
    n, trials = 9, 80
    covered, p = [], []
    for trial in range(trials):
        results = synthetic(
            n + 1, epochs=2, variants=("report",), placements=BLOCKS, rng_seed=trial
        )
        new = results["seed"] == n
        publish(monkeypatch, results[new])
        fit = reproduction.joint_fit(results[~new])
        assert fit is not None
        covered.append(fit.inside / fit.total)
        p.append(fit.p)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)
    # Uniform on 1/10 .. 10/10: mean 0.55, standard deviation 0.287.
    assert np.mean(p) == pytest.approx(0.55, abs=4 * 0.287 / np.sqrt(trials))
    assert np.mean(np.array(p) <= 0.2) == pytest.approx(0.2, abs=4 * 0.4 / np.sqrt(trials))


def test_a_foreign_run_gets_the_smallest_possible_p(monkeypatch, study):
    """The joint test can reject: a run of another setting is the farthest of all."""
    publish(monkeypatch, study[(study["variant"] == "mnist") & (study["seed"] == 0)])
    fit = reproduction.joint_fit(study)
    assert fit is not None
    assert fit.p == 1 / (fit.n + 1)
    assert fit.p_by_placement == {"before_fc1": fit.p, "after_fc1": fit.p}


def test_deviations_are_externally_studentised_residuals():
    """Against statsmodels: the residuals of a model that is a constant."""
    values = np.random.default_rng(0).normal(size=8)
    expected: Any = OLSInfluence(OLS(values, np.ones(8)).fit()).resid_studentized_external
    ours = reproduction._deviations(values[:, None], np.zeros(1))[:, 0]
    np.testing.assert_allclose(ours, expected, rtol=1e-10)


@pytest.mark.parametrize("truth", ["report", "mnist", "unnormalised"])
def test_settings_find_the_setting_that_made_the_numbers(monkeypatch, study, truth):
    """The setting behind a held-out run is first, with its own runs recognised."""
    new = study["seed"] == 0
    publish(monkeypatch, study[new & (study["variant"] == truth)])
    table = settings.likelihoods(study[~new])
    best = table.iloc[0]
    assert (best["variant"], best["behind"]) == (truth, 0)
    assert best["best_share"] > 0.95
    assert best["recognised"] == best["n"] == 11
    assert table["best_share"].sum() == pytest.approx(1)


def test_claim_1_separates_the_block_from_the_momentum(tables):
    """The generator's block is worth 0.3 and 0.4 points, its momentum 6."""
    assert tables.claims["verdict"][0].startswith("holds only against a baseline without")
    rows = tables.evidence.query("claim == 1 and variant == 'report'")
    means = rows.set_index(["reading", "where"])["effect"]
    assert means["equal settings", "before_fc1"] == pytest.approx(0.3, abs=0.1)
    assert means["baseline without momentum", "after_fc1"] == pytest.approx(6.4, abs=0.1)


def test_claim_2_needs_every_program(study):
    """Equal times hold, times twice as long do not, and one such program is named."""
    same, twice = ([1.0, 1.02, 0.99], [1.01, 1.0, 1.03]), ([1.0, 1.02, 0.99], [2.0, 2.1, 1.9])
    holds, mixed = (
        claims.verdicts(claims.evidence_of(study, times))["verdict"][1]
        for times in (timing(jax=same), timing(jax=same, torch=twice))
    )
    assert holds.startswith("holds:")
    assert mixed == "holds only in jax (2 threads); does not hold in torch (2 threads)"


def test_claim_3_counts_epochs():
    """By hand: 10, 96, 98 crosses 97 half-way through epoch 2."""
    curves = {0: (96.0, 98.0), 1: (97.0, 98.0), 2: (90.0, 96.9)}
    runs = pd.DataFrame(
        [
            {"variant": "report", "placement": "none", "seed": seed, "epoch": e, FINAL: a}
            for seed, curve in curves.items()
            for e, a in enumerate(curve, start=1)
        ]
    )
    reached = claims.epochs_to_target(runs, "report", "none")
    np.testing.assert_allclose(reached, [1.5, 1.0, np.nan])


def test_claim_4_turns_with_the_placements(study):
    """Swapping the two networks changes the sign of the effect and the verdict."""
    names = {"before_fc1": "after_fc1", "after_fc1": "before_fc1"}
    swapped = study.assign(placement=study["placement"].replace(names))
    there, back = (claims.verdicts(claims.evidence_of(runs)).iloc[3] for runs in (study, swapped))
    assert there["verdict"].startswith("holds:")
    assert back["verdict"].startswith("does not hold, reversed:")
    assert there["p"] == pytest.approx(back["p"])


def test_claim_4_is_undecided_without_an_effect():
    """No difference in truth: undecided, and the number of seeds it would take is named."""
    equal = GAIN | {"after_fc1": 0.0}
    runs = synthetic(variants=("report",), gain=equal, rng_seed=1)
    said = claims.verdicts(claims.evidence_of(runs))["verdict"][3]
    assert said.startswith("undecided:")
    assert "80 % power needs" in said


def test_holm_covers_all_four_claims(tables):
    """A claim without data counts as p = 1, so three tests are corrected as four."""
    claims = tables.claims
    assert np.isnan(claims["p"][1])
    assert claims["p_holm"].min() == pytest.approx(4 * claims["p"].min())


def test_seeds_needed():
    """Cohen, Statistical Power Analysis, 1988: d = 0.5 takes 34 pairs."""
    assert claims.seeds_needed(0.5) == claims.seeds_needed(-0.5) == 34
    assert claims.seeds_needed(0.0) is None


def test_per_class_counts_the_whole_split(study):
    """Weighted by its images, accuracy by digit is the accuracy."""
    table = per_class.accuracies(study).query("placement == 'after_fc1'")
    mean = np.average(table["mean"], weights=table["images"])
    last = study.query("variant == 'report' and placement == 'after_fc1' and epoch == 10")
    assert mean == pytest.approx(last["test_accuracy_percent"].mean())


def test_sampling_singles_out_the_first_four_of_each_batch(study):
    """All images cannot print the report's percentages; four of a batch, cut off, can."""
    table = per_class.sampling(study).set_index(["sampling", "printed"])
    assert table["log10_probability"].idxmax() == ("first 4 of each batch", "cut off")
    assert table.loc[("first 4 of each batch", "cut off"), "reachable"] == 20
    assert table.loc[("first 4 of each batch", "rounded"), "reachable"] == 12
    assert table.loc[("all images", "rounded"), "p_low_after_fc1"] == 0


@pytest.mark.parametrize(
    "shape",
    [
        {"seeds": 3, "epochs": 2, "variants": ("report",)},
        {"seeds": 2, "epochs": 1, "placements": ("after_fc1",)},
        {"seeds": 1, "placements": ("none",), "variants": ("no_momentum",)},
    ],
)
def test_small_studies_say_what_is_missing(shape):
    """Tables stay whole, JSON stays strict, and the notes name what was not computed."""
    tables = analysis.analyse(synthetic(**shape))
    assert len(tables.claims) == 4
    assert "claim 2 is not tested" in " ".join(tables.notes)
    json.dumps(analysis.summary(tables), allow_nan=False)
    assert all("nan" not in text for text in analysis.to_markdown(tables).values())


def test_markdown_tables_are_rectangular(tables):
    """Every line of a table has the length of its heading."""
    rendered = analysis.to_markdown(tables)
    for name in rendered.keys() - {"joint", "notes"}:
        assert len({len(line) for line in rendered[name].splitlines()}) == 1, name
    assert len(rendered["reproduction"].splitlines()) == 2 + 20
    assert len(rendered["numbers"].splitlines()) == 2 + 80


def test_markdown_prints_each_column_as_the_table_says(tables):
    """Digits, signs, separators, yes and no, and a dash for what was not computed."""
    rendered = analysis.to_markdown(tables)

    def cells(name: str, row: int) -> list[str]:
        return [cell.strip() for cell in rendered[name].splitlines()[row].split("|")[1:-1]]

    first = tables.reproduction.iloc[0]
    assert cells("numbers", 2)[:4] == ["before_fc1", "1", "train_loss", "0.9363"]
    assert cells("numbers", 2)[8:] == [f"{first['t']:+.2f}", "yes" if first["inside"] else "no"]
    assert cells("claims", 3)[4:7] == ["0", "-", "-"]
    assert cells("per_class", 2)[7:] == ["-", "-"]
    assert cells("sampling", -1)[2] == "10,000"


def test_unfinished_and_diverged_runs_are_left_out(study):
    """A killed run and one with a loss that is not finite do not count."""
    report = study["variant"] == "report"
    killed = (study["seed"] == 0) & (study["epoch"] > 5) & report
    results = study.copy()
    results.loc[report & (study["seed"] == 1) & (study["epoch"] == 3), "train_loss"] = np.inf
    tables = analysis.analyse(results[~killed])
    assert tables.joint is not None
    assert tables.joint.n == 10
    assert tables.notes[0] == "6 unfinished or diverged runs are left out"


def test_a_line_twice_is_an_error(study):
    """A resumed study that repeats an epoch must not count it twice."""
    with pytest.raises(ValueError, match="twice"):
        analysis.analyse(pd.concat([study, study.tail(1)]))
