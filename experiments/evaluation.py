"""The three ways in which batch normalisation can normalise the test images.

They are named in `settings.EVALUATIONS`. The statistics of a test batch depend on which images it
holds, and in the report's program it held images in the order of the original file, so these
evaluations take splits in that order.
"""

from typing import Any

import numpy as np

from experiments.settings import EVALUATIONS
from mnist_jax.data import Split
from mnist_jax.prepare import tfds_order
from mnist_jax.train import Evaluation, Programs, Variables


def in_file_order(split: Split, places: np.ndarray) -> tuple[Split, np.ndarray]:
    """A split in the order of its images' places in the original file.

    Args:
      split: `N` examples, as `load_mnist` gives them or a part of them.
      places: `[N]`, where each one stands in the file, see `tfds_order`.

    Returns:
      The split as numpy arrays, and `[N]` int32 where each of the examples stands in it.
    """
    order = np.argsort(places)
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order), dtype=np.int32)
    images, labels = map(np.asarray, split)
    return Split(images[order], labels[order]), ranks


def original(train_split: Split, test_split: Split) -> tuple[Split, Split]:
    """Both splits, as `load_mnist` gives them, in the order of the original files."""
    splits = {"train": train_split, "test": test_split}
    train_split, test_split = (
        in_file_order(split, tfds_order(name, len(split.labels)))[0]
        for name, split in splits.items()
    )
    return train_split, test_split


def evaluate(
    programs: Programs, variables: Variables, name: str, train_split: Split, test_split: Split
) -> Evaluation:
    """Evaluates in one of the three ways, for one seed or many.

    Args:
      programs: of `train.compiled` or `parallel.over_seeds`.
      variables: of the network, or of as many networks as there are seeds.
      name: a key of `settings.EVALUATIONS`.
      train_split: in file order; its images alone are used, to recalibrate.
      test_split: in file order.
    """
    if name == "batch":
        return programs.evaluate_batch(variables, test_split)
    if name == "recalibrated":
        variables = programs.recalibrate(variables, train_split)
    return programs.evaluate(variables, test_split)


def evaluate_all(
    programs: Programs, variables: Any, train_split: Split, test_split: Split
) -> dict[str, Evaluation]:
    """The evaluations by name; one stands for all where no batch normalisation tells them apart.

    The arguments are those of `evaluate`.
    """
    names = EVALUATIONS if variables["batch_stats"] else ("running",)
    return {name: evaluate(programs, variables, name, train_split, test_split) for name in names}
