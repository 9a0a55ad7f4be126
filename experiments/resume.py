"""Continues a run that was interrupted, or lengthens a finished one.

    python -m experiments.resume runs/after_fc1-seed0 --epochs 20

The run goes on from its last finished epoch, as its `config.json` says. The result has the same
bits as that of a run which was never interrupted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from experiments.groundwork import command, machine, run_directory, terminal, training
from experiments.groundwork.command import DataOptions
from experiments.groundwork.machine import MachineOptions
from experiments.run import train_in
from mnist_jax import store


@dataclass(frozen=True)
class Options:
    """Continue a run, or lengthen it."""

    run: Annotated[Path, tyro.conf.Positional]
    """Directory of the run."""
    epochs: int | None = None
    """Number of epochs in all; by default as many as the run was begun with."""
    machine: Annotated[MachineOptions, tyro.conf.arg(name="")] = MachineOptions()
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return command.main(Options, resume, arguments, name="experiments.resume", description=__doc__)


def resume(options: Options) -> None:
    """Continues a run.

    Raises:
      UsageError: there is no such run, or it cannot have so many epochs.
      FailedError: the loss is not finite.
      StoreError: a file is damaged or cannot be written, or another command writes this run.
      DataError: the data cannot be had.
    """
    config = run_directory.read_config(options.run)
    recipe = config.recipe
    if options.epochs is not None and options.epochs != recipe.epochs:
        if recipe.schedule == "one_cycle":
            # The learning rate of each step depends on the number of all steps.
            command.refuse("epochs", f"{recipe.epochs}, which this cycle has", options.epochs)
        config = replace(config, recipe=replace(recipe, epochs=options.epochs))
        config.check()
    machine.start(options.machine)
    with store.locked(options.run):
        train_in(options.run, training.make(config), options.data, terminal.console())


if __name__ == "__main__":
    command.leave(main())
