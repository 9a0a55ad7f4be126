"""Tables, summary and figures of a study, from its files alone."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from experiments import files, published
from experiments.files import FileError
from experiments.study import directory as study_directory
from experiments.study.directory import FIGURES, SUMMARY, TABLES, TIMING, writing
from experiments.study.plan import left_out
from mnist_jax.model import PLACEMENTS


class Report(NamedTuple):
    """What a command prints of a report."""

    joint: str  # how well the report's numbers are reproduced
    notes: list[str]  # what is missing, and so left out of the tables


def write(directory: Path, timing: dict[str, Any] | None) -> Report:
    """Makes everything that follows from the files of a study.

    Args:
      directory: of the study.
      timing: see `read_timing`; it is kept with the study. If None, the one kept there counts.

    Raises:
      FileError: a file is damaged or cannot be written, or no epoch is finished.
    """
    import pandas as pd  # these three only now: training needs none of them

    from experiments import analysis, figures

    rows, notes = study_directory.read_results(directory)
    if not rows:
        raise FileError(f"{directory}: no epoch of this study is finished")
    given = timing is not None
    if not given and (directory / TIMING).exists():
        timing = read_timing(directory / TIMING)
    # The losses of diverged runs are null in the file.
    results = pd.DataFrame(rows).astype(dict.fromkeys(published.METRICS, float))
    tables = analysis.analyse(results, timing)
    runs = analysis.complete_runs(results)
    last = min(max(row["epoch"] for row in rows), len(published.HISTORY["after_fc1"]))
    notes = [*notes, *left_out(rows, epochs=last), *tables.notes]

    with writing(directory):
        for name, text in analysis.to_markdown(tables).items():
            (directory / TABLES).mkdir(exist_ok=True)
            files.write_whole(directory / TABLES / f"{name}.md", f"{text}\n".encode())
        summary = json.dumps(analysis.summary(tables), indent=1)
        files.write_whole(directory / SUMMARY, f"{summary}\n".encode())
        folder = directory / FIGURES
        folder.mkdir(exist_ok=True)
        figures.final_accuracy(runs, folder / "final_accuracy")
        figures.paired_differences(tables.evidence, folder / "paired_differences")
        shown = runs[runs["variant"] == "report"]
        if len(shown):
            placements = [name for name in PLACEMENTS if name in set(shown["placement"])]
            pooled = {name: analysis.pooled_confusion(shown, name) for name in placements}
            figures.study_curves(shown, folder / "curves")
            figures.per_class(tables.per_class, folder / "per_class")
            figures.pooled_confusion(pooled, folder / "confusion")
        if timing:
            figures.epoch_times(timing, folder / "epoch_times")
        if timing and given:  # last: nothing of the above failed with it
            files.write_whole(directory / TIMING, files.as_json(timing))
    return Report(analysis.to_markdown(tables)["joint"], notes)


def read_timing(path: Path) -> dict[str, Any]:
    """Reads what `benchmarks.epoch_time` wrote.

    Raises:
      FileError: the file is damaged or something else.
    """
    timing = files.read_json(path)
    try:
        whole = all(
            isinstance(row["program"], str)
            and isinstance(row["threads"], int)
            and row["placement"] in PLACEMENTS
            and all(seconds > 0 for seconds in row["epoch_seconds"])
            and row["epoch_seconds"]
            for row in timing["rows"]
        )
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise FileError(f"{path}: not what benchmarks.epoch_time writes")
    return timing
