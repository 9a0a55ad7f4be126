"""The layers against PyTorch's rules, written out in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mnist_jax import layers

SHAPE = (3, 4, 5, 6)  # [C, H, W, B]


@pytest.mark.parametrize(
    "layer, shape, fan_in",
    [
        (layers.ConvPoolReLU(200), (3, 6, 6, 2), 5 * 5 * 3),
        (layers.Conv3x3(), (24, 2, 2, 2), 3 * 3 * 24),
        (layers.Conv3x3(use_bias=True), (24, 2, 2, 2), 3 * 3 * 24),
        (layers.Dense(600), (50, 2), 50),
    ],
)
def test_initial_values_are_uniform_in_the_bound(layer, shape, fan_in):
    params = jax.jit(layer.init)(jax.random.key(0), jnp.zeros(shape))["params"]
    bound = fan_in**-0.5
    uniform = stats.uniform(-bound, 2 * bound)
    for name, values in params.items():
        assert np.abs(values).max() <= bound, name
        assert stats.kstest(np.ravel(values), uniform.cdf).pvalue > 0.01, name


def test_dense():
    x, kernel, bias = (np.random.default_rng(0).normal(size=s) for s in ((3, 4), (3, 2), (2,)))
    with jax.enable_x64(True):
        y = layers.Dense(2).apply({"params": {"kernel": kernel, "bias": bias}}, jnp.asarray(x))
    np.testing.assert_allclose(y, kernel.T @ x + bias[:, None], rtol=1e-12)


class TestBatchNorm:
    """`x` is [C, H, W, B]; everything is per channel."""

    scale = np.array([0.5, 1, 2])
    bias = np.array([0, 1, -1.0])

    def batch(self, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return rng.normal([[[[3]]], [[[-2]]], [[[0]]]], [[[[1]]], [[[2]]], [[[5]]]], SHAPE)

    def variables(self, mean, var):
        return {
            "params": {"scale": jnp.asarray(self.scale), "bias": jnp.asarray(self.bias)},
            "batch_stats": {"mean": jnp.asarray(mean), "var": jnp.asarray(var)},
        }

    def normalised(self, x, mean, var):
        mean, var, scale, bias = (
            v[:, None, None, None] for v in (mean, var, self.scale, self.bias)
        )
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    def test_training_uses_the_biased_variance_and_keeps_the_unbiased_one(self):
        mean, var = np.zeros(3), np.ones(3)
        with jax.enable_x64(True):
            variables = self.variables(mean, var)
            for seed in range(3):
                x = self.batch(seed)
                y, updates = layers.BatchNorm().apply(
                    variables, jnp.asarray(x), train=True, mutable=["batch_stats"]
                )
                biased = x.var((1, 2, 3))
                expected = self.normalised(x, x.mean((1, 2, 3)), biased)
                np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12)
                mean = 0.9 * mean + 0.1 * x.mean((1, 2, 3))
                var = 0.9 * var + 0.1 * x.var((1, 2, 3), ddof=1)
                running = updates["batch_stats"]
                np.testing.assert_allclose(running["mean"], mean, rtol=1e-12)
                np.testing.assert_allclose(running["var"], var, rtol=1e-12)
                variables |= updates

    def test_the_batchs_own_moments_are_given_to_who_asks(self):
        x = self.batch(0)
        with jax.enable_x64(True):
            variables = self.variables([5.0] * 3, [7.0] * 3)
            apply = functools.partial(layers.BatchNorm().apply, variables, jnp.asarray(x))
            y, updates = apply(train=True, mutable=["batch_stats", "batch_moments"])
            unasked, running = apply(train=True, mutable=["batch_stats"])
        np.testing.assert_array_equal(y, unasked)
        jax.tree.map(np.testing.assert_array_equal, updates.pop("batch_stats"), *running.values())
        moments = updates["batch_moments"]
        np.testing.assert_allclose(moments["mean"], x.mean((1, 2, 3)), rtol=1e-12)
        np.testing.assert_allclose(moments["var"], x.var((1, 2, 3), ddof=1), rtol=1e-12)

    def test_evaluation_uses_the_running_statistics_and_leaves_them(self):
        mean, var = np.array([1, 2, 3.0]), np.array([0.5, 4, 9])
        x = self.batch(0)
        with jax.enable_x64(True):
            y, updates = layers.BatchNorm().apply(
                self.variables(mean, var), jnp.asarray(x), train=False, mutable=["batch_stats"]
            )
        np.testing.assert_allclose(y, self.normalised(x, mean, var), rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(updates["batch_stats"]["mean"], mean)
        np.testing.assert_array_equal(updates["batch_stats"]["var"], var)

    def test_variance_survives_a_large_mean(self):
        # The mean of the squares less the square of the mean would lose all digits here.
        x = jnp.asarray(self.batch(0) + 10_000, jnp.float32)
        variables = jax.tree.map(
            lambda v: v.astype(jnp.float32), self.variables([0.0] * 3, 3 * [1.0])
        )
        _, updates = layers.BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])
        expected = 0.9 + 0.1 * np.asarray(x, np.float64).var((1, 2, 3), ddof=1)
        np.testing.assert_allclose(updates["batch_stats"]["var"], expected, rtol=1e-3)

    def test_one_value_a_channel_cannot_be_trained_on(self):
        layer = layers.BatchNorm()
        one = jnp.ones((3, 1, 1, 1))
        variables = layer.init(jax.random.key(0), one, train=False)
        with pytest.raises(ValueError, match=r"one value a channel.*\(3, 1, 1, 1\)"):
            layer.apply(variables, one, train=True, mutable=["batch_stats"])
        assert layer.apply(variables, one, train=False).shape == one.shape
        for shape in ((3, 1, 1, 2), (3, 1, 2, 1)):
            layer.apply(variables, jnp.ones(shape), train=True, mutable=["batch_stats"])
