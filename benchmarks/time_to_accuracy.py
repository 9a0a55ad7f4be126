"""How many epochs and seconds of training does it take to reach the report's test accuracy?

    python -m benchmarks.time_to_accuracy --nesterov --json time_to_accuracy.json

The report trains ten epochs at a constant learning rate and ends at 98.71 % test accuracy with the
block before fc1, and at 98.79 % with the block after it. In this benchmark the learning rate
follows one cycle of cosines over the whole training, in JAX and in PyTorch, whose own schedule has
its peak and its end a step earlier.

Method. A schedule depends on the number of epochs, so each number in `--epochs` is a training of
its own. The accuracy, with the running statistics of training, counts as reached where the mean
over the seeds is at least the report's. The schedule was chosen on held-out training images, once
without and once with `--nesterov`:

    python -m benchmarks.time_to_accuracy --held-out 10000 --epochs 1 2 3 --seeds 3
        --torch-seeds 0 --peak-learning-rates 0.02 0.05 0.1 0.2

Seconds are those of the training epochs, without compilation, evaluation and the loading of data.
The seeds run one after another, ten in a process, and `benchmarks.harness` runs the processes in
random order. So the ten seeds that PyTorch trains by default share one process, and 100 of ours are
ten processes. The first seed of a process is timed without an epoch to warm up.

Output. The means of accuracy and seconds, with their 95 % intervals (Student's t over the seeds).
The interval of the seconds is too narrow where something slowed a whole process, because it takes
the seeds of one process for independent.
"""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import scipy.stats
import tyro
from rich.table import Table

from benchmarks import harness
from benchmarks.harness import Finished, Program, Row
from experiments.groundwork import command, published, terminal
from experiments.groundwork.command import DataOptions, refuse
from experiments.groundwork.recipe import Recipe

OURS = "mnist_jax"
SEEDS_IN_A_PROCESS = 10
TARGETS = {  # test accuracy in percent after the report's last epoch
    placement: history[-1].test_accuracy_percent for placement, history in published.HISTORY.items()
}


@dataclass(frozen=True)
class Options:
    """Train until the report's test accuracy is reached, here and in PyTorch."""

    placements: tuple[Literal["before_fc1", "after_fc1"], ...] = ("before_fc1", "after_fc1")
    """Where the residual block stands."""
    epochs: tuple[int, ...] = (1, 2)
    """Numbers of epochs to try, each at least 1."""
    peak_learning_rates: tuple[float, ...] = (Recipe.peak_learning_rate,)
    """Highest learning rates of the cycle to try."""
    nesterov: bool = False
    """Use Nesterov's momentum."""
    held_out: int = 0
    """Number of training images that are tested on instead of the test images."""
    seeds: int = 100
    """Number of trainings of each kind, at least 2."""
    torch_seeds: int = 10
    """Number of trainings of each kind in PyTorch, at least 2, or 0 for none."""
    variant: Literal["eager", "channels_last"] = "eager"
    """PyTorch program; name the one that benchmarks.epoch_time found fastest."""
    seed: int = 0
    """Seed of the random order of the processes."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    json: Path | None = None
    """File for everything measured, as JSON."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return command.main(
        Options, run, arguments, name="benchmarks.time_to_accuracy", description=__doc__
    )


def run(options: Options) -> None:
    """Trains with all seeds and prints the table.

    Raises:
      UsageError: an option has a value that it cannot have.
      FailedError: a program failed.
    """
    if options.seeds < 2:  # one training gives no interval
        refuse("seeds", "at least 2", options.seeds)
    if options.torch_seeds < 2 and options.torch_seeds != 0:
        refuse("torch_seeds", "at least 2, or 0", options.torch_seeds)
    command.refuse_unless_writable(json=options.json)
    found = list(programs(options))
    rows = harness.measure(found, values_of, rounds=1, seed=options.seed, path=options.json)
    terminal.print_table(terminal.console(), table(rows))


def programs(options: Options) -> Iterator[Program]:
    """A program for each part of the seeds of each training."""
    ours = (OURS, ("-m", "benchmarks.jax_program"), options.seeds)
    torch = ("-m", "benchmarks.torch_program", "--variant", options.variant)
    theirs = (f"pytorch {options.variant}", torch, options.torch_seeds)
    kinds = itertools.product(options.placements, options.epochs, options.peak_learning_rates)
    for (placement, epochs, rate), (name, words, seeds) in itertools.product(kinds, (ours, theirs)):
        labels = {
            "program": name,
            "placement": placement,
            "epochs": epochs,
            "peak_learning_rate": rate,
            "nesterov": options.nesterov,
        }
        training = ("--placement", placement, "--epochs", str(epochs), "--schedule", "one_cycle")
        training += ("--peak-learning-rate", str(rate), *["--nesterov"] * options.nesterov)
        training += ("--held-out", str(options.held_out), *harness.data_words(options.data))
        for first in range(0, seeds, SEEDS_IN_A_PROCESS):
            count = min(SEEDS_IN_A_PROCESS, seeds - first)
            of_process = ("--seed", str(first), "--seeds", str(count))
            yield Program(labels, (*words, *training, *of_process))


def values_of(_: Program, finished: Finished) -> dict[str, list[Any]]:
    """The accuracy after the last epoch and the seconds of training of each seed."""
    runs: dict[int, list[dict[str, Any]]] = {}
    for row in harness.read(finished)[1]:
        runs.setdefault(row["seed"], []).append(row)
    return {
        "accuracy_percent": [rows[-1]["test_accuracy_percent"] for rows in runs.values()],
        "seconds": [sum(row["seconds"] for row in rows) for rows in runs.values()],
        "seeds": list(runs),
    }


def mean_and_margin(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % interval by Student's t."""
    n = len(values)
    error = statistics.stdev(values) / n**0.5
    return statistics.mean(values), float(scipy.stats.t.ppf(0.975, n - 1)) * error


def table(rows: Sequence[Row]) -> Table:
    """A row for each training."""
    numbers = ("epochs", "peak", "Nesterov", "n", "accuracy, %", "report's", "reached", "seconds")
    grid = harness.grid("Means with 95 % intervals", ("block", "program"), numbers)
    for row in rows:
        target = TARGETS[row["placement"]]
        grid.add_row(
            row["placement"],
            row["program"],
            str(row["epochs"]),
            str(row["peak_learning_rate"]),
            "yes" if row["nesterov"] else "no",
            str(len(row["seconds"])),
            _cell(row["accuracy_percent"]),
            f"{target:.2f}",
            "yes" if _mean_accuracy(row) >= target else "no",
            _cell(row["seconds"]),
        )
    return grid


def _mean_accuracy(row: Row) -> float:
    return statistics.mean(row["accuracy_percent"])


def _cell(values: Sequence[float]) -> str:
    mean, margin = mean_and_margin(values)
    return f"{mean:.2f} ± {margin:.2f}"


if __name__ == "__main__":
    command.leave(main())
