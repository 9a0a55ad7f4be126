"""How long does a whole run take, from the command to its exit?

    python -m benchmarks.whole_run --json whole_run.json

Method. The data are prepared before the first timed run. `benchmarks.harness` runs `--repeats`
processes of ten epochs of each program and placement in random order. The programs are

    cold       `python -m experiments.run` with an empty directory for compiled programs: all ten
               epochs with evaluation, checkpoints, tables and pictures
    cached     the same with a directory that an earlier run has filled
    pytorch    `python -m benchmarks.torch_program --variant ...`: ten epochs with evaluation; name
               the variants that `benchmarks.epoch_time` found fastest

With `--checkout` the runs of another checkout of this project are timed beside them. The process of
PyTorch also imports our own packages, JAX among them, which takes 0.6 to 0.7 s of its time.

Output. The table has the median and the range of the seconds from start to exit, the medians of the
seconds that the ten epochs do not account for and of those until the line of the first epoch, and
the largest memory. NOTES.md says where the time besides the epochs goes.
"""

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from benchmarks import harness
from benchmarks.harness import SCRATCH, Finished, Program, Row, spread
from benchmarks.torch_program import Variant
from experiments.groundwork import command, terminal
from experiments.groundwork.command import DataOptions, refuse
from experiments.groundwork.recipe import Recipe
from mnist_jax.model import PLACEMENTS, Placement


@dataclass(frozen=True)
class Options:
    """Time whole runs here and in PyTorch."""

    placements: tuple[Placement, ...] = PLACEMENTS
    """Where the residual block stands."""
    variants: tuple[Variant, ...] = ("eager", "channels_last")
    """Variants of the PyTorch program; --variants alone times none."""
    checkout: Path | None = None
    """Another checkout of this project, whose runs are timed too."""
    repeats: int = 5
    """Number of runs of each program, at least 1."""
    seed: int = 0
    """Seed of the random order of the runs."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    json: Path | None = None
    """File for everything measured, as JSON."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return command.main(Options, run, arguments, name="benchmarks.whole_run", description=__doc__)


def run(options: Options) -> None:
    """Times all runs and prints the table.

    Raises:
      UsageError: an option has a value that it cannot have.
      FailedError: a program failed.
    """
    if options.repeats < 1:
        refuse("repeats", "at least 1", options.repeats)
    command.refuse_unless_writable(json=options.json)
    with tempfile.TemporaryDirectory() as cache:
        found = programs(options, Path(cache))
        for program in found:
            if program.labels["program"].endswith("cached"):
                harness.run(program._replace(words=(*program.words, "--epochs", "1")))
        rows = harness.measure(
            found, values_of, rounds=options.repeats, seed=options.seed, path=options.json
        )
    terminal.print_table(terminal.console(), table(rows))


def programs(options: Options, cache: Path) -> list[Program]:
    """All programs; the cached runs keep compiled programs in folders of `cache`."""
    checkouts = {"": harness.ROOT}
    if options.checkout is not None:
        folder = options.checkout.resolve()
        checkouts[f"{folder.name} "] = folder
    found = []
    for placement in options.placements:
        words = ("--placement", placement, *harness.data_words(options.data))
        for number, (prefix, folder) in enumerate(checkouts.items()):
            for kind in ("cold", "cached"):
                kept = str(cache / str(number))
                environment = {"XDG_CACHE_HOME": SCRATCH if kind == "cold" else kept}
                # A first run would also make matplotlib's list of fonts, which is no matter here.
                environment["MPLCONFIGDIR"] = str(cache / "matplotlib")
                labels = {"program": f"{prefix}{kind}", "placement": placement}
                ours = ("-m", "experiments.run", "--out", SCRATCH, *words)
                found.append(Program(labels, ours, folder, environment))
        for variant in options.variants:
            theirs = ("-m", "benchmarks.torch_program", "--variant", variant, *words)
            labels = {"program": f"pytorch {variant}", "placement": placement}
            found.append(Program(labels, (*theirs, "--epochs", str(Recipe().epochs))))
    return found


def values_of(program: Program, finished: Finished) -> dict[str, list[Any]]:
    """What one run adds to its row."""
    _, epochs = harness.read(finished)
    values = {"seconds": [finished.seconds], "first_line_seconds": [epochs[0]["at"]]}
    if "pytorch" not in program.labels["program"]:  # its seconds leave out the evaluation
        besides = finished.seconds - sum(row["seconds"] for row in epochs)
        values["besides_epochs_seconds"] = [besides]
    return values


def table(rows: Sequence[Row]) -> Table:
    """A row for each program and placement, as the module's docstring describes it."""
    numbers = ("whole", "besides epochs", "first line", "MiB", "pytorch / this")
    grid = harness.grid("Seconds of ten epochs", ("block", "program"), numbers)
    for row in rows:
        seconds, besides = row["seconds"], row.get("besides_epochs_seconds")
        theirs = [
            statistics.median(other["seconds"])
            for other in rows
            if other["placement"] == row["placement"] and "pytorch" in other["program"]
        ]
        memory = [value for value in row["peak_memory_mib"] if value is not None]
        grid.add_row(
            row["placement"],
            row["program"],
            spread(seconds, ".1f"),
            f"{statistics.median(besides):.1f}" if besides else "",
            f"{statistics.median(row['first_line_seconds']):.1f}",
            f"{max(memory):.0f}" if memory else "",
            f"{min(theirs) / statistics.median(seconds):.2f}" if besides and theirs else "",
        )
    return grid


if __name__ == "__main__":
    command.leave(main())
