"""Each seed of mapped programs is its single run."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import BATCH, MODEL, TX, assert_equal, first, programs

from mnist_jax import parallel, train
from mnist_jax.data import Split
from mnist_jax.model import LeNet
from mnist_jax.programs import Programs

DEVICES = 2  # of the four that conftest.py asks for


@functools.cache
def over_seeds(model) -> Programs:
    mesh = parallel.seeds_mesh(jax.devices()[:DEVICES])
    return parallel.over_seeds(model, TX, mesh=mesh, batch_size=BATCH, test_batch_size=50)


@pytest.fixture(scope="module")
def split(synthetic) -> Split:
    return first(synthetic[0], 3 * BATCH)


def stacked(trees: list):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_map_seeds_keeps_the_order_and_drops_what_fills_up(count):
    """Whether the seeds divide by the four devices or not."""
    x = jnp.arange(count, dtype=jnp.float32)
    mesh = parallel.seeds_mesh()
    assert list(mesh.devices) == jax.devices() and mesh.size == 4
    result = parallel.map_seeds(lambda one, shared: one * shared, x, jnp.float32(3), mesh)
    np.testing.assert_array_equal(result, 3 * x)


def test_map_seeds_divides_the_work():
    """Two devices take half of the seeds each: the result lies on both."""
    mesh = parallel.seeds_mesh(jax.devices()[:2])
    result = parallel.map_seeds(lambda one, _: one + 1, jnp.zeros(6), (), mesh)
    assert [shard.data.shape for shard in result.addressable_shards] == [(3,), (3,)]


def test_a_device_that_is_no_cpu_takes_its_seeds_at_once(monkeypatch):
    """One that only says so: the program it gets has no loop, and the results are the same."""
    monkeypatch.setattr(jax, "shard_map", lambda function, **_: function)
    seeds, shared = jnp.arange(6.0).reshape(3, 2), jnp.float32(2)

    def program(platform):
        mesh = SimpleNamespace(size=1, devices=np.array([SimpleNamespace(platform=platform)]))
        return lambda *arguments: parallel.map_seeds(jnp.multiply, *arguments, mesh)

    for platform, loops in (("cpu", True), ("gpu", False)):
        np.testing.assert_array_equal(program(platform)(seeds, shared), 2 * seeds)
        assert ("scan" in str(jax.make_jaxpr(program(platform))(seeds, shared))) == loops


@pytest.mark.parametrize("model", [MODEL, LeNet("before_fc1")])
def test_each_seed_equals_its_single_run(split, model):
    """Three seeds on two devices; bit for bit, since both use the same threads."""
    single = programs(model, test_batch_size=50)
    states = [single.init_state(jax.random.key(seed)) for seed in range(3)]
    orders = [train.epoch_order(jax.random.key(10 + seed), 1, 3 * BATCH) for seed in range(3)]
    mesh = parallel.seeds_mesh(jax.devices()[:DEVICES])
    shared = parallel.replicate(split, mesh)
    ours = over_seeds(model).train_epoch(stacked(states), shared, jnp.stack(orders))
    pairs = zip(states, orders, strict=True)
    singles = [single.train_epoch(state, split, order) for state, order in pairs]
    assert_equal(ours, stacked(singles))
    assert len(set(np.asarray(ours[1].loss).tolist())) == 3

    if model is not MODEL:
        return
    keys = jnp.stack([jax.random.key(seed) for seed in range(3)])
    assert_equal(over_seeds(model).init_state(keys), stacked(states))
    variables = [train.variables_of(state) for state, _ in singles]
    for name in ("evaluate", "evaluate_batch", "recalibrate"):
        found = getattr(over_seeds(model), name)(stacked(variables), shared)
        assert_equal(found, stacked([getattr(single, name)(one, split) for one in variables]))
