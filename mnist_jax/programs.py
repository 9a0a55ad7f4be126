"""The functions of `train` as compiled programs of one network and optimiser, and a loop over them.

`N` is the number of examples of a split.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from mnist_jax import compilation, data, train
from mnist_jax.data import Split
from mnist_jax.metrics import Metrics
from mnist_jax.train import TEST_BATCH_SIZE, Evaluation, TrainState, Variables


class Programs(NamedTuple):
    """The functions of `train` for one network, optimiser and batch size, from `compiled`."""

    init_state: Callable[[chex.PRNGKey], TrainState]
    train_epoch: Callable[[TrainState, Split, jax.Array], tuple[TrainState, Metrics]]
    evaluate: Callable[[Variables, Split], Evaluation]
    evaluate_batch: Callable[[Variables, Split], Evaluation]  # with statistics of each batch
    recalibrate: Callable[[Variables, Split], Variables]


class Epoch(NamedTuple):
    """The state after an epoch of `fit`, and the metrics of that epoch."""

    number: int  # 1, 2, ...
    state: TrainState
    train: Metrics  # over all batches, each measured before its own step
    test: Evaluation  # of the whole test split after the epoch


def compiled(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    batch_size: int = 64,
    test_batch_size: int = TEST_BATCH_SIZE,
) -> Programs:
    """Jits the functions of `train` for one network, with the options that suit the device.

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
    """As `compiled`, but not jitted: for `jax.jit` with other options, `jax.vmap` and the like."""
    return Programs(
        init_state=partial(train.init_state, model, tx),
        train_epoch=partial(train.train_epoch, model=model, tx=tx, batch_size=batch_size),
        evaluate=partial(train.evaluate, model=model, batch_size=test_batch_size),
        evaluate_batch=partial(
            train.evaluate, model=model, batch_size=batch_size, statistics="batch"
        ),
        recalibrate=partial(train.recalibrate, model=model, batch_size=batch_size),
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
      `train_epoch` take training splits of this size only, `evaluate` and `evaluate_batch` such
      test splits, and `init_state` keys of JAX's default generator.
    """

    def split(size: int) -> Split:
        images = jax.ShapeDtypeStruct((size, 28, 28, 1), jnp.uint8)
        return Split(images, jax.ShapeDtypeStruct((size,), jnp.int32))  # type: ignore[arg-type]

    key = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
    state = jax.eval_shape(programs.init_state, key)
    order = jax.ShapeDtypeStruct((train_size,), jnp.int32)
    variables, train_split, test_split = (
        train.variables_of(state),
        split(train_size),
        split(test_size),
    )
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

    Raises:
      ValueError: a split is not one of images and labels as MNIST has them.
    """
    for split in (train_split, test_split):
        data.check(split)
    train_split, test_split = jax.device_put((train_split, test_split))
    for number in range(done + 1, epochs + 1):
        order = train.epoch_order(key, number, train_split.labels.shape[0])  # [N]
        state, sums = programs.train_epoch(state, train_split, order)
        tested = programs.evaluate(train.variables_of(state), test_split)
        yield jax.block_until_ready(Epoch(number, state, sums, tested))
