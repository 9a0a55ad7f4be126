"""Training as a pure function from (state, data, order) to (state, metrics), an epoch at a time.

`B` is the batch size and `N` the number of examples of a split. The functions here are not
compiled; `compiled` gives the programs of one network and optimiser, and `fit` runs them.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from mnist_jax import compilation, metrics
from mnist_jax.data import Split
from mnist_jax.kernels import in_memory
from mnist_jax.metrics import Metrics
from mnist_jax.model import centres, with_centres
from mnist_jax.tfds import tfds_order

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


class Epoch(NamedTuple):
    """The state after an epoch of `fit`, and the metrics of that epoch."""

    number: int  # 1, 2, ...
    state: TrainState
    train: Metrics  # over all batches, each measured before its own step
    test: Evaluation  # of the whole test split after the epoch


class Programs(NamedTuple):
    """The functions of this file for one network, optimiser and batch size, from `compiled`."""

    init_state: Callable[[chex.PRNGKey], TrainState]
    train_epoch: Callable[[TrainState, Split, jax.Array], tuple[TrainState, Metrics]]
    evaluate: Callable[[Variables, Split], Evaluation]
    evaluate_batch: Callable[[Variables, Split], Evaluation]  # with statistics of each batch
    recalibrate: Callable[[Variables, Split], Variables]


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
    size = batch.labels.shape[0]
    chex.assert_shape(batch.images, (size, 28, 28, 1))

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
    return jax.random.permutation(jax.random.fold_in(key, epoch), _places(size, held_out))


@lru_cache
def _places(size: int, held_out: int) -> np.ndarray:
    """Where each of the images that are kept lies in their split, in TFDS's order, `[size]`."""
    order = tfds_order("train", size + held_out)[:size]
    return np.argsort(np.argsort(order)).astype(np.int32)


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
        normalisation.
    """
    size = order.shape[0]
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


def compiled(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    batch_size: int = 64,
    test_batch_size: int = TEST_BATCH_SIZE,
) -> Programs:
    """Jits the functions above for one network, with the options that suit the device.

    Each call makes new programs, and each of these compiles when it is first called, so keep the
    result and use it again.

    Args:
      model: the network.
      tx: the optimiser.
      batch_size: images in a batch of training, of `evaluate_batch` and of `recalibrate`.
      test_batch_size: images that `evaluate` computes at once; it decides memory, not results.
    """
    programs = uncompiled(model, tx, batch_size=batch_size, test_batch_size=test_batch_size)
    return Programs(*map(compilation.jit, programs))._replace(
        init_state=compilation.jit(programs.init_state, quickly=True)  # weights are drawn once
    )


def uncompiled(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    batch_size: int = 64,
    test_batch_size: int = TEST_BATCH_SIZE,
) -> Programs:
    """As `compiled`, but not jitted: for `jax.jit` with other options, `jax.vmap` and the like.

    Args:
      model: the network.
      tx: the optimiser.
      batch_size: as in `compiled`.
      test_batch_size: as in `compiled`.
    """
    return Programs(
        init_state=partial(init_state, model, tx),
        train_epoch=partial(train_epoch, model=model, tx=tx, batch_size=batch_size),
        evaluate=partial(evaluate, model=model, batch_size=test_batch_size),
        evaluate_batch=partial(evaluate, model=model, batch_size=batch_size, statistics="batch"),
        recalibrate=partial(recalibrate, model=model, batch_size=batch_size),
    )


def ahead_of_time(
    programs: Programs,
    train_size: int,
    test_size: int,
    names: Sequence[str] = ("train_epoch", "init_state", "evaluate"),
) -> Programs:
    """Compiles some programs side by side for splits of known sizes, before the data are loaded.

    Args:
      programs: what `compiled` returned.
      train_size: number of examples in the training split.
      test_size: number of examples in the test split.
      names: the fields of `Programs` to compile, the one that takes longest first.

    Returns:
      The same programs, with those that are named compiled. Of these, `recalibrate` and
      `train_epoch` take training splits of this size only, and `evaluate` and `evaluate_batch` such
      test splits.
    """

    def split(size: int) -> Split:
        images = jax.ShapeDtypeStruct((size, 28, 28, 1), jnp.uint8)
        return Split(images, jax.ShapeDtypeStruct((size,), jnp.int32))  # type: ignore[arg-type]

    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(programs.init_state, key)
    order = jax.ShapeDtypeStruct((train_size,), jnp.int32)
    variables, train_split, test_split = variables_of(state), split(train_size), split(test_size)
    arguments = {
        "init_state": (key,),
        "train_epoch": (state, train_split, order),
        "evaluate": (variables, test_split),
        "evaluate_batch": (variables, test_split),
        "recalibrate": (variables, train_split),
    }
    # Only tracing needs Python; the compiler runs beside it in other threads.
    with ThreadPoolExecutor() as pool:
        compiling = {
            name: pool.submit(getattr(programs, name).lower(*arguments[name]).compile)
            for name in names
        }
        done = {name: future.result() for name, future in compiling.items()}
    return programs._replace(**done)


def fit(
    programs: Programs,
    state: TrainState,
    train_split: Split,
    test_split: Split,
    key: chex.PRNGKey,
    *,
    epochs: int,
    done: int = 0,
) -> Iterator[Epoch]:
    """Trains for some epochs and yields after each one.

    Args:
      programs: what `compiled` returned.
      state: where to start.
      train_split: the split to train on.
      test_split: the split to evaluate on.
      key: decides the order of the examples in each epoch, by `epoch_order`.
      epochs: the number of the last epoch.
      done: the number of epochs that the state was trained for already.

    Yields:
      Each epoch with its state and metrics, as soon as both are computed.
    """
    train_split, test_split = jax.device_put((train_split, test_split))
    for number in range(done + 1, epochs + 1):
        order = epoch_order(key, number, train_split.labels.shape[0])  # [N]
        state, sums = programs.train_epoch(state, train_split, order)
        tested = programs.evaluate(variables_of(state), test_split)
        yield jax.block_until_ready(Epoch(number, state, sums, tested))
