"""Trains the same network here and in PyTorch, step by step, and prints how far apart they are.

    python -m experiments.parity --placement before_fc1
    python -m experiments.parity --placement before_fc1 --float64

Both programs start from the same weights, drawn by PyTorch, and see the same batches in the same
order. PyTorch runs a second time with another number of threads. It then adds in another order, so
only rounding separates its two runs, and their difference is the yardstick for the other one. With
`--float64` this program and PyTorch must agree to 1e-9 in everything, or the exit status is 1.

After the epoch the test images are evaluated in three ways, which differ in what batch
normalisation normalises with: the running statistics of training; those of each test batch, as in a
PyTorch program that never calls `model.eval()`; and the means over the training images under the
final weights, which PyTorch computes with `momentum=None`.

A relative difference is the largest absolute difference in an array divided by the largest
absolute value in it. On two CPU cores this takes half a minute, in float64 a minute. It needs
PyTorch: pip install -e '.[torch]'.
"""

import importlib.metadata
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import numpy as np
import tyro
from rich import box
from rich.table import Table

from experiments.groundwork import command, machine, terminal
from experiments.groundwork.command import DataOptions, FailedError, UsageError, refuse
from experiments.groundwork.recipe import MAX_SEED, PixelScale, Recipe
from experiments.parity.traces import (
    EVALUATION,
    Task,
    Trace,
    initial_weights,
    trace_ours,
    trace_torch,
)
from mnist_jax import data, store, train
from mnist_jax.model import Placement

TOLERANCE = 1e-9  # in float64, largest absolute difference
MAX_THREADS = 256


@dataclass(frozen=True)
class Options:
    """Compare this program with PyTorch over one epoch."""

    placement: Placement = "after_fc1"
    """Where the residual block stands."""
    float64: bool = False
    """Compute in float64 and demand agreement to 1e-9."""
    batch_size: int = Recipe.batch_size
    """Number of images in a training step, at least 1."""
    learning_rate: float = Recipe.learning_rate
    """Learning rate of stochastic gradient descent, at least 0."""
    momentum: float = Recipe.momentum
    """Momentum of stochastic gradient descent, at least 0 and below 1."""
    pixels: PixelScale = "half"
    """Scale of a pixel x of 0..1: (x - 0.5)/0.5, (x - 0.1307)/0.3081, or x itself."""
    seed: int = 0
    """Seed of the initial weights and of the order of the images, from 0 to 4294967295."""
    threads: int = 2
    """Number of PyTorch's threads, at least 1."""
    other_threads: int = 1
    """Number of threads in PyTorch's second run, at least 1."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    json: Path | None = None
    """File for every difference, as JSON."""


class Difference(NamedTuple):
    """How far apart two programs are in one array."""

    absolute: float  # the largest absolute difference of two elements
    relative: float  # the same, divided by the largest absolute value in the array


class Row(NamedTuple):
    """One array and its differences."""

    stage: str
    name: str
    ours: Difference  # between this program and PyTorch
    torch: Difference  # between PyTorch and PyTorch with another number of threads


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return command.main(Options, parity, arguments, name="experiments.parity", description=__doc__)


def parity(options: Options) -> None:
    """Trains in both programs, and prints how far apart they are.

    Raises:
      UsageError: an option has a value that it cannot have, or PyTorch is not installed.
      FailedError: in float64 the programs differ by more than `TOLERANCE`.
      DataError: the data cannot be had.
    """
    recipe = Recipe(
        placement=options.placement,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        momentum=options.momentum,
        pixels=options.pixels,
    )
    _check(options, recipe)
    machine.start()
    mnist = data.load_mnist(options.data.data_dir, options.data.mirror)
    with jax.enable_x64(options.float64):
        start = initial_weights(options.placement, options.seed, float64=options.float64)
        key = jax.random.key(options.seed)
        order = np.array(train.epoch_order(key, 1, len(mnist.train.labels)))
        task = Task(recipe, start, mnist.train, mnist.test, order)
        traces = {
            "here": trace_ours(task),
            "PyTorch": trace_torch(task, threads=options.threads),
            "PyTorch again": trace_torch(task, threads=options.other_threads),
        }
    rows = compare(*traces.values())
    worst = max(rows, key=lambda row: np.nan_to_num(row.ours.absolute, nan=np.inf))
    console = terminal.console()
    console.print(
        f"LeNet, block {options.placement}, {'float64' if options.float64 else 'float32'}, "
        f"against PyTorch with {options.threads} threads, and that against PyTorch with "
        f"{options.other_threads}"
    )
    for table in tables(rows):
        terminal.print_table(console, table)
    for name, trace in traces.items():
        console.print(f"test accuracy {name}: {trace[EVALUATION]['test accuracy']:.2f} %")
    console.print(f"largest difference: {worst.ours.absolute:.1e} ({worst.stage}, {worst.name})")
    if options.json:
        result = {
            "recipe": asdict(recipe),
            "seed": options.seed,
            "float64": options.float64,
            "threads": [options.threads, options.other_threads],
            "manifest": machine.manifest(mnist.sha256),
            "torch": importlib.metadata.version("torch"),
            "rows": [
                row._asdict() | {"ours": row.ours._asdict(), "torch": row.torch._asdict()}
                for row in rows
            ],
        }
        store.write_json(options.json, result)
    if options.float64 and not worst.ours.absolute <= TOLERANCE:  # NaN is no agreement
        raise FailedError(f"the programs differ by more than {TOLERANCE:g}")


def _check(options: Options, recipe: Recipe) -> None:
    """Checks all options that can be checked without the data, and that PyTorch is there.

    Raises:
      UsageError: naming the option and what is allowed.
    """
    recipe.check()
    if not 0 <= options.seed <= MAX_SEED:
        refuse("seed", f"from 0 to {MAX_SEED}", options.seed)
    if recipe.placement == "after_fc1" and data.TEST_SIZE % recipe.batch_size == 1:
        refuse("batch_size", "such that no batch of test images has one image", recipe.batch_size)
    for name in ("threads", "other_threads"):
        if not 1 <= getattr(options, name) <= MAX_THREADS:
            refuse(name, f"from 1 to {MAX_THREADS}", getattr(options, name))
    command.refuse_unless_writable(json=options.json)
    if importlib.util.find_spec("torch") is None:
        raise UsageError("parity needs PyTorch: pip install -e '.[torch]'")


def compare(ours: Trace, theirs: Trace, again: Trace) -> list[Row]:
    """The differences in everything that was computed: here to PyTorch, and of PyTorch's runs."""
    return [
        Row(
            stage, name, difference(ours[stage][name], array), difference(again[stage][name], array)
        )
        for stage, arrays in theirs.items()
        for name, array in arrays.items()
    ]


def difference(array: np.ndarray, reference: np.ndarray) -> Difference:
    """The largest difference of two arrays of the same shape.

    Raises:
      ValueError: the shapes differ.
    """
    if array.shape != reference.shape:
        raise ValueError(f"cannot compare {array.shape} with {reference.shape}")
    absolute = float(np.abs(array - reference).max())
    scale = float(np.abs(reference).max())
    return Difference(absolute, absolute / scale if scale else absolute)


def tables(rows: Sequence[Row]) -> Iterator[Table]:
    """A table for each stage; after training steps, all parameters together are one line."""
    for stage in dict.fromkeys(row.stage for row in rows):
        table = Table(title=stage, title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("largest difference", min_width=30, no_wrap=True)
        for header in ("here -\nPyTorch", "relative", "PyTorch -\nitself", "relative"):
            table.add_column(header, justify="right", min_width=8)
        parameters = []
        for row in (row for row in rows if row.stage == stage):
            if stage.startswith("after") and row.name.endswith((".weight", ".bias")):
                parameters.append(row)
            elif not row.name.endswith("num_batches_tracked"):
                table.add_row(row.name, *_cells(row.ours, row.torch))
        if parameters:
            largest = (_largest([getattr(row, of) for row in parameters]) for of in Row._fields[2:])
            table.add_row("all parameters", *_cells(*largest))
        yield table


def _cells(ours: Difference, torch: Difference) -> Iterator[str]:
    return (f"{value:.1e}" if value else "0" for value in (*ours, *torch))


def _largest(differences: Sequence[Difference]) -> Difference:
    """The largest absolute and the largest relative difference, each on its own."""
    return Difference(*(float(np.max(values)) for values in zip(*differences, strict=True)))


if __name__ == "__main__":
    command.leave(main())
