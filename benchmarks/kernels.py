"""How long does each kernel take, and how long its reference form from stock operations?

    python -m benchmarks.kernels

Method. Every kernel runs inside a loop of one compiled program, as it does in the training epoch,
at the shapes of the networks. Its value is timed alone, and then together with its gradient by
weights and input. Both forms are compiled with the options of the training programs and run in
turn, so that a disturbance of the machine meets both. The table has the median over `--repeats` and
the range, in microseconds. For conv1's value the reference form is the faster one, but training
needs the gradient too.

Conditions. The load average is recorded before each measurement.

What was tried for the training step of the network without a block. Each idea was measured once, in
turn with the form that it was to replace, on two cores of an AMD EPYC with jaxlib 0.10.2. Most of
the variants are no longer in the tree.

Kept
- A convolution and the pooling after it are one matrix product over windows of 6 x 6 pixels. XLA
  compiles the gradient of a convolution inside a loop to an unoptimised loop on CPU (jax issue
  12868), and a step from stock operations takes 19 times as long.
- The batch is the last axis of every array. With the channels last, vectors of 6 or 16 numbers fill
  no register. In the dense layers alone this saves 5 % of a step.
- A barrier marks each array that must exist in memory, and a compile option keeps the barriers.
  Without them XLA computes the pooled image anew in each of the nine slices that read it.
- The older loop emitters of jaxlib 0.10 compile the loops. With the newer ones, which compute an
  index for each element, the maximum of four arrays takes 15 times as long.
- A batch is computed in two halves that do not wait for each other, so that XLA runs one on each
  thread. This saves 17 % of a step.
- Weights are laid out as [36 C, 4 O], which needs no transpose, and with which the product of
  conv2's weight gradient takes 17 % less.
- The last step of the windows' gradient gathers rows. As a transpose it was fused into the mask
  that follows, read element by element, and took 2.6 times as long.
- The choice that the pooling made is kept as int8 when the maximum is computed. To find it again
  from the four values took 2.8 times as long.
- Images are gathered as flat rows of bytes, which takes half the time.
- The gradient of batch normalisation is one formula, over one run of numbers for each channel. This
  saves 9 % of a step of the network with a block before fc1. The gradient that JAX derives took
  seven loops, and four of them computed an index for each element.
- The loop over the steps carries the centres alone of the 3x3 kernels after fc1, because the eight
  other weights of each meet padding and stay as they are (`mnist_jax.model.centres`). The optimiser
  then passes over 73,706 parameters in place of 304,106, which saves 8 % of an epoch on one core.
  As an update of the whole kernels within the step it saved 1 %, because XLA copied them.

Dropped
- Four parts of a batch take a third longer than two, and four for conv1 alone 10 % longer. Bands of
  conv1's rows, and halves for the block's 3x3 convolution, take longer too. Parts as loops inside
  the loop run one after another, because XLA gives them the same memory.
- Products by Eigen instead of YNNPACK, oneDNN, and another scheduler of XLA's operations change the
  time by less than 2 %, or lengthen it.
- Two CPU devices, over which XLA divides each batch, are slower than two threads of one device; the
  ratios are in `mnist_jax.parallel.over_batch`.
- Data parallelism written by hand over two devices, which exchange all gradients once in a step and
  the sums of each batch normalisation twice, takes 2.00, 2.52 and 2.13 s an epoch (none,
  before_fc1, after_fc1) where two threads of one device take 1.93, 3.19 and 2.50 s and one thread
  2.95, 3.44 and 3.29 s. These are medians of three fresh processes each in turn on two cores of an
  AMD EPYC without AVX-512, with nothing else running; single processes took from 1.80 to 2.10, from
  2.28 to 3.37 and from 1.99 to 2.54 s. The network must know the batch axis for it, the images are
  held twice, and the result has other bits than on one device. It was not built, because with
  AVX-512 a step is shorter and its exchanges are not: see the two devices of version 0.1 below.
- To put off conv2's weight gradient until conv1's is ready, so that each core has one, saves 9 %
  with the whole batch and costs 10 % with halves.
- conv1's weight gradient as a sum of products over six parts of its columns takes a third less, but
  then the product of the value takes 60 % more. Other numbers of parts gain nothing.
- Gathering windows in larger blocks than rows takes 1.8 to 2.5 times as long.
- Winograd's F(2x2, 5x5) would need a quarter of the multiply-adds, but 36 intermediate values for
  each pooled pixel and channel where there are 4 now, and XLA offers no loop that keeps them in
  cache. It was not built.

What limits the speed now. XLA hands work to a second thread if an operation says that it may block,
or if more than eight operations are ready. The products of conv1's weight gradient do not say so,
because their 36 x 24 outputs are too few to divide. So those of the two halves follow one
another on one core while the other core waits, and so do the dense layers. On one core the five
products of the two stages take three fifths of a step, at half the speed of a large product
(conv1's weight gradient) to five sixths of it (conv2), and they do 36/25 of the arithmetic that
convolutions need.

Where the cores lie decides what the second thread is worth, because most arrays of a step are
written by one thread and read by the other. `benchmarks/README.md` has the epochs with near and
with distant cores and those beside a busy process, and says what a run does about it.

The aim was an epoch that is 3.5, 3.3 and 4.8 times as fast as the fastest PyTorch program (none,
before_fc1, after_fc1), and no process on two threads slower than one thread. It is not reached; for
that each thread would have to keep its arrays to itself. Two devices with half of each batch did so
in version 0.1, where the code of the network exchanged features and gradients itself: an epoch took
0.60, 0.88 and 0.82 s on them with distant cores, which is better there and worse where cores are
near, as each exchange takes 58 us. Two ways to bind the threads to cores were tried. If each worker
is kept to a core of its own, nothing changes with nothing else running (0.88 s, and 0.90 s without
it, before_fc1, five processes each in turn); beside a busy process it shortens an epoch without a
block and lengthens one with the block after fc1. If both threads are kept to one core, an epoch
takes 13 to 24 % longer than on one thread.

On two cores of an Intel Xeon with AMX the second thread gains nothing: an epoch with the block
before fc1 took 1.6 to 1.8 s on two threads and 1.5 to 1.8 s on one, and two threads used 2.9 s of
the processors' time for it where one used 1.8 s. A tenth of all samples of a profile were in the
loop in which an idle worker of Eigen's thread pool looks for work, and another tenth in the
operating system, which wakes the other thread and puts it to sleep. The operations of the block are
so small that this costs as much as they do. The option `xla_cpu_multi_thread_eigen=false` changes
nothing about it.
"""

if __name__ == "__main__":
    from experiments.groundwork import stopping

    stopping.end_at_once()

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
from rich import box
from rich.table import Table

from benchmarks import processes
from experiments.groundwork import files, options, terminal
from experiments.groundwork.manifest import manifest
from experiments.groundwork.options import OptionalPath, refuse, refuse_unless_positive
from mnist_jax import compilation, kernels


@dataclass(frozen=True)
class Config:
    """Time each kernel against its reference form."""

    batch_size: int = 64
    """Number of images, at least 1."""
    repeats: int = 5
    """Number of measurements of each form, at least 1."""
    seconds: float = 0.2
    """Time for which a measurement repeats the kernel, above 0."""
    json: OptionalPath = None
    """File for everything measured, as JSON."""


class Kernel(NamedTuple):
    """A kernel at the shapes that it has at one place in the networks."""

    name: str
    fast: Callable[..., jax.Array]
    reference: Callable[..., jax.Array]
    shapes: tuple[tuple[int, ...], ...]  # the input's without its batch, then the weights'


def _normalised(batch_norm: Callable[..., Any], x: jax.Array, *weights: jax.Array) -> jax.Array:
    return batch_norm(x.reshape(x.shape[0], -1), *weights, 1e-5)[0]


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
        functools.partial(_normalised, kernels.batch_norm),
        functools.partial(_normalised, kernels.batch_norm_reference),
        ((16, 4, 4), (16,), (16,)),
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""

    def body() -> int:
        config = options.parse(Config, arguments, name="benchmarks.kernels", description=__doc__)
        check(config)
        console = terminal.console()
        conditions = manifest({})
        console.print(
            f"{conditions['cpu']}, {conditions['threads']} threads, devices "
            f"{', '.join(conditions['devices'])}, jaxlib {conditions['packages']['jaxlib']}, "
            f"batches of {config.batch_size}, {config.repeats} measurements"
        )
        rows = list(measure(config.batch_size, config.repeats, config.seconds))
        loads = [load for row in rows for load in row["load_average"] if load is not None]
        if loads:
            console.print(f"load average: {min(loads):.2f} to {max(loads):.2f}")
        terminal.print_table(console, table(rows))
        if config.json:
            content = {"conditions": conditions, "batch_size": config.batch_size, "rows": rows}
            files.write_whole(config.json, files.as_json(content))
        return options.OK

    return options.run_command(body)


def check(config: Config) -> None:
    """Checks all options.

    Raises:
      UsageError: naming the option and what is allowed.
    """
    refuse_unless_positive(batch_size=config.batch_size, repeats=config.repeats)
    if not 0 < config.seconds < float("inf"):
        refuse("seconds", "a finite number above 0", config.seconds)
    options.refuse_unless_writable(json=config.json)


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Two rows for each kernel: its value alone, and with its gradient."""
    grid = Table(title="Microseconds: median (range)", box=box.SIMPLE_HEAD)
    for name in ("kernel", "what"):
        grid.add_column(name)
    for name in ("fast", "reference", "ratio"):
        grid.add_column(name, justify="right")
    for row in rows:
        fast, reference = (statistics.median(row[form]) for form in ("fast", "reference"))
        cells = (_cell(row[form]) for form in ("fast", "reference"))
        grid.add_row(row["kernel"], row["what"], *cells, f"{reference / fast:.1f}")
    return grid


def measure(batch_size: int, repeats: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Yields the microseconds of each kernel in both forms; arguments as in `Config`."""
    for kernel in KERNELS:
        rng = np.random.default_rng(0)
        image, *weights = kernel.shapes
        shapes = ((*image, batch_size), *weights)
        arrays = tuple(jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)
        for what, wrap in (("value", _value), ("value, gradient", _value_and_gradient)):
            forms = {
                "fast": Loop(wrap(kernel.fast), arrays, seconds),
                "reference": Loop(wrap(kernel.reference), arrays, seconds),
            }
            row: dict[str, Any] = {"kernel": kernel.name, "what": what, "load_average": []}
            row |= {form: [] for form in forms}
            for _ in range(repeats):
                row["load_average"].append(processes.load_average())
                for form, loop in forms.items():
                    row[form].append(loop.microseconds())
            yield row


class Loop:
    """A function in a compiled loop.

    Every turn depends on the one before, so that the compiler can leave out none: it adds to one
    element of each input a number from the outputs that is too small to change it.
    """

    def __init__(self, function: Callable[..., Any], arrays: Sequence[jax.Array], seconds: float):
        self._arrays = arrays
        looped = compilation.jit(functools.partial(_loop, function))
        self._compiled = looped.lower(jnp.int32(0), *arrays).compile()
        self.turns = 2
        self._time()  # to warm up
        while (took := self._time()) < seconds / 10:
            self.turns *= 4
        self.turns = max(2, round(self.turns * seconds / took))

    def microseconds(self) -> float:
        """The time of one turn, in microseconds."""
        return self._time() / self.turns * 1e6

    def _time(self) -> float:
        turns = jnp.int32(self.turns)
        start = time.perf_counter()
        jax.block_until_ready(self._compiled(turns, *self._arrays))
        return time.perf_counter() - start


def _loop(function: Callable[..., Any], turns: jax.Array, *arrays: jax.Array) -> Any:
    def turn(_: Any, carry: Any) -> Any:
        arrays, _ = carry
        outputs = function(*arrays)
        seen = 1e-30 * sum(output.reshape(-1)[0] for output in jax.tree.leaves(outputs))
        return tuple(array.at[(0,) * array.ndim].add(seen) for array in arrays), outputs

    # The whole outputs are carried from turn to turn, so that every element of them is computed.
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, *arrays))
    return lax.fori_loop(0, turns, turn, (arrays, nothing))


def _value(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    return function


def _value_and_gradient(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    def both(*arrays: jax.Array) -> Any:
        y, pullback = jax.vjp(function, *arrays)
        return y, pullback(y)  # the gradient of half the sum of squares

    return both


def _cell(microseconds: Sequence[float]) -> str:
    return f"{statistics.median(microseconds):,.0f} ({min(microseconds):,.0f} to " + (
        f"{max(microseconds):,.0f})"
    )


if __name__ == "__main__":
    options.leave(main())
