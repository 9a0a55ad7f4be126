"""The networks: what they are made of, their shapes, and which weights can learn."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax.model import PLACEMENTS, LeNet, ResidualBlock, summary

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
    return init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))


def images(batch: int) -> jax.Array:
    return jax.random.uniform(jax.random.key(1), (batch, 28, 28, 1), minval=-1.0)


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


@placements
def test_parameter_count(placement):
    leaves = jax.tree.leaves(initialised(placement)["params"])
    assert sum(leaf.size for leaf in leaves) == PARAMETERS[placement]


@placements
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("batch", [2, 5])
def test_logits(placement, train, batch):
    variables = initialised(placement)

    def apply(variables, images):
        return LeNet(placement).apply(variables, images, train=train, mutable=["batch_stats"])

    logits, updates = jax.eval_shape(apply, variables, images(batch))
    chex.assert_shape(logits, (batch, 10))
    chex.assert_type(logits, jnp.float32)
    chex.assert_trees_all_equal_shapes(
        updates.get("batch_stats", {}), variables.get("batch_stats", {})
    )


@placements
@pytest.mark.parametrize(
    "shape", [(28, 28, 1), (2, 28, 28), (2, 1, 28, 28), (2, 32, 32, 1), (2, 28, 28, 3)]
)
def test_wrong_image_shapes_raise(placement, shape):
    with pytest.raises(AssertionError, match="28, 28, 1"):
        LeNet(placement).apply(initialised(placement), jnp.zeros(shape), train=False)


@pytest.mark.parametrize("placement", CHANNELS)
def test_the_block_is_relu_of_input_plus_branch(placement):
    c = CHANNELS[placement]
    x = jax.random.normal(jax.random.key(2), (c, 4, 4, 3))
    block = ResidualBlock()
    variables = jax.jit(functools.partial(block.init, train=False))(jax.random.key(0), x)
    params = variables["params"] | {"bn2": {"scale": jnp.zeros(c), "bias": jnp.full(c, 0.25)}}
    y = jax.jit(functools.partial(block.apply, train=False))(variables | {"params": params}, x)
    np.testing.assert_array_equal(y, np.maximum(np.asarray(x) + np.float32(0.25), 0))


def kernel_gradients(placement) -> dict[str, np.ndarray]:
    """Of the block's two convolutions, [3, 3, C, C] each."""
    variables = initialised(placement)
    weights = jax.random.normal(jax.random.key(3), (64, 10))

    def loss(params):
        logits, _ = LeNet(placement).apply(
            variables | {"params": params}, images(64), train=True, mutable=["batch_stats"]
        )
        return (logits * weights).sum()

    block = jax.jit(jax.grad(loss))(variables["params"])["resnet_block"]
    return {name: np.asarray(block[name]["kernel"]) for name in ("conv1", "conv2")}


def test_dead_taps_of_the_block_after_fc1_have_exactly_zero_gradient():
    gradients = kernel_gradients("after_fc1")
    border = np.ones((3, 3), bool)
    border[1, 1] = False
    dead = np.concatenate([gradient[border].ravel() for gradient in gradients.values()])
    assert dead.size == 230_400
    assert np.all(dead == 0)
    for gradient in gradients.values():
        # A unit of fc1 that no image switches on stops its row; most are on for some image.
        assert np.mean(gradient[1, 1] != 0) > 0.5


def test_no_tap_of_the_block_before_fc1_is_dead():
    for gradient in kernel_gradients("before_fc1").values():
        assert np.all(np.any(gradient != 0, axis=(2, 3)))


@placements
def test_summary(placement):
    rows = {row.name: row for row in summary(placement)}
    names = ["conv1", "conv2", "fc1", "fc2", "fc3"]
    block = [f"resnet_block/{name}" for name in ("conv1", "bn1", "conv2", "bn2")]
    at = {"none": 2, "before_fc1": 2, "after_fc1": 3}[placement]
    assert list(rows) == names[:at] + (block if placement != "none" else []) + names[at:]
    assert sum(row.parameters for row in rows.values()) == PARAMETERS[placement]
    lenet = 24 * 24 * 25 * 6 + 8 * 8 * 150 * 16 + 256 * 120 + 120 * 84 + 84 * 10
    pixels = {"none": 0, "before_fc1": 16, "after_fc1": 1}[placement]
    convolutions = 2 * 9 * CHANNELS.get(placement, 0) ** 2 * pixels
    assert sum(row.multiply_adds for row in rows.values()) == lenet + convolutions
    assert [rows[name].shape for name in names] == [(6, 12, 12), (16, 4, 4), (120,), (84,), (10,)]
    if placement != "none":
        shape = {"before_fc1": (16, 4, 4), "after_fc1": (120, 1, 1)}[placement]
        assert {rows[name].shape for name in block} == {shape}
