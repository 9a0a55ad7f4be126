"""How long does an epoch of training take here, and how long in stock Flax and in PyTorch?

    python -m benchmarks.epoch_time --json epoch_time.json
    python -m benchmarks.epoch_time --programs ours --checkout ../earlier

Method. `benchmarks.harness` runs `--repeats` processes of each program, placement and number of
threads in random order. A process trains one epoch to warm up and then `--epochs` more; its time is
the median of those. Evaluation and compilation are timed apart. The programs are

    ours            mnist_jax: benchmarks/jax_program.py
    flax            stock flax: benchmarks/flax_program.py
    eager           pytorch eager: benchmarks/torch_program.py, images normalised once, in memory
    channels_last   pytorch channels_last: the same with images and kernels stored channels last
    dataloader      pytorch dataloader: as the report's author would write it
    compile         pytorch compile: like eager, with torch.compile; it is slower here (NOTES.md)

With `--checkout` the program `ours` of another checkout of this project is timed beside them.

Output. A table for each placement has the median over the processes and their range, and the same
of the ratio to mnist_jax; its range is that of the pairs of one round. Below it stands the ratio to
the arithmetic's limit: the operations that training needs, two for each multiply-add, divided by
the speed at which the same process multiplies matrices of 1024 x 1024.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.table import Table

from benchmarks import harness
from benchmarks.harness import Finished, Program, Row, ratio, spread
from experiments.groundwork import command, machine, terminal
from experiments.groundwork import recipe as recipes
from experiments.groundwork.command import DataOptions, refuse
from experiments.groundwork.recipe import Recipe
from mnist_jax import data
from mnist_jax.model import PLACEMENTS, Placement
from mnist_jax.summary import summary

Word = Literal["ours", "flax", "eager", "channels_last", "dataloader", "compile"]
PROGRAMS: dict[Word, tuple[str, tuple[str, ...]]] = {  # the name in the results, and the command
    "ours": ("mnist_jax", ("-m", "benchmarks.jax_program")),
    "flax": ("stock flax", ("-m", "benchmarks.flax_program")),
    **{
        variant: (f"pytorch {variant}", ("-m", "benchmarks.torch_program", "--variant", variant))
        for variant in ("eager", "channels_last", "dataloader", "compile")
    },
}
OURS = PROGRAMS["ours"][0]


@dataclass(frozen=True)
class Options:
    """Time an epoch of training here, in stock Flax and in PyTorch."""

    placements: tuple[Placement, ...] = PLACEMENTS
    """Where the residual block stands."""
    programs: tuple[Word, ...] = ("ours", "flax", "eager", "channels_last", "dataloader")
    """Programs to time; the module's docstring explains them."""
    checkout: Path | None = None
    """Another checkout of this project, whose program is timed too."""
    threads: tuple[int, ...] = ()
    """Numbers of threads to time, each at least 1; by default one for each core."""
    repeats: int = 10
    """Number of processes of each program, at least 1."""
    epochs: int = 3
    """Number of epochs timed in a process, after the one that warms up, at least 1."""
    seed: int = 0
    """Seed of the random order of the processes."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    json: Path | None = None
    """File for everything measured, as JSON."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return command.main(Options, run, arguments, name="benchmarks.epoch_time", description=__doc__)


def run(options: Options) -> None:
    """Times all programs and prints the tables.

    Raises:
      UsageError: an option has a value that it cannot have.
      FailedError: a program failed.
    """
    for name in ("repeats", "epochs"):
        if getattr(options, name) < 1:
            refuse(name, "at least 1", getattr(options, name))
    command.refuse_unless_writable(json=options.json)
    found = programs(options)
    rows = harness.measure(
        found, values_of, rounds=options.repeats, seed=options.seed, path=options.json
    )
    console = terminal.console()
    for placement in options.placements:
        of_placement = [row for row in rows if row["placement"] == placement]
        terminal.print_table(console, table(placement, of_placement))
        for line in limit_lines(of_placement):
            console.print(line)


def programs(options: Options) -> list[Program]:
    """All programs, placements and numbers of threads."""
    kinds = [(*PROGRAMS[word], harness.ROOT) for word in options.programs]
    if options.checkout is not None:
        folder = options.checkout.resolve()
        kinds.append((f"{OURS} of {folder.name}", PROGRAMS["ours"][1], folder))
    common = ("--epochs", str(1 + options.epochs), *harness.data_words(options.data))
    return [
        Program(
            {"program": name, "placement": placement, "threads": threads},
            (*words, "--placement", placement, "--threads", str(threads), *common),
            folder,
        )
        for placement in options.placements
        for name, words, folder in kinds
        for threads in options.threads or (machine.cores(),)
    ]


def values_of(_: Program, finished: Finished) -> dict[str, list[Any]]:
    """What a process adds to its row."""
    facts, (first, *others) = harness.read(finished)
    seconds = statistics.median(row["seconds"] for row in others)
    cpus = [row["cpu_seconds"] / row["seconds"] for row in others if "cpu_seconds" in row]
    return {
        "epoch_seconds": [seconds],
        "warm_up_seconds": [first["seconds"] - seconds],
        "compile_seconds": [facts.get("compile_seconds")],
        "cpus": [statistics.median(cpus) if cpus else None],
        "matrix_product_gflops": [facts.get("matrix_product_gflops")],
    }


def table(placement: Placement, rows: Sequence[Row]) -> Table:
    """A row for each program and number of threads."""
    numbers = ("threads", "seconds", f"ratio to {OURS}", "CPUs", "MiB")
    grid = harness.grid(f"Seconds of an epoch, block {placement}", ("program",), numbers)
    ours = min((row for row in rows if row["program"] == OURS), key=_median, default=None)
    for row in rows:
        seconds = row["epoch_seconds"]
        grid.add_row(
            row["program"],
            str(row["threads"]),
            spread(seconds),
            ratio(seconds, ours["epoch_seconds"]) if ours else "",
            _cell(row["cpus"], ".2f"),
            _cell(row["peak_memory_mib"], ".0f"),
        )
    return grid


def limit_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Lines that compare our programs with the arithmetic's limit."""
    for row in rows:
        speeds = [speed for speed in row["matrix_product_gflops"] if speed]
        if speeds:
            operations = 2 * data.TRAIN_SIZE * training_multiply_adds(row["placement"])
            limit = operations / statistics.median(speeds) / 1e9
            yield (
                f"{row['program']} on {row['threads']} threads takes {_median(row) / limit:.2f} "
                f"times the arithmetic's limit of {limit:.2f} s"
            )


def training_multiply_adds(placement: Placement) -> int:
    """The multiply-adds of a training step for one image.

    They are those of each layer, of its gradient by its weights and, except for conv1, of its
    gradient by its input. In an image of one pixel eight of the nine weights of a 3x3 kernel meet
    only padding and are not counted.
    """
    total = 0
    for layer in summary(recipes.network(Recipe(placement=placement))):
        products = layer.multiply_adds
        if layer.name.startswith("resnet_block/conv") and layer.shape[1:] == (1, 1):
            products //= 9
        total += products * (2 if layer.name == "conv1" else 3)
    return total


def _median(row: Row) -> float:
    return statistics.median(row["epoch_seconds"])


def _cell(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return format(statistics.median(known), form) if known else ""


if __name__ == "__main__":
    command.leave(main())
