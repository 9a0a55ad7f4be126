"""The settings of a training run: the report's, and those that could stand behind its curves."""

from functools import cache
from typing import NamedTuple

import jax
import optax

from mnist_jax.data import PIXELS
from mnist_jax.model import LeNet, Placement


class Setting(NamedTuple):
    """Everything that decides a run besides placement, seed and number of epochs."""

    momentum: float
    normalisation: str  # a key of `mnist_jax.data.PIXELS`
    learning_rate: float = 0.001
    batch_size: int = 64


# The report states learning rate, batch size and epochs. It states neither momentum nor pixel
# scale; `report` is the pair that reproduces it and the project's default.
SETTINGS: dict[str, Setting] = {
    "report": Setting(0.9, "half"),
    "mnist": Setting(0.9, "mnist"),
    "unnormalised": Setting(0.9, "none"),
    "no_momentum": Setting(0.0, "half"),
    "no_momentum_mnist": Setting(0.0, "mnist"),
    "no_momentum_unnormalised": Setting(0.0, "none"),
}
REPORT = SETTINGS["report"]
EPOCHS = 10
PEAK_LEARNING_RATE = 0.05  # of the schedule one_cycle, which is not the report's
TEST_BATCH_SIZE = 500  # it decides the memory that evaluation takes, not its result


def model_of(setting: Setting, placement: Placement) -> LeNet:
    """The network of a setting."""
    return LeNet(placement, PIXELS[setting.normalisation])


@cache
def sgd(
    learning_rate: float,
    momentum: float,
    *,
    nesterov: bool = False,
    one_cycle_steps: int | None = None,
) -> optax.GradientTransformation:
    """Stochastic gradient descent; one object for equal values, as JAX compiles for each object.

    Args:
      learning_rate: of every step; with a cycle, the highest one.
      momentum: at least 0 and below 1.
      nesterov: whether the momentum is Nesterov's.
      one_cycle_steps: of the whole training, over which the learning rate follows `one_cycle`.
        None keeps it constant.
    """
    rate = one_cycle(learning_rate, one_cycle_steps) if one_cycle_steps else learning_rate
    return optax.sgd(rate, momentum=momentum or None, nesterov=nesterov)


def one_cycle(peak: float, steps: int) -> optax.Schedule:
    """The learning rate of each step of a training that follows one cycle of cosines.

    It rises from a 25th of the highest rate in three tenths of the steps, and falls to a 10,000th
    of where it began (Smith and Topin, "Super-convergence", 2017). These are the defaults of optax
    and of PyTorch's `OneCycleLR`.
    """
    return optax.cosine_onecycle_schedule(steps, peak)


def keys_of(seed: int) -> tuple[jax.Array, jax.Array]:
    """The keys of a seed: of the initial weights, and of the order of the images."""
    init_key, order_key = jax.random.split(jax.random.key(seed))
    return init_key, order_key
