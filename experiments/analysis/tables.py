"""Every table of a study, as Markdown and as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments.analysis import block, claims, evidence, likelihood, per_class, reproduction
from experiments.analysis.measures import Measures, measures_of
from experiments.analysis.per_class import Answers
from experiments.analysis.reproduction import Rank
from experiments.analysis.runs import complete_runs, diverged, evaluated, evaluations_of
from experiments.groundwork.evaluation import EVALUATIONS
from experiments.groundwork.variants import CANDIDATES, VARIANTS, WITH_BLOCK
from mnist_jax.model import PLACEMENTS

# The tables, and of each the columns that are shown, with their formats.
SHOWN = {
    "numbers": reproduction.NUMBERS_SHOWN,
    "cells": likelihood.CELLS_SHOWN,
    "recognition": likelihood.RECOGNITION_SHOWN,
    "statements": likelihood.STATEMENTS_SHOWN,
    "claims": claims.SHOWN,
    "evidence": evidence.SHOWN,
    "arms": block.ARMS_SHOWN,
    "contrasts": block.CONTRASTS_SHOWN,
    "rates": block.RATES_SHOWN,
    "rates_gain": block.RATES_GAIN_SHOWN,
    "per_class": per_class.ACCURACIES_SHOWN,
    "printed": per_class.PRINTED_SHOWN,
    "sampling": per_class.SAMPLING_SHOWN,
    "loaders": per_class.LOADERS_SHOWN,
    "baselines": per_class.BASELINES_SHOWN,
}


class Tables(NamedTuple):
    """Every table of a study."""

    by_name: dict[str, pd.DataFrame]  # by the names in `SHOWN`
    ranks: dict[str, Rank]  # by evaluation, for those with at least two seeds
    notes: tuple[str, ...]  # what is missing, and what the tables therefore do not say


def analyse(
    results: pd.DataFrame,
    timing: Mapping[str, Any] | None = None,
    answers: Sequence[Answers] = (),
    labels: np.ndarray | None = None,
) -> Tables:
    """Makes every table.

    Args:
      results: a row for each variant, placement, seed and epoch, as the package describes it.
      timing: the JSON that `benchmarks.epoch_time` writes; claim 2 needs it.
      answers: what the networks said of each test image; the tables by digit need them.
      labels: `[N]` digits of the test images, in the order of the original files.

    Raises:
      ValueError: a variant, placement, seed and epoch occur twice.
    """
    runs = complete_runs(results)
    measures = measures_of(runs)
    found = evidence.evidence_of(measures, timing)
    cells = likelihood.cells_of(runs)
    rates = block.chosen_rates(measures)
    answers = [one for one in answers if one.variant in VARIANTS]
    answers = sorted(answers, key=_place) if labels is not None else []
    labels = np.zeros(0, np.uint8) if labels is None else labels
    tables = {
        "numbers": _numbers(runs),
        "cells": likelihood.likelihoods(runs, measures, cells),
        "recognition": likelihood.recognition(cells),
        "statements": likelihood.statements(cells),
        "claims": claims.verdicts(found),
        "evidence": found.assign(answer=claims.answers(found)),
        "arms": block.arms(runs, measures),
        "contrasts": block.contrasts(measures, block.rates_in(rates)),
        "rates": rates,
        "rates_gain": block.chosen_rates_gain(measures, block.rates_in(rates)),
        "per_class": per_class.accuracies(answers),
        "printed": per_class.printed_percentages(answers, labels),
        "sampling": per_class.sampling(answers, labels),
        "loaders": per_class.loaders(answers, labels),
        "baselines": per_class.baselines(answers, labels),
    }
    notes = [*_notes_on_runs(results, runs, measures)]
    if timing is None:
        notes.append("no epoch times were given: claim 2 is not tested")
    if not answers:
        notes.append("no answers to each test image were given: there are no tables by digit")
    notes += _notes_on_plan(cells, tables)
    return Tables(tables, _ranks(runs), tuple(notes))


def to_markdown(tables: Tables) -> dict[str, str]:
    """Every table as Markdown, with aligned columns so that a terminal shows it well too.

    Returns:
      The tables by their names in `SHOWN`, and rank (a sentence for each evaluation),
      reproduction (the numbers, one row for each epoch), notes (a list). An empty table gives an
      empty string.
    """
    return {
        "rank": "\n\n".join(_rank_sentence(name, rank) for name, rank in tables.ranks.items())
        or "The reproduction needs at least two seeds.",
        "reproduction": _reproduction_markdown(tables.by_name["numbers"]),
        **{
            name: _markdown(
                tables.by_name[name],
                {column: form for column, _, form in (x.partition(":") for x in shown.split())},
            )
            for name, shown in SHOWN.items()
        },
        "notes": "\n".join(f"- {note}" for note in tables.notes),
    }


def summary(tables: Tables) -> dict[str, Any]:
    """Every table as a list of rows of plain JSON values, null for what is not a finite number."""
    rows = {
        name: [
            {column: _plain(value) for column, value in row.items()}
            for row in table.to_dict("records")
        ]
        for name, table in tables.by_name.items()
    }
    ranks = {name: asdict(rank) for name, rank in tables.ranks.items()}
    return {"ranks": ranks, **rows, "notes": list(tables.notes)}


def _plain(value: Any) -> Any:
    """A cell as a JSON value; a fraction has six significant digits, because p-values are small."""
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.bool_ | np.integer):
        return value.item()
    if pd.isna(value) or (isinstance(value, float) and not np.isfinite(value)):
        return None  # JSON has no infinity either, as for the logarithm of 0
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _place(answer: Answers) -> tuple[int, ...]:
    """The key by which answers are sorted in the tables by digit."""
    places: tuple[str, ...] = PLACEMENTS
    evaluations: list[str] = [*EVALUATIONS]
    return (
        evaluations.index(answer.evaluation),
        list(VARIANTS).index(answer.variant),
        places.index(answer.placement),
    )


def _ranks(runs: pd.DataFrame) -> dict[str, Rank]:
    """The report's rank in each evaluation, among as many of our runs as a cell has."""
    report = runs[runs["variant"] == "report"]
    both = set.intersection(*(set(report[report["placement"] == p]["seed"]) for p in WITH_BLOCK))
    ranked = report[report["seed"].isin(sorted(both)[: likelihood.SEEDS])]
    ranks = {
        name: reproduction.rank(reproduction.curves_of(evaluated(ranked, name)))
        for name in evaluations_of(ranked)
    }
    return {name: rank for name, rank in ranks.items() if rank}


def _numbers(runs: pd.DataFrame) -> pd.DataFrame:
    """The intervals of each evaluation; those of training are the same in all and stand once."""
    tables = []
    for evaluation in evaluations_of(runs):
        table = reproduction.intervals(reproduction.curves_of(evaluated(runs, evaluation)))
        if table.empty:
            continue
        trained = table["metric"].str.startswith("train")
        table.insert(3, "evaluation", np.where(trained, "", evaluation))
        tables.append(table[~trained] if tables else table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _rank_sentence(evaluation: str, rank: Rank) -> str:
    single = ", ".join(f"{name} {place}" for name, place in rank.place_by_placement.items())
    return (
        f"With {evaluation} statistics {rank.inside} of the report's {rank.total} numbers lie "
        f"inside the 95 % prediction interval of {rank.among - 1} runs. By their distance from the "
        f"other runs, the report's two runs are number {rank.place} of {rank.among}, 1 being the "
        f"farthest and {rank.among} the nearest to the middle (alone: {single}); were they two of "
        f"ours, every number would be equally likely."
    )


def _reproduction_markdown(table: pd.DataFrame) -> str:
    """One row for each epoch: the report's number, in bold if it lies outside our interval."""
    if table.empty:
        return ""
    cells, columns = [], []
    for row in table.to_dict("records"):
        digits = 2 if "accuracy" in row["metric"] else 4
        number, low, high = (f"{row[key]:.{digits}f}" for key in ("published", "low", "high"))
        number, where = (number, "in") if row["inside"] else (f"**{number}**", "not in")
        cells.append(f"{number} {where} [{low}, {high}]")
        columns.append(f"{row['metric']} {row['evaluation']}".strip())
    wide = table.assign(cell=cells, column=columns).pivot(
        index=["placement", "epoch"], columns="column", values="cell"
    )
    wide = wide.sort_index(ascending=[False, True])[list(dict.fromkeys(columns))].reset_index()
    return _markdown(wide, dict.fromkeys(map(str, wide), ""))


def _markdown(table: pd.DataFrame, formats: Mapping[str, str]) -> str:
    """The columns that have a format; `-` for what is missing."""
    if table.empty:
        return ""
    shown = table[list(formats)]
    for name in shown.select_dtypes(["bool", "boolean"]):
        shown = shown.assign(**{str(name): shown[name].map({True: "yes", False: "no"})})
    return (
        shown.astype(object)
        .where(shown.notna(), None)
        .to_markdown(
            index=False,
            headers=[name.replace("_", " ") for name in formats],
            floatfmt=tuple(formats.values()),
            intfmt=tuple(formats.values()),
            missingval="-",
            numalign="right",
        )
    )


def _notes_on_runs(results: pd.DataFrame, runs: pd.DataFrame, measures: Measures) -> Iterator[str]:
    run = ["variant", "placement", "seed"]
    known = results[results["variant"].isin(VARIANTS)]
    if dropped := len(known[run].drop_duplicates()) - len(runs[run].drop_duplicates()):
        yield f"{dropped} unfinished runs are left out"
    if broken := diverged(known.merge(runs[run].drop_duplicates(), on=run)):
        yield (
            f"{broken} runs diverged and count: their accuracies as they were measured, and a loss "
            "that is not a number as that of guessing, 2.30"
        )
    for variant, last in measures.last_epoch.items():
        if last < (whole := VARIANTS[variant].epochs):
            yield f"{variant}: its final numbers are those of epoch {last} of {whole}"
    found = set(zip(runs["variant"], runs["placement"], strict=True))
    wanted = [(name, place) for name in CANDIDATES for place in PLACEMENTS]
    if missing := [f"{name}/{place}" for name, place in wanted if (name, place) not in found]:
        yield f"not run: {', '.join(missing)}"
    if unknown := sorted(set(results["variant"]) - set(VARIANTS)):
        yield f"left out, for variants.VARIANTS has no such variant: {', '.join(unknown)}"


def _notes_on_plan(
    cells: likelihood.Cells | None, tables: Mapping[str, pd.DataFrame]
) -> Iterator[str]:
    """What rests on fewer runs than the plan has, or on a rate at an end of those tried."""
    seeds, contrasts = len(cells.seeds) if cells else 0, len(tables["contrasts"])
    if cells is None:
        yield f"cells are not compared, for lack of common seeds; the plan has {likelihood.SEEDS}"
    elif seeds < likelihood.SEEDS:
        yield (
            f"cells are compared on {seeds} seeds that they share; the plan has {likelihood.SEEDS}"
        )
    if contrasts < block.CONTRASTS:
        yield f"{contrasts} of the plan's {block.CONTRASTS} contrasts have runs"
    for place, rate in block.rates_in(tables["rates"]).items():
        if rate in (min(block.RATES), max(block.RATES)):
            yield (
                f"for {place} the learning rate {rate:g} was chosen, at an end of those that were "
                "tried"
            )
