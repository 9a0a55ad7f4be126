"""What all commands share: how options are read, and how a command ends.

A command is a function of its options, which a test can call. `main` reads the options from the
command line, calls the function, and turns an error that a person can mend into one line.
"""

import contextlib
import gc
import io
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import tyro

from mnist_jax.sources import DataError
from mnist_jax.store import StoreError

OK, FAILED, USAGE = 0, 1, 2  # exit statuses; after a signal it is 128 plus the signal's number


class UsageError(Exception):
    """An option has a value that it cannot have, or a file is not what a command needs."""


class FailedError(Exception):
    """A command did what it was asked and the result is a failure."""


class Terminated(KeyboardInterrupt):
    """SIGTERM asked the process to end."""


@dataclass(frozen=True)
class DataOptions:
    """Where the images come from."""

    data_dir: Path | None = None
    """Directory of TensorFlow Datasets; by default TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    mirror: Path | None = None
    """Directory with the four original files, to prepare the data from; by default MNIST_MIRROR."""


def refuse(option: str, allowed: str, value: object) -> NoReturn:
    """Raises a UsageError that says which `value` an option has and what is `allowed`."""
    raise UsageError(f"--{option.replace('_', '-')} must be {allowed}: {value}")


def refuse_unless_writable(**paths: Path | None) -> None:
    """Refuses the first of these options, given by name, whose file could not be written.

    A command calls it before it does any work; None is not checked.
    """
    for name, path in paths.items():
        if path is None:
            continue
        try:
            if path.exists() and not path.is_file():
                refuse(name, "a file, not a directory or device", path)
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            refuse(name, f"a file that can be written ({error.strerror})", path)


def parse(
    options: Any, arguments: Sequence[str] | None, *, name: str, description: str | None
) -> Any:
    """Reads a command line, as `tyro` does; a wrong one ends the process with its message.

    Args:
      options: a dataclass with an option in each field and its help in the field's docstring, or a
        union of such classes for a command with subcommands.
      arguments: the words of the command line; None means the process's own.
      name: the name of the command's module, such as `experiments.run`.
      description: the module's docstring; the help begins with its first paragraph.

    Returns:
      The options; `~` stands for a home directory in all of their paths.
    """
    return at_home(
        tyro.cli(
            options,
            args=arguments,
            prog=f"python -m {name}",
            description=(description or "").partition("\n\n")[0],
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    )


def at_home(value: Any) -> Any:
    """Options with `~` replaced by home directories; shells leave it as it is in `--json=~/x`."""
    if isinstance(value, tuple):
        return tuple(map(at_home, value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: at_home(getattr(value, f.name)) for f in fields(value)})
    try:
        return value.expanduser() if isinstance(value, Path) else value
    except RuntimeError:
        raise UsageError(f"{value}: there is no such home directory") from None


def main(
    options: Any,
    function: Callable[[Any], int | None],
    arguments: Sequence[str] | None,
    *,
    name: str,
    description: str | None,
) -> int:
    """Runs a command.

    Args:
      options: as in `parse`.
      function: the command; it takes the options, and returns an exit status or None for success.
      arguments: as in `parse`.
      name: as in `parse`.
      description: as in `parse`.

    Returns:
      The exit status: 2 for an error that the user can mend, 1 for a failed result, 128 plus the
      signal's number if a signal or a closed standard output (SIGPIPE) ended the command.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path that the locale cannot print
    try:
        with _terminable():
            status = function(parse(options, arguments, name=name, description=description))
            print(end="", flush=True)
            return OK if status is None else status
    except (UsageError, StoreError) as error:
        return _say(f"error: {error}", USAGE)
    except DataError as error:
        mend = " or ".join("--" + option.replace("_", "-") for option in error.about)
        return _say(f"error: {error}" + (f" ({mend})" if mend else ""), USAGE)
    except FailedError as error:
        return _say(f"error: {error}", FAILED)
    except KeyboardInterrupt as stop:
        number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
        return _say("; ".join(["interrupted", *getattr(stop, "__notes__", [])]), 128 + number)
    except BrokenPipeError as stop:
        # What is still buffered is discarded, or Python would complain about it at the end.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        closed = ["the standard output was closed", *getattr(stop, "__notes__", [])]
        return _say("; ".join(closed), 128 + signal.SIGPIPE)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"error: {where}{error.strerror or error}", USAGE)


@contextlib.contextmanager
def continued_by(*words: object, once: Path) -> Iterator[None]:
    """Whatever interrupts the context says which command line continues it.

    Args:
      words: the command line.
      once: a file without which there is nothing to continue.
    """
    try:
        yield
    except (KeyboardInterrupt, BrokenPipeError) as stop:
        if once.exists():
            stop.add_note(f"to continue: {shlex.join(map(str, words))}")
        raise


def leave(status: int) -> NoReturn:
    """Ends the process of a command at once.

    When a signal has ended the command, the threads of XLA may still compute the epoch that was
    under way, and could crash if the interpreter were taken apart meanwhile. When the command has
    ended by itself, Python would look for garbage among all objects of JAX, which takes 0.2 s.

    Args:
      status: the exit status of `main`.
    """
    if status > 128:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
    gc.freeze()
    sys.exit(status)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Makes SIGTERM raise `Terminated`, as SIGINT raises KeyboardInterrupt."""

    def terminate(number: int, _: object) -> NoReturn:
        raise Terminated(number)

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not the main thread, where no handler can be set
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(line: str, status: int) -> int:
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
    return status
