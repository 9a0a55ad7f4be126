"""A study is its files: it equals single runs, survives being killed, and is remade from disk."""

import dataclasses
import json
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from experiments import compare
from experiments.compare import Config
from experiments.run import keys_of
from mnist_jax import train
from mnist_jax.model import LeNet

QUIET = Console(quiet=True)
# Without a block: of the three networks it compiles fastest.
SMALL = {"seeds": 3, "placements": "none", "epochs": 3}


class KilledError(Exception):
    """Stands for a kill."""


def lines(config: Config) -> list[dict]:
    return [json.loads(line) for line in (config.out / "results.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(synthetic, tmp_path_factory) -> Config:
    """A study that nothing interrupted."""
    config = Config(**SMALL, out=tmp_path_factory.mktemp("studies") / "whole")
    compare.study(config, *synthetic, QUIET)
    return config


def test_every_seed_and_epoch_has_a_line(whole):
    """With the confusion matrix of all 77 test images."""
    keys = [(line["seed"], line["epoch"]) for line in lines(whole)]
    assert sorted(keys) == [(seed, epoch) for seed in range(3) for epoch in (1, 2, 3)]
    for line in lines(whole):
        confusion = np.array(line["confusion"])
        assert confusion.sum() == 77
        assert line["test_accuracy_percent"] == pytest.approx(100 * np.trace(confusion) / 77)
    assert not list((whole.out / "checkpoints").iterdir())


def test_a_seed_equals_its_single_run(whole, synthetic):
    """The same keys, batches and arithmetic as `experiments.run`."""
    init_key, order_key = keys_of(2)
    model, tx = LeNet("none"), optax.sgd(0.001, momentum=0.9)
    run = train.fit(
        train.init_state(model, tx, init_key),
        *(jax.tree.map(jnp.asarray, split) for split in synthetic),
        order_key,
        model=model,
        tx=tx,
        epochs=3,
        batch_size=64,
        mean=0.5,
        std=0.5,
    )
    single = [(e.number, e.train.mean_loss, e.test.mean_loss) for e in run]
    ours = [
        (line["epoch"], line["train_loss"], line["test_loss"])
        for line in lines(whole)
        if line["seed"] == 2
    ]
    np.testing.assert_allclose(ours, single, rtol=1e-5)


@pytest.mark.parametrize("moment", ["before the checkpoint", "while writing a line"])
def test_a_killed_study_resumes(whole, synthetic, tmp_path, monkeypatch, moment):
    """Killed in epoch 2; epoch 1 is not trained again, and the result is the whole study's."""
    config = dataclasses.replace(whole, out=tmp_path / "killed")
    save = compare._save_checkpoint

    def killed(config, group, epochs, states):
        if epochs == 2:
            raise KilledError
        save(config, group, epochs, states)

    with monkeypatch.context() as patch:
        patch.setattr(compare, "_save_checkpoint", killed)
        with pytest.raises(KilledError):
            compare.study(config, *synthetic, QUIET)
    results = config.out / "results.jsonl"
    if moment == "while writing a line":
        results.write_bytes(results.read_bytes()[:-100])

    trained = []
    epoch = compare._train_epoch
    monkeypatch.setattr(
        compare, "_train_epoch", lambda *args, **more: trained.append(1) or epoch(*args, **more)
    )
    compare.study(dataclasses.replace(config, resume=True), *synthetic, QUIET)
    assert lines(config) == lines(whole)
    assert len(trained) == 2


def test_a_kill_between_the_last_lines_repeats_one_epoch(whole, synthetic, tmp_path, monkeypatch):
    """Seed 0 is finished then and the others are not."""
    config = dataclasses.replace(whole, out=tmp_path / "killed")
    kept = []
    save = compare._save_checkpoint

    def keep(config, *rest):
        save(config, *rest)
        kept.append((config.out / "checkpoints" / "report.none.npz").read_bytes())

    with monkeypatch.context() as patch:
        patch.setattr(compare, "_save_checkpoint", keep)
        compare.study(config, *synthetic, QUIET)
    results = config.out / "results.jsonl"
    results.write_text("".join(results.read_text().splitlines(keepends=True)[:-2]))
    (config.out / "checkpoints" / "report.none.npz").write_bytes(kept[-1])

    groups, _ = compare._left_to_do(config, lines(config))
    assert groups == [(("report", "none", (1, 2)), 2)]
    compare.study(dataclasses.replace(config, resume=True), *synthetic, QUIET)
    assert lines(config) == lines(whole)


def test_resuming_adds_seeds_and_keeps_what_is_there(whole, synthetic, tmp_path):
    """Two seeds, then a third; the manifest names both calls."""
    config = dataclasses.replace(whole, out=tmp_path / "grown", seeds=2)
    compare.study(config, *synthetic, QUIET)
    first = (config.out / "results.jsonl").read_text()
    compare.study(dataclasses.replace(config, seeds=3, resume=True), *synthetic, QUIET)
    assert (config.out / "results.jsonl").read_text().startswith(first)

    def by_run(line):
        return line["seed"], line["epoch"]

    assert sorted(lines(config), key=by_run) == sorted(lines(whole), key=by_run)
    manifest = json.loads((config.out / "manifest.json").read_text())
    assert [session["seeds"] for session in manifest["sessions"]] == [2, 3]
    assert manifest["sessions"][1]["packages"]["jax"] == jax.__version__


def test_resuming_with_other_epochs_or_data_is_refused(whole, synthetic):
    """The finished part would not belong to the rest."""
    train_split, test_split = synthetic
    more = dataclasses.replace(whole, resume=True, epochs=4)
    with pytest.raises(compare.UsageError, match="--epochs must be what the study in"):
        compare.study(more, train_split, test_split, QUIET)
    other = test_split._replace(labels=test_split.labels[::-1])
    with pytest.raises(compare.UsageError, match="--data-dir must be what the study in"):
        compare.study(dataclasses.replace(whole, resume=True), train_split, other, QUIET)


def test_from_makes_tables_and_figures_of_files(whole, tmp_path, capsys, monkeypatch):
    """Training nothing; the same twice; a timing file given once is kept."""
    monkeypatch.setattr(compare, "study", None)
    rows = [
        {
            "program": "mnist_jax",
            "threads": 2,
            "placement": placement,
            "epoch_seconds": [s, s + 0.1],
        }
        for placement, s in (("before_fc1", 2.2), ("after_fc1", 1.8))
    ]
    timing = tmp_path / "timing.json"
    timing.write_text(json.dumps({"rows": rows}))

    def made() -> dict[str, bytes]:
        return {
            str(file.relative_to(whole.out)): file.read_bytes()
            for folder in ("tables", "figures")
            for file in (whole.out / folder).iterdir()
        } | {"summary": (whole.out / "summary.json").read_bytes()}

    assert compare.main(["--from", str(whole.out), "--timing", str(timing)]) == 0
    first = made()
    assert {"tables/claims.md", "figures/curves.png", "figures/epoch_times.svg"} <= set(first)
    assert "mnist_jax (2 threads)" in first["tables/evidence.md"].decode()
    assert compare.main(["--from", str(whole.out)]) == 0
    assert made() == first
    assert f"written: {whole.out}" in capsys.readouterr().out


def test_without_a_terminal_an_epoch_is_a_line(synthetic, tmp_path, capsys):
    """No moving bar in a log."""
    config = Config(seeds=1, placements="none", epochs=2, out=tmp_path / "study")
    compare.study(config, *synthetic, Console(soft_wrap=True))
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 3
    assert out[1].startswith("report/none epoch 1/2: test accuracy")


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--seeds", "0"], "--seeds"),
        (["--epochs", "0"], "--epochs"),
        (["--placements", "after_fc1,nowhere"], "--placements"),
        (["--placements", "none,none"], "--placements"),
        (["--variants", ""], "--variants"),
        (["--timing", "absent.json"], "--timing"),
        (["--from", "absent"], "--from"),
        (["--resume", "--out", "absent"], "--out"),
        (["--out", "full"], "--out"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, arguments, option):
    """Naming the option, before anything is loaded."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "results.jsonl").touch()
    assert compare.main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {option} must be")
    assert message.count("\n") == 1


DRIVER = """
import pickle, sys
from experiments import compare
splits = pickle.load(open(sys.argv[1], "rb"))
compare.load_mnist = lambda *_: splits
sys.exit(compare.main(sys.argv[2:]))
"""


def test_two_hosts_write_the_study_of_one(whole, synthetic, tmp_path):
    """Three seeds on two processes over loopback: the same lines, and host 0 alone writes."""
    (tmp_path / "splits").write_bytes(pickle.dumps(synthetic))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    out = tmp_path / "hosts"
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "splits"), "--out", str(out)]
    command += [f"--{name}={value}" for name, value in SMALL.items()]
    command += ["--coordinator", address, "--hosts", "2", "--host"]
    root = Path(__file__).parents[1]
    with (
        subprocess.Popen([*command, "1"], cwd=root, stdout=subprocess.PIPE, text=True) as second,
        subprocess.Popen([*command, "0"], cwd=root, stdout=subprocess.PIPE, text=True) as first,
    ):
        printed = first.communicate(timeout=300)[0]
        silent = second.communicate(timeout=60)[0]
    assert (first.returncode, second.returncode) == (0, 0)
    assert "epoch 3/3" in printed
    assert "epoch" not in silent
    ours = lines(dataclasses.replace(whole, out=out))
    for line, expected in zip(ours, lines(whole), strict=True):
        found = line.pop("train_loss"), line.pop("test_loss")
        np.testing.assert_allclose(
            found, (expected.pop("train_loss"), expected.pop("test_loss")), rtol=1e-5
        )
        assert line == expected


@pytest.mark.parametrize("rank", ["SLURM_PROCID", "OMPI_COMM_WORLD_RANK"])
def test_a_later_host_may_find_the_directory_made(tmp_path, monkeypatch, rank):
    (tmp_path / "manifest.json").touch()
    with pytest.raises(compare.UsageError, match="--out must be new"):
        compare.check(Config(out=tmp_path))
    monkeypatch.setenv(rank, "1")
    compare.check(Config(out=tmp_path))


@pytest.mark.parametrize(
    "arguments", [["--hosts", "2"], ["--coordinator", "h:1"], ["--coordinator=h:1", "--hosts=2"]]
)
def test_half_of_what_several_hosts_need_is_refused(arguments, tmp_path, capsys):
    assert compare.main(["--out", str(tmp_path / "new"), *arguments]) == 2
    assert "--host" in capsys.readouterr().err
