"""Which cores of the machine a command computes on.

A training step is so short that what a second thread saves can be less than what it costs to move
arrays between two cores. The host of a virtual machine may place its two cores beside each other at
one time and on two chips of a processor at another, and the guest sees neither. What it can measure
is how long a byte takes from one core to the other and back.

On two cores of an AMD EPYC this was 0.2 us at one time, and an epoch on two threads took 0.67, 0.72
and 0.74 of the time that it takes on one (no block, before fc1, after fc1). At another time it was
0.46 us, and two threads took 1.10, 1.38 and 1.18 of one thread's time
(`experiments/results/timing.json` of commit 196f1fb). A straight line between the two meets one
thread's time at 0.40, 0.31 and 0.36 us, and `DISTANT` is about the middle of these. On another host
with such processors, whose epochs took twice as long, processes with distant cores took 0.67 to
1.35 of one thread's time (`benchmarks/README.md`).

XLA makes a thread for each core that the process may use when JAX starts. So a run with one thread
starts JAX while it is kept to one core, and may use both again after that: the programs of its end
are compiled on the other core while the network trains, and two runs at once get a core each.
Numbers of threads change no bit of a result on the machines that were tried.

This module imports little, because the process that measures imports it, too.
"""

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

DISTANT = 350  # nanoseconds there and back; from here on a second core costs time
TURNS = 3_000  # of the byte, about 1 ms
PATIENCE = 10  # seconds until a measurement is given up
_MEASURE = """
import sys
sys.path.insert(0, sys.argv[1])
from experiments.groundwork import cores
print(cores.measure(int(sys.argv[2])))
"""


def count() -> int:
    """The number of cores that this process may use; XLA and PyTorch start as many threads."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def can_choose() -> bool:
    """Whether this system can keep a process to some of the cores."""
    return hasattr(os, "sched_setaffinity")


def keep_to(number: int) -> None:
    """Keeps this process to the first `number` of the cores that it may use.

    This must be called before JAX or PyTorch start, because they make a thread for each core.
    """
    if number < count():
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])


@contextlib.contextmanager
def threads_made(number: int) -> Iterator[None]:
    """Makes JAX start `number` threads if it starts as long as the context lasts.

    Afterwards all threads of the process may use every core that the process might use before.
    """
    if number >= count():
        yield
        return
    allowed = os.sched_getaffinity(0)
    keep_to(number)
    try:
        yield
    finally:
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(int(thread.name), allowed)


def far_apart() -> float | None:
    """The distance of the cores in nanoseconds, if they are two and using both costs time."""
    if count() != 2:
        return None
    nanoseconds = distance()
    return nanoseconds if nanoseconds is not None and nanoseconds >= DISTANT else None


def distance(turns: int = TURNS) -> float | None:
    """How long a byte takes from the first core to the second and back, in nanoseconds.

    Another process measures it, so that this one keeps its cores. This takes 0.06 s, most of it
    to start Python.

    Args:
      turns: how often the byte goes there and back; the median counts.

    Returns:
      The time; None where there is only one core, where a process cannot be kept to one, and where
      the measurement fails or takes more than `PATIENCE` seconds.
    """
    if not can_choose() or count() < 2:
        return None
    root = str(Path(__file__).parents[2])
    try:
        done = subprocess.run(
            [sys.executable, "-S", "-c", _MEASURE, root, str(turns)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=PATIENCE,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return float(done.stdout)


def measure(turns: int) -> float:
    """Measures what `distance` returns, in a process that does nothing else.

    It forks a partner, keeps this process to one core and the partner to another, and does not undo
    that. Both processes end if the measurement takes more than `PATIENCE` seconds.
    """
    first, second, *_ = sorted(os.sched_getaffinity(0))
    shared = mmap.mmap(-1, 1)
    byte = memoryview(shared)
    partner = os.fork()
    signal.alarm(PATIENCE)  # neither process waits for ever for the other one
    if partner == 0:
        os.sched_setaffinity(0, [second])
        byte[0] = 2
        for _ in range(turns):
            while byte[0] != 1:
                pass
            byte[0] = 0
        os._exit(0)
    os.sched_setaffinity(0, [first])
    while byte[0] != 2:
        time.sleep(0.0005)
    measured = sorted(_turn(byte) for _ in range(turns))
    os.waitpid(partner, 0)
    return measured[turns // 2]


def _turn(byte: memoryview) -> int:
    start = time.perf_counter_ns()
    byte[0] = 1
    while byte[0] == 1:
        pass
    return time.perf_counter_ns() - start
