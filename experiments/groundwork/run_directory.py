"""Writes and opens the files of a run.

    config.json          what was asked for: the recipe, the seed, what is kept
    manifest.json        versions, machine, commit and data; an entry for each time it was started
    metrics.jsonl        a line for each epoch: the keys of `published.METRICS` and the seconds
    checkpoint.safetensors    the state after the last finished epoch, and a copy of the metrics
    weights.safetensors  the weights after the last finished epoch, in PyTorch's names and layout
    epochs/03.safetensors    the weights after epoch 3, if every epoch's weights are kept
    per_class.csv, curves.png, confusion.png, mistakes.png      results of the last epoch

A run continues from `config.json` and the checkpoint. The other files are for people and other
programs: a damaged one cannot change a result.
"""

import contextlib
import csv
import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from experiments.groundwork.command import UsageError, refuse
from experiments.groundwork.evaluation import EvaluationName
from experiments.groundwork.machine import differences
from experiments.groundwork.recipe import MAX_SEED, PixelScale, Recipe, refuse_other_types
from mnist_jax import data, store, torch_weights
from mnist_jax.data import PIXELS, Dataset
from mnist_jax.model import LeNet
from mnist_jax.store import Stored, StoreError

CONFIG, MANIFEST, METRICS = "config.json", "manifest.json", "metrics.jsonl"
CHECKPOINT, WEIGHTS, EPOCHS = "checkpoint.safetensors", "weights.safetensors", "epochs"
PER_CLASS = "per_class.csv"

Row = dict[str, Any]  # a line of metrics.jsonl


@dataclass(frozen=True)
class Config:
    """What a run is asked for."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = Recipe()
    seed: int = 0
    """Seed of the initial weights and of the order of the images, from 0 to 4294967295."""
    evaluation: EvaluationName = "running"
    """Statistics with which batch normalisation treats the test images: the running statistics of
    training, those of each test batch, or the means over all training images. The last are then
    written into the file of weights, too."""
    init_from: Path | None = None
    """A run, or a file with the initial weights, from an earlier run or from PyTorch."""
    keep_epochs: bool = False
    """Keep the weights of every epoch, in the folder epochs of the run."""

    def check(self) -> None:
        """Refuses what no run can be asked for.

        Raises:
          UsageError: naming the first wrong option, and what is allowed.
        """
        self.recipe.check()
        refuse_other_types(self)
        if not 0 <= self.seed <= MAX_SEED:
            refuse("seed", f"from 0 to {MAX_SEED}", self.seed)
        if self.evaluation == "batch" and data.TEST_SIZE % self.recipe.batch_size == 1:
            size = self.recipe.batch_size
            refuse("batch_size", "such that no batch of test images has one", size)


class Run(NamedTuple):
    """A trained network, and how it came about."""

    name: str
    path: Path
    model: LeNet
    variables: Any  # those of `model` after `epoch`
    epoch: int | None  # the last finished one; None for a file that another program wrote
    history: list[Row]  # one row for each epoch; empty for a bare file of weights
    config: Config | None  # None for a bare file of weights
    epochs: tuple[tuple[int, Path], ...]  # number and weights of the epochs that were kept


def open_run(path: Path, pixels: PixelScale | None = None) -> Run:
    """Opens the directory of a run, which may still be training, or a file of weights.

    Args:
      path: of either.
      pixels: the scale of the pixels, for files of weights that do not say it.

    Raises:
      UsageError: it is not the directory of a run, or no epoch is finished; or the file does not
        say the scale of its pixels and none was given, or it says another.
      StoreError: a file, which the message names, is missing, damaged or something else.
    """
    if not path.is_dir():
        model, variables, epoch = open_weights(path, pixels)
        return Run(path.stem, path, model, variables, epoch, [], None, ())
    config = read_config(path)
    if not (path / CHECKPOINT).exists():
        raise UsageError(f"{path}: no epoch of this run is finished")
    history = read_checkpoint(path)[1]
    model, variables, epoch = open_weights(path / WEIGHTS, pixels)
    kept = (file for file in (path / EPOCHS).glob("*.safetensors") if file.stem.isdecimal())
    return Run(
        name=path.resolve().name,
        path=path,
        model=model,
        variables=variables,
        epoch=epoch,
        history=history[:epoch],
        config=config,
        epochs=tuple(sorted((int(file.stem), file) for file in kept)),
    )


def read_config(directory: Path) -> Config:
    """What a run was asked for.

    Raises:
      UsageError: the directory is not that of a run, or somebody wrote into the file what no run
        can be asked for.
      StoreError: the file cannot be read, or is that of another version.
    """
    path = directory / CONFIG
    if not path.exists():
        raise UsageError(f"{directory}: not the directory of a run, it has no {CONFIG}")
    try:
        values = store.read_json(path)
        values["recipe"] = Recipe(**values["recipe"])
        values["init_from"] = values["init_from"] and Path(values["init_from"])
        config = Config(**values)
    except (KeyError, TypeError) as error:
        raise StoreError(f"{path}: not of this version of the program: {error}") from error
    config.check()
    return config


def open_weights(path: Path, pixels: PixelScale | None = None) -> tuple[LeNet, Any, int | None]:
    """The network of a file of weights, its variables, and the epochs that they were trained for.

    Raises:
      UsageError: as in `open_run`.
      StoreError: the file cannot be read or used.
    """
    weights = torch_weights.load(path)
    scale = weights.pixels or (PIXELS[pixels] if pixels else None)
    if scale is None:
        raise UsageError(
            f"{path} does not say the scale of its pixels, as files of PyTorch do not: "
            f"give --pixels {', '.join(PIXELS)}"
        )
    if pixels and scale != PIXELS[pixels]:
        raise UsageError(f"{path}: weights for another scale than --pixels {pixels}: {scale}")
    return LeNet(weights.placement, scale), weights.variables, weights.epochs


def initial_weights(path: Path, model: LeNet) -> Any:
    """The variables of a file of weights, or of a run's directory, with which a network can start.

    Raises:
      UsageError: the weights are those of another placement or scale of the pixels.
      StoreError: the file cannot be read or used.
    """
    found = torch_weights.load(path / WEIGHTS if path.is_dir() else path)
    if found.placement != model.placement:
        raise UsageError(f"{path}: weights of placement {found.placement}, not {model.placement}")
    if found.pixels not in (None, model.pixels):
        names = {pixels: name for name, pixels in PIXELS.items()}
        theirs, ours = (names.get(pixels, pixels) for pixels in (found.pixels, model.pixels))
        raise UsageError(f"{path}: weights for --pixels {theirs}, not {ours}")
    return found.variables


@contextlib.contextmanager
def new(parent: Path, name: str) -> Iterator[Path]:
    """Makes and locks the directory `name` in `parent`, or `name-2` and so on if it exists already.

    It is removed again if no epoch was finished in it.

    Raises:
      StoreError: it cannot be made.
    """
    with store.writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
        directory, number = parent / name, 1
        while True:
            try:
                directory.mkdir()
                break
            except FileExistsError:
                number += 1
                directory = parent / f"{name}-{number}"
    try:
        with store.locked(directory):
            yield directory
    finally:
        if not (directory / CHECKPOINT).exists():
            shutil.rmtree(directory, ignore_errors=True)


def begin(directory: Path, config: Config, manifest: Mapping[str, Any]) -> list[str]:
    """Writes what is known before an epoch.

    Args:
      directory: the run's.
      config: what the run is asked for.
      manifest: what this start depends on, from `machine.manifest`.

    Returns:
      A line for each difference from what the run's first start depended on.
    """
    path, starts = directory / MANIFEST, []
    if path.exists():
        starts = store.read_json(path).get("starts", [])
    values = asdict(config) | {"init_from": config.init_from and str(config.init_from)}
    store.write_json(directory / CONFIG, values)
    store.write_json(path, {"starts": [*starts, manifest]})
    return differences(starts[0], manifest) if starts else []


def write_epoch(
    directory: Path,
    config: Config,
    mnist: Dataset,
    state: Any,
    variables: Any,
    history: Sequence[Row],
) -> None:
    """Puts a finished epoch on disk: weights, then metrics, then the checkpoint that counts.

    Args:
      directory: the run's.
      config: what the run is asked for.
      mnist: the data, whose digests are kept.
      state: all that the next epoch starts from.
      variables: what to predict with.
      history: the rows of all epochs so far.

    Raises:
      StoreError: a file, which the message names, cannot be written.
    """
    epoch, recipe = len(history), config.recipe
    save = partial(
        torch_weights.save,
        variables=variables,
        pixels=PIXELS[recipe.pixels],
        epochs=epoch,
        num_batches_tracked=epoch * -(-recipe.train_size // recipe.batch_size),
    )
    if config.keep_epochs:
        with store.writing(directory):
            (directory / EPOCHS).mkdir(exist_ok=True)
        save(directory / EPOCHS / f"{epoch:02}.safetensors")
    save(directory / WEIGHTS)
    store.write_whole(directory / METRICS, store.as_lines(history))
    metadata = {"data_sha256": mnist.sha256, "history": history}
    store.save(directory / CHECKPOINT, state, metadata)


def read_checkpoint(directory: Path) -> tuple[Stored, list[Row], dict[str, str]]:
    """The checkpoint of a run: the state, the rows of all finished epochs, digests of the data.

    Raises:
      StoreError: the file is missing, damaged or something else.
    """
    saved = store.load(directory / CHECKPOINT)
    if (saved.metadata or {}).keys() != {"data_sha256", "history"}:
        raise StoreError(f"{saved.path}: not the checkpoint of a run")
    return saved, saved.metadata["history"], saved.metadata["data_sha256"]  # type: ignore[index]


def write_per_class(directory: Path, confusion: np.ndarray) -> None:
    """Writes the accuracy of each class, in percent, as comma-separated values.

    Args:
      directory: the run's.
      confusion: `[10, 10]` images, row = label, column = prediction.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("class", "correct", "count", "accuracy_percent"))
    for digit, row in enumerate(confusion):
        correct, count = int(row[digit]), int(row.sum())
        writer.writerow((digit, correct, count, f"{100 * correct / max(count, 1):.4f}"))
    store.write_whole(directory / PER_CLASS, text.getvalue().encode())
