"""Figures are written, of the expected size, the same twice, from whatever results there are."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from simulated import answers, labels, study, timing

from experiments import analysis, figures
from experiments.analysis.block import Arm
from experiments.figures import study as study_figures
from experiments.figures import style
from experiments.groundwork import published
from mnist_jax.model import PLACEMENTS

CONFUSION = np.diag([970] * 10) + np.eye(10, k=1, dtype=int) * 12


def png_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, from the header."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", content[16:24])


TIMES = timing({"mnist_jax": ([2.0, 2.2], [2.1, 2.3]), "pytorch eager": ([8.0, 8.8], [9.0, 9.9])})


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


def draw(folder: Path, results: pd.DataFrame, *, everything: bool) -> set[str]:
    """Every figure of a study; the names of the files."""
    folder.mkdir(exist_ok=True)
    digits = labels(640)
    said = [answers(digits, placement=name) for name in PLACEMENTS] if everything else []
    times = TIMES if everything else None
    tables = analysis.analyse(results, times, said, digits)
    study_figures.draw(results, tables, folder, times, said)
    return {path.name for path in folder.iterdir()}


ALWAYS = ("final_accuracy", "paired_differences", "curves", "evaluations")


@pytest.mark.parametrize(
    ("shape", "also"),
    [
        ({"variants": ("report", "mnist", "wide_134", "longer")}, ("block",)),
        ({"variants": ("report",), "placements": ("after_fc1",), "epochs": 1}, ()),
        ({"variants": ("report",), "placements": ("none",), "seeds": 1}, ()),
        ({"variants": ("no_momentum",), "placements": ("none",), "epochs": 1}, None),
    ],
)
def test_study_figures_from_what_there_is(tmp_path, shape, also):
    """Some arms, one epoch of one placement, one seed, and nothing at the report's setting."""
    names = draw(tmp_path / "figures", study(**({"seeds": 4} | shape)), everything=False)
    expected = ALWAYS[:2] if also is None else (*ALWAYS, *also)
    assert names == {f"{name}.{suffix}" for name in expected for suffix in ("png", "svg")}
    for path in (tmp_path / "figures").glob("*.png"):
        width, height = png_size(path)
        assert width in (1600, 2400)
        assert 200 < height < 2000


def test_a_whole_study_is_drawn(tmp_path):
    names = draw(tmp_path / "figures", study(3, variants=("report", "mnist")), everything=True)
    also = ("block", "per_class", "confusion", "epoch_times")
    assert names == {f"{name}.{suffix}" for name in (*ALWAYS, *also) for suffix in ("png", "svg")}


def test_one_seed_far_out_does_not_shrink_the_others():
    """The forest's axis leaves it out; an arrow with its number stands at the edge."""
    seeds = np.linspace(-0.7, 1.0, 200)
    left, right = study_figures.limits_without_far(seeds)
    assert left < -0.7 and right > 1.0
    assert study_figures.limits_without_far(np.append(seeds, -12.5)) == pytest.approx((left, right))
    farthest = 1.0 + 2.9 * 1.7
    assert study_figures.limits_without_far(np.append(seeds, farthest))[1] > farthest
    axes = Figure().subplots()
    near = {"low": 0.1, "effect": 0.15, "high": 0.2, "differences": tuple(seeds)}
    far = {"low": -3.0, "effect": 0.1, "high": 3.2, "differences": (-12.5, 0.1, 8.4, -14.0)}
    study_figures._forest_axis(axes, [near, far], ["one", "two"])
    assert [text.get_text() for text in axes.texts] == ["\u2190 -14.0, -12.5", "+8.4 \u2192"]
    left, right = axes.get_xlim()  # which show every interval
    assert left <= -3.0 and 3.2 <= right < 8.4


def test_a_mean_far_out_does_not_shrink_the_other_rows():
    """An arrow with the mean and its interval stands at the edge in place of the row."""

    def row(mean):
        differences = tuple(mean + np.linspace(-0.2, 0.2, 40))
        return {"low": mean - 0.1, "effect": mean, "high": mean + 0.1, "differences": differences}

    near = [row(mean) for mean in np.linspace(-0.5, 0.5, 11)]
    names = [str(number) for number in range(12)]
    axes = Figure().subplots()
    study_figures._forest_axis(axes, [*near, row(-70.0)], names)
    assert [text.get_text() for text in axes.texts] == ["\u2190 -70.0 [-70.1, -69.9]"]
    left, right = axes.get_xlim()
    assert -1.0 < left < -0.7 and 0.7 < right < 1.0
    edge = 0.4 + 2.9 * 0.8  # three times the range of the middle 80 %, which is 0.8, and less
    axes = Figure().subplots()
    study_figures._forest_axis(axes, [*near, row(edge)], names)
    assert not axes.texts and axes.get_xlim()[1] > edge


def test_figures_without_results_do_not_stay(tmp_path):
    """A folder may hold those of another study, and files of its owner."""
    draw(tmp_path, study(3, variants=("report", "mnist")), everything=True)
    (tmp_path / "mine.png").touch()
    other = study(3, variants=("held_out_0.001",), shift={"held_out_0.001": 0.0})
    draw(tmp_path, other, everything=False)
    left = {"mine.png", "paired_differences.png", "paired_differences.svg"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_longer_runs_are_drawn_once_they_have_ended():
    begun = study(2, variants=("report",), epochs=10)
    for last, drawn in ((4, "report"), (30, "longer")):
        runs = pd.concat([begun, study(2, variants=("longer",), epochs=last)])
        assert Arm(drawn, "none") in study_figures._arm_looks(runs)


def test_a_single_epoch_can_be_seen():
    assert style.marker_of([98.7]) == "." and style.marker_of([98.7, 98.8]) == ""
    axes = Figure().subplots()
    axes.plot([1], [98.7], ".")
    style.epochs_axis(axes)
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_the_same_results_give_the_same_bytes(tmp_path):
    """So a figure changes only with its data."""
    results = study(3, variants=("report",))
    for name in ("one", "two"):
        study_figures.evaluations(results, tmp_path / name)
        study_figures.final_accuracy(results, tmp_path / f"{name}-final")
    for suffix in (".png", ".svg", "-final.png", "-final.svg"):
        one, two = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("one", "two"))
        assert one == two


def test_a_path_with_a_suffix_gives_that_file_only(tmp_path):
    figures.epoch_times(TIMES, tmp_path / "times.svg")
    figures.epoch_times(TIMES, tmp_path / "times")
    assert {path.name for path in tmp_path.iterdir()} == {"times.svg", "times.png"}
    figures.epoch_times(TIMES, tmp_path / "alone.png")
    assert not (tmp_path / "alone.svg").exists()


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
