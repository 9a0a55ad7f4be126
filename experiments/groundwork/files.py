"""The files of commands: written whole or not at all, by one command at a time, checked when read.

JSON is sealed: each document, and each line of a file of lines, ends with the CRC-32 of the rest
of it. A file is accepted only if its bytes are exactly those that its values would be written as,
so a change by a failing disk or by hand is noticed when the file is read.
"""

import json
import math
import os
import socket
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import filelock

from mnist_jax.disk import INCOMPLETE, read_regular, sync_directory, write_whole

__all__ = [
    "FileError",
    "Lines",
    "append_lines",
    "as_json",
    "as_lines",
    "is_unused",
    "locked",
    "new_directory",
    "read_json",
    "read_lines",
    "read_regular",
    "write_whole",
    "writing",
]


class FileError(Exception):
    """A file or directory that cannot be used; the message is one line and names it."""


class Lines(NamedTuple):
    """What a file of JSON lines holds."""

    values: list[dict[str, Any]]
    torn: bool  # whether it ends with an incomplete line, which is left out


def as_json(value: Mapping[str, Any]) -> bytes:
    """A JSON object as a sealed document. Numbers that are not finite become null."""
    return _sealed(value, indent=1)


def as_lines(values: Iterable[Mapping[str, Any]]) -> bytes:
    """JSON objects as sealed lines. Numbers that are not finite become null."""
    return b"".join(_sealed(value) for value in values)


def append_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Adds sealed lines to a file and returns when they are on the disk.

    Raises:
      OSError: they cannot be written; the file is as it was before.
    """
    new = not path.exists()
    content = memoryview(as_lines(values))
    with path.open("ab", buffering=0) as file:  # closing would try to write a buffer again
        size = file.tell()
        try:
            while content:
                content = content[file.write(content) :]
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(size)
            raise
    if new:
        sync_directory(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a document that `as_json` made.

    Raises:
      FileError: the file cannot be read, or is not as it was written.
    """
    content = _read(path)
    value = _unsealed(content, indent=1)
    if value is None:
        raise FileError(f"{path}: damaged or changed, its checksum is not that of its content")
    return value


def read_lines(path: Path) -> Lines:
    """Reads lines that `as_lines` made; a file that does not exist has none.

    Raises:
      FileError: the file cannot be read, or a line is not as it was written.
    """
    if not path.exists():
        return Lines([], torn=False)
    *lines, rest = _read(path).split(b"\n")
    values = []
    for number, line in enumerate(lines, 1):
        value = _unsealed(line + b"\n")
        if value is None:
            raise FileError(
                f"{path}: line {number} is damaged or changed, its checksum is not that of its "
                "content; delete that line to use the rest"
            )
        values.append(value)
    return Lines(values, torn=bool(rest))


def new_directory(parent: Path, name: str) -> Path:
    """Makes the directory `name` in `parent`, or `name-2` and so on if it exists already.

    Raises:
      OSError: it cannot be made.
    """
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        directory = parent / (name if number == 1 else f"{name}-{number}")
        try:
            directory.mkdir()
        except FileExistsError:
            number += 1
        else:
            sync_directory(parent)
            return directory


def is_unused(directory: Path) -> bool:
    """Whether a directory is absent, or holds nothing but the lock and half-written files.

    Raises:
      OSError: it is no directory, or cannot be read.
    """
    if not directory.exists():
        return True
    left = {directory / _LOCK, *directory.glob(_INCOMPLETE)}
    return left.issuperset(directory.iterdir())


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps other commands from writing a directory for as long as the context lasts.

    The lock ends with the process, however that ends. Files that a killed process left half-written
    are removed on entry.

    Raises:
      FileError: another command is writing the directory.
      OSError: the directory cannot be written.
    """
    path = directory / _LOCK
    lock = filelock.FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            message = f"{directory}: {_holder(path)} is writing it; wait until that has ended"
            raise FileError(message) from None
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        for left in directory.rglob(_INCOMPLETE):
            left.unlink()
        yield
    finally:
        if lock.is_locked:
            # The file is removed before the lock is released: a process that has it open by then
            # finds that it has no name any more, and tries again with a new one.
            path.unlink(missing_ok=True)
            lock.release()


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Turns an OSError into a FileError whose message is one line.

    Args:
      directory: the one that the files are in; it is named if the error names no file.
    """
    try:
        yield
    except OSError as error:
        file = error.filename or directory
        raise FileError(f"{file} cannot be written: {error.strerror}") from error


_LOCK = ".lock"
_INCOMPLETE = f"{'[0-9a-f]' * 16}{INCOMPLETE}"  # a file that `write_whole` was writing


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from error


def _holder(lock: Path) -> str:
    """The process that holds a lock, if it has written its name into the file already."""
    with suppress(OSError, UnicodeDecodeError):
        return lock.read_text().strip() or "another command"
    return "another command"


def _sealed(value: Mapping[str, Any], indent: int | None = None) -> bytes:
    finite = _finite(value)
    checksum = zlib.crc32(json.dumps(finite, indent=indent).encode())
    return (json.dumps(finite | {"crc32": f"{checksum:08x}"}, indent=indent) + "\n").encode()


def _unsealed(content: bytes, indent: int | None = None) -> dict[str, Any] | None:
    """The value that was sealed; None if these are not the bytes that it was sealed as."""
    try:
        value = json.loads(content)
        if not isinstance(value, dict) or value.pop("crc32", None) is None:
            return None
        return value if _sealed(value, indent) == content else None
    except (ValueError, RecursionError):
        return None


def _finite(value: Any) -> Any:
    """Replaces NaN and infinity by None, because JSON has neither."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
