"""What the timed programs share: their options, their clock, and the JSON lines that they print.

`jax_program`, `flax_program` and `torch_program` differ in how they train and in nothing else. Each
gives this module a `Side`, and the loop below trains, evaluates and times it. Its first line holds
the seconds of compilation; then follows a line for each seed and epoch with the keys of a run's
metrics, whose `seconds` are those of training alone.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, NamedTuple

import tyro

from experiments.groundwork import command, machine
from experiments.groundwork import recipe as recipes
from experiments.groundwork.command import DataOptions, refuse
from experiments.groundwork.recipe import MAX_SEED, Recipe
from mnist_jax import data, store
from mnist_jax.data import Split

PRODUCT_SIZE, PRODUCTS = 1024, 20


@dataclass(frozen=True)
class Options:
    """The options of all timed programs."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = Recipe(epochs=3)
    examples: int | None = None
    """Number of images to train on, at least 1; by default all."""
    held_out: int = 0
    """Number of training images that are tested on instead of the test images."""
    seed: int = 0
    """Seed of the initial weights and of the order of the images, from 0 to 4294967295."""
    seeds: int = 1
    """Number of trainings, one after another with seeds that count up, at least 1."""
    threads: int | None = None
    """Number of cores to run on, at least 1; by default all."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()

    def trained(self) -> Recipe:
        """The recipe with the number of images that are trained on.

        Raises:
          UsageError: naming the first wrong option, and what is allowed.
        """
        if not 0 <= self.held_out < data.TRAIN_SIZE:
            refuse("held_out", f"from 0 to {data.TRAIN_SIZE - 1}", self.held_out)
        most = data.TRAIN_SIZE - self.held_out
        examples = most if self.examples is None else self.examples
        if not 1 <= examples <= most:
            refuse("examples", f"from 1 to {most}", examples)
        if self.seeds < 1:
            refuse("seeds", "at least 1", self.seeds)
        if not 0 <= self.seed <= MAX_SEED - self.seeds + 1:
            refuse("seed", f"at least 0, and with --seeds at most {MAX_SEED}", self.seed)
        recipe = replace(self.recipe, held_out=data.TRAIN_SIZE - examples)
        recipe.check()
        return recipe


class Side(NamedTuple):
    """The functions of a program that is ready to train one network.

    What a state is, each program decides for itself; sums have `mean_loss` and `accuracy_percent`.
    Every function returns when its result is computed, not before.
    """

    start: Callable[[int], Any]  # takes a seed, returns the state before the first epoch
    train_epoch: Callable[[Any, int], tuple[Any, Any]]  # state, number of the epoch: state, sums
    evaluate: Callable[[Any], Any]  # state: sums of the test images
    compile_seconds: float | None = None  # None where the first epoch compiles
    multiply: Callable[[int, int], None] | None = None  # size of matrices, number of products


def main(
    arguments: Sequence[str] | None,
    ready: Callable[[Recipe, Split, Split], Side],
    *,
    name: str,
    description: str | None,
) -> int:
    """Runs the command line of a program that has only these options; returns its exit status."""
    run_it = partial(run, ready=ready)
    return command.main(Options, run_it, arguments, name=name, description=description)


def run(options: Options, ready: Callable[[Recipe, Split, Split], Side]) -> None:
    """Trains with each seed and prints the JSON lines.

    Args:
      options: what is trained.
      ready: makes the program ready; it takes the recipe and the splits to train and to test on.
    """
    recipe = options.trained()
    machine.keep_to(options.threads)
    source = options.data
    mnist = data.load_mnist(source.data_dir, source.mirror, dataset=recipe.dataset)
    train, test = recipes.splits(replace(recipe, held_out=options.held_out), mnist)
    side = ready(recipe, Split(*(array[: recipe.train_size] for array in train)), test)
    _print({"compile_seconds": side.compile_seconds, "threads": machine.cores()})
    for seed in range(options.seed, options.seed + options.seeds):
        for row in timed(side, seed, recipe.epochs):
            _print({"seed": seed, **row})
    if side.multiply is not None:
        _print({"matrix_product_gflops": matrix_product_gflops(side.multiply)})


def timed(side: Side, seed: int, epochs: int) -> Iterator[dict[str, Any]]:
    """Trains with one seed and yields a row after each epoch.

    `seconds` are those of training alone, `cpu_seconds` those that all threads together computed in
    that time.
    """
    state = side.start(seed)
    for number in range(1, epochs + 1):
        start, cpu = time.perf_counter(), time.process_time()
        state, trained = side.train_epoch(state, number)
        end, cpu = time.perf_counter(), time.process_time() - cpu
        tested = side.evaluate(state)
        yield {
            "epoch": number,
            "train_loss": trained.mean_loss,
            "train_accuracy_percent": trained.accuracy_percent,
            "test_loss": tested.mean_loss,
            "test_accuracy_percent": tested.accuracy_percent,
            "seconds": end - start,
            "cpu_seconds": cpu,
            "evaluation_seconds": time.perf_counter() - end,
        }


def matrix_product_gflops(multiply: Callable[[int, int], None]) -> float:
    """The speed of large float32 matrix products, in 10^9 operations a second."""
    multiply(PRODUCT_SIZE, 1)
    start = time.perf_counter()
    multiply(PRODUCT_SIZE, PRODUCTS)
    return 2 * PRODUCT_SIZE**3 * PRODUCTS / (time.perf_counter() - start) / 1e9


def _print(row: dict[str, Any]) -> None:
    print(store.as_lines([row]).decode(), end="", flush=True)
