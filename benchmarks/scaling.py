"""How does the time of an epoch change with batch size, threads and number of images?

    python -m benchmarks.scaling --placement after_fc1

Method. Every measurement is a fresh process of `benchmarks.jax_program`. In each of `--repeats`
rounds every setting runs once, and each round has a random order of its own, drawn from `--seed`
and recorded. A process trains one epoch to warm up and then `--epochs` more; its time is the median
of those. A cell of the tables has the median over the processes, and the images trained on in a
second.

Conditions. As in `benchmarks.epoch_time`, the load average of the minute before each process, how
many CPUs others kept busy meanwhile, and the distance of the cores are recorded beside its time.
The number of threads is the number of cores that the process is kept to. If that is impossible, or
JAX computes on another device than the CPU, there is one column.
"""

if __name__ == "__main__":
    from experiments.groundwork import stopping

    stopping.end_at_once()

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import tyro
from rich import box
from rich.table import Table

from benchmarks import processes
from benchmarks.processes import ProcessError
from experiments.groundwork import cores, files, options, terminal
from experiments.groundwork.options import (
    DataOptions,
    FailedError,
    OptionalPath,
    refuse_unless_positive,
)
from mnist_jax.data import TRAIN_SIZE
from mnist_jax.model import Placement

BATCH_SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
EXAMPLES = (3_750, 7_500, 15_000, 30_000, TRAIN_SIZE)


@dataclass(frozen=True)
class Config:
    """Time an epoch over batch sizes, threads and numbers of images."""

    placement: Placement = "after_fc1"
    """Where the residual block stands."""
    repeats: int = 3
    """Number of processes of each setting, at least 1."""
    epochs: int = 3
    """Number of epochs timed in a process, after the one that warms up, at least 1."""
    seed: int = 0
    """Seed of the random order of the processes."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    json: OptionalPath = None
    """File for everything measured, as JSON."""


class Setting(NamedTuple):
    """What one cell of the tables measures."""

    batch_size: int
    examples: int
    threads: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""

    def body() -> int:
        config = options.parse(Config, arguments, name="benchmarks.scaling", description=__doc__)
        check(config)
        console = terminal.console()
        choice = cores.can_choose() and processes.platform() == "cpu"
        counts = sorted({1, cores.count()}) if choice else [cores.count()]
        order = processes.in_random_order(settings(counts), config.repeats, config.seed)
        common = processes.data_words(config.data.data_dir, config.data.mirror)
        common += ["--placement", config.placement, "--epochs", str(1 + config.epochs)]
        rows: dict[Setting, dict[str, Any]] = {}
        conditions: dict[str, Any] = {}
        for number, setting in order:
            conditions, values = measure(setting, common)
            row = rows.setdefault(setting, {**setting._asdict(), **{name: [] for name in values}})
            for name, value in values.items():
                row[name].append(value)
            console.print(f"{number}/{config.repeats} {setting}: {row['epoch_seconds'][-1]:.2f} s")
            if config.json:  # after each process, as all of them take long
                asked = {"placement": config.placement, "order": [s for _, s in order]}
                content = {"conditions": conditions | asked, "rows": list(rows.values())}
                files.write_whole(config.json, files.as_json(content))
        console.print(
            f"block {config.placement}; {conditions['cpu']}, devices "
            f"{', '.join(conditions['devices'])}, jaxlib {conditions['packages']['jaxlib']}; "
            f"{config.repeats} processes a cell"
        )
        for grid in tables({setting: row["epoch_seconds"] for setting, row in rows.items()}):
            terminal.print_table(console, grid)
        return options.OK

    return options.run_command(body)


def check(config: Config) -> None:
    """Checks all options.

    Raises:
      UsageError: naming the option and what is allowed.
    """
    refuse_unless_positive(repeats=config.repeats, epochs=config.epochs)
    options.refuse_unless_writable(json=config.json)


def settings(counts: Sequence[int]) -> list[Setting]:
    """Every batch size on all images, and every number of images in batches of 64.

    Args:
      counts: numbers of threads.
    """
    by_batch = [Setting(size, EXAMPLES[-1], n) for size in BATCH_SIZES for n in counts]
    by_examples = [Setting(64, size, n) for size in EXAMPLES[:-1] for n in counts]
    return by_batch + by_examples


def measure(
    setting: Setting, common: Sequence[str]
) -> tuple[dict[str, Any], dict[str, float | None]]:
    """The conditions of one process, and its values.

    Raises:
      FailedError: the process failed.
    """
    words = (f"--{name.replace('_', '-')}={value}" for name, value in setting._asdict().items())
    try:
        command = ("-m", "benchmarks.jax_program", *common, *words)
        result, finished = processes.run_for_json(command)
    except ProcessError as error:
        raise FailedError(f"{setting}: {error}") from error
    _, *epochs = result["runs"][0]["epochs"]
    seconds = statistics.median(row["seconds"] for row in epochs)
    return result["conditions"], {"epoch_seconds": seconds, **finished.conditions._asdict()}


def tables(seconds: Mapping[Setting, Sequence[float]]) -> Iterator[Table]:
    """Tables of time against batch size and number of examples, with a column for each count."""
    counts = sorted({setting.threads for setting in seconds})
    for title, axis, fixed in (
        (f"{EXAMPLES[-1]:,} images", "batch_size", {"examples": EXAMPLES[-1]}),
        ("batches of 64", "examples", {"batch_size": 64}),
    ):
        grid = Table(title=f"An epoch of {title}: seconds (images a second)", box=box.SIMPLE_HEAD)
        for name in (axis.replace("_", " "), *(f"{n} threads" for n in counts)):
            grid.add_column(name, justify="right", no_wrap=True)
        values = {
            getattr(s, axis) for s in seconds if all(getattr(s, k) == v for k, v in fixed.items())
        }
        for value in sorted(values):
            cells = []
            for count in counts:
                setting = Setting(**({axis: value, "threads": count} | fixed))
                median = statistics.median(seconds[setting])
                cells.append(f"{median:.3f} ({setting.examples / median:,.0f})")
            grid.add_row(f"{value:,}", *cells)
        yield grid


if __name__ == "__main__":
    options.leave(main())
