"""The committed results give the tables that version 0.2 made of them, number for number.

Each table is pinned by the SHA-256 of what it says, as Markdown and in the summary. The words of
verdicts are left out, because a rule may be put in other words. Whoever changes a number here on
purpose changes the pin too and says why in `experiments/results/plan.md`.
"""

import io
import json
import lzma
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments import analysis

RESULTS = Path(__file__).parents[1] / "experiments" / "results"
WORDS = ("verdict", "detail", "answer")  # columns
PINS = {  # of each table: as Markdown, and in the summary
    "ranks": ("", "1e870dfb73ded68e"),
    "numbers": ("5f19d41796634569", "6573703fb7f08a5b"),
    "cells": ("db2b02c14e551405", "93c63512117f0d92"),
    "recognition": ("474c78351d1c775d", "b6bd3c6ee95bd80d"),
    "statements": ("c9f9900e2942d8c2", "d7f077cc4d688d8b"),
    "claims": ("a94ef7347e0e45dd", "abc91d7837c68999"),
    "evidence": ("2dacbf35cb7f01a3", "3bb2b121f519706c"),
    "arms": ("fa6900cf643a02c9", "46c85e38898948e6"),
    "contrasts": ("8c3d60c56c572427", "446574918d034a13"),
    "rates": ("4ec55d5f7a4c244c", "f73fbf9087ca9bce"),
    "per_class": ("4ea69484de6fc9b8", "c632706feab8718a"),
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


def said_of_images() -> Iterator[analysis.Answers]:
    """`answers.npz.xz`, as `experiments.study.files` describes it."""
    content = lzma.decompress((RESULTS / "answers.npz.xz").read_bytes())
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        for name in (name.removesuffix("/seeds") for name in arrays if name.endswith("/seeds")):
            seeds, confusion, packed = (
                arrays[f"{name}/{what}"] for what in ("seeds", "confusion", "correct")
            )
            correct = np.packbits(np.unpackbits(packed, axis=1, count=len(seeds)).T, axis=1)
            yield analysis.Answers(*name.split("/"), seeds, confusion, correct)


@pytest.fixture(scope="module")
def tables() -> analysis.Tables:
    results = pd.read_csv(RESULTS / "results.csv.gz", dtype=str)
    numbers = dict.fromkeys(results.columns[4:], float)
    results = results.astype({"seed": int, "epoch": int} | numbers)
    timing, manifest = (
        json.loads((RESULTS / name).read_text()) for name in ("timing.json", "manifest.json")
    )
    labels = np.array([*manifest["test_labels"]], np.uint8)
    return analysis.analyse(results, timing, [*said_of_images()], labels)


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
