"""Which runs count, how a network was evaluated, and a run's last test accuracy."""

import numpy as np
import pandas as pd

from experiments.groundwork import published
from experiments.groundwork.evaluation import EVALUATIONS
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
    asked = known["variant"].map({name: setting.epochs for name, setting in VARIANTS.items()})
    last = known.groupby("variant")["epoch"].transform("max").clip(upper=asked)
    rows = known[known["epoch"] <= last]
    epochs = rows.groupby(run)["epoch"].transform("size")
    rows = rows[epochs == last[rows.index]].copy()
    for accuracy, loss in _measured(rows):
        rows[loss] = rows[loss].mask(_not_a_number(rows, accuracy, loss), GUESSING).astype(float)
    return rows


def reaches_its_end(runs: pd.DataFrame, variant: str) -> bool:
    """Whether the runs of a variant have all epochs of its setting, and not fewer."""
    last = runs[runs["variant"] == variant]["epoch"].max()  # NaN without runs
    return bool(last >= VARIANTS[variant].epochs)


def comparable(runs: pd.DataFrame, *variants: str) -> pd.DataFrame:
    """The runs of these variants, or none of them while their networks are of unlike age.

    Networks are of like age if all have equally many epochs, or all have those of their settings.
    While a study grows they may have neither, and then their accuracies are not compared.
    """
    mine = runs[runs["variant"].isin(variants)]
    alike = mine.groupby("variant")["epoch"].max().nunique() <= 1
    return mine if alike or all(reaches_its_end(runs, name) for name in variants) else mine[:0]


def diverged(results: pd.DataFrame) -> int:
    """The number of runs that have a loss which is not finite."""
    broken = pd.Series(False, index=results.index)
    for accuracy, loss in _measured(results):
        broken |= _not_a_number(results, accuracy, loss)
    return len(results[broken][["variant", "placement", "seed"]].drop_duplicates())


def evaluations_of(runs: pd.DataFrame) -> tuple[str, ...]:
    """The evaluations that some of the runs have."""
    columns = ((name, f"{prefix}{FINAL}") for name, prefix in EVALUATIONS.items())
    return tuple(name for name, column in columns if column in runs and runs[column].notna().any())


def evaluated(runs: pd.DataFrame, evaluation: str) -> pd.DataFrame:
    """The runs that have an evaluation, with its numbers in the columns of `published.METRICS`."""
    prefix = EVALUATIONS[evaluation]
    if not prefix:
        return runs
    rows = runs[runs[f"{prefix}{FINAL}"].notna()]
    tested = ["test_loss", "test_accuracy_percent"]
    return rows.assign(**{name: rows[f"{prefix}{name}"] for name in tested})


def final(runs: pd.DataFrame, variant: str, placement: str) -> pd.Series:
    """Test accuracy after the last epoch, percent, by seed."""
    rows = runs[(runs["variant"] == variant) & (runs["placement"] == placement)]
    return rows[rows["epoch"] == rows["epoch"].max()].set_index("seed")[FINAL].astype(float)


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
