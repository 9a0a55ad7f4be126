"""Trains what a study lacks, and says before and meanwhile how long that takes."""

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator

import jax
from rich.console import Console

from experiments.groundwork import terminal
from experiments.study.session import Session, finished_epochs

# On an AMD EPYC with AVX-512: seconds of a core for an epoch of one run with its evaluations, and
# those in which the programs of a network are compiled.
EPOCH_SECONDS, COMPILE_SECONDS = 1.8, 15.0
TICK = 10.0  # seconds between two lines of a command without a terminal


def shown(session: Session, console: Console) -> None:
    """Does what a session has to do; on a terminal a bar moves, else a line is printed an epoch.

    Raises:
      StoreError: a file cannot be written.
    """
    todo = sum(len(group.seeds) * group.recipe.epochs for group in session.groups)
    console.print(f"to train: {_ahead(session, todo)}")
    done, start = 0, time.perf_counter()
    with terminal.progress(console, "epochs", 0, todo) as advance, _ticking(console):
        for group, (number, rows, _) in finished_epochs(session):
            done += len(rows)
            advance(len(rows))
            last = group.recipe.epochs
            if not console.is_terminal:
                accuracy = statistics.fmean(row["test_accuracy_percent"] for row in rows)
                console.print(f"{group}: epoch {number} of {last}, test accuracy {accuracy:.2f} %")
            if number == last:
                rest = (time.perf_counter() - start) / done * (todo - done)
                ahead = f"; the others take about {_duration(rest)}" if done < todo else ""
                console.print(f"{group}: finished and written{ahead}")


def _ahead(session: Session, epochs: int) -> str:
    """What there is to do, in words, and roughly how long it takes where that was measured."""
    if not epochs:
        return "nothing, all runs are there"
    count = sum(len(group.seeds) for group in session.groups)
    devices = jax.devices()
    networks = len({group.recipe for group in session.groups})
    seconds = networks * COMPILE_SECONDS + epochs * EPOCH_SECONDS / len(devices)
    expected = f", roughly {_duration(seconds)}" if devices[0].platform == "cpu" else ""
    runs = f"{count:,} runs of {networks} network{'s' if networks > 1 else ''}"
    return f"{runs}, {epochs:,} epochs together{expected}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def _ticking(console: Console) -> Iterator[None]:
    """Says every few seconds that the command still trains, where no terminal shows a bar."""
    ended, start = threading.Event(), time.perf_counter()

    def tick() -> None:
        while not ended.wait(TICK):
            minutes, seconds = divmod(int(time.perf_counter() - start), 60)
            console.print(f"still training after {minutes}:{seconds:02} min")

    if not console.is_terminal:
        threading.Thread(target=tick, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
