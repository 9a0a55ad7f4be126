"""Figures are written, of the expected size, the same twice, from whatever results there are."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import analysis, figures, published
from mnist_jax.model import PLACEMENTS

CONFUSION = np.diag([970] * 10) + np.eye(10, k=1, dtype=int) * 12


def png_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, from the header."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", content[16:24])


def synthetic(placements: tuple[str, ...] = PLACEMENTS, epochs: int = 3) -> pd.DataFrame:
    """Four seeds of two settings near the report's curve."""
    rng = np.random.default_rng(0)
    rows = []
    for variant in ("report", "no_momentum"):
        for placement in placements:
            for seed in range(4):
                for line in published.HISTORY["after_fc1"][:epochs]:
                    row = {m: getattr(line, m) * rng.uniform(0.995, 1) for m in published.METRICS}
                    row |= {"variant": variant, "placement": placement, "seed": seed}
                    rows.append(row | {"epoch": line.epoch, "confusion": CONFUSION.tolist()})
    return pd.DataFrame(rows)


def timing() -> dict:
    """Two programs, two placements."""
    return {
        "rows": [
            {
                "program": program,
                "placement": placement,
                "threads": 2,
                "epoch_seconds": [s, s * 1.1],
            }
            for program, s in (("mnist_jax", 2.0), ("pytorch eager", 8.0))
            for placement in ("before_fc1", "after_fc1")
        ]
    }


def draw_study(runs: pd.DataFrame, folder: Path) -> list[Path]:
    """Every figure of the study."""
    tables = analysis.analyse(runs)
    names = ("study_curves", "final", "paired", "per_class", "pooled", "times")
    paths = [folder / f"{name}.png" for name in names]
    figures.study_curves(runs, paths[0])
    figures.final_accuracy(runs, paths[1])
    figures.paired_differences(tables.evidence, paths[2])
    figures.per_class(tables.per_class, paths[3])
    placements = runs["placement"].unique()
    pooled = {p: analysis.pooled_confusion(runs, p) for p in placements}
    figures.pooled_confusion(pooled, paths[4])
    figures.epoch_times(timing(), paths[5])
    return paths


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_curves(tmp_path, placement):
    """With the report's curve and without one, 1600 pixels wide."""
    history = [line._asdict() for line in published.HISTORY["after_fc1"][:4]]
    figures.curves(history, placement, tmp_path / "curves.png")
    assert png_size(tmp_path / "curves.png") == (1600, 680)


def test_curves_of_a_single_perfect_epoch(tmp_path):
    """100 % and one point are drawn without a warning."""
    perfect = published.PublishedEpoch(1, 0.01, 100.0, 0.01, 100.0)._asdict()
    figures.curves([perfect], "none", tmp_path / "curves.png")
    assert png_size(tmp_path / "curves.png") == (1600, 680)


@pytest.mark.parametrize("matrix", [CONFUSION, CONFUSION / 3, np.diag([5] * 10)])
def test_confusion(tmp_path, matrix):
    """Counts, means and a network without mistakes."""
    figures.confusion(matrix, tmp_path / "confusion.png")
    assert png_size(tmp_path / "confusion.png") == (980, 1000)


@pytest.mark.parametrize(("k", "rows"), [(0, 1), (9, 2), (40, 3)])
def test_mistakes(tmp_path, k, rows):
    """Eight to a row, at most three rows."""
    images = np.random.default_rng(0).integers(0, 256, (k, 28, 28), dtype=np.uint8)
    digits = np.arange(k) % 10
    figures.mistakes(images, digits, digits, np.full(k, 0.9), tmp_path / "mistakes.png")
    assert png_size(tmp_path / "mistakes.png") == (1600, round(200 * (0.4 + 1.35 * rows)))


@pytest.mark.parametrize(
    "shape",
    [{}, {"placements": ("after_fc1",), "epochs": 1}],
)
def test_study_figures_from_what_there_is(tmp_path, shape):
    """A whole study, and one epoch of one placement."""
    for path in draw_study(synthetic(**shape), tmp_path):
        width, height = png_size(path)
        assert width in (800, 1600, 2400)
        assert 200 < height < 2000


def test_a_path_without_suffix_gives_both_formats_and_they_are_reproducible(tmp_path):
    """The same results give the same bytes, so a figure changes only with its data."""
    contents = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        figures.final_accuracy(synthetic(), folder / "final")
        figures.epoch_times(timing(), folder / "times")
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]
    assert contents[0].keys() == {"final.png", "final.svg", "times.png", "times.svg"}


def run_python(code: str, **environment: str) -> None:
    """Runs a program in a process of its own, from the project's folder."""
    folder = Path(__file__).parent.parent
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=folder, env=os.environ | environment
    )


def test_a_run_imports_neither_pandas_nor_pyplot():
    """A run draws its own figures; it should not wait for what only the study needs."""
    unwanted = "{'pandas', 'statsmodels', 'matplotlib.pyplot'}"
    run_python(f"import sys, experiments.figures; sys.exit({unwanted} & set(sys.modules) or 0)")


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "TkAgg", "none"])
def test_the_backend_of_the_environment_does_not_matter(tmp_path, backend):
    """A notebook's is inherited by its commands; here one may miss a screen, or not exist."""
    path = tmp_path / "confusion.png"
    code = (
        "import os, pathlib, numpy; from experiments import figures;"
        f"figures.confusion(numpy.eye(10, dtype=int), pathlib.Path({str(path)!r}));"
        f"assert os.environ['MPLBACKEND'] == {backend!r}"
    )
    run_python(code, MPLBACKEND=backend)
    assert png_size(path) == (980, 1000)


def test_a_known_backend_stays_chosen():
    """A notebook that draws with pyplot as well keeps its own."""
    code = "import experiments.figures, matplotlib; assert matplotlib.get_backend() == 'svg'"
    run_python(code, MPLBACKEND="svg")
