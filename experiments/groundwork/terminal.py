"""What the commands print: their console, progress, lines in the report's form, tables."""

import contextlib
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from experiments.groundwork.evaluation import EvaluationName
from experiments.groundwork.published import Compared
from mnist_jax.model import LeNet
from mnist_jax.summary import summary
from mnist_jax.train import Evaluation

TABLE_WIDTH = 80  # characters in the widest table; a narrower terminal wraps its lines


def console() -> Console:
    """The console of a command: plain text, in which neither lines nor tables are cut off."""
    return Console(
        width=max(TABLE_WIDTH, shutil.get_terminal_size().columns),
        force_terminal=sys.stdout.isatty(),  # FORCE_COLOR would put control codes into a log
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def complain(line: str) -> None:
    """Prints to the standard error output what could not be done, and lets the command go on."""
    print(f"error: {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(console: Console, what: str, done: int, total: int) -> Iterator[Callable[..., None]]:
    """Shows a bar with what is done and the time left, on a terminal only.

    Args:
      console: where the bar is shown.
      what: what is counted.
      done: how many are done already.
      total: how many there are in all.

    Yields:
      A function that advances the bar, by one if it is called without a number.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        # An epoch takes longer than the 30 s over which rich would estimate the speed.
        speed_estimate_period=3600,
    )
    with bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda number=1: bar.advance(task, number)


def print_table(console: Console, table: Table) -> None:
    """Prints a table as wide as it is; rich would cut its cells to the width of the terminal."""
    width = console.width
    wanted = console.measure(table, options=console.options.update(max_width=1000)).maximum
    console.width = max(width, wanted)
    console.print(table)
    console.width = width


@contextlib.contextmanager
def log_of_library(console: Console) -> Iterator[None]:
    """Prints what the library logs, for example where the data come from."""

    class Printer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            console.print(record.getMessage())

    log = logging.getLogger("mnist_jax")
    handler, level = Printer(), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def network_line(model: LeNet) -> str:
    """A line with the network and its number of parameters."""
    parameters = sum(layer.parameters for layer in summary(model))
    return f"network: LeNet, block {model.placement}, {parameters:,} parameters"


def devices_line(devices: Sequence[Any]) -> str:
    """A line with the devices that a run computes on."""
    return f"devices: {', '.join(f'{d.platform} ({d.device_kind})' for d in devices)}"


def epoch_line(row: Mapping[str, float | None]) -> str:
    """A line of an epoch in the report's form, followed by the seconds."""
    return (
        "Epoch {epoch}, train:: loss: {train_loss:.4f}, accuracy: {train_accuracy_percent:.4f}% "
        "test:: loss: {test_loss:.4f}, accuracy: {test_accuracy_percent:.4f}% ({seconds:.2f} s)"
    ).format(**{key: float("nan") if value is None else value for key, value in row.items()})


def per_class_lines(confusion: np.ndarray) -> Iterator[str]:
    """Lines in the report's form, with percentages cut off to whole numbers, and the counts.

    Args:
      confusion: [10, 10] images, row = label, column = prediction.
    """
    for digit, row in enumerate(confusion):
        correct, count = int(row[digit]), int(row.sum())
        percent = 100 * correct // count if count else 0
        yield f"Accuracy of {digit:6} : {percent:2} % ({correct} of {count})"


def evaluations_table(tested: Mapping[EvaluationName, Evaluation]) -> Table:
    """A table of the last epoch, evaluated with each kind of statistics of batch normalisation."""
    names: dict[EvaluationName, str] = {
        "running": "running statistics of training",
        "batch": "statistics of each test batch",
        "recalibrated": "means over the training images",
    }
    table = Table("test images normalised with", title="Last epoch", box=box.SIMPLE_HEAD)
    for name in ("loss", "accuracy, %"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, evaluation in tested.items():
        sums = evaluation.metrics
        table.add_row(names[name], f"{sums.mean_loss:.4f}", f"{sums.accuracy_percent:.2f}")
    return table


def report_table(compared: Sequence[Compared]) -> Table:
    """A table of a run's last epoch beside the report's, evaluated as the report probably was."""
    title = "Beside the report, with statistics of each test batch"
    table = Table("last epoch", title=title, box=box.SIMPLE_HEAD)
    for name in ("ours", "report", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in compared:
        table.add_row(
            row.metric.replace("_", " "),
            f"{row.ours:.4f}",
            f"{row.published:.4f}",
            f"{row.difference:+.4f}",
        )
    return table


def summary_table(model: LeNet) -> Table:
    """A table of a network's layers."""
    layers = summary(model)
    title = f"LeNet, block {model.placement}: one image"
    table = Table(title=title, show_footer=True, box=box.SIMPLE_HEAD)
    table.add_column("layer", "total", no_wrap=True)
    table.add_column("output shape", no_wrap=True)
    for name in ("parameters", "multiply_adds"):
        total = sum(getattr(layer, name) for layer in layers)
        table.add_column(name.replace("_", "-"), f"{total:,}", justify="right", no_wrap=True)
    for layer in layers:
        shape = " x ".join(map(str, layer.shape))
        table.add_row(layer.name, shape, f"{layer.parameters:,}", f"{layer.multiply_adds:,}")
    return table
