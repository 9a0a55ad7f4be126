"""How many epochs and seconds of training does it take to reach the report's test accuracy?

    python -m benchmarks.time_to_accuracy --choose --seeds 5 --json choice.json
    python -m benchmarks.time_to_accuracy --peak-learning-rate 0.05 --json time_to_accuracy.json

The report trains ten epochs at a constant learning rate and ends at 98.71 % test accuracy with the
block before fc1, and at 98.79 % with the block after it. In this benchmark the learning rate
follows one cycle of cosines over the whole training (`groundwork.variants.one_cycle`), in JAX and
in PyTorch alike.

Method. A schedule depends on the number of epochs, so each number in `--epochs` is a training of
its own. With `--choose`, every combination of `--peak-learning-rates` and of both forms of momentum
is trained on 50,000 of the training images and evaluated on the other 10,000; the test images are
not looked at. Without it, one combination is trained on all 60,000 and evaluated once on the test
images. The accuracy counts as reached at the smallest number of epochs after which the mean over
the seeds is at least the report's. `--statistics` says what batch normalisation evaluates with: the
running statistics of training, or statistics that are recomputed from all training images after it.
The recomputation counts as training time.

Seconds are those of the training epochs, without compilation, evaluation and the loading of data.
The seeds run one after another, ten in a process, and the processes in a random order, drawn from
`--seed` and recorded. So the ten seeds that PyTorch trains by default share one process, and 100 of
ours are ten processes. The first seed of a process is timed without an epoch to warm up.

Conditions. As in `benchmarks.epoch_time`, the load average of the minute before each process, how
many CPUs others kept busy meanwhile, and the distance of the cores are recorded beside its times.

Output. The means of accuracy and seconds, with their 95 % intervals (Student's t over the seeds).
The interval of the seconds is too narrow where something slowed a whole process, because it takes
the seeds of one process for independent.
"""

if __name__ == "__main__":
    from experiments.groundwork import stopping

    stopping.end_at_once()

import importlib.util
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import scipy.stats
import tyro
from experiments.groundwork.options import (
    DataOptions,
    FailedError,
    OptionalPath,
    may_be_absent,
    refuse,
)
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import processes
from benchmarks.processes import ProcessError
from benchmarks.program import Statistics
from experiments.groundwork import files, options, published, settings, terminal

OURS = "mnist_jax"
HELD_OUT = 10_000
SEEDS_IN_A_PROCESS = 10
TARGETS = {  # test accuracy in percent after the report's last epoch
    placement: history[-1].test_accuracy_percent for placement, history in published.HISTORY.items()
}

Row = dict[str, Any]  # a training, with lists that have an item for each seed


@dataclass(frozen=True)
class Config:
    """Train until the report's test accuracy is reached, here and in PyTorch."""

    choose: bool = False
    """Find the best schedule on training images that are held out, instead of measuring one."""
    placement: Annotated[
        Literal["before_fc1", "after_fc1"] | None, may_be_absent(*settings.WITH_BLOCK)
    ] = None
    """Where the residual block stands; by default both places."""
    epochs: tuple[int, ...] = (1, 2, 3, 4)
    """Numbers of epochs to try, each at least 1."""
    peak_learning_rate: float = settings.PEAK_LEARNING_RATE
    """Highest learning rate of the cycle, above 0."""
    nesterov: bool = False
    """Use Nesterov's form of momentum."""
    peak_learning_rates: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)
    """With --choose: the highest learning rates to try, each above 0."""
    statistics: Statistics = "running"
    """Statistics that batch normalisation evaluates with: the running ones of training, or ones
    recomputed from all training images."""
    seeds: int = 100
    """Number of trainings of each kind, at least 2."""
    torch_seeds: int = 10
    """Number of trainings of each kind in PyTorch, at least 2."""
    variant: Literal["eager", "channels_last"] = "eager"
    """PyTorch program; name the one that benchmarks.epoch_time found fastest."""
    seed: int = 0
    """Seed of the random order of the processes."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    json: OptionalPath = None
    """File for everything measured, as JSON."""


class Training(NamedTuple):
    """A kind of training, which is repeated with many seeds."""

    program: str
    placement: str
    epochs: int
    peak_learning_rate: float
    nesterov: bool


class Process(NamedTuple):
    """Some seeds of a training, which run in one process."""

    training: Training
    seed: int  # the first one
    seeds: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""

    def body() -> int:
        config = options.parse(
            Config, arguments, name="benchmarks.time_to_accuracy", description=__doc__
        )
        check(config)
        console = terminal.console()
        theirs = f"pytorch {config.variant}"
        sizes = {OURS: config.seeds, theirs: config.torch_seeds}
        if config.choose:
            sizes.pop(theirs)
        elif importlib.util.find_spec("torch") is None:
            console.print("PyTorch is not installed (pip install -e '.[torch]'): mnist_jax alone")
            sizes.pop(theirs)
        chosen = ((config.peak_learning_rate, config.nesterov),)
        tried = [(rate, form) for rate in config.peak_learning_rates for form in (False, True)]
        trainings = [
            Training(program, placement, epochs, *schedule)
            for placement in ([config.placement] if config.placement else TARGETS)
            for epochs in sorted(set(config.epochs))
            for schedule in (tried if config.choose else chosen)
            for program in sizes
        ]
        parts = [part for each in trainings for part in divided(each, sizes[each.program])]
        order = [part for _, part in processes.in_random_order(parts, 1, config.seed)]
        common = processes.data_words(config.data.data_dir, config.data.mirror)
        common += ["--statistics", config.statistics]
        if config.choose:
            common += ["--held-out", str(HELD_OUT)]
        asked = {
            "chosen_on_held_out_images": config.choose,
            "statistics": config.statistics,
            "seed": config.seed,
            "order": order,
        }
        rows: list[Row] = []
        for conditions, measured in measure(order, common, console):
            rows = [measured[training] for training in trainings if training in measured]
            if config.json:  # after each process, as all of them take long
                content = {"conditions": conditions | asked, "rows": rows}
                files.write_whole(config.json, files.as_json(content))
        for table in choice_tables(rows) if config.choose else tables(rows):
            terminal.print_table(console, table)
        for line in () if config.choose else summary_lines(rows):
            console.print(line)
        return options.OK

    return options.run_command(body)


def check(config: Config) -> None:
    """Checks all options.

    Raises:
      UsageError: naming the option and what is allowed.
    """
    if not config.epochs or min(config.epochs) < 1:
        refuse("epochs", "at least 1, one number or more", config.epochs)
    for name, rates in (
        ("peak_learning_rate", [config.peak_learning_rate]),
        ("peak_learning_rates", config.peak_learning_rates),
    ):
        if not rates or not all(0 < rate < float("inf") for rate in rates):
            refuse(name, "above 0 and finite", " ".join(map(str, rates)))
    for name in ("seeds", "torch_seeds"):  # one training gives no interval
        if getattr(config, name) < 2:
            refuse(name, "at least 2", getattr(config, name))
    options.refuse_unless_writable(json=config.json)


def divided(training: Training, seeds: int) -> list[Process]:
    """Divides the seeds 0, 1, ... of a training into processes of ten."""
    return [
        Process(training, first, min(SEEDS_IN_A_PROCESS, seeds - first))
        for first in range(0, seeds, SEEDS_IN_A_PROCESS)
    ]


def measure(
    order: Sequence[Process], common: Sequence[str], console: Console
) -> Iterator[tuple[dict[str, Any], dict[Training, Row]]]:
    """Runs all processes.

    Args:
      order: the processes in the order in which they run.
      common: options of every program.
      console: prints a line for each process.

    Yields:
      After each process, the conditions that the numbers depend on, and a row for each training
      that was begun. Its lists have an item for each seed, in the order of the seeds.

    Raises:
      FailedError: a program failed.
    """
    conditions: dict[str, Any] = {}
    parts: dict[Training, dict[int, dict[str, list[float | None]]]] = {}
    for number, process in enumerate(order, 1):
        training = process.training
        try:
            result, finished = processes.run_for_json([*command(process), *common])
        except ProcessError as error:
            raise FailedError(f"{training.program}, {training.placement}: {error}") from error
        versions = conditions.get("versions", {}) | result["conditions"]["versions"]
        conditions = result["conditions"] | {"versions": versions}
        values = values_of(result["runs"])
        others = {
            name: [value] * process.seeds for name, value in finished.conditions._asdict().items()
        }
        parts.setdefault(training, {})[process.seed] = {**values, **others}
        console.print(
            f"{number}/{len(order)} {training.placement} {training.program}, {training.epochs} "
            f"epochs, peak {training.peak_learning_rate}: "
            f"{statistics.mean(values['accuracy_percent']):.2f} %"
        )
        yield conditions, {each: _row(each, found) for each, found in parts.items()}


def _row(training: Training, parts: Mapping[int, Mapping[str, list[float | None]]]) -> Row:
    """Joins what the processes of a training measured, by the first seed of each."""
    of_seeds = [parts[seed] for seed in sorted(parts)]
    lists = {name: [x for part in of_seeds for x in part[name]] for name in of_seeds[0]}
    return training._asdict() | lists


def command(process: Process) -> list[str]:
    """The command line of a process."""
    training = process.training
    words = ["-m", "benchmarks.jax_program"]
    if training.program != OURS:
        variant = training.program.removeprefix("pytorch ")
        words = ["-m", "benchmarks.torch_program", "--variant", variant]
    words += ["--placement", training.placement, "--epochs", str(training.epochs)]
    words += ["--schedule", "one_cycle"]
    words += ["--peak-learning-rate", str(training.peak_learning_rate)]
    words += ["--seed", str(process.seed), "--seeds", str(process.seeds)]
    return [*words, *(["--nesterov"] if training.nesterov else [])]


def values_of(runs: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The accuracy after the last epoch and the seconds of training of each seed."""
    lasts = [run["epochs"][-1] for run in runs]
    training = [sum(row["seconds"] for row in run["epochs"]) for run in runs]
    # One recomputation of the statistics counts, that after the last epoch.
    recalibration = [last["recalibration_seconds"] for last in lasts]
    return {
        "accuracy_percent": [last["test_accuracy_percent"] for last in lasts],
        "seconds": [sum(pair) for pair in zip(training, recalibration, strict=True)],
    }


def mean_and_margin(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % interval by Student's t."""
    n = len(values)
    error = statistics.stdev(values) / n**0.5
    return statistics.mean(values), float(scipy.stats.t.ppf(0.975, n - 1)) * error


def tables(rows: Sequence[Row]) -> Iterator[Table]:
    """A table for each placement, with a row for each program and number of epochs."""
    for placement in dict.fromkeys(row["placement"] for row in rows):
        target = TARGETS[placement]
        title = f"Block {placement}: the report has {target:.2f} % after {settings.EPOCHS} epochs"
        grid = Table(title=title, box=box.SIMPLE_HEAD)
        grid.add_column("program")
        for name in ("epochs", "n", "test accuracy, %", "reached", "seconds"):
            grid.add_column(name, justify="right")
        for row in (row for row in rows if row["placement"] == placement):
            grid.add_row(
                row["program"],
                str(row["epochs"]),
                str(len(row["accuracy_percent"])),
                _cell(row["accuracy_percent"]),
                "yes" if reached(row) else "no",
                _cell(row["seconds"]),
            )
        yield grid


def choice_tables(rows: Sequence[Row]) -> Iterator[Table]:
    """A table for each placement and number of epochs, the best schedule first."""
    for placement, epochs in dict.fromkeys((row["placement"], row["epochs"]) for row in rows):
        grid = Table(
            title=f"Block {placement}, {epochs} epochs, {HELD_OUT:,} images held out",
            box=box.SIMPLE_HEAD,
        )
        for name in ("peak learning rate", "Nesterov", "n", "accuracy, %"):
            grid.add_column(name, justify="right")
        same = [row for row in rows if (row["placement"], row["epochs"]) == (placement, epochs)]
        for row in sorted(same, key=_mean_accuracy, reverse=True):
            grid.add_row(
                str(row["peak_learning_rate"]),
                "yes" if row["nesterov"] else "no",
                str(len(row["accuracy_percent"])),
                _cell(row["accuracy_percent"]),
            )
        yield grid


def summary_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Lines that say when each program reaches the report's accuracy."""
    for placement, program in dict.fromkeys((row["placement"], row["program"]) for row in rows):
        same = [row for row in rows if (row["placement"], row["program"]) == (placement, program)]
        first = min(filter(reached, same), key=lambda row: row["epochs"], default=None)
        start = f"{placement}, {program}: {TARGETS[placement]:.2f} % is"
        if first is None:
            yield f"{start} not reached in {max(row['epochs'] for row in same)} epochs"
        else:
            yield (
                f"{start} reached after {first['epochs']} epochs, in {_cell(first['seconds'])} "
                f"seconds (n = {len(first['seconds'])})"
            )


def reached(row: Row) -> bool:
    """Whether the mean accuracy is at least the report's."""
    return _mean_accuracy(row) >= TARGETS[row["placement"]]


def _mean_accuracy(row: Row) -> float:
    return statistics.mean(row["accuracy_percent"])


def _cell(values: Sequence[float]) -> str:
    mean, margin = mean_and_margin(values)
    return f"{mean:.2f} ± {margin:.2f}"


if __name__ == "__main__":
    options.leave(main())
