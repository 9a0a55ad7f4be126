"""What every command shares: its options, its errors in one line, its exit statuses, its signals.

This room imports nothing that takes long, so that a command can prepare for signals first.
"""

import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

OK, FAILED, USAGE = 0, 1, 2  # exit statuses; a signal's is 128 and its number
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
MAX_SEED = 2**32 - 1  # JAX's keys keep 32 bits of a seed: 2**32 would be seed 0 again

C = TypeVar("C")


class UsageError(Exception):
    """An option has a value that it cannot have, or a file is not what a command needs."""


class FailedError(Exception):
    """A command did what it was asked and the result is a failure."""


class Stopped(BaseException):
    """A signal asked the process to end."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@dataclass(frozen=True)
class DataOptions:
    """Where the images come from."""

    data_dir: Path | None = None
    """Directory in which TensorFlow Datasets keeps its data; without this option the value of
    TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    mirror: Path | None = None
    """Directory with the four original MNIST files, from which the data are prepared when they are
    absent; without this option the value of MNIST_MIRROR."""


def refuse(option: str, allowed: str, value: object) -> NoReturn:
    """Raises the UsageError of an option, `allowed` being what it must be."""
    raise UsageError(f"--{option.replace('_', '-')} must be {allowed}: {value}")


def expanded(option: str, path: Path | None) -> Path | None:
    """A path with `~` and `~user` replaced by the home directory.

    Raises:
      UsageError: there is no such home.
    """
    try:
        return path and path.expanduser()
    except RuntimeError:
        refuse(option, "a path whose home directory exists", path)


def refuse_unless_positive(config: Any, *names: str) -> None:
    """Refuses the first of these options of a configuration that is below 1."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            refuse(name, "at least 1", value)


def parse(
    config: type[C],
    arguments: Sequence[str] | None,
    *,
    name: str,
    description: str,
    default: C | None = None,
) -> C:
    """Reads a command line into its configuration.

    Args:
      config: a dataclass with an option in each field and its help in the field's docstring.
      arguments: the words of the command line; None means the process's own.
      name: of the command's module, as in `experiments.run`.
      description: what the help begins with.
      default: a configuration whose values stand where an option is not given, in place of the
        defaults of the fields.

    Raises:
      UsageError: in one line, where `tyro` would draw a box.
      SystemExit: after `--help`.
    """
    import tyro

    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                config,
                args=arguments,
                prog=f"python -m {name}",
                description=description,
                **({} if default is None else {"default": default}),
            )
    except SystemExit as end:
        if end.code in (None, OK):
            raise
        # The first part of the box, less its title and frame, its lines joined.
        text = re.sub("[│╭╮╰╯]", "", errors.getvalue())
        body = re.split("\n *─{3,}", text.partition("\n")[2])[0]
        message = re.sub(r"\s+", " ", body).strip().replace(" .", ".")
        raise UsageError(f"{message} (python -m {name} --help lists the options)") from None


def run_command(
    body: Callable[[], int], *, continue_with: Callable[[], str | None] = lambda: None
) -> int:
    """Runs a command and turns what ends it into one line and an exit status.

    Args:
      body: the command; returns its exit status.
      continue_with: the command line that would continue what was interrupted, or None.

    Returns:
      The status of `body`; 2 for what the user can mend; 1 for a failure; 128 and the signal's
      number where a signal ended it.
    """
    from experiments.files import FileError
    from mnist_jax.sources import DataError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path that the locale cannot print
    try:
        with _stoppable():
            status = body()
            sys.stdout.flush()
            return status
    except (UsageError, FileError) as error:
        return _say(f"error: {error}", USAGE)
    except DataError as error:
        options = " or ".join("--" + name.replace("_", "-") for name in error.about)
        return _say(f"error: {error}" + (f" ({options})" if options else ""), USAGE)
    except FailedError as error:
        return _say(f"error: {error}", FAILED)
    except (Stopped, KeyboardInterrupt) as stop:
        number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
        command = continue_with()
        further = f"; to continue: {command}" if command else ""
        return _say(f"interrupted{further}", 128 + number)
    except BrokenPipeError:
        _forget_output()
        command = continue_with()
        further = f"; to continue: {command}" if command else ""
        return _say(f"the standard output was closed{further}", 128 + signal.SIGPIPE)
    except OSError as error:  # of a file that is named nowhere else
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"error: {where}{error.strerror or error}", USAGE)


def end_at_once_on_signals() -> None:
    """Makes the signals end the process in one line, for the time of a command's imports."""

    def end(number: int, _: object) -> NoReturn:
        os.write(2, b"interrupted\n")
        os._exit(128 + number)

    _handle(end)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """The signals raise `Stopped` in here."""

    def stop(number: int, _: object) -> NoReturn:
        raise Stopped(number)

    before = _handle(stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(handler: Callable[[int, object], NoReturn]) -> dict[int, Any]:
    """Sets a handler and returns those before; an ignored signal, as under nohup, stays so."""
    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not the main thread, where no handler can be set
        for name in SIGNALS:
            number = getattr(signal, name)
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    return before


def _say(line: str, status: int) -> int:
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
    return status


def _forget_output() -> None:
    """Sends what is still buffered nowhere, or Python would complain when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
