"""The report's published numbers, as data, and a run's last epoch beside them.

Source: the report this project reimplements, 基于卷积神经网络的MNIST手写体数字识别 (MNIST
handwritten digit recognition with a convolutional neural network). Its twenty lines of results,
its two lists of per-class accuracies and its four claims are copied as printed. It trained each
network once. It does not state momentum, normalisation, seed or training time.
"""

from collections.abc import Mapping
from typing import NamedTuple


class PublishedEpoch(NamedTuple):
    """One line that the report prints: losses in nats per example, accuracies in percent."""

    epoch: int
    train_loss: float
    train_accuracy_percent: float
    test_loss: float
    test_accuracy_percent: float


class Compared(NamedTuple):
    """One row of a comparison, in the metric's own unit."""

    metric: str
    ours: float
    published: float
    difference: float  # ours - published


METRICS = PublishedEpoch._fields[1:]

HISTORY: dict[str, tuple[PublishedEpoch, ...]] = {
    "before_fc1": (
        PublishedEpoch(1, 0.9363, 73.7050, 0.1677, 95.22),
        PublishedEpoch(2, 0.1362, 95.9817, 0.0900, 97.26),
        PublishedEpoch(3, 0.0909, 97.2433, 0.0698, 97.73),
        PublishedEpoch(4, 0.0707, 97.8617, 0.0558, 98.20),
        PublishedEpoch(5, 0.0599, 98.1483, 0.0537, 98.24),
        PublishedEpoch(6, 0.0522, 98.4067, 0.0501, 98.42),
        PublishedEpoch(7, 0.0455, 98.6100, 0.0462, 98.56),
        PublishedEpoch(8, 0.0412, 98.7233, 0.0424, 98.57),
        PublishedEpoch(9, 0.0383, 98.8133, 0.0477, 98.51),
        PublishedEpoch(10, 0.0353, 98.8983, 0.0400, 98.71),
    ),
    "after_fc1": (
        PublishedEpoch(1, 0.4401, 89.5683, 0.1036, 97.08),
        PublishedEpoch(2, 0.0892, 97.4133, 0.0705, 97.93),
        PublishedEpoch(3, 0.0624, 98.1767, 0.0582, 98.17),
        PublishedEpoch(4, 0.0515, 98.4183, 0.0513, 98.36),
        PublishedEpoch(5, 0.0431, 98.6900, 0.0457, 98.54),
        PublishedEpoch(6, 0.0371, 98.8333, 0.0441, 98.68),
        PublishedEpoch(7, 0.0338, 98.9417, 0.0422, 98.71),
        PublishedEpoch(8, 0.0298, 99.1050, 0.0434, 98.53),
        PublishedEpoch(9, 0.0259, 99.1783, 0.0398, 98.75),
        PublishedEpoch(10, 0.0245, 99.2383, 0.0370, 98.79),
    ),
}

# The unit of the last digit that the report prints. Test accuracy is a count of 10,000 images.
PRINTED_STEP: dict[str, float] = {
    "train_loss": 1e-4,
    "train_accuracy_percent": 1e-4,
    "test_loss": 1e-4,
    "test_accuracy_percent": 1e-2,
}

PER_CLASS_ACCURACY_PERCENT: dict[str, tuple[int, ...]] = {
    "before_fc1": (98, 98, 97, 96, 98, 95, 98, 100, 100, 98),
    "after_fc1": (100, 97, 100, 96, 98, 95, 94, 100, 100, 98),
}

# "Without the residual block 10 epochs reach only about 92 %" is all that the report says of a
# baseline. It does not say on which images.
BASELINE_ACCURACY_PERCENT = 92.0

CLAIMS: tuple[str, ...] = (
    "The residual block raises accuracy from about 92 % to nearly 98 %",
    "The two networks take about the same time to train",
    "Normalising the data speeds up training",
    "The block after fc1 is slightly better than before fc1",
)


def compare_last_epoch(placement: str, ours: Mapping[str, float]) -> tuple[Compared, ...]:
    """Sets a run's epoch beside the report's last one.

    Args:
      placement: where the block stands.
      ours: the run's last epoch, with the keys of `METRICS` and their units.

    Returns:
      A row for each metric; none where the report printed no curve (placement `none`).
    """
    if placement not in HISTORY:
        return ()
    last = HISTORY[placement][-1]._asdict()
    return tuple(Compared(m, ours[m], last[m], ours[m] - last[m]) for m in METRICS)
