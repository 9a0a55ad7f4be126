"""Each seed of mapped programs is its single run."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnist_jax import parallel, train
from mnist_jax.data import Split
from mnist_jax.model import PLACEMENTS, LeNet
from mnist_jax.programs import Programs, compiled

B = 64
SIZE = 2 * B + 32  # the last batch is partial
TX = optax.sgd(0.05, momentum=0.9)
single = functools.cache(
    lambda placement: compiled(LeNet(placement), TX, batch_size=B, test_batch_size=50)
)


@functools.cache
def over_seeds(placement: str) -> Programs:
    mesh = parallel.seeds_mesh(jax.devices()[:2])
    return parallel.over_seeds(LeNet(placement), TX, mesh=mesh, batch_size=B, test_batch_size=50)


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
    example = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.uint8)
    init = functools.partial(LeNet(placement).init, train=True)
    shapes = jax.eval_shape(init, jax.random.key(0), example)

    def state(seed):
        rng = np.random.default_rng(seed)
        draw = jax.tree.map(lambda x: jnp.asarray(rng.uniform(0, 0.1, x.shape), x.dtype), shapes)
        params = jax.tree.map(lambda x: 2 * x - 0.1, draw["params"])
        return train.start_from({**draw, "params": params}, TX)

    orders = [train.epoch_order(jax.random.key(100 + seed), 1, SIZE) for seed in range(count)]
    return [state(seed) for seed in range(count)], orders


def stacked(trees: list):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


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
    mesh = parallel.seeds_mesh(jax.devices()[:4])
    result = parallel.map_seeds(lambda one, shared: one * shared, x, jnp.float32(3), mesh)
    np.testing.assert_array_equal(result, 3 * x)


def test_map_seeds_divides_the_work():
    """Two devices take half of the seeds each: the result lies on both."""
    mesh = parallel.seeds_mesh(jax.devices()[:2])
    result = parallel.map_seeds(lambda one, _: one + 1, jnp.zeros(6), (), mesh)
    assert [shard.data.shape for shard in result.addressable_shards] == [(3,), (3,)]


def test_the_mesh_has_every_device_unless_told_otherwise():
    assert list(parallel.seeds_mesh().devices) == jax.devices()


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


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_each_seed_equals_its_single_run(split, placement):
    """Three seeds on two devices; bit for bit, since both use the same threads."""
    states, orders = seeds_of(placement, 3)
    programs = over_seeds(placement)
    shared = parallel.replicate(split, parallel.seeds_mesh(jax.devices()[:2]))
    ours = programs.train_epoch(stacked(states), shared, jnp.stack(orders))
    pairs = zip(states, orders, strict=True)
    singles = [single(placement).train_epoch(state, split, order) for state, order in pairs]
    assert_same(ours, stacked(singles))
    assert len(set(np.asarray(ours[1].loss).tolist())) == 3

    variables = [train.variables_of(state) for state, _ in singles]
    tested = programs.evaluate(stacked(variables), shared)
    assert_same(tested, stacked([single(placement).evaluate(one, split) for one in variables]))


@pytest.mark.parametrize("name", ["evaluate_batch", "recalibrate"])
def test_the_other_programs_too(split, name):
    states, _ = seeds_of("before_fc1", 3)
    variables = [train.variables_of(state) for state in states]
    expected = [getattr(single("before_fc1"), name)(one, split) for one in variables]
    shared = parallel.replicate(split, parallel.seeds_mesh(jax.devices()[:2]))
    mapped = getattr(over_seeds("before_fc1"), name)(stacked(variables), shared)
    assert_same(mapped, stacked(expected))


def test_initial_states_are_those_of_single_runs():
    keys = jax.random.split(jax.random.key(0), 3)
    ours = over_seeds("none").init_state(keys)
    assert_same(ours, stacked([single("none").init_state(key) for key in jax.random.clone(keys)]))
