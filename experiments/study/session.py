"""Does one command's work on a study: trains what is left to do, and puts it on the disk."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.groundwork.evaluation import in_file_order
from experiments.groundwork.manifest import differences, manifest
from experiments.groundwork.variants import Cell, Setting
from experiments.study import directory as files
from experiments.study import hosts
from experiments.study.plan import Group, Task, finished, groups, left_to_do
from experiments.study.training import arranged, train_group
from mnist_jax import parallel
from mnist_jax.data import Split, digests

# Seeds that train side by side, rounded up to a multiple of the devices. A kill loses the epoch in
# progress of all of them.
GROUP = 20


class Session(NamedTuple):
    """What a command has to do, and what it needs for that."""

    directory: Path
    common: dict[str, Any]  # as in `directory.next_manifest`
    tasks: tuple[Task, ...]
    saved: list[Group]  # the groups that had a checkpoint
    notes: list[str]  # sentences about what was found in the directory
    settings: Mapping[str, Setting]  # by variant
    splits: tuple[Split, Split]  # train and test


class FinishedEpoch(NamedTuple):
    """An epoch of a group that is on the disk."""

    group: Group
    number: int
    rows: list[dict[str, Any]]  # one for each seed


def begin(
    directory: Path,
    settings: Mapping[str, Setting],
    cells: Sequence[Cell],
    splits: tuple[Split, Split],
) -> Session:
    """Finds out what is left to do, and adds this session to the manifest.

    Args:
      directory: the study's, which `directory.opened` has locked.
      settings: the setting of each variant.
      cells: the runs that are asked for.
      splits: train and test, as `load_mnist` gives them.

    Raises:
      FileError: the directory cannot be written, a file in it is damaged, or the study that is
        there was begun with something else.
    """
    data_sha256 = digests(*splits)
    common = {
        "settings": {variant: setting._asdict() for variant, setting in settings.items()},
        "data_sha256": data_sha256,
        "test_labels": "".join(map(str, in_file_order("test", splits[1]).labels)),
    }
    asked = {"cells": [[variant, place, seeds[0], seeds[-1]] for variant, place, seeds in cells]}
    signed = files.next_manifest(directory, common, asked | manifest(data_sha256))
    rows, notes = files.read_results(directory)
    saved = files.read_checkpoints(directory, rows, common)
    devices = jax.device_count()
    most = -(-GROUP // devices) * devices  # so that no device waits for the others
    wanted = groups(cells, most=most)
    plan = left_to_do(wanted, rows, saved, epochs=_epochs(settings))
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
        settings=settings,
        splits=splits,
    )


def finished_epochs(session: Session) -> Iterator[FinishedEpoch]:
    """Trains what is left to do.

    Args:
      session: what `begin` returned.

    Yields:
      Each epoch of each group, when it is on the disk.

    Raises:
      FileError: a file cannot be written, or a checkpoint does not fit the network.
    """

    def held_out(task: Task) -> int:
        return session.settings[task.group.variant].held_out

    mesh = parallel.seeds_mesh()
    for number, tasks in groupby(session.tasks, held_out):
        data = arranged(session.splits, number)
        train_split, test_split = parallel.replicate((data.train, data.test), mesh)
        data = data._replace(train=train_split, test=test_split)
        for task in tasks:
            setting = session.settings[task.group.variant]
            for epoch, states, rows in train_group(task, setting, data, mesh):
                if hosts.is_first():
                    files.write_epoch(
                        session.directory,
                        task.group,
                        epoch,
                        rows,
                        states if epoch < setting.epochs else None,
                        session.common,
                    )
                yield FinishedEpoch(task.group, epoch, rows)
            if hosts.is_first():
                files.discard_checkpoint(session.directory, task.group)
    if hosts.is_first() and session.saved:  # of which each task may have continued a part
        rows, _ = files.read_results(session.directory)
        for group in session.saved:
            if finished(group, rows, epochs=_epochs(session.settings)):
                files.discard_checkpoint(session.directory, group)


def _epochs(settings: Mapping[str, Setting]) -> dict[str, int]:
    """The number of the last epoch, by variant."""
    return {variant: setting.epochs for variant, setting in settings.items()}
