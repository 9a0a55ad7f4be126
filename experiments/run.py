"""Trains one network and writes down everything about the run.

    python -m experiments.run --placement after_fc1

This takes 15 to 30 seconds on two CPU cores (`benchmarks.whole_run`), once the data are prepared,
and ends near 98.7 % test accuracy. `experiments.groundwork.run_directory` lists the files of a run,
and `experiments.resume` continues one.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from rich.console import Console

from experiments.groundwork import (
    command,
    machine,
    published,
    recipe,
    run_directory,
    terminal,
    training,
)
from experiments.groundwork.command import DataOptions, FailedError, UsageError
from experiments.groundwork.evaluation import EvaluationName
from experiments.groundwork.machine import MachineOptions
from experiments.groundwork.recipe import Recipe
from experiments.groundwork.run_directory import CHECKPOINT, Config, Row
from experiments.groundwork.training import Training
from mnist_jax import data, metrics, store
from mnist_jax.data import Dataset, Split
from mnist_jax.train import Evaluation, TrainState


@dataclass(frozen=True)
class Options:
    """Train LeNet with one residual block on MNIST, as the report does."""

    config: Annotated[Config, tyro.conf.arg(name="")] = Config()
    out: Path = Path("runs")
    """Directory in which the directory of the run is made."""
    machine: Annotated[MachineOptions, tyro.conf.arg(name="")] = MachineOptions()
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    dry_run: bool = False
    """Check the options, train a few steps on made-up images, and write nothing."""
    summary: bool = False
    """Print the network layer by layer, and stop."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return command.main(Options, run, arguments, name="experiments.run", description=__doc__)


def run(options: Options) -> None:
    """Trains one network.

    Raises:
      UsageError: an option has a value that it cannot have.
      FailedError: the loss is not finite.
      StoreError: a file cannot be written or used.
      DataError: the data cannot be had.
    """
    config = options.config
    config.check()
    console = terminal.console()
    if options.summary:
        terminal.print_table(console, terminal.summary_table(recipe.network(config.recipe)))
        return
    machine.start(options.machine)
    made = training.make(config)
    if options.dry_run:
        _try_out(made, console)
        return
    name = f"{config.recipe.placement}-seed{config.seed}"
    with run_directory.new(options.out, name) as directory:
        train_in(directory, made, options.data, console)


def train_in(directory: Path, made: Training, source: DataOptions, console: Console) -> None:
    """Trains a run from its start or its last finished epoch, and shows what came of it.

    Args:
      directory: the run's, which is locked.
      made: what the run is made of.
      source: where the data are.
      console: prints what happens.
    """
    config = made.config
    beside = ThreadPoolExecutor(1)  # compiles while this thread loads data, and later trains
    compiling = beside.submit(training.compiled, made, training.NEEDED[config.evaluation])
    with terminal.log_of_library(console):
        mnist = data.load_mnist(source.data_dir, source.mirror, dataset=config.recipe.dataset)
    splits = jax.device_put(recipe.splits(config.recipe, mnist))
    ready = compiling.result()
    console.print(terminal.network_line(made.model))
    console.print(terminal.devices_line(jax.devices()[:1]))
    state, history = _state_and_history(directory, ready, mnist)
    for line in run_directory.begin(directory, config, machine.manifest(mnist.sha256)):
        console.print(f"differs from when the run was begun: {line}")
    if history:
        console.print(f"continued after epoch {len(history)}")
        _refuse_unless_finite(history[-1])
    compiling = beside.submit(_get_ready_for_the_end, made, ready)
    resume = ("python", "-m", "experiments.resume", directory)
    with (
        command.continued_by(*resume, once=directory / CHECKPOINT),
        terminal.progress(console, "epochs", len(history), config.recipe.epochs) as advance,
    ):
        for epoch in training.epochs(ready, splits, state, history):
            run_directory.write_epoch(directory, config, mnist, *epoch)
            state, _, history = epoch
            advance()
            console.print(terminal.epoch_line(history[-1]))
            _refuse_unless_finite(history[-1])
    tested = training.tested_in_three_ways(compiling.result(), splits, state)
    _show(directory, config, history, splits[1], tested, console)
    console.print(f"written: {directory}")


def _state_and_history(
    directory: Path, ready: Training, mnist: Dataset
) -> tuple[TrainState, list[Row]]:
    """The state from which a run goes on, and the rows of the epochs before it.

    Raises:
      UsageError: the weights to start from cannot be used, or the run was trained on other data or
        has more epochs than it is asked for.
      StoreError: the checkpoint is damaged, or that of another network.
    """
    if not (directory / CHECKPOINT).exists():
        return training.initial_state(ready), []
    saved, history, data_sha256 = run_directory.read_checkpoint(directory)
    if data_sha256 != mnist.sha256:
        raise UsageError(f"{saved.path}: the data are not those on which this run was trained")
    if (epochs := ready.config.recipe.epochs) < len(history):
        command.refuse("epochs", f"at least {len(history)}, which this run has", epochs)
    return training.restored_state(ready, saved), history


def _get_ready_for_the_end(made: Training, ready: Training) -> Training:
    """Imports and compiles, while the network trains, what only the end of a run needs.

    This saves the second that matplotlib and two programs take.
    """
    import experiments.figures.run  # noqa: F401

    return training.compiled_for_the_end(made, ready)


def _show(
    directory: Path,
    config: Config,
    history: Sequence[Row],
    test: Split,
    tested: Mapping[EvaluationName, Evaluation],
    console: Console,
) -> None:
    """Prints and writes the results of the last epoch: by class, as figures, beside the report."""
    from experiments.figures import run as figures  # here, as the first epoch need not wait for it

    placement, labels = config.recipe.placement, np.asarray(test.labels)
    logits = np.asarray(tested[config.evaluation].logits)  # [N, 10]
    confusion = np.asarray(metrics.confusion_matrix(logits.argmax(-1), labels))  # [10, 10]
    for line in terminal.per_class_lines(confusion):
        console.print(line)
    run_directory.write_per_class(directory, confusion)
    probabilities = np.asarray(jax.nn.softmax(logits))  # [N, 10]
    # The report very likely evaluated with the statistics of each test batch.
    sums = (tested.get("batch") or tested[config.evaluation]).metrics
    like_it = {"test_loss": sums.mean_loss, "test_accuracy_percent": sums.accuracy_percent}
    with store.writing(directory):
        batch = like_it if "batch" in tested else None
        figures.curves(history, placement, directory / "curves.png", batch=batch)
        figures.confusion(confusion, directory / "confusion.png")
        worst = metrics.worst_mistakes(probabilities, labels)
        predictions = probabilities[worst].argmax(1)
        figures.mistakes(
            np.asarray(test.images)[worst, :, :, 0],
            labels[worst],
            predictions,
            probabilities[worst, predictions],
            directory / "mistakes.png",
        )
    if len(tested) > 1:
        terminal.print_table(console, terminal.evaluations_table(tested))
    reports_own = Config(Recipe(placement))
    as_asked = replace(config, seed=0, evaluation="running", keep_epochs=False)
    compared = published.compare_last_epoch(placement, {**history[-1], **like_it})
    if compared and as_asked == reports_own:
        terminal.print_table(console, terminal.report_table(compared))


def _try_out(made: Training, console: Console) -> None:
    """Trains on noise: one or three whole batches, and a last one as large as in the real data.

    Raises:
      FailedError: the loss is not finite.
    """
    of, rng = made.config.recipe, np.random.default_rng(0)
    size = (1 if of.batch_size > 1000 else 3) * of.batch_size + of.train_size % of.batch_size
    images = rng.integers(0, 256, (size, 28, 28, 1), dtype=np.uint8)
    split = jax.device_put(Split(images, rng.integers(0, 10, size, dtype=np.int32)))
    epoch = next(training.epochs(made, (split, split), training.initial_state(made), []))
    console.print(terminal.epoch_line(epoch.history[-1]))
    console.print("made-up images; nothing was written")
    _refuse_unless_finite(epoch.history[-1])


def _refuse_unless_finite(row: Row) -> None:
    if None in row.values():
        raise FailedError(f"the loss is not finite after epoch {row['epoch']}")


if __name__ == "__main__":
    command.leave(main())
