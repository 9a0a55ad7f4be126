"""Makes tables, summary and figures of a study from its files alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

from experiments.groundwork.published import HISTORY
from experiments.groundwork.variants import PLAN, REPORT, VARIANTS
from experiments.study.files import KEYS, TIMING, Study
from experiments.study.runs import Run
from mnist_jax import store
from mnist_jax.model import PLACEMENTS, Placement
from mnist_jax.store import StoreError

TABLES, SUMMARY, FIGURES = "tables", "summary.json", "figures"
MOST_SHOWN = 12  # networks in the table that is printed


def write(study: Study, directory: Path, timing: dict[str, Any] | None) -> Sequence[str]:
    """Makes tables, summary and figures.

    Args:
      study: what `files.read` returned.
      directory: where tables, summary and figures go.
      timing: what `read_timing` returned, for claim 2.

    Returns:
      Sentences about what is missing and therefore left out of the tables.

    Raises:
      StoreError: a file cannot be written.
    """
    from experiments import analysis  # here, because training does not need it
    from experiments.figures.study import draw

    said = [analysis.Answers(*each) for each in study.answers]
    tables = analysis.analyse(study.table, timing, said, study.labels)
    markdown = analysis.to_markdown(tables)
    for folder in (TABLES, FIGURES):
        with store.writing(directory):
            (directory / folder).mkdir(exist_ok=True)
    for name, text in markdown.items():
        path = directory / TABLES / f"{name}.md"
        if text:
            store.write_whole(path, f"{text}\n".encode())
        else:  # nothing to show, though there may have been before
            path.unlink(missing_ok=True)
    summary = json.dumps(analysis.summary(tables), indent=1, allow_nan=False)
    store.write_whole(directory / SUMMARY, f"{summary}\n".encode())
    draw(study.table, tables, directory / FIGURES)
    return tables.notes


def last_epochs(study: Study) -> Table:
    """A table of the networks' test accuracies after their last epoch, to be printed."""
    title = "Test accuracy after the last epoch, %, with running and with batch statistics"
    table = Table("network", title=title, box=box.SIMPLE_HEAD)
    for name in ("runs", "epochs", "running", "batch", "the report"):
        table.add_column(name, justify="right")
    kinds = study.table.groupby(KEYS[:2])
    order = [(variant, place) for variant in VARIANTS for place in PLACEMENTS]
    shown = [kind for kind in order if kind in kinds.groups]
    for variant, placement in shown[:MOST_SHOWN]:
        rows = kinds.get_group((variant, placement))
        epochs = rows["epoch"].max()
        last = rows[rows["epoch"] == epochs]
        published = HISTORY.get(placement, ()) if VARIANTS[variant] == REPORT else ()
        table.add_row(
            f"{variant}/{placement}",
            f"{len(last):,}",
            str(epochs),
            _spread(last["test_accuracy_percent"]),
            _spread(last["batch_test_accuracy_percent"]) if placement != "none" else "the same",
            *(f"{one.test_accuracy_percent:.2f}" for one in published if one.epoch == epochs),
        )
    if len(shown) > MOST_SHOWN:
        table.add_row(f"and {len(shown) - MOST_SHOWN} others")
    return table


def _spread(percent: pd.Series) -> str:
    """Mean and standard deviation."""
    spread = f" \N{PLUS-MINUS SIGN} {percent.std():.2f}" if len(percent) > 1 else ""
    return f"{percent.mean():.2f}{spread}"


def best_rates(study: Study) -> dict[Placement, float]:
    """The learning rate that does best on held-out images, for each placement.

    Raises:
      StoreError: a run of the plan's part `rates` is missing.
    """
    from experiments import analysis

    for variant, placement, seeds in PLAN["rates"]:
        for run in (Run(variant, placement, seed) for seed in seeds):
            if run not in study.runs:
                raise StoreError(f"the rates are not all tried yet: {run} is missing")
    return analysis.best_rates(study.table)


def read_timing(path: Path) -> dict[str, Any]:
    """Reads the JSON file that `benchmarks.epoch_time` wrote.

    Raises:
      StoreError: the file is damaged or something else.
    """
    timing = store.read_json(path)
    try:
        for row in timing["rows"]:
            times = row["epoch_seconds"]
            whole = isinstance(row["program"], str) and isinstance(row["threads"], int)
            if not (whole and row["placement"] in PLACEMENTS and times and min(times) > 0):
                raise ValueError(row)
    except (KeyError, TypeError, ValueError):
        raise StoreError(f"{path}: not what benchmarks.epoch_time writes") from None
    return timing


def timing_of(studies: Sequence[Path]) -> dict[str, Any] | None:
    """The timing in the first of these directories that has one; errors are as in `read_timing`."""
    paths = [path / TIMING for path in studies if (path / TIMING).exists()]
    return read_timing(paths[0]) if paths else None
