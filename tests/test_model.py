"""The networks: what they are made of, their shapes, and which weights can learn."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax.model import PLACEMENTS, LeNet, NormReLU, ResidualBlock

PARAMETERS = {"none": 44_426, "before_fc1": 49_098, "after_fc1": 304_106}
LENET = {
    "conv1": {"kernel": (5, 5, 1, 6), "bias": (6,)},
    "conv2": {"kernel": (5, 5, 6, 16), "bias": (16,)},
    "fc1": {"kernel": (256, 120), "bias": (120,)},
    "fc2": {"kernel": (120, 84), "bias": (84,)},
    "fc3": {"kernel": (84, 10), "bias": (10,)},
}
CHANNELS = {"before_fc1": 16, "after_fc1": 120}
placements = pytest.mark.parametrize("placement", PLACEMENTS)


@functools.cache
def initialised(placement):
    init = jax.jit(functools.partial(LeNet(placement).init, train=False))
    return init(jax.random.key(0), images(1))


def images(batch: int) -> jax.Array:
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.integers(0, 256, (batch, 28, 28, 1), dtype=np.uint8))


@placements
def test_names_and_shapes(placement):
    variables = initialised(placement)
    params, batch_stats = dict(LENET), {}
    if placement != "none":
        c = CHANNELS[placement]
        conv, bn = {"kernel": (3, 3, c, c)}, {"scale": (c,), "bias": (c,)}
        params["resnet_block"] = {"conv1": conv, "bn1": bn, "conv2": conv, "bn2": bn}
        running = {"mean": (c,), "var": (c,)}
        batch_stats = {"resnet_block": {"bn1": running, "bn2": running}}
    assert jax.tree.map(jnp.shape, variables["params"]) == params
    assert jax.tree.map(jnp.shape, variables.get("batch_stats", {})) == batch_stats
    chex.assert_tree_all_finite(variables)
    chex.assert_type(jax.tree.leaves(variables), jnp.float32)
    leaves = jax.tree.leaves(variables["params"])
    assert sum(leaf.size for leaf in leaves) == PARAMETERS[placement]
    for train in (True, False):

        def apply(variables, images, train=train):
            return LeNet(placement).apply(variables, images, train=train, mutable=["batch_stats"])

        logits, updates = jax.eval_shape(apply, variables, images(5))
        chex.assert_shape(logits, (5, 10))
        chex.assert_type(logits, jnp.float32)
        assert jax.tree.map(jnp.shape, updates.get("batch_stats", {})) == batch_stats


def test_wrong_images_raise():
    """Of another shape, or scaled already."""
    for shape in ((28, 28, 1), (2, 1, 28, 28), (2, 32, 32, 1), (2, 28, 28, 3)):
        with pytest.raises(AssertionError, match="28, 28, 1"):
            LeNet("none").apply(initialised("none"), jnp.zeros(shape, jnp.uint8), train=False)
    with pytest.raises(AssertionError, match="uint8"):
        LeNet("none").apply(initialised("none"), jnp.zeros((2, 28, 28, 1)), train=False)


def test_an_unknown_placement_is_named():
    with pytest.raises(ValueError, match=r"none.*before_fc1.*after_fc1.*not 'before_fc2'"):
        LeNet("before_fc2").init(jax.random.key(0), images(1), train=False)


class TestArms:
    """The block taken apart, and networks that are as large without one."""

    def block(self, block, x, **changes):
        """The output of a block whose last layer adds `changes` and nothing else."""
        variables = jax.jit(functools.partial(block.init, train=False))(jax.random.key(0), x)
        params = variables["params"] | changes
        apply = jax.jit(functools.partial(block.apply, train=False))
        return apply(variables | {"params": params}, x)

    @pytest.mark.parametrize("shortcut", [True, False])
    @pytest.mark.parametrize("normalise", [True, False])
    def test_shortcut_and_normalisation_are_apart(self, shortcut, normalise):
        c, shift = 5, jnp.full(5, 0.25)
        x = jax.random.normal(jax.random.key(2), (c, 4, 4, 3))
        block = ResidualBlock(shortcut=shortcut, normalise=normalise)
        last = (
            {"bn2": {"scale": jnp.zeros(c), "bias": shift}}
            if normalise
            else {"conv2": {"kernel": jnp.zeros((3, 3, c, c)), "bias": shift}}
        )
        expected = np.maximum(np.asarray(x) * shortcut + np.float32(0.25), 0)
        np.testing.assert_array_equal(self.block(block, x, **last), expected)

    def test_without_normalisation_it_is_two_convolutions_with_bias(self):
        rng = np.random.default_rng(0)
        x, *kernels = (rng.normal(size=s) for s in ((5, 1, 1, 3), (3, 3, 5, 5), (3, 3, 5, 5)))
        biases = rng.normal(size=(2, 5))
        params = {
            name: {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
            for name, kernel, bias in zip(("conv1", "conv2"), kernels, biases, strict=True)
        }
        with jax.enable_x64(True):
            params = jax.tree.map(jnp.float64, params)
            y = ResidualBlock(normalise=False).apply({"params": params}, jnp.asarray(x), train=True)
        flat = x[:, 0, 0]  # on one pixel only the centre tap meets anything
        hidden = np.maximum(kernels[0][1, 1].T @ flat + biases[0][:, None], 0)
        expected = np.maximum(kernels[1][1, 1].T @ hidden + biases[1][:, None] + flat, 0)
        np.testing.assert_allclose(y[:, 0, 0], expected, rtol=1e-6)

    def test_normalisation_and_relu_alone(self):
        x = jax.random.normal(jax.random.key(2), (5, 4, 4, 3)) * 2 + 1
        variables = NormReLU().init(jax.random.key(0), x, train=True)
        assert jax.tree.map(jnp.shape, variables["params"]) == {
            "bn1": {"scale": (5,), "bias": (5,)}
        }
        y, _ = NormReLU().apply(variables, x, train=True, mutable=["batch_stats"])
        plain = np.asarray(x, np.float64)
        normal = plain - plain.mean((1, 2, 3), keepdims=True)
        normal /= np.sqrt(plain.var((1, 2, 3), keepdims=True) + 1e-5)
        np.testing.assert_allclose(y, np.maximum(normal, 0), atol=1e-5)

    @pytest.mark.parametrize(
        "model, parameters",
        [
            (LeNet("none", fc1_features=134), 49_200),
            (LeNet("none", fc1_features=206), 73_752),
            (LeNet("before_fc1", resnet_block=ResidualBlock(shortcut=False)), 49_098),
            # Normalisation has scale and bias; the convolutions alone have a bias.
            (LeNet("before_fc1", resnet_block=ResidualBlock(normalise=False)), 49_098 - 2 * 16),
            (LeNet("after_fc1", resnet_block=ResidualBlock(normalise=False)), 304_106 - 2 * 120),
            (LeNet("before_fc1", resnet_block=NormReLU()), 44_426 + 2 * 16),
            (LeNet("after_fc1", resnet_block=NormReLU()), 44_426 + 2 * 120),
        ],
    )
    def test_parameters(self, model, parameters):
        init = functools.partial(model.init, train=True)
        variables = jax.eval_shape(init, jax.random.key(0), images(2))
        assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters
        apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
        logits, _ = jax.eval_shape(apply, variables, images(2))
        assert logits.shape == (2, 10)

    @pytest.mark.parametrize("placement", CHANNELS)
    def test_an_arm_starts_from_the_baselines_weights(self, placement):
        """So that they are paired: what both networks have is drawn alike."""
        arm = LeNet(placement, resnet_block=ResidualBlock(shortcut=False))
        init = jax.jit(functools.partial(arm.init, train=False))
        chex.assert_trees_all_equal(init(jax.random.key(0), images(1)), initialised(placement))


def test_dead_taps_of_the_block_after_fc1_have_exactly_zero_gradient():
    variables = initialised("after_fc1")
    weights = jax.random.normal(jax.random.key(3), (64, 10))

    def loss(params):
        logits, _ = LeNet("after_fc1").apply(
            variables | {"params": params}, images(64), train=True, mutable=["batch_stats"]
        )
        return (logits * weights).sum()

    block = jax.jit(jax.grad(loss))(variables["params"])["resnet_block"]
    gradients = [np.asarray(block[name]["kernel"]) for name in ("conv1", "conv2")]
    border = np.ones((3, 3), bool)
    border[1, 1] = False
    dead = np.concatenate([gradient[border].ravel() for gradient in gradients])
    assert dead.size == 230_400
    assert np.all(dead == 0)
    for gradient in gradients:
        # A unit of fc1 that no image switches on stops its row; most are on for some image.
        assert np.mean(gradient[1, 1] != 0) > 0.5
