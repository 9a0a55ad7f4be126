"""How long does a byte take from one core to another and back?

    python -m benchmarks.core_distance

Two processes, each kept to one core, hand a byte in shared memory back and forth. What is measured
is the cache line that moves between the cores, and Python's own loop.

A virtual machine's cores may share a cache at one time and lie on two chips of a processor at
another, and a guest sees neither. Then every number of the one core that the other one needs comes
from afar, and programs on two threads slow down, ours and PyTorch's. `benchmarks.epoch_time` writes
this down beside each process that it times. Linux only.
"""

import os
import statistics
import sys
import time
from multiprocessing import get_context, shared_memory


def main() -> int:
    """Prints the time and returns the exit status."""
    nanoseconds = round_trip_nanoseconds()
    if nanoseconds is None:
        print("error: two processes cannot be kept to a core each", file=sys.stderr)
        return 1
    print(f"{nanoseconds:.0f} ns from one core to another and back")
    return 0


def round_trip_nanoseconds(turns: int = 3_000) -> float | None:
    """The median of so many turns; None where two processes cannot be kept to a core each."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(allowed) < 2:
        return None
    memory = shared_memory.SharedMemory(create=True, size=1)
    try:
        arguments = memory.name, allowed[1], turns
        partner = get_context("spawn").Process(target=_answer, args=arguments)
        partner.start()
        while memory.buf[0] != 2 and partner.is_alive():
            time.sleep(0.001)
        if memory.buf[0] != 2:
            return None
        os.sched_setaffinity(0, allowed[:1])
        measured = [_turn(memory.buf) for _ in range(turns)]
        partner.join()
    finally:
        os.sched_setaffinity(0, allowed)
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
    """The other process: takes the byte back as often as it is set."""
    os.sched_setaffinity(0, [core])
    memory = shared_memory.SharedMemory(name)
    byte = memory.buf
    byte[0] = 2
    for _ in range(turns):
        while byte[0] != 1:
            pass
        byte[0] = 0
    del byte
    memory.close()


if __name__ == "__main__":
    sys.exit(main())
