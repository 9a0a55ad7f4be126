"""What commands share: one line and an exit status for everything that can go wrong."""

import io
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from experiments.groundwork import options, stopping
from experiments.groundwork.files import FileError
from mnist_jax.sources import DataError

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Config:
    """A command."""

    where: Literal["here", "there"] = "here"
    """Where it happens."""
    times: int = 1
    """How often it happens, at least 1."""
    file: options.OptionalPath = None
    """A file; else none."""
    colour: Annotated[Literal["red", "blue"] | None, options.may_be_absent("red", "blue")] = None
    """A colour; else none."""
    loud: bool = False
    """Say so."""
    from_dir: Annotated[options.OptionalPath, tyro.conf.arg(name="from")] = None
    """Where it comes from."""
    data: Annotated[options.DataOptions, tyro.conf.arg(name="")] = field(
        default_factory=options.DataOptions
    )


def parse(*words: str, default: Config | None = None) -> Config:
    return options.parse(
        Config, words, name="experiments.it", description="Does it.\n\nMore.", default=default
    )


def test_options_are_read_and_defaults_replaced():
    assert parse() == Config()
    assert parse("--times", "3", "--loud") == Config(times=3, loud=True)
    begun = Config(where="there", times=7)
    assert parse("--times", "3", default=begun) == Config(where="there", times=3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--where", "away"], "invalid choice 'away' for argument '--where'. Expected one of"),
        (["--times", "often"], "Error parsing --times: invalid literal for int()"),
        (["--tims", "3"], "Unrecognized options: --tims (did you mean --times?)"),
        (["--data-dri=x"], "Unrecognized options: --data-dri=x (did you mean --data-dir?)"),
        (["--frm", "x"], "Unrecognized options: --frm (did you mean --from?)"),
        (["--xyz=3"], "Unrecognized options: --xyz=3"),
        (["--times"], "Missing value for argument '--times'"),
    ],
)
@pytest.mark.parametrize("columns", ["40", "80", "200"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_cannot_be_parsed_is_one_line(words, message, columns, encoding, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with pytest.raises(options.UsageError) as error:
        parse(*words)
    text = str(error.value)
    assert message in text
    assert text.endswith("; python -m experiments.it --help lists the options")
    assert not set("\n│╭╮╰╯─") & set(text) and "---" not in text


def test_what_an_absent_option_has_is_no_choice():
    with pytest.raises(options.UsageError, match=r"Expected one of \('\w+', '\w+'\)"):
        parse("--colour", "green")


def test_help_fits_80_columns_and_names_the_command(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        parse("--help")
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "python -m experiments.it" in shown
    assert "{here,there}" in shown
    assert "--colour {red,blue}" in shown
    assert "--no-loud" not in shown
    assert "None" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def raises(error: BaseException):
    def body() -> int:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (options.UsageError("--a must be b: c"), 2, "error: --a must be b: c"),
        (FileError("x: damaged"), 2, "error: x: damaged"),
        (DataError("no source", "data_dir", "mirror"), 2, "no source (--data-dir or --mirror)"),
        (options.FailedError("the loss is not finite"), 1, "error: the loss is not finite"),
        (KeyboardInterrupt(), 130, "interrupted; to continue: again"),
        (stopping.Stopped(signal.SIGTERM), 143, "interrupted; to continue: again"),
        (stopping.Stopped(signal.SIGHUP), 129, "interrupted; to continue: again"),
        (OSError(28, "No space left on device", "f"), 2, "error: f: No space left on device"),
    ],
)
def test_what_ends_a_command_is_one_line_and_a_status(error, status, line, capsys):
    assert options.run_command(raises(error), continue_with=lambda: "again") == status
    printed = capsys.readouterr().err
    assert line in printed
    assert printed.count("\n") == 1


def test_there_is_nothing_to_continue_without_a_command(capsys):
    assert options.run_command(raises(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.usefixtures("no_signal_is_ignored")
@pytest.mark.parametrize("name", stopping.SIGNALS)
def test_a_signal_ends_a_command_at_any_moment(name):
    """While it imports, and while it works; the handlers from before are back afterwards."""
    number = getattr(signal, name)
    body = f"import os; os.kill(os.getpid(), {int(number)})"
    importing = f"from experiments import stopping; stopping.end_at_once(); {body}"
    working = (
        "from experiments.groundwork import options\n"
        f"def work():\n    {body}\n    return 0\n"
        "options.leave(options.run_command(work))"
    )
    for code in (importing, working):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (128 + number, "interrupted\n")


@pytest.mark.parametrize(("status", "exits"), [(0, True), (1, True), (2, True), (143, False)])
def test_only_after_a_signal_the_interpreter_is_not_taken_apart(status, exits):
    """XLA's threads may still compute then; what was printed is there all the same."""
    code = (
        "import atexit; from experiments import options\n"
        "atexit.register(print, 'taken apart')\n"
        "print('printed')\n"
        f"options.leave({status})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status
    assert done.stdout == "printed\n" + "taken apart\n" * exits


@pytest.mark.parametrize("platform", ["cuda", "abacus"])
def test_a_platform_that_this_machine_has_not_is_one_line(platform):
    """JAX fails on the two in different ways."""
    code = (
        "import sys, jax; from experiments import options\n"
        "sys.exit(options.run_command(lambda: len(jax.devices())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": platform, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    reason = f"JAX finds no device; JAX_PLATFORMS is {platform!r}"
    assert done.stderr == f"error: {reason}: unset it, or set it to cpu\n"


def test_another_error_is_not_taken_for_a_missing_device():
    for error in (RuntimeError("a bug"), AssertionError("a bug")):
        with pytest.raises(type(error), match="a bug"):
            options.run_command(raises(error))


def test_an_ignored_signal_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping.stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_home_directories_are_found_in_every_path(monkeypatch, tmp_path):
    """Shells leave `~` as it is in `--file=~/x`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse("--file=~/x").file == tmp_path / "x"
    assert options.at_home((Path("~/x"), Path("y"), 3)) == (tmp_path / "x", Path("y"), 3)
    with pytest.raises(options.UsageError, match=r"~nobody-has-this-name/x: there is no such home"):
        parse("--file", "~nobody-has-this-name/x")


def test_without_a_standard_output_a_command_works():
    """As after `>&-`."""
    code = (
        "import sys; sys.stdout = None\n"
        "from dataclasses import dataclass\n"
        "from experiments.groundwork import options\n"
        "@dataclass(frozen=True)\nclass Config:\n    times: int = 1\n"
        "def body():\n"
        "    options.parse(Config, ['--times', '2'], name='x', description='')\n"
        "    return 0\n"
        "options.leave(options.run_command(body))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
