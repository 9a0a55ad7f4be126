"""The settings of a training run: the report's, and those that could stand behind its curves."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import optax

from mnist_jax.data import PIXELS
from mnist_jax.model import PLACEMENTS, LeNet, NormReLU, Placement, ResidualBlock

EPOCHS = 10  # as in the report
# What commands let their users choose from.
Normalisation = Literal["half", "mnist", "none"]  # the keys of `mnist_jax.data.PIXELS`
Schedule = Literal["constant", "one_cycle"]  # how the learning rate changes
Evaluation = Literal["running", "batch", "recalibrated"]  # the keys of `EVALUATIONS`


class Setting(NamedTuple):
    """Everything that decides a run besides placement and seed."""

    momentum: float
    normalisation: Normalisation
    learning_rate: float = 0.001
    batch_size: int = 64
    # The fields that follow serve the question why the block helps.
    block: str = "residual"  # a key of `BLOCKS`
    fc1_features: int = 120  # number of outputs of fc1
    epochs: int = EPOCHS
    held_out: int = 0  # number of last training images to test on instead of training on them


# Modules that take the place of the residual block.
BLOCKS: dict[str, nn.Module] = {
    "residual": ResidualBlock(),
    "no shortcut": ResidualBlock(shortcut=False),
    "no batch norm": ResidualBlock(normalise=False),
    "neither": ResidualBlock(shortcut=False, normalise=False),
    "batch norm only": NormReLU(),
}
RATES = (0.001, 0.003, 0.01, 0.03, 0.1)  # learning rates that are tried for each network

# Settings that could have made the report's curves. The report states learning rate, batch size and
# epochs, but neither momentum nor pixel scale. `report` is the likeliest pair
# (experiments/results/README.md), and the project's default.
CANDIDATES: dict[str, Setting] = {
    "report": Setting(0.9, "half"),
    "mnist": Setting(0.9, "mnist"),
    "unnormalised": Setting(0.9, "none"),
    "no_momentum": Setting(0.0, "half"),
    "no_momentum_mnist": Setting(0.0, "mnist"),
    "no_momentum_unnormalised": Setting(0.0, "none"),
    # No momentum, but the step size that momentum 0.9 reaches in the long run.
    "no_momentum_rate_0.01": Setting(0.0, "half", 0.01),
    "no_momentum_mnist_rate_0.01": Setting(0.0, "mnist", 0.01),
}
REPORT = CANDIDATES["report"]
SETTINGS: dict[str, Setting] = {
    **CANDIDATES,
    # For the question why the block helps: parts of it, or something else instead of it.
    "no_shortcut": REPORT._replace(block="no shortcut"),
    "no_batch_norm": REPORT._replace(block="no batch norm"),
    "plain_block": REPORT._replace(block="neither"),
    "batch_norm_only": REPORT._replace(block="batch norm only"),
    # As large as the networks with a block before and after fc1, by parameters that get a gradient.
    "wide_134": Setting(0.9, "half", fc1_features=134),
    "wide_206": Setting(0.9, "half", fc1_features=206),
    "longer": Setting(0.9, "half", epochs=30),
    **{f"rate_{rate}": Setting(0.9, "half", rate) for rate in RATES[1:]},
    **{f"held_out_{rate}": Setting(0.9, "half", rate, held_out=10_000) for rate in RATES},
}
# The ways in which batch normalisation can normalise the test images, and what the names of their
# metrics begin with. In a network without batch normalisation the three are the same.
EVALUATIONS = {
    "running": "",  # with running statistics, as after PyTorch's `model.eval()`
    "batch": "batch_",  # with the statistics of each test batch, as without that call
    "recalibrated": "recalibrated_",  # with the means over all training images
}
PEAK_LEARNING_RATE = 0.05  # highest rate of the schedule one_cycle, which is not the report's


class Cell(NamedTuple):
    """Runs that a plan asks for: one variant with one placement."""

    variant: str
    placement: Placement
    seeds: range


def cells(
    variants: Iterable[str], placements: Iterable[Placement], runs: int, *, first: int = 1000
) -> tuple[Cell, ...]:
    """Every variant with every placement, each with seeds from `first` to `first + runs - 1`."""
    seeds = range(first, first + runs)
    return tuple(Cell(variant, place, seeds) for variant in variants for place in placements)


WITH_BLOCK: tuple[Placement, ...] = ("before_fc1", "after_fc1")
# The parts of experiments/results/plan.md, which says what each is for. The runs of the last part,
# `best_rates`, follow from the results of `rates`, by `best_rate_cells`.
PLAN: dict[str, tuple[Cell, ...]] = {
    "pairs": cells(("report", "mnist"), WITH_BLOCK, 200),
    "normalising": (
        *cells(("report", "mnist"), ("none",), 100),
        *cells(("unnormalised",), PLACEMENTS, 100),
    ),
    "settings": cells([name for name in CANDIDATES if name.startswith("no_")], PLACEMENTS, 30),
    "parts": (
        *cells(("no_shortcut", "no_batch_norm", "plain_block", "batch_norm_only"), WITH_BLOCK, 40),
        *cells(("wide_134", "wide_206"), ("none",), 40),
    ),
    "longer": cells(("longer",), PLACEMENTS, 30),
    "rates": cells([f"held_out_{rate}" for rate in RATES], PLACEMENTS, 3, first=2000),
}


def variant_at(rate: float) -> str:
    """The name of the report's setting with another learning rate."""
    wanted = REPORT._replace(learning_rate=rate)
    return next(name for name, setting in SETTINGS.items() if setting == wanted)


def best_rate_cells(rates: Mapping[Placement, float]) -> tuple[Cell, ...]:
    """The last part of the plan, with the learning rate that was chosen for each placement."""
    return tuple(
        cell for place, rate in rates.items() for cell in cells((variant_at(rate),), (place,), 30)
    )


def model_of(setting: Setting, placement: Placement) -> LeNet:
    """The network of a setting."""
    return LeNet(
        placement,
        PIXELS[setting.normalisation],
        resnet_block=BLOCKS[setting.block],
        fc1_features=setting.fc1_features,
    )


@cache
def sgd(
    learning_rate: float,
    momentum: float,
    *,
    nesterov: bool = False,
    one_cycle_steps: int | None = None,
) -> optax.GradientTransformation:
    """Stochastic gradient descent.

    Equal arguments return the same object, because JAX compiles programs anew for each object.

    Args:
      learning_rate: the rate of every step, or the highest rate of a cycle.
      momentum: at least 0 and below 1.
      nesterov: whether the momentum is Nesterov's.
      one_cycle_steps: the number of steps of the whole training, if the learning rate follows
        `one_cycle`; None keeps the rate constant.
    """
    rate = one_cycle(learning_rate, one_cycle_steps) if one_cycle_steps else learning_rate
    return optax.sgd(rate, momentum=momentum or None, nesterov=nesterov)


def one_cycle(peak: float, steps: int) -> optax.Schedule:
    """The learning rate of each step of a training that follows one cycle of cosines.

    It rises from a 25th of the highest rate during three tenths of the steps, and then falls to a
    10,000th of the rate at the start (Smith and Topin, "Super-convergence", 2017). These are the
    defaults of optax and of PyTorch's `OneCycleLR`.
    """
    return optax.cosine_onecycle_schedule(steps, peak)


def rate_and_cycle(
    schedule: Schedule,
    *,
    learning_rate: float,
    peak_learning_rate: float,
    epochs: int,
    batch_size: int,
    train_size: int,
) -> tuple[float, int | None]:
    """The arguments `learning_rate` and `one_cycle_steps` of `sgd`.

    Args:
      schedule: how the learning rate changes.
      learning_rate: the rate of the schedule `constant`.
      peak_learning_rate: the highest rate of the schedule `one_cycle`.
      epochs: the number of epochs of the whole training.
      batch_size: the number of images in a step; the last one of an epoch may have fewer.
      train_size: the number of images to train on.
    """
    if schedule == "constant":
        return learning_rate, None
    return peak_learning_rate, epochs * -(-train_size // batch_size)


def keys_of(seed: int) -> tuple[jax.Array, jax.Array]:
    """The two random keys of a seed: for the initial weights, and for the order of the images."""
    init_key, order_key = jax.random.split(jax.random.key(seed))
    return init_key, order_key
