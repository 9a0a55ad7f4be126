"""The programs of `train` for many seeds side by side, on several devices.

`S` is the number of seeds and `N` the number of examples of a split. The network needs no change.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mnist_jax import compilation, train
from mnist_jax.data import Split
from mnist_jax.metrics import Metrics
from mnist_jax.programs import Programs, uncompiled
from mnist_jax.train import TrainState, Variables

SEEDS = "seeds"
Devices = Sequence[Any]  # of `jax.Device`, which jaxlib does not declare as a type


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a whole copy of every array on every device, so that no later call has to move it."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def seeds_mesh(devices: Devices | None = None) -> Mesh:
    """Makes the mesh of devices over which `over_seeds` divides the seeds.

    Args:
      devices: the devices; None means all that JAX has. On CPU, set the JAX option
        `jax_num_cpu_devices` to the number of cores before JAX starts, or it has only one.
    """
    return Mesh(np.asarray(jax.devices() if devices is None else devices), (SEEDS,))


def over_seeds(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    mesh: Mesh,
    batch_size: int = 64,
    test_batch_size: int = train.TEST_BATCH_SIZE,
) -> Programs:
    """Compiles the programs of `programs.compiled` for many seeds at once.

    States, keys, orders and results have a leading axis of `S` seeds: `[S, ...]`. The seeds are
    divided over the mesh and exchange nothing. On CPU each one's results are those of a single run,
    bit for bit; other devices compute several seeds at once, and may round differently.
    `S` need not be a multiple of the number of devices. `programs.fit` runs one seed, so a study
    calls these programs itself.

    Args:
      model: the network.
      tx: the optimiser.
      mesh: the devices, from `seeds_mesh`. Pass splits that `replicate` has put there.
      batch_size: images of one seed in a batch of training, `evaluate_batch` and `recalibrate`.
      test_batch_size: images of one seed that `evaluate` computes at once.
    """
    one = uncompiled(model, tx, batch_size=batch_size, test_batch_size=test_batch_size)

    def init_state(keys: jax.Array) -> TrainState:
        return map_seeds(lambda key, _: one.init_state(key), keys, (), mesh)

    def train_epoch(
        states: TrainState, split: Split, orders: jax.Array
    ) -> tuple[TrainState, Metrics]:
        def epoch(mapped: tuple[TrainState, jax.Array], split: Split) -> Any:
            state, order = mapped
            return one.train_epoch(state, split, order)

        return map_seeds(epoch, (states, orders), split, mesh)

    def of_variables(function: Callable[[Variables, Split], Any]) -> Any:
        return lambda variables, split: map_seeds(function, variables, split, mesh)

    programs = Programs(
        init_state=init_state,
        train_epoch=train_epoch,
        evaluate=of_variables(one.evaluate),
        evaluate_batch=of_variables(one.evaluate_batch),
        recalibrate=of_variables(one.recalibrate),
    )
    return Programs(*map(compilation.jit, programs))


def map_seeds(function: Callable[[Any, Any], Any], mapped: Any, shared: Any, mesh: Mesh) -> Any:
    """Calls `function(mapped[s], shared)` for every seed `s`, the seeds divided over the mesh.

    A CPU device computes its seeds one after another, because one seed keeps a core busy and
    vectors over seeds are slower there. Other devices compute their seeds at once.

    Args:
      function: takes one seed's arrays and the shared ones.
      mapped: arrays `[S, ...]`. `S` need not be a multiple of the number of devices: copies of the
        last seed fill the places that are left, and their results are dropped.
      shared: arrays that every seed sees.
      mesh: the devices, from `seeds_mesh`.

    Returns:
      The results, `[S, ...]`.
    """
    seeds = jax.tree.leaves(mapped)[0].shape[0]
    places = -(-seeds // mesh.size) * mesh.size
    filled = np.minimum(np.arange(places), seeds - 1)

    def of_device(mapped: Any, shared: Any) -> Any:
        def of_seed(one: Any) -> Any:
            return function(one, shared)

        if mesh.devices.flat[0].platform == "cpu":
            return lax.map(of_seed, mapped)
        return jax.vmap(of_seed)(mapped)

    # `check_vma` would ask `train` to mark the constants it starts its scans from as varying over
    # a mesh it does not know.
    sharded = jax.shard_map(
        of_device, mesh=mesh, in_specs=(P(SEEDS), P()), out_specs=P(SEEDS), check_vma=False
    )
    results = sharded(jax.tree.map(lambda x: jnp.asarray(x)[filled], mapped), shared)
    return jax.tree.map(lambda x: x[:seeds], results)
