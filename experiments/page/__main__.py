"""Makes one HTML file to draw on, with each network's answers, computation and results.

    python -m experiments.page runs/after_fc1-seed0 --out page.html --open

Several runs stand side by side and answer the same drawing. With `--study` the page also shows the
tables and figures of a study.
"""

if __name__ == "__main__":
    from experiments.groundwork import stopping

    stopping.end_at_once()  # before the imports that follow, which take a second

import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from experiments.groundwork import files, options, terminal
from experiments.groundwork.options import DataOptions, OptionalPath, UsageError, refuse
from experiments.groundwork.run_directory import Run, open_run
from experiments.page.build import render
from experiments.page.contents import gather, read_study
from mnist_jax.data import DatasetName, load_mnist


@dataclass(frozen=True)
class Config:
    """Make one HTML file to draw on, from one or more trained networks."""

    runs: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN ...", help_behavior_hint=lambda _: ""),
    ]
    """Directories that experiments.run made, or .safetensors files."""
    out: Path = Path("page.html")
    """File to write."""
    study: OptionalPath = None
    """Directory of a study that experiments.compare made, to show its tables and figures."""
    open: bool = False
    """Show the page in the browser."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""

    def body() -> int:
        name = "experiments.page"
        config = options.parse(Config, arguments, name=name, description=str(__doc__))
        check(config)
        out = config.out
        runs = [open_run(path) for path in config.runs]
        study = read_study(config.study) if config.study else None
        console = terminal.console()
        with terminal.log_of_library(console):
            data_dir, mirror = config.data.data_dir, config.data.mirror
            _, test = load_mnist(data_dir, mirror, dataset=dataset_of(runs))
        title = ", ".join(run.name for run in runs)
        page = render(gather(runs, test), study, title=title).encode(errors="backslashreplace")
        with files.writing(out.parent):
            files.write_whole(out, page)
        console.print(f"written: {out}, {len(page) / 1e6:.2f} MB")
        if config.open and not webbrowser.open(out.resolve().as_uri()):
            console.print("no browser was found here to open it with")
        return options.OK

    return options.run_command(body)


def check(config: Config) -> None:
    """Checks all options that can be checked before the runs are opened.

    Raises:
      UsageError: naming the option and what is allowed.
    """
    if not config.runs:
        raise UsageError("name at least one run: python -m experiments.page RUN")
    if config.out.suffix not in (".html", ".htm"):
        refuse("out", "a file that ends with .html", config.out)
    if not config.out.parent.is_dir():
        refuse("out", "in a directory that exists", config.out)


def dataset_of(runs: Sequence[Run]) -> DatasetName:
    """The data set of the runs. A bare file of weights does not name one and goes with the others.

    Raises:
      UsageError: the runs were trained on different data sets, and so cannot share a drawing.
    """
    names = {run.config["dataset"] for run in runs if "dataset" in run.config} or {"mnist"}
    if len(names) > 1:
        raise UsageError(f"runs on {' and '.join(sorted(names))} cannot share a page")
    return names.pop()


if __name__ == "__main__":
    options.leave(main())
