"""Writes, reads and joins the files of studies.

    manifest.json    what all runs share, and which commands trained them (`study.manifest`)
    runs/            two files for each group of runs that trained side by side:
      NAME.csv.gz    a row for each variant, placement, seed and epoch; where a variant held out
                     training images, its columns of the test are about these
      NAME.npz.xz    what the networks said of each test image after the last epoch
    timing.json      what `benchmarks.epoch_time` measured, for claim 2
    tables/, summary.json, figures/      what `study.report` makes of the files above

A group is written when its last epoch is done, the table last, so every run in a table is whole.
The form that is committed has `results.csv.gz` and `answers.npz.xz`, with all runs, in place of
`runs/`. Equal results become equal bytes. Each .npz file has three arrays for each variant,
placement and evaluation, with names such as `report/after_fc1/running/seeds`. `n` is the number of
seeds and `N` that of test images:

    seeds      [n]
    confusion  [n, 10, 10] uint16, row = label, column = prediction
    correct    [N, ceil(n / 8)] uint8: whether each seed read each test image correctly, packed by
               `numpy.packbits` over the seeds; the images are in the order of the original files,
               and rows of zeros make their number a multiple of 8

A network without batch normalisation has only the evaluation `running`, because the others would be
the same.
"""

import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments.study import manifest as manifests
from experiments.study.manifest import Manifest
from experiments.study.runs import Answers, Group, Run
from mnist_jax import store
from mnist_jax.store import StoreError

MANIFEST, RUNS, TIMING = "manifest.json", "runs", "timing.json"
TABLE, ANSWERS = "results.csv.gz", "answers.npz.xz"
KEYS = ["variant", "placement", "seed", "epoch"]  # the columns that tell rows apart
_ARRAYS = ("seeds", "confusion", "correct")


class Study(NamedTuple):
    """A study, or several that were joined."""

    manifest: Manifest
    table: pd.DataFrame  # sorted by `KEYS`; the loss of a run that diverged is NaN
    answers: list[Answers]  # sorted

    @property
    def runs(self) -> set[Run]:
        """The runs that are in the table."""
        return set(map(Run, *(self.table[key].tolist() for key in KEYS[:3])))

    @property
    def labels(self) -> np.ndarray:
        """The labels `[N]` of the test images, in the order of the original files."""
        return np.frombuffer(self.manifest["test_labels"].encode(), np.uint8) - ord("0")


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[None]:
    """Makes the directory of a study if it is absent, and keeps other commands from writing it.

    Raises:
      StoreError: it cannot be written, or another command is writing it.
    """
    with store.writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with store.locked(directory):
        yield


def grows(directory: Path) -> bool:
    """Whether a directory is that of a study that grows."""
    return (directory / RUNS).is_dir()


def write_group(
    directory: Path,
    manifest: Manifest,
    group: Group,
    table: pd.DataFrame,
    answers: Sequence[Answers],
) -> None:
    """Writes a finished group, after the manifest, whose last session names it.

    Raises:
      StoreError: a file cannot be written.
    """
    with store.writing(directory):
        (directory / RUNS).mkdir(exist_ok=True)
    store.write_json(directory / MANIFEST, manifest)
    seeds = f"{group.seeds[0]}-{group.seeds[-1]}"
    name = f"{group.variant}.{group.recipe.placement}.{seeds}"
    _write(table, directory / RUNS / f"{name}.csv.gz", answers)


def write_committed(study: Study, directory: Path) -> None:
    """Writes a study in the form that is committed; other files in the directory are left alone.

    Raises:
      StoreError: a file cannot be written.
    """
    _write(study.table, directory / TABLE, study.answers)
    store.write_json(directory / MANIFEST, study.manifest)


def read(directories: Sequence[Path]) -> Study:
    """Reads studies in either form and joins them, for instance the shares of several machines.

    Args:
      directories: at least one.

    Raises:
      StoreError: a directory is not that of a study, a file is damaged, the studies were trained
        with different recipes or data, or a run stands in two files with different numbers.
    """
    shared: Manifest = {}
    tables = [pd.DataFrame(columns=KEYS)]
    said: dict[tuple[str, str, str], dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    for directory in directories:
        found = manifests.read(directory / MANIFEST)
        names = f"{directories[0]} and {directory}"
        shared = manifests.join(shared, found, names) if shared else found
        grown = sorted((directory / RUNS).glob("*.csv.gz"))
        for path in grown if grows(directory) else [directory / TABLE]:
            tables.append(_read_table(path))
            for kind, by_seed in _read_answers(_answers_path(path)):
                said.setdefault(kind, {}).update(by_seed)
    table = pd.concat(tables[1:] or tables).drop_duplicates().sort_values(KEYS, ignore_index=True)
    for row in table[table.duplicated(KEYS)].to_dict("records"):
        run = Run(*(row[key] for key in KEYS[:3]))
        where = ", ".join(map(str, directories))
        raise StoreError(f"{where}: two files have different numbers of {run}")
    answers = []
    for kind, by_seed in sorted(said.items()):
        seeds = sorted(by_seed)
        stacked = map(np.stack, zip(*(by_seed[seed] for seed in seeds), strict=True))
        answers.append(Answers(*kind, np.array(seeds), *stacked))
    return Study(shared, table, answers)


def _answers_path(table: Path) -> Path:
    """Where the answers lie that belong to a table."""
    return table.with_name(ANSWERS if table.name == TABLE else table.name[:-7] + ".npz.xz")


def _write(table: pd.DataFrame, path: Path, answers: Sequence[Answers]) -> None:
    arrays = {}
    for *kind, seeds, confusion, correct in answers:
        # With the seeds of an image side by side the file is half as large, because all seeds read
        # most images correctly.
        by_image = np.packbits(np.unpackbits(correct, axis=1).T, axis=1)
        for what, array in zip(_ARRAYS, (seeds, confusion, by_image), strict=True):
            arrays["/".join((*kind, what))] = array
    content, compressed = io.BytesIO(), io.BytesIO()
    np.savez(content, **arrays)
    # Two thirds of the size that `savez_compressed` gives.
    store.write_whole(_answers_path(path), lzma.compress(content.getvalue()))
    # Without name and time, so that equal content gives equal bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=compressed, mtime=0) as file:
        file.write(table.to_csv(index=False, lineterminator="\n").encode())
    store.write_whole(path, compressed.getvalue())


def _read_table(path: Path) -> pd.DataFrame:
    with _damage_named(path):
        text = io.BytesIO(gzip.decompress(store.read_regular(path)))
        # As words first: some releases of pandas would read numbers to their last digit but one.
        table = pd.read_csv(text, dtype=str, keep_default_na=False, na_values=[""])
        numbers = dict.fromkeys(table.columns.difference(KEYS), float)
        return table.astype({"seed": int, "epoch": int} | numbers)


def _read_answers(path: Path) -> Iterator[tuple[tuple[str, str, str], dict]]:
    """For each variant, placement and evaluation, `confusion` and `correct` of each seed."""
    with _damage_named(path):
        content = lzma.decompress(store.read_regular(path))
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            for name in (name.removesuffix("/seeds") for name in arrays if name.endswith("/seeds")):
                seeds, confusion, correct = (arrays[f"{name}/{what}"] for what in _ARRAYS)
                right = np.unpackbits(correct, axis=1, count=len(seeds)).T  # [n, N]
                values = zip(confusion, np.packbits(right, axis=1), strict=True)
                variant, placement, evaluation = name.split("/")
                by_seed = dict(zip(seeds.tolist(), values, strict=True))
                yield (variant, placement, evaluation), by_seed


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, ValueError, KeyError, lzma.LZMAError, zlib.error) as error:
        raise StoreError(f"{path}: damaged: {error}") from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from error
