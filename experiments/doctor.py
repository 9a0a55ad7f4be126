"""Checks the installation, a line each: exit status 0 if nothing is wrong, else 1.

    python -m experiments.doctor

It changes nothing and trains nothing. A line that begins with `wrong` says what to do.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from experiments.manifest import PACKAGES, threads
from mnist_jax import kernels, sources, xla_flags
from mnist_jax.data import dataset_folder


@dataclass(frozen=True)
class Config:
    """Check the installation."""

    data_dir: Path | None = None
    """TFDS's data directory; else TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    mirror: Path | None = None
    """A directory with the four original files; else MNIST_MIRROR."""
    compile_cache: Path | None = None
    """The directory given to `experiments.run --compile-cache`."""


class Finding(NamedTuple):
    """One line."""

    good: bool
    what: str
    found: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    wrong = 0
    for finding in examine(config):
        wrong += not finding.good
        console.print(f"{'ok   ' if finding.good else 'wrong'} {finding.what}: {finding.found}")
    return 1 if wrong else 0


def examine(config: Config) -> Iterator[Finding]:
    """All checks, in the order of what they stand on."""
    yield _versions()
    try:
        devices = jax.devices()
    except RuntimeError as error:
        yield Finding(False, "devices", str(error).partition("\n")[0])
        return
    kinds = ", ".join(f"{device.platform} ({device.device_kind})" for device in devices)
    yield Finding(True, "devices", kinds)
    yield Finding(True, "threads", f"{threads()} that this process may use")
    yield _flags()
    yield _attempt("large sums", _large_sums)
    yield _attempt("kernels", _kernels)
    yield _compile_cache(config.compile_cache)
    yield _data(config)


def _versions() -> Finding:
    found = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    untried = (
        "" if xla_flags.wanted() else "; on CPU 0.10 and 0.12 of jaxlib are faster than others"
    )
    return Finding(True, "versions", f"Python {sys.version.split()[0]}, {found}{untried}")


def _flags() -> Finding:
    """Whether each flag that this jaxlib should have is there with our value."""
    present = os.environ.get("XLA_FLAGS", "").split()
    absent = [flag for flag in xla_flags.wanted() if flag not in present]
    if absent:
        return Finding(False, "XLA flags", f"XLA_FLAGS overrides {' '.join(absent)}; remove it")
    return Finding(True, "XLA flags", " ".join(present) or "none")


def _attempt(what: str, check: Callable[[], str]) -> Finding:
    """`check` returns what it found, or raises AssertionError saying what is wrong."""
    try:
        return Finding(True, what, check())
    except AssertionError as error:
        return Finding(False, what, str(error))


def _large_sums() -> str:
    """The wrong result of jaxlib 0.10.2, jax issue 39103: a product, then a fused large sum."""
    rows = 32_769  # the first size at which a part of it was taken twice
    x = np.zeros((rows, 3), np.float32)
    x[:, 0] = np.arange(rows)
    squared_norm = jax.jit(jax.vmap(lambda row: jnp.square(jnp.eye(3) @ row).sum()))
    error = float(abs(squared_norm(x)[-1] / np.float32((rows - 1) ** 2) - 1))
    assert error < 1e-5, (
        f"a sum is off by {error:.1e} of itself, as in jax issue 39103: import mnist_jax before "
        "jax, and do not set --xla_cpu_experimental_ynn_fusion_type"
    )
    return f"right to {error:.0e} of the sum (jax issue 39103)"


def _kernels() -> str:
    """The form that this platform runs against the reference form, values and gradients."""
    rng = np.random.default_rng(0)
    x, kernel, bias, dy = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for shape in ((6, 12, 12, 8), (5, 5, 6, 16), (16,), (16, 4, 4, 8))
    )

    def outputs(function):
        y, pullback = jax.vjp(function, x, kernel, bias)
        return y, *pullback(dy)

    ours = jax.jit(lambda: outputs(kernels.conv_pool_relu))()
    reference = jax.jit(lambda: outputs(kernels.conv_pool_relu_reference))()
    worst = max(
        float(abs(a - b).max() / abs(b).max()) for a, b in zip(ours, reference, strict=True)
    )
    # A GPU may multiply in TensorFloat-32, with 10 bits of fraction.
    allowed = 1e-4 if jax.default_backend() == "cpu" else 1e-2
    assert worst < allowed, f"the convolution is off by {worst:.1e}: please report this"
    return f"the convolution and its gradients equal the reference form to {worst:.0e}"


def _compile_cache(directory: Path | None) -> Finding:
    if directory is None:
        return Finding(True, "compile cache", "off; --compile-cache DIR turns it on")
    if not directory.is_dir():
        return Finding(True, "compile cache", f"{directory} will be made by the first run")
    files = [path for path in directory.iterdir() if path.name.endswith("-cache")]
    size = sum(path.stat().st_size for path in files) / 2**20
    try:
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        return Finding(False, "compile cache", f"{directory} cannot be written: {error.strerror}")
    return Finding(True, "compile cache", f"{len(files)} programs, {size:.1f} MiB in {directory}")


def _data(config: Config) -> Finding:
    """The first source that would be used; the network is not tried."""
    folder = dataset_folder(config.data_dir)
    if folder.is_dir():
        return Finding(True, "data", f"prepared in {folder}")
    mirror = config.mirror or os.environ.get("MNIST_MIRROR")
    if mirror:
        names = sources.FILES.values()
        absent = [name for name in names if not (Path(mirror).expanduser() / name).is_file()]
        if absent:
            return Finding(False, "data", f"not in the mirror {mirror}: {', '.join(absent)}")
        return Finding(True, "data", f"not prepared; the first run reads the mirror {mirror}")
    return Finding(True, "data", f"not in {folder}; the first run fetches it from the network")


if __name__ == "__main__":
    sys.exit(main())
