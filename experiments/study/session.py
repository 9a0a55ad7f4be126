"""One command's work on a study: what is left of what it asks for, trained and put on the disk."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.manifest import differences, manifest
from experiments.settings import SETTINGS
from experiments.study import directory as files
from experiments.study import hosts
from experiments.study.plan import Group, Task, finished, groups, left_to_do
from experiments.study.training import train_group
from mnist_jax import parallel
from mnist_jax.data import Split
from mnist_jax.model import Placement

# Seeds that train side by side, at the least: a kill loses the epoch in progress of all of them.
GROUP = 20


class Session(NamedTuple):
    """What is to do, and what it is done with."""

    directory: Path
    common: dict[str, Any]  # see `directory.next_manifest`
    tasks: tuple[Task, ...]
    saved: list[Group]  # those that had a checkpoint
    notes: list[str]  # sentences about what was found in the directory
    epochs: int


class FinishedEpoch(NamedTuple):
    """An epoch of a group, which is on the disk."""

    group: Group
    number: int
    rows: list[dict[str, Any]]  # one a seed


def begin(
    directory: Path,
    variants: Sequence[str],
    placements: Sequence[Placement],
    seeds: range,
    *,
    epochs: int,
    data_sha256: Mapping[str, str],
) -> Session:
    """Finds out what is left to do, and signs the manifest.

    Args:
      directory: of the study, see `directory.opened`.
      variants: keys of `SETTINGS`.
      placements: of the residual block.
      seeds: of each variant and placement.
      epochs: the number of the last epoch.
      data_sha256: digests of the data.

    Raises:
      FileError: the directory cannot be written, a file in it is damaged, or the study that is
        there was begun with something else.
    """
    settings = {variant: SETTINGS[variant]._asdict() for variant in variants}
    common = {"epochs": epochs, "settings": settings, "data_sha256": dict(data_sha256)}
    asked = {"variants": variants, "placements": placements, "seeds": [seeds[0], seeds[-1]]}
    signed = files.next_manifest(directory, common, asked | manifest(data_sha256))
    rows, notes = files.read_results(directory)
    saved = files.read_checkpoints(directory, rows, common)
    devices = jax.device_count()
    most = -(-GROUP // devices) * devices  # so that no device waits for the others
    plan = left_to_do(groups(variants, placements, seeds, most=most), rows, saved, epochs=epochs)
    hosts.wait("every host has read what there is")
    if hosts.is_first():
        files.write_manifest(directory, signed)
        if notes or len(plan.rows) < len(rows):
            files.write_results(directory, plan.rows)
    *_, before, now = [signed["sessions"][-1], *signed["sessions"]][-2:]
    changes = [f"differs from the session before: {line}" for line in differences(before, now)]
    return Session(
        directory=directory,
        common=common,
        tasks=plan.tasks,
        saved=[one.group for one in saved],
        notes=[*notes, *plan.notes, *changes],
        epochs=epochs,
    )


def finished_epochs(session: Session, splits: tuple[Split, Split]) -> Iterator[FinishedEpoch]:
    """Trains what is left to do.

    Args:
      session: see `begin`.
      splits: to train on and to evaluate on.

    Yields:
      Each epoch of each group, when it is on the disk.

    Raises:
      FileError: the disk refuses, or a checkpoint does not fit.
    """
    mesh = parallel.seeds_mesh()
    splits = parallel.replicate(splits, mesh)
    for task in session.tasks:
        setting = SETTINGS[task.group.variant]
        for epoch, states, rows in train_group(task, setting, splits, mesh, epochs=session.epochs):
            if hosts.is_first():
                more = epoch < session.epochs
                files.write_epoch(
                    session.directory,
                    task.group,
                    epoch,
                    rows,
                    states if more else None,
                    session.common,
                )
            yield FinishedEpoch(task.group, epoch, rows)
        if hosts.is_first():
            files.discard_checkpoint(session.directory, task.group)
    if hosts.is_first() and session.saved:  # of which each task may have continued a part
        rows, _ = files.read_results(session.directory)
        for group in session.saved:
            if finished(group, rows, epochs=session.epochs):
                files.discard_checkpoint(session.directory, group)
