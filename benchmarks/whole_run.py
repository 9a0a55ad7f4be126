"""How long does a whole run take, from the command to its exit?

    python -m benchmarks.whole_run

The data are prepared before. In turn, `--repeats` times for each placement:

    cold      `python -m experiments.run`: 10 epochs with evaluation, tables, pictures
    cached    the same with `--compile-cache`, filled by an earlier run
    pytorch   `benchmarks.torch_reference --variant ...`: 10 epochs with evaluation

The first training step cannot be seen from outside. It begins before the line of epoch 1, by at
least what a later epoch takes; so the time of that line less the seconds of epoch 2 is an upper
bound of it, which includes compiling the evaluation.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.epoch_time import VARIANTS
from mnist_jax.model import PLACEMENTS, Placement


@dataclass(frozen=True)
class Config:
    """Time whole runs."""

    placement: Placement | None = None
    """Where the residual block stands; else all three."""
    variant: Literal[*VARIANTS] = "eager"
    """Which PyTorch program; name the fastest that benchmarks.epoch_time found."""
    repeats: int = 3
    """Runs of each program."""
    json: Path | None = None
    """Where to write everything measured."""


class Run(NamedTuple):
    """One process."""

    seconds: float  # from start to exit
    first_step_seconds: float | None  # at most; None for PyTorch
    peak_memory_mib: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.width = max(console.width, 120)  # also in a file
    placements = PLACEMENTS if config.placement is None else (config.placement,)
    runs: dict[tuple[str, str], list[Run]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for placement in placements:
            for number in range(config.repeats + 1):
                for name, command in _commands(placement, config, Path(scratch)):
                    if number == 0 and name != "cached":
                        continue  # round 0 fills the cache
                    done = _time(command)
                    if number:
                        runs.setdefault((placement, name), []).append(done)
                        console.print(f"{number}/{config.repeats} {placement} {name}: {done}")
    console.print(_table(runs))
    if config.json:
        rows = [
            {"placement": placement, "program": name, "runs": [run._asdict() for run in done]}
            for (placement, name), done in runs.items()
        ]
        config.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def _commands(placement: str, config: Config, scratch: Path) -> list[tuple[str, list[str]]]:
    ours = [sys.executable, "-m", "experiments.run", "--placement", placement]
    ours += ["--out", str(scratch / "runs")]
    commands = [
        ("cold", ours),
        ("cached", [*ours, "--compile-cache", str(scratch / "cache")]),
    ]
    if find_spec("torch"):
        theirs = [sys.executable, "-m", "benchmarks.torch_reference", "--placement", placement]
        commands.append(("pytorch", [*theirs, "--variant", config.variant, "--epochs", "10"]))
    return commands


def _time(command: list[str]) -> Run:
    """Runs a program of ours or PyTorch's, reading its lines as they come."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    root = Path(__file__).parents[1]
    lines: dict[int, tuple[float, float]] = {}  # epoch: when its line came, its seconds
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=root, env=environment
    ) as process:
        for line in process.stdout:
            if line.startswith("Epoch "):
                seconds = float(line.rpartition("(")[2].split()[0])
                lines[len(lines) + 1] = time.perf_counter() - start, seconds
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    total = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"error: exit status {process.returncode} of {' '.join(command)}")
    ours = "experiments.run" in command
    first = lines[1][0] - lines[2][1] if ours else None
    return Run(total, first, usage.ru_maxrss / 1024)


def _table(runs: dict[tuple[str, str], list[Run]]) -> Table:
    grid = Table(title="Whole runs of 10 epochs, medians")
    for name in ("placement", "program", "seconds", "range", "pytorch / this", "first step", "MiB"):
        grid.add_column(name, no_wrap=True)
    for (placement, name), done in runs.items():
        seconds = [run.seconds for run in done]
        theirs = runs.get((placement, "pytorch"))
        ratio = "" if theirs is None or name == "pytorch" else _ratio(theirs, done)
        firsts = [run.first_step_seconds for run in done if run.first_step_seconds is not None]
        grid.add_row(
            placement,
            name,
            f"{statistics.median(seconds):.1f}",
            f"{min(seconds):.1f} to {max(seconds):.1f}",
            ratio,
            f"{statistics.median(firsts):.1f}" if firsts else "",
            f"{max(run.peak_memory_mib for run in done):.0f}",
        )
    return grid


def _ratio(theirs: list[Run], ours: list[Run]) -> str:
    median = [statistics.median(run.seconds for run in runs) for runs in (theirs, ours)]
    return f"{median[0] / median[1]:.2f}"


if __name__ == "__main__":
    sys.exit(main())
