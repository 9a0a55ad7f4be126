"""The report's numbers: copied without a slip, and set beside a run's."""

import hashlib

import pytest

from experiments.groundwork import published


def test_every_digit_is_the_one_that_was_compared_with_the_report():
    """All numbers were compared with the report's once, and no digit has changed since."""
    numbers = published.HISTORY, published.PER_CLASS_ACCURACY_PERCENT
    found = hashlib.sha256(repr(numbers).encode()).hexdigest()
    assert found == "194c33395da61b678072fe4a05b84e0b61b656d0c0f6be6b0a0b3aa27cdec180"


def test_train_accuracies_are_counts_of_60000():
    """A mistyped digit would almost surely not be a whole number of images."""
    for line in (line for history in published.HISTORY.values() for line in history):
        images = line.train_accuracy_percent * 600
        assert images == pytest.approx(round(images), abs=0.04), line


def test_last_epoch_is_compared_metric_by_metric():
    """Ours, the report's, and the difference; without a block it has no curve."""
    ours = {"train_loss": 0.03, "train_accuracy_percent": 99.0, "test_loss": 0.04}
    rows = published.compare_last_epoch("after_fc1", ours | {"test_accuracy_percent": 98.89})
    assert [row.metric for row in rows] == list(published.METRICS)
    assert rows[-1].published == 98.79
    assert rows[-1].difference == pytest.approx(0.10)
    assert published.compare_last_epoch("none", {}) == ()
