"""Writes files whole or not at all, and reads files without hanging or filling the memory."""

import errno
import io
import os
import secrets
import stat
from pathlib import Path

INCOMPLETE = ".incomplete"  # ends the name of a file while it is being written


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file so that a crash at any moment leaves the old file or the new one, whole.

    The content is written to a file of another name in the same directory and forced onto the disk,
    and that file is renamed. Then the directory is forced onto the disk too, because the new name
    is an entry of it. A process that is killed may leave a file whose name ends in `INCOMPLETE`,
    which can be removed.

    Args:
      path: a new file, or a regular file, which is replaced by one with the default mode. Of a
        symbolic link the link is replaced, not the file that it names.
      content: the bytes of the whole file.

    Raises:
      OSError: `path`, which the error names, cannot be written, for example on a full disk. An
        earlier file is unchanged, unless only the last step failed, and no other file is left.
    """
    path = Path(path)
    aside = path.parent / f"{secrets.token_hex(8)}{INCOMPLETE}"
    try:
        if path.exists() and not path.is_file():
            # A rename would replace a device such as /dev/null.
            raise OSError(errno.EINVAL, "exists and is no regular file")
        try:
            with aside.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:  # an interrupt too
            aside.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync_directory(directory: str | os.PathLike[str]) -> None:
    """Forces a directory's entries onto the disk: names that were made, replaced or removed.

    Raises:
      OSError: the directory cannot be opened, or the disk failed.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot do it
            raise
    finally:
        os.close(descriptor)


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a regular file for reading.

    A pipe that nobody writes to would block an ordinary `open`, and a device such as /dev/zero has
    no end.

    Raises:
      OSError: `path`, which the error names, cannot be opened or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(
        errno.EINVAL, "is a directory" if stat.S_ISDIR(mode) else "is no regular file", str(path)
    )


def read_regular(path: str | os.PathLike[str], *, limit: int = 2**30) -> bytes:
    """Reads a regular file.

    Args:
      path: the file.
      limit: the largest size in bytes; a larger file is refused before it is read.

    Raises:
      OSError: `path`, which the error names, cannot be read, is no regular file, or is too large.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"{size:,} bytes, and at most {limit:,} are read", str(path))
        return file.read(size)
