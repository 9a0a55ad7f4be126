"""The per-class percentages, for samples of images that were drawn by a known rule."""

import gzip

import numpy as np
import pandas as pd
import pytest
from conftest import MIRROR
from simulated import answers, labels

from experiments.analysis import per_class
from experiments.groundwork import published
from mnist_jax import sources

BLOCKS = ("before_fc1", "after_fc1")
SIZE = 10_000


def both(digits, **options):
    return [answers(digits, placement=placement, **options) for placement in BLOCKS]


def print_as_the_report(
    monkeypatch, digits, sampling: str, printed: str, rng_seed: int = 7
) -> None:
    """Takes two new runs, whose percentages are of a known sample, for the report's."""
    mask = per_class.samplings(len(digits))[sampling]
    sample = np.bincount(digits[mask], minlength=10)
    percent = {}
    for new in both(digits, seeds=1, rng_seed=rng_seed):
        right = per_class._unpacked(new, len(digits))
        wrong = per_class._mistakes(right, digits, mask)
        whole = per_class.PRINTED[printed]
        percent[new.placement] = tuple(map(int, per_class._percent(wrong, sample, whole)[0]))
    monkeypatch.setattr(published, "PER_CLASS_ACCURACY_PERCENT", percent)


def test_accuracy_by_digit_counts_the_whole_split():
    """Weighted by its images, accuracy by digit is the accuracy."""
    digits = labels()
    answer = answers(digits)
    table = per_class.accuracies([answer])
    right = np.unpackbits(answer.correct, axis=1, count=SIZE)
    assert np.average(table["mean"], weights=table["images"]) == pytest.approx(100 * right.mean())
    assert (table["high"] < 100).all()
    assert (table["low"] < table["mean"]).all()
    share = answer.confusion[:, range(10), range(10)] / answer.confusion.sum(axis=2)
    np.testing.assert_allclose(table["sd"], 100 * pd.DataFrame(share).std())


def test_the_interval_by_digit_is_the_one_for_a_thirteenth_run():
    """Student's t with 11 degrees of freedom has 95 % of its mass within 2.200985."""
    answer = answers(labels())
    share = answer.confusion[:, range(10), range(10)] / answer.confusion.sum(axis=2)
    logits = np.log(share / (1 - share))
    reach = 2.200985 * logits.std(axis=0, ddof=1) * np.sqrt(13 / 12)
    table = per_class.accuracies([answer])
    assert table["n"].eq(12).all()
    for column, bound in (("low", logits.mean(axis=0) - reach), ("high", logits.mean(0) + reach)):
        np.testing.assert_allclose(table[column], 100 / (1 + np.exp(-bound)), rtol=1e-6)


def test_a_digit_that_no_run_misreads_counts_as_half_a_mistake():
    table = per_class.accuracies([answers(labels(500), error=0.0)])
    np.testing.assert_allclose(table["low"], 100 * (1 - 0.5 / table["images"]), rtol=1e-6)


def test_a_digit_without_mistakes_has_an_interval_below_100():
    answer = answers(labels(500), error=0.0005, seeds=6)
    table = per_class.accuracies([answer])
    assert (table["mean"] == 100).any()
    assert (table["high"] < 100).all()


@pytest.mark.parametrize(
    ("sampling", "printed"),
    [
        ("first 4 of each batch", "cut off"),
        ("first 8 of each batch", "rounded"),
        ("all images", "rounded"),
    ],
)
def test_the_sampling_that_was_used_is_the_most_probable(monkeypatch, sampling, printed):
    digits = labels()
    print_as_the_report(monkeypatch, digits, sampling, printed)
    table = per_class.sampling(both(digits, seeds=30), digits)
    best = table.loc[table["log10_probability"].idxmax()]
    assert (best["sampling"], best["printed"]) == (sampling, printed)
    assert best["reachable"] == best["total"] == 20
    assert best["place"] > 1


def test_the_probability_of_percentages_by_hand():
    """Ten digits of 50 images; of each the report is to print 100, so no mistake is possible.

    Four runs without any count as half a mistake in four runs, Poisson with mean 1/8. Two runs with
    0 and 2 mistakes have the mean 1 and the variance 2, which is 3 for a new run: negative binomial
    with 1/2 failures and the probability 1/3.
    """
    target, sample = np.full(10, 100), np.full(10, 50)
    none = per_class._log_probability(target, np.zeros((4, 10), int), sample, np.floor)
    assert none == pytest.approx(-10 / 8, rel=1e-4)
    two = np.array([np.zeros(10, int), np.full(10, 2)])
    some = per_class._log_probability(target, two, sample, np.floor)
    assert some == pytest.approx(10 * np.log(1 / 3) / 2)


def test_the_images_of_the_sample_themselves_are_asked():
    """Where all runs fail on images of the sample, its percentages are low, whatever the others."""
    digits = labels()
    mask = per_class.samplings(SIZE)["first 4 of each batch"]
    changed = []
    for answer in both(digits, error=0.001):
        right = per_class._unpacked(answer, SIZE)
        right[:, mask] &= (np.arange(mask.sum()) % 4 > 0)[None]  # a quarter of the sample is wrong
        changed.append(answer._replace(correct=np.packbits(right, axis=1)))
    table = per_class.sampling(changed, digits).set_index(["sampling", "printed"])["mean_percent"]
    assert table["first 4 of each batch", "cut off"] == pytest.approx(75, abs=3)
    assert table["all images", "cut off"] > 97


def test_the_reports_percentages_need_a_sample_of_some_hundred_images():
    """All images cannot print ten percentages with three of 100 and a mean of 97.8."""
    digits = labels()
    table = per_class.sampling(both(digits, seeds=30), digits).set_index(["sampling", "printed"])
    assert table["log10_probability"]["all images", "rounded"] < -60
    assert table["p_low_after_fc1"]["all images", "rounded"] == 0
    assert table["place"]["all images", "rounded"] == 1


def test_runs_without_mistakes_print_a_hundred_ten_times():
    """Of 640 images of ten digits each is one of 64."""
    digits = (np.arange(640) % 10).astype(np.uint8)
    table = per_class.sampling(both(digits, error=0.0), digits).query("sampling == 'all images'")
    assert table["hundreds"].tolist() == [10, 10]
    assert table["mean_percent"].tolist() == [100, 100]
    assert table["step_percent"].tolist() == [100 / 64, 100 / 64]


def test_each_evaluation_is_asked_and_one_network_is_not_enough():
    digits = labels(640)
    said = [*both(digits), *both(digits, evaluation="batch"), answers(digits, evaluation="x")]
    assert set(per_class.sampling(said, digits)["evaluation"]) == {"running", "batch"}
    assert per_class.sampling(both(digits)[:1], digits).empty


@pytest.mark.parametrize("size", [640, 643])
def test_bits_are_unpacked_as_they_were_packed(size):
    """Also where the number of images is not a multiple of eight."""
    digits = labels(size)
    answer = answers(digits)
    right = per_class._unpacked(answer, size)
    assert right.shape == (12, size)
    diagonal = np.diagonal(answer.confusion, axis1=1, axis2=2).sum(axis=1)
    np.testing.assert_array_equal(right.sum(axis=1), diagonal)


def test_the_baseline_may_be_a_mean_of_sampled_percentages():
    """With 7.5 % mistakes all images score 92.5, and ten percentages cut off half a point less."""
    digits = labels()
    answer = answers(
        digits, variant="no_momentum_mnist", placement="none", error=0.075, hard=1, seeds=200
    )
    found = per_class.baselines([answer], digits).iloc[0]
    assert found["all_images"] == pytest.approx(92.5, abs=0.3)
    assert found["sampled"] == pytest.approx(found["all_images"] - 0.5, abs=0.3)
    assert 0 < found["about_92_all"] < 1
    assert found["n"] == 200
    worse = answer._replace(correct=answer.correct & 0b01010101)
    found = per_class.baselines([worse], digits).iloc[0]
    assert found["about_92_all"] == found["about_92_sampled"] == 0


def test_about_92_is_from_91_5_to_92_5():
    """Of accuracies that four runs have on 10,000 images, and of the means that they print."""
    digits = labels()
    right = np.ones((4, SIZE), bool)
    for run, wrong in enumerate((851, 850, 750, 749)):
        right[run, np.flatnonzero(np.arange(SIZE) % 64 >= 4)[:wrong]] = False
    none = answers(digits, variant="no_momentum_mnist", placement="none", seeds=4)
    found = per_class.baselines([none._replace(correct=np.packbits(right, axis=1))], digits)
    assert found["about_92_all"].item() == 0.5
    assert found["about_92_sampled"].item() == 0  # the images of the sample are all right
    printed = pd.Series([91.4, 91.5, 92.5, 92.6])
    assert per_class.about_92(printed).tolist() == [False, True, True, False]


def test_the_loop_of_the_tutorial_counts_628_images():
    """157 batches of 64, the last one of 16."""
    masks = per_class.samplings(SIZE)
    assert masks["first 4 of each batch"].sum() == 4 * 157 == 628
    assert masks["first 4 of each batch"][[0, 3, 4, 63, 64, 9984]].tolist() == [1, 1, 0, 0, 1, 1]
    assert {name: mask.sum() for name, mask in masks.items()} == {
        "first of each batch": 157,
        "first 2 of each batch": 314,
        "first 4 of each batch": 628,
        "first 8 of each batch": 1256,
        "first 16 of each batch": 2512,
        "first batch": 64,
        "first 1,000 images": 1000,
        "all images": SIZE,
    }
    assert masks["first batch"][:64].all() and masks["first 1,000 images"][:1000].all()


@pytest.mark.mnist
def test_the_sample_of_the_original_file():
    """The first four of each batch, in the order of t10k-labels-idx1-ubyte."""
    path = MIRROR / sources.FILES["test_labels"]
    if not path.is_file():
        pytest.skip("the original MNIST files are neither in MNIST_MIRROR nor in ../shared")
    digits = np.frombuffer(gzip.decompress(path.read_bytes())[8:], np.uint8)
    sample = np.bincount(digits[per_class.samplings(SIZE)["first 4 of each batch"]])
    assert sample.tolist() == [65, 73, 67, 63, 68, 40, 56, 59, 60, 77]
    # Each of the report's percentages is some number of these images, cut off.
    possible = per_class._percent(np.arange(78)[:, None], sample, np.floor)
    for percentages in published.PER_CLASS_ACCURACY_PERCENT.values():
        assert (possible == np.array(percentages)).any(axis=0).all()
