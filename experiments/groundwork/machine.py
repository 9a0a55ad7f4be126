"""The machine that a command computes on: JAX's devices, compiled programs, and what it is.

Compiled programs are kept between starts. They are code that a later start runs, so only this user
may be able to write them.
"""

import logging
import os
import platform
import stat
import subprocess
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import jax

from experiments.groundwork.command import UsageError, refuse
from mnist_jax import compilation

MAX_CACHE_BYTES = 256 * 2**20  # JAX removes what was not used for longest; a run needs 2 MiB
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "chex", "tensorflow-datasets")
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class MachineOptions:
    """What a command computes on."""

    platform: Literal["cpu", "gpu", "tpu"] | None = None
    """Platform to compute on; by default the one that JAX prefers."""
    threads: int | None = None
    """Number of threads on the CPU, at least 1; by default one for each core."""


def cores() -> int:
    """The number of cores that this process may use; XLA and PyTorch start as many threads."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_to(threads: int | None) -> None:
    """Keeps this process to so many of its cores, before JAX or PyTorch start a thread for each.

    Raises:
      UsageError: there are not so many, or this system cannot keep a core idle.
    """
    most = cores()
    if threads is None or threads == most:
        return
    if not 1 <= threads <= most or not hasattr(os, "sched_setaffinity"):
        refuse("threads", f"from 1 to {most}, or {most} where no core can be kept idle", threads)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def start(options: MachineOptions | None = None, *, device_per_core: bool = False) -> list[Any]:
    """Starts JAX and makes it keep compiled programs.

    Args:
      options: what to compute on; None means what JAX prefers, with all cores.
      device_per_core: whether the CPU becomes a device for each core, unless XLA_FLAGS sets
        their number.

    Returns:
      The devices.

    Raises:
      UsageError: this machine has no such platform or number of cores.
    """
    options = options or MachineOptions()
    keep_to(options.threads)
    if options.platform:
        jax.config.update("jax_platforms", options.platform)
    if device_per_core and "xla_force_host_platform_device_count" not in os.environ.get(
        "XLA_FLAGS", ""
    ):
        jax.config.update("jax_num_cpu_devices", cores())
    keep_compiled_programs()
    try:
        return jax.devices()
    except (RuntimeError, AssertionError):  # JAX raises either where it lacks a platform
        wanted = jax.config.jax_platforms  # type: ignore[attr-defined]
        raise UsageError(
            f"JAX finds no device for {wanted!r}, which --platform or JAX_PLATFORMS asks for"
        ) from None


def keep_compiled_programs() -> None:
    """Makes JAX keep compiled programs in the user's cache directory, if that is the user's alone.

    A directory in `JAX_COMPILATION_CACHE_DIR` is used as it is, with the user's own settings.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    try:
        directory = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        directory /= "mnist_jax"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except (OSError, RuntimeError):  # a home that is absent or cannot be written
        return
    others = stat.S_IWGRP | stat.S_IWOTH
    if status.st_mode & others or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_compilation_cache_max_size", MAX_CACHE_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # small programs add up
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    # A full disk or a damaged entry costs a compilation and nothing else, so JAX need not say so
    # for each program.
    warnings.filterwarnings("ignore", message=".*persistent compilation cache")
    for name in ("jax._src.compilation_cache", "jax._src.compiler"):
        logging.getLogger(name).setLevel(logging.ERROR)


def manifest(data_sha256: Mapping[str, str]) -> dict[str, Any]:
    """What a result depends on besides its recipe and seed, as JSON values; unknown is None.

    Args:
      data_sha256: the digests of the data.
    """
    commit, dirty = git_state(ROOT)
    return {
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "threads": cores(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),  # the user's own
        "compile_options": compilation.options(),  # what our programs are compiled with
        "git_commit": commit,
        "git_dirty": dirty,
        "data_sha256": dict(data_sha256),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each difference of two manifests that can change a result, except the data."""
    ignored = {"git_commit", "git_dirty", "data_sha256"}
    return [
        f"{name} {before.get(name)} before, {value} now"
        for name, value in now.items()
        if name not in ignored and before.get(name) != value
    ]


def cpu_model() -> str | None:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine() or None


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """The commit that is checked out in a folder, and whether tracked files differ from it.

    Both are None if git is not installed, does not trust the folder, or finds that the folder is
    not the top of a checkout but lies in a checkout of something else.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != folder.resolve():
        return None, None
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return _git(folder, "rev-parse", "HEAD"), None if status is None else bool(status)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints of a folder; None if it fails."""
    # Git sets these for its hooks, and they would name another repository.
    others = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in others}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
