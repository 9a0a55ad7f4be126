"""What all commands share: options, errors in one line, exit statuses."""

import contextlib
import difflib
import gc
import io
import os
import re
import shutil
import signal
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import tyro

from experiments.groundwork import cores
from experiments.groundwork.files import FileError
from experiments.groundwork.stopping import Stopped, stoppable
from mnist_jax.sources import DataError

OK, FAILED, USAGE = 0, 1, 2  # exit statuses; after a signal it is 128 plus the signal's number
MAX_SEED = 2**32 - 1  # JAX's keys keep 32 bits of a seed: 2**32 would be seed 0 again


def may_be_absent(*values: str) -> Any:
    """Marks an option that may be left out, whose own help says what is used then.

    Args:
      values: what its value is called in the help, or all values that it can have.
    """
    metavar = values[0] if len(values) == 1 else "{" + ",".join(values) + "}"
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=lambda _: "")


OptionalPath = Annotated[Path | None, may_be_absent("PATH")]
OptionalInt = Annotated[int | None, may_be_absent("INT")]

C = TypeVar("C")


class UsageError(Exception):
    """An option has a value that it cannot have, or a file is not what a command needs."""


class FailedError(Exception):
    """A command did what it was asked and the result is a failure."""


@dataclass(frozen=True)
class DataOptions:
    """Where the images come from."""

    data_dir: OptionalPath = None
    """Directory of TensorFlow Datasets; by default TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    mirror: OptionalPath = None
    """Directory with the four original files, to prepare the data from; by default MNIST_MIRROR."""


@dataclass(frozen=True)
class CacheOptions:
    """Where compiled programs are kept."""

    compile_cache: OptionalPath = None
    """Directory for compiled programs; by default mnist_jax in the user's cache directory."""
    no_compile_cache: bool = False
    """Keep no compiled programs."""


def refuse(option: str, allowed: str, value: object) -> NoReturn:
    """Raises a UsageError that says which `value` an option has and what is `allowed`."""
    raise UsageError(f"--{option.replace('_', '-')} must be {allowed}: {value}")


def refuse_unless_positive(**values: int | None) -> None:
    """Refuses the first of these options, given by name, that is below 1; None is not checked."""
    for name, value in values.items():
        if value is not None and value < 1:
            refuse(name, "at least 1", value)


def refuse_training(
    *,
    train_size: int,
    placement: str,
    batch_size: int,
    seed: int,
    learning_rate: float,
    peak_learning_rate: float = 0.0,
    momentum: float = 0.0,
) -> None:
    """Refuses options with which no network can be trained, naming the first wrong one.

    Args:
      train_size: number of images to train on.
      placement: where the residual block stands.
      batch_size: number of images in a training step.
      seed: seed of the initial weights and of the order of the images.
      learning_rate: rate of a constant schedule.
      peak_learning_rate: highest rate of a cycle.
      momentum: momentum of stochastic gradient descent.

    Raises:
      UsageError: naming the option and what is allowed.
    """
    refuse_unless_positive(batch_size=batch_size)
    if batch_size > train_size:
        refuse("batch_size", f"at most {train_size}, the training split", batch_size)
    if placement == "after_fc1" and 1 in (batch_size, train_size % batch_size):
        # Batch normalisation would see only one value for each channel.
        refuse("batch_size", "such that no batch has one image", batch_size)
    rates = {"learning_rate": learning_rate, "peak_learning_rate": peak_learning_rate}
    for name, rate in rates.items():
        if not 0 <= rate < float("inf"):
            refuse(name, "a finite number, at least 0", rate)
    if not 0 <= momentum < 1:
        refuse("momentum", "at least 0 and below 1", momentum)
    if not 0 <= seed <= MAX_SEED:
        refuse("seed", f"from 0 to {MAX_SEED}", seed)


def refuse_threads(threads: int | None) -> None:
    """Refuses a number for `--threads` with which this system cannot start JAX or PyTorch."""
    most = cores.count()
    if threads is None:
        return
    if not 1 <= threads <= most:
        refuse("threads", f"from 1 to {most}, as many as there are cores", threads)
    if threads < most and not cores.can_choose():
        refuse("threads", f"{most}, because {sys.platform} cannot keep a core idle", threads)


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


def at_home(value: Any) -> Any:
    """A configuration with `~` and `~user` replaced by home directories in all of its paths.

    Shells leave `~` as it is in `--json=~/x`, and wherever they do not know the user.

    Raises:
      UsageError: a home directory cannot be found.
    """
    if isinstance(value, tuple):
        return tuple(map(at_home, value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{one.name: at_home(getattr(value, one.name)) for one in fields(value)}
        )
    try:
        return value.expanduser() if isinstance(value, Path) else value
    except RuntimeError:
        raise UsageError(f"{value}: there is no such home directory") from None


def parse(
    config: type[C],
    arguments: Sequence[str] | None,
    *,
    name: str,
    description: str | None,
    default: C | None = None,
) -> C:
    """Reads a command line into its configuration.

    Args:
      config: a dataclass with an option in each field and its help in the field's docstring.
      arguments: the words of the command line; None means the process's own.
      name: the name of the command's module, such as `experiments.run`.
      description: the module's docstring; the help begins with its first paragraph.
      default: a configuration whose values are used for options that are not given, instead of the
        defaults of the fields.

    Returns:
      The configuration; `~` stands for a home directory in all of its paths.

    Raises:
      UsageError: an option is wrong. The message is one line, while `tyro` would draw a box.
      SystemExit: after `--help`.
    """
    # Without a standard output there is no encoding either.
    help_text = io.TextIOWrapper(
        io.BytesIO(), encoding=getattr(sys.stdout, "encoding", None) or "utf-8"
    )
    errors = io.StringIO()
    try:
        with contextlib.redirect_stdout(help_text), contextlib.redirect_stderr(errors):
            cli = partial(
                tyro.cli,
                args=arguments,
                prog=f"python -m {name}",
                description=(description or "").partition("\n\n")[0],
                config=(tyro.conf.FlagCreatePairsOff,),
            )
            return at_home(cli(config) if default is None else cli(config, default=default))
    except SystemExit as end:
        if end.code in (None, OK):
            help_text.seek(0)
            print(_wrapped(help_text.read()), end="")
            raise
        # The first part of the box without its title and frame, with its lines joined. The frame
        # is of other characters where the output's encoding is not UTF-8.
        text = re.sub("[│╭╮╰╯]", "", errors.getvalue()).partition("\n")[2]
        parts = [part for part in re.split("(?m)^ *[─-]{3,} *$", text) if part.strip()]
        message = re.sub(r"\s+", " ", parts[0]).strip()
        message = re.sub(r" \.(?= |$)", ".", message).removesuffix(".")
        message = re.sub("'None', |, 'None'", "", message)  # what an absent option has
        message = _with_hint(message, config)
        raise UsageError(f"{message}; python -m {name} --help lists the options") from None


def _with_hint(message: str, config: type) -> str:
    """The message without unknown words that are no options, and with the name that was meant.

    tyro also lists the words that follow an option that it does not know.
    """
    prefix = "Unrecognized options: "
    words = message.removeprefix(prefix).split(", ")
    unknown = [word for word in words if word.startswith("--")]
    if not message.startswith(prefix) or not unknown:
        return message
    near = difflib.get_close_matches(unknown[0].partition("=")[0], list(_options(config)), 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return prefix + ", ".join(unknown) + hint


def _options(config: type) -> Iterator[str]:
    """The options of a configuration as they are written on a command line."""
    for name, hint in get_type_hints(config, include_extras=True).items():
        kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if isinstance(kind, type) and is_dataclass(kind):
            yield from _options(kind)
        elif tyro.conf.Positional not in marks:
            given = [mark.name for mark in marks if getattr(mark, "name", None)]
            yield "--" + (given or [name])[-1].replace("_", "-")


def _wrapped(help_text: str) -> str:
    """The same text with usage and description wrapped, which tyro leaves too long."""
    width = shutil.get_terminal_size().columns
    usage, *others = help_text.splitlines()
    lines = textwrap.wrap(usage, width, subsequent_indent=" " * 7)
    for line in others:
        lines += textwrap.wrap(line, width) if len(line) > width else [line]
    return "\n".join(lines) + "\n"


def run_command(
    body: Callable[[], int], *, continue_with: Callable[[], str | None] = lambda: None
) -> int:
    """Runs a command and turns an error or a signal that ends it into one line and an exit status.

    Args:
      body: the command; returns its exit status.
      continue_with: returns the command line that would continue what was interrupted, or None.

    Returns:
      The status of `body`; or 2 for an error that the user can mend, 1 for a failed result, 128
      plus the signal's number if a signal or a closed standard output (SIGPIPE) ended it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path that the locale cannot print
    try:
        with stoppable():
            status = body()
            print(end="", flush=True)  # unlike the stream's own flush, also where there is none
            return status
    except (UsageError, FileError) as error:
        return _say(f"error: {error}", USAGE)
    except DataError as error:
        return _say(f"error: {with_remedy(error)}", USAGE)
    except FailedError as error:
        return _say(f"error: {error}", FAILED)
    except KeyboardInterrupt:
        return _say(_interrupted("interrupted", continue_with()), 128 + signal.SIGINT)
    except Stopped as stop:
        return _say(_interrupted("interrupted", continue_with()), 128 + stop.number)
    except BrokenPipeError:
        # What is still buffered is discarded, or Python would complain about it at the end.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        line = _interrupted("the standard output was closed", continue_with())
        return _say(line, 128 + signal.SIGPIPE)
    except (RuntimeError, AssertionError):
        if _has_device():
            raise
        platforms = os.environ.get("JAX_PLATFORMS", "")
        remedy = "unset it, or set it to cpu"
        return _say(f"error: JAX finds no device; JAX_PLATFORMS is {platforms!r}: {remedy}", USAGE)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"error: {where}{error.strerror or error}", USAGE)


def with_remedy(error: DataError) -> str:
    """What happened to the data, and the options that mend it."""
    mend = " or ".join("--" + name.replace("_", "-") for name in error.about)
    return f"{error}" + (f" ({mend})" if mend else "")


def leave(status: int) -> NoReturn:
    """Ends the process of a command at once.

    When a signal has ended the command, the threads of XLA may still compute the epoch that was
    under way. If the interpreter were taken apart meanwhile, they could crash: one study that was
    asked to end did so with a segmentation fault. When the command has ended by itself, Python
    would look for garbage among all objects, which takes 0.2 s with those of JAX.

    Args:
      status: the exit status of `run_command`.
    """
    if status > 128:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
    gc.freeze()
    sys.exit(status)


def _has_device() -> bool:
    """Whether JAX starts. If it lacks what JAX_PLATFORMS asks for, it raises one of two errors."""
    import jax

    try:
        return bool(jax.devices())
    except (RuntimeError, AssertionError):
        return False


def _interrupted(what: str, command: str | None) -> str:
    return f"{what}; to continue: {command}" if command else what


def _say(line: str, status: int) -> int:
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
    return status
