"""A checkpoint: any pytree of arrays on disk, whole or not at all, and every byte checked.

The file begins with two lines of text, and the rest of it is a .safetensors file:

    mnist_jax checkpoint 1, sha256 <64 digits> of <20 digits> bytes
    {"epochs": 3, ...}                                            the metadata, as JSON

The SHA-256 covers everything after the first line, and the first line can be computed from what it
covers. So no byte of a checkpoint can change unnoticed, and no file that was cut short, or that is
something else, is taken for one. A checkpoint contains no code, because nothing in it is a pickle.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from mnist_jax.disk import open_regular, write_whole


class Checkpoint(NamedTuple):
    """What a file holds."""

    metadata: dict[str, Any]
    arrays: dict[str, np.ndarray]  # by the name of the leaf, such as .params['conv1']['bias']
    path: str  # where the file lies, for messages


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message is one line and names the file."""


def save(path: str | os.PathLike[str], tree: Any, metadata: Mapping[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all.

    Args:
      path: where the file goes; a regular file that is there already is replaced.
      tree: any pytree of arrays of numbers, but not of Python's numbers. None and empty containers
        are part of its structure and are not stored. `restore` gives the tree back.
      metadata: JSON values, for instance the number of finished epochs and the options of the run.

    Raises:
      OSError: the file cannot be written.
      TypeError: a leaf or a value of the metadata is of a type that the file cannot hold.
      ValueError: a number in the metadata is not finite, which JSON cannot express.
    """
    arrays = {}
    for name, leaf in _named_leaves(jax.device_get(tree)).items():
        # In C order, because safetensors writes an array's memory as it is.
        arrays[name] = np.asarray(leaf, order="C")
        if arrays[name].dtype.name not in _DTYPES:
            raise TypeError(
                f"{name or 'the tree'} is {arrays[name].dtype}, which a checkpoint cannot hold"
            )
    covered = (
        json.dumps(dict(metadata), allow_nan=False).encode()
        + b"\n"
        + safetensors.numpy.save(arrays)
    )
    write_whole(path, _first_line(hashlib.sha256(covered).hexdigest(), len(covered)) + covered)


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a checkpoint.

    The file is opened once, so metadata and arrays belong together even if another process replaces
    the file meanwhile.

    Raises:
      CheckpointError: the file cannot be read, is no checkpoint, or is not as it was written.
    """
    try:
        with open_regular(path) as file:
            first_line = file.read(_FIRST_LINE_SIZE)
            if not first_line.startswith(_MAGIC):
                raise CheckpointError(f"{path}: not a checkpoint of mnist_jax, or damaged")
            # The file is hashed in pieces before it is read into memory, so that a huge file that
            # is no checkpoint takes no memory.
            size = os.fstat(file.fileno()).st_size - _FIRST_LINE_SIZE
            if not first_line.endswith(_first_line("", size)[len(_MAGIC) :]):
                raise CheckpointError(
                    f"{path}: damaged, it does not have the size it was written with"
                )
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if first_line != _first_line(digest, size):
                raise CheckpointError(
                    f"{path}: damaged, its SHA-256 is not the one written with it"
                )
            file.seek(_FIRST_LINE_SIZE)
            metadata, _, arrays = file.read(size).partition(b"\n")
        return Checkpoint(json.loads(metadata), safetensors.numpy.load(arrays), str(path))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, SafetensorError) as error:  # the digest is right all the same
        raise CheckpointError(f"{path}: not a checkpoint of this version: {error}") from error


def restore(checkpoint: Checkpoint, like: Any) -> Any:
    """Returns the saved pytree in the structure of another one.

    Args:
      checkpoint: what `load` returned.
      like: a pytree of arrays or of `jax.ShapeDtypeStruct`, such as `jax.eval_shape` returns.

    Returns:
      numpy arrays in the structure of `like`.

    Raises:
      CheckpointError: a leaf is missing, is not expected, or has another shape or dtype.
    """
    expected = _named_leaves(like)
    found = checkpoint.arrays
    differences = {
        "missing": [name for name in expected if name not in found],
        "unexpected": sorted(name for name in found if name not in expected),
        "different": [
            f"{name} is {_kind(found[name])}, not {_kind(leaf)}"
            for name, leaf in expected.items()
            if name in found and _kind(found[name]) != _kind(leaf)
        ],
    }
    if any(differences.values()):
        parts = [f"{kind}: {_listed(names)}" for kind, names in differences.items() if names]
        raise CheckpointError(
            f"{checkpoint.path}: does not fit what is expected, {'; '.join(parts)}"
        )
    structure = jax.tree.structure(like)
    return jax.tree.unflatten(structure, [found[name] for name in expected])


_MAGIC = b"mnist_jax checkpoint 1, sha256 "
# The dtypes that every release of safetensors.numpy can store.
_DTYPES = ["bool", "float16", "float32", "float64"]
_DTYPES += [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]


def _first_line(digest: str, size: int) -> bytes:
    return _MAGIC + f"{digest} of {size:020} bytes\n".encode()


_FIRST_LINE_SIZE = len(_first_line("0" * 64, 0))


def _named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves by their path in the tree, in the order of `jax.tree.leaves`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _kind(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _listed(names: list[str]) -> str:
    """Lists at most three names: a network has dozens of leaves, and the message is one line."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
