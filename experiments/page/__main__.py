"""Makes one HTML file to draw on, with each network's answers, computation and mistakes.

    python -m experiments.page runs/after_fc1-seed0 --out page.html --open

Several runs stand side by side and answer the same drawing.
"""

import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from experiments.groundwork import command, machine, terminal
from experiments.groundwork.command import DataOptions, UsageError, refuse
from experiments.groundwork.recipe import PixelScale
from experiments.groundwork.run_directory import Run, open_run
from experiments.page.build import render
from experiments.page.contents import gather
from mnist_jax import data, store
from mnist_jax.data import DatasetName


@dataclass(frozen=True)
class Options:
    """Make one HTML file to draw on, from one or more trained networks."""

    runs: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN ...", help_behavior_hint=lambda _: ""),
    ] = ()
    """Directories that experiments.run made, or .safetensors files."""
    out: Path = Path("page.html")
    """File to write."""
    pixels: PixelScale | None = None
    """Scale of a pixel x of 0..1, for a file of weights that does not say it: (x - 0.5)/0.5,
    (x - 0.1307)/0.3081, or x itself."""
    open: bool = False
    """Show the page in the browser."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return command.main(Options, page, arguments, name="experiments.page", description=__doc__)


def page(options: Options) -> None:
    """Writes the page and says how large it is.

    Raises:
      UsageError: an option has a value that it cannot have, or a run cannot be opened.
      DataError: the test images cannot be had.
      StoreError: the page cannot be written.
    """
    check(options)
    runs = [open_run(path, options.pixels) for path in options.runs]
    console = terminal.console()
    machine.start()
    with terminal.log_of_library(console):
        where = options.data
        test = data.load_mnist(where.data_dir, where.mirror, dataset=dataset_of(runs)).test
    content = render(gather(runs, test)).encode(errors="backslashreplace")
    store.write_whole(options.out, content)
    console.print(f"written: {options.out}, {len(content) / 1e6:.2f} MB")
    if options.open and not webbrowser.open(options.out.resolve().as_uri()):
        console.print("no browser was found here to open it with")


def check(options: Options) -> None:
    """Checks all options that can be checked before the runs are opened.

    Raises:
      UsageError: naming the option and what is allowed.
    """
    if not options.runs:
        raise UsageError("name at least one run: python -m experiments.page RUN")
    if options.out.suffix not in (".html", ".htm"):
        refuse("out", "a file that ends with .html", options.out)
    if not options.out.parent.is_dir():
        refuse("out", "in a directory that exists", options.out)


def dataset_of(runs: Sequence[Run]) -> DatasetName:
    """The data set of the runs. A bare file of weights does not name one and goes with the others.

    Raises:
      UsageError: the runs were trained on different data sets, and so cannot share a drawing.
    """
    names: set[DatasetName] = {run.config.recipe.dataset for run in runs if run.config}
    names = names or {"mnist"}
    if len(names) > 1:
        raise UsageError(f"runs on {' and '.join(sorted(names))} cannot share a page")
    return names.pop()


if __name__ == "__main__":
    command.leave(main())
