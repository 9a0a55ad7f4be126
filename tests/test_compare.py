"""The command experiments.compare: what it refuses, how it ends, what it makes from files."""

import json
import os
import pickle
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from experiments.groundwork.options import UsageError

from experiments import compare
from experiments.groundwork import files
from experiments.groundwork.variants import PLAN, VARIANTS, Cell
from experiments.page import contents
from experiments.study import directory as study_directory
from experiments.study import hosts
from mnist_jax.model import PLACEMENTS

ROOT = Path(__file__).parents[1]
# Without a block: of the three networks it compiles fastest.
SMALL = ["--seeds", "3", "--placements", "none", "--epochs", "3", "--no-compile-cache"]


@pytest.fixture
def command(synthetic, monkeypatch):
    """Runs the command, which trains little, on the synthetic split; JAX has started already."""
    monkeypatch.setattr(compare, "load_mnist", lambda *_: synthetic)
    monkeypatch.setattr(hosts, "use_every_core", lambda: None)

    def run(*arguments: str | Path) -> int:
        training = [] if "--from" in arguments else SMALL
        return compare.main([*training, *map(str, arguments)])

    return run


@pytest.fixture(scope="module")
def whole(synthetic, tmp_path_factory) -> Path:
    """A study that nothing interrupted."""
    out = tmp_path_factory.mktemp("studies") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "load_mnist", lambda *_: synthetic)
        patch.setattr(hosts, "use_every_core", lambda: None)
        assert compare.main([*SMALL, "--out", str(out)]) == 0
    return out


def rows_of(out: Path) -> list[dict]:
    return files.read_lines(out / "results.jsonl").values


def assert_one_line(message: str) -> None:
    assert message.startswith("error: ")
    assert message.count("\n") == 1


def test_without_a_terminal_an_epoch_is_a_line(command, tmp_path, capsys):
    """No moving bar in a log."""
    assert command("--out", tmp_path / "study") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if ", epoch " in line]
    assert len(lines) == 3
    assert re.fullmatch(
        r"report/none, seeds 0 to 2, epoch 1/3: test accuracy \d+\.\d\d%, \d+\.\d\d s a seed",
        lines[0],
    )


def test_compiled_programs_are_kept(tmp_path, monkeypatch):
    """Unless that is not wanted."""
    kept = []
    monkeypatch.setattr(hosts, "use_every_core", lambda: None)
    monkeypatch.setattr(compare.compile_cache, "turn_on", lambda path: kept.append(path))

    def stop(*_):
        raise UsageError("enough")

    monkeypatch.setattr(compare, "load_mnist", stop)
    arguments = ["--out", str(tmp_path / "new")]
    assert compare.main([*arguments, "--compile-cache", str(tmp_path / "cache")]) == 2
    assert compare.main([*arguments, "--no-compile-cache"]) == 2
    assert kept == [tmp_path / "cache"]


def test_seeds_from_1000(command, tmp_path):
    assert command("--seeds=2", "--epochs=1", "--first-seed=1000", "--out", tmp_path / "new") == 0
    assert [row["seed"] for row in rows_of(tmp_path / "new")] == [1000, 1001]


@pytest.fixture
def asked(synthetic, monkeypatch) -> list[Cell]:
    """The runs that the command is asked for; it ends there."""
    cells: list[Cell] = []

    def begin(_, settings, asked, *__):
        assert settings == {cell.variant: VARIANTS[cell.variant] for cell in asked}
        cells.extend(asked)
        raise UsageError("enough")

    monkeypatch.setattr(compare, "load_mnist", lambda *_: synthetic)
    monkeypatch.setattr(hosts, "use_every_core", lambda: None)
    monkeypatch.setattr(compare, "begin", begin)
    return cells


def test_a_part_of_the_plan_is_asked_for(asked, tmp_path):
    """With the epochs of its settings."""
    arguments = ["--plan", "longer", "--no-compile-cache", "--out", str(tmp_path)]
    assert compare.main(arguments) == 2
    assert asked == list(PLAN["longer"])


def test_the_best_rates_are_those_of_the_part_before(asked, tmp_path, capsys):
    """By their accuracies on held-out images; as long as some are missing, it says so."""
    best = {"none": 0.03, "before_fc1": 0.001, "after_fc1": 0.01}
    rows = [
        {"variant": cell.variant, "placement": cell.placement, "seed": seed, "epoch": epoch}
        | {"test_loss": 0.1, "train_loss": 0.1, "train_accuracy_percent": 98.0}
        | {"test_accuracy_percent": 98.0 - (rate != best[cell.placement])}
        for cell in PLAN["rates"]
        for rate in (VARIANTS[cell.variant].learning_rate,)
        for seed in cell.seeds
        for epoch in range(1, 11)
    ]
    command = ["--plan", "best_rates", "--no-compile-cache", "--resume", "--out", str(tmp_path)]
    files.write_whole(tmp_path / "manifest.json", files.as_json({}))
    last = {"variant": "held_out_0.1", "placement": "after_fc1", "seed": 2002, "epoch": 10}
    some = [row for row in rows if not last.items() <= row.items()]
    assert len(some) == len(rows) - 1
    files.write_whole(tmp_path / "results.jsonl", files.as_lines(some))
    assert compare.main(command) == 2
    said = capsys.readouterr().err
    assert "not all tried yet, held_out_0.1/after_fc1, seeds 2000 to 2002 are unfinished" in said
    files.write_whole(tmp_path / "results.jsonl", files.as_lines(rows))
    assert compare.main(command) == 2
    assert [(cell.placement, VARIANTS[cell.variant].learning_rate) for cell in asked] == [
        *best.items()
    ]
    assert not any(VARIANTS[cell.variant].held_out for cell in asked)


def test_the_plan_says_which_runs(capsys, monkeypatch):
    monkeypatch.setattr(compare, "load_mnist", pytest.fail)
    assert compare.main(["--plan", "pairs", "--seeds", "3", "--out", "absent"]) == 2
    assert "--seeds must be left out with --plan: 3" in capsys.readouterr().err


# Interrupted -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_signal_is_ignored")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_it_with_the_command_that_continues(
    whole, command, tmp_path, monkeypatch, capsys, name
):
    """In one line; the exit status is the signal's; that command then ends with the same bytes."""
    out = tmp_path / "a study"  # a space: the line can be pasted
    save = study_directory.checkpoint.save
    number = getattr(signal, name)

    def save_and_stop(*arguments):
        save(*arguments)
        signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(study_directory.checkpoint, "save", save_and_stop)
        assert command("--out", out) == 128 + number
    message = capsys.readouterr().err
    assert message.startswith("interrupted; to continue: python -m experiments.compare ")
    assert message.count("\n") == 1
    words = shlex.split(message.partition("to continue: ")[2])
    assert compare.main(words[3:]) == 0
    assert (out / "results.jsonl").read_bytes() == (whole / "results.jsonl").read_bytes()


def test_before_anything_is_written_nothing_continues(command, tmp_path, monkeypatch, capsys):
    """And nothing is left behind."""

    def stop(*_):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(compare, "load_mnist", stop)
    assert command("--out", tmp_path / "new") == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "interrupted\n"
    assert not list(tmp_path.iterdir())


DRIVER = """
import os, pickle, signal, sys
from experiments import compare
from experiments.groundwork import options
splits = pickle.load(open(sys.argv[1], "rb"))
compare.load_mnist = lambda *_: splits
kill_at, fsync = int(sys.argv[2]), os.fsync
def count(descriptor):
    global kill_at
    kill_at -= 1
    if kill_at == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(descriptor)
os.fsync = count
options.leave(compare.main(sys.argv[3:]))
"""


def driven(tmp_path: Path, synthetic: object, kill_at: int, *arguments: str) -> list[str]:
    """The command line of a process of its own, killed when it forces so many files to the disk."""
    (tmp_path / "splits").write_bytes(pickle.dumps(synthetic))
    return [
        sys.executable,
        "-c",
        DRIVER,
        str(tmp_path / "splits"),
        str(kill_at),
        *SMALL,
        *arguments,
    ]


def test_a_killed_study_continues(whole, synthetic, tmp_path):
    """Killed while it writes its manifest, its first rows, and its second checkpoint."""
    out = tmp_path / "killed"
    # As many devices as in this process: with another number the last digits are others.
    env = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={jax.device_count()}"}
    for kill_at in (1, 3, 7):
        resume = ["--resume"] if (out / "manifest.json").exists() else []
        command = driven(tmp_path, synthetic, kill_at, "--out", str(out), *resume)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, env=env)
        assert done.returncode == -signal.SIGKILL
    command = driven(tmp_path, synthetic, 0, "--out", str(out), "--resume")
    assert subprocess.run(command, cwd=ROOT, capture_output=True, env=env).returncode == 0
    assert (out / "results.jsonl").read_bytes() == (whole / "results.jsonl").read_bytes()
    assert not list(out.rglob("*.incomplete"))
    assert not list(out.glob(".lock"))


# Refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--seeds", "0"], "--seeds"),
        (["--seeds", "10001"], "--seeds"),
        (["--first-seed", "-1"], "--first-seed"),
        (["--seeds", "1", "--first-seed", "4294967296"], "--first-seed"),
        (["--seeds", "2", "--first-seed", "4294967295"], "--first-seed"),
        (["--epochs", "0"], "--epochs"),
        (["--epochs", "11"], "--epochs"),
        (["--epochs", "11", "--plan", "pairs"], "--epochs"),
        (["--placements"], "--placements"),
        (["--placements", "none", "none"], "--placements"),
        (["--variants", "report", "mnist", "report"], "--variants"),
        (["--from", "absent"], "--from"),
        (["--export", "new"], "--export"),
        (["--from", "full", "--export", "full"], "--export"),
        (["--resume", "--out", "absent"], "--out"),
        (["--out", "full"], "--out"),
        (["--out", "full/results.jsonl"], "--out"),
        (["--plan", "best_rates"], "--out"),
        (["--from", "full", "--export", "other", "--out", "x"], "--out"),
        (["--from", "full", "--seeds", "3"], "--seeds"),
        (["--from", "full", "--plan", "pairs"], "--plan"),
        (["--from", "full", "--resume"], "--resume"),
        (["--plan", "pairs", "--timing", "times.json"], "--timing"),
        (["--coordinator", "h:1"], "--host"),
        (["--coordinator", "h:1", "--hosts", "2"], "--host"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    command, tmp_path, monkeypatch, capsys, arguments, option
):
    """Naming the option, before anything is loaded or written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "load_mnist", pytest.fail)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "results.jsonl").touch()
    out = [] if "--out" in arguments else ["--out", "new"]
    assert compare.main([*out, *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {option} must be")
    assert_one_line(message)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--out", "~nobody-of-this-name/x"], "~nobody-of-this-name/x: there is no such home"),
        (["--hosts", "2"], "--hosts and --host are given with --coordinator"),
        (["--host", "0"], "--hosts and --host are given with --coordinator"),
        (["--placements", "nowhere"], "invalid choice 'nowhere' for argument '--placements'"),
        (["--variants", "other"], "invalid choice 'other' for argument '--variants'"),
        (["--plan", "everything"], "invalid choice 'everything' for argument '--plan'"),
    ],
)
def test_what_else_cannot_be_is_said(command, monkeypatch, tmp_path, capsys, arguments, line):
    monkeypatch.chdir(tmp_path)
    assert compare.main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {line}")
    assert_one_line(message)


def test_the_last_seed_is_a_seed():
    """4294967295 is the last one that is not another one's alias."""
    compare.check(compare.Config(seeds=1, first_seed=2**32 - 1, out=Path("absent")))


def test_two_at_once_on_one_study(command, whole, capsys):
    """The second is refused and has written nothing."""
    before = (whole / "manifest.json").read_bytes()
    capsys.readouterr()
    with files.locked(whole):
        assert command("--out", whole, "--resume") == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {whole}: process {os.getpid()} ")
    assert_one_line(message)
    assert (whole / "manifest.json").read_bytes() == before


def test_a_damaged_file_of_times_is_refused_before_it_is_copied(command, whole, tmp_path, capsys):
    """Or it would break every later `--from`, too."""
    timing = tmp_path / "times.json"
    timing.write_bytes(files.as_json({"rows": TIMES})[:-10])
    assert command("--from", whole, "--timing", timing) == 2
    assert_one_line(capsys.readouterr().err)
    assert not (whole / "timing.json").exists()
    assert command("--from", whole) == 0


def test_a_directory_killed_before_its_manifest_can_be_used(command, tmp_path):
    """Its lock and half-written files are all there is, and --resume would find no study."""
    (tmp_path / ".lock").touch()
    (tmp_path / "0123456789abcdef.incomplete").touch()
    assert command("--out", tmp_path, "--epochs", "1") == 0


# Tables and figures of files -------------------------------------------------------------------

TIMES = [
    {"program": "mnist_jax", "threads": 2, "placement": placement, "epoch_seconds": [s, s + 0.1]}
    for placement, s in (("before_fc1", 2.2), ("after_fc1", 1.8))
]


def test_from_makes_tables_and_figures_of_files(command, whole, tmp_path, capsys, monkeypatch):
    """Training nothing; the same twice; a file of times given once is kept."""
    monkeypatch.setattr(compare, "begin", None)
    timing = tmp_path / "times.json"
    timing.write_bytes(files.as_json({"rows": TIMES}))

    def made() -> dict[str, bytes]:
        return {
            str(file.relative_to(whole)): file.read_bytes()
            for folder in ("tables", "figures")
            for file in (whole / folder).iterdir()
        } | {"summary": (whole / "summary.json").read_bytes()}

    assert command("--from", whole, "--timing", timing) == 0
    first = made()
    assert {"tables/claims.md", "figures/curves.png", "figures/epoch_times.svg"} <= set(first)
    assert "mnist_jax (2 threads)" in first["tables/evidence.md"].decode()
    (whole / "tables" / "rates.md").write_text("of a study that tried learning rates")
    assert command("--from", whole) == 0
    assert made() == first
    assert all(content.strip() for content in first.values())
    assert len(contents.read_study(whole).texts) == len(list((whole / "tables").iterdir()))
    assert f"written: {whole}" in capsys.readouterr().out
    json.loads(first["summary"])
    (whole / "timing.json").unlink()


def test_a_committed_study_gives_the_same(command, whole, tmp_path, capsys):
    """The same tables, summary and figures, written elsewhere: nothing is written beside it."""
    committed, again = tmp_path / "committed", tmp_path / "again"
    assert command("--from", whole, "--export", committed) == 0
    assert f"written: {committed}" in capsys.readouterr().out
    assert {path.name for path in committed.iterdir()} == {
        "answers.npz.xz",
        "manifest.json",
        "results.csv.gz",
    }
    committed.chmod(0o500)
    assert command("--from", committed, "--out", again) == 0
    assert command("--from", whole, "--out", tmp_path / "first") == 0
    found, expected = (
        {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for out in (again, tmp_path / "first")
    )
    assert {"summary.json", "tables/claims.md", "tables/per_class.md", "figures/curves.svg"} <= set(
        found
    )
    assert found == expected
    committed.chmod(0o700)
    capsys.readouterr()
    assert command("--out", committed, "--resume") == 2  # or its digests would be lost
    assert (
        "--out must be a study as it grows, not one that --export wrote" in capsys.readouterr().err
    )
    (committed / "timing.json").write_text("of another study")
    assert command("--from", whole, "--export", committed) == 0
    assert not (committed / "timing.json").exists()


def test_what_tables_leave_out_is_on_the_screen(command, whole, tmp_path, capsys):
    """A torn line, and the run that it belongs to."""
    out = tmp_path / "torn"
    out.mkdir()
    (out / "results.jsonl").write_bytes((whole / "results.jsonl").read_bytes()[:-30])
    assert command("--from", out) == 0
    printed = capsys.readouterr().out
    assert f"{out / 'results.jsonl'} ends within a line, which is left out" in printed
    assert "report/none, seed 2: left out of the tables, not all 3 epochs are there" in printed


# Help, hosts -----------------------------------------------------------------------------------


def test_help_lists_what_is_allowed_in_80_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        compare.main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    words = re.sub(r"[\s│]+", " ", text)
    assert f"{{{','.join(PLACEMENTS)}}}" in words
    assert all(name in words for name in VARIANTS)
    assert "python -m experiments.compare" in words


def two_hosts() -> list[str]:
    """The options of a host but for its number, with an address at which nobody listens yet."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    return ["--coordinator", address, "--hosts", "2", "--host"]


def test_two_hosts_write_the_study_of_one(whole, synthetic, tmp_path):
    """Three seeds on two processes over loopback: the same rows, and host 0 alone writes."""
    out = tmp_path / "hosts"
    command = driven(tmp_path, synthetic, 0, "--out", str(out), *two_hosts())
    with (
        subprocess.Popen([*command, "1"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as second,
        subprocess.Popen([*command, "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as first,
    ):
        printed = first.communicate(timeout=300)[0]
        silent = second.communicate(timeout=60)[0]
    assert (first.returncode, second.returncode) == (0, 0)
    assert "epoch 3/3" in printed
    assert "epoch" not in silent
    for row, expected in zip(rows_of(out), rows_of(whole), strict=True):
        found = row.pop("train_loss"), row.pop("test_loss")
        expected = dict(expected)
        np.testing.assert_allclose(
            found, (expected.pop("train_loss"), expected.pop("test_loss")), rtol=3e-5
        )
        assert row == expected


def test_a_signal_ends_the_host_that_writes(synthetic, tmp_path):
    """As it ends one that is alone, although JAX handles SIGTERM itself among several hosts."""
    out = tmp_path / "hosts"
    command = driven(tmp_path, synthetic, 0, "--out", str(out), *two_hosts())
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen([*command, "1"], cwd=ROOT, **pipes) as second,
        subprocess.Popen([*command, "0"], cwd=ROOT, **pipes) as first,
    ):
        assert any("epoch 1/3" in line for line in first.stdout)
        first.terminate()
        said = first.communicate(timeout=300)[1]
        second.kill()
    assert first.returncode == 128 + signal.SIGTERM
    assert "interrupted; to continue: python -m experiments.compare " in said


@pytest.mark.parametrize("rank", ["SLURM_PROCID", "OMPI_COMM_WORLD_RANK"])
def test_a_later_host_may_find_the_directory_made(tmp_path, monkeypatch, rank):
    (tmp_path / "manifest.json").touch()
    with pytest.raises(UsageError, match="--out must be new"):
        compare.check(compare.Config(out=tmp_path))
    monkeypatch.setenv(rank, "1")
    compare.check(compare.Config(out=tmp_path))
