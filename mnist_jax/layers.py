"""Flax layers with PyTorch's semantics: initialisation, convolution stages, batch normalisation.

`C` is the number of channels, `H` by `W` are pixels, and `B` is the batch size. The batch is the
last axis of every array, so that the kernels work on whole vectors of it.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from mnist_jax import kernels


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default distribution of weights and biases: uniform in ±1/sqrt(fan_in).

    `torch.nn.Linear.reset_parameters` and `_ConvNd.reset_parameters` draw weights with
    `kaiming_uniform_(a=sqrt(5))`, whose bound is the same.
    """
    bound = 1 / math.sqrt(fan_in)

    def initializer(key, shape, dtype=jnp.float32, out_sharding=None):
        # Drawn flat, because on jaxlib 0.10.2 a draw of four dimensions compiles for ten seconds.
        return jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound).reshape(shape)

    return initializer


class ConvPoolReLU(nn.Module):
    """`Conv2d(C, features, 5)`, `MaxPool2d(2, 2)` and ReLU."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[C, H, W, B]` to `[features, (H - 4) / 2, (W - 4) / 2, B]`."""
        channels = x.shape[0]
        init = torch_uniform(25 * channels)
        kernel = self.param("kernel", init, (5, 5, channels, self.features), x.dtype)
        bias = self.param("bias", init, (self.features,), x.dtype)
        return kernels.conv_pool_relu(x, kernel, bias)


class Conv3x3(nn.Module):
    """`Conv2d(C, C, 3, padding=1, bias=use_bias)`."""

    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[C, H, W, B]` to `[C, H, W, B]`."""
        channels = x.shape[0]
        init = torch_uniform(9 * channels)
        if self.has_variable("params", "kernel"):  # possibly its centre alone, see `model.centres`
            kernel = self.get_variable("params", "kernel")
        else:
            kernel = self.param("kernel", init, (3, 3, channels, channels), x.dtype)
        y = kernels.conv3x3(x, kernel)
        if self.use_bias:
            y += self.param("bias", init, (channels,), x.dtype)[:, None, None, None]
        return y


class Dense(nn.Module):
    """`Linear(in, features)`."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[in, B]` to `[features, B]`."""
        init = torch_uniform(x.shape[0])
        kernel = self.param("kernel", init, (x.shape[0], self.features), x.dtype)
        bias = self.param("bias", init, (self.features,), x.dtype)
        return jnp.einsum("io,ib->ob", kernel, x) + bias[:, None]


class BatchNorm(nn.Module):
    """`BatchNorm2d(C, eps=1e-5, momentum=0.1)`.

    In training it normalises with the biased variance of the batch and moves the running variance
    towards the unbiased one, as PyTorch does; `flax.linen.BatchNorm` uses the biased one for both.

    Attributes:
      momentum: the weight of a batch in the running statistics, as in PyTorch;
        `flax.linen.BatchNorm` gives this weight to the past.
      epsilon: what is added to the variance.

    If the collection `batch_moments` is mutable, it receives the mean and the unbiased variance of
    this batch alone, under the names that the running ones have in `batch_stats`.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """`[C, ...]` to `[C, ...]`.

        Raises:
          ValueError: in training, a channel has only one value, and so no variance.
        """
        channels = x.shape[0]
        scale = self.param("scale", nn.initializers.ones, (channels,), x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), x.dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), x.dtype)
        var = self.variable("batch_stats", "var", jnp.ones, (channels,), x.dtype)

        flat = x.reshape(channels, -1)  # [C, N]
        if train:
            count = flat.shape[1]
            if count == 1:
                raise ValueError(
                    f"batch normalisation cannot train on one value a channel, got shape {x.shape}"
                )
            y, batch_mean, batch_var = kernels.batch_norm(flat, scale, bias, self.epsilon)
            if not self.is_initializing():
                unbiased = batch_var * (count / (count - 1))
                if self.is_mutable_collection("batch_moments"):
                    self.put_variable("batch_moments", "mean", batch_mean)
                    self.put_variable("batch_moments", "var", unbiased)
                mean.value += self.momentum * (batch_mean - mean.value)
                var.value += self.momentum * (unbiased - var.value)
        else:
            gain = scale * lax.rsqrt(var.value + self.epsilon)  # [C]
            y = (flat - mean.value[:, None]) * gain[:, None] + bias[:, None]
        y = y.reshape(x.shape)
        # Kept in memory because the gradient of the ReLU that follows asks where y was positive.
        return kernels.in_memory(y) if train else y
