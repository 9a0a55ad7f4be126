"""Reads the results of a study from either of its two forms, and writes the second one.

While a study grows it is a directory as `study.directory` describes it. The form that is committed
holds the same numbers in far fewer bytes, and equal results become equal bytes:

    manifest.json    as it was, with the SHA-256 of the next two files
    results.csv.gz   a row for each variant, placement, seed and epoch; where a variant held out
                     training images, its columns of the test are about these
    answers.npz.xz   what the networks said of each test image after the last epoch
    timing.json      as it was, if there is one

`answers.npz.xz` has three arrays for each variant, placement and evaluation, with names such as
`report/after_fc1/running/seeds`. `n` is the number of seeds and `N` that of test images:

    seeds      [n]
    confusion  [n, 10, 10] uint16, row = label, column = prediction
    correct    [N, ceil(n / 8)] uint8: whether each seed read each test image correctly, packed by
               `numpy.packbits` over the seeds; the images are in the order of the original files,
               and rows of zeros make their number a multiple of 8

A network without batch normalisation has only the evaluation `running`, because the others would be
the same.
"""

import base64
import csv
import gzip
import io
import lzma
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.groundwork import files
from experiments.groundwork.files import FileError
from experiments.study import directory as study_directory
from experiments.study.directory import MANIFEST, RESULTS, TIMING
from experiments.study.plan import Row, run_of

TABLE, ANSWERS = "results.csv.gz", "answers.npz.xz"


class Evaluated(NamedTuple):
    """Runs that differ only in their seed, evaluated in one of three ways."""

    variant: str
    placement: str
    evaluation: str  # a key of `settings.EVALUATIONS`


class Answers(NamedTuple):
    """What networks said of the test images after the last epoch, in one way of evaluation."""

    seeds: np.ndarray  # [n]
    confusion: np.ndarray  # [n, 10, 10] images, row = label, column = prediction
    correct: np.ndarray  # [n, ceil(N / 8)] uint8, `np.packbits` of whether each image was right


class Results(NamedTuple):
    """Everything that was measured; tables and figures are made of it."""

    rows: list[dict[str, Any]]  # as in `experiments.analysis`; the loss of a diverged run is None
    answers: dict[Evaluated, Answers]
    labels: np.ndarray | None  # [N] of the test images, in the order of the original files
    notes: list[str]  # sentences about what is missing


def is_there(directory: Path) -> bool:
    """Whether a directory has the results of a study."""
    return (directory / RESULTS).is_file() or (directory / TABLE).is_file()


def read(directory: Path) -> Results:
    """Reads a study in either form.

    Raises:
      FileError: a file is damaged, or no epoch is finished.
    """
    growing = (directory / RESULTS).exists()
    manifest: dict[str, Any] = {}
    if not growing or (directory / MANIFEST).exists():
        manifest = files.read_json(directory / MANIFEST)
    if growing:
        rows, notes = study_directory.read_results(directory)
        rows = sorted(rows, key=lambda row: (*run_of(row), row["epoch"]))
        answers = _gathered(rows)
        rows = [{name: row[name] for name in row if name != "answers"} for row in rows]
    else:
        recorded = manifest.get("sha256", {})
        table, arrays = (
            _checked(directory / name, recorded.get(name)) for name in (TABLE, ANSWERS)
        )
        rows, answers, notes = _rows(table), _answers(arrays), []
    digits = manifest.get("test_labels")
    labels = np.frombuffer(digits.encode(), np.uint8) - ord("0") if digits else None
    if not rows:
        raise FileError(f"{directory}: no epoch of this study is finished")
    return Results(rows, answers, labels, notes)


def write(source: Path, directory: Path, timing: Mapping[str, Any] | None) -> list[str]:
    """Writes a study in the form that is committed.

    Args:
      source: a study in either form.
      directory: where the files go; other files there are left alone.
      timing: what `benchmarks.epoch_time` wrote; None means the timing in the study.

    Returns:
      Sentences about what the study lacks.

    Raises:
      FileError: a file is damaged or cannot be written, or no epoch is finished.
    """
    results = read(source)
    manifest = files.read_json(source / MANIFEST)
    if timing is None and (source / TIMING).exists():
        timing = files.read_json(source / TIMING)
    content = {TABLE: _as_table(results.rows), ANSWERS: _as_arrays(results.answers)}
    manifest["sha256"] = {name: sha256(each).hexdigest() for name, each in content.items()}
    content[MANIFEST] = files.as_json(manifest)
    if timing is not None:
        content[TIMING] = files.as_json(timing)
    with files.writing(directory):
        for name, each in content.items():
            files.write_whole(directory / name, each)
        if timing is None:  # another study may have left its own
            (directory / TIMING).unlink(missing_ok=True)
    return results.notes


def _checked(path: Path, digest: str | None) -> bytes:
    """The content of a file; raises a FileError if its SHA-256 is not `digest`."""
    try:
        content = files.read_regular(path)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from error
    if sha256(content).hexdigest() != digest:
        raise FileError(f"{path}: damaged or changed, its digest is not that in {MANIFEST}")
    return content


def _gathered(rows: Sequence[Row]) -> dict[Evaluated, Answers]:
    """The answers of all runs, gathered from the rows of their last epochs."""
    found: dict[Evaluated, list[tuple[int, Any, np.ndarray]]] = {}
    for row in rows:
        variant, placement, seed = run_of(row)
        for evaluation, said in row.get("answers", {}).items():
            correct = np.frombuffer(base64.b64decode(said["correct"]), np.uint8)
            kind = Evaluated(variant, placement, evaluation)
            found.setdefault(kind, []).append((seed, said["confusion"], correct))
    return {
        kind: Answers(*map(np.array, zip(*answers, strict=True)))
        for kind, answers in sorted(found.items())
    }


def _as_table(rows: Sequence[Row]) -> bytes:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return _compressed(text.getvalue().encode())


def _rows(table: bytes) -> list[dict[str, Any]]:
    text = gzip.decompress(table).decode()
    return [
        {name: _value(name, word) for name, word in row.items()}
        for row in csv.DictReader(io.StringIO(text))
    ]


def _value(name: str, word: str) -> str | int | float | None:
    if name in ("variant", "placement"):
        return word
    if name in ("seed", "epoch"):
        return int(word)
    return float(word) if word else None


def _as_arrays(answers: Mapping[Evaluated, Answers]) -> bytes:
    arrays = {}
    for kind, (seeds, confusion, correct) in answers.items():
        name = "/".join(kind)
        arrays[f"{name}/seeds"] = seeds.astype(np.int64)
        arrays[f"{name}/confusion"] = confusion.astype(np.uint16)
        # With the seeds of an image side by side the file is half as large, because all seeds read
        # most images correctly.
        arrays[f"{name}/correct"] = np.packbits(np.unpackbits(correct, axis=1).T, axis=1)
    content = io.BytesIO()
    np.savez(content, **arrays)
    return lzma.compress(content.getvalue())  # two thirds of the size that `savez_compressed` gives


def _answers(content: bytes) -> dict[Evaluated, Answers]:
    found = {}
    with np.load(io.BytesIO(lzma.decompress(content)), allow_pickle=False) as arrays:
        for name in (name for name in arrays.files if name.endswith("/seeds")):
            kind = Evaluated(*name.split("/")[:-1])
            seeds, confusion, correct = (
                arrays["/".join((*kind, what))] for what in Answers._fields
            )
            by_seed = np.unpackbits(correct, axis=1, count=len(seeds)).T
            found[kind] = Answers(seeds, confusion, np.packbits(by_seed, axis=1))
    return found


def _compressed(content: bytes) -> bytes:
    """Compresses with gzip, without name and time, so that equal content gives equal bytes."""
    compressed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=compressed, mtime=0) as file:
        file.write(content)
    return compressed.getvalue()
