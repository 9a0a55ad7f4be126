"""The three ways in which batch normalisation can normalise the test images.

They are named in `settings.EVALUATIONS`. The statistics of a test batch depend on which images it
holds. The report's program probably took the test images in the order of the original file, as a
DataLoader without shuffling does, so these evaluations take splits in that order.
"""

from typing import Any

import numpy as np

from experiments.settings import EVALUATIONS
from mnist_jax.data import Split
from mnist_jax.prepare import tfds_order
from mnist_jax.train import Evaluation, Programs, Variables


def in_file_order(name: str, split: Split) -> Split:
    """A split, as `load_mnist` gives it, in the order of the original file, as numpy arrays.

    Args:
      name: `train` or `test`.
      split: that split.
    """
    order = np.argsort(tfds_order(name, len(split.labels)))
    images, labels = map(np.asarray, split)
    return Split(images[order], labels[order])


def original(train_split: Split, test_split: Split) -> tuple[Split, Split]:
    """Both splits, as `load_mnist` gives them, in the order of the original files."""
    return in_file_order("train", train_split), in_file_order("test", test_split)


def evaluate(
    programs: Programs, variables: Variables, name: str, train_split: Split, test_split: Split
) -> Evaluation:
    """Evaluates in one of the three ways, for one seed or many.

    Args:
      programs: what `train.compiled`, `parallel.over_batch` or `parallel.over_seeds` returned.
      variables: those of the network, or `[S, ...]` of `S` seeds.
      name: a key of `settings.EVALUATIONS`.
      train_split: the training split in file order; only its images are used, to recalibrate.
      test_split: the test split in file order.
    """
    if name == "batch":
        return programs.evaluate_batch(variables, test_split)
    if name == "recalibrated":
        variables = programs.recalibrate(variables, train_split)
    return programs.evaluate(variables, test_split)


def evaluate_all(
    programs: Programs, variables: Any, train_split: Split, test_split: Split
) -> dict[str, Evaluation]:
    """Evaluates in all three ways; the arguments are those of `evaluate`.

    Returns:
      The evaluations by name. A network without batch normalisation has only `running`, because
      the others would be the same.
    """
    names = EVALUATIONS if variables["batch_stats"] else ("running",)
    return {name: evaluate(programs, variables, name, train_split, test_split) for name in names}
