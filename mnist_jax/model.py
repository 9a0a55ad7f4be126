"""The report's networks: LeNet, and LeNet with a residual block before or after fc1."""

from typing import Literal, get_args

import chex
import flax.linen as nn
import jax

from mnist_jax.kernels import in_memory
from mnist_jax.layers import BatchNorm, Conv3x3, ConvPoolReLU, Dense

Placement = Literal["none", "before_fc1", "after_fc1"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, and the identity as shortcut.

    He et al., "Deep residual learning for image recognition", 2015, figure 2.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """`[C, H, W, B]` to `[C, H, W, B]`."""
        y = Conv3x3(name="conv1")(x)
        y = BatchNorm(self.axis_name, name="bn1")(y, train=train)
        y = nn.relu(y)
        y = Conv3x3(name="conv2")(y)
        y = BatchNorm(self.axis_name, name="bn2")(y, train=train)
        return nn.relu(y + x)


class LeNet(nn.Module):
    """The report's network.

    Attributes:
      placement: where the residual block stands.
      axis_name: a mapped axis over which the batch is split, or None.
    """

    placement: Placement
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Logits `[B, 10]` of normalised images `[B, 28, 28, 1]`."""
        chex.assert_shape(images, (None, 28, 28, 1))
        x = images.transpose(3, 1, 2, 0)  # [1, 28, 28, B]
        x = ConvPoolReLU(6, name="conv1")(x)  # [6, 12, 12, B]
        x = ConvPoolReLU(16, name="conv2")(x)  # [16, 4, 4, B]
        if self.placement == "before_fc1":
            x = ResidualBlock(self.axis_name, name="resnet_block")(x, train=train)
        x = in_memory(x.reshape(256, -1).T)  # [B, 256], channel by channel as in PyTorch
        x = nn.relu(Dense(120, name="fc1")(x))  # [B, 120]
        if self.placement == "after_fc1":
            x = x.T[:, None, None]  # [120, 1, 1, B]
            x = ResidualBlock(self.axis_name, name="resnet_block")(x, train=train)
            x = x[:, 0, 0].T  # [B, 120]
        x = nn.relu(Dense(84, name="fc2")(x))  # [B, 84]
        return Dense(10, name="fc3")(x)  # [B, 10]
