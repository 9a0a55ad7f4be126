"""Lets several hosts train the runs of one study together.

Every host computes its share of each group of seeds and receives the results of all. Only the first
host, number 0, writes to the study's directory and prints. With a single host, `meet` and `wait`
do nothing.
"""

import os
from typing import Any

import jax
from jax.experimental import multihost_utils

from experiments.groundwork import cores
from experiments.groundwork.options import UsageError, refuse

_RANKS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK")  # Slurm's and Open MPI's number of a process


def use_every_core() -> None:
    """Gives JAX, before it starts, a CPU device for each core, unless XLA_FLAGS sets a number."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", cores.count())


def number(host: int | None) -> int:
    """The number of this host, from 0, before the hosts have met.

    Args:
      host: the number that the options give. If it is None, a scheduler's number counts if there
        is one.

    Raises:
      UsageError: what the scheduler has set is no number.
    """
    if host is not None:
        return host
    return next(filter(None, (_scheduled(name) for name in _RANKS)), 0)


def meet(coordinator: str | None, hosts: int | None, host: int | None) -> None:
    """Joins the other hosts if the options or a scheduler name several; else does nothing.

    Args:
      coordinator: address and port of host 0.
      hosts: the number of hosts.
      host: the number of this one, from 0.

    Raises:
      UsageError: the hosts could not be joined.
    """
    # A shell inside an allocation of Slurm knows the number of tasks, but belongs to no step.
    in_step = "SLURM_STEP_NODELIST" in os.environ
    tasks = in_step and _scheduled("SLURM_NTASKS"), _scheduled("OMPI_COMM_WORLD_SIZE")
    if coordinator is None and not any(number and number > 1 for number in tasks):
        return
    # It would catch SIGTERM, in place of our own handler, and wait for a step that never comes.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator, hosts, host)
    except (RuntimeError, ValueError) as error:
        refuse("coordinator", f"an address where host 0 is reached ({error})", coordinator)


def is_first() -> bool:
    """Whether this is host 0, which alone writes."""
    return jax.process_index() == 0


def wait(reason: str) -> None:
    """Waits until every host has called this function with the same `reason`."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(reason)


def fetch(tree: Any) -> Any:
    """Returns a tree of arrays as whole numpy arrays on every host."""
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
