"""What a run and a study survive: kills, damage, full disks, two at once, malformed files.

    python -m tests.soak
    python -m tests.soak --only kills damage --share 0.1

All of it takes about an hour on two cores, prints a line for every case that fails, and ends with
the table of tests/README.md; its exit status is 1 where a case failed. Runs and studies train on
the made-up images of `tests.small`, the preparation of the data is that of MNIST itself, from the
mirror that MNIST_MIRROR names. The full disks are small tmpfs, which only root can mount.

The suite has short forms of all this, in test_soak.py and in the test file of each room.
"""

import argparse
import contextlib
import json
import multiprocessing
import multiprocessing.pool
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import jax
import numpy as np
import safetensors.numpy
from experiments.groundwork.files import FileError
from experiments.groundwork.options import UsageError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from experiments.groundwork import files, run_directory
from experiments.groundwork.variants import VARIANTS, Cell
from experiments.study import directory as study_directory
from experiments.study import report, results, session
from mnist_jax import prepare
from mnist_jax.data import load_mnist
from mnist_jax.model import PLACEMENTS
from mnist_jax.sources import DataError
from tests import small

ROOT = Path(__file__).parents[1]
EPOCHS = 40  # of a run that is killed: most of its life it writes epochs
MEMORY_BYTES, SECONDS = 2**30, 10  # at most, for a malformed file of weights


# Prepares MNIST in a directory, or loads it from there, and prints its digests.
PREPARE = (
    "-c",
    """
import sys
from experiments.groundwork import options
from mnist_jax.data import digests, load_mnist

def body():
    print(digests(*load_mnist(sys.argv[1])))
    return 0

sys.exit(options.run_command(body))
""",
)


class FailedCaseError(Exception):
    """What a case did that it must not do."""


class Outcome(NamedTuple):
    """What came of the cases of one test."""

    cases: int
    failures: list[str]
    seen: str  # what happened, in a few words


# Commands ----------------------------------------------------------------------------------------


class Ended(NamedTuple):
    """A process that has ended."""

    status: int  # negative: the signal
    out: str
    err: str


def command(*words: str | Path, kill_at: float | str | None = None, cache: Path) -> Ended:
    """Runs Python with these words.

    Args:
      words: the command line after `python`.
      kill_at: the process is killed this many seconds after its start, or as soon as its output
        contains this text; None lets it end.
      cache: the user's cache directory.
    """
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            stdout=out,
            stderr=err,
            cwd=ROOT,
            env=environment,
        )
        while process.poll() is None:
            try:
                process.wait(0.01 if isinstance(kill_at, str) else kill_at)
            except subprocess.TimeoutExpired:
                said = os.pread(out.fileno(), 2**20, 0).decode(errors="replace")
                if not isinstance(kill_at, str) or kill_at in said:
                    process.kill()
        out.seek(0)
        err.seek(0)
        return Ended(process.returncode, out.read(), err.read())


def expect(held: bool, what: str) -> None:
    """Raises the failure of a case unless a condition held."""
    if not held:
        raise FailedCaseError(what)


def expect_one_line(ended: Ended, *parts: str | Path) -> None:
    """The command said in one line what the user can mend."""
    expect(ended.status == 2, f"status {ended.status}: {ended.err[-300:]}")
    expect(ended.err.count("\n") == 1, f"not one line: {ended.err[-300:]}")
    for part in parts:
        expect(str(part) in ended.err, f"{part} is not in: {ended.err}")


# Kills -------------------------------------------------------------------------------------------


class Work(NamedTuple):
    """Something that a command makes, may be killed at, and can be told to continue."""

    name: str
    begin: Callable[[Path], Sequence[str | Path]]  # its words, for a directory
    proceed: Callable[[Path], Sequence[str | Path] | None]  # None: nothing is there to continue
    content: Callable[[Path], dict[str, Any]]  # what an unbroken one has to the byte


def a_run(placement: str, epochs: int = EPOCHS) -> Work:
    """A run of `experiments.run`."""
    name = f"{placement}-seed0"

    def begin(root: Path) -> Sequence[str | Path]:
        options = ("--placement", placement, "--epochs", str(epochs), "--keep-epochs")
        return ("-m", "tests.small", "run", "--out", root, *options)

    def proceed(root: Path) -> Sequence[str | Path] | None:
        if not (root / name / run_directory.CONFIG).exists():
            # What a start that was killed before its first file leaves; nothing of it is used.
            shutil.rmtree(root, ignore_errors=True)
            return None
        return ("-m", "tests.small", "run", "--resume", root / name)

    return Work(f"run, {placement}", begin, proceed, lambda root: content_of_run(root / name))


def a_study(placement: str, *words: str) -> Work:
    """A study of `experiments.compare`, whose tables and figures are made at the end.

    Its two settings have 40 epochs together, unless `words`, more options, say otherwise.
    """

    def begin(root: Path) -> Sequence[str | Path]:
        options = ("--placements", placement, "--variants", "report", "longer", "--seeds", "2")
        return ("-m", "tests.small", "compare", "--out", root, *options, *words)

    def proceed(root: Path) -> Sequence[str | Path] | None:
        if not (root / study_directory.MANIFEST).exists():
            return None
        return (*begin(root), "--resume")

    return Work(f"study, {placement}", begin, proceed, content_of_study)


def content_of_run(directory: Path) -> dict[str, Any]:
    """All that a run leaves but times; the manifest has an entry for each start."""
    saved = run_directory.read_checkpoint(directory)
    history = files.read_lines(directory / run_directory.METRICS).values
    expect(history == saved.metadata["history"], "metrics.jsonl is not what the checkpoint says")
    content: dict[str, Any] = {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.suffix in (".safetensors", ".csv", ".png") or path.name == run_directory.CONFIG
    }
    content["metrics"] = [{k: v for k, v in row.items() if k != "seconds"} for row in history]
    content["state"] = {name: array.tobytes() for name, array in saved.arrays.items()}
    return content


def content_of_study(directory: Path) -> dict[str, Any]:
    """All that a study leaves but its manifest, which has an entry for each start."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != study_directory.MANIFEST
    }


def printed_epochs(out: str) -> list[str]:
    """Which epochs a command said that it had finished."""
    return re.findall(r"^(?:Epoch \d+(?=,)|\S+, seeds? .*?, epoch \d+(?=/))", out, re.MULTILINE)


def unbroken(work: Work, root: Path, cache: Path) -> tuple[dict[str, Any], float]:
    """The content of a work that nothing disturbs, and the seconds that it takes."""
    command(*work.begin(root / "first"), cache=cache)  # fills the compile cache
    start = time.monotonic()
    ended = command(*work.begin(root / "whole"), cache=cache)
    seconds = time.monotonic() - start
    expect(ended.status == 0, f"{work.name}: status {ended.status}: {ended.err}")
    return work.content(root / "whole"), seconds


def kill_until_done(
    work: Work,
    root: Path,
    cache: Path,
    whole: dict[str, Any],
    moments: Iterator[float | str],
) -> int:
    """Kills a work at these moments of each start, until it has ended by itself.

    A moment is what `command` takes as `kill_at`.

    Returns:
      How many kills it took.
    """
    kills, printed = 0, []
    while True:
        words = work.proceed(root) or work.begin(root)
        ended = command(*words, kill_at=next(moments, None), cache=cache)
        repeated = set(printed).intersection(fresh := printed_epochs(ended.out))
        expect(not repeated, f"{work.name}: trained again: {sorted(repeated)}")
        printed += fresh
        if ended.status == -signal.SIGKILL:
            kills += 1
            continue
        expect(ended.status == 0, f"{work.name}: status {ended.status}: {ended.err}")
        found = work.content(root)
        different = [name for name in whole.keys() | found if whole.get(name) != found.get(name)]
        expect(not different, f"{work.name}: different after {kills} kills: {sorted(different)}")
        left = [path for path in root.rglob("*") if path.name.endswith((".incomplete", ".lock"))]
        expect(not left, f"{work.name}: left behind: {left}")
        return kills


def kills(count: int, rng: np.random.Generator, root: Path) -> Outcome:
    """SIGKILL at random moments of runs and studies of all placements, continued until done."""
    works = [make(placement) for make in (a_run, a_study) for placement in PLACEMENTS]
    failures: list[str] = []
    done, completed = 0, 0
    for number, work in enumerate(works):
        folder, cache = root / str(number), root / "cache"
        whole, seconds = unbroken(work, folder, cache)
        wanted = -(-count * (number + 1) // len(works))
        while done < wanted:
            # Two in three of all starts are killed before they would have ended.
            moments = (rng.uniform(0, 1.5 * seconds) for _ in range(wanted - done))
            fresh, killed = folder / str(completed + len(failures)), 1  # a failure counts as a kill
            with collecting(failures):
                killed = kill_until_done(work, fresh, cache, whole, moments)
                completed += 1
            done += killed
    return Outcome(done, failures, f"{completed} runs and studies were continued to their end")


@contextlib.contextmanager
def collecting(failures: list[str]) -> Iterator[None]:
    """Keeps the failure of a case, and prints it at once."""
    try:
        yield
    except FailedCaseError as failure:
        failures.append(str(failure))
        print(f"FAILED: {failure}", flush=True)


def preparation(count: int, rng: np.random.Generator, root: Path) -> Outcome:
    """SIGKILL while MNIST is prepared; the next start prepares it or uses it."""
    start = time.monotonic()
    good = command(*PREPARE, root / "whole", cache=root)
    seconds = time.monotonic() - start
    expect(good.status == 0, f"status {good.status}: {good.err}")
    expected = {path.relative_to(root / "whole") for path in (root / "whole").rglob("*")}
    failures: list[str] = []
    done, after = 0, 0
    while done < count:
        folder = root / "killed"
        ended = command(*PREPARE, folder, kill_at=rng.uniform(0, 1.2 * seconds), cache=root)
        if ended.status == -signal.SIGKILL:
            done += 1
            if done < count and rng.random() < 0.5:
                continue  # kills may follow one another, too
            ended = command(*PREPARE, folder, cache=root)
            after += 1
        with collecting(failures):
            expect((ended.status, ended.out) == (0, good.out), f"next start: {ended}")
            found = {path.relative_to(folder) for path in folder.rglob("*")}
            # The lock's name, which means nothing once its process has ended.
            left = found - expected - {Path(prepare.LOCK)}
            expect(found >= expected and not left, f"left behind: {left}")
        shutil.rmtree(folder)
    return Outcome(done, failures, f"{after} starts after one or more kills had the data whole")


# Damage ------------------------------------------------------------------------------------------


@st.composite
def damages(draw: Any) -> Callable[[bytes], bytes]:
    """Flips up to 40 bytes of a file, cuts them out, or cuts off what follows."""
    start, length = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(1, 40))
    how = draw(st.sampled_from(("flip", "cut out", "cut off")))
    mask = draw(st.integers(1, 255))

    def damage(old: bytes) -> bytes:
        first = int(start * len(old))
        middle, rest = old[first : first + length], old[first + length :]
        if how == "flip":
            return old[:first] + bytes(byte ^ mask for byte in middle) + rest
        return old[:first] + (rest if how == "cut out" else b"")

    return damage


class Victim(NamedTuple):
    """A file, and what is read of the directory in which it lies."""

    directory: Path
    file: Path  # in `directory`
    read: Callable[[Path], Any]  # of a copy of the directory: what a command makes of it


def victims(root: Path) -> list[Victim]:
    """Every kind of file that a command leaves and reads again."""
    with small.in_place_of_mnist():
        status = small.main(
            ["run", "--out", str(root / "runs"), "--epochs", "3", "--keep-epochs", "--quiet"]
        )
    expect(status == 0, "the run to be damaged")
    made_run = root / "runs" / "after_fc1-seed0"
    found = [
        Victim(made_run, Path(name), read_run)
        for name in ("config.json", "manifest.json", "checkpoint", "weights.safetensors")
    ]
    found += [Victim(made_run, Path("metrics.jsonl"), continued_run)]

    train_study(root / "study", stop_after=2)
    (saved,) = (root / "study" / "checkpoints").iterdir()
    for name in ("manifest.json", "results.jsonl", f"checkpoints/{saved.name}"):
        found.append(Victim(root / "study", Path(name), finished_study))

    (root / "times").mkdir()
    seconds = {"before_fc1": [2.2, 2.3], "after_fc1": [1.8, 1.9]}
    rows = [
        {"program": "mnist_jax", "threads": 2, "placement": name, "epoch_seconds": measured}
        for name, measured in seconds.items()
    ]
    files.write_whole(root / "times" / "timing.json", files.as_json({"rows": rows}))
    found.append(
        Victim(
            root / "times",
            Path("timing.json"),
            lambda path: report.read_timing(path / "timing.json"),
        )
    )

    train_study(root / "finished")
    (root / "committed").mkdir()
    results.write(root / "finished", root / "committed", {"rows": rows})
    for name in ("manifest.json", "results.csv.gz", "answers.npz.xz"):
        found.append(Victim(root / "committed", Path(name), read_results))
    return found


@contextlib.contextmanager
def prepared_victims(root: Path) -> Iterator[list[Victim]]:
    """The files of a prepared data set; while this lasts, made-up files pass for its originals."""
    from tests.test_sources import made_up, write_originals

    (root / "mirror").mkdir()
    registered = write_originals(root / "mirror", made_up())
    known = prepare.DIGESTS
    originals = prepare.originals
    prepare.originals = lambda dataset: registered
    prepare.DIGESTS = {}
    try:
        load_mnist(root, root / "mirror", dataset="kmnist")
        (folder,) = (root / "kmnist").iterdir()

        def read(copy: Path) -> Any:
            return jax.tree.map(np.ndarray.tolist, prepare.load(copy / folder.name))

        yield [
            Victim(folder.parent, path.relative_to(folder.parent), read)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
    finally:
        prepare.DIGESTS = known
        prepare.originals = originals


def train_study(out: Path, stop_after: int | None = None) -> list[str]:
    """Trains what a study of two seeds and three epochs has not got; returns what was noted."""
    setting = {"report": VARIANTS["report"]._replace(epochs=3)}
    asked = [Cell("report", "none", range(2))]  # it compiles fastest
    with study_directory.opened(out):
        begun = session.begin(out, setting, asked, small.splits())
        for number, _ in enumerate(session.finished_epochs(begun), 1):
            if number == stop_after:
                break
        return begun.notes


def read_run(directory: Path) -> Any:
    """What `experiments.predict` and `experiments.page` read of a run."""
    opened = run_directory.open_run(directory)
    arrays = jax.tree.map(lambda leaf: np.asarray(leaf).tobytes(), opened.variables)
    return opened._replace(path=Path(), variables=arrays, epochs=()), opened.model


def continued_run(directory: Path) -> Any:
    """A finished run that is continued, which mends what does not count."""
    with small.in_place_of_mnist():
        expect(small.main(["run", "--resume", str(directory), "--quiet"]) == 0, "not continued")
    return content_of_run(directory)


def finished_study(directory: Path) -> Any:
    """The lines of a study that is continued to its end, in order."""
    train_study(directory)
    return sorted((directory / "results.jsonl").read_bytes().splitlines())


def read_results(directory: Path) -> Any:
    """What tables are made of."""
    found = results.read(directory)
    answers = [(kind, [x.tolist() for x in said]) for kind, said in found.answers.items()]
    return found.rows, answers, np.asarray(found.labels).tolist(), found.notes


def damage(count: int, rng: np.random.Generator, root: Path) -> Outcome:
    """Bytes of any file flipped or cut: one line that names the file, or no difference."""
    failures: list[str] = []
    seen = {"refused": 0, "mended or of no effect": 0}
    with prepared_victims(root) as prepared:
        for kind in (victims(root), prepared):
            _damage(kind, max(1, count // 2), int(rng.integers(2**32)), root, failures, seen)
    return Outcome(sum(seen.values()) + len(failures), failures, told(seen))


def _damage(
    kind: list[Victim],
    count: int,
    seed: int,
    root: Path,
    failures: list[str],
    seen: dict[str, int],
) -> None:
    expected = {victim: victim.read(copied(victim, root / "good")) for victim in kind}

    @hypothesis.seed(seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.sampled_from(kind), damages())
    def case(victim: Victim, spoil: Callable[[bytes], bytes]) -> None:
        copy = copied(victim, root / "copy")
        path = copy / victim.file
        path.write_bytes(spoil(path.read_bytes()))
        with collecting(failures):
            try:
                found = victim.read(copy)
            except (FileError, UsageError, DataError) as error:
                expect("\n" not in str(error), f"{victim.file}: {error}")
                expect(path.name in str(error), f"{victim.file} is not named: {error}")
                seen["refused"] += 1
            except FailedCaseError:
                raise
            except BaseException as error:
                raise FailedCaseError(f"{victim.file}: {type(error).__name__}: {error}") from error
            else:
                expect(found == expected[victim], f"{victim.file}: something else was read")
                seen["mended or of no effect"] += 1

    case()


def copied(victim: Victim, copy: Path) -> Path:
    """A fresh copy of the directory of a victim."""
    shutil.rmtree(copy, ignore_errors=True)
    return Path(shutil.copytree(victim.directory, copy))


def told(seen: dict[str, int]) -> str:
    """The counts as words."""
    return ", ".join(f"{number} {what}" for what, number in seen.items())


# Full disks --------------------------------------------------------------------------------------


@contextlib.contextmanager
def disk_of(kilobytes: int, place: Path) -> Iterator[Path]:
    """A file system of that size."""
    place.mkdir(parents=True, exist_ok=True)
    size = f"size={kilobytes}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def grow(place: Path) -> None:
    """Gives a full disk room again."""
    subprocess.run(["mount", "-o", "remount,size=1g", place], check=True)


ON_SMALL_DISKS = (a_run("after_fc1", epochs=3), a_study("none", "--epochs", "3"))


def full_disk(count: int, rng: np.random.Generator, root: Path) -> Outcome:
    """Disks of growing size, each full at another write; then there is room, and it continues."""
    if os.getuid() != 0:
        return Outcome(0, [], "left out: only root can mount a small disk")
    failures: list[str] = []
    seen = {"refused": 0, "fitted": 0}
    each = max(1, count // (len(ON_SMALL_DISKS) + 2))
    for number, work in enumerate(ON_SMALL_DISKS):
        folder, cache = root / str(number), root / "cache"
        whole, _ = unbroken(work, folder, cache)
        size = sum(path.stat().st_size for path in (folder / "whole").rglob("*")) // 1024
        for kilobytes in np.unique(np.geomspace(4, 1.5 * size, each).astype(int)):
            with collecting(failures), disk_of(int(kilobytes), folder / "disk") as disk:
                ended = command(*work.begin(disk / "out"), cache=cache)
                if ended.status == 0:
                    seen["fitted"] += 1
                else:
                    expect_one_line(ended, disk, "No space left on device")
                    seen["refused"] += 1
                grow(disk)
                kill_until_done(work, disk / "out", cache, whole, iter(()))
    for kilobytes in np.geomspace(4, 4000, each).astype(int):
        work = ON_SMALL_DISKS[0]
        whole = work.content(root / "0" / "whole")
        with collecting(failures), disk_of(int(kilobytes), root / "disk") as disk:
            # A compile cache that is full costs a compilation, and no word.
            words = (*work.begin(root / f"cached{kilobytes}"), "--compile-cache", disk / "cache")
            ended = command(*words, cache=root / "cache")
            expect((ended.status, ended.err) == (0, ""), f"a full cache: {ended}")
            expect(work.content(root / f"cached{kilobytes}") == whole, "a full cache: another run")
            seen["fitted"] += 1
    for kilobytes in np.geomspace(4, 150_000, each).astype(int):
        with collecting(failures), disk_of(int(kilobytes), root / "disk") as disk:
            ended = command(*PREPARE, disk / "data", cache=root)
            if ended.status:
                expect_one_line(ended, disk)
                seen["refused"] += 1
                left = [path for path in (disk / "data").rglob("*") if path.is_file()]
                expect(not left, f"left behind: {left}")
                grow(disk)
                ended = command(*PREPARE, disk / "data", cache=root)
            else:
                seen["fitted"] += 1
            expect(ended.status == 0, f"with room: {ended}")
    return Outcome(sum(seen.values()) + len(failures), failures, told(seen))


# Two at once -------------------------------------------------------------------------------------


def two_at_once(count: int, rng: np.random.Generator, root: Path) -> Outcome:
    """Two commands at the same work: both are right, or the second is refused in one line."""
    failures: list[str] = []
    seen = {"both right": 0, "one refused": 0}
    cache = root / "cache"
    run, study = a_run("none"), a_study("none")
    whole_run, _ = unbroken(run, root / "run", cache)
    whole_study, seconds = unbroken(study, root / "study", cache)
    pool = multiprocessing.pool.ThreadPool(2)

    def both(first: Sequence[Any], second: Sequence[Any]) -> list[Ended]:
        wait = rng.uniform(0, 0.5 * seconds)

        def start(late: float, words: Sequence[Any]) -> Ended:
            time.sleep(late)
            return command(*words, cache=cache)

        return pool.starmap(start, [(0, first), (wait, second)])

    for number in range(count):
        out = root / str(number)
        what = ("same --out", "continued run", "study", "data")[number % 4]
        with collecting(failures):
            if what == "same --out":
                ended = both(run.begin(out), run.begin(out))
                expect(all(one.status == 0 for one in ended), f"{what}: {ended}")
                for directory in out.iterdir():
                    expect(content_of_run(directory) == whole_run, f"{what}: {directory.name}")
            elif what == "data":
                ended = both((*PREPARE, out), (*PREPARE, out))
                expect(all(one.status == 0 for one in ended), f"{what}: {ended}")
            else:
                work, whole = (run, whole_run) if what == "continued run" else (study, whole_study)
                command(*work.begin(out), kill_at=0.7 * seconds, cache=cache)
                words = work.proceed(out) or work.begin(out)
                ended = both(words, words)
                refused = [one for one in ended if one.status]
                for one in refused:
                    expect_one_line(one, out)
                expect(len(refused) < 2, f"{what}: both were refused: {ended}")
                expect(work.content(out) == whole, f"{what}: another result")
            seen["one refused" if any(one.status for one in ended) else "both right"] += 1
    return Outcome(count, failures, told(seen))


# Malformed weights -------------------------------------------------------------------------------


def malformed(count: int, rng: np.random.Generator, root: Path) -> Outcome:
    """Files of weights that lie: refused in one line, soon, and without filling the memory."""
    context = multiprocessing.get_context("spawn")  # its peak of memory is its own
    with context.Pool(1) as pool:
        return pool.apply(_malformed, (count, int(rng.integers(2**31)), root))


def _malformed(count: int, seed: int, root: Path) -> Outcome:
    rng = np.random.default_rng(seed)
    with small.in_place_of_mnist():
        small.main(["run", "--out", str(root / "runs"), "--epochs", "1", "--quiet"])
    good = (root / "runs" / "after_fc1-seed0" / run_directory.WEIGHTS).read_bytes()
    tensors = safetensors.numpy.load(good)
    resource_before = peak_bytes()
    failures: list[str] = []
    kinds = [*MALFORMED]
    slowest = 0.0
    for number in range(count):
        kind = kinds[number % len(kinds)]
        path = root / f"{number}.safetensors"
        path.unlink(missing_ok=True)
        MALFORMED[kind](path, good, tensors, rng)
        start = time.monotonic()
        with collecting(failures):
            try:
                run_directory.open_weights(path)
            except UsageError as error:
                expect(str(error).startswith(f"{path}: "), f"{kind}: {error}")
                expect("\n" not in str(error), f"{kind}: {error}")
            except BaseException as error:
                raise FailedCaseError(f"{kind}: {type(error).__name__}: {error}") from error
            else:
                raise FailedCaseError(f"{kind}: was accepted")
            finally:
                slowest = max(slowest, time.monotonic() - start)
        if path.is_file():
            path.unlink()
    memory = peak_bytes()
    if memory > MEMORY_BYTES or slowest > SECONDS:
        failures.append(f"{memory / 2**20:.0f} MiB, {slowest:.1f} s")
    return Outcome(
        count,
        failures,
        f"{len(kinds)} kinds, at most {slowest:.2f} s and {memory / 2**20:.0f} MiB of memory, of "
        f"which {resource_before / 2**20:.0f} before the first",
    )


def peak_bytes() -> int:
    """The largest memory of this process so far."""
    with contextlib.suppress(OSError):  # Linux: the other number has the parent's memory in it
        status = Path("/proc/self/status").read_text()
        return 1024 * int(re.findall(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def header_and_data(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The two parts of a .safetensors file."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def with_header(header: Any, data: bytes, size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


def _lie(change: Callable[[dict[str, Any], str, np.random.Generator], None]) -> Callable[..., None]:
    """Writes a file whose header says something else of one of its tensors."""

    def write(path: Path, good: bytes, tensors: Any, rng: np.random.Generator) -> None:
        header, data = header_and_data(good)
        name = str(rng.choice(sorted(tensors)))
        change(header, name, rng)
        path.write_bytes(with_header(header, data))

    return write


def _bytes(make: Callable[[bytes, np.random.Generator], bytes]) -> Callable[..., None]:
    return lambda path, good, tensors, rng: path.write_bytes(make(good, rng))


def _tensors(change: Callable[[dict[str, Any], np.random.Generator], Any]) -> Callable[..., None]:
    """Writes other tensors in a sound file, as PyTorch would, without metadata of ours."""

    def write(path: Path, good: bytes, tensors: Any, rng: np.random.Generator) -> None:
        others = {name: np.array(array) for name, array in tensors.items()}
        change(others, rng)
        safetensors.numpy.save_file(others, path)

    return write


def _floats(tensors: dict[str, Any]) -> list[str]:
    return sorted(name for name, array in tensors.items() if array.dtype == np.float32)


def _not_finite(tensors: dict[str, Any], rng: np.random.Generator) -> None:
    array = tensors[str(rng.choice(_floats(tensors)))]
    array.flat[rng.integers(array.size)] = rng.choice([np.nan, np.inf, -np.inf])


def _retyped(tensors: dict[str, Any], rng: np.random.Generator) -> None:
    name = str(rng.choice(_floats(tensors)))
    tensors[name] = tensors[name].astype(rng.choice(["float16", "float64", "int32", "uint8"]))


def _reshaped(tensors: dict[str, Any], rng: np.random.Generator) -> None:
    name = str(rng.choice(_floats(tensors)))
    tensors[name] = tensors[name].reshape(-1, 1)


def _extra(tensors: dict[str, Any], rng: np.random.Generator) -> None:
    tensors[f"extra{rng.integers(1000)}"] = np.zeros(rng.integers(1, 100), np.float32)


def _without(tensors: dict[str, Any], rng: np.random.Generator) -> None:
    del tensors[str(rng.choice(_floats(tensors)))]


MALFORMED: dict[str, Callable[..., Any]] = {
    "another shape": _lie(
        lambda header, name, rng: header[name].update(shape=[int(rng.integers(1, 2**40))])
    ),
    "another dtype": _lie(
        lambda header, name, rng: header[name].update(dtype=str(rng.choice(["F64", "I8", "BF16"])))
    ),
    "other offsets": _lie(
        lambda header, name, rng: header[name].update(
            data_offsets=[int(rng.integers(2**40)), int(rng.integers(2**41))]
        )
    ),
    "a renamed tensor": _lie(lambda header, name, rng: header.update(x=header.pop(name))),
    "no such dtype": _lie(lambda header, name, rng: header[name].update(dtype="F33")),
    "a number for a tensor": _lie(lambda header, name, rng: header.update({name: 3})),
    "a huge header": _bytes(
        lambda good, rng: int(rng.integers(2**40, 2**62)).to_bytes(8, "little") + good[8:]
    ),
    "a header of no JSON": _bytes(lambda good, rng: with_header(b"{" * 1000, good)),
    "a deep header": _bytes(lambda good, rng: with_header(b"[" * 100_000, good)),
    "cut off": _bytes(lambda good, rng: good[: rng.integers(len(good))]),
    "longer": _bytes(lambda good, rng: good + rng.bytes(int(rng.integers(1, 1000)))),
    "a changed number": _bytes(lambda good, rng: _with_flipped_number(good, rng)),
    "noise": _bytes(lambda good, rng: rng.bytes(int(rng.integers(1, 10_000)))),
    "empty": _bytes(lambda good, rng: b""),
    "a pickle": _bytes(lambda good, rng: b"\x80\x04cos\nsystem\n" + rng.bytes(100)),
    "a number that is not finite": _tensors(_not_finite),
    "a tensor of another dtype": _tensors(_retyped),
    "a tensor of another shape": _tensors(_reshaped),
    "one tensor more": _tensors(_extra),
    "one tensor less": _tensors(_without),
    "a pipe": lambda path, good, tensors, rng: os.mkfifo(path),
    "a device without end": lambda path, good, tensors, rng: path.symlink_to("/dev/zero"),
    "a directory": lambda path, good, tensors, rng: path.mkdir(),
    "a link to nothing": lambda path, good, tensors, rng: path.symlink_to(path),
    "a huge file with holes": lambda path, good, tensors, rng: _sparse(path, good),
}


def _with_flipped_number(good: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(8 + int.from_bytes(good[:8], "little"), len(good)))
    return good[:place] + bytes([good[place] ^ int(rng.integers(1, 256))]) + good[place + 1 :]


def _sparse(path: Path, good: bytes) -> None:
    path.write_bytes(good)
    os.truncate(path, 2**33)


# The table ---------------------------------------------------------------------------------------


class Test(NamedTuple):
    """A row of the table."""

    what: str
    cases: int
    run: Callable[[int, np.random.Generator, Path], Outcome]


TESTS = {
    "kills": Test("SIGKILL at random moments of runs and studies, all placements", 200, kills),
    "preparation": Test("SIGKILL while the data are prepared", 50, preparation),
    "damage": Test("bytes of any file flipped or cut", 1000, damage),
    "full_disk": Test("full disk: run, study, compile cache, preparation", 48, full_disk),
    "two_at_once": Test("two at once: same `--out`, run, study, data", 16, two_at_once),
    "malformed": Test("malformed `.safetensors`", 500, malformed),
}


def main() -> int:
    """Runs the tests that are asked for, and prints the table."""
    parser = argparse.ArgumentParser(
        "python -m tests.soak", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--only", nargs="+", choices=list(TESTS), default=list(TESTS))
    parser.add_argument("--share", type=float, default=1.0, help="of the cases, default all")
    parser.add_argument("--seed", type=int, default=0, help="of all random moments and damages")
    options = parser.parse_args()
    lines, failed = [], False
    for name in options.only:
        what, cases, run = TESTS[name]
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            rng = np.random.default_rng(options.seed)
            outcome = run(max(1, round(options.share * cases)), rng, Path(folder))
        failed = failed or bool(outcome.failures)
        seconds = time.monotonic() - start
        lines.append(
            f"| {what} | {outcome.cases} | {len(outcome.failures)} | {outcome.seen} | "
            f"{seconds / 60:.0f} |"
        )
        print(lines[-1], flush=True)
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "numpy"))
    print(
        f"\n{platform.machine()}, {os.cpu_count()} cores, {platform.system()}; Python "
        f"{platform.python_version()}, {packages}\n"
    )
    print("| test | cases | failures | what was seen | minutes |\n| --- | --- | --- | --- | --- |")
    print("\n".join(lines))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
