"""Which runs count, and a run's last test accuracy."""

import numpy as np
import pandas as pd

from experiments import published

FINAL = "test_accuracy_percent"


def complete_runs(results: pd.DataFrame) -> pd.DataFrame:
    """The runs that have every epoch up to the study's last, or the report's tenth, and are finite.

    Raises:
      ValueError: a variant, placement, seed and epoch occur twice.
    """
    run = ["variant", "placement", "seed"]
    if results.duplicated([*run, "epoch"]).any():
        raise ValueError("results hold a variant, placement, seed and epoch twice")
    last = min(results["epoch"].max(), len(published.HISTORY["after_fc1"]))
    rows = results[results["epoch"] <= last]
    finite = np.isfinite(rows[list(published.METRICS)].astype(float)).all(axis=1)
    epochs = finite.groupby([rows[key] for key in run]).transform("sum")
    return rows[epochs == last]


def final(runs: pd.DataFrame, variant: str, placement: str) -> pd.Series:
    """Test accuracy after the last epoch, percent, by seed."""
    rows = runs[(runs["variant"] == variant) & (runs["placement"] == placement)]
    return rows[rows["epoch"] == runs["epoch"].max()].set_index("seed")[FINAL].astype(float)
