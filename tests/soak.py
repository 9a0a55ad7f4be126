"""What a run and a study survive: kills, damage of each format of file, and a full disk.

    python -m tests.soak
    python -m tests.soak --cases 20 --seed 1

With 100 cases of each kind this takes about half an hour on two cores. It prints a line for each
case that fails, and ends with the table of tests/README.md; its exit status is 1 if a case failed.
Runs and studies train on the made-up images of `tests.small`. The full disks are small tmpfs, which
only root can mount. test_soak.py has a few cases of each kind.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.groundwork import run_directory
from experiments.groundwork.command import UsageError
from mnist_jax import store
from mnist_jax.store import StoreError

ROOT = Path(__file__).parents[1]
RUN, STUDY = "after_fc1-seed0", "study"


class Ended(NamedTuple):
    """A process that has ended."""

    status: int  # negative: the signal
    out: str
    err: str


class Work(NamedTuple):
    """A command that trains, and the one that continues it."""

    name: str
    begin: tuple[str, ...]  # words after `python -m tests.small`; `{}` stands for the directory
    go_on: tuple[str, ...]
    content: Callable[[Path], Any]  # what must be the same as after an unbroken one


def content_of_run(directory: Path) -> dict[str, bytes]:
    """The files of a run that hold no times."""
    names = ("weights.safetensors", "per_class.csv", "config.json", "mistakes.png")
    return {name: (directory / RUN / name).read_bytes() for name in names}


def content_of_study(directory: Path) -> dict[str, bytes]:
    """The tables of a study, which hold all that its runs gave."""
    folder = directory / STUDY
    return {path.name: path.read_bytes() for path in sorted((folder / "tables").glob("*.md"))}


def a_run(epochs: int) -> Work:
    """A run of the network with the block after fc1."""
    begin = ("run", "--epochs", str(epochs), "--out", "{}")
    return Work("run", begin, ("resume", f"{{}}/{RUN}"), content_of_run)


def a_study(seeds: int) -> Work:
    """A study of the network without a block; the same command continues it."""
    words = ("compare", "train", "--seeds", str(seeds), "--epochs", "1", "--placements", "none")
    begin = (*words, "--variants", "report", "mnist", "--out", f"{{}}/{STUDY}")
    return Work("study", begin, begin, content_of_study)


def command(words: tuple[str, ...], directory: Path, kill_after: float | None = None) -> Ended:
    """Runs a command of `tests.small` in a directory, and kills it after so many seconds."""
    filled = [word.format(directory) for word in words]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.small", *filled],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(directory.parent / "cache")},
    )
    try:
        out, err = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    return Ended(process.returncode, out, err)


def unbroken(work: Work, root: Path) -> tuple[Any, float]:
    """What an unbroken one gives, and how many seconds it takes with its programs compiled."""
    for name in ("first", "whole"):
        start = time.perf_counter()
        ended = command(work.begin, root / name)
        assert ended.status == 0, ended.err
    return work.content(root / "whole"), time.perf_counter() - start


def killed(work: Work, root: Path, whole: Any, moments: Iterator[float]) -> int:
    """Kills a command at each of some moments, then lets it end; returns the number of kills."""
    kills, directory = 0, root / "killed"
    for moment in [*moments, None]:
        begun = (directory / RUN / run_directory.CHECKPOINT).exists()
        if work.name == "run" and not begun:
            shutil.rmtree(directory, ignore_errors=True)  # the next start would be another run
        words = work.go_on if begun or work.name == "study" else work.begin
        ended = command(words, directory, moment)
        if ended.status == 0:
            break
        assert ended.status == -9, f"{work.name}: not continued: {ended.err}"
        kills += 1
    assert work.content(directory) == whole, f"{work.name}: not the same after {kills} kills"
    shutil.rmtree(directory)
    return kills


def kills(cases: int, rng: np.random.Generator, root: Path) -> Counter:
    """SIGKILL at random moments; what is continued has the bytes of what was never killed."""
    seen: Counter = Counter()
    for work in (a_run(20), a_study(4)):
        whole, seconds = unbroken(work, root / work.name)
        while seen[work.name] < cases / 2:
            moments = iter(rng.uniform(0, seconds, 4))
            seen[work.name] += killed(work, root / work.name, whole, moments)
    return seen


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """A file's bytes with some of them flipped or cut out, or without its end."""
    start, length = int(rng.integers(0, len(content))), int(rng.integers(1, 40))
    middle, rest = content[start : start + length], content[start + length :]
    flipped = bytes(byte ^ int(rng.integers(1, 256)) for byte in middle)
    return content[:start] + [flipped + rest, rest, b""][rng.integers(3)]


def damage(cases: int, rng: np.random.Generator, root: Path) -> Counter:
    """Damage of each format: one line that names the file, or the same as before."""
    assert command(a_run(1).begin, root / "run").status == 0
    directory = root / "run" / RUN

    def arrays(path: Path) -> Any:
        stored = store.load(path)
        return stored.metadata, {name: x.tobytes() for name, x in stored.arrays.items()}

    victims: dict[str, Callable[[Path], Any]] = {
        run_directory.CHECKPOINT: arrays,
        run_directory.WEIGHTS: arrays,
        run_directory.CONFIG: lambda path: run_directory.read_config(path.parent),
    }
    seen: Counter = Counter()
    for name, read in victims.items():
        path = directory / name
        good = path.read_bytes()
        before = read(path)
        for _ in range(-(-cases // len(victims))):
            path.write_bytes(damaged(good, rng))
            try:
                # JSON carries no digest: a changed value that a recipe allows is the person's own.
                same = read(path) == before or name == run_directory.CONFIG
                assert same, f"{name}: damage was not noticed"
                seen["of no effect"] += 1
            except (StoreError, UsageError) as error:
                assert "\n" not in str(error), error
                seen["refused"] += 1
        path.write_bytes(good)
    return seen


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


def full_disk(cases: int, rng: np.random.Generator, root: Path) -> Counter:
    """Disks of random size, which are full at some write; with room the command goes on."""
    seen: Counter = Counter()
    if os.getuid() != 0:
        return Counter({"left out, because only root can mount a small disk": 1})
    for work in (a_run(3), a_study(2)):
        whole, _ = unbroken(work, root / work.name)
        place = root / work.name / "whole"
        size = sum(path.stat().st_size for path in place.rglob("*")) // 1024
        for kilobytes in rng.integers(4, size, -(-cases // 2)):
            with disk_of(int(kilobytes), root / "disk") as disk:
                ended = command(work.begin, disk)
                if ended.status:
                    assert ended.status == 2 and ended.err.count("\n") == 1, ended
                    assert "No space left on device" in ended.err, ended
                subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
                begun = work.name == "study" or (disk / RUN / run_directory.CHECKPOINT).exists()
                again = command(work.go_on if begun else work.begin, disk)
                assert again.status == 0, again
                assert work.content(disk) == whole, f"{work.name}: not the same after a full disk"
            seen["refused" if ended.status else "fitted"] += 1
    return seen


TESTS = {test.__name__: test for test in (kills, damage, full_disk)}


def main() -> int:
    """Runs all tests, and prints their table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=100, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    failed, lines = 0, ["| test | what was seen |", "| --- | --- |"]
    for name, test in TESTS.items():
        with tempfile.TemporaryDirectory() as root:
            try:
                seen = test(options.cases, np.random.default_rng(options.seed), Path(root))
                told = ", ".join(f"{number} {what}" for what, number in seen.items())
            except AssertionError as error:
                failed, told = failed + 1, f"FAILED: {error}"
        what = (test.__doc__ or "").removesuffix(".")
        lines.append(f"| {name}: {what} | {told} |")
        print(lines[-1], flush=True)
    print("\n" + "\n".join(lines))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
