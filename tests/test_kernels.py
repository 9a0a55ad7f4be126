"""Each kernel's fast form against its reference form: values, gradients, transformations.

Small integers make float32 exact. Both forms must then agree to the last bit, ties included; with
random numbers the tests allow for rounding. Both are compiled as `programs.compiled` compiles them.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax import compilation, kernels

POOL_SHAPES = {  # (C, H, W, O)
    "conv1": (1, 28, 28, 6),
    "conv2": (6, 12, 12, 16),
    "odd": (3, 8, 10, 5),
    "smallest": (1, 6, 6, 1),
}
BLOCK_SHAPES = {  # (C, H, W, O)
    "before_fc1": (16, 4, 4, 16),
    "after_fc1": (120, 1, 1, 120),
    "odd": (3, 5, 2, 7),
    "odd 1x1": (5, 1, 1, 3),
}
POOL = (kernels.conv_pool_relu_fast, kernels.conv_pool_relu_reference)
BLOCK = (kernels.conv3x3_fast, kernels.conv3x3_reference)
NORM = tuple(
    functools.partial(form, epsilon=1e-5)
    for form in (kernels.batch_norm, kernels.batch_norm_reference)
)


def integers(rng, *shape):
    return rng.integers(-4, 5, shape).astype(np.float32)


def normal(rng, *shape):
    return rng.normal(size=shape)


def pool_inputs(draw, shape, batch, *lead):
    """Input, kernel, bias and the gradient of the result."""
    rng = np.random.default_rng(batch)
    c, h, w, o = shape
    shapes = (c, h, w, batch), (5, 5, c, o), (o,), (o, (h - 4) // 2, (w - 4) // 2, batch)
    return [draw(rng, *lead, *s) for s in shapes]


def block_inputs(draw, shape, batch, *lead):
    """Input, kernel and the gradient of the result."""
    rng = np.random.default_rng(batch)
    c, h, w, o = shape
    return [draw(rng, *lead, *s) for s in ((c, h, w, batch), (3, 3, c, o), (o, h, w, batch))]


def norm_inputs(shape):
    """Input, scale, bias and the gradients of the three results."""
    rng = np.random.default_rng(0)
    x, dy = rng.normal(3, 2, shape), rng.normal(size=shape)
    scale, bias, *unused = rng.normal(size=(4, shape[0]))
    return x, scale, bias, (dy, *unused)


def gradients_too(form, *inputs_and_dy):
    *inputs, dy = inputs_and_dy
    y, vjp = jax.vjp(form, *inputs)
    return y, *vjp(dy)


value_and_gradients = compilation.jit(gradients_too, static_argnums=0)


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def assert_close(found, expected, relative):
    """Within `relative` of the largest element: sums of many terms cancel in the small ones."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=relative * np.abs(b).max())


# Whole vectors of 16 in each half of the batch, whole vectors in an odd number, neither, and one.
@pytest.mark.parametrize(
    "shape, batch",
    [("conv1", 64), ("conv2", 16), ("odd", 32), ("odd", 100), ("odd", 2), ("smallest", 1)],
)
def test_pooling_stage(shape, batch):
    """On integers to the last bit. In float32 where two pooled values nearly tie, rounding decides
    which takes the gradient, so random numbers are in float64."""
    inputs = pool_inputs(integers, POOL_SHAPES[shape], batch)
    fast, reference = (value_and_gradients(form, *inputs) for form in POOL)
    assert_equal(fast, reference)
    assert all(np.any(array) for array in reference)
    with jax.enable_x64(True):
        inputs = pool_inputs(normal, POOL_SHAPES[shape], batch)
        fast, reference = (value_and_gradients(form, *inputs) for form in POOL)
        assert reference[0].dtype == np.float64
        assert_close(fast, reference, 1e-12)


@pytest.mark.parametrize(
    "shape, batch",
    [("before_fc1", 64), ("after_fc1", 32), ("odd", 32), ("odd", 1), ("odd 1x1", 2)],
)
def test_3x3(shape, batch):
    inputs = block_inputs(normal, BLOCK_SHAPES[shape], batch)
    for dtype, relative in ((np.float32, 2e-6), (np.float64, 1e-12)):
        with jax.enable_x64(dtype == np.float64):
            given = [x.astype(dtype) for x in inputs]
            fast, reference = (value_and_gradients(form, *given) for form in BLOCK)
            assert_close(fast, reference, relative)
    taps = np.asarray(fast[-1]).any((2, 3))
    assert taps.sum() == (1 if "1" in shape and shape != "before_fc1" else 9) and taps[1, 1]


@pytest.mark.parametrize("shape", [(16, 1024), (120, 64), (5, 33)])  # [C, N]
def test_batch_norm(shape):
    for dtype, relative in ((np.float32, 5e-6), (np.float64, 1e-12)):
        with jax.enable_x64(dtype == np.float64):
            given = jax.tree.map(lambda x, dtype=dtype: x.astype(dtype), norm_inputs(shape))
            *inputs, cotangents = given
            fast, reference = (value_and_gradients(form, *inputs, cotangents) for form in NORM)
            assert_close(fast, reference, relative)
    dy, *statistics = cotangents  # through these no gradient flows
    for form in NORM:
        _, *gradients = value_and_gradients(form, *inputs, (0 * dy, *statistics))
        assert not any(np.any(gradient) for gradient in gradients)


@pytest.mark.parametrize("form", POOL)
def test_first_of_equal_maxima_takes_the_gradient(form):
    # A kernel that copies its first pixel makes the 2x2 corner of the image the only pooled cell.
    cells = np.array(list(itertools.product([0, 1], repeat=4)), np.float32)  # [B, 4]
    x = np.zeros((1, 6, 6, len(cells)), np.float32)
    x[0, :2, :2] = cells.T.reshape(2, 2, -1)
    kernel = np.zeros((5, 5, 1, 1), np.float32)
    kernel[0, 0] = 1
    bias = np.ones(1, np.float32)
    dy = np.full((1, 1, 1, len(cells)), 3, np.float32)
    _, dx, _, _ = value_and_gradients(form, x, kernel, bias, dy)
    expected = np.zeros_like(x)
    for image, place in enumerate(cells.argmax(1)):  # argmax is the first, too
        expected[0, place // 2, place % 2, image] = 3
    np.testing.assert_array_equal(dx, expected)


@pytest.mark.parametrize("form", POOL)
def test_relu_at_zero_passes_no_gradient(form):
    x, kernel = np.ones((1, 6, 6, 1), np.float32), np.ones((5, 5, 1, 1), np.float32)
    dy = np.ones((1, 1, 1, 1), np.float32)
    for bias, live in ((-25, False), (-24, True)):
        _, *gradients = value_and_gradients(form, x, kernel, np.full(1, bias, np.float32), dy)
        assert [bool(np.any(gradient)) for gradient in gradients] == [live] * 3


CHOSEN = [  # by platform, the two forms, and inputs
    (kernels.conv_pool_relu, POOL, pool_inputs(integers, (3, 8, 10, 5), 2)),
    (kernels.conv3x3, BLOCK, block_inputs(integers, (3, 5, 2, 7), 2)),
    (kernels.conv3x3, BLOCK, block_inputs(integers, (5, 1, 1, 3), 2)),
]


@pytest.mark.parametrize("chosen, forms, inputs", CHOSEN)
def test_the_form_chosen_by_platform(chosen, forms, inputs):
    """It equals both, and on CPU nothing of it is a convolution or a scatter."""

    def convolutions_and_scatters(form):
        program = value_and_gradients.trace(form, *inputs).lower(lowering_platforms=("cpu",))
        return [word for word in ("stablehlo.convolution", "scatter") if word in program.as_text()]

    found = value_and_gradients(chosen, *inputs)
    for form in forms:
        assert_equal(found, value_and_gradients(form, *inputs))
    assert convolutions_and_scatters(chosen) == []
    assert "stablehlo.convolution" in convolutions_and_scatters(forms[1])


@pytest.mark.parametrize(
    "form, inputs",
    [
        (kernels.conv_pool_relu_fast, pool_inputs(integers, (3, 8, 10, 5), 2, 3)),
        (kernels.conv3x3_fast, block_inputs(integers, (3, 5, 2, 7), 2, 3)),
        (kernels.conv3x3_fast, block_inputs(integers, (5, 1, 1, 3), 2, 3)),
    ],
)
def test_mapped_and_scanned(form, inputs):
    """Three problems at once, each with a leading axis of 3; and three images of one network."""

    def step(carry, inputs):
        return carry, gradients_too(form, *inputs)

    one_by_one = [value_and_gradients(form, *(x[i] for x in inputs)) for i in range(3)]
    expected = jax.tree.map(lambda *arrays: np.stack(arrays), *one_by_one)
    mapped = jax.vmap(functools.partial(gradients_too, form))
    assert_equal(compilation.jit(mapped)(*inputs), expected)
    _, found = compilation.jit(lambda *inputs: jax.lax.scan(step, None, inputs))(*inputs)
    assert_equal(found, expected)
    x, *rest = inputs
    *weights, dy = (array[0] for array in rest)
    images = compilation.jit(jax.vmap(lambda x: gradients_too(form, x, *weights, dy)))(x)
    each = [value_and_gradients(form, image, *weights, dy) for image in x]
    assert_equal(images, jax.tree.map(lambda *arrays: np.stack(arrays), *each))


@pytest.mark.parametrize("chosen, forms, inputs", CHOSEN[:2])
def test_forward_mode_works_through_the_reference_alone(chosen, forms, inputs):
    """As the docstring says; gradients of gradients work. The Hessian, times a direction, twice."""
    x, *weights, _ = map(jnp.asarray, inputs)

    def gradient(form):
        return jax.grad(lambda x: jnp.square(form(x, *weights)).sum())

    def along(form):
        return jax.grad(lambda y: (gradient(form)(y) * x).sum())(x)

    found = compilation.jit(functools.partial(along, chosen), quickly=True)()
    forward = compilation.jit(lambda x: jax.jvp(gradient(forms[1]), [x], [x])[1], quickly=True)(x)
    np.testing.assert_allclose(found, forward, rtol=1e-5)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: chosen(x, *weights), [x], [x])
