"""The committed results give the tables that version 0.2 made of them, and READMEs tell of these.

Each table is pinned by the SHA-256 of what it says, as Markdown and in the summary. The words of
verdicts are left out, because a rule may be put in other words. Whoever changes a number here on
purpose changes the pin too and says why in `experiments/results/plan.md`.

In the READMEs a comment `<!--TABLE~KEY~KEY~COLUMN,COLUMN-->` follows numbers and says where they
are from: the one row of a table of the summary that has these keys among its cells, with `_` for a
space. A column that ends in % is a share, told in percent.
"""

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments import analysis
from experiments.analysis import evidence
from experiments.study import files

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
WORDS = ("verdict", "detail", "answer")  # columns
PINS = {  # of each table: as Markdown, and in the summary
    "ranks": ("", "1e870dfb73ded68e"),
    "numbers": ("5f19d41796634569", "6573703fb7f08a5b"),
    "cells": ("db2b02c14e551405", "93c63512117f0d92"),
    "recognition": ("474c78351d1c775d", "b6bd3c6ee95bd80d"),
    "statements": ("c9f9900e2942d8c2", "d7f077cc4d688d8b"),
    "claims": ("9da18b32b7916287", "c84f85347d58b331"),
    "evidence": ("e12cb8fe590708d1", "36dc206f4b96919b"),
    "arms": ("fa6900cf643a02c9", "46c85e38898948e6"),
    "contrasts": ("8c3d60c56c572427", "446574918d034a13"),
    "rates": ("4ec55d5f7a4c244c", "f73fbf9087ca9bce"),
    "per_class": ("ee611060d6843fe1", "9c72fdc24c40734d"),
    "printed": ("e5828dbc01e72c28", "e3a642589121f2ed"),
    "loaders": ("71cdba53b6a05798", "2bdc81ba0adde809"),
    "rates_gain": ("e376363bc1cadc14", "14a787535e9542c0"),
    "sampling": ("43098d247a61b2f7", "6d716a50c31e9de2"),
    "baselines": ("f19451d0ce996813", "9859b116baf03cfd"),
    "notes": ("", "4f53cda18c2baa0c"),
    "rank": ("2fc0ba7b6e1a5f25", ""),
    "reproduction": ("152a3f5431a2c674", ""),
}


def digest(value: Any) -> str:
    return sha256(json.dumps(value).encode()).hexdigest()[:16]


def cells(markdown: str) -> list[list[str]]:
    """The words of a table by row, without the columns of verdicts; of a text, its lines."""
    rows = [[cell.strip() for cell in line.split("|")] for line in markdown.splitlines()]
    shown = [place for place, name in enumerate(rows[0]) if name not in WORDS]
    return [[row[place] for place in shown] for row in rows if set("".join(row)) - set("-:")]


def without_words(rows: Any) -> Any:
    if not (isinstance(rows, list) and rows and isinstance(rows[0], dict)):
        return rows
    return [{name: row[name] for name in row if name not in WORDS} for row in rows]


def read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


@pytest.fixture(scope="module")
def study() -> files.Study:
    return files.read([RESULTS])


@pytest.fixture(scope="module")
def tables(study) -> analysis.Tables:
    said = [analysis.Answers(*each) for each in study.answers]
    return analysis.analyse(study.table, read("timing.json"), said, study.labels)


@pytest.fixture(scope="module")
def sources(study, tables) -> dict[str, list[dict[str, Any]]]:
    """The tables of the summary, and three that the READMEs tell of besides."""
    measured = read("speed.json")
    speed = pd.DataFrame(measured["rows"])
    for name, value in (("median", np.median), ("least", min), ("most", max)):
        speed[name] = speed["epoch_seconds"].map(value)
    last = study.table.query("variant == 'report' and epoch == 10 and seed == 1122")
    return analysis.summary(tables) | {
        "runs": last.to_dict("records"),
        "speed": speed.drop(columns="epoch_seconds").to_dict("records"),
        "speed_ratio": [*evidence._times(measured)],
    }


def test_the_tables_say_what_they_said(tables):
    markdown = analysis.to_markdown(tables)
    assert {name: digest(cells(text)) for name, text in markdown.items() if text} == {
        name: pin for name, (pin, _) in PINS.items() if pin
    }


def test_the_summary_says_what_it_said(tables):
    summary = json.loads(json.dumps(analysis.summary(tables), allow_nan=False))
    assert {name: digest(without_words(rows)) for name, rows in summary.items()} == {
        name: pin for name, (_, pin) in PINS.items() if pin
    }


NUMBER = re.compile(r"[+-]?\d[\d,]*\d(?:\.\d+)?|[+-]?\d(?:\.\d+)?")
# What the report says, the plan fixes, or was measured once without leaving a file.
STATED = "98.71 98.79 0.08 5.0 7.29 0.8 1.25 0.9 0.001 0.01 0.03 3.9 0.11 2.3 0.3"


@pytest.mark.parametrize("readme", ["README.md", "experiments/results/README.md"])
def test_the_numbers_of_the_readmes_are_those_of_the_tables(sources, readme):
    """And no number with a decimal point stands in what was found without a source."""
    text = re.sub(r"```.*?```", "", (ROOT / readme).read_text(), flags=re.DOTALL)
    if readme == "README.md":  # the other sections tell of one run, and of benchmarks
        text = text[text.index("## What was found") : text.index("## Use what")]
    wrong, rest = [], []
    *sourced, last = re.split(r"<!--(.*?)-->", text)
    for before, source in zip(sourced[::2], sourced[1::2], strict=True):
        table, *keys, columns = source.split("~")
        rows = [
            row
            for row in sources[table]
            if {*keys} <= {str(cell).replace(" ", "_") for cell in row.values()}
        ]
        assert len(rows) == 1, f"{source}: {len(rows)} rows"
        names = columns.split(",")
        found = list(NUMBER.finditer(before))[-len(names) :]
        rest.append(before[: found[0].start()])
        for number, name in zip(found, names, strict=True):
            said = number[0].replace(",", "").removeprefix("+")
            value = rows[0][name.removesuffix("%")] * (100 if name.endswith("%") else 1)
            digits = len(said.partition(".")[2])
            if said != f"{value:.{digits}f}":
                wrong.append(f"{source}: {said} is {value:.6g}")
    assert not wrong
    unsourced = [number for number in NUMBER.findall("".join([*rest, last])) if "." in number]
    assert not {number.lstrip("+-") for number in unsourced} - {*STATED.split()}
