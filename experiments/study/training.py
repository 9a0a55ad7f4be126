"""Trains groups of runs side by side: epochs as rows and states, nothing on the disk."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.files import FileError
from experiments.settings import TEST_BATCH_SIZE, Setting, keys_of, model_of, sgd
from experiments.study import hosts
from experiments.study.plan import Group, Task
from mnist_jax import checkpoint, metrics, parallel, train
from mnist_jax.checkpoint import CheckpointError
from mnist_jax.data import Split
from mnist_jax.metrics import Metrics
from mnist_jax.model import Placement
from mnist_jax.train import Evaluation, Programs, TrainState


class Epoch(NamedTuple):
    """One epoch of a group."""

    number: int
    states: TrainState  # numpy arrays, [S, ...]
    rows: list[dict[str, Any]]  # one a seed; the columns of `experiments.analysis`


def train_group(
    task: Task, setting: Setting, splits: tuple[Split, Split], mesh: Mesh, *, epochs: int
) -> Iterator[Epoch]:
    """Trains a group to the last epoch.

    Args:
      task: the group and where it starts, see `plan`.
      setting: of its variant.
      splits: to train on and to evaluate on, as `parallel.replicate` gives them.
      mesh: the devices over which the seeds are divided.
      epochs: the number of the last epoch.

    Yields:
      Each epoch, when it is computed. Each seed's results are those of a single run.

    Raises:
      FileError: the checkpoint does not fit the network.
    """
    init_keys, order_keys = zip(*map(keys_of, task.group.seeds), strict=True)
    programs = _programs(setting, task.group.placement, mesh)
    states = _initial_states(task, setting, init_keys)
    train_split, test_split = splits
    test_labels = jax.device_get(test_split.labels)
    for number in range(task.done + 1, epochs + 1):
        size = train_split.labels.shape[0]
        orders: Any = np.stack(
            [train.epoch_order(key, number, size) for key in order_keys]
        )  # [S, N]
        states, trained = programs.train_epoch(states, train_split, orders)
        tested = programs.evaluate(train.variables_of(states), test_split)
        # The states as numpy arrays again: as they came, they would be placed otherwise than those
        # of the first epoch, and compiled for once more.
        states, trained, tested = hosts.fetch((states, trained, tested))
        yield Epoch(number, states, _rows(task.group, number, trained, tested, test_labels))


@cache
def _programs(setting: Setting, placement: Placement, mesh: Mesh) -> Programs:
    """One object for each network, so that groups of the same size compile it once."""
    return parallel.over_seeds(
        model_of(setting, placement),
        sgd(setting.learning_rate, setting.momentum),
        mesh=mesh,
        batch_size=setting.batch_size,
        test_batch_size=TEST_BATCH_SIZE,
    )


@cache
def _init_state(setting: Setting, placement: Placement) -> Callable[[jax.Array], TrainState]:
    """The program of a single run, whose initial weights these are."""
    tx = sgd(setting.learning_rate, setting.momentum)
    return train.compiled(model_of(setting, placement), tx).init_state


def _initial_states(task: Task, setting: Setting, keys: Sequence[jax.Array]) -> TrainState:
    """Where a task starts, `[S, ...]`: with fresh weights, or where its checkpoint is.

    As numpy arrays they are alike on every host, and so can enter a computation of all hosts.
    """
    init_state = _init_state(setting, task.group.placement)
    if task.saved is None:
        states = [jax.device_get(init_state(key)) for key in keys]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *states)
    seeds = task.saved.group.seeds  # it may hold others, too
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((len(seeds), *leaf.shape), leaf.dtype),
        jax.eval_shape(init_state, keys[0]),
    )
    try:
        states = checkpoint.restore(task.saved.checkpoint, like)
    except CheckpointError as error:
        raise FileError(str(error)) from error
    places = [seeds.index(seed) for seed in task.group.seeds]
    return jax.tree.map(lambda leaf: leaf[places], states)


def _rows(
    group: Group, epoch: int, trained: Metrics, tested: Evaluation, labels: Any
) -> list[dict[str, Any]]:
    """One row a seed.

    Args:
      group: of `S` seeds.
      epoch: its number.
      trained: sums `[S]` over the training split.
      tested: sums `[S]` and logits `[S, N, 10]` over the test split.
      labels: `[N]` of the test split.
    """
    rows = []
    for place, seed in enumerate(group.seeds):
        of_train, of_test = (
            Metrics(*(x[place] for x in sums)) for sums in (trained, tested.metrics)
        )
        predictions = tested.logits[place].argmax(-1)  # [N]
        rows.append(
            {
                "variant": group.variant,
                "placement": group.placement,
                "seed": seed,
                "epoch": epoch,
                "train_loss": _finite(of_train.mean_loss),
                "train_accuracy_percent": of_train.accuracy_percent,
                "test_loss": _finite(of_test.mean_loss),
                "test_accuracy_percent": of_test.accuracy_percent,
                "confusion": np.asarray(metrics.confusion_matrix(predictions, labels)).tolist(),
            }
        )
    return rows


def _finite(loss: float) -> float | None:
    """None for the loss of a run that diverged, as JSON has no NaN."""
    return loss if math.isfinite(loss) else None
