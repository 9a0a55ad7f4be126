"""Trains the report's network in PyTorch and times every epoch.

    python -m benchmarks.torch_program --variant eager --placement after_fc1 --epochs 3

It has the same options as `jax_program`, and `--variant`, and prints the same lines and the same
JSON: a line in the report's form for each epoch, with the seconds of training alone. There are four
variants:

    dataloader      as the report's author would write it: a data set that transforms one image
                    at a time, and a DataLoader that shuffles and stacks them
    eager           the images are normalised once and kept in memory, a batch is taken by index
    channels_last   the same with images and kernels stored channels last
    compile         like eager, with the network compiled by torch.compile in the first epoch

It needs PyTorch: pip install -e '.[torch]'.
"""

if __name__ == "__main__":
    from experiments.groundwork import stopping

    stopping.end_at_once()

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import program
from benchmarks.program import Side, Sums
from experiments.groundwork import cores, options, settings
from experiments.groundwork.options import UsageError
from mnist_jax.data import PIXELS, Split
from mnist_jax.model import Placement
from mnist_jax.train import TEST_BATCH_SIZE

Variant = Literal["eager", "channels_last", "compile", "dataloader"]


class Started(NamedTuple):
    """A network in training, whose parts PyTorch changes in place."""

    model: Any  # torch_report.LeNet
    network: Any  # the model itself, or what torch.compile made of it
    optimizer: Any
    scheduler: Any  # None for a constant learning rate


class Batches(NamedTuple):
    """The images of both splits as a variant takes them, as `torch_report.Batches`."""

    shuffled: Callable[[], Any]  # the training batches of an epoch, in a random order of their own
    train: Any  # in file order
    test: Any  # in file order


@dataclass(frozen=True)
class Config(program.Options):
    """Train the report's network in PyTorch and time every epoch."""

    variant: Variant = "eager"
    """Variant of the program; the module's docstring explains them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""

    def of_config(config: Config, train: Split, test: Split) -> Side:
        rate, cycle = config.rate_and_cycle(len(train.labels))
        return ready(
            train,
            test,
            variant=config.variant,
            placement=config.placement,
            batch_size=config.batch_size,
            learning_rate=rate,
            one_cycle_steps=cycle,
            nesterov=config.nesterov,
        )

    name = "benchmarks.torch_program"
    return program.main(Config, of_config, arguments, name=name, description=__doc__)


def ready(
    train: Split,
    test: Split,
    *,
    variant: Variant,
    placement: Placement,
    batch_size: int,
    learning_rate: float,
    one_cycle_steps: int | None,
    nesterov: bool,
) -> Side:
    """Loads the images into memory and makes the program ready.

    The arguments are as in `Config` and `settings.sgd`.

    Raises:
      UsageError: PyTorch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise UsageError("PyTorch is not installed: pip install -e '.[torch]'")
    import torch

    from experiments.groundwork import torch_report

    torch.set_num_threads(cores.count())
    rates = every_rate(learning_rate, one_cycle_steps) if one_cycle_steps else []

    batches = batches_of(variant, train, test, batch_size)

    def start(seed: int) -> Started:
        model = torch_report.build(placement, seed)
        if variant == "channels_last":
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        network = torch.compile(model) if variant == "compile" else model
        # A scheduler multiplies the optimiser's own learning rate.
        optimizer = torch_report.make_optimizer(
            model,
            1.0 if rates else learning_rate,
            settings.REPORT.momentum,
            nesterov=nesterov,
        )
        scheduler = None
        if rates:
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rates.__getitem__)
        return Started(model, network, optimizer, scheduler)

    def train_epoch(state: Started, number: int) -> tuple[Started, Sums]:
        del number  # PyTorch's generator, which has a state of its own, draws the order
        shuffled = batches.shuffled()
        sums = torch_report.train_epoch(state.network, state.optimizer, shuffled, state.scheduler)
        return state, sums

    def recalibrate(state: Started) -> Started:
        return state._replace(network=torch_report.recalibrated(state.model, batches.train))

    def multiply(size: int, times: int) -> None:
        ones = torch.ones(size, size)
        for _ in range(times):
            torch.matmul(ones, ones)

    return Side(
        start=start,
        train_epoch=train_epoch,
        recalibrate=recalibrate,
        evaluate=lambda state: torch_report.evaluate(state.network, batches.test),
        multiply=multiply,
        threads=cores.count(),
        compile_seconds=None,
        versions={"torch": torch.__version__},
    )


def batches_of(variant: Variant, train: Split, test: Split, batch_size: int) -> Batches:
    """Makes the batches from images that are loaded one by one, or that lie in memory."""
    import torch
    from torch.utils.data import DataLoader

    from experiments.groundwork import torch_report

    pixels = PIXELS[settings.REPORT.normalisation]
    if variant == "dataloader":
        one_by_one = torch_report.OneByOne(train, pixels)
        loader = DataLoader(one_by_one, batch_size, shuffle=True)
        return Batches(
            lambda: loader,
            DataLoader(one_by_one, batch_size),
            DataLoader(torch_report.OneByOne(test, pixels), TEST_BATCH_SIZE),
        )

    def in_memory(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = torch_report.in_memory(split, pixels)
        if variant == "channels_last":
            images = images.contiguous(memory_format=torch.channels_last)
        return images, labels

    def shuffled() -> torch_report.Batches:
        return torch_report.in_order(images, labels, torch.randperm(len(labels)), batch_size)

    images, labels = in_memory(train)
    return Batches(
        shuffled,
        list(zip(images.split(batch_size), labels.split(batch_size), strict=True)),
        list(zip(*(part.split(TEST_BATCH_SIZE) for part in in_memory(test)), strict=True)),
    )


def every_rate(peak: float, steps: int) -> list[float]:
    """The learning rates of one cycle, and one more, which no step uses.

    PyTorch asks for the next rate at the end of each step, even of the last one.
    """
    rates = jax.vmap(settings.one_cycle(peak, steps))(jnp.arange(steps + 1))
    return np.asarray(rates).tolist()


if __name__ == "__main__":
    options.leave(main())
