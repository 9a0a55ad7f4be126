"""How well are digits read from pictures?

    python -m benchmarks.pictures runs/none-seed0 runs/before_fc1-seed0 runs/after_fc1-seed0
    python -m benchmarks.pictures runs/after_fc1-seed0 --handwriting DIRECTORY

Method. Test images of MNIST, drawn at random, are changed as pictures of other people differ from
them, and answered by each network: some as they are, the others after `mnist_jax.digits` has
prepared them. A picture in which no digit is found counts as a mistake. With `--handwriting` the
pictures of a directory that show one digit are read, too; its `index.csv` has the columns file,
truth and kind. Pictures that other people made tell more than any that are made up here.

The accuracies depend on the networks and the images, not on the machine.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image
from rich import box
from rich.table import Table
from scipy import ndimage

from experiments.groundwork import command, machine, terminal
from experiments.groundwork import images as pictures
from experiments.groundwork.command import DataOptions, UsageError, refuse
from experiments.groundwork.run_directory import open_run
from mnist_jax import compilation, data, train
from mnist_jax.digits import to_mnist


@dataclass(frozen=True)
class Options:
    """Measure how well digits are read from pictures."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Directories that experiments.run made, or .safetensors files."""
    handwriting: Path | None = None
    """Directory of pictures with an index.csv that says what they show."""
    images: int = 1000
    """Number of test images, at least 1."""
    seed: int = 0
    """Seed of the choice of images and of what is random in the pictures, at least 0."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return command.main(Options, run, arguments, name="benchmarks.pictures", description=__doc__)


def run(options: Options) -> None:
    """Prints the table.

    Raises:
      UsageError: an option has a value that it cannot have.
      StoreError: a run cannot be read.
      DataError: the data cannot be had.
    """
    if options.images < 1 or options.seed < 0:
        raise UsageError("--images must be at least 1, and --seed at least 0")
    if not options.runs:
        raise UsageError("name at least one run: python -m benchmarks.pictures RUN")
    machine.start()
    runs = [open_run(path) for path in options.runs]
    networks = [compilation.jit(partial(train.predict, model=run.model)) for run in runs]
    table = Table("pictures", "number", box=box.SIMPLE_HEAD)
    for run in runs:
        table.add_column(run.name, justify="right", no_wrap=True)
    table.add_column("no digit found", justify="right", no_wrap=True)

    def add_row(name: str, seen: np.ndarray, truth: np.ndarray) -> None:
        found = seen.any((1, 2, 3))  # what is black was refused
        percents = [
            100 * np.mean(found & (np.asarray(network(run.variables, seen)).argmax(1) == truth))
            for run, network in zip(runs, networks, strict=True)
        ]
        cells = [f"{percent:.1f} %" for percent in percents]
        table.add_row(name, str(len(truth)), *cells, str((~found).sum()))

    test, rng = data.load_mnist(options.data.data_dir, options.data.mirror).test, options.seed
    which = np.random.default_rng(rng).permutation(len(test.labels))[: options.images]
    images, truth = np.asarray(test.images)[which], np.asarray(test.labels)[which]
    for name, change in CHANGES.items():
        add_row(name, changed(images, change, options.seed), truth)
    if options.handwriting:
        for kind, (seen, truth) in read_handwriting(options.handwriting).items():
            add_row(f"handwriting: {kind}", seen, truth)
    terminal.print_table(terminal.console(), table)


Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def changed(images: np.ndarray, change: Change, seed: int) -> np.ndarray:
    """Images `[N, 28, 28, 1]` uint8 after a change; black where no digit was found."""
    rng = np.random.default_rng(seed)
    return np.stack([_or_black(change, image[..., 0], rng) for image in images])


def _or_black(make: Callable[..., np.ndarray], *arguments: Any) -> np.ndarray:
    try:
        return make(*arguments).reshape(28, 28, 1)
    except ValueError:
        return np.zeros((28, 28, 1), np.uint8)


def read_handwriting(directory: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pictures `[N, 28, 28, 1]`, prepared, and their digits `[N]`, of all of a directory by kind.

    Raises:
      UsageError: the directory has no index.csv.
    """
    try:
        index = (directory / "index.csv").read_text("utf-8")
    except OSError as error:
        refuse("handwriting", f"a directory with index.csv ({error.strerror})", directory)
    rows = [
        row
        for row in csv.DictReader(index.splitlines())
        if len(row["truth"]) == 1 and row["truth"].isdecimal()
    ]
    found = {}
    for kind in ("all", *dict.fromkeys(row["kind"] for row in rows)):
        of_kind = [row for row in rows if kind in ("all", row["kind"])]
        seen = [_or_black(lambda row: _read(directory / row["file"]), row) for row in of_kind]
        found[kind] = np.stack(seen), np.array([int(row["truth"]) for row in of_kind])
    return found


def _read(file: Path) -> np.ndarray:
    return to_mnist(pictures.decode(file))


def _blurred(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return ndimage.gaussian_filter(image, 0.7)


def _weak(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return np.rint(0.6 * image).astype(np.uint8)


def _shrunk(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return to_mnist(np.rint(image.reshape(14, 2, 14, 2).mean((1, 3))).astype(np.uint8))


def _photographed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Dark ink anywhere on a page of 400x300; its dark side has half the light; noise."""
    side = round(28 * rng.uniform(4, 8))
    page = Image.new("L", (400, 300), 255)
    ink = Image.fromarray(255 - image).resize((side, side), Image.Resampling.BICUBIC)
    page.paste(ink, (int(rng.integers(0, 401 - side)), int(rng.integers(0, 301 - side))))
    down, along = np.mgrid[0:1:300j, 0:1:400j]
    angle = rng.uniform(0, 2 * np.pi)
    light = np.cos(angle) * along + np.sin(angle) * down
    light = 230 - 115 * (light - light.min()) / np.ptp(light)
    inked = 1 - ndimage.gaussian_filter(np.asarray(page) / 255, 1.2)
    picture = light * (1 - 0.75 * inked) + rng.normal(0, 5, light.shape)
    return to_mnist(np.clip(picture, 0, 255).astype(np.uint8))


CHANGES: dict[str, Change] = {
    "MNIST as it is": lambda image, _: image,
    "MNIST, prepared again": lambda image, _: to_mnist(image),
    "MNIST, blurred by 0.7 pixels, not prepared": _blurred,
    "MNIST, ink of 0.6, not prepared": _weak,
    "MNIST, shrunk to 14x14, prepared": _shrunk,
    "MNIST, as a simulated photograph, prepared": _photographed,
}


if __name__ == "__main__":
    command.leave(main())
