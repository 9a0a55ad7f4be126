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
FOUR = "first 4 of each batch"
SIZE = 10_000


def both(digits, **options):
    return [answers(digits, placement=placement, **options) for placement in BLOCKS]


def test_accuracy_by_digit_counts_the_whole_split():
    """And its interval is that of a thirteenth run: t(11) has 95 % of its mass within 2.200985."""
    answer = answers(labels())
    share = answer.confusion[:, range(10), range(10)] / answer.confusion.sum(axis=2)
    table = per_class.accuracies([answer])
    right = np.unpackbits(answer.correct, axis=1, count=SIZE)
    assert np.average(table["mean"], weights=table["images"]) == pytest.approx(100 * right.mean())
    np.testing.assert_allclose(table["sd"], 100 * pd.DataFrame(share).std())
    logits = np.log(share / (1 - share))
    reach = 2.200985 * logits.std(axis=0, ddof=1) * np.sqrt(13 / 12)
    for column, bound in (("low", logits.mean(axis=0) - reach), ("high", logits.mean(0) + reach)):
        np.testing.assert_allclose(table[column], 100 / (1 + np.exp(-bound)), rtol=1e-6)


@pytest.mark.parametrize(
    ("sampling", "printed"),
    [(FOUR, "cut off"), ("first 8 of each batch", "rounded"), ("all images", "rounded")],
)
def test_the_sampling_that_was_used_is_the_most_probable(monkeypatch, sampling, printed):
    """Two new runs, whose percentages are of a known sample, are taken for the report's."""
    digits = labels()
    mask = per_class.samplings(SIZE)[sampling]
    sample, percent = np.bincount(digits[mask], minlength=10), {}
    for new in both(digits, seeds=1, rng_seed=7):
        wrong = per_class._mistakes(per_class._unpacked(new, SIZE), digits, mask)
        whole = per_class._percent(wrong, sample, per_class.PRINTED[printed])
        percent[new.placement] = tuple(map(int, whole[0]))
    monkeypatch.setattr(published, "PER_CLASS_ACCURACY_PERCENT", percent)
    table = per_class.sampling(both(digits, seeds=30), digits)
    best = table.loc[table["log10_probability"].idxmax()]
    assert (best["sampling"], best["printed"]) == (sampling, printed)
    assert best["reachable"] == best["total"] == 20
    assert best["place"] > 1


def test_the_loader_that_was_used_is_the_most_probable(monkeypatch):
    """Two new runs print the first four of each 32, in the order of the file."""
    digits, percent = labels(), {}
    monkeypatch.setattr(per_class, "SHUFFLES", 60)
    chosen = np.arange(SIZE) % 32 < 4
    sample = np.bincount(digits[chosen], minlength=10)
    for one in both(digits, seeds=1, rng_seed=7):
        wrong = per_class._mistakes(per_class._unpacked(one, SIZE), digits, chosen)
        percent[one.placement] = tuple(map(int, per_class._percent(wrong, sample, np.floor)[0]))
    monkeypatch.setattr(published, "PER_CLASS_ACCURACY_PERCENT", percent)
    table = per_class.loaders(both(digits, seeds=10), digits).set_index("loader")
    best = table.loc["file order, batches of 32"]
    assert best["behind"] == 0 and best["can_print"] == 1
    assert (table["behind"].drop(best.name) > 0).all()
    assert table["can_print"]["shuffled, batches of 64"] < 0.2


def test_the_probability_of_percentages_by_hand():
    """Ten digits of 50 images; of each the report is to print 100, so no mistake is possible.

    Four runs without any count as half a mistake in four runs, Poisson with mean 1/8. Two runs with
    0 and 2 mistakes have the mean 1 and the variance 2, which is 3 for a new run: negative binomial
    with 1/2 failures and the probability 1/3.
    """
    fits = np.zeros((51, 10), bool)
    fits[0] = True
    none = per_class._log_probability(fits, np.zeros((4, 10), int))
    assert none == pytest.approx(-10 / 8, rel=1e-4)
    some = per_class._log_probability(fits, np.array([np.zeros(10, int), np.full(10, 2)]))
    assert some == pytest.approx(10 * np.log(1 / 3) / 2)


def test_the_images_of_the_sample_themselves_are_asked():
    """Where all runs fail on images of the sample, its percentages are low, whatever the others."""
    digits = labels()
    mask = per_class.samplings(SIZE)[FOUR]
    changed = []
    for answer in both(digits, error=0.001):
        right = per_class._unpacked(answer, SIZE)
        right[:, mask] &= (np.arange(mask.sum()) % 4 > 0)[None]  # a quarter of the sample is wrong
        changed.append(answer._replace(correct=np.packbits(right, axis=1)))
    table = per_class.sampling(changed, digits).set_index(["sampling", "printed"])
    assert table["mean_percent"][FOUR, "cut off"] == pytest.approx(75, abs=3)
    assert table["mean_percent"]["all images", "cut off"] > 97
    # All images cannot print ten percentages with three of 100 and a mean of 97.8.
    assert table["log10_probability"]["all images", "rounded"] < -60
    assert table["place"]["all images", "rounded"] == 1


def test_each_evaluation_is_asked_and_one_network_is_not_enough():
    """Runs without mistakes print 100 ten times; of 640 images each digit has 64."""
    digits = (np.arange(640) % 10).astype(np.uint8)
    said = [*both(digits, error=0.0), *both(digits, evaluation="batch")]
    table = per_class.sampling([*said, answers(digits, evaluation="recalibrated")], digits)
    assert set(table["evaluation"]) == {"running", "batch"}
    perfect = table.query("sampling == 'all images' and evaluation == 'running'")
    assert perfect["hundreds"].tolist() == [10, 10]
    assert perfect["step_percent"].tolist() == [100 / 64, 100 / 64]
    assert per_class.sampling(both(digits)[:1], digits).empty


def test_about_92_is_from_91_5_to_92_5():
    """Of accuracies that four runs have on 10,000 images, and of the means that they print."""
    digits = labels()
    right = np.ones((4, SIZE), bool)
    for run, wrong in enumerate((851, 850, 750, 749)):
        right[run, np.flatnonzero(np.arange(SIZE) % 64 >= 4)[:wrong]] = False
    none = answers(digits, variant="no_momentum_mnist", placement="none", seeds=4)
    found = per_class.baselines([none._replace(correct=np.packbits(right, axis=1))], digits)
    assert found["about_92_all"].item() == 0.5 and found["n"].item() == 4
    assert found["about_92_sampled"].item() == 0  # the images of the sample are all right
    printed = pd.Series([91.4, 91.5, 92.5, 92.6])
    assert per_class.about_92(printed).tolist() == [False, True, True, False]


@pytest.mark.mnist
def test_the_loop_of_the_tutorial_counts_628_images_of_the_original_file():
    """The first four of 157 batches of 64, in the order of t10k-labels-idx1-ubyte."""
    masks = per_class.samplings(SIZE)
    assert [mask.sum() for mask in masks.values()] == [157, 314, 628, 1256, 2512, 64, 1000, SIZE]
    assert masks[FOUR][[0, 3, 4, 63, 64, 9984]].tolist() == [1, 1, 0, 0, 1, 1]
    path = MIRROR / sources.FILES["test_labels"]
    if not path.is_file():
        pytest.skip("the original MNIST files are neither in MNIST_MIRROR nor in ../shared")
    digits = np.frombuffer(gzip.decompress(path.read_bytes())[8:], np.uint8)
    sample = np.bincount(digits[masks[FOUR]])
    assert sample.tolist() == [65, 73, 67, 63, 68, 40, 56, 59, 60, 77]
    # Each of the report's percentages is some number of these images, cut off.
    possible = per_class._percent(np.arange(78)[:, None], sample, np.floor)
    for percentages in published.PER_CLASS_ACCURACY_PERCENT.values():
        assert (possible == np.array(percentages)).any(axis=0).all()
