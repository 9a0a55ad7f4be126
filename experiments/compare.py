"""Trains networks with many seeds, and tests the report's numbers and claims.

    python -m experiments.compare --seeds 20 --out studies/report
    python -m experiments.compare --from studies/report

A study is a directory, whose files `experiments.study.directory` lists. The first command trains
what the directory has not got yet and then makes tables and figures; on two CPU cores a seed takes
from 0.5 to 0.9 s an epoch. The second remakes tables and figures from the files, and trains
nothing. --resume continues a study that was interrupted, which loses no more than the epoch in
progress, and adds seeds, placements or variants to a finished one.

Several hosts, each with its share of the seeds: start the same command on all of them, under a
scheduler that JAX knows (Slurm, Open MPI) or with

    python -m experiments.compare ... --coordinator ADDRESS:PORT --hosts 2 --host 0   (then 1)

Host 0 alone writes. With --resume all hosts must see the directory.
"""

if __name__ == "__main__":
    from experiments import stopping

    stopping.end_at_once()  # before the imports that follow, which take a second

import contextlib
import shlex
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro
from rich.console import Console

from experiments import files, options, terminal
from experiments.options import (
    DataOptions,
    OptionalPath,
    refuse,
    refuse_unless_positive,
)
from experiments.settings import EPOCHS, SETTINGS
from experiments.study import directory as study_directory
from experiments.study import hosts, report
from experiments.study.session import Session, begin, finished_epochs
from mnist_jax.data import Split, digests, load_mnist
from mnist_jax.model import PLACEMENTS

MAX_SEEDS = 10_000


def _some_of(what: str, names: Iterable[str]) -> Any:
    text = f"{what}: one or more of {', '.join(names)}, separated by commas."
    return tyro.conf.arg(metavar="NAME,...", help=text)


def _only_with_hosts(metavar: str) -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=lambda _: "")


@dataclass(frozen=True)
class Config:
    """Train the report's networks with many seeds, and test its numbers and claims."""

    seeds: int = 20
    """Number of runs of each placement and variant, from 1 to 10000."""
    first_seed: int = 0
    """Seed of the first of these runs, at least 0; the others follow it."""
    placements: Annotated[str, _some_of("Where the residual block stands", PLACEMENTS)] = ",".join(
        PLACEMENTS
    )
    variants: Annotated[str, _some_of("Settings of training", SETTINGS)] = "report"
    epochs: int = EPOCHS
    """Number of passes over the training images, at least 1."""
    out: Path = Path("studies/report")
    """Directory of the study."""
    resume: bool = False
    """Continue the study in --out, or add to it."""
    from_dir: Annotated[OptionalPath, tyro.conf.arg(name="from")] = None
    """Train nothing; remake tables and figures of the study in this directory."""
    timing: OptionalPath = None
    """What benchmarks.epoch_time wrote, for claim 2; it is kept with the study."""
    coordinator: Annotated[str | None, _only_with_hosts("ADDRESS:PORT")] = None
    """Address and port of host 0, where there are several hosts."""
    hosts: Annotated[int | None, _only_with_hosts("INT")] = None
    """Number of hosts, with --coordinator."""
    host: Annotated[int | None, _only_with_hosts("INT")] = None
    """Which host this is, from 0, with --coordinator."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    directories: list[Path] = []  # that of the study, once it is this command's

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
        paths = ("out", "from_dir", "timing")
        config = replace(
            config, **{name: options.expanded(name, getattr(config, name)) for name in paths}
        )
        check(config)
        timing = report.read_timing(config.timing) if config.timing else None
        console = terminal.console()
        if config.from_dir is not None:
            with study_directory.opened(config.from_dir):
                _report(config.from_dir, timing, console)
            return options.OK

        hosts.use_every_core()
        hosts.meet(config.coordinator, config.hosts, config.host)
        console.quiet = not hosts.is_first()
        with study_directory.opened(config.out) if hosts.is_first() else contextlib.nullcontext():
            directories.append(config.out)
            with terminal.log_of_library(console):
                splits = load_mnist(config.data.data_dir, config.data.mirror)
            session = begin(
                config.out,
                config.variants.split(","),
                [name for name in PLACEMENTS if name in config.placements.split(",")],
                range(config.first_seed, config.first_seed + config.seeds),
                epochs=config.epochs,
                data_sha256=digests(*splits),
            )
            for note in session.notes:
                console.print(note)
            console.print(terminal.devices_line(jax.devices()))
            _train(session, splits, console)
            if hosts.is_first():
                _report(config.out, timing, console)
        return options.OK

    return options.run_command(body, continue_with=continue_with)


def check(config: Config) -> None:
    """Checks all options that can be checked without the data.

    Raises:
      UsageError: naming the option and what is allowed.
    """
    refuse_unless_positive(config, "epochs", "hosts")
    if not 1 <= config.seeds <= MAX_SEEDS:
        refuse("seeds", f"from 1 to {MAX_SEEDS}", config.seeds)
    if not 0 <= config.first_seed <= options.MAX_SEED + 1 - config.seeds:
        largest = options.MAX_SEED + 1 - config.seeds
        refuse("first_seed", f"from 0 to {largest} with so many seeds", config.first_seed)
    for option, known in (("placements", PLACEMENTS), ("variants", SETTINGS)):
        names = getattr(config, option).split(",")
        if len(set(names)) < len(names) or not set(names) <= set(known):
            refuse(option, f"some of {','.join(known)}, each once", getattr(config, option))
    if config.from_dir is not None:
        if not (config.from_dir / study_directory.RESULTS).is_file():
            refuse("from", f"a directory with {study_directory.RESULTS}", config.from_dir)
    elif config.resume:
        if not (config.out / study_directory.MANIFEST).is_file():
            refuse("out", f"a study with {study_directory.MANIFEST} to resume it", config.out)
    elif hosts.number(config.host) == 0:  # host 0 may have made the directory by now
        if config.out.exists() and not config.out.is_dir():
            refuse("out", "a directory, and this is a file", config.out)
        if not files.is_unused(config.out):
            refuse("out", "new or empty; --resume continues what is there", config.out)
    if config.coordinator is None:
        if config.hosts is not None or config.host is not None:
            refuse("hosts", "given with --coordinator and --host", config.hosts)
    elif config.hosts is None or config.host is None or not 0 <= config.host < config.hosts:
        refuse("host", "from 0 to --hosts - 1, and both given", config.host)


def _train(session: Session, splits: tuple[Split, Split], console: Console) -> None:
    """Trains what is left, and shows how far it is."""
    tasks = session.tasks
    runs = sum(len(task.group.seeds) for task in tasks)
    todo = sum(len(task.group.seeds) * (session.epochs - task.done) for task in tasks)
    console.print(f"study: {runs} runs to do in {session.directory}")
    with terminal.progress(console) as progress:
        bar = progress.add_task("epochs", total=todo)
        start = time.perf_counter()
        for group, epoch, rows in finished_epochs(session, splits):
            seconds, start = time.perf_counter() - start, time.perf_counter()
            progress.update(bar, advance=len(rows), description=str(group))
            if not console.is_terminal:
                accuracy = statistics.fmean(row["test_accuracy_percent"] for row in rows)
                console.print(
                    f"{group}, epoch {epoch}/{session.epochs}: test accuracy {accuracy:.2f}%, "
                    f"{seconds / len(rows):.2f} s a seed"
                )


def _report(directory: Path, timing: dict[str, Any] | None, console: Console) -> None:
    """Makes everything that follows from the files, and says what is missing there."""
    joint, notes = report.write(directory, timing)
    for note in notes:
        console.print(note)
    console.print(joint)
    console.print(f"written: {directory}/tables, summary.json, figures")


if __name__ == "__main__":
    sys.exit(main())
