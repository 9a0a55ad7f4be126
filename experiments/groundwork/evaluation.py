"""The three ways in which batch normalisation can normalise the test images.

The statistics of a test batch depend on which images it holds. The report's program probably took
the test images in the order of the original file, as a DataLoader without shuffling does, and that
is the order of our splits.
"""

from typing import Literal

from mnist_jax.data import Split
from mnist_jax.programs import Programs
from mnist_jax.train import Evaluation, Variables

EvaluationName = Literal["running", "batch", "recalibrated"]
# What the names of their metrics begin with. In a network without batch normalisation the three are
# the same.
EVALUATIONS: dict[EvaluationName, str] = {
    "running": "",  # with running statistics, as after PyTorch's `model.eval()`
    "batch": "batch_",  # with the statistics of each test batch, as without that call
    "recalibrated": "recalibrated_",  # with the means over all training images
}


def to_predict_with(
    programs: Programs, variables: Variables, name: EvaluationName, train: Split
) -> Variables:
    """The variables that one of the three ways predicts with: recalibrated ones, or as they are.

    Args:
      programs: what `programs.compiled` or `parallel.over_seeds` returned.
      variables: those of the network, or `[S, ...]` of `S` seeds.
      name: the way.
      train: the training split; only its images are used, to recalibrate.
    """
    return programs.recalibrate(variables, train) if name == "recalibrated" else variables


def evaluate(
    programs: Programs, variables: Variables, name: EvaluationName, test: Split
) -> Evaluation:
    """Evaluates the variables that `to_predict_with` returned on the test split."""
    if name == "batch":
        return programs.evaluate_batch(variables, test)
    return programs.evaluate(variables, test)


def evaluate_all(
    programs: Programs, variables: Variables, train: Split, test: Split
) -> dict[EvaluationName, Evaluation]:
    """Evaluates in all three ways.

    Returns:
      The evaluations by name. A network without batch normalisation has only `running`, because
      the others would be the same.
    """
    names: list[EvaluationName] = list(EVALUATIONS) if variables["batch_stats"] else ["running"]
    return {
        name: evaluate(programs, to_predict_with(programs, variables, name, train), name, test)
        for name in names
    }
