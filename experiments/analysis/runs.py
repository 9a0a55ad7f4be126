"""Which runs count, and how a network was evaluated."""

import numpy as np
import pandas as pd

from experiments.groundwork import published
from experiments.groundwork.evaluation import EVALUATIONS, EvaluationName
from experiments.groundwork.variants import VARIANTS

FINAL = "test_accuracy_percent"
GUESSING = np.log(10.0)  # nats: the loss of a network for which every digit is equally likely


def complete_runs(results: pd.DataFrame) -> pd.DataFrame:
    """The runs that have every epoch up to the last one of their variant.

    A run that diverged counts. Its accuracies stay as they were measured, and a loss that is not
    finite counts as `GUESSING`.

    Raises:
      ValueError: a variant, placement, seed and epoch occur twice.
    """
    run = ["variant", "placement", "seed"]
    if results.duplicated([*run, "epoch"]).any():
        raise ValueError("results hold a variant, placement, seed and epoch twice")
    known = results[results["variant"].isin(VARIANTS)]
    asked = known["variant"].map({name: recipe.epochs for name, recipe in VARIANTS.items()})
    last = known.groupby("variant")["epoch"].transform("max").clip(upper=asked)
    rows = known[known["epoch"] <= last]
    epochs = rows.groupby(run)["epoch"].transform("size")
    rows = rows[epochs == last[rows.index]].copy()
    for accuracy, loss in _measured(rows):
        rows[loss] = rows[loss].mask(_not_a_number(rows, accuracy, loss), GUESSING).astype(float)
    return rows


def diverged(results: pd.DataFrame) -> int:
    """The number of runs that have a loss which is not finite."""
    broken = pd.Series(False, index=results.index)
    for accuracy, loss in _measured(results):
        broken |= _not_a_number(results, accuracy, loss)
    return len(results[broken][["variant", "placement", "seed"]].drop_duplicates())


def evaluations_of(runs: pd.DataFrame) -> tuple[EvaluationName, ...]:
    """The evaluations that some of the runs have."""
    return tuple(
        name
        for name, prefix in EVALUATIONS.items()
        if (column := f"{prefix}{FINAL}") in runs and runs[column].notna().any()
    )


def evaluated(runs: pd.DataFrame, evaluation: EvaluationName) -> pd.DataFrame:
    """The runs that have an evaluation, with its numbers in the columns of `published.METRICS`."""
    prefix = EVALUATIONS[evaluation]
    if not prefix:
        return runs
    rows = runs[runs[f"{prefix}{FINAL}"].notna()]
    tested = ["test_loss", "test_accuracy_percent"]
    return rows.assign(**{name: rows[f"{prefix}{name}"] for name in tested})


def _measured(results: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs of columns: each accuracy with its loss."""
    accuracies = [name for name in published.METRICS if name.endswith("accuracy_percent")]
    names = [f"{prefix}{name}" for prefix in EVALUATIONS.values() for name in accuracies]
    pairs = [(name, name.replace("accuracy_percent", "loss")) for name in names]
    return [pair for pair in pairs if pair[0] in results and pair[1] in results]


def _not_a_number(results: pd.DataFrame, accuracy: str, loss: str) -> pd.Series:
    """Where something was measured and the loss is not finite; JSON writes null for such a loss."""
    values = results[loss].astype(float)
    return results[accuracy].notna() & ~pd.Series(np.isfinite(values), index=results.index)
