"""Trains the report's network in JAX and times every epoch.

    python -m benchmarks.jax_program --placement after_fc1 --epochs 3

It is the peer of `torch_program`: the same options, the same lines, the same JSON. It prints the
report's own line for each epoch, with the seconds of training alone. Everything is compiled before
the first epoch, which still takes longer than the others, because it touches all memory first.
"""

if __name__ == "__main__":
    from experiments import stopping

    stopping.end_at_once()

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import program
from benchmarks.program import Side
from experiments import settings
from mnist_jax import train as training
from mnist_jax.data import Split
from mnist_jax.metrics import Metrics
from mnist_jax.model import Placement


@dataclass(frozen=True)
class Config(program.Options):
    """Train the report's network in JAX and time every epoch."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""

    def of_config(config: Config, train: Split, test: Split) -> Side:
        one_cycle = config.schedule == "one_cycle"
        return ready(
            train,
            test,
            placement=config.placement,
            epochs=config.epochs,
            batch_size=config.batch_size,
            one_cycle=one_cycle,
            learning_rate=(config.peak_learning_rate if one_cycle else config.learning_rate),
            nesterov=config.nesterov,
        )

    name = "benchmarks.jax_program"
    return program.main(Config, of_config, arguments, name=name, description=__doc__)


def ready(
    train: Split,
    test: Split,
    *,
    placement: Placement,
    epochs: int,
    batch_size: int,
    one_cycle: bool,
    learning_rate: float,
    nesterov: bool,
) -> Side:
    """Compiles the programs of one training; arguments as in `program.Options`."""
    size = len(train.labels)
    model = settings.model_of(settings.REPORT, placement)
    steps = epochs * -(-size // batch_size)
    tx = settings.sgd(
        learning_rate,
        settings.REPORT.momentum,
        nesterov=nesterov,
        one_cycle_steps=steps if one_cycle else None,
    )
    sizes = {"batch_size": batch_size, "test_batch_size": settings.TEST_BATCH_SIZE}

    began = time.perf_counter()
    programs = training.compiled(model, tx, **sizes)
    programs = training.ahead_of_time(programs, size, len(test.labels))
    compile_seconds = time.perf_counter() - began
    train, test = jax.device_put((train, test))

    def start(seed: int) -> tuple[training.TrainState, jax.Array]:
        init_key, order_key = settings.keys_of(seed)
        return jax.block_until_ready((programs.init_state(init_key), order_key))

    def train_epoch(of_seed: Any, number: int) -> tuple[Any, Metrics]:
        state, order_key = of_seed
        order = training.epoch_order(order_key, number, size)
        state, sums = jax.block_until_ready(programs.train_epoch(state, train, order))
        return (state, order_key), sums

    def evaluate(of_seed: Any) -> Metrics:
        state, _ = of_seed
        evaluated = programs.evaluate(training.variables_of(state), test)
        return jax.block_until_ready(evaluated).metrics

    return Side(
        start=start,
        train_epoch=train_epoch,
        recalibrate=lambda of_seed: of_seed,
        evaluate=evaluate,
        multiply=multiply,
        compile_seconds=compile_seconds,
        versions={"jaxlib": version("jaxlib")},
    )


def multiply(size: int, times: int) -> None:
    """Multiplies two matrices of ones so often."""
    ones = jnp.ones((size, size))
    jax.block_until_ready([jnp.matmul(ones, ones) for _ in range(times)])


if __name__ == "__main__":
    sys.exit(main())
