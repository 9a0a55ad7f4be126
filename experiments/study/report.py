"""Makes tables, summary and figures of a study from its files alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.groundwork import files
from experiments.groundwork.files import FileError
from experiments.groundwork.variants import PLAN, VARIANTS
from experiments.study import results as study_results
from experiments.study.directory import FIGURES, SUMMARY, TABLES, TIMING
from experiments.study.plan import Row, finished, groups, left_out
from mnist_jax.model import PLACEMENTS, Placement

if TYPE_CHECKING:
    import pandas as pd


class Report(NamedTuple):
    """What a command prints of a report."""

    rank: str  # how well the report's numbers are reproduced
    notes: list[str]  # sentences about what is missing and therefore left out of the tables


def write(source: Path, directory: Path, timing: dict[str, Any] | None) -> Report:
    """Makes tables, summary and figures from the files of a study.

    Args:
      source: a study, either growing or committed; it is only read.
      directory: where tables, summary and figures go; it may be `source`.
      timing: what `read_timing` returned, which is then kept in `directory`; None means the timing
        in `source`, if there is one.

    Raises:
      FileError: a file is damaged or cannot be written, or no epoch is finished.
    """
    from experiments import analysis  # here, because training does not need it
    from experiments.figures.study import draw

    rows, answers, labels, notes = study_results.read(source)
    given = timing is not None
    if not given and (source / TIMING).exists():
        timing = read_timing(source / TIMING)
    results = _table(rows)
    said = [analysis.Answers(*cell, *of_cell) for cell, of_cell in answers.items()]
    tables = analysis.analyse(results, timing, said, labels)
    markdown = analysis.to_markdown(tables)
    last = results.groupby("variant")["epoch"].max()
    epochs = {
        name: min(last[name], VARIANTS[name].epochs) for name in last.index if name in VARIANTS
    }
    notes = [*notes, *left_out(rows, epochs=epochs), *tables.notes]

    with files.writing(directory):
        (directory / TABLES).mkdir(exist_ok=True)
        for name, text in markdown.items():
            path = directory / TABLES / f"{name}.md"
            if text:
                files.write_whole(path, f"{text}\n".encode())
            else:  # nothing to show, though there may have been before
                path.unlink(missing_ok=True)
        summary = json.dumps(analysis.summary(tables), indent=1, allow_nan=False)
        files.write_whole(directory / SUMMARY, f"{summary}\n".encode())
        (directory / FIGURES).mkdir(exist_ok=True)
        draw(results, tables, directory / FIGURES, timing, said)
        if timing and given:  # last, when everything above has worked with it
            files.write_whole(directory / TIMING, files.as_json(timing))
    return Report(markdown["rank"], notes)


def best_rates(directory: Path) -> dict[Placement, float]:
    """The learning rate that does best on held-out images, for each placement.

    Args:
      directory: a study in which the rates were tried.

    Raises:
      FileError: a run of the plan's part `rates` is not finished.
    """
    from experiments import analysis
    from experiments.analysis import block

    rows = study_results.read(directory).rows
    last = {cell.variant: VARIANTS[cell.variant].epochs for cell in PLAN["rates"]}
    for group in groups(PLAN["rates"], most=len(PLAN["rates"][0].seeds)):
        if not finished(group, rows, epochs=last):
            raise FileError(f"{directory}: the rates are not all tried yet, {group} are unfinished")
    return block.rates_in(block.chosen_rates(analysis.complete_runs(_table(rows))))


def _table(rows: Sequence[Row]) -> "pd.DataFrame":
    """The rows as `experiments.analysis` takes them."""
    import pandas as pd

    results = pd.DataFrame(rows)
    measured = results.columns.difference(["variant", "placement", "seed", "epoch"])
    return results.astype(dict.fromkeys(measured, float))  # a diverged run's loss is None


def read_timing(path: Path) -> dict[str, Any]:
    """Reads the JSON file that `benchmarks.epoch_time` wrote.

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
