"""Times programs: fresh processes, in random order, by one clock, into one form of JSON.

Every program runs once in each round, and each round has an order of its own. So a disturbance of
the machine meets all programs alike, and two times of one round are a pair. Beside each time stands
the load average of the minute before its process. What the operating system does not tell is None.
"""

import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rich import box
from rich.table import Table

from experiments.groundwork import machine, terminal
from experiments.groundwork.command import DataOptions, FailedError
from mnist_jax import store

ROOT = Path(__file__).parents[1]
SCRATCH = "{scratch}"  # stands for a directory that a process has for itself
EPOCH = re.compile(r"Epoch (\d+), .*\((\d+\.\d+) s\)")  # a line in the report's form

Row = dict[str, Any]  # the labels of a program, and lists with an item for each process or seed
P = TypeVar("P")


class Program(NamedTuple):
    """What is timed; programs with the same labels share a row of the results."""

    labels: Mapping[str, Any]  # such as program, placement and number of threads
    words: tuple[str, ...]  # of the command line, after `python`
    folder: Path = ROOT  # the checkout in which it runs
    environment: Mapping[str, str] = {}  # besides this process's own

    @property
    def name(self) -> str:
        """All labels in a line."""
        return " ".join(str(label) for label in self.labels.values() if label is not None)


class Finished(NamedTuple):
    """A process that ended with exit status 0."""

    lines: list[tuple[float, str]]  # its standard output, with the seconds since its start
    seconds: float  # from its start to its end
    peak_memory_mib: float | None
    load_average: float | None  # of the minute before it started


def in_random_order(programs: Sequence[P], rounds: int, seed: int) -> list[P]:
    """Every program once in each round, and each round in an order of its own."""
    draw = random.Random(seed)
    return [each for _ in range(rounds) for each in draw.sample(programs, len(programs))]


def run(program: Program) -> Finished:
    """Runs a program in a fresh process, which finds no compiled programs of an earlier one.

    Raises:
      FailedError: its exit status is not 0.
    """
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, *(word.replace(SCRATCH, scratch) for word in program.words)]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        environment |= {k: v.replace(SCRATCH, scratch) for k, v in program.environment.items()}
        load, start = load_average(), time.perf_counter()
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=program.folder,
            env=environment,
        ) as process:
            try:
                assert process.stdout is not None
                lines = [(time.perf_counter() - start, x.rstrip("\n")) for x in process.stdout]
                usage = _wait(process)
            except BaseException:  # an interrupt: the program ends with this one
                process.kill()
                raise
        seconds = time.perf_counter() - start
        if process.returncode:
            errors.seek(0)
            said = errors.read().strip().splitlines() or [f"exit status {process.returncode}"]
            raise FailedError(f"{program.name}: {said[-1]}")
    # In bytes on macOS, in KiB elsewhere.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return Finished(lines, seconds, usage and usage.ru_maxrss / unit, load)


def read(finished: Finished) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Reads what a program printed: JSON lines, or epochs in the report's form.

    Returns:
      All values of the lines that are about no epoch; and a row for each epoch with at least its
      number `epoch`, its `seconds`, and `at`, the seconds from the process's start to its line.
    """
    facts, epochs = {}, []
    for at, line in finished.lines:
        if match := EPOCH.fullmatch(line):
            row = {"epoch": int(match[1]), "seconds": float(match[2])}
        elif line.startswith("{"):
            row = json.loads(line)
        else:
            continue
        if "epoch" in row:
            epochs.append(row | {"at": at})
        else:
            facts |= row
    return facts, epochs


def measure(
    programs: Sequence[Program],
    values: Callable[[Program, Finished], Mapping[str, Sequence[Any]]],
    *,
    rounds: int,
    seed: int,
    path: Path | None,
) -> list[Row]:
    """Runs every program once in each round and prints a line after each process.

    Args:
      programs: what is timed.
      values: what a process adds to the lists of its row, the most important one first.
      rounds: how often each program runs.
      seed: decides the order in each round.
      path: a file for the conditions and the rows as JSON, which is written after each process, so
        that a failure or an interrupt leaves what was measured.

    Returns:
      A row for each different labels, in the order of `programs`.

    Raises:
      FailedError: a program failed.
    """
    console = terminal.console()
    order = in_random_order(programs, rounds, seed)
    rows: dict[str, Row] = {program.name: dict(program.labels) for program in programs}
    conditions: dict[str, Any] = {"repeats": rounds, "seed": seed}
    conditions["order"] = [program.name for program in order]
    for number, program in enumerate(order, 1):
        finished = run(program)
        found = {
            **values(program, finished),
            "peak_memory_mib": [finished.peak_memory_mib],
            "load_average": [finished.load_average],
        }
        for name, more in found.items():
            rows[program.name].setdefault(name, []).extend(more)
        name, more = next(iter(found.items()))
        console.print(f"{number}/{len(order)} {program.name}: {name} {more[-1]:.2f}")
        if path:
            measured = [row for row in rows.values() if name in row]
            store.write_json(path, {"conditions": conditions, "rows": measured})
    # The manifest asks JAX for its devices, which could take a GPU's memory from the programs.
    conditions |= machine.manifest({})
    conditions["packages"] |= {d.name: d.version for d in metadata.distributions(name="torch")}
    if path:
        store.write_json(path, {"conditions": conditions, "rows": list(rows.values())})
    console.print(conditions_line(conditions, list(rows.values())))
    return list(rows.values())


def conditions_line(conditions: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """A line about the conditions that the numbers depend on."""
    loads = [load for row in rows for load in row["load_average"] if load is not None]
    return (
        f"{conditions['cpu']}, {conditions['threads']} cores, {', '.join(conditions['devices'])}; "
        f"Python {conditions['python']}, jaxlib {conditions['packages']['jaxlib']}; "
        f"{conditions['repeats']} rounds" + (f", load average {spread(loads)}" if loads else "")
    )


def grid(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    """An empty table with columns of words on the left and of numbers on the right."""
    table = Table(*left, title=title, box=box.SIMPLE_HEAD)
    for name in right:
        table.add_column(name, justify="right")
    return table


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median, and in brackets the range."""
    low, middle, high = (format(f(values), form) for f in (min, statistics.median, max))
    return f"{middle} ({low} to {high})"


def ratio(values: Sequence[float], others: Sequence[float]) -> str:
    """The ratio of two medians, and in brackets the range of the ratios of one round."""
    pairs = [value / other for value, other in zip(values, others, strict=True)]
    middle = statistics.median(values) / statistics.median(others)
    return f"{middle:.2f} ({min(pairs):.2f} to {max(pairs):.2f})"


def data_words(data: DataOptions) -> tuple[str, ...]:
    """The options with which a program finds the same data from another directory."""
    given = {"--data-dir": data.data_dir, "--mirror": data.mirror}
    return tuple(
        word for name, path in given.items() if path for word in (name, str(path.resolve()))
    )


def load_average() -> float | None:
    """How many processes ran or waited to run, on average over the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _wait(process: subprocess.Popen[str]) -> Any:
    """Waits for a process; returns its `struct_rusage`, or None where there is none."""
    if not hasattr(os, "wait4"):
        process.wait()
        return None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage
