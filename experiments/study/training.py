"""Trains groups of runs side by side, and yields their rows and states; it writes no files."""

import base64
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from mnist_jax.checkpoint import CheckpointError

from experiments.groundwork.evaluation import EVALUATIONS, evaluate_all, original
from experiments.groundwork.files import FileError
from experiments.groundwork.recipe import keys_of
from experiments.groundwork.variants import Setting, model_of, sgd
from experiments.study import hosts
from experiments.study.plan import Group, Task
from mnist_jax import checkpoint, metrics, parallel, train
from mnist_jax.data import Split
from mnist_jax.metrics import Metrics
from mnist_jax.model import Placement
from mnist_jax.prepare import tfds_order
from mnist_jax.train import Evaluation, Programs, TrainState


class Data(NamedTuple):
    """What runs are trained and tested on, in the order of the original files.

    The report's program probably saw the test images in that order, and batch statistics depend on
    it. The order of training is a seed's permutation of TFDS's order, as in every other command.
    """

    train: Split
    test: Split
    places: np.ndarray  # [N] the place in `train` of each image, in TFDS's order


class GroupEpoch(NamedTuple):
    """One epoch of a group."""

    number: int
    states: TrainState  # numpy arrays, [S, ...]
    rows: list[dict[str, Any]]  # one for each seed, as in results.jsonl


def arranged(splits: tuple[Split, Split], held_out: int) -> Data:
    """Both splits, as `load_mnist` gives them, in the order of the original files.

    Args:
      splits: train and test.
      held_out: if it is not 0, the last `held_out` training images replace the test split, and only
        the other training images are trained on.
    """
    train_split, test_split = original(*splits)
    places = tfds_order("train", len(train_split.labels))
    if held_out:
        kept, held = np.sort(places[:-held_out]), np.sort(places[-held_out:])
        places = np.searchsorted(kept, places[:-held_out])
        train_split, test_split = (
            Split(train_split.images[part], train_split.labels[part]) for part in (kept, held)
        )
    return Data(train_split, test_split, places.astype(np.int32))


def train_group(task: Task, setting: Setting, data: Data, mesh: Mesh) -> Iterator[GroupEpoch]:
    """Trains a group to the last epoch.

    Args:
      task: the group, and where it starts.
      setting: the setting of its variant.
      data: what `arranged` returned, with splits that `parallel.replicate` has placed.
      mesh: the devices over which the seeds are divided.

    Yields:
      Each epoch, when it is computed. Each seed's results are those of a single run.

    Raises:
      FileError: the checkpoint does not fit the network.
    """
    init_keys, order_keys = zip(*map(keys_of, task.group.seeds), strict=True)
    programs = _programs(setting, task.group.placement, mesh)
    states = _initial_states(task, setting, init_keys)
    labels = jax.device_get(data.test.labels)
    for number in range(task.done + 1, setting.epochs + 1):
        orders: Any = np.stack(
            [data.places[train.epoch_order(key, number, len(data.places))] for key in order_keys]
        )  # [S, N]
        states, trained = programs.train_epoch(states, data.train, orders)
        tested = evaluate_all(programs, train.variables_of(states), data.train, data.test)
        # The states become numpy arrays again. As they came from the program they would lie
        # elsewhere than those of the first epoch, and the program would be compiled once more.
        states, trained, tested = hosts.fetch((states, trained, tested))
        rows = _rows(task.group, number, trained, tested)
        if number == setting.epochs and not setting.held_out:
            for place, row in enumerate(rows):
                row["answers"] = {
                    name: _answers(one.logits[place], labels) for name, one in tested.items()
                }
        yield GroupEpoch(number, states, rows)


@lru_cache(maxsize=1)  # a study has many networks, and goes through them one after another
def _programs(setting: Setting, placement: Placement, mesh: Mesh) -> Programs:
    """The programs of a network, always the same object, so that equal groups compile them once."""
    return parallel.over_seeds(
        model_of(setting, placement),
        sgd(setting.learning_rate, setting.momentum),
        mesh=mesh,
        batch_size=setting.batch_size,
    )


@lru_cache(maxsize=1)
def _init_state(setting: Setting, placement: Placement) -> Callable[[jax.Array], TrainState]:
    """The program by which a single run draws its initial weights, so that both have the same."""
    tx = sgd(setting.learning_rate, setting.momentum)
    return train.compiled(model_of(setting, placement), tx).init_state


def _initial_states(task: Task, setting: Setting, keys: Sequence[jax.Array]) -> TrainState:
    """The states from which a task starts, `[S, ...]`: fresh ones, or those of its checkpoint.

    They are numpy arrays, which are the same on every host, and so all hosts can compute with them.
    """
    init_state = _init_state(setting, task.group.placement)
    if task.saved is None:
        states = [jax.device_get(init_state(key)) for key in keys]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *states)
    seeds = task.saved.group.seeds  # the checkpoint may hold other seeds, too
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
    group: Group, epoch: int, trained: Metrics, tested: Mapping[str, Evaluation]
) -> list[dict[str, Any]]:
    """Makes one row for each seed.

    Args:
      group: the runs, `S` seeds.
      epoch: the number of the epoch.
      trained: sums `[S]` over the training split.
      tested: sums `[S]` over the test split, by the name of the evaluation.
    """
    sums = {"train": trained} | {
        f"{prefix}test": tested.get(name, tested["running"]).metrics
        for name, prefix in EVALUATIONS.items()
    }
    rows = []
    for place, seed in enumerate(group.seeds):
        run = {"variant": group.variant, "placement": group.placement, "seed": seed}
        row: dict[str, Any] = {**run, "epoch": epoch}
        for name, of_group in sums.items():
            of_seed = Metrics(*(x[place] for x in of_group))
            row[f"{name}_loss"] = _rounded(of_seed.mean_loss)
            row[f"{name}_accuracy_percent"] = _rounded(of_seed.accuracy_percent)
        rows.append(row)
    return rows


def _rounded(value: float) -> float | None:
    """Rounds to six digits, the precision of float32 sums; None if the value is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _answers(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """What a network said of the test images, in the form of a line of results.jsonl.

    Args:
      logits: `[N, 10]`.
      labels: `[N]`.
    """
    predictions = logits.argmax(-1)  # [N]
    return {
        "confusion": np.asarray(metrics.confusion_matrix(predictions, labels)).tolist(),
        "correct": base64.b64encode(np.packbits(predictions == labels).tobytes()).decode(),
    }
