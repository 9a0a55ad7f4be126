"""Checks the installation and prints one line for each check.

    python -m experiments.doctor

It trains nothing and prepares nothing. A line that begins with `wrong` says what to do. The exit
status is 0 if nothing is wrong, else 1.
"""

if __name__ == "__main__":
    from experiments.groundwork import stopping

    stopping.end_at_once()

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.groundwork import compile_cache, cores, options, terminal
from experiments.groundwork.manifest import versions
from experiments.groundwork.options import DataOptions, OptionalPath, UsageError
from mnist_jax import compilation, kernels, prepare, sources
from mnist_jax.data import dataset_folder
from mnist_jax.sources import DataError

TRY_TO_START = """
import jax
try:
    jax.devices()
except (RuntimeError, AssertionError):
    pass
print("started")
"""


@dataclass(frozen=True)
class Config:
    """Check the installation."""

    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    compile_cache: OptionalPath = None
    """Directory for compiled programs; by default mnist_jax in the user's cache directory."""


class Finding(NamedTuple):
    """What one check found, which is printed as one line."""

    good: bool
    what: str  # the name of the check
    found: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""

    def body() -> int:
        config = options.parse(Config, arguments, name="experiments.doctor", description=__doc__)
        console = terminal.console()
        wrong = 0
        for finding in examine(config.data.data_dir, config.data.mirror, config.compile_cache):
            wrong += not finding.good
            console.print(f"{'ok   ' if finding.good else 'wrong'} {finding.what}: {finding.found}")
        return options.FAILED if wrong else options.OK

    return options.run_command(body)


def examine(data_dir: Path | None, mirror: Path | None, cache: Path | None) -> Iterator[Finding]:
    """Does all checks; each one comes after those that it depends on.

    Args:
      data_dir: the data directory of TensorFlow Datasets; None means the default.
      mirror: a directory with the original files; None means `MNIST_MIRROR`.
      cache: the directory for compiled programs; None means the default.
    """
    yield _versions()
    devices = _devices()
    yield devices
    if devices.good:
        yield Finding(True, "cores", _cores())
        yield _compile_options()
        yield _attempt("large sums", _large_sums)
        yield _attempt("kernels", _kernels)
    yield _compile_cache(cache)
    yield _data(data_dir, mirror)


def _versions() -> Finding:
    found = versions()
    absent = [name for name, version in found.items() if version is None]
    if absent:
        what = f"not installed: {', '.join(absent)}; pip install -e . installs all that is needed"
        return Finding(False, "versions", what)
    listed = ", ".join(f"{name} {version}" for name, version in found.items())
    return Finding(True, "versions", f"Python {sys.version.split()[0]}, {listed}")


def _cores() -> str:
    found = f"{cores.count()} that this process may use"
    if (nanoseconds := cores.distance()) is not None:
        found += f", {nanoseconds:.0f} ns for a byte from one to another and back"
    return found


def _devices() -> Finding:
    users = os.environ.get("XLA_FLAGS")
    if users:
        # XLA ends the process where it does not know a flag or cannot read a file of flags.
        command = [sys.executable, "-c", TRY_TO_START]
        done = subprocess.run(command, capture_output=True, text=True)
        if "started" not in done.stdout:
            *_, line = done.stderr.strip().splitlines() or ["it gives no reason"]
            reason = line.rpartition("] ")[2]  # after the time and the place in XLA's source
            return Finding(False, "devices", f"XLA_FLAGS={users} stops XLA: {reason}")
    try:
        devices = jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0] or "JAX finds none"
        platforms = os.environ.get("JAX_PLATFORMS")
        remedy = (
            f"; JAX_PLATFORMS is {platforms!r}: unset it, or set it to cpu" if platforms else ""
        )
        return Finding(False, "devices", reason + remedy)
    kinds = ", ".join(f"{device.platform} ({device.device_kind})" for device in devices)
    return Finding(True, "devices", kinds)


def _compile_options() -> Finding:
    """Which options our programs are compiled with, and which of them the user's flags override."""
    what, users = "compile options", os.environ.get("XLA_FLAGS")
    ours = compilation.options()
    if overridden := compilation.overridden():
        remedy = "remove it there, or programs are slower and sums may be wrong"
        return Finding(False, what, f"XLA_FLAGS sets {', '.join(overridden)}; {remedy}")
    listed = ", ".join(f"{name}={value}" for name, value in ours.items())
    if not ours and not compilation.known_release():
        listed = "none, as they were not tried on this jaxlib; on CPU, 0.10 and 0.12 are faster"
    also = f"; besides, XLA_FLAGS={users}" if users else ""
    return Finding(True, what, (listed or "none, they are for the CPU") + also)


def _attempt(what: str, check: Callable[[], Finding]) -> Finding:
    """Does a check that computes; if JAX fails, that failure is the finding."""
    try:
        return check()
    except Exception as error:
        reason = str(error).partition("\n")[0]
        return Finding(False, what, f"{type(error).__name__}: {reason}")


def _large_sums() -> Finding:
    """Computes a product and a fused large sum, which jaxlib 0.10.2 got wrong: jax issue 39103."""
    rows = 32_769  # the first size at which a part of the sum was taken twice
    x = np.zeros((rows, 3), np.float32)
    x[:, 0] = np.arange(rows)
    squared_norm = compilation.jit(jax.vmap(lambda row: jnp.square(jnp.eye(3) @ row).sum()))
    error = float(abs(squared_norm(x)[-1] / np.float32((rows - 1) ** 2) - 1))
    if error < 1e-5:
        found = f"right to {error:.0e} of the sum (jax issue 39103)"
        return Finding(True, "large sums", found)
    remedy = "do not set xla_cpu_experimental_ynn_fusion_type in XLA_FLAGS"
    found = f"a sum is off by {error:.1e} of itself, as in jax issue 39103; {remedy}"
    return Finding(False, "large sums", found)


def _kernels() -> Finding:
    """Compares the forms that this platform runs with the reference forms: values and gradients.

    The shapes are those of the network with the block before fc1, from conv2 on.
    """
    rng = np.random.default_rng(0)
    batch = 64  # as in training; the fast form of conv2 divides such a batch into halves
    image = 16, 4, 4, batch

    def normalised(form: Any) -> Any:
        return lambda x, scale, bias: form(x, scale, bias, 1e-5)[0]

    forms = {  # the two forms, and the shapes of the inputs and of the result
        "conv_pool_relu": (
            kernels.conv_pool_relu,
            kernels.conv_pool_relu_reference,
            ((6, 12, 12, batch), (5, 5, 6, 16), (16,), image),
        ),
        "conv3x3": (kernels.conv3x3, kernels.conv3x3_reference, (image, (3, 3, 16, 16), image)),
        "batch_norm": (
            normalised(kernels.batch_norm),
            normalised(kernels.batch_norm_reference),
            ((16, 16 * batch), (16,), (16,), (16, 16 * batch)),
        ),
    }

    def outputs(function: Any, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        *inputs, dy = arrays
        y, pullback = jax.vjp(function, *inputs)
        return y, *pullback(dy)

    # A GPU may multiply in TensorFloat-32, with 10 bits of fraction.
    allowed, worst = (1e-4 if jax.default_backend() == "cpu" else 1e-2), 0.0
    for name, (ours, reference, shapes) in forms.items():
        arrays = [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]
        pairs = zip(
            compilation.jit(partial(outputs, ours))(*arrays),
            compilation.jit(partial(outputs, reference))(*arrays),
            strict=True,
        )
        error = np.max([abs(a - b).max() / abs(b).max() for a, b in pairs])
        if not error < allowed:  # nor where it is NaN
            return Finding(False, "kernels", f"{name} is off by {error:.1e}: please report this")
        worst = max(worst, error)
    found = "the convolutions, batch normalisation and their gradients equal the reference forms"
    return Finding(True, "kernels", f"{found} to {worst:.0e}")


def _compile_cache(asked: Path | None) -> Finding:
    what, directory = "compile cache", asked or compile_cache.default_directory()
    if directory is None:
        return Finding(True, what, "off, as there is no home directory")
    if not directory.exists():
        return _to_be_made(what, directory, "to be kept in", "--compile-cache DIR")
    try:
        compile_cache.check(directory)
        programs = [path for path in directory.iterdir() if path.name.endswith("-cache")]
        size = sum(path.stat().st_size for path in programs) / 2**20
    except UsageError as error:
        return Finding(False, what, f"{error}; --compile-cache DIR names another one")
    except OSError as error:
        return Finding(False, what, f"{directory} cannot be read: {error.strerror}")
    return Finding(True, what, f"{len(programs)} programs, {size:.1f} MiB in {directory}")


def _data(data_dir: Path | None, mirror: Path | None) -> Finding:
    """Checks every byte of the source that would be used first; the network is not tried."""
    try:
        folder = dataset_folder(data_dir)
        if prepare.is_prepared(folder):
            _, cached = prepare.read(folder)
            once = "" if cached else "; the first run takes some seconds more to decode them"
            return Finding(True, "data", f"prepared in {folder}, digests right{once}")
        made = _to_be_made("data", folder, "to be prepared in", "--data-dir DIR")
        if not made.good:
            return made
        source = mirror or os.environ.get("MNIST_MIRROR")
        if not source:
            return made._replace(found=f"{made.found}, from the network")
        sources.fetch("mnist", prepare.originals("mnist"), source)
        return made._replace(found=f"{made.found}, from the mirror {source}, digests right")
    except DataError as error:
        return Finding(False, "data", options.with_remedy(error))


def _to_be_made(what: str, directory: Path, use: str, other: str) -> Finding:
    """Whether an absent directory can be made; `use` says what will be done in it."""
    above = next((path for path in directory.absolute().parents if path.exists()), None)
    if above is None or not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        return Finding(False, what, f"{directory} cannot be made; {other} names another one")
    return Finding(True, what, f"{use} {directory}")


if __name__ == "__main__":
    options.leave(main())
