"""Finds out which runs of a study are left to do. Nothing here reads or writes files.

A run is a variant (a key of `settings.VARIANTS`), a placement and a seed. A row is a line of
`results.jsonl`: one epoch of one run.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mnist_jax.checkpoint import Checkpoint

from experiments.groundwork.variants import Cell
from mnist_jax.model import Placement

Row = Mapping[str, Any]


class Group(NamedTuple):
    """Runs that differ by seed only, and so train side by side."""

    variant: str
    placement: Placement
    seeds: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.variant}/{self.placement}, {_in_words(self.seeds)}"


class Saved(NamedTuple):
    """The states of a group after some epochs."""

    group: Group
    epochs: int  # that are done
    checkpoint: Checkpoint  # its arrays are [S, ...], for S seeds


class Task(NamedTuple):
    """A group that is to be trained up to the last epoch."""

    group: Group
    done: int  # epochs that are done already
    saved: Saved | None  # where to start if epochs are done; it may hold other seeds too


class Plan(NamedTuple):
    """What is left to do."""

    tasks: tuple[Task, ...]
    rows: list[Row]  # the rows that are kept; the epochs of the others are trained again
    notes: tuple[str, ...]  # sentences about what is trained again


def groups(cells: Sequence[Cell], *, most: int) -> list[Group]:
    """Divides the runs of every cell into groups of at most `most` seeds."""
    return [
        Group(variant, placement, tuple(seeds[start : start + most]))
        for variant, placement, seeds in cells
        for start in range(0, len(seeds), most)
    ]


def left_to_do(
    asked: Sequence[Group],
    rows: Sequence[Row],
    saved: Sequence[Saved],
    *,
    epochs: Mapping[str, int],
) -> Plan:
    """Finds out which of the runs that are asked for are not done.

    A run is done if it has a row for each epoch. A checkpoint is used for a run only if the run has
    a row for each epoch so far. Every other run starts anew, because an epoch without its row would
    be missing for ever: nobody would train it again.

    Args:
      asked: the runs that are asked for.
      rows: the rows that exist, in any order, of these and other runs.
      saved: the checkpoints that exist.
      epochs: the number of the last epoch of each variant that is asked for.
    """
    rows_of: dict[tuple[str, str, int], set[int]] = {}
    for row in rows:
        rows_of.setdefault(run_of(row), set()).add(row["epoch"])

    def has(variant: str, placement: str, seed: int, number: int) -> bool:
        return rows_of.get((variant, placement, seed), set()) >= set(range(1, number + 1))

    tasks: list[Task] = []
    again: dict[tuple[str, str, int], int] = {}  # runs to train, and the epochs that they keep
    notes = []
    for variant, placement, seeds in asked:
        missing = [seed for seed in seeds if not has(variant, placement, seed, epochs[variant])]
        known = {seed for seed in missing if (variant, placement, seed) in rows_of}
        for candidate in sorted(saved, key=lambda one: -one.epochs):
            group, done = candidate.group, candidate.epochs
            if (group.variant, group.placement) != (variant, placement):
                continue
            known |= set(group.seeds)
            begun = [s for s in missing if s in group.seeds and has(variant, placement, s, done)]
            if begun:
                tasks.append(Task(Group(variant, placement, tuple(begun)), done, candidate))
                missing = [seed for seed in missing if seed not in begun]
        if missing:
            tasks.append(Task(Group(variant, placement, tuple(missing)), 0, None))
            if lost := tuple(seed for seed in missing if seed in known):
                group = Group(variant, placement, lost)
                notes.append(f"{group}: rows or checkpoint are missing, so they start anew")
    for group, done, _ in tasks:
        again |= {(group.variant, group.placement, seed): done for seed in group.seeds}
    kept = [row for row in rows if row["epoch"] <= again.get(run_of(row), row["epoch"])]
    return Plan(tuple(tasks), kept, tuple(notes))


def finished(group: Group, rows: Sequence[Row], *, epochs: Mapping[str, int]) -> bool:
    """Whether every run of a group has a row for each epoch."""
    return not left_to_do([group], rows, [], epochs=epochs).tasks


def left_out(rows: Sequence[Row], *, epochs: Mapping[str, int]) -> list[str]:
    """Sentences about the runs that tables leave out, because they do not have all epochs.

    Args:
      rows: the study's rows.
      epochs: the number of the last epoch of each variant that is in the tables.
    """
    runs: dict[tuple[str, Placement], list[int]] = {}
    for variant, placement, seed in dict.fromkeys(map(run_of, rows)):
        if variant not in epochs:
            continue
        runs.setdefault((variant, placement), []).append(seed)
    sentences = []
    for (variant, placement), seeds in runs.items():
        group = Group(variant, placement, tuple(sorted(seeds)))
        for task in left_to_do([group], rows, [], epochs=epochs).tasks:
            sentences.append(
                f"{task.group}: left out of the tables, not all {epochs[variant]} epochs are there"
            )
    return sentences


def run_of(row: Row) -> tuple[str, Placement, int]:
    """The run that a row belongs to: variant, placement and seed."""
    return row["variant"], row["placement"], row["seed"]


def _in_words(seeds: Sequence[int]) -> str:
    """Seeds in words, such as `seeds 0 to 4, 7`."""
    spans: list[list[int]] = []
    for seed in seeds:
        if spans and seed == spans[-1][-1] + 1:
            spans[-1][1:] = [seed]
        else:
            spans.append([seed])
    words = ", ".join(" to ".join(map(str, span)) for span in spans)
    return f"seed{'s' if len(seeds) > 1 else ''} {words}"
