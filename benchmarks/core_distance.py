"""How long does a byte take from one core to another and back?

    python -m benchmarks.core_distance

Method. Two processes, each kept to one core, hand a byte in shared memory back and forth. The time
includes the moves of the cache line between the cores and Python's own loop.

Conditions. The cores of a virtual machine may share a cache at one time and lie on two chips of a
processor at another, and the guest sees neither. `experiments.run` measures the distance before it
starts JAX, and `benchmarks.epoch_time` records it beside each process that it times. It can be
measured on Linux only. Another process that computes on one of the cores may lengthen it.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.groundwork import cores, options
from experiments.groundwork.options import FailedError, refuse_unless_positive


@dataclass(frozen=True)
class Config:
    """Measure how long a byte takes from one core to another and back."""

    turns: int = cores.TURNS
    """Number of times that the byte goes there and back, at least 1."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""

    def body() -> int:
        config = options.parse(
            Config, arguments, name="benchmarks.core_distance", description=__doc__
        )
        refuse_unless_positive(turns=config.turns)
        nanoseconds = cores.distance(config.turns)
        if nanoseconds is None:
            raise FailedError(
                "the distance was not measured: this needs two cores that one can keep to, "
                f"and at most {cores.PATIENCE} s"
            )
        print(f"{nanoseconds:.0f} ns from one core to another and back")
        return options.OK

    return options.run_command(body)


if __name__ == "__main__":
    sys.exit(main())
