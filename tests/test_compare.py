"""The command experiments.compare: what it trains, prints, refuses and makes of files."""

import contextlib
import io
import re
import signal
from pathlib import Path

import jax
import pandas as pd
import pytest
import small

from experiments import compare
from experiments.groundwork.command import UsageError
from experiments.groundwork.variants import PLAN, VARIANTS, Cell
from experiments.study import files, progress, runs
from experiments.study.files import Study
from mnist_jax import data, store

SMALL = ["train", "--seeds", "3", "--placements", "none", "--epochs", "2"]
TIMES = {
    "rows": [
        {"program": "mnist_jax", "threads": 2, "placement": place, "epoch_seconds": [s, s + 0.1]}
        for place, s in (("before_fc1", 2.2), ("after_fc1", 1.8))
    ]
}


@pytest.fixture(scope="module", autouse=True)
def little_data(tmp_path_factory):
    """Instead of MNIST; JAX has started already, with devices that a command cannot change."""
    with pytest.MonkeyPatch.context() as patch, small.in_place_of_mnist():
        patch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def command(*words: str | Path) -> int:
    return compare.main([*map(str, words)])


@pytest.fixture(scope="module")
def printed() -> io.StringIO:
    """What the commands printed that trained `whole`."""
    return io.StringIO()


@pytest.fixture(scope="module")
def whole(printed, tmp_path_factory) -> Path:
    """A study of three seeds to which three more were added, with its tables and figures."""
    out = tmp_path_factory.mktemp("studies") / "whole"
    with contextlib.redirect_stdout(printed):
        assert command(*SMALL, "--out", out) == 0
        assert command(*SMALL, "--seeds", "6", "--out", out) == 0
    return out


def made(out: Path) -> dict[str, bytes]:
    """All that a report consists of."""
    files = [out / "summary.json", *(out / "tables").iterdir(), *(out / "figures").iterdir()]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def test_a_training_says_what_it_does_and_trains_only_what_is_missing(whole, printed):
    """Without a terminal an epoch is a line, and no bar moves."""
    lines = printed.getvalue().splitlines()
    starts = [place for place, line in enumerate(lines) if line.startswith("to train: ")]
    for start, seeds in zip(starts, ("0 to 2", "3 to 5"), strict=True):
        group, accuracy = f"report/none, seeds {seeds}", r"test accuracy \d+\.\d\d %"
        assert re.fullmatch(
            r"to train: 3 runs of 1 network, 6 epochs .*, roughly \d+ s", lines[start]
        )
        said = [line for line in lines[start + 1 :] if "still training" not in line]
        assert re.fullmatch(f"{group}: epoch 1 of 2, {accuracy}", said[0])
        assert re.fullmatch(f"{group}: epoch 2 of 2, {accuracy}", said[1])
        assert said[2] == f"{group}: finished and written"
    assert lines[-2].startswith(f"written: {whole}/tables, summary.json, figures")
    assert re.fullmatch(f"what these runs leave open.*: {whole}/tables/notes.md", lines[-1])
    (row,) = [line.split() for line in lines[starts[1] :] if line.startswith("  report/none")]
    last = files.read([whole]).table.query("epoch == 2")["test_accuracy_percent"]
    assert row[1:6] == ["6", "2", f"{last.mean():.2f}", "±", f"{last.std():.2f}"]
    assert sorted(run.seed for run in files.read([whole]).runs) == [*range(6)]


def test_a_silence_without_a_terminal_is_broken(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(progress, "TICK", 0.01)
    assert command(*SMALL, "--shard", "1/1", "--out", tmp_path) == 0
    assert "still training after 0:00" in capsys.readouterr().out


def test_shares_of_several_machines_give_the_report_of_one(whole, tmp_path):
    for shard in ("1/2", "2/2"):
        out = tmp_path / shard[0]
        assert command(*SMALL, "--seeds", "6", "--shard", shard, "--out", out) == 0
        assert not (out / "tables").exists()
    assert command("report", tmp_path / "1", tmp_path / "2", "--out", tmp_path / "both") == 0
    assert made(tmp_path / "both") == made(whole)


def test_an_exported_study_gives_the_same_report(whole, tmp_path, capsys):
    """With the times, which are kept once they are given; nothing is written beside the study."""
    timing, committed = tmp_path / "times.json", tmp_path / "committed"
    store.write_json(timing, TIMES)
    first = made(whole)
    assert command("report", whole, "--timing", timing) == 0
    with_times = made(whole)
    assert "claim 2 is not tested" in first["tables/notes.md"].decode()
    assert "claim 2 is not tested" not in with_times["tables/notes.md"].decode()
    assert command("export", whole, "--out", committed) == 0
    assert f"written: {committed}, 6 runs" in capsys.readouterr().out
    committed.chmod(0o500)
    assert command("report", committed, "--out", tmp_path / "again") == 0
    committed.chmod(0o700)
    assert made(tmp_path / "again") == with_times
    (whole / "timing.json").unlink()
    assert command("report", whole) == 0
    assert made(whole) == first
    assert command(*SMALL, "--out", committed) == 2
    assert "--out must be new, empty, or a study that this command" in capsys.readouterr().err


def test_a_signal_keeps_finished_groups(whole, tmp_path, monkeypatch, capsys):
    """In one line that says so; the exit status is the signal's; the same command then ends."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(runs, "GROUP", 3)
    words = [*SMALL, "--seeds", "6", "--shard", "1/1", "--out", tmp_path]
    write = files.write_group
    with monkeypatch.context() as patch:
        patch.setattr(
            files, "write_group", lambda *of: (write(*of), signal.raise_signal(signal.SIGTERM))
        )
        assert command(*words) == 128 + signal.SIGTERM
    line = "interrupted; finished groups are kept, and the same command trains the rest\n"
    assert capsys.readouterr().err == line
    assert sorted(run.seed for run in files.read([tmp_path]).runs) == [0, 1, 2]
    assert command(*words) == 0
    assert "to train: 3 runs of 1 network, 6 epochs" in capsys.readouterr().out
    assert files.read([tmp_path]).table.equals(files.read([whole]).table)


# The plan --------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch) -> list[Cell]:
    """The runs that the command is asked for; it ends there."""
    found: list[Cell] = []

    def begin(_, recipes, asked, *__):
        assert recipes == {cell.variant: VARIANTS[cell.variant] for cell in asked}
        found.extend(asked)
        raise UsageError("enough")

    monkeypatch.setattr(compare, "begin", begin)
    return found


@pytest.mark.parametrize("part", PLAN)
def test_a_part_of_the_plan_is_asked_for(asked, tmp_path, part):
    """With the epochs of its variants."""
    assert command("train", "--plan", part, "--out", tmp_path) == 2
    assert asked == [*PLAN[part]]


def test_the_best_rates_are_those_of_the_part_before(asked, tmp_path, capsys):
    """By their accuracies on held-out images; as long as some are missing, it says so."""
    best = {"none": 0.03, "before_fc1": 0.001, "after_fc1": 0.01}
    rates, table = (
        tmp_path / "rates",
        pd.DataFrame(
            {"variant": cell.variant, "placement": cell.placement, "seed": seed, "epoch": epoch}
            | {"test_loss": 0.1, "train_loss": 0.1, "train_accuracy_percent": 98.0}
            | {"test_accuracy_percent": 98.0 - (rate != best[cell.placement])}
            for cell in PLAN["rates"]
            for rate in (VARIANTS[cell.variant].learning_rate,)
            for seed in cell.seeds
            for epoch in range(1, 11)
        ),
    )
    rates.mkdir()
    words = ["train", "--plan", "best_rates", "--rates", rates, "--out", "absent"]
    for tried in (table[:-10], table):
        files.write_committed(
            Study({"recipes": {}, "test_labels": "", "sessions": []}, tried, []), rates
        )
        assert command(*words) == 2
        missing = "not all tried yet: held_out_0.1/after_fc1, seed 2002 is missing"
        assert (missing in capsys.readouterr().err) == (len(tried) < len(table))
    assert [(cell.placement, VARIANTS[cell.variant].learning_rate) for cell in asked] == [
        *best.items()
    ]
    assert not any(VARIANTS[cell.variant].held_out for cell in asked)


# Refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train --seeds 0", "--seeds must be from 1 to 10000: 0"),
        ("train --seeds 2 --first-seed 4294967295", "--first-seed must be from 0 to 4294967294"),
        ("train --epochs 0", "--epochs must be from 1 to 10, which report has"),
        ("train --epochs 11 --plan pairs", "--epochs must be from 1 to 10, which "),
        ("train --placements", "--placements must be one name or more, each once: none"),
        ("train --variants report mnist report", "--variants must be one name or more, each once"),
        ("train --plan pairs --seeds 3", "--seeds must be left out with --plan: 3"),
        ("train --rates full", "--rates must be left out without --plan best_rates: full"),
        ("train --plan best_rates --out new", "new/manifest.json: No such file"),
        ("train --shard 0/2", "--shard must be I/N with I from 1 to N: 0/2"),
        ("train --shard two", "--shard must be I/N with I from 1 to N: two"),
        ("train --out full", "--out must be new, empty, or a study that this command began"),
        ("report absent", "absent/manifest.json: No such file"),
        ("report absent full", "--out must be given where several studies are joined"),
        ("export absent --out new", "absent/manifest.json: No such file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, words, message):
    """Before anything is loaded or written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "load_mnist", pytest.fail)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    assert compare.main(words.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}")
    assert said.count("\n") == 1
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == [
        "full",
        "full/mine.txt",
    ]


def test_a_damaged_file_of_times_is_refused_before_it_is_copied(whole, tmp_path):
    """Or it would break every later report, too."""
    (tmp_path / "times.json").write_text('{"rows": [')
    assert command("report", whole, "--timing", tmp_path / "times.json") == 2
    assert not (whole / "timing.json").exists()


def test_each_subcommand_has_its_own_options(capsys):
    for name, option in (("train", "--shard"), ("report", "--timing"), ("export", "--out")):
        with pytest.raises(SystemExit) as end:
            command(name, "--help")
        assert end.value.code == 0
        text = capsys.readouterr().out
        assert option in text
        assert ("--seeds" in text) == (name == "train")
