"""The commands run and resume: lines, files, and that a run continues to the same bits."""

import csv
import functools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import small

from experiments import resume, run
from experiments.figures import run as figures
from experiments.groundwork import recipe, run_directory, training
from experiments.groundwork.command import UsageError
from experiments.groundwork.recipe import Recipe
from experiments.groundwork.run_directory import Config
from mnist_jax import data, store, torch_weights, train
from mnist_jax.data import PIXELS
from mnist_jax.sources import DataError
from mnist_jax.store import StoreError

LINE = "Epoch 1, train:: loss: "

pytestmark = pytest.mark.usefixtures("commands_read_synthetic")


DRAWN = {name: getattr(figures, name) for name in ("curves", "confusion", "mistakes")}


def plain(value):
    """What would be drawn, without the seconds, in a form that is written out whole."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if key != "seconds"}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def listed(*arguments, **named):
    """Takes the place of a figure, which takes half a second."""
    *values, path = arguments
    path.write_text(repr(plain([values, named])))


@pytest.fixture(scope="module", autouse=True)
def compiled_once(compiled_quickly):
    """The runs of this file are much alike, so they share compiled programs, and draw nothing."""
    programs = functools.cache(recipe.programs)

    def of(wanted: Recipe):
        return programs(wanted if wanted.schedule == "one_cycle" else replace(wanted, epochs=1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "programs", of)
        for name in DRAWN:
            patch.setattr(figures, name, listed)
        patch.setattr(training, "ahead_of_time", functools.cache(training.ahead_of_time))
        yield


@pytest.fixture(scope="module")
def one_run(compiled_once, tmp_path_factory):
    """A run of two epochs, to be copied."""
    folder = tmp_path_factory.mktemp("one")
    with small.in_place_of_mnist():
        assert start(folder) == 0
    return folder / "runs" / "after_fc1-seed0"


@pytest.fixture
def directory(one_run, tmp_path):
    """That of a finished run, to be changed as a test likes."""
    return Path(shutil.copytree(one_run, tmp_path / "copy" / "after_fc1-seed0"))


def start(tmp_path, *words):
    return run.main(["--out", str(tmp_path / "runs"), "--epochs", "2", *words])


def continued(directory, *words):
    return resume.main([str(directory), *words])


def history_of(directory) -> list[dict]:
    """The lines of metrics.jsonl without the seconds."""
    rows = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def contents(directory) -> dict[str, bytes]:
    """The files that a continued run must have to the byte."""
    left_out = {"manifest.json", "metrics.jsonl", "checkpoint.safetensors"}  # they hold seconds
    return {
        str(file.relative_to(directory)): file.read_bytes()
        for file in sorted(directory.rglob("*.*"))
        if file.name not in left_out
    }


def assert_same(one, other):
    assert contents(one) == contents(other)
    assert history_of(one) == history_of(other)


@pytest.mark.parametrize("placement", ["none", "after_fc1"])
def test_a_run_prints_the_reports_lines_and_writes_its_directory(
    placement, tmp_path, monkeypatch, capsys
):
    if placement == "none":
        for name, draw in DRAWN.items():
            monkeypatch.setattr(figures, name, draw)
    assert start(tmp_path, "--placement", placement) == 0
    printed = capsys.readouterr().out
    assert LINE in printed
    assert "Accuracy of      9 : " in printed
    assert "Beside the report" not in printed  # after two epochs there is nothing to compare

    directory = tmp_path / "runs" / f"{placement}-seed0"
    assert {path.name for path in directory.iterdir()} == {
        "checkpoint.safetensors",
        "config.json",
        "manifest.json",
        "metrics.jsonl",
        "per_class.csv",
        "weights.safetensors",
        "curves.png",
        "confusion.png",
        "mistakes.png",
    }
    history = history_of(directory)
    assert [row["epoch"] for row in history] == [1, 2]
    with (directory / "per_class.csv").open() as file:
        classes = list(csv.DictReader(file))
    correct, count = (sum(int(row[name]) for row in classes) for name in ("correct", "count"))
    assert count == small.TEST_SIZE
    assert 100 * correct / count == pytest.approx(history[-1]["test_accuracy_percent"])
    assert run_directory.read_config(directory) == Config(Recipe(placement, epochs=2))
    assert store.read_json(directory / "manifest.json")["starts"][0]["data_sha256"]


def test_the_same_seed_gives_the_same_run_and_no_run_is_overwritten(tmp_path):
    assert start(tmp_path) == start(tmp_path) == 0
    assert_same(*(tmp_path / "runs" / f"after_fc1-seed0{more}" for more in ("", "-2")))


def test_the_run_can_be_opened_again(tmp_path):
    assert start(tmp_path, "--placement", "none", "--pixels", "mnist", "--keep-epochs") == 0
    opened = run_directory.open_run(tmp_path / "runs" / "none-seed0")
    assert (opened.name, opened.epoch) == ("none-seed0", 2)
    assert (opened.model.placement, opened.model.pixels) == ("none", PIXELS["mnist"])
    logits = train.predict(opened.variables, small.DATASET.test.images, model=opened.model)
    right = 100 * (np.asarray(logits).argmax(1) == small.DATASET.test.labels).mean()
    assert right == pytest.approx(opened.history[-1]["test_accuracy_percent"])
    assert [number for number, _ in opened.epochs] == [1, 2]
    for number, path in opened.epochs:
        bare = run_directory.open_run(path)
        assert (bare.epoch, bare.model, bare.history) == (number, opened.model, [])
    np.testing.assert_array_equal(
        bare.variables["params"]["fc3"]["bias"], opened.variables["params"]["fc3"]["bias"]
    )


def test_a_lengthened_run_is_the_run_that_was_never_interrupted(tmp_path):
    assert start(tmp_path, "--epochs", "3", "--keep-epochs") == 0
    assert start(tmp_path, "--epochs", "1", "--keep-epochs") == 0
    whole, second = (tmp_path / "runs" / f"after_fc1-seed0{more}" for more in ("", "-2"))
    assert continued(second, "--epochs", "2") == 0
    assert continued(second, "--epochs", "3") == 0
    assert_same(whole, second)
    assert len(store.read_json(second / "manifest.json")["starts"]) == 3


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("function", ["torch_weights.save", "store.write_whole", "store.save"])
def test_a_run_stopped_while_it_writes_an_epoch_continues_to_the_same_bits(
    epoch, function, one_run, tmp_path, monkeypatch, capsys
):
    write_epoch = run_directory.write_epoch
    with monkeypatch.context() as patch:

        def stop_there(*args):
            if len(args[-1]) == epoch:  # the history
                patch.setattr(f"experiments.groundwork.run_directory.{function}", interrupt)
            write_epoch(*args)

        patch.setattr(run_directory, "write_epoch", stop_there)
        assert start(tmp_path) == 130
    directory = tmp_path / "runs" / "after_fc1-seed0"
    told = capsys.readouterr().err
    if epoch == 1:
        assert told == "interrupted\n" and not directory.exists()
        return
    assert told == f"interrupted; to continue: python -m experiments.resume {directory}\n"
    assert continued(directory) == 0
    assert f"continued after epoch {epoch - 1}" in capsys.readouterr().out
    assert_same(directory, one_run)


def test_a_run_in_the_midst_of_a_cycle_continues_to_the_same_bits(tmp_path, monkeypatch, capsys):
    """And to no other cycle, whose length cannot be changed any more."""
    cycle = ("--placement", "none", "--schedule", "one_cycle", "--nesterov")
    assert start(tmp_path, *cycle) == 0
    write_epoch = run_directory.write_epoch

    def stop_after(*args):
        write_epoch(*args)
        interrupt()

    with monkeypatch.context() as patch:
        patch.setattr(run_directory, "write_epoch", stop_after)
        assert start(tmp_path, *cycle) == 130
    whole, stopped = (tmp_path / "runs" / f"none-seed0{more}" for more in ("", "-2"))
    assert len(history_of(stopped)) == 1
    capsys.readouterr()
    assert continued(stopped, "--epochs", "3") == 2
    assert "--epochs must be 2, which this cycle has: 3" in capsys.readouterr().err
    assert continued(stopped) == 0
    assert_same(whole, stopped)


def test_other_data_are_refused_and_other_versions_named(directory, monkeypatch, capsys):
    manifest = store.read_json(directory / "manifest.json")
    manifest["starts"][0]["threads"] = 77
    store.write_json(directory / "manifest.json", manifest)
    assert continued(directory, "--epochs", "3") == 0
    assert "differs from when the run was begun: threads 77 before, " in capsys.readouterr().out
    others = small.DATASET._replace(sha256={"made": "otherwise"})
    monkeypatch.setattr(data, "load_mnist", lambda *args, **kwargs: others)
    assert continued(directory, "--epochs", "4") == 2
    assert "the data are not those on which this run was trained" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "config.json", "weights.safetensors"])
def test_a_damaged_file_is_named_on_one_line(name, directory, capsys):
    path = directory / name
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content.replace(b"0.9", b"0,9"), b""):
        path.write_bytes(damaged)
        if damaged == content:
            continue
        with pytest.raises((UsageError, StoreError)) as error:
            run_directory.open_run(directory)
        assert name in str(error.value) and "\n" not in str(error.value)
        if name != "weights.safetensors":  # which the next epoch writes anew
            assert continued(directory) == 2
            assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "1"}, "--seed must be of type int: '1'"),
        ({"evaluation": "best"}, "--evaluation must be one of running, batch, recalibrated: best"),
        ({"devices": 2}, "not of this version of the program"),
    ],
)
def test_what_somebody_wrote_into_a_config_is_checked(change, message, directory, capsys):
    config = store.read_json(directory / "config.json")
    store.write_json(directory / "config.json", config | change)
    assert continued(directory) == 2
    assert message in capsys.readouterr().err


def test_a_directory_is_written_by_one_command_at_a_time(directory, capsys):
    with store.locked(directory):
        assert continued(directory, "--epochs", "3") == 2
    assert str(directory) in capsys.readouterr().err
    assert len(history_of(directory)) == 2


def test_a_run_starts_from_the_weights_of_another(directory, tmp_path, monkeypatch, capsys):
    weights = directory / "weights.safetensors"
    given = ("--init-from", str(weights))
    assert start(tmp_path, *given, "--learning-rate", "0") == 0
    again = tmp_path / "runs" / "after_fc1-seed0" / "weights.safetensors"
    before, after = (torch_weights.load(path).variables for path in (weights, again))
    np.testing.assert_array_equal(
        before["params"]["fc1"]["kernel"], after["params"]["fc1"]["kernel"]
    )
    assert start(tmp_path, *given, "--placement", "none") == 2
    assert "weights of placement after_fc1, not none" in capsys.readouterr().err
    assert start(tmp_path, *given, "--pixels", "mnist", "--dry-run") == 2
    assert "weights for --pixels half, not mnist" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["batch", "recalibrated"])
def test_every_way_of_evaluation_is_printed_and_one_is_chosen(name, one_run, tmp_path, capsys):
    """The chosen one in every line, all three after the last; training is the same."""
    assert start(tmp_path, "--evaluation", name) == 0
    directory = tmp_path / "runs" / "after_fc1-seed0"
    shown = capsys.readouterr().out.splitlines()
    label = {"batch": "statistics of each test batch", "recalibrated": "means over the training"}
    (row,) = [line.split() for line in shown if line.strip().startswith(label[name])]
    last, running = history_of(directory)[-1], history_of(one_run)[-1]
    assert float(row[-2]) == pytest.approx(last["test_loss"], abs=1e-4)
    assert float(row[-1]) == pytest.approx(last["test_accuracy_percent"], abs=0.01)
    assert sum(line.strip().startswith("running statistics") for line in shown) == 1
    assert last["train_loss"] == running["train_loss"]
    assert last["test_loss"] != pytest.approx(running["test_loss"], rel=1e-3)


def test_predictions_use_the_statistics_of_a_recalibrated_run(one_run, tmp_path):
    assert start(tmp_path, "--evaluation", "recalibrated") == 0
    opened = run_directory.open_run(tmp_path / "runs" / "after_fc1-seed0")
    logits = train.predict(opened.variables, small.DATASET.test.images, model=opened.model)
    accuracy = 100 * np.mean(logits.argmax(-1) == small.DATASET.test.labels)
    assert accuracy == pytest.approx(opened.history[-1]["test_accuracy_percent"])
    running = run_directory.open_run(one_run).variables
    jax.tree.map(np.testing.assert_array_equal, opened.variables["params"], running["params"])
    means = (each["batch_stats"]["resnet_block"] for each in (opened.variables, running))
    assert not np.array_equal(*(mean["bn1"]["mean"] for mean in means))


def test_only_a_run_of_the_reports_recipe_is_held_beside_it(tmp_path, monkeypatch, capsys):
    """After as many epochs, and with the statistics of each test batch, as it was evaluated."""
    monkeypatch.setattr(Recipe, "epochs", 1)
    monkeypatch.setattr(run, "Recipe", lambda placement: Recipe(placement, epochs=1))
    assert start(tmp_path, "--epochs", "1", "--seed", "5") == 0
    shown = capsys.readouterr().out.splitlines()
    (batch,) = [line.split()[-2:] for line in shown if "statistics of each test batch  " in line]
    (loss,) = [line.split()[-3] for line in shown if line.strip().startswith("test loss")]
    assert loss == batch[0]
    assert start(tmp_path) == 0
    assert "Beside the report" not in capsys.readouterr().out


def test_held_out_images_are_tested_on():
    held_out = replace(Recipe(), held_out=50)
    kept, held = recipe.splits(held_out, small.DATASET)
    assert (len(kept.labels), len(held.labels)) == (150, 50)
    assert (held_out.train_size, held_out.test_size) == (150, 50)


@pytest.mark.parametrize("batch_size", ["64", "200"])
def test_a_dry_run_writes_nothing(batch_size, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run.main(["--dry-run", "--batch-size", batch_size]) == 0
    assert LINE in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_the_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run", "--summary", "--placement", "after_fc1"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "COLUMNS": "40"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "304,106" in done.stdout
    assert "resnet_block/conv1" in done.stdout


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--learning-rate", "nan"], "--learning-rate must be"),
        (["--momentum", "1"], "--momentum must be"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--batch-size", "201"], "--batch-size must be at most 200"),
        (["--batch-size", "199"], "--batch-size must be such that no batch has one image"),
        (["--schedule", "one_cycle", "--learning-rate", "0.1"], "--learning-rate is of no use"),
        (["--peak-learning-rate", "0.1"], "--peak-learning-rate is of no use with --schedule"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--seed", "4294967296"], "--seed must be from 0 to 4294967295"),
        (["--init-from", __file__], "test_run.py: not a .safetensors file"),
        (["--dry-run", "--init-from", "absent.safetensors"], "absent.safetensors: No such file"),
        (["--out", "x" * 300], "cannot be written: File name too long"),
        (["--out", __file__], "cannot be written: File exists"),
        (["--evaluation", "batch", "--batch-size", "38"], "no batch of test images has one: 38"),
    ],
)
def test_bad_input_is_one_line_that_names_the_option(words, named, tmp_path, capsys):
    assert start(tmp_path, *words) == 2
    printed = capsys.readouterr().err
    assert named in printed
    assert printed.count("\n") == 1
    assert not list(tmp_path.glob("runs/*"))


def test_data_that_cannot_be_had_is_an_error_without_traceback(tmp_path, monkeypatch, capsys):
    def absent(*args, **kwargs):
        raise DataError("no source", "mirror")

    monkeypatch.setattr(data, "load_mnist", absent)
    assert start(tmp_path) == 2
    assert capsys.readouterr().err == "error: no source (--mirror)\n"
    assert not list(tmp_path.glob("runs/*"))


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_it_readable(tmp_path, capsys):
    wild = ("--learning-rate", "1e30", "--placement", "none")
    assert start(tmp_path, *wild) == 1
    assert "not finite after epoch 1" in capsys.readouterr().err
    lines = (tmp_path / "runs" / "none-seed0" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [row["epoch"] for row in rows] == [1]
    assert continued(tmp_path / "runs" / "none-seed0") == 1
    assert start(tmp_path, *wild, "--dry-run") == 1
