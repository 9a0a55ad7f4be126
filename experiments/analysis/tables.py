"""Every table of a study, as Markdown and as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from experiments.analysis import block, claims, per_class, reproduction, settings
from experiments.analysis.per_class import Answers
from experiments.analysis.reproduction import Rank
from experiments.analysis.runs import complete_runs, diverged, evaluated, evaluations_of
from experiments.groundwork.evaluation import EVALUATIONS
from experiments.groundwork.variants import CANDIDATES, VARIANTS, WITH_BLOCK
from mnist_jax.model import PLACEMENTS

# The columns of each table that are shown, in their order, and how their numbers are printed.
_INTERVAL = {"effect": "+.3f", "low": "+.3f", "high": "+.3f"}
_SHOWN: dict[str, dict[str, str]] = {
    "numbers": {
        "placement": "",
        "epoch": "",
        "metric": "",
        "evaluation": "",
        "published": ".4f",
        "mean": ".4f",
        "sd": ".4f",
        "low": ".4f",
        "high": ".4f",
        "t": "+.2f",
        "inside": "",
    },
    "settings": {
        "variant": "",
        "evaluation": "",
        "momentum": "",
        "learning_rate": "",
        "normalisation": "",
        "n": "",
        "log_likelihood": ".0f",
        "behind": ".0f",
        "inside": ".0f",
        "max_abs_t": ".1f",
        "place": ".0f",
        "among": ".0f",
        "best_share": ".0%",
        "baseline_mean": ".2f",
        "baseline_sd": ".2f",
    },
    "recognition": {
        "variant": "",
        "evaluation": "",
        "n": "",
        "right": "",
        "taken_for": "",
        "named_wrongly": "",
    },
    "statements": {
        "thing": "",
        "says": "",
        "lead": ".0f",
        "typical_low": ".0f",
        "typical_high": ".0f",
        "right_here": "",
        "n_here": "",
        "right": "",
        "n": "",
    },
    "claims": {
        "claim": "",
        "statement": "",
        "effects": "",
        "test": "",
        "n": "",
        "p": ".2g",
        "p_holm": ".2g",
        "power": ".2f",
        "verdict": "",
        "detail": "",
    },
    "evidence": {
        "claim": "",
        "reading": "",
        "variant": "",
        "evaluation": "",
        "where": "",
        **_INTERVAL,
        "low90": "+.3f",
        "high90": "+.3f",
        "unit": "",
        "sd": ".3f",
        "test": "",
        "p": ".2g",
        "p_sign": ".2g",
        "ahead": ".0%",
        "single_pair": ".0%",
        "n": "",
        "note": "",
    },
    "arms": {
        "network": "",
        "n": "",
        "parameters": ",.0f",
        "running": ".2f",
        "recalibrated": ".2f",
        "train_loss": ".4f",
        "difference": "+.2f",
        "low": "+.2f",
        "high": "+.2f",
    },
    "contrasts": {
        "question": "",
        "contrast": "",
        "n": "",
        **_INTERVAL,
        "p": ".2g",
        "p_holm": ".2g",
        "recalibrated": "+.3f",
        "recalibrated_low": "+.3f",
        "recalibrated_high": "+.3f",
        "answer": "",
    },
    "rates": {
        "placement": "",
        "learning_rate": "",
        "n": "",
        "mean": ".2f",
        "sd": ".2f",
        "chosen": "",
    },
    "per_class": {
        "evaluation": "",
        "placement": "",
        "digit": "",
        "images": "",
        "mean": ".2f",
        "sd": ".2f",
        "low": ".2f",
        "high": ".2f",
        "published": ".0f",
        "inside": "",
    },
    "sampling": {
        "evaluation": "",
        "sampling": "",
        "printed": "",
        "images": ",",
        "step_percent": ".1f",
        "reachable": "",
        "total": "",
        "mean_percent": ".1f",
        "hundreds": ".1f",
        "p_low_before_fc1": ".2f",
        "p_low_after_fc1": ".2f",
        "log10_probability": ".1f",
        "place": "",
        "among": "",
    },
    "baselines": {
        "variant": "",
        "n": "",
        "all_images": ".2f",
        "sampled": ".2f",
        "about_92_all": ".0%",
        "about_92_sampled": ".0%",
    },
}


@dataclass(frozen=True)
class Tables:
    """Every table of the study; the functions that make them describe their columns."""

    numbers: pd.DataFrame  # `reproduction.intervals` of each evaluation
    ranks: dict[str, Rank]  # by evaluation, for those with at least two seeds
    settings: pd.DataFrame
    recognition: pd.DataFrame
    statements: pd.DataFrame
    claims: pd.DataFrame
    evidence: pd.DataFrame
    arms: pd.DataFrame
    contrasts: pd.DataFrame
    rates: pd.DataFrame
    per_class: pd.DataFrame
    sampling: pd.DataFrame
    baselines: pd.DataFrame
    notes: tuple[str, ...]


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
    evidence = claims.evidence_of(runs, timing)
    cells = settings.cells_of(runs)
    rates = block.chosen_rates(runs)
    report = runs[runs["variant"] == "report"]
    both = set.intersection(*(set(report[report["placement"] == p]["seed"]) for p in WITH_BLOCK))
    # As many of our runs as the cells of `settings` have.
    ranked = runs[runs["seed"].isin(sorted(both)[: settings.SEEDS])]
    ranks = {name: reproduction.rank(evaluated(ranked, name)) for name in evaluations_of(ranked)}
    contrasts = block.contrasts(runs, block.rates_in(rates))
    answers = [one for one in answers if one.variant in VARIANTS]
    answers = sorted(answers, key=_place) if labels is not None else []
    labels = np.zeros(0, np.uint8) if labels is None else labels
    return Tables(
        numbers=_numbers(runs),
        ranks={name: rank for name, rank in ranks.items() if rank},
        settings=settings.likelihoods(runs, cells),
        recognition=settings.recognition(cells),
        statements=settings.statements(cells),
        claims=claims.verdicts(evidence),
        evidence=evidence,
        arms=block.arms(runs),
        contrasts=contrasts,
        rates=rates,
        per_class=per_class.accuracies(answers),
        sampling=per_class.sampling(answers, labels),
        baselines=per_class.baselines(answers, labels),
        notes=(
            *_notes(results, runs, timing, answers),
            *_notes_on_seeds(cells, len(contrasts)),
            *block.rates_at_an_end(rates),
        ),
    )


def to_markdown(tables: Tables) -> dict[str, str]:
    """Every table as Markdown, with aligned columns so that a terminal shows it well too.

    Returns:
      The tables by their names in `Tables`, and rank (a sentence for each evaluation),
      reproduction (the numbers, one row for each epoch), notes (a list). An empty table gives an
      empty string.
    """
    return {
        "rank": "\n\n".join(_rank_sentence(name, rank) for name, rank in tables.ranks.items())
        or "The reproduction needs at least two seeds.",
        "reproduction": _reproduction_markdown(tables.numbers),
        **{name: _markdown(getattr(tables, name), formats) for name, formats in _SHOWN.items()},
        "notes": "\n".join(f"- {note}" for note in tables.notes),
    }


def summary(tables: Tables) -> dict[str, Any]:
    """Every table as a list of rows of plain JSON values, null for what is not a finite number."""
    rows = {
        name: [
            {column: _plain(value) for column, value in row.items()}
            for row in getattr(tables, name).to_dict("records")
        ]
        for name in _SHOWN
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
    return (
        list(EVALUATIONS).index(answer.evaluation),
        list(VARIANTS).index(answer.variant),
        places.index(answer.placement),
    )


def _numbers(runs: pd.DataFrame) -> pd.DataFrame:
    """The intervals of each evaluation; those of training are the same in all and stand once."""
    tables = []
    for evaluation in evaluations_of(runs):
        table = reproduction.intervals(evaluated(runs, evaluation))
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
        cells.append(
            f"{number} in [{low}, {high}]"
            if row["inside"]
            else f"**{number}** not in [{low}, {high}]"
        )
        columns.append(f"{row['metric']} {row['evaluation']}".strip())
    wide = table.assign(cell=cells, column=columns).pivot(
        index=["placement", "epoch"], columns="column", values="cell"
    )
    wide = wide.sort_index(ascending=[False, True])[list(dict.fromkeys(columns))].reset_index()
    return _markdown(wide, dict.fromkeys(map(str, wide), ""))


def _markdown(table: pd.DataFrame, formats: Mapping[str, str]) -> str:
    """The columns that have a format and are in the table; `-` for what is missing."""
    formats = {name: form for name, form in formats.items() if name in table}
    shown = table[list(formats)]
    if shown.empty:
        return ""
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


def _notes(
    results: pd.DataFrame,
    runs: pd.DataFrame,
    timing: Mapping[str, Any] | None,
    answers: Sequence[Answers],
) -> tuple[str, ...]:
    """What is missing, and what the tables therefore do not say."""
    run = ["variant", "placement", "seed"]
    notes = []
    known = results[results["variant"].isin(VARIANTS)]
    if dropped := len(known[run].drop_duplicates()) - len(runs[run].drop_duplicates()):
        notes.append(f"{dropped} unfinished runs are left out")
    finished = known.merge(runs[run].drop_duplicates(), on=run)
    if broken := diverged(finished):
        notes.append(
            f"{broken} runs diverged and count: their accuracies as they were measured, and a loss "
            "that is not a number as that of guessing, 2.30"
        )
    for variant, last in runs.groupby("variant")["epoch"].max().items():
        if last < VARIANTS[str(variant)].epochs:
            whole = VARIANTS[str(variant)].epochs
            notes.append(f"{variant}: its final numbers are those of epoch {last} of {whole}")
    found = set(zip(runs["variant"], runs["placement"], strict=True))
    wanted = [(name, place) for name in CANDIDATES for place in PLACEMENTS]
    if missing := [f"{name}/{place}" for name, place in wanted if (name, place) not in found]:
        notes.append(f"not run: {', '.join(missing)}")
    if unknown := sorted(set(results["variant"]) - set(VARIANTS)):
        notes.append(f"left out, for settings.VARIANTS has no such variant: {', '.join(unknown)}")
    if timing is None:
        notes.append("no epoch times were given: claim 2 is not tested")
    if not answers:
        notes.append("no answers to each test image were given: there are no tables by digit")
    return tuple(notes)


def _notes_on_seeds(cells: settings.Cells | None, contrasts: int) -> Iterator[str]:
    """What rests on fewer runs than the plan has."""
    seeds = len(cells.seeds) if cells else 0
    if cells is None:
        yield f"cells are not compared, for lack of common seeds; the plan has {settings.SEEDS}"
    elif seeds < settings.SEEDS:
        yield f"cells are compared on {seeds} seeds that they share; the plan has {settings.SEEDS}"
    if contrasts < block.CONTRASTS:
        yield f"{contrasts} of the plan's {block.CONTRASTS} contrasts have runs"
