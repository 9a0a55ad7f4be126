"""What commands share: one line and an exit status for everything that can go wrong."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from experiments.groundwork import command
from experiments.groundwork.command import DataOptions, FailedError, UsageError
from mnist_jax.sources import DataError
from mnist_jax.store import StoreError

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Options:
    """A command."""

    where: Literal["here", "there"] = "here"
    """Where it happens."""
    file: Path | None = None
    """A file; else none."""
    loud: bool = False
    """Say so."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()


def run(*words, function=lambda options: None):
    return command.main(Options, function, words, name="experiments.it", description="Does it.")


def raising(error: BaseException):
    def function(options):
        raise error

    return function


def test_a_command_gets_its_options_and_gives_its_status():
    given = []
    assert run("--loud", "--data-dir", "x", function=given.append) == 0
    assert given == [Options(loud=True, data=DataOptions(data_dir=Path("x")))]
    assert run(function=lambda options: command.FAILED) == 1


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [(["--where", "away"], 2, "--where"), (["--help"], 0, "--data-dir")],
)
def test_help_and_errors_are_tyros(words, status, named, capfd):
    with pytest.raises(SystemExit) as end:
        run(*words)
    assert (end.value.code or 0) == status
    assert named in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UsageError("--a must be b: c"), 2, "error: --a must be b: c"),
        (StoreError("x: damaged"), 2, "error: x: damaged"),
        (DataError("no source", "data_dir", "mirror"), 2, "no source (--data-dir or --mirror)"),
        (FailedError("the loss is not finite"), 1, "error: the loss is not finite"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (command.Terminated(), 143, "interrupted"),
        (OSError(28, "No space left on device", "f"), 2, "error: f: No space left on device"),
    ],
)
def test_what_ends_a_command_is_one_line_and_a_status(error, status, line, capsys):
    assert run(function=raising(error)) == status
    printed = capsys.readouterr().err
    assert line in printed
    assert printed.count("\n") == 1


def test_what_is_interrupted_says_how_to_continue(tmp_path, capsys):
    def function(options):
        with command.continued_by("python", "-m", "x", Path("my runs"), once=begun):
            raise KeyboardInterrupt

    begun = tmp_path / "begun"
    assert run(function=function) == 130
    assert capsys.readouterr().err == "interrupted\n"
    begun.touch()
    assert run(function=function) == 130
    assert capsys.readouterr().err == "interrupted; to continue: python -m x 'my runs'\n"


def test_another_error_is_not_hidden():
    with pytest.raises(ValueError, match="a bug"):
        run(function=raising(ValueError("a bug")))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_a_process_with_one_line(name):
    number = getattr(signal, name)
    code = (
        "import os, signal, test_command as t; from experiments.groundwork import command\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"command.leave(t.run(function=lambda options: os.kill(os.getpid(), {int(number)})))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (128 + number, "interrupted\n")


def test_home_directories_are_found_in_every_path(monkeypatch, tmp_path):
    """Shells leave `~` as it is in `--file=~/x`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command.at_home((Path("~/x"), Options(file=Path("~/y")), 3)) == (
        tmp_path / "x",
        Options(file=tmp_path / "y"),
        3,
    )


def test_a_file_that_cannot_be_written_is_refused_beforehand(tmp_path):
    command.refuse_unless_writable(json=tmp_path / "new.json", show=None)
    for path in (tmp_path, tmp_path / "absent" / "x.json"):
        with pytest.raises(UsageError, match="--json must be"):
            command.refuse_unless_writable(json=path)
