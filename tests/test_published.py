"""The report's numbers: copied without a slip, and set beside a run's."""

import hashlib
from itertools import pairwise

import pytest

from experiments.groundwork import published


def test_there_are_eighty_numbers():
    """Two networks, ten epochs in order, four metrics."""
    assert [len(history) for history in published.HISTORY.values()] == [10, 10]
    for history in published.HISTORY.values():
        assert [line.epoch for line in history] == list(range(1, 11))


def test_every_digit_is_the_one_that_was_compared_with_the_report():
    """All numbers were compared with the report's once, and no digit has changed since."""
    numbers = published.HISTORY, published.PER_CLASS_ACCURACY_PERCENT
    found = hashlib.sha256(repr(numbers).encode()).hexdigest()
    assert found == "194c33395da61b678072fe4a05b84e0b61b656d0c0f6be6b0a0b3aa27cdec180"


@pytest.mark.parametrize("placement", published.HISTORY)
def test_train_accuracies_are_counts_of_60000(placement):
    """A mistyped digit would almost surely not be a whole number of images."""
    for line in published.HISTORY[placement]:
        images = line.train_accuracy_percent * 600
        assert images == pytest.approx(round(images), abs=0.04), line


@pytest.mark.parametrize("placement", published.HISTORY)
def test_loss_falls_as_accuracy_rises(placement):
    """Training improves in every epoch of the report, in both metrics."""
    history = published.HISTORY[placement]
    for before, after in pairwise(history):
        assert after.train_loss < before.train_loss
        assert after.train_accuracy_percent > before.train_accuracy_percent


def test_both_lists_of_percentages_have_the_mean_the_analysis_explains():
    """97.8, a point below the networks' own accuracy."""
    for percentages in published.PER_CLASS_ACCURACY_PERCENT.values():
        assert sum(percentages) / 10 == 97.8


def test_last_epoch_is_compared_metric_by_metric():
    """Ours, the report's, and the difference."""
    ours = {"train_loss": 0.03, "train_accuracy_percent": 99.0, "test_loss": 0.04}
    rows = published.compare_last_epoch("after_fc1", ours | {"test_accuracy_percent": 98.89})
    assert [row.metric for row in rows] == list(published.METRICS)
    assert rows[-1].published == 98.79
    assert rows[-1].difference == pytest.approx(0.10)


def test_the_report_has_no_curve_without_a_block():
    """So there is nothing to compare."""
    assert published.compare_last_epoch("none", {}) == ()
