"""Trains the same network here and in PyTorch, step by step, and prints how far apart they are.

    python -m experiments.parity --placement before_fc1
    python -m experiments.parity --placement before_fc1 --float64

Both programs start from the same weights, drawn by PyTorch, and see the same batches in the same
order. PyTorch runs a second time with another number of threads. It then adds in another order, so
only rounding separates its two runs, and their difference is the yardstick for the other one. With
`--float64` this program and PyTorch must agree to 1e-9 in everything, or the exit status is 1.

After the epoch the test images are evaluated in three ways, which differ in what batch
normalisation normalises with: the running statistics of training; those of each test batch, as in a
PyTorch program that never calls `model.eval()`; and the means over the training images under the
final weights, which PyTorch computes with `momentum=None`.

A relative difference is the largest absolute difference in an array divided by the largest
absolute value in it. On two CPU cores this takes half a minute, in float64 a minute. It needs
PyTorch: pip install -e '.[torch]'.
"""

import importlib.metadata
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import traverse_util
from rich import box
from rich.table import Table

from experiments.groundwork import command, machine, terminal
from experiments.groundwork.command import DataOptions, FailedError, UsageError, refuse
from experiments.groundwork.recipe import MAX_SEED, PixelScale, Recipe
from mnist_jax import compilation, data, metrics, store, torch_weights, train
from mnist_jax.data import PIXELS, Split
from mnist_jax.model import LeNet, Placement
from mnist_jax.programs import compiled

TOLERANCE = 1e-9  # in float64, largest absolute difference
REPORTED_STEPS = (1, 10, 100)  # steps after which the programs are compared, as after the last
GRADIENTS, EVALUATION = "gradients of the first step", "evaluation after the epoch"
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
MAX_THREADS = 256

StateDict = dict[str, np.ndarray]  # every array in PyTorch's layout, under PyTorch's name
Trace = dict[str, StateDict]  # what one program computed, stage by stage


@dataclass(frozen=True)
class Options:
    """Compare this program with PyTorch over one epoch."""

    placement: Placement = "after_fc1"
    """Where the residual block stands."""
    float64: bool = False
    """Compute in float64 and demand agreement to 1e-9."""
    batch_size: int = Recipe.batch_size
    """Number of images in a training step, at least 1."""
    learning_rate: float = Recipe.learning_rate
    """Learning rate of stochastic gradient descent, at least 0."""
    momentum: float = Recipe.momentum
    """Momentum of stochastic gradient descent, at least 0 and below 1."""
    pixels: PixelScale = "half"
    """Scale of a pixel x of 0..1: (x - 0.5)/0.5, (x - 0.1307)/0.3081, or x itself."""
    seed: int = 0
    """Seed of the initial weights and of the order of the images, from 0 to 4294967295."""
    threads: int = 2
    """Number of PyTorch's threads, at least 1."""
    other_threads: int = 1
    """Number of threads in PyTorch's second run, at least 1."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    json: Path | None = None
    """File for every difference, as JSON."""


class Task(NamedTuple):
    """What both programs compute."""

    recipe: Recipe
    start: StateDict  # the initial weights, whose dtype is that of the whole computation
    train: Split  # `N` images and labels
    test: Split
    order: np.ndarray  # [N] int32, the places of the training images in the order of training


class Difference(NamedTuple):
    """How far apart two programs are in one array."""

    absolute: float  # the largest absolute difference of two elements
    relative: float  # the same, divided by the largest absolute value in the array


class Row(NamedTuple):
    """One array and its differences."""

    stage: str
    name: str
    ours: Difference  # between this program and PyTorch
    torch: Difference  # between PyTorch and PyTorch with another number of threads


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return command.main(Options, parity, arguments, name="experiments.parity", description=__doc__)


def parity(options: Options) -> None:
    """Trains in both programs, and prints how far apart they are.

    Raises:
      UsageError: an option has a value that it cannot have, or PyTorch is not installed.
      FailedError: in float64 the programs differ by more than `TOLERANCE`.
      DataError: the data cannot be had.
    """
    recipe = Recipe(
        placement=options.placement,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        momentum=options.momentum,
        pixels=options.pixels,
    )
    _check(options, recipe)
    machine.start()
    mnist = data.load_mnist(options.data.data_dir, options.data.mirror)
    with jax.enable_x64(options.float64):
        start = initial_weights(options.placement, options.seed, float64=options.float64)
        key = jax.random.key(options.seed)
        order = np.array(train.epoch_order(key, 1, len(mnist.train.labels)))
        task = Task(recipe, start, mnist.train, mnist.test, order)
        traces = {
            "here": trace_ours(task),
            "PyTorch": trace_torch(task, threads=options.threads),
            "PyTorch again": trace_torch(task, threads=options.other_threads),
        }
    rows = compare(*traces.values())
    worst = max(rows, key=lambda row: np.nan_to_num(row.ours.absolute, nan=np.inf))
    console = terminal.console()
    console.print(
        f"LeNet, block {options.placement}, {'float64' if options.float64 else 'float32'}, "
        f"against PyTorch with {options.threads} threads, and that against PyTorch with "
        f"{options.other_threads}"
    )
    for table in tables(rows):
        terminal.print_table(console, table)
    for name, trace in traces.items():
        console.print(f"test accuracy {name}: {trace[EVALUATION]['test accuracy']:.2f} %")
    console.print(f"largest difference: {worst.ours.absolute:.1e} ({worst.stage}, {worst.name})")
    if options.json:
        result = {
            "recipe": asdict(recipe),
            "seed": options.seed,
            "float64": options.float64,
            "threads": [options.threads, options.other_threads],
            "manifest": machine.manifest(mnist.sha256),
            "torch": importlib.metadata.version("torch"),
            "rows": [
                row._asdict() | {"ours": row.ours._asdict(), "torch": row.torch._asdict()}
                for row in rows
            ],
        }
        store.write_json(options.json, result)
    if options.float64 and not worst.ours.absolute <= TOLERANCE:  # NaN is no agreement
        raise FailedError(f"the programs differ by more than {TOLERANCE:g}")


def _check(options: Options, recipe: Recipe) -> None:
    """Checks all options that can be checked without the data, and that PyTorch is there.

    Raises:
      UsageError: naming the option and what is allowed.
    """
    recipe.check()
    if not 0 <= options.seed <= MAX_SEED:
        refuse("seed", f"from 0 to {MAX_SEED}", options.seed)
    if recipe.placement == "after_fc1" and data.TEST_SIZE % recipe.batch_size == 1:
        refuse("batch_size", "such that no batch of test images has one image", recipe.batch_size)
    for name in ("threads", "other_threads"):
        if not 1 <= getattr(options, name) <= MAX_THREADS:
            refuse(name, f"from 1 to {MAX_THREADS}", getattr(options, name))
    command.refuse_unless_writable(json=options.json)
    if importlib.util.find_spec("torch") is None:
        raise UsageError("parity needs PyTorch: pip install -e '.[torch]'")


# Both programs. PyTorch is imported inside the functions that run it, so that `--help` and errors
# need not wait for the import.


def initial_weights(placement: Placement, seed: int, *, float64: bool) -> StateDict:
    """PyTorch's own initialisation as a `state_dict`."""
    from experiments.groundwork import torch_report

    model = torch_report.build(placement, seed)
    model = model.double() if float64 else model
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def trace_ours(task: Task) -> Trace:
    """Trains in JAX for one epoch.

    Returns:
      The arrays of each stage, under the names that `trace_torch` gives them too.
    """
    recipe, start, _, _, order = task
    dtype = start["conv1.weight"].dtype
    model = LeNet(recipe.placement, PIXELS[recipe.pixels], dtype)
    # Momentum 0 is passed as it is, so that the optimiser keeps a trace of the gradients then too.
    tx = optax.sgd(recipe.learning_rate, momentum=recipe.momentum)
    programs = compiled(model, tx, batch_size=recipe.batch_size)
    variables = jax.tree.map(jnp.asarray, torch_weights.from_torch(start, recipe.placement))
    state = train.start_from(variables, tx)
    split, test = jax.device_put((task.train, task.test))

    first = split.images[order[: recipe.batch_size]]
    trace: Trace = {
        f"activations, {mode}": activations(model, variables, first, train=mode == "training")
        for mode in ("training", "evaluation")
    }
    total, step = metrics.zero(dtype), 0
    for step, part in parts(order, recipe.batch_size):
        state, sums = programs.train_epoch(state, split, jnp.asarray(part))
        total += sums
        if step == 1:
            # After the first step of a fresh optimiser its momentum is the gradient of that step.
            gradient = optax.tree_utils.tree_get(state.opt_state, "trace")
            both = {"params": gradient, "batch_stats": state.batch_stats}
            trace[GRADIENTS] = {
                name: array
                for name, array in torch_weights.to_torch(both).items()
                if not name.endswith(STATISTICS)
            }
        weights = torch_weights.to_torch(train.variables_of(state), step)
        trace[f"after step {step}"] = {"training loss": np.asarray(total.mean_loss)} | weights

    variables = train.variables_of(state)
    recalibrated = programs.recalibrate(variables, Split(*_whole(split, recipe.batch_size)))
    trace[EVALUATION] = (
        tested("", programs.evaluate(variables, test).metrics)
        | tested(", batch statistics", programs.evaluate_batch(variables, test).metrics)
        | tested(", recalibrated", programs.evaluate(recalibrated, test).metrics)
        | _statistics(torch_weights.to_torch(recalibrated))
    )
    return trace


def trace_torch(task: Task, *, threads: int) -> Trace:
    """Trains in PyTorch for one epoch, with so many threads."""
    import torch

    from experiments.groundwork import torch_report

    torch.set_num_threads(threads)
    recipe, order = task.recipe, task.order
    pixels, batch_size = PIXELS[recipe.pixels], recipe.batch_size
    weights = {name: torch.from_numpy(array) for name, array in task.start.items()}
    dtype = weights["conv1.weight"].dtype
    images, labels = torch_report.in_memory(task.train, pixels, dtype)

    trace: Trace = {}
    model = torch_report.build(recipe.placement, 0, dtype)
    for mode in ("training", "evaluation"):
        model.load_state_dict(weights)
        model.train(mode == "training")
        first = images[torch.from_numpy(order[:batch_size]).long()]
        trace[f"activations, {mode}"] = torch_report.activations(model, first)
    model.load_state_dict(weights)
    optimizer = torch_report.make_optimizer(model, recipe.learning_rate, recipe.momentum)
    loss, count = 0.0, 0
    for step, part in parts(order, batch_size):
        batches = torch_report.in_order(images, labels, torch.from_numpy(part).long(), batch_size)
        sums = torch_report.train_epoch(model, optimizer, batches)
        loss, count = loss + sums.loss, count + sums.count
        if step == 1:
            trace[GRADIENTS] = {
                name: parameter.grad.numpy().copy()
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            }
        state = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
        trace[f"after step {step}"] = {"training loss": np.asarray(loss / count)} | state

    def batched(split: tuple[Any, Any], size: int) -> torch_report.Batches:
        return list(zip(*(tensor.split(size) for tensor in split), strict=True))

    test = torch_report.in_memory(task.test, pixels, dtype)
    in_test_batches = batched(test, train.TEST_BATCH_SIZE)
    each = torch_report.evaluate_in_training_mode(model, batched(test, batch_size))
    in_file_order = batched(_whole((images, labels), batch_size), batch_size)
    recalibrated = torch_report.recalibrated(model, in_file_order)
    state = {name: tensor.numpy().copy() for name, tensor in recalibrated.state_dict().items()}
    trace[EVALUATION] = (
        tested("", torch_report.evaluate(model, in_test_batches))
        | tested(", batch statistics", each)
        | tested(", recalibrated", torch_report.evaluate(recalibrated, in_test_batches))
        | _statistics(state)
    )
    return trace


def _whole(arrays: Any, batch_size: int) -> tuple[Any, Any]:
    """Images and labels without the last, partial batch.

    Our recalibration weighs that batch by its size, and PyTorch's weighs it like a whole one.
    """
    images, labels = arrays
    size = len(labels) - len(labels) % batch_size
    return images[:size], labels[:size]


def _statistics(state_dict: StateDict) -> StateDict:
    """The statistics of a recalibrated network, without the count of batches."""
    return {
        f"{name.removeprefix('resnet_block.')}, recalibrated": array
        for name, array in state_dict.items()
        if name.endswith(STATISTICS[:2])
    }


def parts(order: np.ndarray, batch_size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Cuts the order after each reported step; yields the step's number and the part before it."""
    last = -(-len(order) // batch_size)
    done = 0
    for step in sorted({step for step in REPORTED_STEPS if step < last} | {last}):
        yield step, order[done * batch_size : step * batch_size]
        done = step


def tested(how: str, sums: Any) -> StateDict:
    """Mean loss, and accuracy in percent, of an evaluation."""
    return {
        f"test loss{how}": np.asarray(sums.mean_loss),
        f"test accuracy{how}": np.asarray(sums.accuracy_percent),
    }


def activations(model: LeNet, variables: Any, images: jax.Array, *, train: bool) -> StateDict:
    """What each module of ours computes, under the names of `torch_report.activations`."""

    @compilation.jit
    def capture(variables: Any, images: jax.Array) -> Any:
        _, updates = model.apply(
            variables,
            images,
            train=train,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=True,
        )
        return updates["intermediates"]

    captured: Any = traverse_util.flatten_dict(capture(variables, images))
    activations = {}
    for (*modules, _), (output,) in captured.items():
        name = ".".join(modules)
        # Our convolution stages end with the pooling.
        name = f"{name}, pool" if name in ("conv1", "conv2") else name
        # The batch is the last axis here, and the first in PyTorch.
        activations[name] = np.moveaxis(np.asarray(output), -1, 0)
    del activations[""]  # that of the whole network, which is the output of fc3
    return activations


# Comparison and tables.


def compare(ours: Trace, theirs: Trace, again: Trace) -> list[Row]:
    """The differences in everything that was computed: here to PyTorch, and of PyTorch's runs."""
    return [
        Row(
            stage, name, difference(ours[stage][name], array), difference(again[stage][name], array)
        )
        for stage, arrays in theirs.items()
        for name, array in arrays.items()
    ]


def difference(array: np.ndarray, reference: np.ndarray) -> Difference:
    """The largest difference of two arrays of the same shape.

    Raises:
      ValueError: the shapes differ.
    """
    if array.shape != reference.shape:
        raise ValueError(f"cannot compare {array.shape} with {reference.shape}")
    absolute = float(np.abs(array - reference).max())
    scale = float(np.abs(reference).max())
    return Difference(absolute, absolute / scale if scale else absolute)


def tables(rows: Sequence[Row]) -> Iterator[Table]:
    """A table for each stage; after training steps, all parameters together are one line."""
    for stage in dict.fromkeys(row.stage for row in rows):
        table = Table(title=stage, title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("largest difference", min_width=30, no_wrap=True)
        for header in ("here -\nPyTorch", "relative", "PyTorch -\nitself", "relative"):
            table.add_column(header, justify="right", min_width=8)
        parameters = []
        for row in (row for row in rows if row.stage == stage):
            if stage.startswith("after") and row.name.endswith((".weight", ".bias")):
                parameters.append(row)
            elif not row.name.endswith("num_batches_tracked"):
                table.add_row(row.name, *_cells(row.ours, row.torch))
        if parameters:
            largest = (_largest([getattr(row, of) for row in parameters]) for of in Row._fields[2:])
            table.add_row("all parameters", *_cells(*largest))
        yield table


def _cells(ours: Difference, torch: Difference) -> Iterator[str]:
    return (f"{value:.1e}" if value else "0" for value in (*ours, *torch))


def _largest(differences: Sequence[Difference]) -> Difference:
    """The largest absolute and the largest relative difference, each on its own."""
    return Difference(*(float(np.max(values)) for values in zip(*differences, strict=True)))


if __name__ == "__main__":
    command.leave(main())
