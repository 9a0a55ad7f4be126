"""Trains one network and writes down everything about the run.

    python -m experiments.run --placement after_fc1

This takes 15 to 30 seconds on two CPU cores (`benchmarks.whole_run`), once the data are prepared,
and ends near 98.7 % test accuracy. `experiments.groundwork.run_directory` lists the files of a run,
and `experiments.resume` continues one.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from rich.console import Console

from experiments.groundwork import command, machine, published, recipe, run_directory, terminal
from experiments.groundwork.command import DataOptions, FailedError, UsageError
from experiments.groundwork.evaluation import (
    EvaluationName,
    evaluate,
    evaluate_all,
    to_predict_with,
)
from experiments.groundwork.machine import MachineOptions
from experiments.groundwork.recipe import Recipe
from experiments.groundwork.run_directory import CHECKPOINT, Config, Row
from mnist_jax import data, metrics, store, train
from mnist_jax.data import Dataset, Split
from mnist_jax.programs import Programs, ahead_of_time
from mnist_jax.summary import summary
from mnist_jax.train import Evaluation, TrainState, Variables


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
    console, placement = terminal.console(), config.recipe.placement
    if options.summary:
        model = recipe.network(config.recipe)
        terminal.print_table(console, terminal.summary_table(placement, summary(model)))
        return
    machine.start(options.machine)
    if options.dry_run:
        _try_out(config, console)
        return
    with run_directory.new(options.out, f"{placement}-seed{config.seed}") as directory:
        train_in(directory, config, options.data, console)


def train_in(directory: Path, config: Config, source: DataOptions, console: Console) -> None:
    """Trains a run from its start or its last finished epoch, and shows what came of it.

    Args:
      directory: the run's, which is locked.
      config: what the run is asked for.
      source: where the data are.
      console: prints what happens.
    """
    jitted = recipe.programs(config.recipe)
    beside = ThreadPoolExecutor(1)  # compiles while this thread loads data, and later trains
    compiling = beside.submit(_compiled, jitted, config, _NEEDED[config.evaluation])
    with terminal.log_of_library(console):
        mnist = data.load_mnist(source.data_dir, source.mirror, dataset=config.recipe.dataset)
    splits = jax.device_put(recipe.splits(config.recipe, mnist))
    programs = compiling.result()
    console.print(terminal.network_line(recipe.network(config.recipe)))
    console.print(terminal.devices_line(jax.devices()[:1]))
    state, history = _state_of(directory, config, programs, mnist)
    for line in run_directory.begin(directory, config, machine.manifest(mnist.sha256)):
        console.print(f"differs from when the run was begun: {line}")
    if history:
        console.print(f"continued after epoch {len(history)}")
        _refuse_unless_finite(history[-1])
    compiling = beside.submit(_needed_at_the_end, jitted, programs, config)
    with (
        command.continued_by(
            "python", "-m", "experiments.resume", directory, once=directory / CHECKPOINT
        ),
        terminal.progress(console, "epochs", len(history), config.recipe.epochs) as advance,
    ):
        for epoch in _epochs(config, programs, splits, state, history):
            state, variables, history = epoch
            run_directory.write_epoch(
                directory, state, variables, config=config, mnist=mnist, history=history
            )
            advance()
            console.print(terminal.epoch_line(history[-1]))
            _refuse_unless_finite(history[-1])
    tested = _tested(config, compiling.result(), splits, state)
    _show(directory, config, history, splits[1], tested, console)
    console.print(f"written: {directory}")


# The programs that an epoch needs, by the way of its evaluation, the slowest to compile first.
_NEEDED: dict[EvaluationName, tuple[str, ...]] = {
    "running": ("train_epoch", "init_state", "evaluate"),
    "batch": ("train_epoch", "init_state", "evaluate_batch"),
    "recalibrated": ("train_epoch", "init_state", "evaluate", "recalibrate"),
}


def _compiled(programs: Programs, config: Config, names: tuple[str, ...]) -> Programs:
    """The programs, of which those that are named need not be compiled any more."""
    recipe = config.recipe
    return ahead_of_time(programs, recipe.train_size, recipe.test_size, names)


def _needed_at_the_end(jitted: Programs, programs: Programs, config: Config) -> Programs:
    """Gets ready, while the network trains, what only the end of a run needs.

    This saves the second that matplotlib and two programs take.

    Args:
      jitted: the programs, none of them compiled.
      programs: the same, with those compiled that an epoch needs.
      config: what the run is asked for.
    """
    import experiments.figures.run  # noqa: F401

    if not _three_ways(config):
        return programs
    missing = {"evaluate", "evaluate_batch", "recalibrate"}.difference(_NEEDED[config.evaluation])
    found = _compiled(jitted, config, tuple(sorted(missing)))
    return programs._replace(**{name: getattr(found, name) for name in missing})


def _three_ways(config: Config) -> bool:
    """Whether the network has batch normalisation, and can be evaluated with each test batch's."""
    recipe = config.recipe
    return recipe.placement != "none" and recipe.test_size % recipe.batch_size != 1


def _state_of(
    directory: Path, config: Config, programs: Programs, mnist: Dataset
) -> tuple[TrainState, list[Row]]:
    """The state from which a run goes on, and the rows of the epochs before it.

    Raises:
      UsageError: the weights to start from cannot be used, or the run was trained on other data or
        has more epochs than it is asked for.
      StoreError: the checkpoint is damaged, or that of another network.
    """
    if not (directory / CHECKPOINT).exists():
        return _initial_state(config, programs), []
    saved, history, data_sha256 = run_directory.read_checkpoint(directory)
    if data_sha256 != mnist.sha256:
        raise UsageError(f"{saved.path}: the data are not those on which this run was trained")
    if (epochs := config.recipe.epochs) < len(history):
        command.refuse("epochs", f"at least {len(history)}, which this run has", epochs)
    model, tx = recipe.network(config.recipe), recipe.optimiser(config.recipe)
    like = jax.eval_shape(lambda: train.init_state(model, tx, recipe.keys_of(config.seed)[0]))
    return jax.device_put(store.restore(saved, like)), history


def _initial_state(config: Config, programs: Programs) -> TrainState:
    """The state before the first epoch: drawn, or with the weights of a file."""
    if config.init_from is None:
        init_key, _ = recipe.keys_of(config.seed)
        return programs.init_state(init_key)
    variables = run_directory.initial_weights(config.init_from, config.recipe)
    return train.start_from(variables, recipe.optimiser(config.recipe))


def _epochs(
    config: Config,
    programs: Programs,
    splits: tuple[Split, Split],
    state: TrainState,
    history: list[Row],
) -> Iterator[tuple[TrainState, Variables, list[Row]]]:
    """Trains the epochs that are left.

    Args:
      config: what the run is asked for.
      programs: those of its recipe.
      splits: to train and to test on, on the device.
      state: the state after the epochs that are done.
      history: the rows of these epochs.

    Yields:
      After each epoch the state, the variables to predict with, and the rows so far.
    """
    train_split, test_split = splits
    size = train_split.labels.shape[0]
    _, order_key = recipe.keys_of(config.seed)
    for number in range(len(history) + 1, config.recipe.epochs + 1):
        begun = time.perf_counter()
        order = train.epoch_order(order_key, number, size, config.recipe.held_out)
        state, trained = programs.train_epoch(state, train_split, order)
        variables = to_predict_with(
            programs, train.variables_of(state), config.evaluation, train_split
        )
        tested = evaluate(programs, variables, config.evaluation, test_split).metrics
        row = {
            "epoch": number,
            "train_loss": trained.mean_loss,
            "train_accuracy_percent": trained.accuracy_percent,
            "test_loss": tested.mean_loss,
            "test_accuracy_percent": tested.accuracy_percent,
            "seconds": time.perf_counter() - begun,
        }
        # None stands for a loss that is not finite, as JSON requires.
        finite = {key: value if np.isfinite(value) else None for key, value in row.items()}
        history = [*history, finite]
        yield state, variables, history


def _tested(
    config: Config, programs: Programs, splits: tuple[Split, Split], state: TrainState
) -> dict[EvaluationName, Evaluation]:
    """Evaluates the trained network in three ways, or in the run's own if it has only that."""
    variables = train.variables_of(state)
    if _three_ways(config):
        return evaluate_all(programs, variables, *splits)
    return {config.evaluation: evaluate(programs, variables, config.evaluation, splits[1])}


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
    with store.writing(directory):
        figures.curves(history, placement, directory / "curves.png")
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
    if (
        replace(config.recipe, placement="none") == Recipe(placement="none")
        and not config.init_from
    ):
        # The report very likely evaluated with the statistics of each test batch.
        sums = (tested.get("batch") or tested[config.evaluation]).metrics
        like_it = {"test_loss": sums.mean_loss, "test_accuracy_percent": sums.accuracy_percent}
        if compared := published.compare_last_epoch(placement, {**history[-1], **like_it}):
            terminal.print_table(console, terminal.report_table(compared))


def _try_out(config: Config, console: Console) -> None:
    """Trains on noise: one or three whole batches, and a last one as large as in the real data.

    Raises:
      FailedError: the loss is not finite.
    """
    batch_size, rng = config.recipe.batch_size, np.random.default_rng(0)
    size = (1 if batch_size > 1000 else 3) * batch_size + config.recipe.train_size % batch_size
    images = rng.integers(0, 256, (size, 28, 28, 1), dtype=np.uint8)
    split = jax.device_put(Split(images, rng.integers(0, 10, size, dtype=np.int32)))
    programs, once = recipe.programs(config.recipe), replace(config.recipe, epochs=1)
    state = _initial_state(config, programs)
    ((_, _, (row,)),) = _epochs(replace(config, recipe=once), programs, (split, split), state, [])
    console.print(terminal.epoch_line(row))
    console.print("made-up images; nothing was written")
    _refuse_unless_finite(row)


def _refuse_unless_finite(row: Row) -> None:
    if None in row.values():
        raise FailedError(f"the loss is not finite after epoch {row['epoch']}")


if __name__ == "__main__":
    command.leave(main())
