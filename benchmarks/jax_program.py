"""Our training in a process of its own, timed epoch by epoch: the peer of torch_reference.

    python -m benchmarks.jax_program --placement after_fc1 --epochs 3

prints a line an epoch; `--json -` prints one JSON object instead. Compilation is timed apart. The
first epoch is kept apart from the others, because it contains what warms up.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import tyro

from experiments.manifest import manifest
from experiments.run import Config as Defaults
from experiments.run import keys_of
from mnist_jax import train as training
from mnist_jax.data import NORMALISATIONS, Split, digests, load_mnist
from mnist_jax.metrics import Metrics
from mnist_jax.model import LeNet, Placement
from mnist_jax.sources import DataError


@dataclass(frozen=True)
class Config:
    """Train the report's network in JAX and time each epoch."""

    placement: Placement = "after_fc1"
    """Where the residual block stands."""
    epochs: int = 3
    """Passes over the training images."""
    batch_size: int = 64
    """Images a step."""
    examples: int = 60_000
    """Of the training set, the first so many."""
    threads: int | None = None
    """On CPU, the cores to run on; else all that the process may use. Linux only."""
    seed: int = 0
    """Of the initial weights and the order of the images."""
    data_dir: Path | None = None
    """TFDS's data directory; else TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    mirror: Path | None = None
    """A directory with the four original files; else MNIST_MIRROR."""
    json: str | None = None
    """Where to write the result as JSON; - is the standard output, in place of the lines."""


class Epoch(NamedTuple):
    """One epoch and what it took."""

    train_seconds: float
    test_seconds: float
    train: Metrics
    test: Metrics


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    if config.threads is not None:
        keep_to(config.threads)
    try:
        train, test = load_mnist(config.data_dir, config.mirror)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    compile_seconds, timed = run(config, Split(*(x[: config.examples] for x in train)), test)
    epochs: list[Epoch] = []
    for epoch in timed:
        epochs.append(epoch)
        if config.json != "-":
            print(_line(len(epochs), epoch), flush=True)
    if config.json:
        seconds = [epoch.train_seconds for epoch in epochs]
        result = {
            "config": asdict(config),
            "conditions": manifest(digests(train, test)),
            "platform": jax.default_backend(),
            "compile_seconds": compile_seconds,
            "first_epoch_seconds": seconds[0],
            "epoch_seconds": seconds[1:],
            "evaluation_seconds": [epoch.test_seconds for epoch in epochs],
            "train_loss": epochs[-1].train.mean_loss,
            "test_accuracy_percent": epochs[-1].test.accuracy_percent,
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "matrix_product_gflops": matrix_product_gflops(),
        }
        text = json.dumps(result, default=str)
        if config.json == "-":
            print(text)
        else:
            Path(config.json).write_text(text + "\n")
    return 0


def keep_to(cores: int) -> None:
    """Keeps this process to so many cores; before JAX starts, which makes a thread for each.

    Raises:
      ValueError: it may not use so many.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if not 1 <= cores <= len(allowed):
        raise ValueError(f"threads must be from 1 to {len(allowed)}: {cores}")
    os.sched_setaffinity(0, allowed[:cores])


def run(config: Config, train: Split, test: Split) -> tuple[float, Iterator[Epoch]]:
    """Compiles the training epoch; returns the seconds that took, and each epoch as it ends."""
    defaults = Defaults()
    mean, std = NORMALISATIONS[defaults.normalisation]
    common: dict[str, Any] = {"model": LeNet(config.placement), "mean": mean, "std": std}
    tx = optax.sgd(defaults.learning_rate, defaults.momentum)
    init_key, order_key = keys_of(config.seed)
    train, test = jax.tree.map(jnp.asarray, (train, test))
    state = jax.jit(partial(training.init_state, common["model"], tx))(init_key)
    numbers = range(1, config.epochs + 1)
    orders = [training.epoch_order(order_key, n, train.labels.shape[0]) for n in numbers]

    start = time.perf_counter()
    train_epoch = (
        jax.jit(partial(training.train_epoch, tx=tx, batch_size=config.batch_size, **common))
        .lower(state, train, orders[0])
        .compile()
    )
    compile_seconds = time.perf_counter() - start
    evaluate = jax.jit(partial(training.evaluate, batch_size=500, **common))
    evaluate = evaluate.lower(state, test).compile()

    def epochs(state):
        for order in orders:
            start = time.perf_counter()
            state, trained = jax.block_until_ready(train_epoch(state, train, order))
            middle = time.perf_counter()
            tested = jax.block_until_ready(evaluate(state, test))
            yield Epoch(middle - start, time.perf_counter() - middle, trained, tested)

    return compile_seconds, epochs(state)


def matrix_product_gflops(size: int = 1024, times: int = 20) -> float:
    """The speed of a large float32 matrix product, 10^9 operations a second."""
    a = jnp.ones((size, size))
    product = jax.jit(lambda a, b: a @ b).lower(a, a).compile()
    product(a, a).block_until_ready()
    start = time.perf_counter()
    for _ in range(times):
        b = product(a, a)
    b.block_until_ready()
    return 2 * size**3 * times / (time.perf_counter() - start) / 1e9


def _line(number: int, epoch: Epoch) -> str:
    return (
        f"Epoch {number}, train:: loss: {epoch.train.mean_loss:.4f} test:: accuracy: "
        f"{epoch.test.accuracy_percent:.4f}% ({epoch.train_seconds:.2f} s, evaluation "
        f"{epoch.test_seconds:.2f} s)"
    )


if __name__ == "__main__":
    sys.exit(main())
