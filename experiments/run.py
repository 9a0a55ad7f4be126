"""Trains one network and writes down everything about the run.

    python -m experiments.run --placement after_fc1

On two CPU cores this takes about half a minute once the data are prepared, and ends near 98.7 %
test accuracy.
"""

import contextlib
import csv
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from experiments import published
from experiments.manifest import manifest
from mnist_jax import metrics, torch_weights, train
from mnist_jax.data import NORMALISATIONS, Split, digests, load_mnist
from mnist_jax.model import PLACEMENTS, LeNet, summary
from mnist_jax.sources import DataError

DATASETS = ("mnist", "fashion_mnist", "kmnist")
PLATFORMS = ("cpu", "gpu", "tpu")


def _one_of(choices: Sequence[str]) -> Any:
    return tyro.conf.arg(metavar="{" + ",".join(choices) + "}")


@dataclass(frozen=True)
class Config:
    """Train LeNet with one residual block on MNIST, as the report does."""

    placement: Annotated[str, _one_of(PLACEMENTS)] = "after_fc1"
    """Where the residual block stands."""
    epochs: int = 10
    """Passes over the training images, at least 1."""
    batch_size: int = 64
    """Images a step, from 1 to the size of the training split."""
    learning_rate: float = 0.001
    """Of SGD, a step; at least 0."""
    momentum: float = 0.9
    """Of SGD, from 0 to below 1."""
    seed: int = 0
    """Of the initial weights and the order of the images, at least 0."""
    normalisation: Annotated[str, _one_of(tuple(NORMALISATIONS))] = "half"
    """Of the pixels x/255: (x - 0.5)/0.5, (x - 0.1307)/0.3081, or none."""
    dataset: Annotated[str, _one_of(DATASETS)] = "mnist"
    """What to train on."""
    init_from: Path | None = None
    """A .safetensors file with initial weights, from an earlier run or from PyTorch."""
    data_dir: Path | None = None
    """TFDS's data directory; else TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    mirror: Path | None = None
    """A directory with the four original files, to prepare the data from; else MNIST_MIRROR."""
    out: Path = Path("runs")
    """Where the directory of the run is made."""
    platform: Annotated[str | None, _one_of(PLATFORMS)] = None
    """What to compute on; else what JAX finds."""
    compile_cache: Path | None = None
    """A directory for compiled programs: a later start with the same options reads them there."""
    dry_run: bool = False
    """Compile, train a few steps on made-up images, evaluate, write nothing."""
    summary: bool = False
    """Print the network layer by layer and stop."""
    quiet: bool = False
    """Print errors only."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    console = Console(quiet=config.quiet, highlight=False, markup=False, soft_wrap=True)
    try:
        check(config)
        if config.summary:
            console.print(_summary_table(config.placement))
            return 0
        return run(config, console)
    except (UsageError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except DivergedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130  # as a shell reports SIGINT


class UsageError(Exception):
    """An option has a value that it cannot have."""


class DivergedError(Exception):
    """The loss is not finite any more."""


def check(config: Config) -> None:
    """Checks all options that can be checked without the data.

    Raises:
      UsageError: naming the option and what is allowed.
    """
    choices = {
        "placement": PLACEMENTS,
        "normalisation": tuple(NORMALISATIONS),
        "dataset": DATASETS,
        "platform": (None, *PLATFORMS),
    }
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            refuse(name, f"one of {', '.join(filter(None, allowed))}", getattr(config, name))
    for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
        if getattr(config, name) < least:
            refuse(name, f"at least {least}", getattr(config, name))
    if not 0 <= config.learning_rate < float("inf"):
        refuse("learning_rate", "a finite number, at least 0", config.learning_rate)
    if not 0 <= config.momentum < 1:
        refuse("momentum", "at least 0 and below 1", config.momentum)
    if config.data_dir is not None and config.data_dir.is_file():
        refuse("data_dir", "a directory, and this is a file", config.data_dir)


def refuse(option: str, allowed: str, value: object) -> NoReturn:
    """Raises the UsageError of an option, `allowed` being what it must be."""
    raise UsageError(f"--{option.replace('_', '-')} must be {allowed}: {value}")


def keys_of(seed: int) -> tuple[jax.Array, jax.Array]:
    """The keys of a seed: of the initial weights, and of the order of the images."""
    init_key, order_key = jax.random.split(jax.random.key(seed))
    return init_key, order_key


def run(config: Config, console: Console) -> int:
    """Trains as configured, prints as it goes, and writes the directory of the run.

    Raises:
      UsageError: an option turned out to be impossible.
      DataError: the data cannot be had.
      DivergedError: the loss became NaN or infinite.
    """
    if config.platform:
        jax.config.update("jax_platforms", config.platform)
    cached = _use_compile_cache(config.compile_cache) if config.compile_cache else None
    try:
        devices = jax.devices()
    except RuntimeError:
        refuse("platform", "one that this machine has", config.platform)

    with contextlib.nullcontext() if config.dry_run else _make_directory(config) as directory:
        train_split, test_split = _made_up(config) if config.dry_run else _load(config, console)
        size = train_split.labels.shape[0]
        if config.batch_size > size:
            refuse("batch_size", f"at most {size}, the training split", config.batch_size)
        if config.placement == "after_fc1" and 1 in (config.batch_size, size % config.batch_size):
            refuse("batch_size", "such that no batch has one image", config.batch_size)

        model = LeNet(config.placement)
        tx = optax.sgd(config.learning_rate, momentum=config.momentum or None)
        init_key, order_key = keys_of(config.seed)
        if config.init_from is None:
            # It runs once, so the time to compile it counts: 0.5 s in place of 0.7.
            quickly = {"xla_backend_optimization_level": 1}
            init_state = jax.jit(partial(train.init_state, model, tx), compiler_options=quickly)
            state = init_state(init_key)
        else:
            state = train.start_from(_initial_weights(config), tx)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        console.print(f"network: LeNet, block {config.placement}, {parameters:,} parameters")
        console.print(f"devices: {', '.join(f'{d.platform} ({d.device_kind})' for d in devices)}")
        if directory:
            _write_json(directory / "config.json", asdict(config))
            _write_json(directory / "manifest.json", manifest(digests(train_split, test_split)))

        mean, std = NORMALISATIONS[config.normalisation]
        history: list[dict[str, float]] = []
        epochs = train.fit(
            state,
            jax.tree.map(jnp.asarray, train_split),
            jax.tree.map(jnp.asarray, test_split),
            order_key,
            model=model,
            tx=tx,
            epochs=1 if config.dry_run else config.epochs,
            batch_size=config.batch_size,
            mean=mean,
            std=std,
        )
        for epoch, seconds in _timed(epochs, console):
            row = _row(epoch, seconds)
            history.append(row)
            console.print(_line(row))
            if cached is not None and epoch.number == 1:
                console.print(
                    f"compile cache: {cached['hits']} programs found, {cached['misses']} compiled"
                )
            if directory:
                with (directory / "metrics.jsonl").open("a") as file:
                    finite = {k: v if np.isfinite(v) else None for k, v in row.items()}
                    file.write(json.dumps(finite) + "\n")  # NaN would not be JSON
            if not np.isfinite([row["train_loss"], row["test_loss"]]).all():
                raise DivergedError(f"the loss is not finite after epoch {epoch.number}")
            state = epoch.state

        logits = train.predict(
            state, jnp.asarray(test_split.images), model=model, batch_size=500, mean=mean, std=std
        )
        confusion = np.asarray(metrics.confusion_matrix(logits.argmax(-1), test_split.labels))
        for line in _per_class_lines(confusion):
            console.print(line)
        if directory:
            if compared := published.compare_last_epoch(config.placement, history[-1]):
                console.print(_report_table(compared))
            steps = config.epochs * -(-size // config.batch_size)
            torch_weights.save(directory / "weights.safetensors", train.variables_of(state), steps)
            _write_per_class(directory / "per_class.csv", confusion)
            _draw(directory, config.placement, history, confusion, test_split, logits)
            console.print(f"written: {directory}")
    return 0


def _use_compile_cache(directory: Path) -> Counter[str]:
    """Makes JAX keep compiled programs; the returned counts of hits and misses grow as it runs.

    Raises:
      UsageError: the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse("compile_cache", f"a directory that can be written ({error.strerror})", directory)
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # small ones add up
    counts: Counter[str] = Counter()

    def count(event: str, **_: object) -> None:
        prefix, _, name = event.partition("cache_")
        if prefix == "/jax/compilation_cache/" and name in ("hits", "misses"):
            counts[name] += 1

    jax.monitoring.register_event_listener(count)
    return counts


@contextlib.contextmanager
def _make_directory(config: Config) -> Iterator[Path]:
    """A new directory for the run; removed again if the run ends before it wrote anything."""
    name = f"{config.placement}-seed{config.seed}"
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 10_000):
            directory = config.out / (name if attempt == 1 else f"{name}-{attempt}")
            with contextlib.suppress(FileExistsError):
                directory.mkdir()
                break
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        refuse("out", f"a directory that can be written ({error.strerror})", config.out)
    try:
        yield directory
    finally:
        with contextlib.suppress(OSError):
            directory.rmdir()  # does nothing to a directory with files


def _load(config: Config, console: Console) -> tuple[Split, Split]:
    """The data; what the sources log on the way is printed."""

    class Printer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            console.print(record.getMessage())

    log = logging.getLogger("mnist_jax")
    log.handlers = [Printer()]
    log.setLevel(logging.INFO)
    return load_mnist(config.data_dir, config.mirror, dataset=config.dataset)


def _made_up(config: Config) -> tuple[Split, Split]:
    """Three batches and a half of noise to train on, and as much to evaluate."""
    rng = np.random.default_rng(config.seed)

    def split(size: int) -> Split:
        images = rng.integers(0, 256, (size, 28, 28, 1), dtype=np.uint8)
        return Split(images, rng.integers(0, 10, size, dtype=np.int32))

    size = 3 * config.batch_size + (config.batch_size + 1) // 2
    return split(size), split(size)


def _initial_weights(config: Config) -> Any:
    try:
        return torch_weights.load(config.init_from, config.placement)
    except (OSError, ValueError) as error:
        raise UsageError(f"--init-from: {error}") from error


def _timed(epochs: Iterator[train.Epoch], console: Console) -> Iterator[tuple[train.Epoch, float]]:
    """Each epoch with the seconds it took; a moving bar on a terminal while it computes."""
    for number in range(1, sys.maxsize):
        start = time.perf_counter()
        with contextlib.ExitStack() as stack:
            if console.is_terminal and not console.quiet:
                columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
                bar = stack.enter_context(Progress(*columns, console=console, transient=True))
                bar.add_task(f"Epoch {number}", total=None)
            epoch = next(epochs, None)
        if epoch is None:
            return
        yield epoch, time.perf_counter() - start


def _row(epoch: train.Epoch, seconds: float) -> dict[str, float]:
    return {
        "epoch": epoch.number,
        "train_loss": epoch.train.mean_loss,
        "train_accuracy_percent": epoch.train.accuracy_percent,
        "test_loss": epoch.test.mean_loss,
        "test_accuracy_percent": epoch.test.accuracy_percent,
        "seconds": seconds,
    }


def _line(row: Mapping[str, float]) -> str:
    """The report's own line, and the seconds."""
    return (
        "Epoch {epoch}, train:: loss: {train_loss:.4f}, accuracy: {train_accuracy_percent:.4f}% "
        "test:: loss: {test_loss:.4f}, accuracy: {test_accuracy_percent:.4f}% ({seconds:.2f} s)"
    ).format(**row)


def _per_class_lines(confusion: np.ndarray) -> Iterator[str]:
    """The report's own lines, whole percent cut off as there, and the counts."""
    for digit, row in enumerate(confusion):
        correct, count = int(row[digit]), int(row.sum())
        percent = 100 * correct // count if count else 0
        yield f"Accuracy of {digit:6} : {percent:2} % ({correct} of {count})"


def _report_table(compared: Sequence[published.Compared]) -> Table:
    table = Table("last epoch", "ours", "report", "difference", title="Beside the report")
    for row in compared:
        table.add_row(
            row.metric, f"{row.ours:.4f}", f"{row.published:.4f}", f"{row.difference:+.4f}"
        )
    return table


def _summary_table(placement: str) -> Table:
    table = Table(title=f"LeNet, block {placement}: one image", show_footer=True)
    layers = summary(placement)
    table.add_column("layer", "total", no_wrap=True)
    table.add_column("output shape", no_wrap=True)
    for name in ("parameters", "multiply_adds"):
        total = sum(getattr(layer, name) for layer in layers)
        table.add_column(name.replace("_", "-"), f"{total:,}", justify="right", no_wrap=True)
    for layer in layers:
        shape = " x ".join(map(str, layer.shape))
        table.add_row(layer.name, shape, f"{layer.parameters:,}", f"{layer.multiply_adds:,}")
    return table


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, default=str) + "\n")


def _write_per_class(path: Path, confusion: np.ndarray) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("class", "correct", "count", "accuracy_percent"))
        for digit, row in enumerate(confusion):
            correct, count = int(row[digit]), int(row.sum())
            writer.writerow((digit, correct, count, f"{100 * correct / max(count, 1):.4f}"))


def _draw(
    directory: Path,
    placement: str,
    history: Sequence[Mapping[str, float]],
    confusion: np.ndarray,
    test: Split,
    logits: jax.Array,
) -> None:
    """The three pictures of a run."""
    from experiments import figures  # matplotlib, only now: it would delay the first epoch

    figures.curves(history, placement, directory / "curves.png")
    figures.confusion(confusion, directory / "confusion.png")
    probabilities = np.asarray(jax.nn.softmax(logits))  # [N, 10]
    labels = np.asarray(test.labels)
    predictions = probabilities.argmax(1)
    (wrong,) = np.nonzero(predictions != labels)
    worst = wrong[np.argsort(probabilities[wrong, labels[wrong]])][:24]
    figures.mistakes(
        np.asarray(test.images)[worst, :, :, 0],
        labels[worst],
        predictions[worst],
        probabilities[worst, predictions[worst]],
        directory / "mistakes.png",
    )


if __name__ == "__main__":
    sys.exit(main())
