"""The command experiments.run: its lines, its files, and that a run continues to the same bits."""

import contextlib
import csv
import functools
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
import small

from experiments import run
from experiments.groundwork import cores, files, options, run_directory, settings, terminal
from experiments.groundwork.options import UsageError
from mnist_jax import torch_weights, train
from mnist_jax.data import PIXELS, Split
from mnist_jax.model import PLACEMENTS
from mnist_jax.sources import DataError

LINE = "Epoch 1, train:: loss: "


@pytest.fixture
def data(synthetic):
    """The command line reads the synthetic split instead of MNIST."""
    with small.in_place_of_mnist():
        yield synthetic


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """The runs of this file are much alike, so they share traced and compiled programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(run, "_programs", functools.cache(run._programs))
        yield


@pytest.fixture(scope="module")
def one_run(synthetic, cache, tmp_path_factory):
    """A run of two epochs, to be copied."""
    folder = tmp_path_factory.mktemp("one")
    with small.in_place_of_mnist():
        assert start(folder) == 0
    return folder / "runs" / "after_fc1-seed0"


@pytest.fixture
def directory(one_run, tmp_path):
    """That of a finished run, to be changed as a test likes."""
    return Path(shutil.copytree(one_run, tmp_path / "copy" / "after_fc1-seed0"))


def start(tmp_path, *options):
    return run.main(["--out", str(tmp_path / "runs"), "--epochs", "2", *options])


def resume(directory, *options):
    return run.main(["--resume", str(directory), *options])


def history_of(directory) -> list[dict]:
    """The lines of metrics.jsonl without the seconds."""
    rows = files.read_lines(directory / "metrics.jsonl").values
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def contents(directory) -> dict[str, bytes]:
    """The files that a continued run must have to the byte."""
    same = {"weights.safetensors", "per_class.csv", "config.json"}
    return {
        str(file.relative_to(directory)): file.read_bytes()
        for file in sorted(directory.rglob("*"))
        if file.name in same or file.suffix in (".png", ".safetensors")
    }


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_run_prints_the_reports_lines_and_writes_its_directory(placement, data, tmp_path, capsys):
    assert start(tmp_path, "--placement", placement) == 0
    printed = capsys.readouterr().out
    assert LINE in printed
    assert "Accuracy of      9 : " in printed
    assert "Beside the report" not in printed  # after two epochs there is nothing to compare

    directory = tmp_path / "runs" / f"{placement}-seed0"
    assert {path.name for path in directory.iterdir()} == {
        "checkpoint",
        "config.json",
        "manifest.json",
        "metrics.jsonl",
        "per_class.csv",
        "weights.safetensors",
        "curves.png",
        "confusion.png",
        "mistakes.png",
    }
    history = files.read_lines(directory / "metrics.jsonl").values
    assert [row["epoch"] for row in history] == [1, 2]
    with (directory / "per_class.csv").open() as file:
        classes = list(csv.DictReader(file))
    assert sum(int(row["count"]) for row in classes) == len(data[1].labels)
    correct = sum(int(row["correct"]) for row in classes)
    assert 100 * correct / len(data[1].labels) == pytest.approx(
        history[-1]["test_accuracy_percent"]
    )
    assert files.read_json(directory / "config.json")["placement"] == placement
    assert files.read_json(directory / "manifest.json")["starts"][0]["data_sha256"]


def test_the_same_seed_gives_the_same_run_and_no_run_is_overwritten(data, tmp_path):
    options = ("--placement", "before_fc1")
    assert start(tmp_path, *options) == start(tmp_path, *options) == 0
    first, second = (tmp_path / "runs" / f"before_fc1-seed0{more}" for more in ("", "-2"))
    # The order of entries in a safetensors file is not fixed; the weights are.
    assert contents(first) == contents(second)
    assert history_of(first) == history_of(second)


def test_the_run_can_be_opened_again(data, tmp_path):
    assert start(tmp_path, "--normalisation", "mnist", "--keep-epochs") == 0
    directory = tmp_path / "runs" / "after_fc1-seed0"
    opened = run_directory.open_run(directory)
    assert (opened.name, opened.epoch) == ("after_fc1-seed0", 2)
    assert (opened.model.placement, opened.model.pixels) == ("after_fc1", PIXELS["mnist"])
    assert [row["epoch"] for row in opened.history] == [1, 2]
    logits = train.predict(opened.variables, data[1].images, model=opened.model)
    right = (np.asarray(logits).argmax(1) == data[1].labels).sum()
    assert 100 * right / 77 == pytest.approx(opened.history[-1]["test_accuracy_percent"])

    assert [number for number, _ in opened.epochs] == [1, 2]
    for number, path in opened.epochs:
        bare = run_directory.open_run(path)
        assert (bare.epoch, bare.model, bare.history) == (number, opened.model, [])
    np.testing.assert_array_equal(
        bare.variables["params"]["fc3"]["bias"], opened.variables["params"]["fc3"]["bias"]
    )


def test_kept_epochs_stand_in_their_order(directory):
    """Also those of three digits."""
    (directory / run_directory.EPOCHS).mkdir()
    for number in (99, 100, 101, 2):
        (directory / run_directory.EPOCHS / f"{number:02}.safetensors").touch()
    opened = run_directory.open_run(directory)
    assert [number for number, _ in opened.epochs] == [2, 99, 100, 101]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_lengthened_run_is_the_run_that_was_never_interrupted(placement, data, tmp_path):
    whole = ("--placement", placement, "--epochs", "3", "--keep-epochs")
    assert start(tmp_path, *whole) == 0
    assert start(tmp_path, "--placement", placement, "--epochs", "1", "--keep-epochs") == 0
    first, second = (tmp_path / "runs" / f"{placement}-seed0{more}" for more in ("", "-2"))
    assert resume(second, "--epochs", "2", "--no-compile-cache") == 0
    assert resume(second, "--epochs", "3", "--keep-epochs") == 0
    assert contents(first) == contents(second)
    assert history_of(first) == history_of(second)
    assert len(files.read_json(second / "manifest.json")["starts"]) == 3


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_stopped_while_it_writes_an_epoch_continues_to_the_same_bits(
    epoch, data, one_run, tmp_path, monkeypatch, capsys
):
    """Stopped before each file of that epoch in turn."""
    write_epoch = run_directory.write_epoch

    for number, function in enumerate(["torch_weights.save", "write_whole", "checkpoint.save"]):
        with monkeypatch.context() as patch:

            def stop_there(*args, history, function=function, **kwargs):
                if len(history) == epoch:
                    patch.setattr(f"experiments.groundwork.run_directory.{function}", interrupt)
                return write_epoch(*args, history=history, **kwargs)

            patch.setattr(run_directory, "write_epoch", stop_there)
            assert start(tmp_path, "--out", str(tmp_path / str(number))) == 130
        directory = tmp_path / str(number) / "after_fc1-seed0"
        told = capsys.readouterr().err
        if epoch == 1:
            assert told == "interrupted\n" and not directory.exists()
            continue
        assert told == (
            f"interrupted; to continue: python -m experiments.run --resume {directory}\n"
        )
        assert resume(directory) == 0
        assert f"continued after epoch {epoch - 1}" in capsys.readouterr().out
        assert contents(directory) == contents(one_run)
        assert history_of(directory) == history_of(one_run)


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


@contextlib.contextmanager
def interrupted_after_an_epoch(monkeypatch):
    """A run is interrupted as soon as its first epoch is on disk."""
    write_epoch = run_directory.write_epoch

    def stop_after(*args, **kwargs):
        write_epoch(*args, **kwargs)
        interrupt()

    with monkeypatch.context() as patch:
        patch.setattr(run_directory, "write_epoch", stop_after)
        yield


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["--placement", "none"],
            "--placement none contradicts the run in {}, which has after_fc1",
        ),
        (["--momentum", "0.5"], "--momentum 0.5 contradicts the run in {}, which has 0.9"),
        (["--seed", "1"], "--seed 1 contradicts the run in {}, which has 0"),
        (["--epochs", "1"], "--epochs must be at least 2, which this run has: 1"),
        (["--normalisation", "mnist"], "--normalisation mnist contradicts"),
        (["--nesterov"], "--nesterov True contradicts the run in {}, which has False"),
        (["--init-from", "w"], "--init-from w contradicts the run in {}, which has None"),
        (["--devices", "2"], "--devices 2 contradicts the run in {}, which has 1"),
        (["--out", "other"], "--out must be given without --resume, which names the directory"),
    ],
)
def test_options_that_contradict_the_run_are_refused(given, message, data, directory, capsys):
    before = contents(directory)
    assert resume(directory, *given) == 2
    assert message.format(directory) in capsys.readouterr().err
    assert contents(directory) == before


ONE_CYCLE = ("--placement", "none", "--schedule", "one_cycle", "--peak-learning-rate", "0.1")


def test_one_cycle_spans_all_steps_of_the_run(data, schedules, tmp_path):
    assert start(tmp_path, *ONE_CYCLE) == 0
    model = settings.model_of(settings.REPORT, "none")
    tx = settings.sgd(0.1, settings.REPORT.momentum, one_cycle_steps=2 * 4)  # 200 images, 64 a step
    init_key, order_key = settings.keys_of(0)
    programs = train.compiled(model, tx)
    epochs = train.fit(programs, programs.init_state(init_key), *data, order_key, epochs=2)
    rows = history_of(tmp_path / "runs" / "none-seed0")
    for row, epoch in zip(rows, epochs, strict=True):
        assert row["train_loss"] == epoch.train.mean_loss
        assert row["test_loss"] == epoch.test.metrics.mean_loss


def test_a_run_in_the_midst_of_a_cycle_continues_to_the_same_bits(
    data, schedules, tmp_path, monkeypatch, capsys
):
    """And to no other cycle: neither its peak nor its length can be changed any more."""
    assert start(tmp_path, *ONE_CYCLE) == 0
    with interrupted_after_an_epoch(monkeypatch):
        assert start(tmp_path, *ONE_CYCLE) == 130
    whole, stopped = (tmp_path / "runs" / f"none-seed0{more}" for more in ("", "-2"))
    assert len(history_of(stopped)) == 1
    capsys.readouterr()
    for option, value, has in (("--peak-learning-rate", "0.2", 0.1), ("--epochs", "3", 2)):
        assert resume(stopped, option, value) == 2
        message = f"{option} {value} contradicts the run in {stopped}, which has {has}\n"
        assert capsys.readouterr().err.endswith(message)
    assert resume(stopped) == 0
    assert contents(stopped) == contents(whole)
    assert history_of(stopped) == history_of(whole)


def test_a_run_goes_on_with_the_flags_that_it_was_begun_with(data, tmp_path):
    flags = ("--placement", "none", "--nesterov", "--keep-epochs")
    assert start(tmp_path, *flags) == 0
    directory = tmp_path / "runs" / "none-seed0"
    assert resume(directory, *flags, "--epochs", "3") == 0
    assert resume(directory, "--epochs", "4") == 0
    assert run_directory.read_config(directory)["nesterov"] is True
    assert len(history_of(directory)) == 4


def test_the_data_are_loaded_in_the_thread_that_hears_signals(data, tmp_path, monkeypatch):
    """So that a signal ends a download, and not the wait for another thread."""
    threads, load = [], run.load_mnist

    def loaded(*args, **kwargs):
        threads.append(threading.current_thread())
        return load(*args, **kwargs)

    monkeypatch.setattr(run, "load_mnist", loaded)
    assert start(tmp_path, "--placement", "none", "--epochs", "1") == 0
    assert threads == [threading.main_thread()]


def test_the_manifest_says_how_many_threads_there_were(data, tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "count", lambda: 2)
    monkeypatch.setattr(cores, "threads_made", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(cores, "far_apart", lambda: 460.0)
    assert start(tmp_path, "--placement", "none", "--epochs", "1") == 0
    manifest = files.read_json(tmp_path / "runs" / "none-seed0" / "manifest.json")
    assert manifest["starts"][0]["threads"] == 1


def test_a_system_that_keeps_no_core_idle_uses_all_of_them(directory, monkeypatch):
    """Also for a run that was begun with fewer threads."""
    manifest = files.read_json(directory / "manifest.json")
    manifest["starts"][0]["threads"] = 1
    files.write_whole(directory / "manifest.json", files.as_json(manifest))
    monkeypatch.setattr(cores, "count", lambda: 8)
    console = terminal.console(quiet=True)
    assert run._worthwhile_threads(directory, console) == 1
    monkeypatch.setattr(cores, "can_choose", lambda: False)
    assert run._worthwhile_threads(directory, console) == 8


def test_other_data_are_refused_and_other_versions_named(data, directory, monkeypatch, capsys):
    manifest = files.read_json(directory / "manifest.json")
    manifest["starts"][0]["packages"]["jaxlib"] = "0.0.1"
    manifest["starts"][0]["threads"] = 77
    files.write_whole(directory / "manifest.json", files.as_json(manifest))
    assert resume(directory, "--epochs", "3") == 0
    printed = capsys.readouterr().out
    assert "differs from when the run was begun: jaxlib 0.0.1 before, " in printed
    assert "differs from when the run was begun: threads 77 before, " in printed

    others = data[0]._replace(labels=data[0].labels[::-1].copy()), data[1]
    monkeypatch.setattr(run, "load_mnist", lambda *args, **kwargs: others)
    assert resume(directory, "--epochs", "4") == 2
    assert "the data are not those on which this run was trained" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["checkpoint", "config.json", "manifest.json", "weights.safetensors"]
)
def test_a_damaged_file_is_named_on_one_line(name, data, directory, capsys):
    path = directory / name
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content.replace(b"1", b"7"), b""):
        path.write_bytes(damaged)
        with pytest.raises((UsageError, files.FileError)) as error:
            run_directory.open_run(directory)
        assert name in str(error.value) and "\n" not in str(error.value)
        if name != "weights.safetensors":  # which a resumed run writes anew
            capsys.readouterr()
            assert resume(directory) == 2
            assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["weights.safetensors", "metrics.jsonl", "curves.png"])
@pytest.mark.parametrize("damage", ["changed", "lost"])
def test_a_continued_run_mends_what_does_not_count(name, damage, data, directory):
    """Also one that has all its epochs: its checkpoint holds all that the other files say."""
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    (directory / name).unlink()
    if damage == "changed":
        (directory / name).write_bytes(before[name].replace(b"1", b"7"))
    assert resume(directory) == 0
    after = {path.name: path.read_bytes() for path in directory.iterdir()}
    before.pop("manifest.json"), after.pop("manifest.json")  # which has one more start
    assert after == before


def test_a_directory_is_written_by_one_command_at_a_time(data, directory, capsys):
    with files.locked(directory):
        assert resume(directory, "--epochs", "3") == 2
    assert str(directory) in capsys.readouterr().err
    assert len(history_of(directory)) == 2


def test_a_run_starts_from_the_weights_of_another(data, directory, tmp_path, capsys):
    weights = directory / "weights.safetensors"
    assert start(tmp_path, "--init-from", str(weights), "--learning-rate", "0") == 0
    again = tmp_path / "runs" / "after_fc1-seed0" / "weights.safetensors"
    before, after = (torch_weights.load(path).variables for path in (weights, again))
    np.testing.assert_array_equal(
        before["params"]["fc1"]["kernel"], after["params"]["fc1"]["kernel"]
    )
    assert start(tmp_path, "--init-from", str(weights), "--placement", "none") == 2
    assert "weights of placement after_fc1, not none" in capsys.readouterr().err


@pytest.mark.parametrize("option", [[], ["--dry-run"]])
def test_initial_weights_keep_their_scale_of_the_pixels(
    option, data, directory, tmp_path, monkeypatch, capsys
):
    """A file of PyTorch states none, so it may be used with any."""
    weights = directory / "weights.safetensors"
    given = ["--init-from", str(weights), "--normalisation", "mnist", *option]
    assert start(tmp_path, *given) == 2
    assert capsys.readouterr().err == (
        f"error: {weights}: weights for --normalisation half, not mnist\n"
    )
    stated = torch_weights.load(weights)
    monkeypatch.setattr(torch_weights, "load", lambda _: stated._replace(pixels=None))
    assert start(tmp_path, *given) == 0


@pytest.mark.parametrize("name", ["batch", "recalibrated"])
def test_every_way_of_evaluation_is_printed_and_one_is_chosen(
    name, data, one_run, tmp_path, capsys
):
    """The chosen one in every line, all three after the last; training is the same."""
    assert start(tmp_path, "--evaluation", name) == 0
    directory = tmp_path / "runs" / "after_fc1-seed0"
    shown = capsys.readouterr().out.splitlines()
    label = {"batch": "statistics of each test batch", "recalibrated": "means over the training"}
    (row,) = [line.split() for line in shown if line.strip().startswith(label[name])]
    last = history_of(directory)[-1]
    assert float(row[-2]) == pytest.approx(last["test_loss"], abs=1e-4)
    assert float(row[-1]) == pytest.approx(last["test_accuracy_percent"], abs=0.01)
    assert sum(line.strip().startswith("running statistics") for line in shown) == 1
    running = history_of(one_run)[-1]
    assert last["train_loss"] == running["train_loss"]
    assert last["test_loss"] != pytest.approx(running["test_loss"], rel=1e-3)
    correct = sum(
        int(line.split(",")[1])
        for line in (directory / "per_class.csv").read_text().splitlines()[1:]
    )
    assert 100 * correct / 77 == pytest.approx(last["test_accuracy_percent"])


def test_predictions_use_the_statistics_of_a_recalibrated_run(data, one_run, tmp_path):
    """Its file of weights has them, also after it was continued; the weights are the same."""
    assert start(tmp_path, "--evaluation", "recalibrated") == 0
    opened = run_directory.open_run(tmp_path / "runs" / "after_fc1-seed0")
    logits = train.predict(opened.variables, data[1].images, model=opened.model)
    accuracy = 100 * np.mean(logits.argmax(-1) == data[1].labels)
    assert accuracy == pytest.approx(opened.history[-1]["test_accuracy_percent"])
    running = run_directory.open_run(one_run).variables
    jax.tree.map(np.testing.assert_array_equal, opened.variables["params"], running["params"])
    written = opened.path / run_directory.WEIGHTS
    before = written.read_bytes()
    assert before != (one_run / run_directory.WEIGHTS).read_bytes()
    written.unlink()
    assert resume(opened.path) == 0
    assert written.read_bytes() == before


def test_a_continued_run_needs_no_file_of_initial_weights(data, directory, tmp_path):
    weights = Path(shutil.copy(directory / "weights.safetensors", tmp_path / "w.safetensors"))
    assert start(tmp_path, "--init-from", str(weights)) == 0
    begun = tmp_path / "runs" / "after_fc1-seed0"
    weights.unlink()
    assert resume(begun, "--epochs", "3") == 0
    assert len(history_of(begun)) == 3


def test_a_run_of_a_version_with_fewer_options_is_continued(data, tmp_path, monkeypatch):
    """It was trained with the defaults of the options that came later."""
    later = ("nesterov", "schedule", "peak_learning_rate", "evaluation")
    begin, write_epoch = run_directory.begin, run_directory.write_epoch

    def earlier(config):
        return {name: value for name, value in config.items() if name not in later}

    def begin_earlier(directory, config, environment):
        begin(directory, earlier(config), environment)

    def write_epoch_earlier(*arguments, config, **others):
        write_epoch(*arguments, config=earlier(config), **others)

    with monkeypatch.context() as patch:
        patch.setattr(run_directory, "begin", begin_earlier)
        patch.setattr(run_directory, "write_epoch", write_epoch_earlier)
        assert start(tmp_path) == 0
    directory = tmp_path / "runs" / "after_fc1-seed0"
    config = run_directory.read_config(directory)
    assert not config.keys() & {*later}
    del config["keep_epochs"]
    files.write_whole(directory / run_directory.CONFIG, files.as_json(config))
    assert resume(directory) == 0


def test_the_command_that_continues_repeats_what_the_directory_does_not_know(
    data, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "my runs"
    given = ["--mirror", str(tmp_path / "m"), "--threads", "1", "--no-compile-cache"]
    monkeypatch.setattr(cores, "threads_made", lambda _: contextlib.nullcontext())
    with interrupted_after_an_epoch(monkeypatch):
        assert run.main(["--out", str(out), "--epochs", "2", *given]) == 130
    words = shlex.split(capsys.readouterr().err.partition("to continue: ")[2])
    assert words[:3] == ["python", "-m", "experiments.run"]
    assert words[3:] == ["--resume", str(out / "after_fc1-seed0"), *given]
    assert run.main(words[3:]) == 0


def test_batches_divided_over_devices_give_the_run_of_one_device(data, tmp_path):
    assert start(tmp_path, "--batch-size", "32") == 0
    assert start(tmp_path, "--batch-size", "32", "--devices", "2") == 0
    one, two = (tmp_path / "runs" / f"after_fc1-seed0{more}" for more in ("", "-2"))
    for ours, theirs in zip(history_of(two), history_of(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-3)


def test_only_a_run_at_the_reports_settings_is_held_beside_it():
    def is_the_reports(**options):
        return run._is_the_reports(run.Config(**options).described())

    assert is_the_reports()
    assert is_the_reports(placement="before_fc1", seed=5)
    others = [
        {"placement": "none"},
        {"epochs": 9},
        {"batch_size": 32},
        {"learning_rate": 0.01},
        {"momentum": 0.0},
        {"normalisation": "mnist"},
        {"dataset": "kmnist"},
        {"init_from": Path("w")},
        {"schedule": "one_cycle"},
        {"evaluation": "batch"},
        {"nesterov": True},
    ]
    assert not any(is_the_reports(**other) for other in others)


def test_the_defaults_are_the_reports():
    config = run.Config()
    assert (config.epochs, config.batch_size, config.learning_rate) == (10, 64, 0.001)
    assert (config.momentum, config.normalisation, config.placement) == (0.9, "half", "after_fc1")


def test_quiet_prints_nothing(data, tmp_path, capsys):
    assert start(tmp_path, "--quiet", "--placement", "none") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("batch_size", ["2", "64", "6000"])
def test_a_dry_run_writes_nothing(batch_size, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
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
    ("options", "named"),
    [
        (["--placement", "elsewhere"], "'--placement'. Expected one of ('none', 'before_fc1'"),
        (["--learning-rate", "-0.1"], "--learning-rate must be"),
        (["--learning-rate", "nan"], "--learning-rate must be"),
        (["--momentum", "1"], "--momentum must be"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--batch-size", "1000000000"], "--batch-size must be at most"),
        (["--batch-size", "199"], "--batch-size must be such that no batch has one image"),
        (["--batch-size", "31", "--devices", "2"], "--batch-size must be a multiple of --devices"),
        (["--devices", "0"], "--devices must be at least 1"),
        (
            ["--schedule", "one_cycle", "--learning-rate", "0.1"],
            "--learning-rate must be left out with --schedule one_cycle: 0.1",
        ),
        (
            ["--peak-learning-rate", "0.1"],
            "--peak-learning-rate must be left out with --schedule constant: 0.1",
        ),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--seed", "-1"], "--seed must be from 0 to 4294967295"),
        (["--seed", "4294967296"], "--seed must be from 0 to 4294967295"),
        (["--normalisation", "whole"], "'--normalisation'. Expected one of"),
        (["--dataset", "cifar10"], "'--dataset'. Expected one of"),
        (["--platform", "abacus"], "'--platform'. Expected one of"),
        (["--init-from", __file__], "test_run.py: not a .safetensors file"),
        (["--init-from", "absent.safetensors"], "absent.safetensors: No such file"),
        (["--dry-run", "--init-from", "absent.safetensors"], "absent.safetensors: No such file"),
        (["--out", "~nobody-has-this-name"], "~nobody-has-this-name: there is no such home"),
        (
            ["--out", "x" * 300],
            "--out must be a directory that can be written (File name too long)",
        ),
        (["--resume", "absent"], "absent: not the directory of a run"),
        (["--evaluation", "batch", "--batch-size", "38"], "no batch of test images has one: 38"),
        (["--dry-run", "--batch-size", "199"], "--batch-size must be such that no batch has one"),
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


def test_an_output_directory_that_disappears_is_one_line(data, tmp_path, monkeypatch, capsys):
    write_epoch = run_directory.write_epoch

    def remove(directory, *args, **kwargs):
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()
        write_epoch(directory, *args, **kwargs)

    monkeypatch.setattr(run_directory, "write_epoch", remove)
    assert start(tmp_path) == 2
    printed = capsys.readouterr().err
    assert "cannot be written: No such file or directory" in printed
    assert printed.count("\n") == 1


def test_data_that_cannot_be_had_is_an_error_without_traceback(tmp_path, monkeypatch, capsys):
    def absent(*args, **kwargs):
        raise DataError("no source", "mirror")

    monkeypatch.setattr(run, "load_mnist", absent)
    monkeypatch.setattr(run, "TRAIN_SIZE", 200)
    assert start(tmp_path) == 2
    assert capsys.readouterr().err == "error: no source (--mirror)\n"
    assert not list(tmp_path.glob("runs/*"))


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_it_readable(data, tmp_path, capsys):
    assert start(tmp_path, "--learning-rate", "1e30", "--placement", "none") == 1
    assert "not finite after epoch 1" in capsys.readouterr().err
    lines = (tmp_path / "runs" / "none-seed0" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [row["epoch"] for row in rows] == [1]
    assert resume(tmp_path / "runs" / "none-seed0") == 1
    assert "not finite after epoch 1" in capsys.readouterr().err


def test_seeds_keep_their_bits_up_to_the_last():
    """JAX keeps 32 bits of a seed, so the first one beyond would be seed 0 under another name."""
    assert options.MAX_SEED == 2**32 - 1


@pytest.mark.mnist
def test_one_epoch_of_real_mnist_lands_where_the_report_does(mnist, monkeypatch, tmp_path):
    train_split, test = mnist
    small = Split(train_split.images[:20_000], train_split.labels[:20_000]), test
    monkeypatch.setattr(run, "load_mnist", lambda *args, **kwargs: small)
    monkeypatch.setattr(run, "TRAIN_SIZE", 20_000)
    assert start(tmp_path, "--epochs", "1") == 0
    (row,) = history_of(tmp_path / "runs" / "after_fc1-seed0")
    assert 80 < row["test_accuracy_percent"] < 98
