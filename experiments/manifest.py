"""What a result depends on besides its configuration: versions, machine, flags, commit, data."""

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "chex", "tensorflow-datasets")


def manifest(digests: Mapping[str, str]) -> dict[str, Any]:
    """Everything as plain JSON values; `digests` are the data's, see `data.digests`."""
    return {
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "threads": threads(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": None if (status := _git("status", "--porcelain")) is None else bool(status),
        "data_sha256": dict(digests),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two manifests and can change a result, a line each; not the data."""
    was, found = before["packages"], now["packages"]
    lines = [f"{p} {was.get(p)} before, {found[p]} now" for p in found if was.get(p) != found[p]]
    names = ("python", "platform", "cpu", "threads", "devices", "xla_flags")
    return lines + [
        f"{name} {before.get(name)} before, {now[name]} now"
        for name in names
        if before.get(name) != now[name]
    ]


def threads() -> int:
    """The cores that this process may use: as many threads as XLA and PyTorch start."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    """What git prints in the project's folder; None without git or outside a checkout."""
    folder = Path(__file__).parents[1]
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
