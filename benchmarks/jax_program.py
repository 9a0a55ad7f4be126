"""Trains the report's network in JAX and times every epoch.

    python -m benchmarks.jax_program --placement after_fc1 --epochs 3

It has the same options as `torch_program`, except for `--variant` there and `--choose-threads`
here, and prints the same lines and the same JSON: a line in the report's form for each epoch, with
the seconds of training alone. Everything is compiled before the first epoch, which still takes
longer than the others, because it touches all memory first.
"""

if __name__ == "__main__":
    from experiments.groundwork import stopping

    stopping.end_at_once()

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import program
from benchmarks.program import Side
from experiments.groundwork import cores, options, settings
from mnist_jax import train as training
from mnist_jax.data import Split
from mnist_jax.metrics import Metrics
from mnist_jax.model import Placement


class State(NamedTuple):
    """A training with one seed."""

    training: training.TrainState
    order_key: jax.Array
    evaluated: Any  # the variables with which the network is evaluated


@dataclass(frozen=True)
class Config(program.Options):
    """Train the report's network in JAX and time every epoch."""

    choose_threads: bool = False
    """Compute on one thread where two cores lie so far apart that a second thread costs time, as
    experiments.run does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""

    def of_config(config: Config, train: Split, test: Split) -> Side:
        rate, cycle = config.rate_and_cycle(len(train.labels))
        threads = 1 if config.choose_threads and cores.far_apart() else cores.count()
        with cores.threads_made(threads):
            jax.devices()
        return ready(
            train,
            test,
            placement=config.placement,
            batch_size=config.batch_size,
            learning_rate=rate,
            one_cycle_steps=cycle,
            nesterov=config.nesterov,
            recalibrated=config.statistics == "recalibrated",
            threads=threads,
        )

    name = "benchmarks.jax_program"
    return program.main(Config, of_config, arguments, name=name, description=__doc__)


def ready(
    train: Split,
    test: Split,
    *,
    placement: Placement,
    batch_size: int,
    learning_rate: float,
    one_cycle_steps: int | None,
    nesterov: bool,
    recalibrated: bool,
    threads: int,
) -> Side:
    """Compiles the programs of one training.

    The arguments are as in `program.Options` and `settings.sgd`, except that `threads` is the
    number with which JAX was started.
    """
    size = len(train.labels)
    model = settings.model_of(settings.REPORT, placement)
    tx = settings.sgd(
        learning_rate,
        settings.REPORT.momentum,
        nesterov=nesterov,
        one_cycle_steps=one_cycle_steps,
    )

    began = time.perf_counter()
    programs = training.compiled(model, tx, batch_size=batch_size)
    programs = training.ahead_of_time(programs, size, len(test.labels))
    compile_seconds = time.perf_counter() - began
    train, test = jax.device_put((train, test))
    if recalibrated:  # it compiles when it is first called
        fresh = training.variables_of(programs.init_state(jax.random.key(0)))
        jax.block_until_ready(programs.recalibrate(fresh, train))

    def start(seed: int) -> State:
        init_key, order_key = settings.keys_of(seed)
        state = programs.init_state(init_key)
        return jax.block_until_ready(State(state, order_key, training.variables_of(state)))

    def train_epoch(state: State, number: int) -> tuple[State, Metrics]:
        order = training.epoch_order(state.order_key, number, size)
        trained, sums = programs.train_epoch(state.training, train, order)
        state = State(trained, state.order_key, training.variables_of(trained))
        return jax.block_until_ready((state, sums))

    def recalibrate(state: State) -> State:
        variables = programs.recalibrate(state.evaluated, train)
        return state._replace(evaluated=jax.block_until_ready(variables))

    def evaluate(state: State) -> Metrics:
        return jax.block_until_ready(programs.evaluate(state.evaluated, test)).metrics

    return Side(
        start=start,
        train_epoch=train_epoch,
        recalibrate=recalibrate,
        evaluate=evaluate,
        multiply=multiply,
        threads=threads,
        compile_seconds=compile_seconds,
        versions={"jaxlib": version("jaxlib")},
    )


def multiply(size: int, times: int) -> None:
    """Multiplies two `[size, size]` matrices of ones `times` times."""
    ones = jnp.ones((size, size))
    jax.block_until_ready([jnp.matmul(ones, ones) for _ in range(times)])


if __name__ == "__main__":
    options.leave(main())
