"""How long does a byte take from one core to another and back?

    python -m benchmarks.core_distance

Method. Two processes, each kept to one core, hand a byte in shared memory back and forth. The time
includes the moves of the cache line between the cores and Python's own loop.

Conditions. The cores of a virtual machine may share a cache at one time and lie on two chips of a
processor at another, and the guest sees neither. `benchmarks.epoch_time` records the distance
beside each process that it times, so that one can see whether it matters there. It can be measured
on Linux only, and another process that computes on one of the cores lengthens it.
"""

import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context, shared_memory
from typing import Any

from benchmarks import processes

TURNS = 3_000


@dataclass(frozen=True)
class Config:
    """Measure how long a byte takes from one core to another and back."""

    turns: int = TURNS
    """Number of times that the byte goes there and back, at least 1."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    # Imported here, because the other process imports this module, and these imports take long.
    from experiments import options
    from experiments.options import FailedError, refuse_unless_positive

    def body() -> int:
        config = options.parse(
            Config, arguments, name="benchmarks.core_distance", description=__doc__
        )
        refuse_unless_positive(config, "turns")
        nanoseconds = round_trip_nanoseconds(config.turns)
        if nanoseconds is None:
            raise FailedError("two processes cannot be kept to a core each")
        print(f"{nanoseconds:.0f} ns from one core to another and back")
        return options.OK

    return options.run_command(body)


def can_choose_cores() -> bool:
    """Whether this system can keep a process to some of the cores."""
    return hasattr(os, "sched_setaffinity")


def in_a_process() -> float | None:
    """Measures `round_trip_nanoseconds` in a fresh process, so that this one keeps its cores."""
    if not can_choose_cores() or len(os.sched_getaffinity(0)) < 2:
        return None
    try:
        code = "from benchmarks import core_distance as c; print(c.round_trip_nanoseconds() or '')"
        line = processes.run(["-c", code]).lines[-1][1]
    except processes.ProcessError:
        return None
    return float(line) if line else None


def round_trip_nanoseconds(turns: int = TURNS) -> float | None:
    """The median over `turns` turns; None if two processes cannot be kept to one core each."""
    if not can_choose_cores():
        return None
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        return None
    memory = shared_memory.SharedMemory(create=True, size=1)
    byte: Any = memory.buf
    try:
        arguments = memory.name, allowed[1], turns
        partner = get_context("spawn").Process(target=_answer, args=arguments, daemon=True)
        partner.start()
        while byte[0] != 2 and partner.is_alive():
            time.sleep(0.001)
        if byte[0] != 2:
            return None
        os.sched_setaffinity(0, allowed[:1])
        measured = [_turn(byte) for _ in range(turns)]
        partner.join()
    finally:
        os.sched_setaffinity(0, allowed)
        del byte
        memory.close()
        memory.unlink()
    return statistics.median(measured)


def _turn(byte: memoryview) -> int:
    start = time.perf_counter_ns()
    byte[0] = 1
    while byte[0] == 1:
        pass
    return time.perf_counter_ns() - start


def _answer(name: str, core: int, turns: int) -> None:
    """The work of the other process: it resets the byte each time that it is set."""
    os.sched_setaffinity(0, [core])
    memory = shared_memory.SharedMemory(name)
    byte: Any = memory.buf
    byte[0] = 2
    for _ in range(turns):
        while byte[0] != 1:
            pass
        byte[0] = 0
    del byte
    memory.close()


if __name__ == "__main__":
    sys.exit(main())
