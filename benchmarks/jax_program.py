"""Trains a network with this project's code and times every epoch.

    python -m benchmarks.jax_program --placement after_fc1 --epochs 3

`benchmarks.program` explains the lines. Everything is compiled before the first epoch, which still
takes longer than the others, because it touches all memory first.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import program
from benchmarks.program import Side
from experiments.groundwork import command
from experiments.groundwork import recipe as recipes
from experiments.groundwork.recipe import Recipe
from mnist_jax import train as training
from mnist_jax.data import Split
from mnist_jax.metrics import Metrics
from mnist_jax.programs import ahead_of_time


class State(NamedTuple):
    """A training with one seed."""

    training: training.TrainState
    order_key: jax.Array


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    name = "benchmarks.jax_program"
    return program.main(arguments, ready, name=name, description=__doc__)


def ready(recipe: Recipe, train: Split, test: Split) -> Side:
    """Compiles the programs of a recipe and puts the data on the device."""
    began = time.perf_counter()
    size = len(train.labels)
    programs = ahead_of_time(recipes.programs(recipe), size, len(test.labels))
    compile_seconds = time.perf_counter() - began
    train, test = jax.device_put((train, test))

    def start(seed: int) -> State:
        init_key, order_key = recipes.keys_of(seed)
        return jax.block_until_ready(State(programs.init_state(init_key), order_key))

    def train_epoch(state: State, number: int) -> tuple[State, Metrics]:
        order = training.epoch_order(state.order_key, number, size, recipe.held_out)
        trained, sums = programs.train_epoch(state.training, train, order)
        return jax.block_until_ready((state._replace(training=trained), sums))

    def evaluate(state: State) -> Metrics:
        variables = training.variables_of(state.training)
        return jax.block_until_ready(programs.evaluate(variables, test)).metrics

    return Side(start, train_epoch, evaluate, compile_seconds, multiply)


def multiply(size: int, times: int) -> None:
    """Multiplies two `[size, size]` matrices of ones `times` times."""
    ones = jnp.ones((size, size))
    jax.block_until_ready([jnp.matmul(ones, ones) for _ in range(times)])


if __name__ == "__main__":
    command.leave(main())
