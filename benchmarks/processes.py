"""Runs programs in fresh processes and in random order, and records what else the machine did.

A time means little without the state of the machine on which it was taken. So the load average of
the minute before each process is recorded, how many CPUs other processes kept busy while it ran,
and how far apart the cores were. A value that the operating system does not tell is None.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from experiments.groundwork import cores

ROOT = Path(__file__).parents[1]
# A process that computes until the process that started it ends, however that ends.
_BUSY = """
import os
os.nice(19)
parent = os.getppid()
while os.getppid() == parent:
    sum(range(100_000))
"""

P = TypeVar("P")


class ProcessError(Exception):
    """A program failed; the message is the last line of what it said."""


class Conditions(NamedTuple):
    """What else the machine did while a process ran."""

    load_average: float | None  # of the minute before the process started
    other_cpus: float | None  # CPUs that other processes kept busy, on average
    stolen_cpus: float | None  # CPUs that the host of a virtual machine withheld, on average
    core_distance_ns: float | None  # the larger of the distances before and after the process


class Finished(NamedTuple):
    """A process that ended with exit status 0."""

    lines: list[tuple[float, str]]  # its standard output, with the seconds since its start
    seconds: float  # from its start to its end
    peak_memory_mib: float | None
    conditions: Conditions


def in_random_order(
    programs: Sequence[P],
    rounds: int,
    seed: int,
    *,
    together: Callable[[P], Hashable] = lambda program: program,
) -> list[tuple[int, P]]:
    """Every program once in each round 1, 2, ..., and each round in an order of its own.

    A disturbance of the machine then meets all programs alike, and two times of one round are a
    pair.

    Args:
      programs: what is to be run.
      rounds: how often.
      seed: decides the orders.
      together: programs for which it returns the same value run one after another in a round, so
        that hardly anything can change between the two times of a pair.

    Returns:
      The number of the round and the program, in the order in which they are to be run.
    """
    draw = random.Random(seed)
    groups: dict[Hashable, list[P]] = {}
    for program in programs:
        groups.setdefault(together(program), []).append(program)
    return [
        (number, program)
        for number in range(1, rounds + 1)
        for group in draw.sample(list(groups.values()), len(groups))
        for program in draw.sample(group, len(group))
    ]


def run(command: Sequence[str]) -> Finished:
    """Runs a Python program of this project, such as `("-m", "experiments.run")`.

    Raises:
      ProcessError: its exit status is not 0.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    load = load_average()
    distance = cores.distance()
    before = _cpu_seconds()
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        ) as process:
            try:
                assert process.stdout is not None
                lines = [(time.perf_counter() - start, x.rstrip("\n")) for x in process.stdout]
                usage = _wait(process)
            except BaseException:  # an interrupt: the program ends with this one
                process.kill()
                raise
        seconds = time.perf_counter() - start
        if process.returncode:
            errors.seek(0)
            said = errors.read().strip().splitlines()
            raise ProcessError(said[-1] if said else f"exit status {process.returncode}")
    after = _cpu_seconds()
    other = stolen = memory = None
    if usage is not None:
        # In bytes on macOS, in KiB elsewhere.
        memory = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        if before is not None and after is not None:
            own = usage.ru_utime + usage.ru_stime
            other = max(0.0, (after[0] - before[0] - own) / seconds)
            stolen = (after[1] - before[1]) / seconds
    if distance is not None:
        distance = max(distance, cores.distance() or 0)
    return Finished(lines, seconds, memory, Conditions(load, other, stolen, distance))


def run_for_json(command: Sequence[str]) -> tuple[dict[str, Any], Finished]:
    """Runs a program with `--json -`, which prints a JSON object as its last line.

    Returns:
      The object, and the process.

    Raises:
      ProcessError: its exit status is not 0.
    """
    finished = run([*command, "--json", "-"])
    return json.loads(finished.lines[-1][1]), finished


def data_words(data_dir: Path | None, mirror: Path | None) -> list[str]:
    """The options with which a program finds the same data as this one."""
    given = {"--data-dir": data_dir, "--mirror": mirror}
    return [word for name, path in given.items() if path for word in (name, str(path))]


def load_average() -> float | None:
    """How many processes ran or waited to run, on average over the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


@contextlib.contextmanager
def busy_beside(wanted: bool) -> Iterator[None]:
    """Has one process compute at the lowest priority, nice 19, for as long as the context lasts."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", _BUSY], stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def platform() -> str:
    """The platform that JAX computes on in a fresh process: `cpu`, `gpu`, ...

    Raises:
      ProcessError: JAX cannot start.
    """
    return run(["-c", "import jax; print(jax.default_backend())"]).lines[-1][1]


def _wait(process: subprocess.Popen[str]) -> Any:
    """Waits for a process; returns its `struct_rusage`, or None where there is none."""
    if not hasattr(os, "wait4"):
        process.wait()
        return None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


def _cpu_seconds() -> tuple[float, float] | None:
    """Seconds since the start of the machine, over all CPUs: busy, and stolen by the host."""
    try:
        with Path("/proc/stat").open() as file:
            fields = file.readline().split()[1:]
        user, nice, system, _, _, irq, softirq, steal, *_ = map(int, fields)
        tick = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq) / tick, steal / tick
