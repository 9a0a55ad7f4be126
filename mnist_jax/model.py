"""The report's networks: LeNet, and LeNet with a residual block before or after fc1."""

import functools
import math
from typing import ClassVar, Literal, NamedTuple, get_args

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from mnist_jax.kernels import in_memory
from mnist_jax.layers import (
    BatchNorm,
    Conv3x3,
    ConvPoolReLU,
    Dense,
    share_of_batch,
    whole_batch,
)

Placement = Literal["none", "before_fc1", "after_fc1"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, and the identity as shortcut.

    He et al., "Deep residual learning for image recognition", 2015, figure 2.
    """

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """`[C, H, W, B]` to `[C, H, W, B]`."""
        y = Conv3x3(name="conv1")(x)
        y = BatchNorm(name="bn1")(y, train=train)
        y = nn.relu(y)
        y = Conv3x3(name="conv2")(y)
        y = BatchNorm(name="bn2")(y, train=train)
        return nn.relu(y + x)


class LeNet(nn.Module):
    """The report's network.

    Attributes:
      placement: where the residual block stands.
      axis_name: a mapped axis whose devices share the work on each batch, or None.
    """

    placement: Placement
    axis_name: str | None = None

    # Two thirds of the arithmetic and more are convolutions, so with `axis_name` each device does
    # these on its part of the batch. What follows is done on every device for the whole batch:
    # batch normalisation needs it, and exchanging its statistics takes longer than computing them.
    shared_layers: ClassVar[tuple[str, ...]] = ("conv1", "conv2")

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Logits `[B, 10]` of normalised images `[B, 28, 28, 1]`.

        Raises:
          ValueError: the placement is unknown, or in training the block sees one value a channel.
        """
        if self.placement not in PLACEMENTS:
            raise ValueError(f"placement must be one of {PLACEMENTS}, not {self.placement!r}")
        chex.assert_shape(images, (None, 28, 28, 1))
        x = share_of_batch(images, self.axis_name, axis=0).transpose(3, 1, 2, 0)  # [1, 28, 28, B]
        x = ConvPoolReLU(6, name="conv1")(x)  # [6, 12, 12, B]
        x = ConvPoolReLU(16, name="conv2")(x)  # [16, 4, 4, B]
        x = whole_batch(x, self.axis_name)
        if self.placement == "before_fc1":
            x = ResidualBlock(name="resnet_block")(x, train=train)
        x = in_memory(x.reshape(256, -1))  # [256, B], channel by channel as in PyTorch
        x = nn.relu(Dense(120, name="fc1")(x))  # [120, B]
        if self.placement == "after_fc1":
            x = x[:, None, None]  # [120, 1, 1, B]
            x = ResidualBlock(name="resnet_block")(x, train=train)
            x = x[:, 0, 0]  # [120, B]
        x = nn.relu(Dense(84, name="fc2")(x))  # [84, B]
        return Dense(10, name="fc3")(x).T  # [B, 10]


class Layer(NamedTuple):
    """One row of a network's summary."""

    name: str
    shape: tuple[int, ...]  # of its output for one image
    parameters: int
    multiply_adds: int  # for one image, the products of its convolution or dense layer


def summary(placement: Placement) -> list[Layer]:
    """The layers of a network in the order in which they compute."""
    calls = []

    def record(call, args, kwargs, context):
        output = call(*args, **kwargs)
        if context.method_name == "__call__":
            calls.append((context.module.path, output.shape))
        return output

    with nn.intercept_methods(record):
        params = jax.eval_shape(
            lambda key: LeNet(placement).init(key, jnp.zeros((1, 28, 28, 1)), train=False),
            jax.random.key(0),
        )["params"]
    return [
        _layer(path, shape, functools.reduce(lambda tree, name: tree[name], path, params))
        for path, shape in calls
        if path and path[-1] != "resnet_block"
    ]


def _layer(path, shape, params) -> Layer:
    shape = shape[:-1]  # [F] or [C, H, W]: no batch
    places = math.prod(shape[1:])  # where a kernel is applied
    if path in (("conv1",), ("conv2",)):
        places *= 4  # before pooling
    products = params["kernel"].size * places if "kernel" in params else 0
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Layer("/".join(path), shape, size, products)
