"""Trains networks with many seeds, and tests the report's numbers and claims.

    python -m experiments.compare --seeds 20 --out studies/report
    python -m experiments.compare --from studies/report
    python -m experiments.compare --from studies/report --export experiments/results
    python -m experiments.compare --from experiments/results --out studies/again

A study is a directory, whose files `experiments.study.directory` lists. The first command trains
the runs that the directory does not have yet and then makes tables and figures; after each epoch it
evaluates the test images in the three ways that `groundwork.variants.EVALUATIONS` names. The
second remakes tables and figures from the files, and trains nothing. The third writes a study as a
few small files that can be committed, from which the fourth makes the same tables and figures.

--resume continues an interrupted study, of which no more than the epoch in progress is lost, or
adds seeds, placements or variants to a finished one. So several commands can make a study whose
variants have different numbers of seeds. --plan trains a part of `groundwork.variants.PLAN` and
makes no tables, because they are to be looked at only when every part is done.

Several hosts can each train a share of the seeds. Start the same command on all of them, under a
scheduler that JAX knows (Slurm, Open MPI) or with

    python -m experiments.compare ... --coordinator ADDRESS:PORT --hosts 2 --host 0   (then 1)

Only host 0 writes. With --resume all hosts must be able to read the directory.
"""

if __name__ == "__main__":
    from experiments.groundwork import stopping

    stopping.end_at_once()  # before the imports that follow, which take a second

import contextlib
import shlex
import statistics
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jax
import tyro
from rich.console import Console

from experiments.groundwork import compile_cache, files, options, terminal
from experiments.groundwork.options import (
    CacheOptions,
    DataOptions,
    OptionalInt,
    OptionalPath,
    UsageError,
    may_be_absent,
    refuse,
    refuse_unless_positive,
)
from experiments.groundwork.variants import PLAN, VARIANTS, Cell, Setting, best_rate_cells, cells
from experiments.study import directory as study_directory
from experiments.study import hosts, report, results
from experiments.study.plan import Group
from experiments.study.session import Session, begin, finished_epochs
from mnist_jax.data import load_mnist
from mnist_jax.model import PLACEMENTS, Placement

MAX_SEEDS = 10_000
OUT = Path("studies/report")
TRAINING = (  # the options that say what is trained, and where
    *("seeds", "first_seed", "placements", "variants", "plan", "epochs"),
    *("resume", "coordinator", "hosts", "host"),
)
BEST_RATES = "best_rates"  # the part of the plan that follows from the results of another part
PARTS = (*PLAN, BEST_RATES)


if TYPE_CHECKING:  # a type checker does not know what the dictionaries hold
    Variant = str
    Part = str
else:
    Variant, Part = Literal[tuple(VARIANTS)], Literal[PARTS]


@dataclass(frozen=True)
class Config:
    """Train the report's networks with many seeds, and test its numbers and claims."""

    seeds: int = 20
    """Number of runs of each placement and variant, from 1 to 10000."""
    first_seed: int = 0
    """Seed of the first of these runs, at least 0; the others follow it."""
    placements: tuple[Placement, ...] = PLACEMENTS
    """Where the residual block stands: one place or more, each once."""
    variants: tuple[Variant, ...] = ("report",)
    """Settings of training: one or more, each once."""
    plan: Annotated[Part | None, may_be_absent(*PARTS)] = None
    """Train a part of the plan, which says variants, placements and seeds."""
    epochs: OptionalInt = None
    """Number of passes over the training images, at least 1; by default that of each variant."""
    out: OptionalPath = None
    """Directory of the study, by default studies/report. With --from it is the directory for the
    tables and figures, by default that of the study."""
    resume: bool = False
    """Continue the study in --out, or add to it."""
    from_dir: Annotated[OptionalPath, tyro.conf.arg(name="from")] = None
    """Train nothing; remake tables and figures of the study in this directory."""
    export: OptionalPath = None
    """With --from: write the study into this directory as a few small files, and stop."""
    timing: OptionalPath = None
    """JSON file that benchmarks.epoch_time wrote, for claim 2; it is kept beside the tables."""
    coordinator: Annotated[str | None, may_be_absent("ADDRESS:PORT")] = None
    """Address and port of host 0, if there are several hosts."""
    hosts: OptionalInt = None
    """Number of hosts, with --coordinator."""
    host: OptionalInt = None
    """Which host this is, from 0, with --coordinator."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    cache: Annotated[CacheOptions, tyro.conf.arg(name="")] = field(default_factory=CacheOptions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    directories: list[Path] = []  # the study's directory, once this command has locked it

    def continue_with() -> str | None:
        if not any((path / study_directory.MANIFEST).exists() for path in directories):
            return None
        words = list(sys.argv[1:] if arguments is None else arguments)
        words += [] if "--resume" in words else ["--resume"]
        return shlex.join(["python", "-m", "experiments.compare", *words])

    def body() -> int:
        config = options.parse(
            Config, arguments, name="experiments.compare", description=str(__doc__)
        )
        check(config)
        timing = report.read_timing(config.timing) if config.timing else None
        console = terminal.console()
        if config.from_dir is not None and config.export is not None:
            with study_directory.opened(config.export):
                for note in results.write(config.from_dir, config.export, timing):
                    console.print(note)
            console.print(f"written: {config.export}")
            return options.OK
        if config.from_dir is not None:
            out = config.out or config.from_dir
            with study_directory.opened(out):
                _report(config.from_dir, out, timing, console)
            return options.OK

        out = config.out or OUT
        hosts.use_every_core()
        hosts.meet(config.coordinator, config.hosts, config.host)
        console.quiet = not hosts.is_first()
        cache = config.cache
        if not cache.no_compile_cache and (line := compile_cache.turn_on(cache.compile_cache)):
            console.print(line)
        with study_directory.opened(out) if hosts.is_first() else contextlib.nullcontext():
            directories.append(out)
            with terminal.log_of_library(console):
                splits = load_mnist(config.data.data_dir, config.data.mirror)
            asked = _cells(
                config.plan,
                config.variants,
                config.placements,
                range(config.first_seed, config.first_seed + config.seeds),
                out,
            )
            session = begin(out, _settings(asked, config.epochs), asked, splits)
            for note in session.notes:
                console.print(note)
            console.print(terminal.devices_line(jax.devices()))
            _train(session, console)
            if config.plan is not None:  # the plan allows one look, at the end
                again = shlex.join(["python", "-m", "experiments.compare", "--from", str(out)])
                console.print(f"when every part is done: {again}")
            elif hosts.is_first():
                _report(out, out, timing, console)
        return options.OK

    return options.run_command(body, continue_with=continue_with)


def check(config: Config) -> None:
    """Checks all options that can be checked without the data.

    Raises:
      UsageError: naming the option and what is allowed.
    """
    refuse_unless_positive(epochs=config.epochs, hosts=config.hosts)
    if not 1 <= config.seeds <= MAX_SEEDS:
        refuse("seeds", f"from 1 to {MAX_SEEDS}", config.seeds)
    if not 0 <= config.first_seed <= options.MAX_SEED + 1 - config.seeds:
        largest = options.MAX_SEED + 1 - config.seeds
        refuse("first_seed", f"from 0 to {largest} with so many seeds", config.first_seed)
    for option in ("placements", "variants"):
        names = getattr(config, option)
        if not names or len(set(names)) < len(names):
            refuse(option, "one name or more, each once", " ".join(names) or "none")
    if config.plan is not None:
        for option in ("variants", "placements", "seeds", "first_seed"):
            if getattr(config, option) != getattr(Config, option):
                refuse(option, "left out with --plan", getattr(config, option))
        if config.timing is not None:
            refuse("timing", "given with --from when every part is done", config.timing)
    # The tables end with the epochs of a setting; the answers would be those of older networks.
    planned = [cell.variant for cell in PLAN.get(config.plan or "", ())]
    for name in planned or config.variants:
        if config.epochs is not None and config.epochs > (most := VARIANTS[name].epochs):
            refuse("epochs", f"at most {most}, which {name} has", config.epochs)
    out = config.out or OUT
    if config.from_dir is not None:
        for option in TRAINING:
            if (value := getattr(config, option)) != getattr(Config, option):
                refuse(option, "left out with --from, which trains nothing", value)
        if not results.is_there(config.from_dir):
            allowed = f"a directory with {study_directory.RESULTS} or {results.TABLE}"
            refuse("from", allowed, config.from_dir)
        if config.export is not None and (config.export / study_directory.RESULTS).exists():
            refuse("export", f"a directory without {study_directory.RESULTS}", config.export)
        if config.export is not None and config.out is not None:
            refuse("out", "left out with --export", config.out)
    elif config.export is not None:
        refuse("export", "given with --from", config.export)
    elif config.resume:
        if not (out / study_directory.MANIFEST).is_file():
            refuse("out", f"a study with {study_directory.MANIFEST} to resume it", out)
        if (out / results.TABLE).exists():  # its digests would be lost, and new rows hide its own
            refuse("out", "a study as it grows, not one that --export wrote", out)
    elif hosts.number(config.host) == 0:  # host 0 may have made the directory by now
        if out.exists() and not out.is_dir():
            refuse("out", "a directory, and this is a file", out)
        if not files.is_unused(out):
            refuse("out", "new or empty; --resume continues what is there", out)
    if config.from_dir is None and config.plan == BEST_RATES and not results.is_there(out):
        refuse("out", "a study in which the part rates of the plan was trained", out)
    if config.coordinator is None:
        if config.hosts is not None or config.host is not None:
            raise UsageError("--hosts and --host are given with --coordinator")
    elif config.hosts is None or config.host is None or not 0 <= config.host < config.hosts:
        refuse("host", "from 0 to --hosts - 1, and both given", config.host)


def _cells(
    plan: str | None,
    variants: Sequence[str],
    placements: Collection[str],
    seeds: range,
    out: Path,
) -> tuple[Cell, ...]:
    """The runs that are asked for: a part of the plan, or else those of the next three arguments.

    Args:
      plan: the name of the part; None means none.
      variants: names of settings.
      placements: where the residual block stands.
      seeds: seeds that follow each other.
      out: the directory of the study, from which the plan's best rates are read.
    """
    if plan == BEST_RATES:
        return best_rate_cells(report.best_rates(out))
    if plan is not None:
        return PLAN[plan]
    ordered: list[Placement] = [name for name in PLACEMENTS if name in placements]
    return cells(variants, ordered, len(seeds), first=seeds.start)


def _settings(asked: Sequence[Cell], epochs: int | None) -> dict[str, Setting]:
    """The settings of the variants, with another number of epochs where one is given."""
    settings = {cell.variant: VARIANTS[cell.variant] for cell in asked}
    if epochs is None:
        return settings
    return {name: setting._replace(epochs=epochs) for name, setting in settings.items()}


def _train(session: Session, console: Console) -> None:
    """Trains what is left, and shows how far it is."""

    def epochs(group: Group) -> int:
        return session.settings[group.variant].epochs

    tasks = session.tasks
    runs = sum(len(task.group.seeds) for task in tasks)
    todo = sum(len(task.group.seeds) * (epochs(task.group) - task.done) for task in tasks)
    console.print(f"study: {runs} runs to do in {session.directory}")
    with terminal.progress(console) as progress:
        bar = progress.add_task("epochs", total=todo)
        start = time.perf_counter()
        for group, epoch, rows in finished_epochs(session):
            seconds, start = time.perf_counter() - start, time.perf_counter()
            progress.update(bar, advance=len(rows), description=str(group))
            if not console.is_terminal:
                accuracy = statistics.fmean(row["test_accuracy_percent"] for row in rows)
                console.print(
                    f"{group}, epoch {epoch}/{epochs(group)}: test accuracy {accuracy:.2f}%, "
                    f"{seconds / len(rows):.2f} s a seed"
                )


def _report(source: Path, directory: Path, timing: dict[str, Any] | None, console: Console) -> None:
    """Makes tables, summary and figures from the files, and prints what is missing in them."""
    rank, notes = report.write(source, directory, timing)
    for note in notes:
        console.print(note)
    console.print(rank)
    console.print(f"written: {directory}/tables, summary.json, figures")


if __name__ == "__main__":
    options.leave(main())
