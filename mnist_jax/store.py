"""Files: written whole or not at all, arrays in one format with a digest, one writer at a time.

Arrays are stored as .safetensors files. Their metadata have one entry, `mnist_jax`: a JSON object
with whatever the caller wants to keep beside the arrays, and `sha256`, a digest of all names,
shapes, dtypes, numbers and the other values. Nothing in such a file is a pickle, so it contains no
code. JSON files have no digest, because a person may edit them.
"""

import contextlib
import errno
import hashlib
import io
import json
import logging
import math
import os
import secrets
import socket
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from safetensors import SafetensorError

log = logging.getLogger("mnist_jax")

INCOMPLETE = ".incomplete"  # ends the name of a file while it is being written
LOCK = ".mnist_jax.lock"
_OURS = "mnist_jax"  # the entry of a file's metadata

PathLike = str | os.PathLike[str]


class StoreError(Exception):
    """A file or directory that cannot be used; the message is one line and names it."""


class Stored(NamedTuple):
    """What a file of arrays holds."""

    arrays: dict[str, np.ndarray]
    metadata: dict[str, Any] | None  # JSON values; None if another program wrote the file
    path: str  # where the file lies, for messages


def write_whole(path: PathLike, content: bytes) -> None:
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
      StoreError: `path` cannot be written, for example on a full disk. An earlier file is
        unchanged, unless only the last step failed, and no other file is left.
    """
    path = Path(path)
    aside = path.parent / f"{secrets.token_hex(8)}{INCOMPLETE}"
    with writing(path):
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


def sync_directory(directory: PathLike) -> None:
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


def open_regular(path: PathLike) -> io.BufferedReader:
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


def read_regular(path: PathLike, *, limit: int = 2**30) -> bytes:
    """Reads a regular file of at most `limit` bytes; a larger one is refused before it is read.

    Raises:
      OSError: `path`, which the error names, cannot be read, is no regular file, or is too large.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"{size:,} bytes, and at most {limit:,} are read", str(path))
        return file.read(size)


def write_json(path: PathLike, value: Mapping[str, Any]) -> None:
    """Writes a JSON object as a whole file. Numbers that are not finite become null.

    Raises:
      StoreError: the file cannot be written.
    """
    write_whole(path, (json.dumps(_finite(value), indent=1) + "\n").encode())


def read_json(path: PathLike) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      StoreError: the file cannot be read, or holds something else.
    """
    try:
        value = json.loads(read_regular(path))
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path}: not a JSON object")
    return value


def as_lines(values: Iterable[Mapping[str, Any]]) -> bytes:
    """JSON objects, one a line. Numbers that are not finite become null."""
    return b"".join((json.dumps(_finite(value)) + "\n").encode() for value in values)


def save(path: PathLike, tree: Any, metadata: Mapping[str, Any]) -> None:
    """Writes a pytree of arrays, whole or not at all.

    Args:
      path: where the file goes; a regular file that is there already is replaced.
      tree: any pytree of arrays of numbers, but not of Python's numbers. A flat dictionary keeps
        its names; else a leaf is named by its path, such as `.params['conv1']['bias']`. None and
        empty containers are not stored. `restore` gives the tree back.
      metadata: JSON values, for instance the number of finished epochs.

    Raises:
      StoreError: the file cannot be written.
      TypeError: a leaf or a value of the metadata is of a type that the file cannot hold.
      ValueError: a number in the metadata is not finite, which JSON cannot express.
    """
    arrays = {}
    for name, leaf in _named_leaves(jax.device_get(tree)).items():
        # In C order, because safetensors writes an array's memory as it is.
        array = np.asarray(leaf, order="C")
        arrays[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
        if arrays[name].dtype.name not in _DTYPES:
            raise TypeError(f"{name or 'the tree'} is {arrays[name].dtype}, which no file can hold")
    ours = dict(metadata) | {"sha256": _digest(arrays, metadata)}
    # One entry, because safetensors writes several in any order, and equal arrays should give equal
    # files.
    write_whole(path, safetensors.numpy.save(arrays, {_OURS: json.dumps(ours, allow_nan=False)}))


def load(path: PathLike, *, limit: int = 2**30) -> Stored:
    """Reads a file of arrays that `save` or another program wrote, of at most `limit` bytes.

    Raises:
      StoreError: the file cannot be read, is no .safetensors file, is damaged, or has a dtype that
        numpy does not have, other than bfloat16.
    """
    try:
        content = read_regular(path, limit=limit)
        arrays = {name: _array(view) for name, view in safetensors.deserialize(content)}
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    except SafetensorError as error:
        raise StoreError(f"{path}: not a .safetensors file, or damaged: {error}") from error
    except KeyError as error:  # as F8_E4M3
        raise StoreError(f"{path}: numpy has no {error.args[0]}") from error
    (length,) = struct.unpack_from("<Q", content)
    written = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    if _OURS not in written:
        return Stored(arrays, None, str(path))
    try:
        metadata = json.loads(written[_OURS])
        if metadata.pop("sha256") != _digest(arrays, metadata):
            raise ValueError("another digest")
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: damaged: its SHA-256 is not that of its content") from error
    return Stored(arrays, metadata, str(path))


def restore(stored: Stored, like: Any) -> Any:
    """Returns the saved pytree in the structure of another one.

    Args:
      stored: what `load` returned.
      like: a pytree of arrays or of `jax.ShapeDtypeStruct`, such as `jax.eval_shape` returns.

    Returns:
      numpy arrays in the structure of `like`.

    Raises:
      StoreError: a leaf is missing, is not expected, or has another shape or dtype.
    """
    expected = {name: _kind(leaf) for name, leaf in _named_leaves(like).items()}
    found = {name: _kind(array) for name, array in stored.arrays.items()}
    if different := sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    ):
        name = different[0]  # a network has dozens of leaves, and the message is one line
        raise StoreError(
            f"{stored.path}: does not fit what is expected: {name} is {found.get(name, 'absent')}, "
            f"not {expected.get(name, 'expected')}, and so on for {len(different)} of its arrays"
        )
    structure = jax.tree.structure(like)
    return jax.tree.unflatten(structure, [stored.arrays[name] for name in expected])


@contextlib.contextmanager
def locked(directory: PathLike, *, wait: bool = False) -> Iterator[None]:
    """Keeps other processes from writing a directory for as long as the context lasts.

    The lock ends with the process, however that ends. Files that a killed process left half-written
    are removed on entry.

    Args:
      directory: an existing one.
      wait: whether to wait until no other process writes the directory, instead of an error.

    Raises:
      StoreError: another process is writing the directory, or it cannot be written.
    """
    path = Path(directory) / LOCK
    lock = filelock.FileLock(path, mode=0o666)  # several users may share a directory
    try:
        with writing(directory):
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                holder = ""
                with contextlib.suppress(OSError, UnicodeDecodeError):
                    holder = path.read_text().strip()
                message = f"{directory}: {holder or 'another command'} is writing it"
                if not wait:
                    raise StoreError(f"{message}; wait until that has ended") from None
                log.info("%s; waiting until that has ended", message)
                lock.acquire()
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
            for left in Path(directory).rglob(f"{'[0-9a-f]' * 16}{INCOMPLETE}"):
                left.unlink()
        yield
    finally:
        if lock.is_locked:
            # The file is removed before the lock is released: a process that has it open by then
            # finds that it has no name any more, and tries again with a new one.
            with contextlib.suppress(OSError):
                path.unlink()
            lock.release()


@contextlib.contextmanager
def writing(path: PathLike) -> Iterator[None]:
    """Turns an OSError into a StoreError that names the file, or `path` if it names none."""
    try:
        yield
    except OSError as error:
        # `write_whole` writes to a file of another name, of which nobody has heard.
        named = error.filename and not str(error.filename).endswith(INCOMPLETE)
        file = error.filename if named else path
        raise StoreError(f"{file} cannot be written: {error.strerror or error}") from error


# The dtypes that every release of safetensors.numpy can store.
_DTYPES = ["bool", "float16", "float32", "float64"]
_DTYPES += [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]


# By their names in a file. PyTorch's programs write the last one, and `save` does not.
_BY_CODE = {
    name.replace("float", "F").replace("uint", "U").replace("int", "I"): np.dtype(name)
    for name in _DTYPES[1:]
} | {"BOOL": np.dtype(bool), "BF16": jnp.dtype("bfloat16")}


def _array(view: Mapping[str, Any]) -> np.ndarray:
    """An array from what safetensors says of it."""
    return np.frombuffer(view["data"], _BY_CODE[view["dtype"]]).reshape(view["shape"])


def _named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves by name, in the order of `jax.tree.leaves`."""
    if isinstance(tree, dict) and all(hasattr(leaf, "dtype") for leaf in tree.values()):
        return dict(sorted(tree.items()))
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _kind(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> str:
    """SHA-256 of all names, shapes, dtypes, numbers and metadata, in hexadecimal."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True, allow_nan=False).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _finite(value: Any) -> Any:
    """Replaces NaN and infinity by None, because JSON has neither."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
