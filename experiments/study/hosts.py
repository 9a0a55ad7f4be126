"""Several hosts that train the runs of one study together; a single one needs none of this.

Every host computes its share of each group of seeds and learns the results of all. The first one
alone reads the command's directory for writing and prints.
"""

import os
from typing import Any

import jax
from jax.experimental import multihost_utils

from experiments.manifest import threads
from experiments.options import UsageError, refuse

_RANKS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK")  # Slurm's and Open MPI's number of a process


def use_every_core() -> None:
    """Gives JAX a CPU device for each core, unless XLA_FLAGS say how many; before JAX starts."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", threads())


def number(host: int | None) -> int:
    """Which host this is, from 0, before the hosts have met.

    Args:
      host: what the options say; if None, the scheduler's word counts.

    Raises:
      UsageError: the scheduler's word is no number.
    """
    return host or next(filter(None, (_scheduled(name) for name in _RANKS)), 0)


def meet(coordinator: str | None, hosts: int | None, host: int | None) -> None:
    """Joins the hosts that the options name, or a scheduler, if any do.

    Args:
      coordinator: address and port of host 0.
      hosts: how many there are.
      host: which one this is.

    Raises:
      UsageError: they did not meet.
    """
    scheduled = (_scheduled("SLURM_NTASKS") or 1) > 1 or "OMPI_COMM_WORLD_SIZE" in os.environ
    if coordinator is None and not scheduled:
        return
    try:
        jax.distributed.initialize(coordinator, hosts, host)
    except (RuntimeError, ValueError) as error:
        refuse("coordinator", f"an address where host 0 is reached ({error})", coordinator)


def is_first() -> bool:
    """Whether this is host 0, which writes."""
    return jax.process_index() == 0


def wait(reason: str) -> None:
    """Returns when every host has come here; `reason` names the place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(reason)


def fetch(tree: Any) -> Any:
    """A tree of arrays as numpy arrays, whole, on every host."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def _scheduled(name: str) -> int | None:
    """A number that a scheduler sets for each process; None without a scheduler."""
    word = os.environ.get(name)
    try:
        return int(word) if word else None
    except ValueError:
        raise UsageError(f"the environment variable {name} must be a number: {word}") from None
