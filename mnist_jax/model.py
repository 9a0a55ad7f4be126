"""The report's networks: LeNet, and LeNet with a residual block before or after fc1."""

from typing import Any, Literal, get_args

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from mnist_jax.data import PIXELS, Pixels, normalise
from mnist_jax.kernels import in_memory
from mnist_jax.layers import BatchNorm, Conv3x3, ConvPoolReLU, Dense

Placement = Literal["none", "before_fc1", "after_fc1"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, and the identity as shortcut.

    It is the block of He et al., "Deep residual learning for image recognition", 2015, figure 2.

    Attributes:
      shortcut: whether the block adds its input.
      normalise: whether batch normalisation follows each convolution. If it does not, the
        convolutions have a bias, because normalisation would have added one.
    """

    shortcut: bool = True
    normalise: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """`[C, H, W, B]` to `[C, H, W, B]`."""
        y = Conv3x3(use_bias=not self.normalise, name="conv1")(x)
        y = BatchNorm(name="bn1")(y, train=train) if self.normalise else y
        y = nn.relu(y)
        y = Conv3x3(use_bias=not self.normalise, name="conv2")(y)
        y = BatchNorm(name="bn2")(y, train=train) if self.normalise else y
        return nn.relu(y + x if self.shortcut else y)


class NormReLU(nn.Module):
    """Batch normalisation and ReLU alone, to take the place of the residual block."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """`[C, H, W, B]` to `[C, H, W, B]`."""
        return nn.relu(BatchNorm(name="bn1")(x, train=train))


class LeNet(nn.Module):
    """The report's network.

    Attributes:
      placement: where the residual block stands.
      pixels: the scale of the pixels. The network holds it so that training and prediction cannot
        disagree.
      dtype: the dtype of parameters and arithmetic, float32 or float64. The sums of an epoch would
        be wrong in a narrower one.
      resnet_block: the module at `placement`. The default is the report's block; others serve to
        find out which of its parts matters. After fc1 its 3x3 convolutions must be
        `layers.Conv3x3`, because `train.train_epoch` gives it the centres of the kernels alone.
      fc1_features: the number of outputs of fc1. The default is the report's; a larger number makes
        a network without a block as large as one with it.
    """

    placement: Placement
    pixels: Pixels = PIXELS["half"]
    dtype: Any = jnp.float32
    resnet_block: nn.Module = ResidualBlock()
    fc1_features: int = 120

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Logits `[B, 10]` of images `[B, 28, 28, 1]` uint8 as MNIST stores them.

        Raises:
          ValueError: the placement is unknown, or in training batch normalisation sees only one
            value for each channel.
          AssertionError: the images have another shape or dtype.
        """
        if self.placement not in PLACEMENTS:
            raise ValueError(f"placement must be one of {PLACEMENTS}, not {self.placement!r}")
        chex.assert_shape(images, (None, 28, 28, 1))
        chex.assert_type(images, jnp.uint8)
        x = normalise(images, self.pixels, dtype=self.dtype)
        x = x.transpose(3, 1, 2, 0)  # [1, 28, 28, B]
        x = ConvPoolReLU(6, name="conv1")(x)  # [6, 12, 12, B]
        x = ConvPoolReLU(16, name="conv2")(x)  # [16, 4, 4, B]
        if self.placement == "before_fc1":
            x = self.resnet_block(x, train=train)
        x = in_memory(x.reshape(256, -1))  # [256, B], channel by channel as in PyTorch
        x = nn.relu(Dense(self.fc1_features, name="fc1")(x))  # [120, B]
        if self.placement == "after_fc1":
            x = x[:, None, None]  # [120, 1, 1, B]
            x = self.resnet_block(x, train=train)
            x = x[:, 0, 0]  # [120, B]
        x = nn.relu(Dense(84, name="fc2")(x))  # [84, B]
        return Dense(10, name="fc3")(x).T  # [B, 10]


def centres(model: nn.Module, tree: Any) -> Any:
    """A tree of a `LeNet`'s parameters without the weights that no gradient reaches.

    After fc1 the block's images have one pixel, so eight of the nine weights of each 3x3 kernel
    meet nothing but padding: 230,400 of 304,106 parameters. The network computes the same without
    them.

    Args:
      model: the network.
      tree: its parameters, or anything that holds arrays of the same shapes, such as what an
        optimiser keeps for each parameter.

    Returns:
      The tree with `[1, 1, C, C]` in place of each `[3, 3, C, C]` where the block stands after fc1,
      and else the tree itself.
    """
    if getattr(model, "placement", None) != "after_fc1":
        return tree
    return jax.tree.map(lambda x: x[1:2, 1:2] if jnp.shape(x)[:2] == (3, 3) else x, tree)


def with_centres(tree: Any, others: Any) -> Any:
    """Returns `tree` with the values of `others`, which `centres` made of a tree like it."""

    def combined(whole: Any, new: Any) -> Any:
        if jnp.shape(whole) == jnp.shape(new):
            return new
        return jnp.asarray(whole).at[1:2, 1:2].set(new)

    return jax.tree.map(combined, tree, others)
