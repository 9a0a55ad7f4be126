"""Every table of a study, as Markdown and as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from experiments import published
from experiments.analysis import claims, per_class, reproduction, settings
from experiments.analysis.reproduction import JointFit
from experiments.analysis.runs import complete_runs
from experiments.settings import SETTINGS
from mnist_jax.model import PLACEMENTS

# Of each table the columns that are shown, in their order, and how their numbers are printed.
_NUMBERS = {
    "placement": "",
    "epoch": "",
    "metric": "",
    "published": ".4f",
    "mean": ".4f",
    "sd": ".4f",
    "low": ".4f",
    "high": ".4f",
    "t": "+.2f",
    "inside": "",
}
_CLAIMS = {
    "claim": "",
    "statement": "",
    "effects": "",
    "test": "",
    "n": "",
    "p": ".2g",
    "p_holm": ".2g",
    "verdict": "",
}
_EVIDENCE = {
    "claim": "",
    "reading": "",
    "variant": "",
    "where": "",
    "effect": "+.3f",
    "low": "+.3f",
    "high": "+.3f",
    "unit": "",
    "d": "+.2f",
    "test": "",
    "p": ".2g",
    "p_sign": ".2g",
    "n": "",
    "note": "",
}
_SETTINGS = {
    "variant": "",
    "momentum": "",
    "normalisation": "",
    "n": "",
    "log_likelihood": ".0f",
    "behind": ".0f",
    "inside": ".0f",
    "max_abs_t": ".1f",
    "p": ".2g",
    "best_share": ".0%",
    "recognised": ".0f",
    "baseline_mean": ".2f",
    "baseline_sd": ".2f",
}
_PER_CLASS = {
    "placement": "",
    "digit": "",
    "images": "",
    "mean": ".2f",
    "sd": ".2f",
    "low": ".2f",
    "high": ".2f",
    "published": ".0f",
    "inside": "",
}
_SAMPLING = {
    "sampling": "",
    "printed": "",
    "images": ",",
    "step_percent": ".1f",
    "reachable": "",
    "total": "",
    "mean_percent": ".1f",
    "hundreds": ".1f",
    "p_low_before_fc1": ".2g",
    "p_low_after_fc1": ".2g",
    "log10_probability": ".1f",
}


@dataclass(frozen=True)
class Tables:
    """Every table of the study; the functions that make them describe their columns."""

    reproduction: pd.DataFrame
    joint: JointFit | None  # None with fewer than two seeds
    claims: pd.DataFrame
    evidence: pd.DataFrame
    settings: pd.DataFrame
    per_class: pd.DataFrame
    sampling: pd.DataFrame
    notes: tuple[str, ...]


def analyse(results: pd.DataFrame, timing: Mapping[str, Any] | None = None) -> Tables:
    """Makes every table.

    Args:
      results: the lines of `results.jsonl`.
      timing: the JSON that `benchmarks.epoch_time` writes; claim 2 needs it.

    Returns:
      The tables.

    Raises:
      ValueError: a variant, placement, seed and epoch occur twice.
    """
    runs = complete_runs(results)
    evidence = claims.evidence_of(runs, timing)
    return Tables(
        reproduction=reproduction.intervals(runs),
        joint=reproduction.joint_fit(runs),
        claims=claims.verdicts(evidence),
        evidence=evidence,
        settings=settings.likelihoods(runs),
        per_class=per_class.accuracies(runs),
        sampling=per_class.sampling(runs),
        notes=_notes(results, runs, timing),
    )


def to_markdown(tables: Tables) -> dict[str, str]:
    """Every table as Markdown, aligned so that a terminal shows it well, by its name.

    Returns:
      joint (a sentence), reproduction (a row an epoch), numbers (a row for each of the report's
      numbers), claims, evidence, settings, per_class, sampling, notes (a list). An empty table
      gives an empty string.
    """
    return {
        "joint": _joint_sentence(tables.joint),
        "reproduction": _reproduction_markdown(tables.reproduction),
        "numbers": _markdown(tables.reproduction, _NUMBERS),
        "claims": _markdown(tables.claims, _CLAIMS),
        "evidence": _markdown(tables.evidence.query("n > 0"), _EVIDENCE),
        "settings": _markdown(tables.settings, _SETTINGS),
        "per_class": _markdown(tables.per_class, _PER_CLASS),
        "sampling": _markdown(tables.sampling, _SAMPLING),
        "notes": "\n".join(f"- {note}" for note in tables.notes),
    }


def summary(tables: Tables) -> dict[str, Any]:
    """Every table as plain JSON values: a list of rows each, null for what was not computed."""
    frames = {
        "reproduction": tables.reproduction,
        "claims": tables.claims,
        "evidence": tables.evidence,
        "settings": tables.settings,
        "per_class": tables.per_class,
        "sampling": tables.sampling,
    }
    rows = {
        name: json.loads(frame.to_json(orient="records", double_precision=6))
        for name, frame in frames.items()
    }
    joint = None if tables.joint is None else asdict(tables.joint)
    return {"joint": joint, **rows, "notes": list(tables.notes)}


def _joint_sentence(joint: JointFit | None) -> str:
    if joint is None:
        return "The reproduction needs at least two seeds."
    single = ", ".join(f"{name} {p:.2g}" for name, p in joint.p_by_placement.items())
    return (
        f"{joint.inside} of {joint.total} numbers lie inside their 95 % prediction interval; joint "
        f"conformal p = {joint.p:.2g} from {joint.n} seeds, the smallest possible being "
        f"{1 / (joint.n + 1):.2g} (alone: {single})."
    )


def _reproduction_markdown(table: pd.DataFrame) -> str:
    """A row an epoch: the report's number and our interval; bold where the number is outside."""
    if table.empty:
        return ""
    cells = []
    for row in table.to_dict("records"):
        digits = 2 if "accuracy" in row["metric"] else 4
        number, low, high = (f"{row[key]:.{digits}f}" for key in ("published", "low", "high"))
        cells.append(
            f"{number} in [{low}, {high}]"
            if row["inside"]
            else f"**{number}** not in [{low}, {high}]"
        )
    wide = table.assign(cell=cells).pivot(
        index=["placement", "epoch"], columns="metric", values="cell"
    )
    wide = wide.sort_index(ascending=[False, True])[list(published.METRICS)].reset_index()
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
    results: pd.DataFrame, runs: pd.DataFrame, timing: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """What is missing, and what the tables therefore do not say."""
    run = ["variant", "placement", "seed"]
    notes = []
    if dropped := len(results[run].drop_duplicates()) - len(runs[run].drop_duplicates()):
        notes.append(f"{dropped} unfinished or diverged runs are left out")
    last, full = runs["epoch"].max(), len(published.HISTORY["after_fc1"])
    if last < full:
        notes.append(f"final means epoch {last}: the report's final is epoch {full}")
    found = set(zip(runs["variant"], runs["placement"], strict=True))
    wanted = [(v, p) for v in SETTINGS for p in PLACEMENTS]
    if missing := [f"{v}/{p}" for v, p in wanted if (v, p) not in found]:
        notes.append(f"not run: {', '.join(missing)}")
    if timing is None:
        notes.append("no epoch times were given: claim 2 is not tested")
    if (seeds := runs.loc[runs["variant"] == "report", "seed"].nunique()) < 20:
        least = 1 / (seeds + 1)
        notes.append(
            f"seeds at the report's setting: {seeds}; the joint p cannot be below {least:.2g}"
        )
    return tuple(notes)
