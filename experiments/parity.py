"""Trains the same network here and in PyTorch, step by step, and prints how far apart they are.

    python -m experiments.parity --placement before_fc1
    python -m experiments.parity --placement before_fc1 --float64

Both programs start from the same weights, drawn by PyTorch, and see the same batches in the same
order. PyTorch runs a second time with another number of threads. It then adds in another order, so
rounding alone separates its two runs, and they are the yardstick for the rest. With `--float64`
this program and PyTorch must agree to 1e-9 in everything, or the exit status is 1.

A relative difference is the largest absolute difference in an array divided by the largest
absolute value in it. On two CPU cores this takes half a minute, in float64 a minute. It needs
PyTorch: pip install -e '.[torch]'.
"""

import functools
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import traverse_util
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.manifest import manifest
from mnist_jax import metrics, torch_weights, train
from mnist_jax.data import NORMALISATIONS, Normalisation, Split, digests, load_mnist, normalise
from mnist_jax.model import LeNet, Placement
from mnist_jax.sources import DataError

TOLERANCE = 1e-9  # in float64, largest absolute difference
REPORTED_STEPS = (1, 10, 100)  # and the last
GRADIENTS = "gradients of the first step"
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

StateDict = dict[str, np.ndarray]  # every array in PyTorch's layout, under PyTorch's name
Trace = dict[str, StateDict]  # what one program computed, stage by stage


@dataclass(frozen=True)
class Config:
    """Compare this program with PyTorch over one epoch."""

    placement: Placement = "after_fc1"
    """Where the residual block stands."""
    float64: bool = False
    """Compute in float64 and demand agreement to 1e-9."""
    batch_size: int = 64
    """Images a step."""
    learning_rate: float = 0.001
    """Of SGD."""
    momentum: float = 0.9
    """Of SGD."""
    seed: int = 0
    """Of the initial weights and the order of the images."""
    normalisation: Normalisation = "half"
    """Of the pixels x/255."""
    threads: int = 2
    """Of PyTorch."""
    other_threads: int = 1
    """Of PyTorch's second run."""
    data_dir: Path | None = None
    """TFDS's data directory; else TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    mirror: Path | None = None
    """A directory with the four original files; else MNIST_MIRROR."""
    json: Path | None = None
    """Where to write every difference as JSON."""


class Difference(NamedTuple):
    """How far apart two programs are in one array."""

    absolute: float  # the largest one
    relative: float  # the same, divided by the largest absolute value in the array


class Row(NamedTuple):
    """One array and its differences."""

    stage: str
    name: str
    ours: Difference  # between this program and PyTorch
    torch: Difference  # between PyTorch and PyTorch with another number of threads


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    if importlib.util.find_spec("torch") is None:
        print("error: parity needs PyTorch: pip install -e '.[torch]'", file=sys.stderr)
        return 2
    if config.json and not config.json.parent.is_dir():
        print(f"error: --json must be in a directory that exists: {config.json}", file=sys.stderr)
        return 2
    try:
        data = load_mnist(config.data_dir, config.mirror)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    with jax.enable_x64(config.float64):
        start = initial_weights(config)
        ours = trace_ours(config, start, *data)
        theirs = trace_torch(config, start, *data, threads=config.threads)
        again = trace_torch(config, start, *data, threads=config.other_threads)
    rows = compare(ours, theirs, again)
    programs = {"here": ours, "PyTorch": theirs, "PyTorch again": again}
    *_, last = ours  # the stage
    accuracies = {name: float(trace[last]["test accuracy"]) for name, trace in programs.items()}
    worst = max(rows, key=lambda row: np.nan_to_num(row.ours.absolute, nan=np.inf))

    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"LeNet, block {config.placement}, {'float64' if config.float64 else 'float32'}, against "
        f"PyTorch with {config.threads} threads, and that against PyTorch with "
        f"{config.other_threads}"
    )
    for table in _tables(rows):
        console.print(table)
    for name, accuracy in accuracies.items():
        console.print(f"test accuracy {name}: {accuracy:.2f} %")
    console.print(f"largest difference: {worst.ours.absolute:.1e} ({worst.stage}, {worst.name})")
    if config.json:
        result = {
            "config": asdict(config),
            "manifest": manifest(digests(*data)),
            "torch": importlib.metadata.version("torch"),
            "test_accuracy_percent": accuracies,
            "rows": [
                row._asdict() | {"ours": row.ours._asdict(), "torch": row.torch._asdict()}
                for row in rows
            ],
        }
        config.json.write_text(json.dumps(result, indent=1, default=str) + "\n")
    if config.float64 and not worst.ours.absolute <= TOLERANCE:  # NaN is no agreement
        print(f"error: the programs differ by more than {TOLERANCE:g}", file=sys.stderr)
        return 1
    return 0


# Both programs. PyTorch is imported inside the functions that run it, because nothing else here
# needs it; and this is the one experiment that imports a benchmark, because the program to compare
# with lives there.


def initial_weights(config: Config) -> StateDict:
    """PyTorch's own initialisation as a `state_dict`."""
    from benchmarks import torch_reference

    model = torch_reference.build(config.placement, config.seed)
    model = model.double() if config.float64 else model
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def trace_ours(config: Config, start: StateDict, train_split: Split, test: Split) -> Trace:
    """Trains here for one epoch, from the given weights."""
    mean, std = NORMALISATIONS[config.normalisation]
    model = LeNet(config.placement)
    tx = optax.sgd(config.learning_rate, momentum=config.momentum)
    variables = jax.tree.map(jnp.asarray, torch_weights.from_torch(start, config.placement))
    state = train.start_from(variables, tx)
    split, test = jax.tree.map(jnp.asarray, (train_split, test))
    settings = {"model": model, "batch_size": config.batch_size, "mean": mean, "std": std}
    epoch = jax.jit(functools.partial(train.train_epoch, tx=tx, **settings))
    order = _order(config, train_split)

    dtype = start["conv1.weight"].dtype
    first = normalise(split.images[order[: config.batch_size]], mean, std, dtype=dtype)
    trace: Trace = {
        f"activations, {mode}": activations(model, variables, first, train=mode == "training")
        for mode in ("training", "evaluation")
    }
    total = metrics.zero(dtype)
    for step, part in _parts(config, order):
        state, sums = epoch(state, split, part)
        total += sums
        if step == 1:
            # From a fresh optimiser the momentum's trace is the gradient of the first step.
            gradient = optax.tree_utils.tree_get(state.opt_state, "trace")
            both = {"params": gradient, "batch_stats": state.batch_stats}
            trace[GRADIENTS] = {
                name: array
                for name, array in torch_weights.to_torch(both).items()
                if not name.endswith(STATISTICS)
            }
        weights = torch_weights.to_torch(train.variables_of(state), step)
        trace[f"after step {step}"] = {"training loss": np.asarray(total.mean_loss)} | weights
    evaluate = jax.jit(functools.partial(train.evaluate, **settings | {"batch_size": 500}))
    trace[f"after step {step}"] |= _test(*evaluate(state, test))
    return trace


def trace_torch(
    config: Config, start: StateDict, train_split: Split, test: Split, *, threads: int
) -> Trace:
    """Trains in PyTorch for one epoch, from the given weights."""
    import torch

    from benchmarks import torch_reference

    torch.set_num_threads(threads)
    mean, std = NORMALISATIONS[config.normalisation]
    weights = {name: torch.from_numpy(array) for name, array in start.items()}
    dtype = weights["conv1.weight"].dtype
    images = torch_reference.normalise(train_split.images, mean, std, dtype)
    labels = torch.from_numpy(train_split.labels).long()
    order = torch.from_numpy(_order(config, train_split)).long()

    trace: Trace = {}
    for mode in ("training", "evaluation"):
        model = torch_reference.build(config.placement, config.seed, dtype)
        model.load_state_dict(weights)
        model.train(mode == "training")
        first = images[order[: config.batch_size]]
        trace[f"activations, {mode}"] = torch_reference.activations(model, first)
    model.load_state_dict(weights)  # in evaluation mode, so nothing but this changed it
    optimizer = torch_reference.make_optimizer(model, config.learning_rate, config.momentum)
    loss, count = 0.0, 0
    for step, part in _parts(config, order):
        batches = torch_reference.in_order(images, labels, part, config.batch_size)
        sums = torch_reference.train_epoch(model, optimizer, batches)
        loss, count = loss + sums.loss, count + sums.count
        if step == 1:
            trace[GRADIENTS] = {
                name: parameter.grad.numpy().copy() for name, parameter in model.named_parameters()
            }
        state = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
        trace[f"after step {step}"] = {"training loss": np.asarray(loss / count)} | state
    test_images = torch_reference.normalise(test.images, mean, std, dtype)
    test_labels = torch.from_numpy(test.labels).long()
    batches = zip(test_images.split(500), test_labels.split(500), strict=True)
    trace[f"after step {step}"] |= _test(*torch_reference.evaluate(model, batches))
    return trace


def _order(config: Config, split: Split) -> np.ndarray:
    """The order of the examples, `[N]` int32."""
    key = jax.random.key(config.seed)
    return np.array(train.epoch_order(key, 1, split.labels.shape[0]))


def _parts(config: Config, order: Any) -> Iterator[tuple[int, Any]]:
    """The order cut after each reported step, with the number of that step."""
    last = -(-len(order) // config.batch_size)
    done = 0
    for step in sorted({step for step in REPORTED_STEPS if step < last} | {last}):
        yield step, order[done * config.batch_size : step * config.batch_size]
        done = step


def activations(model: LeNet, variables: Any, images: jax.Array, *, train: bool) -> StateDict:
    """What each module of ours computes, under the names of `torch_reference.activations`."""

    @jax.jit
    def capture(variables: Any, images: jax.Array) -> Any:
        _, updates = model.apply(
            variables,
            images,
            train=train,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=True,
        )
        return updates["intermediates"]

    captured = traverse_util.flatten_dict(capture(variables, images))
    activations = {}
    for (*modules, _), (output,) in captured.items():
        name = ".".join(modules)
        # Our convolution stages end with the pooling.
        name = f"{name}, pool" if name in ("conv1", "conv2") else name
        # The one place for the layout: the batch is last here, first in PyTorch.
        activations[name] = np.moveaxis(np.asarray(output), -1, 0)
    del activations[""]  # of the whole network, the output of fc3
    return activations


def _test(loss: Any, correct: Any, count: Any) -> StateDict:
    """Mean loss, and accuracy in percent, of sums."""
    percent = 100 * int(correct) / int(count)
    return {"test loss": np.asarray(float(loss) / int(count)), "test accuracy": np.asarray(percent)}


# Comparison and tables.


def compare(ours: Trace, theirs: Trace, again: Trace) -> list[Row]:
    """The differences of everything that was computed."""
    return [
        Row(
            stage, name, difference(ours[stage][name], array), difference(again[stage][name], array)
        )
        for stage, arrays in theirs.items()
        for name, array in arrays.items()
    ]


def difference(array: np.ndarray, reference: np.ndarray) -> Difference:
    """The largest difference of two arrays of one shape.

    Raises:
      ValueError: they differ in shape.
    """
    if array.shape != reference.shape:
        raise ValueError(f"cannot compare {array.shape} with {reference.shape}")
    absolute = float(np.abs(array - reference).max())
    scale = float(np.abs(reference).max())
    return Difference(absolute, absolute / scale if scale else absolute)


def _tables(rows: Sequence[Row]) -> Iterator[Table]:
    """A table for each stage; the parameters after some steps are one line of theirs."""
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
    sys.exit(main())
