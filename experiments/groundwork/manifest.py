"""What a result depends on besides its options: versions, machine, compiler, commit, data."""

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from experiments.groundwork import cores
from mnist_jax import compilation

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "chex", "tensorflow-datasets")
ROOT = Path(__file__).parents[2]


def manifest(digests: Mapping[str, str], *, threads: int | None = None) -> dict[str, Any]:
    """Returns all of these as plain JSON values; what cannot be found out is None.

    Args:
      digests: SHA-256 of the data's arrays, from `data.digests`.
      threads: the number that JAX was started with; by default one for each core.
    """
    commit, dirty = git_state(ROOT)
    return {
        "packages": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "threads": threads or cores.count(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),  # the user's own
        "compile_options": compilation.options(),  # what our programs are compiled with
        "git_commit": commit,
        "git_dirty": dirty,
        "data_sha256": dict(digests),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each difference of two manifests that can change a result, except the data."""
    lines = []
    for name in (
        "packages",
        "python",
        "platform",
        "cpu",
        "threads",
        "devices",
        "xla_flags",
        "compile_options",
    ):
        old, new = before.get(name), now[name]
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            for key in dict.fromkeys((*old, *new)):
                lines += _difference(key, old.get(key), new.get(key))
        else:
            lines += _difference(name, old, new)
    return lines


def versions() -> dict[str, str | None]:
    """The installed version of each package that a result depends on; None for an absent one."""
    return {name: _version(name) for name in PACKAGES}


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
    """The commit that is checked out in a folder, and whether files differ from it.

    Both are None if git is not installed, does not trust the folder, or finds that the folder is
    not the top of a checkout but lies in a checkout of something else.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != folder.resolve():
        return None, None
    status = _git(folder, "status", "--porcelain")
    return _git(folder, "rev-parse", "HEAD"), None if status is None else bool(status)


def _difference(name: str, before: object, now: object) -> list[str]:
    return [] if before == now else [f"{name} {before} before, {now} now"]


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
