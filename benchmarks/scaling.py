"""How does the time of a training epoch change with batch size, threads and training-set size?

    python -m benchmarks.scaling --placement after_fc1

A fresh process for each measurement, `benchmarks.jax_program`; the settings run in turn, all of
them once and then all again. A cell is the median over `--repeats` processes of the median epoch
after the first, and the speed in images a second. On another device than the CPU the column of one
thread means nothing and is left out.
"""

import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.epoch_time import run_program
from experiments.manifest import threads as all_threads
from mnist_jax.model import Placement

BATCH_SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
EXAMPLES = (3_750, 7_500, 15_000, 30_000, 60_000)


@dataclass(frozen=True)
class Config:
    """Time a training epoch over batch sizes, threads and training-set sizes."""

    placement: Placement = "after_fc1"
    """Where the residual block stands."""
    repeats: int = 3
    """Processes of each setting."""
    epochs: int = 3
    """Epochs timed in a process, after the one that warms up."""
    data_dir: Path | None = None
    """TFDS's data directory; else TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    json: Path | None = None
    """Where to write everything measured."""


class Setting(NamedTuple):
    """One cell."""

    batch_size: int
    examples: int
    threads: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.width = max(console.width, 120)  # also in a file
    seconds: dict[Setting, list[float]] = {}
    conditions: dict[str, Any] = {}
    platform = "cpu"
    for number in range(1, config.repeats + 1):
        for setting in settings():
            if platform != "cpu" and setting.threads < all_threads():
                continue
            result = _run(setting, config)
            if isinstance(result, str):
                print(f"error: {setting}: {result}", file=sys.stderr)
                return 1
            platform, conditions = result["platform"], result["conditions"]
            seconds.setdefault(setting, []).append(statistics.median(result["epoch_seconds"]))
            console.print(f"{number}/{config.repeats} {setting}: {seconds[setting][-1]:.2f} s")
    console.print(
        f"block {config.placement}; {conditions['cpu']}, devices {conditions['devices']}, "
        f"jaxlib {conditions['packages']['jaxlib']}; {config.repeats} processes a cell"
    )
    for grid in tables(seconds):
        console.print(grid)
    if config.json:
        rows = [setting._asdict() | {"epoch_seconds": s} for setting, s in seconds.items()]
        content = {"conditions": conditions, "placement": config.placement, "rows": rows}
        config.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0


def settings() -> list[Setting]:
    """Every batch size on the whole set and every size of the set in batches of 64."""
    counts = sorted({1, all_threads()})
    by_batch = [Setting(size, EXAMPLES[-1], n) for size in BATCH_SIZES for n in counts]
    by_examples = [Setting(64, size, n) for size in EXAMPLES[:-1] for n in counts]
    return by_batch + by_examples


def tables(seconds: dict[Setting, list[float]]) -> Iterator[Table]:
    """Time against batch size, and against the number of examples; a column a thread count."""
    counts = sorted({setting.threads for setting in seconds})
    for title, axis, fixed in (
        (f"{EXAMPLES[-1]:,} images", "batch_size", {"examples": EXAMPLES[-1]}),
        ("batches of 64", "examples", {"batch_size": 64}),
    ):
        grid = Table(title=f"An epoch of {title}: seconds (images a second)")
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


def _run(setting: Setting, config: Config) -> dict[str, Any] | str:
    command = [sys.executable, "-m", "benchmarks.jax_program", "--placement", config.placement]
    command += ["--epochs", str(1 + config.epochs), "--batch-size", str(setting.batch_size)]
    command += ["--examples", str(setting.examples)]
    if config.data_dir:
        command += ["--data-dir", str(config.data_dir)]
    return run_program(command, setting.threads)


if __name__ == "__main__":
    sys.exit(main())
