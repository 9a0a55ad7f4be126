"""A data set of a few made-up images, and the commands that train, run on it.

    python -m tests.small run --epochs 3 --out DIRECTORY
    python -m tests.small compare --seeds 2 --epochs 3 --out DIRECTORY

A command differs from its original in the data only.
"""

if __name__ == "__main__":
    from experiments.groundwork import stopping

    stopping.end_at_once()  # as the commands do before their slow imports

import contextlib
import sys
from collections.abc import Iterator, Sequence
from unittest import mock

import numpy as np

from mnist_jax.data import Split

TRAIN_SIZE, TEST_SIZE = 200, 77


def splits() -> tuple[Split, Split]:
    """200 train and 77 test images: in noise a bright square, whose place tells the class."""
    rng = np.random.default_rng(0)

    def split(size: int) -> Split:
        labels = rng.permutation(np.arange(size, dtype=np.int32) % 10)
        images = rng.integers(0, 60, (size, 28, 28, 1), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = 7 + 9 * (label // 5), 2 + 5 * (label % 5)
            image[row : row + 5, column : column + 5] += 180
        return Split(images, labels)

    return split(TRAIN_SIZE), split(TEST_SIZE)


@contextlib.contextmanager
def in_place_of_mnist() -> Iterator[None]:
    """The commands train on these images while the context lasts."""
    from experiments import compare, run

    loaded = splits()
    with (
        mock.patch.object(run, "load_mnist", lambda *_, **__: loaded),
        mock.patch.object(run, "TRAIN_SIZE", TRAIN_SIZE),
        mock.patch.object(run, "TEST_SIZE", TEST_SIZE),
        mock.patch.object(compare, "load_mnist", lambda *_, **__: loaded),
    ):
        yield


def main(words: Sequence[str]) -> int:
    """Runs a command, named by the first word, and returns its exit status."""
    from experiments import compare, run

    command, *arguments = words
    with in_place_of_mnist():
        return {"run": run, "compare": compare}[command].main(arguments)


if __name__ == "__main__":
    from experiments.groundwork import options

    options.leave(main(sys.argv[1:]))
