"""How long does each kernel take, and how long its reference form from stock operations?

    python -m benchmarks.kernels

Every kernel runs inside `lax.scan`, as in the training epoch, at the shapes of the networks, on
batches of 64: its value alone, then its value and its gradient by weights and input. The forms run
in turn; the table has medians and ranges over `--repeats`.

What was tried for the step of the network without a block, and what became of it. Measured once
each on two cores of an AMD EPYC with jaxlib 0.10.2, microseconds of one step or part; most of these
variants are no longer in the tree.

Kept
- A product of 6x6 windows for convolution and pooling together, in place of convolutions in a scan
  (jax issue 12868): a step takes 550; the two stages from stock operations alone, 10,600.
- The batch last, everywhere. With the channels last, vectors of 6 or 16 fill no register. The dense
  layers too: 550 in place of 580.
- Barriers where an array must exist, and the flag that keeps them. Without them XLA fuses the
  pooled image into each of the nine slices that read it.
- The older loop emitters of jaxlib 0.10: the maximum of four [6, 12, 12, 32] arrays takes 7, with
  the newer ones 107.
- Two halves of the batch that do not wait for each other: 550 in place of 660. XLA runs one on each
  thread, and each core keeps to its own half: on cores that lie far apart (core_distance.py) 0.9 s
  an epoch in place of 1.2.
- Weights as [36 C, 4 O]: laid out without a transpose (16 -> 3), and the product of conv2's weight
  gradient takes 57 in place of 69 (half a batch on one core).
- A gather of rows for the last step of the windows' gradient; as a transpose it was fused into the
  next mask and read element by element (34 -> 13, half a batch on one core).
- Pooling's choice as int8, made where the maximum is. Masks made again from the four convolution
  values took 32 + 12 a step for both stages, this takes 10 + 6.
- Images gathered as flat rows of bytes: 14 in place of 30.
- Batch norm's gradient as one formula, over one run of numbers a channel: of 850 a step before fc1
  it saves 80. JAX's own took seven loops, four of which computed an index for each element.

Dropped
- Four parts of the batch: 790 in place of 590; four for conv1 alone, 610 in place of 550. Bands of
  conv1's rows, and halves for the block's 3x3 convolution, take longer too. Parts as loops inside
  the loop run one after another: XLA gives them the same memory.
- Eigen's products in place of YNNPACK's, oneDNN, another scheduler of thunks: within 2 %, or worse.
- Two CPU devices that share each batch's convolutions (`parallel.train_epoch` with a batch axis):
  0.60, 0.88 and 0.82 s an epoch against 0.52, 0.72 and 0.69. Each exchange takes 58 or more, and
  what follows the convolutions is computed twice. Where the cores lie far apart it is the faster
  one: the same 0.60, 0.88 and 0.82 against 0.93, 1.36 and 1.14.
- conv2's weight gradient put off until conv1's is ready, so that both cores have one: 640 in place
  of 700 for the whole batch, but 650 in place of 590 for halves.
- conv1's weight gradient as a sum of products over parts of its columns: 67 in place of 98 for six
  parts of 1,536, no gain for other numbers, and the forward product then takes 83 in place of 51.
- Windows by larger blocks than rows: the gather takes 35 to 51 in place of 20.
- Winograd's F(2x2, 5x5): a quarter of the multiply-adds, but 36 intermediate values for each pooled
  pixel and channel where now there are 4, and XLA offers no loop that keeps them in cache. Not
  built.

What holds the rest. One core alone needs 0.77 s an epoch, so two could reach 0.39 and reach 0.52.
XLA's executor hands work to a second thread when an operation says that it may block, or when more
than eight are ready. The products of conv1's weight gradient say no such thing, because 36 x 24
outputs are too few to divide: the two halves', 50 each, follow one another on one core while the
other one waits. So do the dense layers, 130 a step. On one core, with the whole batch, the five
products of the stages take 570 of 920, at half the speed of a large product (conv1's weights) to
five sixths and more of it (conv2), and do 36/25 of the arithmetic needed. After fc1, the
optimiser's passes over the taps that meet padding alone, 230,400 of 304,106 parameters, take about
70: they are as fast as the memory.

conv1's value alone is faster in its reference form. Training needs the gradient too.
"""

import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import lax
from rich.console import Console
from rich.table import Table

from experiments.manifest import manifest
from mnist_jax import kernels


@dataclass(frozen=True)
class Config:
    """Time each kernel against its reference form."""

    batch_size: int = 64
    """Images."""
    repeats: int = 5
    """Measurements of each form."""
    seconds: float = 0.2
    """A measurement repeats the kernel for about so long."""
    json: Path | None = None
    """Where to write everything measured."""


class Kernel(NamedTuple):
    """A kernel where the networks use it."""

    name: str
    fast: Callable[..., jax.Array]
    reference: Callable[..., jax.Array]
    shapes: tuple[tuple[int, ...], ...]  # of the input without its batch, then of the weights


KERNELS = (
    Kernel(
        "conv1, pool, relu",
        kernels.conv_pool_relu_fast,
        kernels.conv_pool_relu_reference,
        ((1, 28, 28), (5, 5, 1, 6), (6,)),
    ),
    Kernel(
        "conv2, pool, relu",
        kernels.conv_pool_relu_fast,
        kernels.conv_pool_relu_reference,
        ((6, 12, 12), (5, 5, 6, 16), (16,)),
    ),
    Kernel(
        "3x3 on 4x4",
        kernels.conv3x3_fast,
        kernels.conv3x3_reference,
        ((16, 4, 4), (3, 3, 16, 16)),
    ),
    Kernel(
        "3x3 on 1x1",
        kernels.conv3x3_fast,
        kernels.conv3x3_reference,
        ((120, 1, 1), (3, 3, 120, 120)),
    ),
    Kernel(
        "batch norm of 4x4",
        lambda x, *weights: kernels.batch_norm(x.reshape(16, -1), *weights, 1e-5)[0],
        lambda x, *weights: kernels.batch_norm_reference(x.reshape(16, -1), *weights, 1e-5)[0],
        ((16, 4, 4), (16,), (16,)),
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.width = max(console.width, 120)  # also in a file
    conditions = manifest({})
    console.print(
        f"{conditions['cpu']}, {conditions['threads']} threads, devices "
        f"{', '.join(conditions['devices'])}, jaxlib {conditions['packages']['jaxlib']}, batches "
        f"of {config.batch_size}, {config.repeats} measurements"
    )
    rows = list(measure(config))
    grid = Table(title="Microseconds: median (range)")
    for name in ("kernel", "what", "fast", "reference", "ratio"):
        grid.add_column(name, no_wrap=True)
    for row in rows:
        fast, reference = (statistics.median(row[form]) for form in ("fast", "reference"))
        cells = (_cell(row[form]) for form in ("fast", "reference"))
        grid.add_row(row["kernel"], row["what"], *cells, f"{reference / fast:.1f}")
    console.print(grid)
    if config.json:
        content = {"conditions": conditions, "batch_size": config.batch_size, "rows": rows}
        config.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0


def measure(config: Config) -> Iterator[dict[str, Any]]:
    """Microseconds of each kernel in both forms, its value alone and with its gradient."""
    for kernel in KERNELS:
        rng = np.random.default_rng(0)
        image, *weights = kernel.shapes
        shapes = ((*image, config.batch_size), *weights)
        arrays = tuple(jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)
        for what, wrap in (("value", _value), ("value, gradient", _value_and_gradient)):
            forms = {
                "fast": Loop(wrap(kernel.fast), arrays, config.seconds),
                "reference": Loop(wrap(kernel.reference), arrays, config.seconds),
            }
            row: dict[str, Any] = {"kernel": kernel.name, "what": what, "fast": []}
            row["reference"] = []
            for _ in range(config.repeats):
                for form, loop in forms.items():
                    row[form].append(loop.microseconds())
            yield row


class Loop:
    """A function in a `lax.scan` whose every turn depends on the one before, so that none is saved.

    A turn adds to one element of each input a number from the outputs, too small to change it.
    """

    def __init__(self, function: Callable[..., Any], arrays: Sequence[jax.Array], seconds: float):
        self._arrays = arrays
        compiled = jax.jit(functools.partial(_scan, function)).lower(jnp.int32(0), *arrays)
        self._compiled = compiled.compile()
        self.turns = 2
        self._time()  # to warm up
        while (took := self._time()) < seconds / 10:
            self.turns *= 4
        self.turns = max(2, round(self.turns * seconds / took))

    def microseconds(self) -> float:
        """Of one turn."""
        return self._time() / self.turns * 1e6

    def _time(self) -> float:
        turns = jnp.int32(self.turns)
        start = time.perf_counter()
        jax.block_until_ready(self._compiled(turns, *self._arrays))
        return time.perf_counter() - start


def _scan(function, turns, *arrays):
    def turn(_, carry):
        arrays, _ = carry
        outputs = function(*arrays)
        seen = 1e-30 * sum(output.reshape(-1)[0] for output in jax.tree.leaves(outputs))
        return tuple(array.at[(0,) * array.ndim].add(seen) for array in arrays), outputs

    # The outputs are carried, whole, so that every element of them is computed.
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, *arrays))
    return lax.fori_loop(0, turns, turn, (arrays, nothing))


def _value(function):
    return function


def _value_and_gradient(function):
    def both(*arrays):
        y, pullback = jax.vjp(function, *arrays)
        return y, pullback(y)  # the gradient of half the sum of squares

    return both


def _cell(microseconds: Sequence[float]) -> str:
    return f"{statistics.median(microseconds):,.0f} ({min(microseconds):,.0f} to " + (
        f"{max(microseconds):,.0f})"
    )


if __name__ == "__main__":
    sys.exit(main())
