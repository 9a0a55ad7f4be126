"""A single run: what a recipe is made into, once, and the epochs that follow from it."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.groundwork import recipe, run_directory
from experiments.groundwork.evaluation import (
    EvaluationName,
    evaluate,
    evaluate_all,
    to_predict_with,
)
from experiments.groundwork.run_directory import Config, Row
from mnist_jax import store, train
from mnist_jax.data import Split
from mnist_jax.model import LeNet
from mnist_jax.programs import Programs, ahead_of_time
from mnist_jax.store import Stored
from mnist_jax.train import Evaluation, TrainState, Variables

# The programs that an epoch needs, by the way of its evaluation, the slowest to compile first.
NEEDED: dict[EvaluationName, tuple[str, ...]] = {
    "running": ("train_epoch", "init_state", "evaluate"),
    "batch": ("train_epoch", "init_state", "evaluate_batch"),
    "recalibrated": ("train_epoch", "init_state", "evaluate", "recalibrate"),
}


class Training(NamedTuple):
    """What a run is made of, before it has data."""

    config: Config
    model: LeNet
    tx: optax.GradientTransformation
    programs: Programs
    init_key: jax.Array
    order_key: jax.Array


class Epoch(NamedTuple):
    """What an epoch leaves behind."""

    state: TrainState  # from which the next one goes on
    variables: Variables  # to predict with
    history: list[Row]  # a row for each epoch so far


def make(config: Config) -> Training:
    """Makes network, optimiser, programs and keys; nothing is compiled."""
    of = config.recipe
    keys = recipe.keys_of(config.seed)
    return Training(config, recipe.network(of), recipe.optimiser(of), recipe.programs(of), *keys)


def compiled(training: Training, names: tuple[str, ...]) -> Training:
    """The same, in which the programs that are named need not be compiled any more."""
    of = training.config.recipe
    programs = ahead_of_time(training.programs, of.train_size, of.test_size, names)
    return training._replace(programs=programs)


def compiled_for_the_end(made: Training, ready: Training) -> Training:
    """Adds to `ready`, which is compiled for epochs, what evaluates in three ways.

    Args:
      made: what `make` returned.
      ready: what `compiled` made of it.
    """
    if not _has_three_ways(made):
        return ready
    needed = NEEDED[made.config.evaluation]
    missing = tuple(n for n in ("evaluate", "evaluate_batch", "recalibrate") if n not in needed)
    found = compiled(made, missing).programs
    programs = ready.programs._replace(**{name: getattr(found, name) for name in missing})
    return ready._replace(programs=programs)


def initial_state(training: Training) -> TrainState:
    """The state before the first epoch: drawn, or with the weights of a file.

    Raises:
      UsageError: the weights are those of another placement or scale of the pixels.
      StoreError: the file of weights cannot be read or used.
    """
    config = training.config
    if config.init_from is None:
        return training.programs.init_state(training.init_key)
    variables = run_directory.initial_weights(config.init_from, training.model)
    return train.start_from(variables, training.tx)


def restored_state(training: Training, saved: Stored) -> TrainState:
    """The state that a checkpoint holds.

    Raises:
      StoreError: it is that of another network or optimiser.
    """

    def drawn(key: Any) -> TrainState:
        return train.init_state(training.model, training.tx, key)

    return jax.device_put(store.restore(saved, jax.eval_shape(drawn, training.init_key)))


def epochs(
    training: Training, splits: tuple[Split, Split], state: TrainState, history: list[Row]
) -> Iterator[Epoch]:
    """Trains the epochs that are left.

    Args:
      training: what the run is made of.
      splits: to train and to test on, on the device.
      state: the state after the epochs that are done.
      history: the rows of these epochs.

    Yields:
      Each epoch, when it is computed.
    """
    (train_split, test_split), programs, config = splits, training.programs, training.config
    size, held_out = train_split.labels.shape[0], config.recipe.held_out
    for number in range(len(history) + 1, config.recipe.epochs + 1):
        begun = time.perf_counter()
        order = train.epoch_order(training.order_key, number, size, held_out)
        state, trained = programs.train_epoch(state, train_split, order)
        variables = to_predict_with(
            programs, train.variables_of(state), config.evaluation, train_split
        )
        tested = evaluate(programs, variables, config.evaluation, test_split).metrics
        row = {
            "epoch": number,
            "train_loss": trained.mean_loss,
            "train_accuracy_percent": trained.accuracy_percent,
            "test_loss": tested.mean_loss,
            "test_accuracy_percent": tested.accuracy_percent,
            "seconds": time.perf_counter() - begun,
        }
        # None stands for a loss that is not finite, as JSON requires.
        row = {key: value if np.isfinite(value) else None for key, value in row.items()}
        history = [*history, row]
        yield Epoch(state, variables, history)


def tested_in_three_ways(
    training: Training, splits: tuple[Split, Split], state: TrainState
) -> dict[EvaluationName, Evaluation]:
    """Evaluates a trained network in three ways, or in the run's own if it has only that."""
    variables, own = train.variables_of(state), training.config.evaluation
    if _has_three_ways(training):
        return evaluate_all(training.programs, variables, *splits)
    return {own: evaluate(training.programs, variables, own, splits[1])}


def _has_three_ways(training: Training) -> bool:
    """Whether there is batch normalisation, and no test batch of one image."""
    of = training.config.recipe
    return of.placement != "none" and of.test_size % of.batch_size != 1
