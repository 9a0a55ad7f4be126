"""Figures are written, of the expected size, the same twice, from whatever results there are."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from simulated import study

from experiments import analysis, figures
from experiments.figures import study as study_figures
from experiments.groundwork import published

CONFUSION = np.diag([970] * 10) + np.eye(10, k=1, dtype=int) * 12


def png_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, from the header."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n") and content.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", content[16:24])


@pytest.mark.parametrize("placement", ["none", "after_fc1"])
def test_curves(tmp_path, placement):
    """With the report's curve and without one, of several epochs and of a single perfect one."""
    history = [line._asdict() for line in published.HISTORY["after_fc1"][:4]]
    perfect = published.PublishedEpoch(1, 0.01, 100.0, 0.01, 100.0)._asdict()
    for name, rows in (("some", history), ("one", [perfect])):
        batch = None if placement == "none" else rows[-1]
        figures.curves(rows, placement, tmp_path / f"{name}.png", batch=batch)
        assert png_size(tmp_path / f"{name}.png") == (1600, 680)


def test_confusion_and_mistakes(tmp_path):
    """Also of a network without any; eight mistakes to a row, at most three rows."""
    for matrix in (CONFUSION, np.diag([5] * 10)):
        figures.confusion(matrix, tmp_path / "confusion.png")
        assert png_size(tmp_path / "confusion.png") == (980, 1000)
    for k, rows in ((0, 1), (9, 2), (40, 3)):
        images, digits = np.zeros((k, 28, 28), np.uint8), np.arange(k) % 10
        figures.mistakes(images, digits, digits, np.full(k, 0.9), tmp_path / "mistakes.png")
        assert png_size(tmp_path / "mistakes.png") == (1600, round(200 * (0.4 + 1.35 * rows)))


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ({"variants": ("report", "mnist", "wide_134", "longer"), "seeds": 3}, "gains evaluations"),
        ({"variants": ("report",), "placements": ("none",), "seeds": 1}, "evaluations"),
        ({"variants": ("no_momentum",), "placements": ("none",), "epochs": 1, "seeds": 1}, ""),
    ],
)
def test_study_figures_from_what_there_is(tmp_path, shape, names):
    """Those for which there are no results are removed; a file of the owner stays."""
    (tmp_path / "mine.png").touch()
    (tmp_path / "gains.png").touch()
    results = study(**shape)
    study_figures.draw(results, analysis.analyse(results), tmp_path)
    drawn = {*names.split(), *(["paired_differences"] if "gains" in names else [])}
    wanted = {f"{name}.{suffix}" for name in drawn for suffix in ("png", "svg")}
    assert {path.name for path in tmp_path.iterdir()} == wanted | {"mine.png"}
    assert all(png_size(tmp_path / f"{name}.png")[0] == 1600 for name in drawn)


def test_one_seed_far_out_does_not_shrink_the_others():
    """The forest's axis leaves it out; an arrow with its number stands at the edge."""
    seeds = np.linspace(-0.7, 1.0, 200)
    left, right = study_figures.limits_without_far(seeds)
    assert left < -0.7 and right > 1.0
    assert study_figures.limits_without_far(np.append(seeds, -12.5)) == pytest.approx((left, right))
    axes = Figure().subplots()
    near = {"low": 0.1, "effect": 0.15, "high": 0.2, "differences": tuple(seeds)}
    far = {"low": -3.0, "effect": 0.1, "high": 3.2, "differences": (-12.5, 0.1, 8.4, -14.0)}
    study_figures._forest_axis(axes, [near, far], ["one", "two"])
    assert [text.get_text() for text in axes.texts] == ["\u2190 -14.0, -12.5", "+8.4 \u2192"]
    left, right = axes.get_xlim()  # which show every interval
    assert left <= -3.0 and 3.2 <= right < 8.4


def run_python(code: str, **environment: str) -> None:
    """Runs a program in a process of its own, from the project's folder."""
    folder = Path(__file__).parent.parent
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=folder, env=os.environ | environment
    )


def test_a_users_settings_and_backend_do_not_matter(tmp_path):
    """The same bytes; neither a TeX that is missing nor a notebook's backend ends a finished run.

    A run imports neither pandas nor pyplot, because it should not wait for what the study needs.
    """
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.size: 30\nsavefig.dpi: 10\n")
    path = tmp_path / "confusion.svg"
    code = (
        "import os, pathlib, sys, numpy; from experiments import figures;"
        f"figures.confusion(numpy.eye(10, dtype=int), pathlib.Path({str(path)!r}));"
        "assert os.environ['MPLBACKEND'] == 'module://matplotlib_inline.backend_inline';"
        "assert not {'pandas', 'statsmodels', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    backend = "module://matplotlib_inline.backend_inline"
    run_python(code, MPLBACKEND=backend, MATPLOTLIBRC=str(tmp_path))
    figures.confusion(np.eye(10, dtype=int), tmp_path / "here.svg")
    assert path.read_bytes() == (tmp_path / "here.svg").read_bytes()
