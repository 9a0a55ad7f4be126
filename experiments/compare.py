"""Trains networks with many seeds, and tests the report's numbers and claims.

    python -m experiments.compare train --seeds 20 --out studies/report
    python -m experiments.compare report studies/report
    python -m experiments.compare export studies/report --out studies/small
    python -m experiments.compare report experiments/results --out studies/again

A study is a directory, whose files `experiments.study.files` lists. `train` trains the runs
that it does not have yet and makes tables and figures. So the same command again continues an
interrupted study, and another one adds seeds, placements or variants. `report` makes tables and
figures of the files and trains nothing; `export` writes a study as a few small files that can be
committed.

With `--plan`, `train` trains a part of `groundwork.variants.PLAN` and makes no tables, because they
are to be looked at only when every part is done. Several machines can each train a share:

    python -m experiments.compare train --shard 1/2 --out studies/share1         (2/2 on the other)
    python -m experiments.compare report studies/share1 studies/share2 --out studies/report
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import jax
import tyro

from experiments.groundwork import command, machine, terminal
from experiments.groundwork.command import DataOptions, UsageError, refuse
from experiments.groundwork.machine import MachineOptions
from experiments.groundwork.recipe import MAX_SEED, Recipe
from experiments.groundwork.variants import PLAN, VARIANTS, Cell, best_rate_cells, cells
from experiments.study import files, report, runs
from experiments.study.files import Study
from experiments.study.progress import shown
from experiments.study.session import begin
from mnist_jax import data, store
from mnist_jax.model import PLACEMENTS, Placement

MAX_SEEDS = 10_000
BEST_RATES = "best_rates"  # the part of the plan that follows from the results of another part

if TYPE_CHECKING:  # a type checker does not know what the dictionaries hold
    Variant = str
    Part = str
else:
    Variant, Part = Literal[tuple(VARIANTS)], Literal[(*PLAN, BEST_RATES)]


@dataclass(frozen=True)
class Train:
    """Train the runs that a study does not have yet, and make its tables and figures."""

    seeds: int = 20
    """Number of runs of each placement and variant, from 1 to 10000."""
    first_seed: int = 0
    """Seed of the first of these runs, at least 0; the others follow it."""
    placements: tuple[Placement, ...] = PLACEMENTS
    """Where the residual block stands: one place or more, each once."""
    variants: tuple[Variant, ...] = ("report",)
    """Variants of the report's recipe: one or more, each once."""
    plan: Part | None = None
    """Train a part of the plan, which says variants, placements and seeds, and make no tables."""
    rates: tuple[Path, ...] = ()
    """With --plan best_rates: directories in which its part rates was trained; by default --out."""
    epochs: int | None = None
    """Number of passes over the training images, at least 1; by default that of each variant."""
    shard: str | None = None
    """I/N: train the I-th of N equal shares of the runs, from 1/N to N/N, and make no tables."""
    out: Path = Path("studies/report")
    """Directory of the study."""
    machine: Annotated[MachineOptions, tyro.conf.arg(name="")] = field(
        default_factory=MachineOptions
    )
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)


@dataclass(frozen=True)
class Report:
    """Make tables and figures of one or more studies; several are joined."""

    study: Annotated[Path, tyro.conf.Positional]
    """Directory of a study, of a share of one, or of a committed one."""
    others: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Directories of others, which are joined with it."""
    out: Path | None = None
    """Directory for tables and figures; by default that of the study, if it is one."""
    timing: Path | None = None
    """JSON file that benchmarks.epoch_time wrote, for claim 2; it is kept beside the tables."""


@dataclass(frozen=True)
class Export:
    """Write one or more studies as a few small files that can be committed; several are joined."""

    study: Annotated[Path, tyro.conf.Positional]
    """Directory of a study, of a share of one, or of a committed one."""
    others: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Directories of others, which are joined with it."""
    out: Path = field(kw_only=True)
    """Directory for the files; other files in it are left alone."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return command.main(
        Train | Report | Export, run, arguments, name="experiments.compare", description=__doc__
    )


def run(options: Train | Report | Export) -> None:
    """Runs the subcommand whose options these are.

    Raises:
      UsageError: an option has a value that it cannot have.
      StoreError: a file is damaged or cannot be written, or studies cannot be joined or continued.
      DataError: the data cannot be had.
    """
    if isinstance(options, Train):
        train(options)
    elif isinstance(options, Report):
        make_report(options)
    else:
        export(options)


def train(options: Train) -> None:
    """Trains the runs that a study lacks; the errors are those of `run`."""
    _check(options)
    asked, out = _share(options, _asked(options)), options.out
    recipes = _recipes(options, asked)
    machine.start(options.machine, device_per_core=True)
    console = terminal.console()
    with files.opened(out), _continuing():
        others = {path.name for path in out.iterdir()} - {store.LOCK}
        if others and not files.grows(out):
            refuse("out", "new, empty, or a study that this command began", out)
        with terminal.log_of_library(console):
            dataset = data.load_mnist(options.data.data_dir, options.data.mirror)
        session = begin(out, recipes, asked, dataset)
        for note in session.notes:
            console.print(note)
        console.print(terminal.devices_line(jax.devices()))
        shown(session, console)
    if options.plan is not None or options.shard is not None:
        what, more = ("share", " OTHERS --out NEW") if options.shard else ("part", "")
        again = f"python -m experiments.compare report {out}{more}"
        console.print(f"when every other {what} is trained: {again}")
    else:
        make_report(Report(out))


def make_report(options: Report) -> None:
    """Makes tables and figures; the errors are those of `run`."""
    if options.out is None and options.others:
        raise UsageError("--out must be given where several studies are joined")
    studies, out = (options.study, *options.others), options.out or options.study
    given = report.read_timing(options.timing) if options.timing else None
    study, console = _finished(studies), terminal.console()
    console.print(f"making tables and figures of {len(study.runs):,} runs")
    with files.opened(out):
        notes = report.write(study, out, given or report.timing_of(studies))
        if given:  # last, when everything above has worked with it
            store.write_json(out / files.TIMING, given)
    terminal.print_table(console, report.last_epochs(study))
    console.print(
        f"written: {out}/tables, summary.json, figures; claims.md has the report's claims"
    )
    if notes:
        console.print(
            f"what these runs leave open, in {len(notes)} sentences: {out}/tables/notes.md"
        )


def export(options: Export) -> None:
    """Writes studies in the form that is committed; the errors are those of `run`."""
    if files.grows(options.out):
        refuse("out", "another directory than that of a study that grows", options.out)
    studies = (options.study, *options.others)
    study, timing = _finished(studies), report.timing_of(studies)
    with files.opened(options.out):
        files.write_committed(study, options.out)
        if timing:
            store.write_json(options.out / files.TIMING, timing)
    terminal.console().print(f"written: {options.out}, {len(study.runs):,} runs")


def _finished(studies: Sequence[Path]) -> Study:
    """Reads studies that have at least one run."""
    study = files.read(studies)
    if not study.runs:
        raise UsageError(f"{studies[0]}: no run of this study is finished")
    return study


def _check(options: Train) -> None:
    """Checks what can be checked before anything is read.

    Raises:
      UsageError: naming the option and what is allowed.
    """
    if not 1 <= options.seeds <= MAX_SEEDS:
        refuse("seeds", f"from 1 to {MAX_SEEDS}", options.seeds)
    largest = MAX_SEED + 1 - options.seeds
    if not 0 <= options.first_seed <= largest:
        refuse("first_seed", f"from 0 to {largest} with so many seeds", options.first_seed)
    for option in ("placements", "variants"):
        names = getattr(options, option)
        if not names or len(set(names)) < len(names):
            refuse(option, "one name or more, each once", " ".join(names) or "none")
    for option in ("variants", "placements", "seeds", "first_seed"):
        if options.plan is not None and getattr(options, option) != getattr(Train, option):
            refuse(option, "left out with --plan", getattr(options, option))
    if options.rates and options.plan != BEST_RATES:
        refuse("rates", f"left out without --plan {BEST_RATES}", " ".join(map(str, options.rates)))


def _asked(options: Train) -> tuple[Cell, ...]:
    """The runs that all machines together are asked for.

    Raises:
      StoreError: the rates, from which a part of the plan follows, are not all tried.
    """
    if options.plan == BEST_RATES:
        return best_rate_cells(report.best_rates(files.read(options.rates or [options.out])))
    if options.plan is not None:
        return PLAN[options.plan]
    ordered: list[Placement] = [name for name in PLACEMENTS if name in options.placements]
    return cells(options.variants, ordered, options.seeds, first=options.first_seed)


def _share(options: Train, asked: Sequence[Cell]) -> tuple[Cell, ...]:
    """The runs that this machine is asked for."""
    numbers = re.fullmatch(r"(\d{1,4})/(\d{1,4})", options.shard or "1/1")
    if not numbers or not 1 <= int(numbers[1]) <= int(numbers[2]):
        refuse("shard", "I/N with I from 1 to N", options.shard)
    return runs.share(asked, int(numbers[1]), int(numbers[2]))


def _recipes(options: Train, asked: Sequence[Cell]) -> dict[str, Recipe]:
    """The recipe of each variant."""
    recipes = {cell.variant: VARIANTS[cell.variant] for cell in asked}
    if (epochs := options.epochs) is None:
        return recipes
    # The tables end with the epochs of a variant; the answers would be those of older networks.
    for name, recipe in recipes.items():
        if not 1 <= epochs <= recipe.epochs:
            refuse("epochs", f"from 1 to {recipe.epochs}, which {name} has", epochs)
    return {name: replace(recipe, epochs=epochs) for name, recipe in recipes.items()}


@contextlib.contextmanager
def _continuing() -> Iterator[None]:
    """Whatever interrupts the training says what becomes of it."""
    try:
        yield
    except (KeyboardInterrupt, BrokenPipeError) as stop:
        stop.add_note("finished groups are kept, and the same command trains the rest")
        raise


if __name__ == "__main__":
    command.leave(main())
