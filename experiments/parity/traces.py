"""One epoch of the same training in this program and in PyTorch, recorded array by array.

PyTorch is imported inside the functions that run it, so that `--help` and errors need not wait for
the import.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from experiments.groundwork.recipe import Recipe
from mnist_jax import compilation, metrics, torch_weights, train
from mnist_jax.data import PIXELS, Split
from mnist_jax.model import LeNet, Placement
from mnist_jax.programs import compiled

REPORTED_STEPS = (1, 10, 100)  # steps after which the programs are compared, as after the last
GRADIENTS, EVALUATION = "gradients of the first step", "evaluation after the epoch"
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

StateDict = dict[str, np.ndarray]  # every array in PyTorch's layout, under PyTorch's name
Trace = dict[str, StateDict]  # what one program computed, stage by stage


class Task(NamedTuple):
    """What both programs compute."""

    recipe: Recipe
    start: StateDict  # the initial weights, whose dtype is that of the whole computation
    train: Split  # `N` images and labels
    test: Split
    order: np.ndarray  # [N] int32, the places of the training images in the order of training


def initial_weights(placement: Placement, seed: int, *, float64: bool) -> StateDict:
    """PyTorch's own initialisation as a `state_dict`."""
    from experiments.parity import torch_report

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

    from experiments.parity import torch_report

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
