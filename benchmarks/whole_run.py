"""How long does a whole run take, from the command to its exit?

    python -m benchmarks.whole_run --json whole_run.json

Method. The data are prepared before the first timed run. Every run is a fresh process of ten
epochs, and there are `--repeats` of each program. In each round every program runs once for every
placement, and each round has a random order of its own, drawn from `--seed` and recorded. The
programs are

    cold       `python -m experiments.run` with an empty directory for compiled programs: all ten
               epochs with evaluation, checkpoints, tables and pictures
    cached     the same with a directory that an earlier run has filled
    pytorch    `python -m benchmarks.torch_program --variant ...`: ten epochs with evaluation; name
               the variants that `benchmarks.epoch_time` found fastest

The process of PyTorch also imports our own packages, JAX among them, for options and settings. The
time of these imports alone is measured in each round, and its median is subtracted from PyTorch's
whole times in the table.

Conditions. As in `benchmarks.epoch_time`, the load average of the minute before each process, how
many CPUs others kept busy meanwhile, and the distance of the cores are recorded beside its time.

Output. The table has the median and the range of the seconds from start to exit, the medians of the
seconds that the ten epochs do not account for and of those until the line of the first epoch, and
the largest memory.

Where the time besides the epochs goes. The aim was 4 s without compiled programs and 2 s with them,
and it is not reached (`benchmarks/README.md`). Most of the time passes before the first epoch. JAX
and our own modules are imported, which takes the 0.6 to 0.7 s that are measured here for PyTorch's
sake; JAX starts, and the data are read; and three programs are traced by Python and then compiled,
or loaded from the cache. The first epoch takes longer than the next, because the programs of the
end are traced beside it. At the end the last evaluations and the pictures are computed, side by
side. Only Python can import and trace, so another core does not shorten that. Tracing takes as long
if each kernel is traced only once (`jax.jit` with `inline=True`), and if the kernels are chosen for
the platform before tracing.

One thing would help, and was not done. Programs that `jax.experimental.serialize_executable` has
written are read again without tracing. On an Intel Xeon, where importing takes 1.2 to 1.5 s, the
three programs of the start took 0.3 to 0.4 s in this way; traced, and then loaded from JAX's cache,
they took 2.1 to 2.5 s. But our own code would have to find out whether such a file still fits: it
would have to list every version, option and line of source that the trace depends on, and where the
list lacked one, a run would silently train with an old program. JAX's cache is looked up by the
traced program itself and cannot be wrong in this way. Also, XLA:CPU writes useless files
(`Function ... not found`) of programs that were loaded from JAX's cache, so both could not be used
together.
"""

if __name__ == "__main__":
    from experiments.groundwork import stopping

    stopping.end_at_once()

import importlib.util
import re
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import processes
from benchmarks.processes import Finished, ProcessError
from benchmarks.torch_program import Variant
from experiments.groundwork import files, options, settings, terminal
from experiments.groundwork.manifest import manifest
from experiments.groundwork.options import (
    DataOptions,
    FailedError,
    OptionalPath,
    may_be_absent,
    refuse_unless_positive,
)
from mnist_jax.model import PLACEMENTS, Placement

COLD, CACHED, IMPORTS = "cold", "cached", "imports"
EPOCH = re.compile(r"Epoch \d+, .*\((\d+\.\d+) s\)")
# Numpy is imported before the clock starts, because PyTorch's program needs it in any case.
TIME_IMPORTS = """
import numpy, time
start = time.perf_counter()
import benchmarks.torch_program
print(time.perf_counter() - start)
"""

Row = dict[str, Any]  # one program and placement, with a list over the rounds for each value


@dataclass(frozen=True)
class Config:
    """Time whole runs here and in PyTorch."""

    placement: Annotated[Placement | None, may_be_absent(*PLACEMENTS)] = None
    """Where the residual block stands; by default all three in turn."""
    variants: tuple[Variant, ...] = ("eager", "channels_last")
    """Variants of the PyTorch program; without any, mnist_jax alone is timed."""
    repeats: int = 5
    """Number of runs of each program, at least 1."""
    seed: int = 0
    """Seed of the random order of the runs."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    json: OptionalPath = None
    """File for everything measured, as JSON."""


class Program(NamedTuple):
    """What is timed: a command, and its name in the table."""

    name: str
    placement: Placement | None  # None for the imports, which do not depend on it
    command: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""

    def body() -> int:
        config = options.parse(Config, arguments, name="benchmarks.whole_run", description=__doc__)
        check(config)
        console = terminal.console()
        placements = PLACEMENTS if config.placement is None else (config.placement,)
        common = processes.data_words(config.data.data_dir, config.data.mirror)
        variants = config.variants
        if importlib.util.find_spec("torch") is None:
            console.print("PyTorch is not installed (pip install -e '.[torch]'): mnist_jax alone")
            variants = ()
        found = programs(placements, variants, common)
        order = processes.in_random_order(found, config.repeats, config.seed)
        asked = {"repeats": config.repeats, "seed": config.seed}
        asked |= {"order": [f"{program.name} {program.placement}" for _, program in order]}
        rows: list[Row] = []
        with tempfile.TemporaryDirectory() as scratch:
            for measured in measure(order, Path(scratch), console):
                # As they were listed, not as they ran.
                rows = [measured[program] for program in found if program in measured]
                if config.json:  # after each run, as all of them take long
                    files.write_whole(
                        config.json, files.as_json({"conditions": asked, "rows": rows})
                    )
        terminal.print_table(console, table(rows))
        if config.json:
            # The manifest asks JAX for its devices, which could take a GPU's memory from the runs.
            content = {"conditions": asked | manifest({}), "rows": rows}
            files.write_whole(config.json, files.as_json(content))
        return options.OK

    return options.run_command(body)


def check(config: Config) -> None:
    """Checks all options.

    Raises:
      UsageError: naming the option and what is allowed.
    """
    refuse_unless_positive(repeats=config.repeats)
    options.refuse_unless_writable(json=config.json)


def programs(
    placements: Sequence[Placement], variants: Sequence[Variant], common: Sequence[str]
) -> list[Program]:
    """All programs; `common` are the options that each of them gets."""
    found = []
    for placement in placements:
        words = ("--placement", placement, *common)
        ours = ("-m", "experiments.run", *words)
        found += [Program(name, placement, ours) for name in (COLD, CACHED)]
        for variant in variants:
            theirs = ("-m", "benchmarks.torch_program", "--variant", variant, *words)
            theirs = (*theirs, "--epochs", str(settings.EPOCHS))
            found.append(Program(f"pytorch {variant}", placement, theirs))
    if variants:
        found.append(Program(IMPORTS, None, ("-c", TIME_IMPORTS)))
    return found


def measure(
    order: Sequence[tuple[int, Program]], scratch: Path, console: Console
) -> Iterator[dict[Program, Row]]:
    """Runs every program as often as it stands in the order.

    Args:
      order: pairs of a round's number and a program.
      scratch: a directory for runs and compiled programs.
      console: prints a line for each run.

    Yields:
      After each run, a row for each program that ran, with an item for each of its runs.

    Raises:
      FailedError: a program failed.
    """
    cache = scratch / "cache"
    for program in dict.fromkeys(program for _, program in order if program.name == CACHED):
        console.print(f"the cache is filled for {program.placement}")
        _run(program, scratch, cache, "--epochs", "1")
    rows: dict[Program, Row] = {}
    for number, program in order:
        name = f"cold-{number}-{program.placement}"
        finished = _run(program, scratch, cache if program.name == CACHED else scratch / name)
        row = rows.setdefault(program, {"program": program.name, "placement": program.placement})
        for key, value in values_of(program, finished).items():
            row.setdefault(key, []).append(value)
        what = " ".join(filter(None, (program.placement, program.name)))
        console.print(f"{number} {what}: {row['seconds'][-1]:.1f} s")
        yield rows


def _run(program: Program, scratch: Path, cache: Path, *words: str) -> Finished:
    command = program.command
    if program.name in (COLD, CACHED):
        command = (*command, "--out", str(scratch / "runs"), "--compile-cache", str(cache), *words)
    try:
        return processes.run(command)
    except ProcessError as error:
        raise FailedError(f"{program.name} {program.placement}: {error}") from error


def values_of(program: Program, finished: Finished) -> dict[str, float | None]:
    """What one run adds to a row."""
    if program.name == IMPORTS:
        return {"seconds": float(finished.lines[-1][1])}
    epochs = [
        (at, float(match[1]))
        for at, line in finished.lines
        if (match := EPOCH.fullmatch(line)) is not None
    ]
    besides = finished.seconds - sum(seconds for _, seconds in epochs)
    return {
        "seconds": finished.seconds,
        # None for PyTorch, whose lines say the seconds of an epoch without its evaluation.
        "besides_epochs_seconds": besides if program.name in (COLD, CACHED) else None,
        "first_line_seconds": epochs[0][0],
        "peak_memory_mib": finished.peak_memory_mib,
        **finished.conditions._asdict(),
    }


def table(rows: Sequence[Row]) -> Table:
    """A row for each program and placement, as the module's docstring describes it."""
    imports = [row for row in rows if row["program"] == IMPORTS]
    grid = Table(title=f"Runs of {settings.EPOCHS} epochs, seconds", box=box.SIMPLE_HEAD)
    grid.add_column("block")
    grid.add_column("program")
    headings = ("whole", "range", "besides epochs", "first line", "MiB", "pytorch / this")
    for name in headings:
        grid.add_column(name, justify="right")
    without = {
        (row["placement"], row["program"]): [
            seconds
            - (statistics.median(imports[0]["seconds"]) if "pytorch" in row["program"] else 0)
            for seconds in row["seconds"]
        ]
        for row in rows
        if row["program"] != IMPORTS
    }
    for row in rows:
        if row["program"] == IMPORTS:
            continue
        whole = without[row["placement"], row["program"]]
        theirs = [
            statistics.median(seconds)
            for (placement, name), seconds in without.items()
            if placement == row["placement"] and "pytorch" in name
        ]
        ours = row["program"] in (COLD, CACHED)
        memory = [value for value in row["peak_memory_mib"] if value is not None]
        grid.add_row(
            row["placement"],
            row["program"],
            f"{statistics.median(whole):.1f}",
            f"{min(whole):.1f} to {max(whole):.1f}",
            f"{statistics.median(row['besides_epochs_seconds']):.1f}" if ours else "",
            f"{statistics.median(row['first_line_seconds']):.1f}",
            f"{max(memory):.0f}" if memory else "",
            f"{min(theirs) / statistics.median(whole):.2f}" if ours and theirs else "",
        )
    return grid


if __name__ == "__main__":
    options.leave(main())
