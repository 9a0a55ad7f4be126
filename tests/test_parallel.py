"""Each seed of a mapped epoch is its single run; a split batch is the whole batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnist_jax import parallel, train
from mnist_jax.data import Split
from mnist_jax.model import PLACEMENTS, LeNet

B = 64
SIZE = 2 * B + 32  # the last batch is partial
TX = optax.sgd(0.05, momentum=0.9)
SETTINGS = {"tx": TX, "batch_size": B, "mean": 0.5, "std": 0.5}
ONE = {
    placement: jax.jit(functools.partial(train.train_epoch, model=LeNet(placement), **SETTINGS))
    for placement in PLACEMENTS
}


@pytest.fixture(scope="module")
def split() -> Split:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (SIZE, 28, 28, 1), dtype=np.uint8)
    return Split(images, rng.integers(0, 10, SIZE, dtype=np.int32))


@functools.cache
def seeds_of(placement: str, count: int) -> tuple[list[train.TrainState], list[jax.Array]]:
    """States and orders that differ from seed to seed.

    Weights come from numpy: JAX would compile its generator for each shape.
    """
    example = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32)
    init = functools.partial(LeNet(placement).init, train=True)
    shapes = jax.eval_shape(init, jax.random.key(0), example)

    def state(seed):
        rng = np.random.default_rng(seed)
        draw = jax.tree.map(lambda x: jnp.asarray(rng.uniform(0, 0.1, x.shape), x.dtype), shapes)
        params = jax.tree.map(lambda x: 2 * x - 0.1, draw["params"])
        return train.start_from({**draw, "params": params}, TX)

    orders = [train.epoch_order(jax.random.key(100 + seed), 1, SIZE) for seed in range(count)]
    return [state(seed) for seed in range(count)], orders


def stacked(trees: list) -> object:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def mapped_epoch(placement: str, mesh: jax.sharding.Mesh, states, orders, split):
    epoch = functools.partial(parallel.train_epoch, mesh=mesh, model=LeNet(placement), **SETTINGS)
    return jax.jit(epoch)(stacked(states), parallel.replicate(split, mesh), jnp.stack(orders))


def assert_same(ours, theirs, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Equal, leaf by leaf; the structures too."""
    compare = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    jax.tree.map(compare, ours, theirs)


def test_there_are_four_devices():
    """The other tests would mean little on one; conftest.py asks for four."""
    assert len(jax.devices()) >= 4


@pytest.mark.parametrize("count", [1, 3, 5])
def test_map_seeds_keeps_the_order_and_drops_what_fills_up(count):
    """Whether the seeds divide by the four devices or not."""
    x = jnp.arange(count, dtype=jnp.float32)
    mesh = parallel.make_mesh(jax.devices()[:4])
    result = parallel.map_seeds(lambda one, shared: one * shared, x, jnp.float32(3), mesh)
    np.testing.assert_array_equal(result, 3 * x)


def test_map_seeds_divides_the_work():
    """Two devices take half of the seeds each: the result lies on both."""
    mesh = parallel.make_mesh(jax.devices()[:2])
    result = parallel.map_seeds(lambda one, _: one + 1, jnp.zeros(6), (), mesh)
    assert [shard.data.shape for shard in result.addressable_shards] == [(3,), (3,)]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_each_seed_equals_its_single_run(split, placement):
    """Three seeds on two devices; bit for bit, since both use the same threads."""
    states, orders = seeds_of(placement, 3)
    mesh = parallel.make_mesh(jax.devices()[:2])
    ours = mapped_epoch(placement, mesh, states, orders, split)
    singles = [ONE[placement](s, split, o) for s, o in zip(states, orders, strict=True)]
    assert_same(ours, stacked(singles))
    assert len(set(np.asarray(ours[1].loss).tolist())) == 3


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_split_batch_equals_the_whole_one(split, placement, devices):
    """Three steps, the last on a partial batch: parameters, momentum, statistics, metrics."""
    states, orders = seeds_of(placement, 1)
    mesh = parallel.make_mesh(jax.devices()[:devices], batch=devices)
    ours = mapped_epoch(placement, mesh, states, orders, split)
    theirs = ONE[placement](states[0], split, orders[0])
    assert_same(ours, stacked([theirs]), rtol=1e-4, atol=3e-6)


def test_seeds_and_batches_share_a_mesh(split):
    """Two seeds, two devices each."""
    states, orders = seeds_of("after_fc1", 2)
    mesh = parallel.make_mesh(jax.devices()[:4], batch=2)
    ours = mapped_epoch("after_fc1", mesh, states, orders, split)
    singles = [ONE["after_fc1"](s, split, o) for s, o in zip(states, orders, strict=True)]
    assert_same(ours, stacked(singles), rtol=1e-4, atol=3e-6)


def test_a_batch_that_does_not_divide_is_refused(split):
    """The last batch has 30 images, and 4 devices."""
    states, orders = seeds_of("none", 1)
    mesh = parallel.make_mesh(jax.devices()[:4], batch=4)
    with pytest.raises(ValueError, match="batches of 64 and a last one of 30 do not divide by 4"):
        mapped_epoch("none", mesh, states, [orders[0][: B + 30]], split)


def test_devices_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="3 devices cannot be divided into groups of 2"):
        parallel.make_mesh(jax.devices()[:3], batch=2)
