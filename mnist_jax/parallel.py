"""The same epoch over a mesh of devices: many seeds side by side, or one seed's batches split.

`S` is the number of seeds, `N` the number of examples of a split and `B` the batch size. A mesh
has two axes: `seeds`, over which nothing is exchanged, and `batch`, whose devices share the
convolutions of each batch and then exchange features and gradients.
"""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mnist_jax import train
from mnist_jax.data import Split
from mnist_jax.metrics import Metrics
from mnist_jax.train import TrainState

SEEDS, BATCH = "seeds", "batch"


def make_mesh(devices: Sequence[jax.Device] | None = None, *, batch: int = 1) -> Mesh:
    """A mesh `[devices / batch, batch]`.

    On CPU give JAX a device for each core before it starts: `jax_num_cpu_devices`.

    Args:
      devices: all that JAX has, if None.
      batch: how many devices share the batches of each seed.

    Raises:
      ValueError: the devices cannot be divided so.
    """
    devices = jax.devices() if devices is None else devices
    if batch < 1 or len(devices) % batch:
        raise ValueError(f"{len(devices)} devices cannot be divided into groups of {batch}")
    return Mesh(np.asarray(devices).reshape(-1, batch), (SEEDS, BATCH))


def replicate(tree: chex.ArrayTree, mesh: Mesh) -> chex.ArrayTree:
    """Puts every array on every device, whole, so that no later call has to move it."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def map_seeds(
    function: Callable[[Any, Any], Any], mapped: chex.ArrayTree, shared: chex.ArrayTree, mesh: Mesh
) -> Any:
    """Calls `function(mapped[s], shared)` for every seed `s`, the seeds divided over the mesh.

    A CPU device takes its seeds one after another: a core is busy with one, and vectors over
    seeds are slower there. Other devices take theirs at once.

    Args:
      function: of one seed's arrays and the shared ones.
      mapped: arrays `[S, ...]`. `S` need not divide by the devices: the last seed fills up.
      shared: arrays that every seed sees.
      mesh: see `make_mesh`.

    Returns:
      The results, `[S, ...]`.
    """
    seeds = jax.tree.leaves(mapped)[0].shape[0]
    places = -(-seeds // mesh.shape[SEEDS]) * mesh.shape[SEEDS]
    filled = np.minimum(np.arange(places), seeds - 1)

    def of_device(mapped, shared):
        def of_seed(one):
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


def train_epoch(
    states: TrainState,
    split: Split,
    orders: jax.Array,
    *,
    mesh: Mesh,
    model: nn.Module,
    tx: optax.GradientTransformation,
    batch_size: int,
    mean: float,
    std: float,
) -> tuple[TrainState, Metrics]:
    """`train.train_epoch` of every seed.

    Args:
      states: arrays `[S, ...]`, where to start.
      split: images `[N, 28, 28, 1]` uint8 and labels `[N]`, see `replicate`.
      orders: `[S, N]` int32, a row a seed.
      mesh: see `make_mesh`.
      model: see `train.train_step`; with a batch axis it must have an attribute `axis_name`.
      tx: see `train.train_step`.
      batch_size: `B`, of all devices that share a batch together.
      mean: see `train.train_step`.
      std: see `train.train_step`.

    Returns:
      States and metrics, `[S, ...]`: those of `S` single runs.

    Raises:
      ValueError: a batch, the last one included, does not divide by the batch axis.
    """
    parts = mesh.shape[BATCH]
    if batch_size % parts or orders.shape[1] % batch_size % parts:
        raise ValueError(
            f"batches of {batch_size} and a last one of {orders.shape[1] % batch_size} do not "
            f"divide by {parts} devices"
        )

    if parts > 1:
        model = model.clone(axis_name=BATCH)
        tx = _of_summed_gradients(tx, model.shared_layers)

    def epoch(one, split):
        state, order = one
        return train.train_epoch(
            state, split, order, model=model, tx=tx, batch_size=batch_size, mean=mean, std=std
        )

    return map_seeds(epoch, (states, orders), split, mesh)


def _of_summed_gradients(
    tx: optax.GradientTransformation, layers: Sequence[str]
) -> optax.GradientTransformation:
    """The same optimiser; the gradients of some layers are first summed over the batch axis.

    One vector, one sum: on CPU a sum of few numbers takes as long as one of thousands.
    """

    def update(gradients, state, params=None):
        vector, unravel = ravel_pytree({layer: gradients[layer] for layer in layers})
        return tx.update(gradients | unravel(lax.psum(vector, BATCH)), state, params)

    return optax.GradientTransformation(tx.init, update)
