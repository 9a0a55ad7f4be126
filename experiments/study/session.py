"""Does one command's work on a study: trains what is missing, and puts it on the disk."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pandas as pd

from experiments.groundwork import machine
from experiments.groundwork.recipe import Recipe
from experiments.groundwork.variants import Cell
from experiments.study import files, manifest
from experiments.study.runs import Group, Run, groups
from experiments.study.training import Epoch, train_group
from mnist_jax import parallel
from mnist_jax.data import Dataset


class Session(NamedTuple):
    """What a command has to do."""

    directory: Path
    dataset: Dataset
    groups: list[Group]  # that are missing
    manifest: manifest.Manifest  # of all sessions before
    entry: dict[str, Any]  # of this one in the manifest, without its runs
    notes: list[str]  # sentences about what differs from the session before


def begin(
    directory: Path, recipes: Mapping[str, Recipe], cells: Sequence[Cell], dataset: Dataset
) -> Session:
    """Finds out what is left to do.

    Args:
      directory: the study's, which `files.opened` has locked.
      recipes: the recipe of each variant.
      cells: the runs that are asked for.
      dataset: what they are trained and tested on.

    Raises:
      StoreError: a file of the study is damaged, or its other runs had other recipes or data.
    """
    shared, now = manifest.begun(recipes, dataset), machine.manifest(dataset.sha256)
    done: set[Run] = set()
    notes: list[str] = []
    if (directory / files.MANIFEST).exists():
        there = files.read([directory])
        shared = manifest.join(there.manifest, shared, f"{directory} and this command")
        done = there.runs
        for before in shared["sessions"][-1:]:
            lines = machine.differences(before, now)
            notes = [f"differs from the session before: {line}" for line in lines]
    left = groups(cells, recipes, done, devices=jax.device_count())
    entry = {"started": datetime.now(UTC).isoformat(timespec="seconds"), **now}
    return Session(directory, dataset, left, shared, entry, notes)


def finished_epochs(session: Session) -> Iterator[tuple[Group, Epoch]]:
    """Trains what is left to do.

    Yields:
      Each epoch of each group; when it is the last one, the group is on the disk.

    Raises:
      StoreError: a file cannot be written.
    """
    mesh = parallel.seeds_mesh()
    for place, group in enumerate(session.groups, 1):
        rows = []
        for epoch in train_group(group, session.dataset, mesh):
            rows += epoch.rows
            if epoch.number == group.recipe.epochs:
                signed = manifest.signed(session.manifest, session.entry, session.groups[:place])
                table = pd.DataFrame(rows).sort_values(files.KEYS)
                files.write_group(session.directory, signed, group, table, epoch.answers)
            yield group, epoch
