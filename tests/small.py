"""A data set of a few made-up images, and the commands that train, run on it.

    python -m tests.small run --epochs 3 --out DIRECTORY
    python -m tests.small resume DIRECTORY/RUN
    python -m tests.small compare train --seeds 2 --epochs 3 --out DIRECTORY

A command differs from its original in the data only.
"""

import contextlib
import hashlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from unittest import mock

import numpy as np

from mnist_jax import data, sources
from mnist_jax.data import Dataset, Split

TRAIN_SIZE, TEST_SIZE = 200, 77


def _made_up() -> Dataset:
    """200 train and 77 test images: in noise a bright square, whose place tells the class."""
    rng = np.random.default_rng(0)

    def split(size: int) -> Split:
        labels = rng.permutation(np.arange(size, dtype=np.int32) % 10)
        images = rng.integers(0, 60, (size, 28, 28, 1), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = 7 + 9 * (label // 5), 2 + 5 * (label % 5)
            image[row : row + 5, column : column + 5] += 180
        return Split(images, labels)

    train, test = split(TRAIN_SIZE), split(TEST_SIZE)
    arrays = zip(sources.FILES, (*train, *test), strict=True)
    return Dataset(train, test, {n: hashlib.sha256(a.tobytes()).hexdigest() for n, a in arrays})


DATASET = _made_up()


@contextlib.contextmanager
def in_place_of_mnist(dataset: Dataset = DATASET) -> Iterator[None]:
    """The commands train on these images while the context lasts."""
    with (
        mock.patch.object(data, "load_mnist", lambda *_, **__: dataset),
        mock.patch.object(data, "TRAIN_SIZE", len(dataset.train.labels)),
        mock.patch.object(data, "TEST_SIZE", len(dataset.test.labels)),
    ):
        yield


def main(words: Sequence[str]) -> int:
    """Runs a command, named by the first word, and returns its exit status."""
    name, *arguments = words
    with in_place_of_mnist():
        return importlib.import_module(f"experiments.{name}").main(arguments)


if __name__ == "__main__":
    from experiments.groundwork import command

    command.leave(main(sys.argv[1:]))
