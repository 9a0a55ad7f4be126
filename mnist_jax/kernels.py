"""The two convolutions of the networks and batch normalisation: reference forms and fast forms.

Arrays are feature-major with the batch last, `[C, H, W, B]`: `C` channels, `H` by `W` pixels, `B`
images. The batch is the contiguous axis. Every shift, maximum and mask then works on whole vectors
of it, and a convolution is a product `[out, K] x [K, H*W*B]`.

XLA:CPU has no fast convolution inside a loop (jax issue 12868), so the fast forms contain none.
They are `jax.custom_vjp` functions made of gathers, products and elementwise operations, and
tests/test_kernels.py compares their values and gradients with the reference forms.

`jax.grad`, `jax.vjp` and gradients of gradients work through the fast forms; forward mode, as in
`jax.jvp`, raises a TypeError there and works through the reference forms alone.

`optimization_barrier` marks the arrays that must exist in memory. XLA would otherwise recompute
them in each consumer, or merge an axis on the way, which ends vectorisation.
"""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_CHWB = ("CHWN", "HWIO", "CHWN")
in_memory = lax.optimization_barrier  # marks an array that must exist in memory


# Convolution, pooling, ReLU.
#
# A pooled pixel sees 2x2 convolution outputs, and those see one 6x6 window of the input:
#
#     . . . . . .        the 5x5 kernel, laid out four times in
#     . o o o o o        the 6x6 window, once for each place of
#     . o o o o o        the 2x2 cell: (0,0), (0,1), (1,0) and,
#     . o o o o o        drawn here, (1,1)
#     . o o o o o
#     . o o o o o
#
# With the windows as columns the whole stage is one product, [36*C, 4*O]' x [36*C, P*Q*B], and the
# maximum of its four groups of rows. `P` by `Q` are the pooled pixels and `O` the channels of the
# output. It does 36/25 of the arithmetic of the convolution, at the speed of a matrix product.


def conv_pool_relu(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """5x5 convolution without padding, 2x2 max-pooling and ReLU.

    Where pooled values are equal, the first one, row by row, takes the gradient, as in PyTorch.

    Args:
      x: `[C, H, W, B]`, `H` and `W` even and at least 6.
      kernel: `[5, 5, C, O]`.
      bias: `[O]`.

    Returns:
      `[O, (H - 4) / 2, (W - 4) / 2, B]`.
    """
    return lax.platform_dependent(
        x, kernel, bias, cpu=conv_pool_relu_fast, default=conv_pool_relu_reference
    )


def conv_pool_relu_reference(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """`conv_pool_relu` made of stock operations."""
    conv = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=_CHWB)
    pooled = lax.reduce_window(
        conv, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    )  # [O, P, Q, B]
    return jax.nn.relu(pooled + bias[:, None, None, None])


def conv_pool_relu_fast(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """`conv_pool_relu` as one matrix product, or as one for each half of the batch.

    XLA divides a small operation between two threads badly or not at all, but it can run one
    operation on each thread. So the batch is computed in two halves if they are whole vectors of
    16. The halves do not meet between two such stages, because XLA removes a concatenation that the
    next split undoes. This shortens an epoch without a block by a sixth.
    """
    parts = 2 if x.shape[-1] % 32 == 0 else 1
    halves = [_conv_pool_relu(half, kernel, bias) for half in jnp.split(x, parts, axis=-1)]
    return jnp.concatenate(halves, axis=-1)


@jax.custom_vjp
def _conv_pool_relu(x, kernel, bias):
    return _conv_pool_relu_forward(x, kernel, bias)[0]


def _conv_pool_relu_forward(x, kernel, bias):
    channels, height, width, _ = x.shape
    rows, columns, features = (height - 4) // 2, (width - 4) // 2, kernel.shape[-1]
    windows = _gather_rows(x, _window_rows(channels, height, width))  # [36 C, P Q B]
    matrix = in_memory(_four_kernels(kernel))  # [36 C, 4 O]
    cell = in_memory(_transposed_times(matrix, windows)).reshape(4, features, -1)  # [4, O, P Q B]
    upper, lower = jnp.maximum(cell[0], cell[1]), jnp.maximum(cell[2], cell[3])
    largest = jnp.maximum(upper, lower) + bias[:, None]
    y = in_memory(jax.nn.relu(largest))  # [O, P Q B]
    # Which of the four the gradient goes to: the first maximum, or none (4) where ReLU is off.
    of_upper = jnp.where(cell[0] >= cell[1], 0, 1)
    of_lower = jnp.where(cell[2] >= cell[3], 2, 3)
    place = jnp.where(largest > 0, jnp.where(upper >= lower, of_upper, of_lower), 4)
    place = in_memory(place.astype(jnp.int8))  # [O, P Q B]
    return y.reshape(features, rows, columns, -1), (matrix, windows, place)


def _conv_pool_relu_backward(residuals, dy):
    matrix, windows, place = residuals
    features, rows, columns, _ = dy.shape
    dy = in_memory(dy.reshape(features, -1))  # [O, P Q B]
    dcell = jnp.stack([jnp.where(place == p, dy, 0) for p in range(4)])  # [4, O, P Q B]
    dcell = in_memory(dcell).reshape(4 * features, -1)
    dmatrix = _times_transposed(windows, dcell)  # [36 C, 4 O]
    dwindows = in_memory(matrix @ dcell)  # [36 C, P Q B]
    dx = _scatter_windows(dwindows.reshape(windows.shape[0], rows, columns, -1))
    return dx, _four_kernels_transposed(dmatrix), jnp.where(place < 4, dy, 0).sum(1)


_conv_pool_relu.defvjp(_conv_pool_relu_forward, _conv_pool_relu_backward)


def _four_kernels(kernel: jax.Array) -> jax.Array:
    """`[5, 5, C, O]` to `[36*C, 4*O]`: the kernel at each place of the 2x2 cell."""
    _, _, channels, features = kernel.shape
    placed = jnp.stack(
        [jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for i in (0, 1) for j in (0, 1)],
        axis=3,
    )  # [6, 6, C, 4, O]
    return placed.reshape(36 * channels, 4 * features)


def _four_kernels_transposed(dmatrix: jax.Array) -> jax.Array:
    """The adjoint of `_four_kernels`: `[36*C, 4*O]` to `[5, 5, C, O]`."""
    placed = dmatrix.reshape(6, 6, -1, 2, 2, dmatrix.shape[1] // 4)
    places = (placed[i : i + 5, j : j + 5, :, i, j] for i in (0, 1) for j in (0, 1))
    return functools.reduce(jnp.add, places)


@functools.cache
def _window_rows(channels: int, height: int, width: int) -> np.ndarray:
    """The row of `[C*H*W, B]` that holds each element of each 6x6 window: `[36*C, P, Q]`."""
    pixel = np.arange(channels * height * width, dtype=np.int32).reshape(channels, height, width)
    view = np.lib.stride_tricks.sliding_window_view(pixel, (6, 6), axis=(1, 2))[:, ::2, ::2]
    return view.transpose(3, 4, 0, 1, 2).reshape(36 * channels, *view.shape[1:3])


def _scatter_windows(dwindows: jax.Array) -> jax.Array:
    """The adjoint of gathering the 6x6 windows: `[36*C, P, Q, B]` to `[C, 2P+4, 2Q+4, B]`.

    Pixel (2i + s, 2j + t) lies in up to nine windows, at the places (2a + s, 2b + t) of them. So
    for each parity (s, t) the sum is one of nine shifted images of half the size.
    """
    _, rows, columns, batch = dwindows.shape
    place = dwindows.reshape(3, 2, 3, 2, -1, rows, columns, batch)  # [a, s, b, t, C, P, Q, B]
    shifted = [
        jnp.pad(place[a, :, b], ((0, 0),) * 3 + ((a, 2 - a), (b, 2 - b), (0, 0)))
        for a in range(3)
        for b in range(3)
    ]
    parity = functools.reduce(jnp.add, shifted)  # [s, t, C, P + 2, Q + 2, B]
    row = np.arange(math.prod(parity.shape[:-1]), dtype=np.int32).reshape(parity.shape[:-1])
    image = _gather_rows(parity, row.transpose(2, 3, 0, 4, 1))  # [C (P + 2), s (Q + 2) t B]
    return image.reshape(-1, 2 * rows + 4, 2 * columns + 4, batch)


# The residual block's 3x3 convolution.


def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """3x3 convolution with one pixel of zero padding and no bias.

    Args:
      x: `[C, H, W, B]`.
      kernel: `[3, 3, C, O]`, or `[1, 1, C, O]` for images of one pixel: their convolution reads the
        centre of a kernel alone.

    Returns:
      `[O, H, W, B]`.
    """
    if kernel.shape[:2] == (1, 1):
        return _centre_times(x, kernel[0, 0])
    return lax.platform_dependent(x, kernel, cpu=conv3x3_fast, default=conv3x3_reference)


def conv3x3_reference(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv3x3` by the stock operation."""
    return lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=_CHWB)


def conv3x3_fast(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv3x3` as one matrix product.

    In an image of one pixel only the kernel's centre meets anything but padding, so the convolution
    is a dense layer.
    """
    if x.shape[1:3] == (1, 1):
        return _centre_times(x, kernel[1, 1])
    return _conv3x3_many(x, kernel)


def _centre_times(x: jax.Array, centre: jax.Array) -> jax.Array:
    """The convolution of images `[C, 1, 1, B]` with a kernel whose centre is `[C, O]`."""
    chex.assert_shape(x, (None, 1, 1, None))
    return jnp.einsum("co,chwb->ohwb", centre, x)


@jax.custom_vjp
def _conv3x3_many(x, kernel):
    return _conv3x3_forward(x, kernel)[0]


def _conv3x3_forward(x, kernel):
    channels, height, width, batch = x.shape
    padded = in_memory(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))
    windows = _gather_rows(padded, _neighbour_rows(channels, height, width))  # [9 C, H W B]
    matrix = kernel.reshape(9 * channels, -1)  # [9 C, O]
    y = in_memory(_transposed_times(matrix, windows))  # [O, H W B]
    return y.reshape(-1, height, width, batch), (matrix, windows)


def _conv3x3_backward(residuals, dy):
    matrix, windows = residuals
    features, height, width, batch = dy.shape
    dy = in_memory(dy).reshape(features, -1)
    dkernel = _times_transposed(windows, dy)  # [9 C, O]
    dwindows = in_memory(matrix @ dy).reshape(3, 3, -1, height, width, batch)
    zero = jnp.zeros((), dy.dtype)
    shifted = (
        lax.pad(dwindows[a, b], zero, ((0, 0, 0), (a - 1, 1 - a, 0), (b - 1, 1 - b, 0), (0, 0, 0)))
        for a in range(3)
        for b in range(3)
    )
    return in_memory(functools.reduce(jnp.add, shifted)), dkernel.reshape(3, 3, -1, features)


_conv3x3_many.defvjp(_conv3x3_forward, _conv3x3_backward)


@functools.cache
def _neighbour_rows(channels: int, height: int, width: int) -> np.ndarray:
    """The row of the padded image that holds each element of each 3x3 window: `[9*C, H, W]`."""
    shape = (channels, height + 2, width + 2)
    pixel = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    view = np.lib.stride_tricks.sliding_window_view(pixel, (3, 3), axis=(1, 2))
    return view.transpose(3, 4, 0, 1, 2).reshape(9 * channels, height, width)


# Batch normalisation in training.


def batch_norm_reference(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`batch_norm` with the gradient that JAX derives."""
    mean = x.mean(1)  # [C]
    centred = x - mean[:, None]  # [C, N]
    var = jnp.square(centred).mean(1)  # [C]
    y = centred * (scale * lax.rsqrt(var + epsilon))[:, None] + bias[:, None]
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)


def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises each row, then scales and shifts it.

    This is algorithm 1 of Ioffe and Szegedy, "Batch normalization", 2015, with the gradient that
    they give after it.

    Args:
      x: `[C, N]`, the `N` values of each channel.
      scale: `[C]`.
      bias: `[C]`.
      epsilon: added to the variance.

    Returns:
      The result `[C, N]`, and the mean and the biased variance of each channel, `[C]` each, through
      which no gradient flows.
    """
    return _batch_norm(x, scale, bias, epsilon)


_batch_norm = jax.custom_vjp(batch_norm_reference, nondiff_argnums=(3,))


def _batch_norm_forward(x, scale, bias, epsilon):
    y, mean, var = batch_norm_reference(x, scale, bias, epsilon)
    return (y, mean, var), (x, scale, mean, lax.rsqrt(var + epsilon))


def _batch_norm_backward(epsilon, residuals, cotangents):
    del epsilon
    x, scale, mean, inverse_std = residuals
    dy = in_memory(cotangents[0])  # [C, N]
    normal = (x - mean[:, None]) * inverse_std[:, None]  # [C, N]
    dbias = dy.sum(1)  # [C]
    dscale = in_memory(dy * normal).sum(1)  # [C]
    mean_part = (dbias[:, None] + normal * dscale[:, None]) / x.shape[1]  # [C, N]
    return (scale * inverse_std)[:, None] * (dy - mean_part), dscale, dbias


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


# Shared by the convolutions.


def _gather_rows(x: jax.Array, rows: np.ndarray) -> jax.Array:
    """Gathers windows `[K, P*Q*B]` from images `[C, H, W, B]` by copying rows of `B` numbers."""
    flat = in_memory(x).reshape(-1, x.shape[-1])  # [C H W, B]
    copied = flat.at[rows.reshape(-1)].get(mode="promise_in_bounds")  # [K P Q, B]
    return in_memory(copied).reshape(rows.shape[0], -1)


def _transposed_times(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a.T @ b` for `[n, M]` and `[n, N]`."""
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())))


def _times_transposed(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a @ b.T` for `[M, n]` and `[N, n]`."""
    return lax.dot_general(a, b, (((1,), (1,)), ((), ())))
