"""Training as a pure function from (state, data, order) to (state, metrics), an epoch at a time.

`B` is the batch size and `N` the number of examples of a split. The functions here are not
compiled; `programs.compiled` gives the programs of one network and optimiser.
"""

from typing import Any, Literal, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from mnist_jax import data, metrics
from mnist_jax.data import Split
from mnist_jax.kernels import in_memory
from mnist_jax.metrics import Metrics
from mnist_jax.model import centres, with_centres

Variables = Any  # Flax's: {"params": ..., "batch_stats": ...}

TEST_BATCH_SIZE = 500  # images computed at once outside training; it decides memory, not results


class TrainState(NamedTuple):
    """Everything that training changes."""

    params: Any  # a tree of arrays, as are the two others
    batch_stats: Any  # running mean and variance; {} without a block
    opt_state: optax.OptState


class Evaluation(NamedTuple):
    """A network's answers to a split, and its sums over the examples."""

    metrics: Metrics
    logits: jax.Array  # [N, 10]


def init_state(model: nn.Module, tx: optax.GradientTransformation, key: chex.PRNGKey) -> TrainState:
    """A fresh state of a `LeNet`, drawn from PyTorch's distribution. Do not use `key` again."""
    return start_from(model.init(key, jnp.zeros((2, 28, 28, 1), jnp.uint8), train=True), tx)


def start_from(variables: Variables, tx: optax.GradientTransformation) -> TrainState:
    """A state with given `params` and `batch_stats` and a fresh optimiser."""
    params = variables["params"]
    return TrainState(params, variables.get("batch_stats", {}), tx.init(params))


def variables_of(state: TrainState) -> Variables:
    """The Flax variables of a state, for `predict`, `evaluate` and `model.apply`."""
    return {"params": state.params, "batch_stats": state.batch_stats}


def train_step(
    state: TrainState, batch: Split, *, model: nn.Module, tx: optax.GradientTransformation
) -> tuple[TrainState, Metrics]:
    """One step on one batch.

    Args:
      state: where to start.
      batch: images `[B, 28, 28, 1]` uint8 and labels `[B]` int32.
      model: the network, called with the images and `train=True`.
      tx: the optimiser.

    Returns:
      The next state, and the metrics of this batch before the step.
    """
    data.check_sizes(batch)
    size = batch.labels.shape[0]

    def loss(params: Any) -> tuple[jax.Array, tuple[Metrics, Any]]:
        logits, updates = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            batch.images,
            train=True,
            mutable=["batch_stats"],
        )
        sums = metrics.of_batch(logits, batch.labels)
        return sums.loss / size, (sums, updates.get("batch_stats", {}))

    gradients, (sums, batch_stats) = jax.grad(loss, has_aux=True)(state.params)
    updates, opt_state = tx.update(gradients, state.opt_state, state.params)
    return TrainState(optax.apply_updates(state.params, updates), batch_stats, opt_state), sums


def epoch_order(
    key: chex.PRNGKey, epoch: int | jax.Array, size: int, held_out: int = 0
) -> jax.Array:
    """The order of the examples in an epoch: a permutation of 0..size-1, `[size]` int32.

    It depends on these arguments alone, so every network sees the same batches. What the key
    permutes is TFDS's order, in which version 0.2 held the images: so its runs can be repeated.

    Args:
      key: of the run.
      epoch: its number.
      size: the number of training examples, in the order of the original file.
      held_out: the number of images that `data.hold_out` took away before.
    """
    places = data.places_in_tfds_order(size, held_out)
    with jax.threefry_partitionable(True):  # JAX's default; a user's setting gave another order
        return jax.random.permutation(jax.random.fold_in(key, epoch), places)


def train_epoch(
    state: TrainState,
    split: Split,
    order: jax.Array,
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    batch_size: int,
) -> tuple[TrainState, Metrics]:
    """Steps through a split in a given order; the last, partial batch is trained on too.

    Args:
      state: where to start.
      split: images `[N, 28, 28, 1]` uint8 and labels `[N]`.
      order: `[N]` int32, the places of the examples in the order of training, from `epoch_order`.
        It may be shorter. A compiled program cannot see whether each place is one of 0..N-1.
      model: the network.
      tx: the optimiser. Where the block stands after fc1, it does not see the weights that
        `model.centres` leaves out. So weight decay leaves those as they are, and an optimiser that
        computes a norm or a mean over a whole array (LARS, LAMB, Adafactor, adaptive clipping)
        moves the other weights by other amounts than `train_step` does.
      batch_size: `B`.

    Returns:
      The state after the epoch and the sums over its `N` examples.

    Raises:
      ValueError: a batch, which may be the last one, has only one value for each channel of batch
        normalisation; or sizes or dtypes do not fit.
    """
    data.check_sizes(split)
    size = order.shape[0]
    if order.ndim != 1 or size > split.labels.shape[0] or order.dtype.kind not in "iu":
        found = f"{list(order.shape)} {order.dtype}"
        raise ValueError(f"the order of {split.labels.shape[0]} examples cannot be {found}")
    whole = size - size % batch_size
    images, labels = jax.tree.map(jnp.asarray, split)  # a traced index does not work in numpy
    rows = images.reshape(images.shape[0], -1)  # [N, 784]: each image is copied as one run of bytes

    def step(
        carry: tuple[TrainState, Metrics], chosen: jax.Array
    ) -> tuple[tuple[TrainState, Metrics], None]:
        state, sums = carry
        batch = Split(in_memory(rows[chosen]).reshape(-1, *images.shape[1:]), labels[chosen])
        state, batch_sums = train_step(state, batch, model=model, tx=tx)
        return (state, sums + batch_sums), None

    # An epoch with the block after fc1 takes a twelfth less time without the weights that no
    # gradient reaches.
    trained = centres(model, state)
    if _shapes(trained.opt_state) != _shapes(jax.eval_shape(tx.init, trained.params)):
        trained = state  # the optimiser keeps arrays that do not have the shape of a parameter
    carry = trained, metrics.zero(jax.tree.leaves(state.params)[0].dtype)
    carry, _ = lax.scan(step, carry, order[:whole].reshape(-1, batch_size))
    if whole < size:
        carry, _ = step(carry, order[whole:])
    trained, sums = carry
    return with_centres(state, trained), sums


def _shapes(tree: Any) -> Any:
    return jax.tree.map(jnp.shape, tree)


def predict(
    variables: Variables,
    images: jax.Array | np.ndarray,
    *,
    model: nn.Module,
    batch_size: int = TEST_BATCH_SIZE,
    statistics: Literal["running", "batch"] = "running",
) -> jax.Array:
    """Logits `[N, 10]` of images `[N, 28, 28, 1]` uint8, `N` at least 1.

    This function is not compiled, and a call with more than `batch_size` images compiles its loop
    each time. To call it often, use `compilation.jit(partial(predict, model=model))`.

    Args:
      variables: the network's, for instance from `variables_of`.
      images: as MNIST stores them; the network normalises them itself.
      model: the network.
      batch_size: how many images are computed at once. With running statistics it changes the
        memory that this takes, but not the result except for rounding.
      statistics: what batch normalisation normalises with: the running statistics of training, or
        those of each batch, as PyTorch does in a model without a call of `eval()`.

    Raises:
      ValueError: there are no such statistics; or a batch, which may be the last one, has only one
        value for each channel and is to be normalised with its own.
    """
    if statistics not in ("running", "batch"):
        raise ValueError(f"statistics must be 'running' or 'batch', not {statistics!r}")
    images = jnp.asarray(images)

    def logits(batch: jax.Array) -> Any:
        if statistics == "running":
            return model.apply(variables, batch, train=False)
        return model.apply(variables, batch, train=True, mutable=["batch_stats"])[0]

    whole = images.shape[0] - images.shape[0] % batch_size
    parts = []
    if whole:
        batches = images[:whole].reshape(-1, batch_size, *images.shape[1:])
        parts.append(lax.map(logits, batches).reshape(whole, metrics.CLASSES))
    if whole < images.shape[0]:
        parts.append(logits(images[whole:]))
    return jnp.concatenate(parts)


def evaluate(
    variables: Variables,
    split: Split,
    *,
    model: nn.Module,
    batch_size: int = TEST_BATCH_SIZE,
    statistics: Literal["running", "batch"] = "running",
) -> Evaluation:
    """Computes the logits and the sums of a whole split.

    The other arguments are those of `predict`, and so are the errors.
    """
    data.check_sizes(split)
    logits = predict(
        variables, split.images, model=model, batch_size=batch_size, statistics=statistics
    )
    return Evaluation(metrics.of_batch(logits, jnp.asarray(split.labels)), logits)


def recalibrate(
    variables: Variables, split: Split, *, model: nn.Module, batch_size: int = 64
) -> Variables:
    """Returns the same weights with batch normalisation's statistics recomputed from a whole split.

    Running statistics weigh the last few dozen batches of training most, and each of these saw
    other weights. Here every batch is normalised with its own statistics, as in training, and mean
    and unbiased variance are averaged over all batches. Each batch counts by its number of images,
    so that every image counts once. PyTorch with `momentum=None` averages in the same way, except
    that a last, partial batch counts as much as a whole one there.

    Args:
      variables: the network's, for instance from `variables_of`.
      split: images `[N, 28, 28, 1]` uint8, taken in their order; the labels are not used.
      model: the network.
      batch_size: `B`.

    Returns:
      The variables with other `batch_stats`. Those of a network without batch normalisation are
      returned unchanged.

    Raises:
      ValueError: a batch, possibly the last one, has only one value for each channel.
    """
    if not variables.get("batch_stats"):
        return variables
    images = jnp.asarray(split.images)
    size = images.shape[0]
    whole = size - size % batch_size

    def add(sums: Any, batch: jax.Array) -> tuple[Any, None]:
        mutable = ["batch_stats", "batch_moments"]
        _, updates = model.apply(variables, batch, train=True, mutable=mutable)
        weight = batch.shape[0]
        return jax.tree.map(lambda x, y: x + weight * y, sums, updates["batch_moments"]), None

    sums = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
    sums, _ = lax.scan(add, sums, images[:whole].reshape(-1, batch_size, *images.shape[1:]))
    if whole < size:
        sums, _ = add(sums, images[whole:])
    return {**variables, "batch_stats": jax.tree.map(lambda x: x / size, sums)}
