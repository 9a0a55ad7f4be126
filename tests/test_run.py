import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import run
from mnist_jax import torch_weights
from mnist_jax.data import Split
from mnist_jax.model import PLACEMENTS
from mnist_jax.sources import DataError

LINE = "Epoch 1, train:: loss: "


@pytest.fixture
def data(synthetic, monkeypatch):
    """The command line reads the synthetic split instead of MNIST."""
    monkeypatch.setattr(run, "load_mnist", lambda *args, **kwargs: synthetic)
    return synthetic


def start(tmp_path, *options):
    return run.main(["--out", str(tmp_path / "runs"), "--epochs", "2", *options])


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_run_prints_the_reports_lines_and_writes_its_directory(placement, data, tmp_path, capsys):
    assert start(tmp_path, "--placement", placement) == 0
    printed = capsys.readouterr().out
    assert LINE in printed
    assert "Accuracy of      9 : " in printed
    assert ("Beside the report" in printed) == (placement != "none")

    directory = tmp_path / "runs" / f"{placement}-seed0"
    assert {path.name for path in directory.iterdir()} == {
        "config.json",
        "manifest.json",
        "metrics.jsonl",
        "per_class.csv",
        "weights.safetensors",
        "curves.png",
        "confusion.png",
        "mistakes.png",
    }
    history = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history] == [1, 2]
    with (directory / "per_class.csv").open() as file:
        classes = list(csv.DictReader(file))
    assert sum(int(row["count"]) for row in classes) == len(data[1].labels)
    correct = sum(int(row["correct"]) for row in classes)
    assert 100 * correct / len(data[1].labels) == pytest.approx(
        history[-1]["test_accuracy_percent"]
    )
    assert json.loads((directory / "config.json").read_text())["placement"] == placement
    assert json.loads((directory / "manifest.json").read_text())["data_sha256"]


def test_the_same_seed_gives_the_same_run_and_no_run_is_overwritten(data, tmp_path):
    options = ("--placement", "before_fc1")
    assert start(tmp_path, *options) == start(tmp_path, *options) == 0
    names = "before_fc1-seed0", "before_fc1-seed0-2"
    first, second = (tmp_path / "runs" / name for name in names)
    weights = [(run_ / "weights.safetensors").read_bytes() for run_ in (first, second)]
    assert weights[0] == weights[1]


def test_a_run_starts_from_the_weights_of_another(data, tmp_path):
    assert start(tmp_path) == 0
    weights = tmp_path / "runs" / "after_fc1-seed0" / "weights.safetensors"
    assert start(tmp_path, "--init-from", str(weights), "--learning-rate", "0") == 0
    again = tmp_path / "runs" / "after_fc1-seed0-2" / "weights.safetensors"
    before, after = (torch_weights.load(path, "after_fc1") for path in (weights, again))
    np.testing.assert_array_equal(
        before["params"]["fc1"]["kernel"], after["params"]["fc1"]["kernel"]
    )


def test_quiet_prints_nothing(data, tmp_path, capsys):
    assert start(tmp_path, "--quiet", "--placement", "none") == 0
    assert capsys.readouterr().out == ""


def test_a_dry_run_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run.main(["--dry-run"]) == 0
    assert LINE in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_the_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run", "--summary", "--placement", "after_fc1"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "304,106" in done.stdout


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--placement", "elsewhere"], "--placement must be one of none, before_fc1, after_fc1"),
        (["--learning-rate", "-0.1"], "--learning-rate must be"),
        (["--learning-rate", "nan"], "--learning-rate must be"),
        (["--momentum", "1"], "--momentum must be"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--batch-size", "1000000"], "--batch-size must be at most"),
        (["--batch-size", "199"], "--batch-size must be such that no batch has one image"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--normalisation", "whole"], "--normalisation must be one of"),
        (["--dataset", "cifar10"], "--dataset must be one of"),
        (["--platform", "abacus"], "--platform must be one of"),
        (["--data-dir", __file__], "--data-dir must be a directory"),
        (["--init-from", __file__], "--init-from: "),
        (["--init-from", "absent.safetensors"], "--init-from: "),
    ],
)
def test_bad_input_is_one_line_that_names_the_option(options, named, data, tmp_path, capsys):
    assert start(tmp_path, *options) == 2
    printed = capsys.readouterr().err
    assert named in printed
    assert printed.count("\n") == 1
    assert not list(tmp_path.glob("runs/*"))


def test_an_output_directory_that_is_a_file_is_refused(data, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run.main(["--out", str(tmp_path / "file")]) == 2
    assert "--out must be" in capsys.readouterr().err


def test_data_that_cannot_be_had_is_an_error_without_traceback(tmp_path, monkeypatch, capsys):
    def absent(*args, **kwargs):
        raise DataError("no source")

    monkeypatch.setattr(run, "load_mnist", absent)
    assert start(tmp_path) == 2
    assert capsys.readouterr().err == "error: no source\n"


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_it_readable(data, tmp_path, capsys):
    assert start(tmp_path, "--learning-rate", "1e30", "--placement", "none") == 1
    assert "not finite after epoch 1" in capsys.readouterr().err
    lines = (tmp_path / "runs" / "none-seed0" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [row["epoch"] for row in rows] == [1]


def test_an_interrupted_run_ends_without_traceback(data, tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(run.train, "fit", interrupted)
    assert start(tmp_path) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.mnist
def test_one_epoch_of_real_mnist_lands_where_the_report_does(mnist, monkeypatch, tmp_path):
    train, test = mnist
    small = Split(train.images[:20_000], train.labels[:20_000]), test
    monkeypatch.setattr(run, "load_mnist", lambda *args, **kwargs: small)
    assert start(tmp_path, "--epochs", "1") == 0
    line = (tmp_path / "runs" / "after_fc1-seed0" / "metrics.jsonl").read_text()
    assert 80 < json.loads(line)["test_accuracy_percent"] < 98
