"""The recipe: everything that decides what is trained, except the seed.

A command that trains has one among its options, a run writes it into `config.json`, the study
varies it with `dataclasses.replace`, and network, optimiser and programs are made from it.
"""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import tyro

from experiments.groundwork.command import UsageError, refuse
from mnist_jax import data
from mnist_jax.data import PIXELS, DatasetName
from mnist_jax.model import LeNet, NormReLU, Placement, ResidualBlock
from mnist_jax.programs import Programs, compiled

PixelScale = Literal["half", "mnist", "none"]  # the keys of `mnist_jax.data.PIXELS`
Schedule = Literal["constant", "one_cycle"]
Block = Literal["residual", "no shortcut", "no batch norm", "neither", "batch norm only"]
MAX_SEED = 2**32 - 1  # JAX's keys keep 32 bits of a seed: 2**32 would be seed 0 again

BLOCKS: dict[Block, nn.Module] = {  # what can stand in the place of the residual block
    "residual": ResidualBlock(),
    "no shortcut": ResidualBlock(shortcut=False),
    "no batch norm": ResidualBlock(normalise=False),
    "neither": ResidualBlock(shortcut=False, normalise=False),
    "batch norm only": NormReLU(),
}


@dataclass(frozen=True)
class Recipe:
    """What is trained; the defaults are the report's, as far as it states them.

    The report states neither momentum nor pixel scale: these two are the likeliest of those that
    were tried (experiments/results/README.md).
    """

    placement: Placement = "after_fc1"
    """Where the residual block stands."""
    epochs: int = 10
    """Number of passes over the training images, at least 1."""
    batch_size: int = 64
    """Number of images in a training step, at least 1."""
    learning_rate: float = 0.001
    """Learning rate of --schedule constant, at least 0."""
    momentum: float = 0.9
    """Momentum of stochastic gradient descent, at least 0 and below 1."""
    nesterov: bool = False
    """Use Nesterov's momentum."""
    schedule: Schedule = "constant"
    """How the learning rate changes: constant, or one cycle up to --peak-learning-rate and down."""
    peak_learning_rate: float = 0.05
    """Highest learning rate of --schedule one_cycle, at least 0."""
    pixels: PixelScale = "half"
    """Scale of a pixel x of 0..1: (x - 0.5)/0.5, (x - 0.1307)/0.3081, or x itself."""
    dataset: DatasetName = "mnist"
    """Data set to train on."""
    # The fields that follow serve the study's questions and are no options of a command.
    block: Annotated[Block, tyro.conf.Suppress] = "residual"
    fc1_features: Annotated[int, tyro.conf.Suppress] = 120  # number of outputs of fc1
    held_out: Annotated[int, tyro.conf.Suppress] = 0  # training images to test on instead

    @property
    def train_size(self) -> int:
        """The number of images that are trained on."""
        return data.TRAIN_SIZE - self.held_out

    @property
    def test_size(self) -> int:
        """The number of images that are tested on."""
        return self.held_out or data.TEST_SIZE

    def check(self) -> None:
        """Refuses a recipe by which no network can be trained.

        Raises:
          UsageError: naming the first wrong option, and what is allowed.
        """
        refuse_other_types(self)
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                refuse(name, "at least 1", getattr(self, name))
        size = self.batch_size
        if size > self.train_size:
            refuse("batch_size", f"at most {self.train_size}, the training split", size)
        if self.placement == "after_fc1" and 1 in (size, self.train_size % size):
            # Batch normalisation would see only one value for each channel.
            refuse("batch_size", "such that no batch has one image", size)
        for name in ("learning_rate", "peak_learning_rate"):
            if not 0 <= getattr(self, name) < float("inf"):
                refuse(name, "a finite number, at least 0", getattr(self, name))
        if not 0 <= self.momentum < 1:
            refuse("momentum", "at least 0 and below 1", self.momentum)
        unused = "learning_rate" if self.schedule == "one_cycle" else "peak_learning_rate"
        if getattr(self, unused) != getattr(Recipe, unused):
            raise UsageError(
                f"--{unused.replace('_', '-')} is of no use with --schedule {self.schedule}"
            )


def refuse_other_types(config: Any) -> None:
    """Refuses a dataclass of plain values that was read from a file in which somebody wrote others.

    Raises:
      UsageError: naming the first field whose value is not of its type, or none of its choices.
    """
    for name, hint in get_type_hints(config.__class__).items():
        value = getattr(config, name)
        if get_origin(hint) is Literal:
            if value not in get_args(hint):
                refuse(name, f"one of {', '.join(get_args(hint))}", value)
        elif hint in (bool, int, float) and type(value) not in (hint, {float: int}.get(hint)):
            refuse(name, f"of type {hint.__name__}", repr(value))


def network(recipe: Recipe) -> LeNet:
    """The network of a recipe."""
    return LeNet(
        recipe.placement,
        PIXELS[recipe.pixels],
        resnet_block=BLOCKS[recipe.block],
        fc1_features=recipe.fc1_features,
    )


@cache  # JAX would compile the programs anew for each new object
def optimiser(recipe: Recipe) -> optax.GradientTransformation:
    """Stochastic gradient descent as the recipe says.

    With `one_cycle` the learning rate rises from a 25th of its peak during three tenths of all
    steps and then falls to a 10,000th of the rate at the start (Smith and Topin,
    "Super-convergence", 2017). These are the defaults of optax, and of PyTorch's
    `OneCycleLR`, which reaches the peak one step earlier.
    """
    rate: Any = recipe.learning_rate
    if recipe.schedule == "one_cycle":
        steps = recipe.epochs * -(-recipe.train_size // recipe.batch_size)
        cycle = optax.cosine_onecycle_schedule(steps, recipe.peak_learning_rate)
        # The schedules of optax count on what JAX does unless it is told to be strict, and give
        # other rates where it is told to use 64 bits.
        rate = jax.enable_x64(False)(jax.numpy_dtype_promotion("standard")(cycle))
    return optax.sgd(rate, momentum=recipe.momentum or None, nesterov=recipe.nesterov)


def programs(recipe: Recipe) -> Programs:
    """The compiled programs of a single run."""
    return compiled(network(recipe), optimiser(recipe), batch_size=recipe.batch_size)


def keys_of(seed: int) -> tuple[jax.Array, jax.Array]:
    """The two random keys of a seed: for the initial weights, and for the order of the images.

    They are those of `jax.random.split(jax.random.key(seed))` where JAX has its default settings,
    and these keys where it has others: generator, offset and way of splitting can all be set.
    """
    key = jax.random.wrap_key_data(jnp.array([0, seed], jnp.uint32), impl="threefry2x32")
    with jax.threefry_partitionable(True):
        init_key, order_key = jax.random.split(key)
    return init_key, order_key


def splits(recipe: Recipe, mnist: data.Dataset) -> tuple[data.Split, data.Split]:
    """What a recipe trains on and what it tests on."""
    if recipe.held_out:
        return data.hold_out(mnist.train, recipe.held_out)
    return mnist.train, mnist.test
