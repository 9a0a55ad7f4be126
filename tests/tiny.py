"""A network that compiles in a moment, for what does not depend on the network."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mnist_jax import layers
from mnist_jax.data import PIXELS, normalise
from mnist_jax.programs import Programs, compiled

BATCH = 32  # 200 = 6 * 32 + 8
TX = optax.sgd(0.01, momentum=0.9)


class Tiny(nn.Module):
    """A dense layer, batch normalisation and a dense layer, on a sixteenth of the pixels."""

    @nn.compact
    def __call__(self, images, *, train):
        x = normalise(images[:, ::4, ::4, 0], PIXELS["half"]).reshape(images.shape[0], 49).T
        x = layers.Dense(16)(x)[:, None, None]  # [16, 1, 1, B]
        x = nn.relu(layers.BatchNorm()(x, train=train))
        return layers.Dense(10)(x[:, 0, 0]).T


MODEL = Tiny()


@functools.cache
def programs(model: nn.Module = MODEL, tx: optax.GradientTransformation = TX, **sizes) -> Programs:
    """What a user has: the result of `compiled`, compiled once for all tests of a process."""
    return compiled(model, tx, **{"batch_size": BATCH} | sizes)


def in_numpy(variables, images, statistics=None):
    """`Tiny` in numpy and float64: logits, and mean and variance of what is normalised.

    It normalises with `statistics`, or with those of the images.
    """
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    x = (np.asarray(images, np.float64)[:, ::4, ::4, 0] / 255 - 0.5) / 0.5
    x = x.reshape(-1, 49) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]  # [N, 16]
    mean, var = map(np.asarray, statistics or (x.mean(0), x.var(0)))
    norm = params["BatchNorm_0"]
    y = (x - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"]
    logits = np.maximum(y, 0) @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]
    return logits, x.mean(0), x.var(0, ddof=1)


def first(split, count):
    return jax.tree.map(lambda x: x[:count], split)


def assert_close(found, expected, tolerance=1e-5):
    """Within `tolerance`, and a loss summed over a split within some rounding errors of float32."""
    close = functools.partial(np.testing.assert_allclose, rtol=5e-7, atol=tolerance)
    jax.tree.map(close, found, expected)


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def distance(a, b) -> float:
    """Euclidean, over all leaves."""
    squares = jax.tree.map(lambda x, y: jnp.square(x - y).sum(), a, b)
    return float(sum(jax.tree.leaves(squares))) ** 0.5
