"""How long does an epoch of training take here, and how long in PyTorch on the same cores?

    python -m benchmarks.epoch_time --json epoch_time.json --figure epoch_times
    python -m benchmarks.epoch_time --beside-busy --json beside_busy.json

Method. Every measurement is a fresh process, and there are `--repeats` of each program. In each
round every program runs once, for every placement and on one core and on all of them, and each
round has a random order of its own, drawn from `--seed` and recorded. In it, a program's processes
with the block before fc1 and after fc1 are next to each other, because their ratio is one of the
report's claims. A process trains one epoch to warm up and then `--epochs` more; its time is the
median of those. Evaluation and compilation are timed apart. What was measured is written after each
round. With `--beside-busy` another process computes at the lowest priority, nice 19, all the while,
as a browser or an indexer may do. The programs are

    mnist_jax               benchmarks/jax_program.py
    mnist_jax as run        the same, on as many threads as experiments.run would choose; only
                            where there are two cores
    pytorch eager           benchmarks/torch_program.py: images normalised once, kept in memory
    pytorch channels_last   the same with images and kernels stored channels last
    pytorch compile         like eager, with torch.compile
    pytorch dataloader      as the report's author would write it; on all cores only

Conditions. Each time is recorded together with the load average of the minute before; how many CPUs
other processes kept busy meanwhile, and how many the host of a virtual machine withheld; how many
threads and CPUs the program itself used while it trained, of which the CPUs are close to 1 if two
threads take turns on one core; and how long a byte takes from one core to another
(`benchmarks.core_distance`), measured before and after, of which the larger number counts.

Output. A table for each placement has the median over the processes, their range, and the ratio of
medians to mnist_jax on as many threads. Below it stand the ratio to the fastest PyTorch program on
any number of threads, and its range over the rounds; what two threads gain over one; and the share
of the arithmetic limit. That is the number of operations that training needs, two for each
multiply-add, divided by the time, as a share of the speed at which the same process multiplies
matrices of 1024 x 1024. The report gives no seconds but says that its two networks "take about the
same time"; that ratio follows. Last stand the times with near and with distant cores, where the
cores of a virtual machine were both.

Without PyTorch, or where JAX computes on another device than the CPU, mnist_jax is timed alone.
"""

if __name__ == "__main__":
    from experiments.groundwork import stopping

    stopping.end_at_once()

import importlib.util
import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple, get_args

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import processes
from benchmarks.processes import Finished, ProcessError
from benchmarks.torch_program import Variant
from experiments.groundwork import cores, files, options, settings, terminal
from experiments.groundwork.options import (
    DataOptions,
    FailedError,
    OptionalPath,
    may_be_absent,
    refuse_unless_positive,
)
from mnist_jax.data import TRAIN_SIZE
from mnist_jax.model import PLACEMENTS, Placement
from mnist_jax.summary import summary

OURS, AS_RUN, LOOP = "mnist_jax", "mnist_jax as run", "pytorch dataloader"
EACH = (  # the names of a row's lists, which have an item for each process
    "epoch_seconds",
    "warm_up_seconds",
    "compile_seconds",
    "evaluation_seconds",
    "cpus",
    "matrix_product_gflops",
    "peak_memory_mib",
    "threads_used",
    "load_average",
    "other_cpus",
    "stolen_cpus",
    "core_distance_ns",
)

Row = dict[str, Any]  # one program, placement and number of threads, with the lists named in EACH


@dataclass(frozen=True)
class Config:
    """Time an epoch of training here and in PyTorch."""

    placement: Annotated[Placement | None, may_be_absent(*PLACEMENTS)] = None
    """Where the residual block stands; by default all three in turn."""
    variants: tuple[Variant, ...] = get_args(Variant)
    """Variants of the PyTorch program; without any, mnist_jax alone is timed."""
    repeats: int = 10
    """Number of processes of each program, at least 1."""
    epochs: int = 3
    """Number of epochs timed in a process, after the one that warms up, at least 1."""
    seed: int = 0
    """Seed of the random order of the processes."""
    beside_busy: bool = False
    """Have another process compute at the lowest priority, nice 19, all the while."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    json: OptionalPath = None
    """File for everything measured, as JSON."""
    figure: OptionalPath = None
    """File for a bar chart. Without a suffix, a PNG and an SVG are written."""


class Program(NamedTuple):
    """What is timed: a command that prints JSON."""

    name: str
    placement: Placement
    threads: int
    command: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""

    def body() -> int:
        config = options.parse(Config, arguments, name="benchmarks.epoch_time", description=__doc__)
        check(config)
        console = terminal.console()
        placements = PLACEMENTS if config.placement is None else (config.placement,)
        common = processes.data_words(config.data.data_dir, config.data.mirror)
        common += ["--epochs", str(1 + config.epochs)]
        found = programs(placements, config.variants, common, console)
        asked = {
            "epochs": config.epochs,
            "seed": config.seed,
            "beside_busy": config.beside_busy,
        }
        timing: dict[str, Any] = {}
        with processes.busy_beside(config.beside_busy):
            for timing in measure(found, config.repeats, config.seed, console):
                timing["conditions"] = asked | timing["conditions"]
                if config.json:  # after each round, as all of them take long
                    files.write_whole(config.json, files.as_json(timing))
        show(timing, console)
        if config.figure:
            from experiments import figures

            figures.epoch_times(timing, config.figure)
        return options.OK

    return options.run_command(body)


def check(config: Config) -> None:
    """Checks all options.

    Raises:
      UsageError: naming the option and what is allowed.
    """
    refuse_unless_positive(repeats=config.repeats, epochs=config.epochs)
    options.refuse_unless_writable(json=config.json, figure=config.figure)


def programs(
    placements: Sequence[Placement],
    variants: Sequence[Variant],
    common: Sequence[str],
    console: Console,
) -> list[Program]:
    """All programs that this machine can run, on one thread and on all.

    Args:
      placements: where the block stands.
      variants: those of the PyTorch program.
      common: options of every program.
      console: prints why something is left out.
    """
    on_cpu = processes.platform() == "cpu"
    torch = importlib.util.find_spec("torch") is not None
    if not on_cpu:
        console.print("JAX does not compute on the CPU: mnist_jax alone")
    elif not torch:
        console.print("PyTorch is not installed (pip install -e '.[torch]'): mnist_jax alone")
    counts = [cores.count()]
    if on_cpu and cores.can_choose():
        counts = sorted({1, cores.count()})
    found = []
    for placement in placements:
        ours = ("-m", "benchmarks.jax_program")
        kinds: list[tuple[str, int, tuple[str, ...]]] = [(OURS, n, ours) for n in counts]
        if counts == [1, 2]:
            kinds.append((AS_RUN, 2, (*ours, "--choose-threads")))
        for variant in variants if torch and on_cpu else ():
            command = ("-m", "benchmarks.torch_program", "--variant", variant)
            name = f"pytorch {variant}"
            # The report's own loop is timed on all cores only, as its author would run it.
            kinds += [(name, n, command) for n in (counts[-1:] if name == LOOP else counts)]
        for name, n, command in kinds:
            chosen = (*command, "--placement", placement, "--threads", str(n), *common)
            found.append(Program(name, placement, n, chosen))
    return found


def measure(
    found: Sequence[Program], repeats: int, seed: int, console: Console
) -> Iterator[dict[str, Any]]:
    """Runs every program in each of `repeats` rounds; a program that fails is left out.

    Yields:
      What was measured so far, after each round: `conditions`, with the number of rounds and the
      order of the processes, and `rows` with the lists that `EACH` names.

    Raises:
      FailedError: no program could be timed.
    """
    rows: dict[Program, Row] = {}
    failed: set[Program] = set()
    conditions: dict[str, Any] = {}
    order = processes.in_random_order(found, repeats, seed, together=_pair_of)
    for number, of_round in itertools.groupby(order, key=lambda each: each[0]):
        for _, program in of_round:
            if program in failed:
                continue
            try:
                result, finished = processes.run_for_json(program.command)
            except ProcessError as error:
                failed.add(program)
                rows.pop(program, None)
                what = f"{program.name}, {program.placement}, {program.threads} threads"
                console.print(f"{what} is left out: {error}")
                continue
            if program.threads == cores.count() and program.name != AS_RUN:
                versions = conditions.get("versions", {}) | result["conditions"]["versions"]
                conditions = result["conditions"] | {"versions": versions}
            row = rows.setdefault(program, _empty(program))
            for name, value in values_of(result, finished).items():
                row[name].append(value)
            console.print(
                f"{number}/{repeats} {program.placement} {program.name}, {program.threads} "
                f"threads: {row['epoch_seconds'][-1]:.2f} s"
            )
        if not rows:
            raise FailedError("nothing could be timed")
        ran = [f"{p.name} {p.placement} {p.threads}" for n, p in order if n <= number]
        yield {
            "conditions": conditions | {"repeats": number, "order": ran},
            # In the order of `found`, not in that of the processes.
            "rows": [rows[program] for program in found if program in rows],
        }


def _pair_of(program: Program) -> tuple[str, int, bool]:
    """A value that only the two processes share whose times are compared for the report's claim."""
    return program.name, program.threads, program.placement == "none"


def _empty(program: Program) -> Row:
    row: Row = {"program": program.name, "placement": program.placement}
    return row | {"threads": program.threads} | {name: [] for name in EACH}


def values_of(result: Mapping[str, Any], finished: Finished) -> dict[str, float | None]:
    """What one process adds to a row."""
    first, *others = result["runs"][0]["epochs"]
    seconds = statistics.median(row["seconds"] for row in others)
    return {
        "epoch_seconds": seconds,
        "warm_up_seconds": first["seconds"] - seconds,
        "compile_seconds": result["compile_seconds"],
        "evaluation_seconds": statistics.median(row["evaluation_seconds"] for row in others),
        "cpus": statistics.median(row["cpu_seconds"] / row["seconds"] for row in others),
        "matrix_product_gflops": result["matrix_product_gflops"],
        "peak_memory_mib": finished.peak_memory_mib,
        "threads_used": result["conditions"]["threads"],
        **finished.conditions._asdict(),
    }


def show(timing: Mapping[str, Any], console: Console) -> None:
    """Prints everything that the module's docstring lists as output."""
    for line in conditions_lines(timing):
        console.print(line)
    for placement in PLACEMENTS:
        rows = [row for row in timing["rows"] if row["placement"] == placement]
        if rows:
            terminal.print_table(console, table(placement, rows))
            for line in summary_lines(rows):
                console.print(line)
    for line in (*same_time_lines(timing["rows"]), *distance_lines(timing["rows"])):
        console.print(line)


def conditions_lines(timing: Mapping[str, Any]) -> Iterator[str]:
    """Lines about the conditions that the numbers depend on."""
    conditions = timing["conditions"]
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    yield (
        f"{conditions['cpu']}, {conditions['threads']} cores; devices: "
        f"{', '.join(conditions['devices'])}; Python {conditions['python']}, {versions}"
    )
    if conditions["xla_flags"]:
        yield f"XLA_FLAGS {conditions['xla_flags']}"
    beside = ", beside one busy process at nice 19" if conditions["beside_busy"] else ""
    yield f"{conditions['repeats']} processes of each program in random order{beside}"
    for name, what in (
        ("load_average", "load average before a process"),
        ("other_cpus", "CPUs that others kept busy"),
        ("stolen_cpus", "CPUs withheld by the host"),
        ("core_distance_ns", "nanoseconds to the other core and back"),
    ):
        values = [value for row in timing["rows"] for value in row[name] if value is not None]
        if values:
            yield f"{what}: median {statistics.median(values):.2f}, largest {max(values):.2f}"


def table(placement: Placement, rows: Sequence[Row]) -> Table:
    """A row for each program and number of threads."""
    grid = Table(title=f"Seconds of an epoch, block {placement}", box=box.SIMPLE_HEAD)
    grid.add_column("program")
    headings = ("threads", "median", "range", "ratio", "first", "CPUs", "others")
    for name in headings:
        grid.add_column(name, justify="right")
    for row in rows:
        seconds = row["epoch_seconds"]
        peer = _find(rows, OURS, row["threads"])
        others = [value for value in row["other_cpus"] if value is not None]
        grid.add_row(
            row["program"],
            str(row["threads"]),
            f"{statistics.median(seconds):.2f}",
            f"{min(seconds):.2f} to {max(seconds):.2f}",
            "" if peer is None or peer is row else f"{ratio(row, peer):.2f}",
            f"{_started(row):.1f}",
            f"{statistics.median(row['cpus']):.2f}",
            f"{max(others):.2f}" if others else "",
        )
    return grid


def _started(row: Row) -> float:
    """Seconds that the first epoch takes longer than others, compilation included."""
    compiling = [value or 0 for value in row["compile_seconds"]]
    both = zip(compiling, row["warm_up_seconds"], strict=True)
    return statistics.median(sum(pair) for pair in both)


def ratio(row: Row, peer: Row) -> float:
    """The ratio of the median times of a row and its peer."""
    return _median(row) / _median(peer)


def in_pairs(row: Row, peer: Row) -> str:
    """The range, over the rounds, of the ratio of the times of a row and its peer."""
    ratios = [a / b for a, b in zip(row["epoch_seconds"], peer["epoch_seconds"], strict=True)]
    return f"in pairs {min(ratios):.2f} to {max(ratios):.2f}"


def summary_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Lines that sum up the rows of one placement."""
    ours = [row for row in rows if row["program"] == OURS]
    if not ours:
        return
    best = min(ours, key=_median)
    memory = [value for value in best["peak_memory_mib"] if value is not None]
    yield (
        f"mnist_jax on {best['threads']} threads: {_median(best):.2f} s, evaluation "
        f"{statistics.median(best['evaluation_seconds']):.3f} s, "
        + (f"peak memory {max(memory):.0f} MiB, " if memory else "")
        + f"{arithmetic_share(best):.0%} of the arithmetic limit"
    )
    one, every = _find(rows, OURS, 1), _find(rows, OURS, cores.count())
    chosen = _find(rows, AS_RUN, cores.count())
    whats = f"{cores.count()} threads take", "as many as a run chooses take"
    for row, what in zip((every, chosen), whats, strict=True):
        if one is not None and row is not None and row is not one:
            yield (
                f"{what} {ratio(row, one):.2f} of one thread's time, the "
                f"slowest process {max(row['epoch_seconds']) / _median(one):.2f}"
            )
    loops = [row for row in rows if row["program"] == LOOP]
    theirs = [row for row in rows if row["program"] not in (OURS, AS_RUN, LOOP)]
    for name, peers in (("the fastest PyTorch, ", theirs), ("", loops)):
        if peers:
            peer = min(peers, key=_median)
            yield (
                f"{ratio(peer, best):.2f} times as fast as {name}{peer['program']} on "
                f"{peer['threads']} threads ({_median(peer):.2f} s; {in_pairs(peer, best)})"
            )


def same_time_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Lines that compare the times of the networks with the block after and before fc1."""
    for row in rows:
        if row["placement"] == "after_fc1":
            same = [other for other in rows if other["placement"] == "before_fc1"]
            before = _find(same, row["program"], row["threads"])
            if before is not None:
                yield (
                    f"after_fc1 / before_fc1, {row['program']} on {row['threads']} threads: "
                    f"{ratio(row, before):.2f} ({in_pairs(row, before)})"
                )


def distance_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Lines that tell the times with near cores from those with distant ones, where both occur."""
    limit = cores.DISTANT
    for row in rows:
        pairs = list(zip(row["core_distance_ns"], row["epoch_seconds"], strict=True))
        near = [seconds for ns, seconds in pairs if ns is not None and ns < limit]
        distant = [seconds for ns, seconds in pairs if ns is not None and ns >= limit]
        if row["threads"] > 1 and near and distant:
            yield (
                f"{row['program']}, {row['placement']}: {statistics.median(near):.2f} s in "
                f"{len(near)} processes with near cores, {statistics.median(distant):.2f} s in "
                f"{len(distant)} with distant ones ({limit} ns and more), "
                f"{statistics.median(distant) / statistics.median(near) - 1:+.0%}"
            )


def arithmetic_share(row: Row) -> float:
    """The speed of the epoch's multiply-adds as a share of the speed of a matrix product."""
    operations = 2 * TRAIN_SIZE * training_multiply_adds(row["placement"])
    limit = statistics.median(row["matrix_product_gflops"]) * 1e9
    return operations / _median(row) / limit


def training_multiply_adds(placement: Placement) -> int:
    """The multiply-adds of a training step for one image.

    They are those of each layer, of its gradient by its weights and, except for conv1, of its
    gradient by its input. In an image of one pixel eight of the nine weights of a 3x3 kernel meet
    only padding and are not counted.
    """
    total = 0
    for layer in summary(settings.model_of(settings.REPORT, placement)):
        products = layer.multiply_adds
        if layer.name.startswith("resnet_block/conv") and layer.shape[1:] == (1, 1):
            products //= 9
        total += products * (2 if layer.name == "conv1" else 3)
    return total


def _median(row: Row) -> float:
    return statistics.median(row["epoch_seconds"])


def _find(rows: Sequence[Row], program: str, threads: int) -> Row | None:
    for row in rows:
        if (row["program"], row["threads"]) == (program, threads):
            return row
    return None


if __name__ == "__main__":
    options.leave(main())
