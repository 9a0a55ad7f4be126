"""Keeps compiled programs between starts, in the user's own cache directory.

These files are code that a later start runs, so only this user may be able to write them.
"""

import logging
import os
import stat
import tempfile
import warnings
from pathlib import Path

from experiments.groundwork.options import UsageError

MAX_BYTES = 256 * 2**20  # JAX removes what was not used for longest; a run needs about 2 MiB


def default_directory() -> Path | None:
    """`$XDG_CACHE_HOME/mnist_jax`, else `~/.cache/mnist_jax`; None without a home directory."""
    try:
        root = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    except RuntimeError:
        return None
    return Path(root) / "mnist_jax"


def check(directory: Path) -> None:
    """Makes the directory if it is absent, and checks who may write it.

    Raises:
      UsageError: it cannot be made or written, it is not this user's, or others can write it.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise UsageError(f"the compile cache {directory} is not a directory")
        if hasattr(os, "getuid") and status.st_uid != os.getuid():
            raise UsageError(f"the compile cache {directory} belongs to another user")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UsageError(f"the compile cache {directory} can be written by other users")
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"\0")
    except OSError as error:
        reason = f"cannot be used: {error.strerror}"
        raise UsageError(f"the compile cache {directory} {reason}") from error


def turn_on(directory: Path | None = None) -> str | None:
    """Makes JAX keep compiled programs in a directory.

    Args:
      directory: the directory; None means `default_directory()`, if that can be used.

    Returns:
      None, or a line that says why nothing is kept.

    Raises:
      UsageError: a directory was given and cannot be used.
    """
    chosen = directory or default_directory()
    if chosen is None:
        return "compiled programs are not kept: there is no home directory"
    try:
        check(chosen)
    except UsageError as error:
        if directory is not None:
            raise
        return f"compiled programs are not kept: {error}"
    import jax

    jax.config.update("jax_compilation_cache_dir", str(chosen))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # small programs add up
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    # A full disk or a damaged entry costs a compilation and nothing else, so JAX need not say so
    # for each program.
    warnings.filterwarnings("ignore", message=".*persistent compilation cache")
    logging.getLogger("jax._src.compilation_cache").setLevel(logging.ERROR)
    logging.getLogger("jax._src.compiler").setLevel(logging.ERROR)
    return None
