"""Metrics as sums over examples, which merge by addition; a mean is one division at the end."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

CLASSES = 10


class Metrics(NamedTuple):
    """Sums over the examples seen so far."""

    loss: jax.Array  # [] float, the sum of the cross-entropies in nats
    correct: jax.Array  # [] int32, the number of right predictions
    count: jax.Array  # [] int32  # pyright: ignore[reportIncompatibleMethodOverride]

    # `count` and `+` replace those of a tuple, which have no use here.
    def __add__(self, other: "Metrics") -> "Metrics":  # pyright: ignore[reportIncompatibleMethodOverride]
        """The sums over both sets of examples."""
        return jax.tree.map(jnp.add, self, other)

    @property
    def mean_loss(self) -> float:
        """The mean cross-entropy of an example, in nats."""
        return float(self.loss) / int(self.count)

    @property
    def accuracy_percent(self) -> float:
        """The share of right predictions, in percent."""
        return 100 * int(self.correct) / int(self.count)


def zero(dtype: jnp.dtype = jnp.float32) -> Metrics:
    """The sums before any example was seen, all 0; `dtype` is that of the loss."""
    return Metrics(jnp.zeros((), dtype), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def of_batch(logits: jax.Array, labels: jax.Array | np.ndarray) -> Metrics:
    """The sums over one batch with logits `[B, 10]` and labels `[B]`."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()
    correct = (logits.argmax(-1).astype(labels.dtype) == labels).sum(dtype=jnp.int32)
    return Metrics(loss, correct, jnp.int32(labels.shape[0]))


def confusion_matrix(
    predictions: jax.Array | np.ndarray, labels: jax.Array | np.ndarray
) -> jax.Array:
    """Counts images, `[10, 10]` int32, by label (row) and prediction (column), both `[N]`."""
    return jnp.zeros((CLASSES, CLASSES), jnp.int32).at[labels, predictions].add(1)


def worst_mistakes(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The places `[K]` of the misread images, by ascending probability of their label.

    Args:
      probabilities: `[N, 10]`.
      labels: `[N]`.
    """
    (wrong,) = np.nonzero(probabilities.argmax(1) != labels)
    return wrong[np.argsort(probabilities[wrong, labels[wrong]])]
