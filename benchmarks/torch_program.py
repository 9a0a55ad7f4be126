"""Trains a network in PyTorch and times every epoch.

    python -m benchmarks.torch_program --variant eager --placement after_fc1 --epochs 3

`benchmarks.program` explains the lines. There are four variants:

    dataloader      as the report's author would write it: a data set that transforms one image
                    at a time, and a DataLoader that shuffles and stacks them
    eager           the images are normalised once and kept in memory, a batch is taken by index
    channels_last   the same with images and kernels stored channels last
    compile         like eager, with the network compiled by torch.compile in the first epoch

It needs PyTorch: pip install -e '.[torch]'.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

from benchmarks import program
from benchmarks.program import Side
from experiments.groundwork import command, machine
from experiments.groundwork.command import UsageError
from experiments.groundwork.recipe import Recipe
from mnist_jax.data import PIXELS, Split
from mnist_jax.train import TEST_BATCH_SIZE

Variant = Literal["eager", "channels_last", "compile", "dataloader"]


@dataclass(frozen=True)
class Options(program.Options):
    """Train a network in PyTorch and time every epoch."""

    variant: Variant = "eager"
    """Variant of the program; the module's docstring explains them."""


class State(NamedTuple):
    """A network in training, whose parts PyTorch changes in place."""

    network: Any  # a torch_report.LeNet, or what torch.compile made of it
    optimizer: Any
    scheduler: Any  # None for a constant learning rate


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return command.main(
        Options, run, arguments, name="benchmarks.torch_program", description=__doc__
    )


def run(options: Options) -> None:
    """Trains and prints the JSON lines.

    Raises:
      UsageError: PyTorch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise UsageError("PyTorch is not installed: pip install -e '.[torch]'")
    program.run(options, partial(ready, options.variant))


def ready(variant: Variant, recipe: Recipe, train: Split, test: Split) -> Side:
    """Loads the images into memory and makes a variant of the program ready."""
    import torch

    from experiments.parity import torch_report

    torch.set_num_threads(machine.cores())
    shuffled, tested = batches_of(variant, recipe, train, test)

    def start(seed: int) -> State:
        model = torch_report.build(recipe.placement, seed)
        if variant == "channels_last":
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch_report.make_optimizer(
            model, recipe.learning_rate, recipe.momentum, nesterov=recipe.nesterov
        )
        scheduler = None
        if recipe.schedule == "one_cycle":
            scheduler = torch.optim.lr_scheduler.OneCycleLR(
                optimizer,
                recipe.peak_learning_rate,
                total_steps=recipe.epochs * -(-recipe.train_size // recipe.batch_size),
                cycle_momentum=False,
            )
        return State(torch.compile(model) if variant == "compile" else model, optimizer, scheduler)

    def train_epoch(state: State, number: int) -> tuple[State, torch_report.Sums]:
        del number  # PyTorch's generator, which has a state of its own, draws the order
        return state, torch_report.train_epoch(
            state.network, state.optimizer, shuffled(), state.scheduler
        )

    def evaluate(state: State) -> torch_report.Sums:
        return torch_report.evaluate(state.network, tested)

    return Side(start, train_epoch, evaluate)


def batches_of(
    variant: Variant, recipe: Recipe, train: Split, test: Split
) -> tuple[Callable[[], Any], Any]:
    """The batches, made from images that are loaded one by one, or that lie in memory.

    Returns:
      A function that shuffles the training images and returns their batches, and the batches of the
      test images, both as `torch_report.Batches`.
    """
    import torch
    from torch.utils.data import DataLoader

    from experiments.parity import torch_report

    pixels, size = PIXELS[recipe.pixels], recipe.batch_size
    if variant == "dataloader":
        train_set, test_set = (torch_report.OneByOne(split, pixels) for split in (train, test))
        loader = DataLoader(train_set, size, shuffle=True)
        return lambda: loader, DataLoader(test_set, TEST_BATCH_SIZE)
    images, labels = torch_report.in_memory(train, pixels)
    tested = torch_report.in_memory(test, pixels)
    if variant == "channels_last":
        images = images.contiguous(memory_format=torch.channels_last)
    return (
        lambda: torch_report.in_order(images, labels, torch.randperm(len(labels)), size),
        list(zip(*(part.split(TEST_BATCH_SIZE) for part in tested), strict=True)),
    )


if __name__ == "__main__":
    command.leave(main())
