"""How long does each kernel take, and how long its reference form from stock operations?

    python -m benchmarks.kernels

Method. Every kernel runs inside a loop of one compiled program, as it does in the training epoch,
at the shapes of the networks. Its value is timed alone, and then together with its gradient by
weights and input. Both forms are compiled with the options of the training programs and run in
turn, so that a disturbance of the machine meets both. The table has the median over `--repeats` and
the range, in microseconds. For conv1's value the reference form is the faster one, but training
needs the gradient too. NOTES.md says what was tried for speed, and what limits it now.
"""

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from rich.table import Table

from benchmarks import harness
from experiments.groundwork import command, machine, terminal
from experiments.groundwork.command import refuse
from mnist_jax import compilation
from mnist_jax import kernels as k


@dataclass(frozen=True)
class Options:
    """Time each kernel against its reference form."""

    batch_size: int = 64
    """Number of images, at least 1."""
    repeats: int = 5
    """Number of measurements of each form, at least 1."""
    seconds: float = 0.2
    """Time for which a measurement repeats the kernel, above 0."""


class Kernel(NamedTuple):
    """A kernel at the shapes that it has at one place in the networks."""

    name: str
    fast: Callable[..., jax.Array]
    reference: Callable[..., jax.Array]
    shapes: tuple[tuple[int, ...], ...]  # the input's without its batch, then the weights'


def _normalised(batch_norm: Callable[..., Any]) -> Callable[..., jax.Array]:
    return lambda x, *weights: batch_norm(x.reshape(x.shape[0], -1), *weights, 1e-5)[0]


_STAGE = k.conv_pool_relu_fast, k.conv_pool_relu_reference
_CONV3X3 = k.conv3x3_fast, k.conv3x3_reference
_NORM = _normalised(k.batch_norm), _normalised(k.batch_norm_reference)
KERNELS = (
    Kernel("conv1, pool, relu", *_STAGE, ((1, 28, 28), (5, 5, 1, 6), (6,))),
    Kernel("conv2, pool, relu", *_STAGE, ((6, 12, 12), (5, 5, 6, 16), (16,))),
    Kernel("3x3 on 4x4", *_CONV3X3, ((16, 4, 4), (3, 3, 16, 16))),
    Kernel("3x3 on 1x1", *_CONV3X3, ((120, 1, 1), (3, 3, 120, 120))),
    Kernel("batch norm of 4x4", *_NORM, ((16, 4, 4), (16,), (16,))),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return command.main(Options, run, arguments, name="benchmarks.kernels", description=__doc__)


def run(options: Options) -> None:
    """Times all kernels and prints the table.

    Raises:
      UsageError: an option has a value that it cannot have.
    """
    for name in ("batch_size", "repeats"):
        if getattr(options, name) < 1:
            refuse(name, "at least 1", getattr(options, name))
    if not 0 < options.seconds < float("inf"):
        refuse("seconds", "a finite number above 0", options.seconds)
    console, conditions = terminal.console(), machine.manifest({})
    console.print(
        f"{conditions['cpu']}, {conditions['threads']} threads, jaxlib "
        f"{conditions['packages']['jaxlib']}, load average {harness.load_average()}"
    )
    rows = list(measure(options.batch_size, options.repeats, options.seconds))
    terminal.print_table(console, table(rows))


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Two rows for each kernel: its value alone, and with its gradient."""
    numbers = ("fast", "reference", "reference / fast")
    grid = harness.grid("Microseconds: median (range)", ("kernel", "what"), numbers)
    for row in rows:
        fast, reference = row["fast"], row["reference"]
        quotient = statistics.median(reference) / statistics.median(fast)
        cells = (harness.spread(values, ",.0f") for values in (fast, reference))
        grid.add_row(row["kernel"], row["what"], *cells, f"{quotient:.1f}")
    return grid


def measure(batch_size: int, repeats: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Yields the microseconds of each kernel in both forms; arguments as in `Options`."""
    for kernel in KERNELS:
        rng = np.random.default_rng(0)
        image, *weights = kernel.shapes
        shapes = ((*image, batch_size), *weights)
        arrays = tuple(jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)
        for what, wrap in (("value", lambda form: form), ("value, gradient", _with_gradient)):
            loops = [in_a_loop(wrap(f), arrays, seconds) for f in (kernel.fast, kernel.reference)]
            times = [[loop() for loop in loops] for _ in range(repeats)]
            fast, reference = map(list, zip(*times, strict=True))
            yield {"kernel": kernel.name, "what": what, "fast": fast, "reference": reference}


def in_a_loop(
    function: Callable[..., Any], arrays: Sequence[jax.Array], seconds: float
) -> Callable[[], float]:
    """Compiles a loop over a function and finds how many turns take so many seconds.

    Every turn depends on the one before, so that the compiler can leave out none: it adds to one
    element of each input a number from the outputs that is too small to change it.

    Returns:
      A function that runs the loop once and returns the microseconds of a turn.
    """
    compiled = compilation.jit(functools.partial(_loop, function)).lower(jnp.int32(0), *arrays)
    compiled = compiled.compile()

    def timed(turns: int) -> float:
        start = time.perf_counter()
        jax.block_until_ready(compiled(jnp.int32(turns), *arrays))
        return time.perf_counter() - start

    turns = 2
    timed(turns)  # to warm up
    while (took := timed(turns)) < seconds / 10:
        turns *= 4
    turns = max(2, round(turns * seconds / took))
    return lambda: timed(turns) / turns * 1e6


def _loop(function: Callable[..., Any], turns: jax.Array, *arrays: jax.Array) -> Any:
    def turn(_: Any, carry: Any) -> Any:
        arrays, _ = carry
        outputs = function(*arrays)
        seen = 1e-30 * sum(output.reshape(-1)[0] for output in jax.tree.leaves(outputs))
        return tuple(array.at[(0,) * array.ndim].add(seen) for array in arrays), outputs

    # The whole outputs are carried from turn to turn, so that every element of them is computed.
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, *arrays))
    return lax.fori_loop(0, turns, turn, (arrays, nothing))


def _with_gradient(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    def both(*arrays: jax.Array) -> Any:
        y, pullback = jax.vjp(function, *arrays)
        return y, pullback(y)  # the gradient of half the sum of squares

    return both


if __name__ == "__main__":
    command.leave(main())
