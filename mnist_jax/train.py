"""Training as a pure function: (state, data, key) to (state, metrics), an epoch at a time.

`B` is the batch size and `N` the number of examples of a split.
"""

from collections.abc import Iterator
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from mnist_jax import metrics
from mnist_jax.data import Split, normalise
from mnist_jax.kernels import in_memory
from mnist_jax.metrics import Metrics


class TrainState(NamedTuple):
    """All that training changes."""

    params: chex.ArrayTree
    batch_stats: chex.ArrayTree  # running mean and variance; {} without a block
    opt_state: optax.OptState


class Epoch(NamedTuple):
    """What one epoch left behind."""

    number: int  # 1, 2, ...
    state: TrainState
    train: Metrics  # of the batches as they were trained on
    test: Metrics


def init_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    key: chex.PRNGKey,
    dtype: jnp.dtype = jnp.float32,
) -> TrainState:
    """A fresh state. `key` is consumed. Parameters have the given dtype."""
    variables = model.init(key, jnp.zeros((2, 28, 28, 1), dtype), train=True)
    return start_from(variables, tx)


def start_from(variables: chex.ArrayTree, tx: optax.GradientTransformation) -> TrainState:
    """A state with given `params` and `batch_stats` and a fresh optimiser."""
    params = variables["params"]
    return TrainState(params, variables.get("batch_stats", {}), tx.init(params))


def variables_of(state: TrainState) -> chex.ArrayTree:
    """The Flax variables of a state, for `model.apply`."""
    return {"params": state.params, "batch_stats": state.batch_stats}


def train_step(
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    mean: float,
    std: float,
) -> tuple[TrainState, Metrics]:
    """One step on one batch.

    Args:
      state: where to start.
      images: `[B, 28, 28, 1]` uint8.
      labels: `[B]` int32.
      model: the network, called with normalised images and `train=True`.
      tx: the optimiser.
      mean: of x/255, see `data.NORMALISATIONS`.
      std: of x/255.

    Returns:
      The next state, and the metrics of this batch before the step.
    """
    chex.assert_shape(images, (labels.shape[0], 28, 28, 1))
    dtype = jax.tree.leaves(state.params)[0].dtype

    def loss(params):
        logits, updates = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            normalise(images, mean, std, dtype=dtype),
            train=True,
            mutable=["batch_stats"],
        )
        batch = metrics.of_batch(logits, labels)
        return batch.loss / labels.shape[0], (batch, updates.get("batch_stats", {}))

    gradients, (batch, batch_stats) = jax.grad(loss, has_aux=True)(state.params)
    updates, opt_state = tx.update(gradients, state.opt_state, state.params)
    return TrainState(optax.apply_updates(state.params, updates), batch_stats, opt_state), batch


def epoch_order(key: chex.PRNGKey, epoch: int | jax.Array, size: int) -> jax.Array:
    """The order of the examples in an epoch: a permutation of 0..size-1, `[size]` int32.

    It depends on `key` and `epoch` alone, so every placement sees the same batches.
    """
    return jax.random.permutation(jax.random.fold_in(key, epoch), jnp.arange(size, dtype=jnp.int32))


def train_epoch(
    state: TrainState,
    split: Split,
    order: jax.Array,
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    batch_size: int,
    mean: float,
    std: float,
) -> tuple[TrainState, Metrics]:
    """Steps through a split in a given order; the last, partial batch is trained on too.

    Args:
      state: where to start.
      split: images `[N, 28, 28, 1]` uint8 and labels `[N]`.
      order: `[N]` int32, see `epoch_order`.
      model: see `train_step`.
      tx: see `train_step`.
      batch_size: `B`.
      mean: see `train_step`.
      std: see `train_step`.

    Returns:
      The state after the epoch and the sums over its `N` examples.
    """
    size = order.shape[0]
    whole = size - size % batch_size
    rows = split.images.reshape(split.images.shape[0], -1)  # an image is one run of bytes to copy

    def step(carry, batch):
        state, sums = carry
        images = in_memory(rows[batch]).reshape(-1, *split.images.shape[1:])
        state, batch_metrics = train_step(
            state, images, split.labels[batch], model=model, tx=tx, mean=mean, std=std
        )
        return (state, sums + batch_metrics), None

    carry = state, metrics.zero(jax.tree.leaves(state.params)[0].dtype)
    carry, _ = lax.scan(step, carry, order[:whole].reshape(-1, batch_size))
    if whole < size:
        carry, _ = step(carry, order[whole:])
    return carry


def predict(
    state: TrainState,
    images: jax.Array,
    *,
    model: nn.Module,
    batch_size: int,
    mean: float,
    std: float,
) -> jax.Array:
    """Logits `[N, 10]` of images `[N, 28, 28, 1]` uint8, with the running statistics."""
    dtype = jax.tree.leaves(state.params)[0].dtype

    def logits(batch):
        images = normalise(batch, mean, std, dtype=dtype)
        return model.apply(variables_of(state), images, train=False)

    whole = images.shape[0] - images.shape[0] % batch_size
    batches = images[:whole].reshape(-1, batch_size, *images.shape[1:])
    parts = [lax.map(logits, batches).reshape(whole, metrics.CLASSES)]
    if whole < images.shape[0]:
        parts.append(logits(images[whole:]))
    return jnp.concatenate(parts)


def evaluate(
    state: TrainState,
    split: Split,
    *,
    model: nn.Module,
    batch_size: int,
    mean: float,
    std: float,
) -> Metrics:
    """The sums over a whole split, see `predict`."""
    logits = predict(state, split.images, model=model, batch_size=batch_size, mean=mean, std=std)
    return metrics.of_batch(logits, split.labels)


_SETTINGS = ("model", "batch_size", "mean", "std")
_train_epoch = jax.jit(train_epoch, static_argnames=(*_SETTINGS, "tx"))
_evaluate = jax.jit(evaluate, static_argnames=_SETTINGS)


def fit(
    state: TrainState,
    train: Split,
    test: Split,
    key: chex.PRNGKey,
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    mean: float,
    std: float,
    test_batch_size: int = 500,
) -> Iterator[Epoch]:
    """Trains for some epochs and yields after each one.

    Args:
      state: where to start.
      train: the split to train on; give it as device arrays.
      test: the split to evaluate on.
      key: of the order of the examples, see `epoch_order`.
      model: see `train_step`.
      tx: see `train_step`.
      epochs: how many.
      batch_size: see `train_epoch`.
      mean: see `train_step`.
      std: see `train_step`.
      test_batch_size: changes the memory that evaluation takes, not its result.

    Yields:
      Each epoch with its state and metrics, when both are computed.
    """
    scale = {"mean": mean, "std": std}
    for number in range(1, epochs + 1):
        order = epoch_order(key, number, train.labels.shape[0])  # [N]
        state, sums = _train_epoch(
            state, train, order, model=model, tx=tx, batch_size=batch_size, **scale
        )
        tested = _evaluate(state, test, model=model, batch_size=test_batch_size, **scale)
        yield jax.block_until_ready(Epoch(number, state, sums, tested))
