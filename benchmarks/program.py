"""What the two timed programs share: their options, their clock, and what they print.

`jax_program` and `torch_program` differ in how they train and in nothing else. Each of them gives
this module a `Side`, and the loop below trains, evaluates and times it.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypeVar

import tyro
from experiments.groundwork.manifest import manifest
from experiments.groundwork.options import (
    DataOptions,
    OptionalInt,
    OptionalPath,
    refuse,
    refuse_unless_positive,
)

from experiments.groundwork import cores, files, options, settings, terminal
from experiments.groundwork.recipe import Schedule
from mnist_jax.data import TRAIN_SIZE, Split, digests, load_mnist
from mnist_jax.model import Placement

Statistics = Literal["running", "recalibrated"]
PRODUCT_SIZE, PRODUCTS = 1024, 20


@dataclass(frozen=True)
class Options:
    """The options of both programs."""

    placement: Placement = "after_fc1"
    """Where the residual block stands."""
    epochs: int = 3
    """Number of passes over the training images, at least 1."""
    batch_size: int = settings.REPORT.batch_size
    """Number of images in a training step, at least 1."""
    examples: OptionalInt = None
    """Number of images to train on, at least 1; by default all."""
    held_out: int = 0
    """Number of training images that are kept from training and evaluated as test images."""
    schedule: Schedule = "constant"
    """How the learning rate changes: constant, or one cycle up to --peak-learning-rate and down."""
    learning_rate: float = settings.REPORT.learning_rate
    """Learning rate of --schedule constant, at least 0."""
    peak_learning_rate: float = settings.PEAK_LEARNING_RATE
    """Highest learning rate of --schedule one_cycle, at least 0."""
    nesterov: bool = False
    """Use Nesterov's form of momentum."""
    statistics: Statistics = "running"
    """Statistics that batch normalisation evaluates with: the running ones of training, or ones
    recomputed from all training images."""
    threads: OptionalInt = None
    """Number of CPU cores to run on, at least 1; by default all that the process may use."""
    seed: int = 0
    """Seed of the initial weights and of the order of the images, from 0 to 4294967295."""
    seeds: int = 1
    """Number of trainings, one after another with seeds that count up, at least 1."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    json: OptionalPath = None
    """File for the results as JSON; - prints them instead of the lines of the epochs."""

    def rate_and_cycle(self, train_size: int) -> tuple[float, int | None]:
        """As `settings.rate_and_cycle`, for so many images to train on."""
        return settings.rate_and_cycle(
            self.schedule,
            learning_rate=self.learning_rate,
            peak_learning_rate=self.peak_learning_rate,
            epochs=self.epochs,
            batch_size=self.batch_size,
            train_size=train_size,
        )


class Sums(Protocol):
    """The sums of an epoch, which `metrics.Metrics` and `torch_report.Sums` both hold."""

    @property
    def mean_loss(self) -> float:
        """The mean cross-entropy of an example, in nats."""
        ...

    @property
    def accuracy_percent(self) -> float:
        """The share of right predictions, in percent."""
        ...


class Side(NamedTuple):
    """The functions of a program that is ready to train one network.

    What a state is, each program decides for itself. Every function returns when its result is
    computed, not before.
    """

    start: Callable[[int], Any]  # takes a seed, returns the state before the first epoch
    train_epoch: Callable[[Any, int], tuple[Any, Sums]]  # takes a state and the epoch's number
    recalibrate: Callable[[Any], Any]  # takes a state, returns the one that `evaluate` takes then
    evaluate: Callable[[Any], Sums]
    multiply: Callable[[int, int], None]  # takes the size of matrices and the number of products
    threads: int
    compile_seconds: float | None  # None where the first epoch compiles
    versions: Mapping[str, str]


Chosen = TypeVar("Chosen", bound=Options)


def main(
    config_type: type[Chosen],
    ready: Callable[[Chosen, Split, Split], Side],
    arguments: Sequence[str] | None,
    *,
    name: str,
    description: str | None,
) -> int:
    """Runs the command line of either program; returns its exit status.

    Args:
      config_type: the program's options, which may add some to `Options`.
      ready: makes the program ready; it takes the splits to train on and to evaluate.
      arguments: the words of the command line; None means the process's own.
      name: the name of the program's module.
      description: the description of the program for its help.
    """

    def body() -> int:
        config = options.parse(config_type, arguments, name=name, description=description)
        check(config)
        cores.keep_to(config.threads or cores.count())
        train, test = load_mnist(config.data.data_dir, config.data.mirror)
        splits = divided(train, test, examples=config.examples, held_out=config.held_out)
        side = ready(config, *splits)
        printing = config.json != Path("-")
        console = terminal.console(quiet=not printing)
        runs = []
        for seed in range(config.seed, config.seed + config.seeds):
            runs.append({"seed": seed, "epochs": []})
            recalibrated = config.statistics == "recalibrated"
            for row in timed(side, seed, config.epochs, recalibrated=recalibrated):
                runs[-1]["epochs"].append(row)
                console.print(terminal.epoch_line(row))
        if config.json is not None:
            conditions = manifest(digests(train, test), threads=side.threads)
            result = {
                "conditions": conditions | {"versions": dict(side.versions)},
                "compile_seconds": side.compile_seconds,
                "matrix_product_gflops": matrix_product_gflops(side.multiply),
                "runs": runs,
            }
            if printing:
                files.write_whole(config.json, files.as_json(result))
            else:
                print(json.dumps(result))
        return options.OK

    return options.run_command(body)


def check(config: Options) -> None:
    """Checks all options that can be checked without the data.

    Raises:
      UsageError: naming the option and what is allowed.
    """
    refuse_unless_positive(
        epochs=config.epochs,
        batch_size=config.batch_size,
        examples=config.examples,
        seeds=config.seeds,
    )
    if not 0 <= config.held_out < TRAIN_SIZE:
        refuse("held_out", f"at least 0 and below {TRAIN_SIZE}", config.held_out)
    most = TRAIN_SIZE - config.held_out
    if config.examples is not None and config.examples > most:
        refuse("examples", f"at most {most}, as many as there are", config.examples)
    options.refuse_training(
        train_size=most if config.examples is None else config.examples,
        placement=config.placement,
        batch_size=config.batch_size,
        seed=config.seed,
        learning_rate=config.learning_rate,
        peak_learning_rate=config.peak_learning_rate,
    )
    if config.seed + config.seeds - 1 > options.MAX_SEED:
        refuse("seeds", f"such that no seed is above {options.MAX_SEED}", config.seeds)
    options.refuse_threads(config.threads)
    if config.json != Path("-"):
        options.refuse_unless_writable(json=config.json)


def divided(
    train: Split, test: Split, *, examples: int | None, held_out: int
) -> tuple[Split, Split]:
    """The splits to train on and to evaluate; arguments as in `Options`."""
    if held_out:
        test = Split(*(array[-held_out:] for array in train))
        train = Split(*(array[:-held_out] for array in train))
    return Split(*(array[:examples] for array in train)), test


def timed(side: Side, seed: int, epochs: int, *, recalibrated: bool) -> Iterator[dict[str, Any]]:
    """Trains with one seed and yields a row after each epoch, with the keys of a run's metrics.

    `seconds` are those of training alone, and `cpu_seconds` are those that all threads together
    computed in that time. Evaluation and recalibration have keys of their own.
    """
    state = side.start(seed)
    for number in range(1, epochs + 1):
        start, cpu = time.perf_counter(), time.process_time()
        state, trained = side.train_epoch(state, number)
        trained_at, cpu = time.perf_counter(), time.process_time() - cpu
        evaluated = side.recalibrate(state) if recalibrated else state
        recalibrated_at = time.perf_counter()
        tested = side.evaluate(evaluated)
        yield {
            "epoch": number,
            "train_loss": trained.mean_loss,
            "train_accuracy_percent": trained.accuracy_percent,
            "test_loss": tested.mean_loss,
            "test_accuracy_percent": tested.accuracy_percent,
            "seconds": trained_at - start,
            "cpu_seconds": cpu,
            "recalibration_seconds": recalibrated_at - trained_at,
            "evaluation_seconds": time.perf_counter() - recalibrated_at,
        }


def matrix_product_gflops(multiply: Callable[[int, int], None]) -> float:
    """The speed of large float32 matrix products, in 10^9 operations a second."""
    multiply(PRODUCT_SIZE, 1)
    start = time.perf_counter()
    multiply(PRODUCT_SIZE, PRODUCTS)
    return 2 * PRODUCT_SIZE**3 * PRODUCTS / (time.perf_counter() - start) / 1e9
