"""How long is a training epoch here, and how long in PyTorch on the same cores?

    python -m benchmarks.epoch_time --json epoch_time.json --figure epoch_times

Each measurement is a fresh process. The programs run in turn, A B A B ..., so that a disturbance
of the machine meets all of them. A process trains an epoch to warm up and then some more; its time
is the median of those. Compilation is timed apart. `1` thread means one core for both sides.

    mnist_jax                  benchmarks/jax_program.py
    pytorch eager              benchmarks/torch_reference.py: images normalised once, in memory
    pytorch channels_last      the same with images and kernels stored channels last
    pytorch compile            as eager, with torch.compile
    pytorch dataloader         as the report's author would write it; with all cores only

The table has the median over the processes, their range, the ratio of medians to mnist_jax on as
many threads, and the range of that ratio over the pairs of one round. Below it stand, for each
placement, the ratio to the fastest PyTorch program and the share of the arithmetic limit: the
multiply-adds of the network as defined, divided by the time, against the speed of a matrix product
of 1024 x 1024 matrices in the same process. The report gives no seconds but says that its two
networks "take about the same time"; that ratio stands last.

Programs on two threads are slow while their cores lie apart, see benchmarks/core_distance.py. The
distance before and after each process, whichever was larger, is a column of the table: its range.

Without PyTorch, or where JAX runs on another device than the CPU, mnist_jax is timed alone.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

from experiments.manifest import threads as all_threads
from mnist_jax.model import PLACEMENTS, Placement, summary

VARIANTS = ("eager", "channels_last", "compile", "dataloader")


@dataclass(frozen=True)
class Config:
    """Time a training epoch here and in PyTorch."""

    placement: Placement | None = None
    """Where the residual block stands; else all three."""
    repeats: int = 5
    """Processes of each program."""
    epochs: int = 3
    """Epochs timed in a process, after the one that warms up."""
    data_dir: Path | None = None
    """TFDS's data directory; else TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    json: Path | None = None
    """Where to write everything measured."""
    figure: Path | None = None
    """Where to draw a bar chart, a path without suffix: PNG and SVG are written."""


class Program(NamedTuple):
    """What is timed: a command that prints JSON."""

    name: str
    threads: int
    command: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.width = max(console.width, 150)  # also in a file
    if config.repeats < 1 or config.epochs < 1:
        print("error: --repeats and --epochs must be at least 1", file=sys.stderr)
        return 2
    timing = measure(config, console)
    if not timing["rows"]:
        print("error: nothing could be timed", file=sys.stderr)
        return 1
    for line in conditions_lines(timing["conditions"]):
        console.print(line)
    console.print(table(timing))
    for line in summary_lines(timing):
        console.print(line)
    if config.json:
        config.json.write_text(json.dumps(timing, indent=1) + "\n")
    if config.figure:
        from experiments import figures

        figures.epoch_times(timing, config.figure)
    return 0


def programs(torch: bool) -> list[Program]:
    """All programs, on one thread and on all."""
    counts = sorted({1, all_threads()})
    python = (sys.executable, "-m")
    found = [Program("mnist_jax", n, (*python, "benchmarks.jax_program")) for n in counts]
    for variant in VARIANTS if torch else ():
        command = (*python, "benchmarks.torch_reference", "--variant", variant)
        alone = variant == "dataloader"  # it is timed as it would be run
        found += [
            Program(f"pytorch {variant}", n, command) for n in (counts[-1:] if alone else counts)
        ]
    return found


def measure(config: Config, console: Console) -> dict[str, Any]:
    """Runs everything in turn; `conditions` and `rows`, see `experiments.figures.epoch_times`."""
    torch = importlib.util.find_spec("torch") is not None
    if not torch:
        console.print("PyTorch is not installed (pip install -e '.[torch]'): mnist_jax alone")
    placements = PLACEMENTS if config.placement is None else (config.placement,)
    rows: dict[tuple[str, str, int], dict[str, Any]] = {}
    conditions: dict[str, Any] = {"repeats": config.repeats, "epochs": config.epochs, "load": []}
    failed: set[tuple[str, int]] = set()
    for number in range(1, config.repeats + 1):
        for placement in placements:
            for program in programs(torch):
                if (program.name, program.threads) in failed:
                    continue
                conditions["load"].append(os.getloadavg()[0])
                before = _core_distance()
                result = _run(program, placement, config)
                if isinstance(result, str):
                    failed.add((program.name, program.threads))
                    console.print(f"{program.name} is left out: {result}")
                    continue
                if program.name == "mnist_jax" and result["platform"] != "cpu":
                    torch = False
                    failed.add((program.name, 1))  # threads mean nothing there
                if program.threads == all_threads():
                    conditions |= result.get("conditions", {"torch": result.get("torch")})
                row = rows.setdefault(
                    (program.name, placement, program.threads),
                    {
                        "program": program.name,
                        "placement": placement,
                        "threads": program.threads,
                        "epoch_seconds": [],
                        "warm_up_seconds": [],
                        "compile_seconds": [],
                        "evaluation_seconds": [],
                        "matrix_product_gflops": [],
                        "peak_memory_mib": [],
                        "core_distance_ns": [],
                    },
                )
                _add(row, result)
                if before is not None:
                    row["core_distance_ns"].append(max(before, _core_distance()))
                console.print(
                    f"{number}/{config.repeats} {placement} {program.name}, "
                    f"{program.threads} threads: {row['epoch_seconds'][-1]:.2f} s"
                )
    return {"conditions": conditions, "rows": list(rows.values())}


def _run(program: Program, placement: str, config: Config) -> dict[str, Any] | str:
    command = [*program.command, "--placement", placement, "--threads", str(program.threads)]
    command += ["--epochs", str(1 + config.epochs)]
    if config.data_dir:
        command += ["--data-dir", str(config.data_dir)]
    return run_program(command, program.threads)


def run_program(command: Sequence[str], cores: int) -> dict[str, Any] | str:
    """The JSON that a program prints in a fresh process on so many cores, or why there is none."""
    keep = None
    if hasattr(os, "sched_setaffinity") and cores < all_threads():
        chosen = sorted(os.sched_getaffinity(0))[:cores]
        keep = partial(os.sched_setaffinity, 0, chosen)
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [*command, "--json", "-"], capture_output=True, text=True, cwd=root, preexec_fn=keep
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return lines[-1] if lines else f"exit status {done.returncode}"
    return json.loads(done.stdout.splitlines()[-1])


def _core_distance() -> float | None:
    """Nanoseconds, see benchmarks/core_distance.py; None where they cannot be measured."""
    command = [sys.executable, "-m", "benchmarks.core_distance"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    return float(done.stdout.split()[0]) if done.returncode == 0 else None


def _add(row: dict[str, list[float]], result: Mapping[str, Any]) -> None:
    seconds = statistics.median(result["epoch_seconds"])
    row["epoch_seconds"].append(seconds)
    row["warm_up_seconds"].append(result["first_epoch_seconds"] - seconds)
    row["evaluation_seconds"].append(statistics.median(result["evaluation_seconds"][1:]))
    for name in ("compile_seconds", "matrix_product_gflops", "peak_memory_mib"):
        if name in result:
            row[name].append(result[name])


def conditions_lines(conditions: Mapping[str, Any]) -> Iterator[str]:
    """What the numbers depend on."""
    packages = conditions["packages"]
    yield (
        f"{conditions['cpu']}, {conditions['threads']} cores; devices: "
        f"{', '.join(conditions['devices'])}; Python {conditions['python']}, "
        f"jaxlib {packages['jaxlib']}, PyTorch {conditions.get('torch', 'not timed')}"
    )
    yield f"XLA_FLAGS {conditions['xla_flags']}"
    load = conditions["load"]
    yield f"load average before each process: median {statistics.median(load):.2f}, " + (
        f"largest {max(load):.2f}; {conditions['repeats']} processes of each program"
    )


def table(timing: Mapping[str, Any]) -> Table:
    """A row for each program, placement and number of threads."""
    grid = Table(title="Seconds of a training epoch")
    for name in ("placement", "program"):
        grid.add_column(name, no_wrap=True)
    for name in (
        "threads",
        "median",
        "range",
        "times mnist_jax",
        "in pairs",
        "compile, warm-up",
        "ns apart",
    ):
        grid.add_column(name, justify="right", no_wrap=True)
    rows = sorted(timing["rows"], key=lambda row: PLACEMENTS.index(row["placement"]))
    for row in rows:
        seconds = row["epoch_seconds"]
        peer = _find(timing, "mnist_jax", row["placement"], row["threads"])
        ratio, pairs = ("", "") if peer is row or peer is None else ratios(row, peer)
        extra = statistics.median(row["warm_up_seconds"])
        extra += statistics.median(row["compile_seconds"] or [0])
        grid.add_row(
            row["placement"],
            row["program"],
            str(row["threads"]),
            f"{statistics.median(seconds):.2f}",
            f"{min(seconds):.2f} to {max(seconds):.2f}",
            ratio,
            pairs,
            f"{extra:.1f}",
            f"{min(apart):.0f} to {max(apart):.0f}" if (apart := row["core_distance_ns"]) else "",
        )
    return grid


def ratios(row: Mapping[str, Any], peer: Mapping[str, Any]) -> tuple[str, str]:
    """How many times as long as its peer: the ratio of medians, and the range over the rounds."""
    theirs, ours = row["epoch_seconds"], peer["epoch_seconds"]
    pairs = [a / b for a, b in zip(theirs, ours, strict=False)]
    ratio = statistics.median(theirs) / statistics.median(ours)
    return f"{ratio:.2f}", f"{min(pairs):.2f} to {max(pairs):.2f}"


def summary_lines(timing: Mapping[str, Any]) -> Iterator[str]:
    """What the table comes to; see the module's docstring."""
    for placement in PLACEMENTS:
        rows = [row for row in timing["rows"] if row["placement"] == placement]
        ours = [row for row in rows if row["program"] == "mnist_jax"]
        if not ours:
            continue
        best = min(ours, key=_median)
        yield (
            f"{placement}: mnist_jax {_median(best):.2f} s, evaluation "
            f"{statistics.median(best['evaluation_seconds']):.3f} s, peak memory "
            f"{max(best['peak_memory_mib']):.0f} MiB, {arithmetic_share(best):.0%} of the "
            f"arithmetic limit"
        )
        loops = [row for row in rows if row["program"] == "pytorch dataloader"]
        theirs = [row for row in rows if row not in ours and row not in loops]
        for name, peers in (("the fastest PyTorch, ", theirs), ("", loops)):
            if peers:
                peer = min(peers, key=_median)
                ratio, pairs = ratios(peer, best)
                yield (
                    f"  {ratio} times as fast as {name}{peer['program']} on {peer['threads']} "
                    f"threads ({_median(peer):.2f} s; in pairs {pairs})"
                )
    for row in timing["rows"]:
        if row["placement"] == "after_fc1":
            before = _find(timing, row["program"], "before_fc1", row["threads"])
            if before is not None:
                ratio, pairs = ratios(row, before)
                yield (
                    f"after_fc1 / before_fc1, {row['program']} on {row['threads']} threads: "
                    f"{ratio} (in pairs {pairs})"
                )


def arithmetic_share(row: Mapping[str, Any]) -> float:
    """The share of the speed of a matrix product that the epoch's multiply-adds reach."""
    operations = 2 * 60_000 * training_multiply_adds(row["placement"])
    limit = statistics.median(row["matrix_product_gflops"]) * 1e9
    return operations / _median(row) / limit


def training_multiply_adds(placement: Placement) -> int:
    """Of one image: each layer, its gradient by its weights and, but for conv1, by its input.

    On one pixel eight of a 3x3 kernel's nine taps meet padding alone and are not counted.
    """
    total = 0
    for layer in summary(placement):
        products = layer.multiply_adds
        if layer.name.startswith("resnet_block/conv") and layer.shape[1:] == (1, 1):
            products //= 9
        total += products * (2 if layer.name == "conv1" else 3)
    return total


def _median(row: Mapping[str, Any]) -> float:
    return statistics.median(row["epoch_seconds"])


def _find(timing: Mapping[str, Any], program: str, placement: str, threads: int) -> Any:
    key = program, placement, threads
    for row in timing["rows"]:
        if (row["program"], row["placement"], row["threads"]) == key:
            return row
    return None


if __name__ == "__main__":
    sys.exit(main())
