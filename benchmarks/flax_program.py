"""Trains the report's network in stock Flax and times every epoch.

    python -m benchmarks.flax_program --placement after_fc1 --epochs 3

This is what somebody would write from the documentation of Flax: its own layers with the channels
last, one jitted step in a Python loop, and normalised images that lie on the device. The initial
weights are Flax's, and running variances are biased; neither changes the time of a step.
`benchmarks.program` explains the lines. The first epoch compiles.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from flax.training import train_state

from benchmarks import program
from benchmarks.program import Side
from experiments.groundwork import command
from experiments.groundwork import recipe as recipes
from experiments.groundwork.recipe import Recipe
from mnist_jax import metrics
from mnist_jax.data import PIXELS, Split, normalise
from mnist_jax.metrics import Metrics
from mnist_jax.model import Placement
from mnist_jax.train import TEST_BATCH_SIZE


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, and the identity as shortcut."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[B, H, W, C]` to `[B, H, W, C]`."""
        y = nn.Conv(x.shape[-1], (3, 3), use_bias=False)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(y))
        y = nn.Conv(x.shape[-1], (3, 3), use_bias=False)(y)
        y = nn.BatchNorm(use_running_average=not train, momentum=0.9)(y)
        return nn.relu(y + x)


class LeNet(nn.Module):
    """The report's network."""

    placement: Placement

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Logits `[B, 10]` of normalised images `[B, 28, 28, 1]`."""
        for features in (6, 16):
            x = nn.relu(nn.Conv(features, (5, 5), padding="VALID")(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        if self.placement == "before_fc1":
            x = ResidualBlock()(x, train)
        x = nn.relu(nn.Dense(120)(x.reshape(x.shape[0], -1)))
        if self.placement == "after_fc1":
            x = ResidualBlock()(x[:, None, None], train)[:, 0, 0]
        x = nn.relu(nn.Dense(84)(x))
        return nn.Dense(10)(x)


class TrainState(train_state.TrainState):
    """Flax's state, with the running statistics."""

    batch_stats: Any


@jax.jit
def train_step(state: TrainState, split: Split, chosen: np.ndarray) -> tuple[TrainState, Metrics]:
    """One step on the chosen examples of a split of normalised images; returns its sums too."""
    images, labels = split.images[chosen], split.labels[chosen]

    def loss_of(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updates = state.apply_fn(variables, images, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), (logits, updates)

    gradients, (logits, updates) = jax.grad(loss_of, has_aux=True)(state.params)
    state = state.apply_gradients(grads=gradients, batch_stats=updates.get("batch_stats", {}))
    return state, metrics.of_batch(logits, labels)


@jax.jit
def eval_step(state: TrainState, images: jax.Array, labels: jax.Array) -> Metrics:
    """The sums of a batch of normalised images."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return metrics.of_batch(state.apply_fn(variables, images, train=False), labels)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    name = "benchmarks.flax_program"
    return program.main(arguments, ready, name=name, description=__doc__)


def ready(recipe: Recipe, train: Split, test: Split) -> Side:
    """Puts normalised images on the device."""
    model, tx = LeNet(recipe.placement), recipes.optimiser(recipe)
    train, test = (
        jax.device_put(Split(normalise(x, PIXELS[recipe.pixels]), y)) for x, y in (train, test)
    )

    def start(seed: int) -> TrainState:
        init = jax.jit(partial(model.init, train=True))
        variables = init(jax.random.key(seed), train.images[:1])
        return TrainState.create(
            apply_fn=model.apply,
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            tx=tx,
        )

    def train_epoch(state: TrainState, number: int) -> tuple[TrainState, Metrics]:
        order = jax.random.permutation(jax.random.key(number), len(train.labels))
        steps = range(recipe.batch_size, len(order), recipe.batch_size)
        each = []
        for chosen in np.split(np.asarray(order), steps):
            state, sums = train_step(state, train, chosen)
            each.append(sums)
        return jax.block_until_ready(state), _sum(each)

    def evaluate(state: TrainState) -> Metrics:
        starts = range(0, len(test.labels), TEST_BATCH_SIZE)
        batches = (Split(*(array[i : i + TEST_BATCH_SIZE] for array in test)) for i in starts)
        return _sum([eval_step(state, *batch) for batch in batches])

    return Side(start, train_epoch, evaluate)


def _sum(each: Sequence[Metrics]) -> Metrics:
    return jax.tree.map(lambda *values: np.sum(values), *jax.device_get(each))


if __name__ == "__main__":
    command.leave(main())
