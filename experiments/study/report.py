"""Makes tables, summary and figures of a study from its files alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.groundwork.variants import PLAN
from experiments.study.files import TIMING, Study
from experiments.study.runs import Run
from mnist_jax import store
from mnist_jax.model import PLACEMENTS, Placement
from mnist_jax.store import StoreError

TABLES, SUMMARY, FIGURES = "tables", "summary.json", "figures"


class Report(NamedTuple):
    """What a command prints of a report."""

    rank: str  # how well the report's numbers are reproduced
    notes: Sequence[str]  # sentences about what is missing and therefore left out of the tables


def write(study: Study, directory: Path, timing: dict[str, Any] | None) -> Report:
    """Makes tables, summary and figures.

    Args:
      study: what `files.read` returned.
      directory: where tables, summary and figures go.
      timing: what `read_timing` returned, for claim 2.

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
    return Report(markdown["rank"], tables.notes)


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
