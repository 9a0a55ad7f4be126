"""Metrics: sums over parts merge to the sums over the whole."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax import metrics

rng = np.random.default_rng(0)
LOGITS = rng.normal(0, 3, (37, 10)).astype(np.float32)
LABELS = rng.integers(0, 10, 37, dtype=np.int32)


def of(examples: slice) -> metrics.Metrics:
    return metrics.of_batch(jnp.asarray(LOGITS[examples]), jnp.asarray(LABELS[examples]))


def test_of_batch():
    found = of(slice(None))
    log_probabilities = LOGITS - np.log(np.exp(LOGITS.astype(float)).sum(1, keepdims=True))
    loss = -log_probabilities[np.arange(37), LABELS].sum()
    np.testing.assert_allclose(found.loss, loss, rtol=1e-6)
    assert found.correct == (LOGITS.argmax(1) == LABELS).sum()
    assert found.count == 37
    assert (found.loss.dtype, found.correct.dtype, found.count.dtype) == (
        jnp.float32,
        jnp.int32,
        jnp.int32,
    )


@pytest.mark.parametrize("cuts", [[1], [36], [5, 6, 20], list(range(1, 37))])
def test_any_split_of_the_batch_gives_the_same_sums(cuts):
    bounds = [0, *cuts, 37]
    total = metrics.zero()
    for start, stop in itertools.pairwise(bounds):
        total += of(slice(start, stop))
    whole = of(slice(None))
    assert (total.correct, total.count) == (whole.correct, whole.count)
    np.testing.assert_allclose(total.loss, whole.loss, rtol=1e-6)
    assert total.loss.dtype == whole.loss.dtype


def test_means():
    found = metrics.Metrics(jnp.float32(6), jnp.int32(3), jnp.int32(8))
    assert found.mean_loss == 0.75
    assert found.accuracy_percent == 37.5


def test_confusion_matrix():
    predictions = LOGITS.argmax(1).astype(np.int32)
    found = jax.jit(metrics.confusion_matrix)(predictions, LABELS)
    expected = np.zeros((10, 10), int)
    for label, prediction in zip(LABELS, predictions, strict=True):
        expected[label, prediction] += 1
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found.sum(1), np.bincount(LABELS, minlength=10))
    assert np.trace(found) == of(slice(None)).correct
    assert found.dtype == jnp.int32


def test_the_worst_mistake_gives_its_label_the_least_probability():
    probabilities = np.array([[0.3, 0.7], [0.1, 0.9], [0.6, 0.4], [0.8, 0.2]])
    assert metrics.worst_mistakes(probabilities, np.array([0, 1, 1, 1])).tolist() == [3, 0, 2]
