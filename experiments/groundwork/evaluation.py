"""The three ways in which batch normalisation can normalise the test images.

They are named in `settings.EVALUATIONS`. The statistics of a test batch depend on which images it
holds. The report's program probably took the test images in the order of the original file, as a
DataLoader without shuffling does, so these evaluations take splits in that order.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.groundwork.settings import EVALUATIONS
from mnist_jax.data import Split
from mnist_jax.prepare import tfds_order
from mnist_jax.train import Evaluation, Programs, TrainState, Variables, variables_of


class Way(NamedTuple):
    """One of the three ways for all epochs of a run, from `in_one_way`."""

    programs: Programs  # their `evaluate` evaluates in this way, whatever split it is given
    variables_of: Callable[[TrainState], Variables]  # with the statistics to predict with


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


def in_one_way(programs: Programs, name: str, in_order: Callable[[], tuple[Split, Split]]) -> Way:
    """Gives the programs of a run an `evaluate` that evaluates in one of the three ways.

    Predictions use the statistics with which the network is evaluated, or the running ones if each
    test batch has its own. An epoch is recalibrated once, though both its evaluation and its file
    of weights need that.

    Args:
      programs: what `train.compiled` or `parallel.over_batch` returned.
      name: a key of `settings.EVALUATIONS`. With `running` the programs stay as they are.
      in_order: makes the training and the test split in file order; the other two ways call it.
    """
    if name == "running":
        return Way(programs, variables_of)
    last: list[tuple[Any, Variables]] = []  # the parameters, and what was recalibrated with them

    def once(variables: Variables, split: Split) -> Variables:
        if not last or last[0][0] is not variables["params"]:
            last[:] = [(variables["params"], programs.recalibrate(variables, split))]
        return last[0][1]

    kept = programs._replace(recalibrate=once)

    def evaluated(variables: Variables, _: Split) -> Evaluation:
        return evaluate(kept, variables, name, *in_order())

    way = Way(programs._replace(evaluate=evaluated), variables_of)
    if name == "batch":
        return way
    return way._replace(variables_of=lambda state: once(variables_of(state), in_order()[0]))
