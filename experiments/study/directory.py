"""Writes and reads the files of a study.

    manifest.json    what all its runs have in common; versions, machine and commit of each command
    results.jsonl    a line for each variant, placement, seed and epoch, as `experiments.analysis`
                     describes it; the line of a run's last epoch also holds its answers
    checkpoints/     the states of the groups of runs that are in progress
    timing.json      what `benchmarks.epoch_time` measured, for claim 2
    tables/, summary.json, figures/      what `study.report` makes of the files above

An epoch's lines are on the disk before its checkpoint. A kill between the two costs an epoch, which
is trained again. In the other order its lines would be missing for ever.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.groundwork.files import (
    FileError,
    append_lines,
    as_json,
    as_lines,
    locked,
    read_json,
    read_lines,
    write_whole,
    writing,
)
from experiments.study.plan import Group, Row, Saved, run_of
from mnist_jax import checkpoint
from mnist_jax.checkpoint import CheckpointError

MANIFEST, RESULTS, CHECKPOINTS = "manifest.json", "results.jsonl", "checkpoints"
TIMING, TABLES, SUMMARY, FIGURES = "timing.json", "tables", "summary.json", "figures"


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[None]:
    """Makes the directory of a study if it is absent, and keeps other commands from writing it.

    A directory that this function made and in which nothing was written is removed again.

    Raises:
      FileError: it cannot be written, or another command is writing it.
    """
    new = not directory.exists()
    try:
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            lock = contextlib.ExitStack()
            lock.enter_context(locked(directory))
        with lock:
            yield
    finally:
        if new:
            with contextlib.suppress(OSError):
                directory.rmdir()  # does nothing to a directory with files


def next_manifest(
    directory: Path, common: Mapping[str, Any], session: Mapping[str, Any]
) -> dict[str, Any]:
    """The manifest of a study with one more session; the first one begins it.

    Args:
      directory: the study's.
      common: what all sessions share, with a mapping `settings` that they may add variants to.
      session: the runs that this command adds, and versions, machine and commit.

    Raises:
      FileError: the study that is there was begun with something else.
    """
    path = directory / MANIFEST
    if not path.exists():
        return {**common, "sessions": [session]}
    begun = read_json(path)
    known = {
        variant: begun["settings"].get(variant, now) for variant, now in common["settings"].items()
    }
    _refuse_unless_equal(path, "", begun | {"settings": known}, common)
    settings = begun["settings"] | common["settings"]
    return {**common, "settings": settings, "sessions": [*begun["sessions"], session]}


def write_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Replaces the manifest of a study."""
    with writing(directory):
        write_whole(directory / MANIFEST, as_json(manifest))


def read_results(directory: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a study, and a list that says in a sentence if the file ends within a line.

    Raises:
      FileError: a line is damaged, or a variant, placement, seed and epoch occur twice.
    """
    path = directory / RESULTS
    rows, torn = read_lines(path)
    runs = [(*run_of(row), row["epoch"]) for row in rows]
    if len(set(runs)) < len(runs):
        (twice, _), *_ = Counter(runs).most_common(1)
        raise FileError(f"{path}: two lines of variant, placement, seed and epoch {twice}")
    return rows, [f"{path} ends within a line, which is left out"] if torn else []


def write_results(directory: Path, rows: Sequence[Row]) -> None:
    """Replaces the rows of a study."""
    with writing(directory):
        write_whole(directory / RESULTS, as_lines(rows))


def read_checkpoints(
    directory: Path, rows: Sequence[Row], common: Mapping[str, Any]
) -> list[Saved]:
    """Reads the checkpoints of some variants.

    Args:
      directory: the study's.
      rows: the study's rows, from `read_results`.
      common: as in `next_manifest`; checkpoints of variants that it does not have are left out.

    Raises:
      FileError: a checkpoint is damaged, was computed with other settings or data, or does not
        agree with the rows about its epoch.
    """
    losses = {(*run_of(row), row["epoch"]): row["test_loss"] for row in rows}
    found = []
    for path in sorted((directory / CHECKPOINTS).glob("*.checkpoint")):
        try:
            loaded = checkpoint.load(path)
            metadata = loaded.metadata
            group = Group(metadata["variant"], metadata["placement"], tuple(metadata["seeds"]))
            epochs, test_losses = metadata["epochs"], metadata["test_losses"]
        except CheckpointError as error:
            raise FileError(f"{error}; {_MEND}") from error
        except KeyError as error:
            raise FileError(f"{path}: not a checkpoint of a study; {_MEND}") from error
        if group.variant not in common["settings"]:
            continue
        _refuse_unless_equal(path, "", metadata, _origin(common, group.variant))
        for seed, loss in zip(group.seeds, test_losses, strict=True):
            expected = losses.get((group.variant, group.placement, seed, epochs), loss)
            if loss != expected:
                raise FileError(
                    f"{path}: holds {epochs} epochs of seed {seed} with test loss {loss}, and "
                    f"{RESULTS} has {expected} for that epoch; {_MEND}"
                )
        found.append(Saved(group, epochs, loaded))
    return found


def write_epoch(
    directory: Path,
    group: Group,
    epoch: int,
    rows: Sequence[Row],
    states: Any,
    common: Mapping[str, Any],
) -> None:
    """Puts a finished epoch of a group on the disk: its rows, then the checkpoint.

    Args:
      directory: the study's.
      group: the runs.
      epoch: the number of the epoch.
      rows: one for each seed, in the order of the group.
      states: what the next epoch starts from, arrays `[S, ...]` of `S` seeds; None if this was the
        last epoch.
      common: as in `next_manifest`.

    Raises:
      FileError: the files cannot be written.
    """
    metadata = {
        **group._asdict(),
        "epochs": epoch,
        "test_losses": [row["test_loss"] for row in rows],
        **_origin(common, group.variant),
    }
    path = _checkpoint(directory, group)
    with writing(directory):
        append_lines(directory / RESULTS, rows)
        if states is not None:
            path.parent.mkdir(exist_ok=True)
            checkpoint.save(path, states, metadata)


def discard_checkpoint(directory: Path, group: Group) -> None:
    """Removes the checkpoint of a group, if there is one."""
    path = _checkpoint(directory, group)
    with writing(directory):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()  # does nothing to a directory with files


_MEND = "delete that file to train its runs anew"


def _checkpoint(directory: Path, group: Group) -> Path:
    first, last = group.seeds[0], group.seeds[-1]
    name = f"{group.variant}.{group.placement}.{first}-{last}.checkpoint"
    return directory / CHECKPOINTS / name


def _origin(common: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """What the states of a variant were computed with."""
    return {
        "settings": {variant: common["settings"][variant]},
        "data_sha256": common["data_sha256"],
    }


def _refuse_unless_equal(path: Path, name: str, found: Any, now: Any) -> None:
    """Refuses a file that does not say everything that `now` says."""
    if isinstance(found, Mapping) and isinstance(now, Mapping):
        for key, value in now.items():
            _refuse_unless_equal(path, f"{name} {key}".lstrip(), found.get(key), value)
    elif found != now:
        raise FileError(f"{path}: {name} is {found} there and would be {now} now")
