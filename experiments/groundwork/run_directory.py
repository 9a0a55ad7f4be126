"""Writes and opens the files of a run.

    config.json          the options of the run
    manifest.json        versions, machine, commit and data; an entry for each time it was started
    metrics.jsonl        a line for each epoch: the keys of `published.METRICS` and the seconds
    checkpoint           the state after the last finished epoch, and a copy of options and metrics
    weights.safetensors  the weights after the last finished epoch, in PyTorch's names and layout
    epochs/03.safetensors    the weights after epoch 3, if every epoch's weights are kept
    per_class.csv, curves.png, confusion.png, mistakes.png      results of the last epoch

The state from which a run continues is in the checkpoint alone, and a checksum covers the whole
checkpoint. The other files are for people and other programs: a damaged one cannot change a result.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.groundwork.files import as_json, as_lines, read_json, write_whole, writing
from experiments.groundwork.options import UsageError
from mnist_jax import checkpoint, torch_weights
from mnist_jax.checkpoint import Checkpoint, CheckpointError
from mnist_jax.data import PIXELS, Pixels
from mnist_jax.model import LeNet
from mnist_jax.torch_weights import Weights

CONFIG, MANIFEST, METRICS = "config.json", "manifest.json", "metrics.jsonl"
CHECKPOINT, WEIGHTS, EPOCHS = "checkpoint", "weights.safetensors", "epochs"
PER_CLASS = "per_class.csv"
DEFAULT_PIXELS = PIXELS["half"]  # for weights from PyTorch, whose file does not say a scale

Row = dict[str, Any]  # a line of metrics.jsonl


class Run(NamedTuple):
    """A trained network, and how it came about."""

    name: str
    path: Path
    model: LeNet
    variables: Any  # those of `model` after `epoch`
    epoch: int | None  # the last finished one; None for a file that another program wrote
    history: list[Row]  # one row for each epoch; empty for a bare file of weights
    config: dict[str, Any]  # the options of the run; empty for a bare file of weights
    manifest: dict[str, Any]  # empty for a bare file of weights
    epochs: tuple[tuple[int, Path], ...]  # number and weights of the epochs that were kept


def open_run(path: Path) -> Run:
    """Opens the directory of a run, which may still be training, or a file of weights.

    Raises:
      UsageError: a file, which the message names, is missing, damaged or something else.
      FileError: likewise for `config.json` and `manifest.json`.
    """
    if not path.is_dir():
        model, variables, epoch = open_weights(path)
        return Run(path.stem, path, model, variables, epoch, [], {}, {}, ())
    config = read_config(path)
    if not (path / WEIGHTS).exists():
        raise UsageError(f"{path}: no epoch of this run is finished")
    saved = read_checkpoint(path)
    model, variables, epoch = open_weights(path / WEIGHTS)
    kept = (file for file in (path / EPOCHS).glob("*.safetensors") if file.stem.isdecimal())
    return Run(
        name=path.resolve().name,
        path=path,
        model=model,
        variables=variables,
        epoch=epoch,
        history=saved.metadata["history"][:epoch],
        config=config,
        manifest=read_manifest(path),
        epochs=tuple(sorted((int(file.stem), file) for file in kept)),
    )


def read_config(directory: Path) -> dict[str, Any]:
    """The options of a run.

    Raises:
      UsageError: the directory is not that of a run.
      FileError: the file is damaged or cannot be read.
    """
    if not (directory / CONFIG).exists():
        raise UsageError(f"{directory}: not the directory of a run, it has no {CONFIG}")
    return read_json(directory / CONFIG)


def read_manifest(directory: Path) -> dict[str, Any]:
    """What a run depended on: `starts` has a manifest for each time that it was started.

    Raises:
      FileError: the file is damaged or cannot be read.
    """
    return read_json(directory / MANIFEST)


def open_weights(path: Path) -> tuple[LeNet, Any, int | None]:
    """The network of a file of weights, its variables, and the epochs that they were trained for.

    Raises:
      UsageError: the file cannot be read or used. The message is one line and names it.
    """
    weights = read_weights(path)
    model = LeNet(weights.placement, weights.pixels or DEFAULT_PIXELS)
    return model, weights.variables, weights.epochs


def read_weights(path: Path) -> Weights:
    """What a file of weights holds.

    Raises:
      UsageError: the file cannot be read or used. The message is one line and names it.
    """
    try:
        return torch_weights.load(path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def begin(directory: Path, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Writes the files that are known before the first epoch: options and manifest."""
    with writing(directory):
        write_whole(directory / CONFIG, as_json(config))
        write_whole(directory / MANIFEST, as_json({"starts": [manifest]}))


def begin_again(
    directory: Path, config: Mapping[str, Any], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Adds a start to the manifest of a run that is continued, and returns that of the first."""
    starts = read_manifest(directory)["starts"]
    with writing(directory):
        write_whole(directory / CONFIG, as_json(config))
        write_whole(directory / MANIFEST, as_json({"starts": [*starts, manifest]}))
    return starts[0]


def write_epoch(
    directory: Path,
    state: Any,
    variables: Any,
    *,
    config: Mapping[str, Any],
    data_sha256: Mapping[str, str],
    history: Sequence[Row],
    pixels: Pixels,
    steps_per_epoch: int,
    keep: bool,
) -> None:
    """Puts a finished epoch on disk: weights, then metrics, then the checkpoint that counts.

    Args:
      directory: the run's.
      state: all that the next epoch starts from.
      variables: the network's part of it.
      config: the options of the run.
      data_sha256: digests of the data.
      history: the rows of all epochs so far.
      pixels: the network's scale of the pixels.
      steps_per_epoch: training steps in an epoch.
      keep: whether to keep the weights of this epoch, too.

    Raises:
      FileError: a file, which the message names, cannot be written.
    """
    epoch = len(history)
    steps = epoch * steps_per_epoch
    save = partial(torch_weights.save, pixels=pixels, epochs=epoch, num_batches_tracked=steps)
    with writing(directory):
        if keep:
            (directory / EPOCHS).mkdir(exist_ok=True)
            kept = directory / EPOCHS / f"{epoch:02}.safetensors"
            save(kept, variables)
        save(directory / WEIGHTS, variables)
        write_whole(directory / METRICS, as_lines(history))
        metadata = {"config": config, "data_sha256": data_sha256, "history": history}
        checkpoint.save(directory / CHECKPOINT, state, metadata)


def read_checkpoint(directory: Path) -> Checkpoint:
    """The checkpoint of a run: state, and as metadata `config`, `data_sha256` and `history`.

    Raises:
      UsageError: the file is missing, damaged or something else. The message is one line.
    """
    try:
        saved = checkpoint.load(directory / CHECKPOINT)
    except CheckpointError as error:
        raise UsageError(str(error)) from error
    if saved.metadata.keys() != {"config", "data_sha256", "history"}:
        raise UsageError(f"{saved.path}: a checkpoint of something else")
    return saved


def write_per_class(directory: Path, confusion: np.ndarray) -> None:
    """Writes the accuracy of each class, in percent, as comma-separated values.

    Args:
      directory: the run's.
      confusion: [10, 10] images, row = label, column = prediction.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("class", "correct", "count", "accuracy_percent"))
    for digit, row in enumerate(confusion):
        correct, count = int(row[digit]), int(row.sum())
        writer.writerow((digit, correct, count, f"{100 * correct / max(count, 1):.4f}"))
    with writing(directory):
        write_whole(directory / PER_CLASS, text.getvalue().encode())
