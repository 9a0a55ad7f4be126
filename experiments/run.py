"""Trains one network and writes down everything about the run.

    python -m experiments.run --placement after_fc1
    python -m experiments.run --resume runs/after_fc1-seed0 --epochs 20

The first command takes 15 to 30 seconds on two CPU cores (`benchmarks.whole_run`), once
the data are prepared, and ends near 98.7 % test accuracy. The second continues a run that was
interrupted, or lengthens a finished one; the result is that of a run which was never interrupted.
`experiments.groundwork.run_directory` lists the files of a run.
"""

if __name__ == "__main__":
    from experiments.groundwork import stopping

    stopping.end_at_once()  # before the imports that follow, which take a second

import contextlib
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from mnist_jax.checkpoint import Checkpoint, CheckpointError, restore
from rich.console import Console

from experiments.groundwork import (
    compile_cache,
    cores,
    evaluation,
    files,
    options,
    published,
    run_directory,
    settings,
    terminal,
)
from experiments.groundwork.manifest import differences, manifest
from experiments.groundwork.options import (
    CacheOptions,
    DataOptions,
    FailedError,
    OptionalInt,
    OptionalPath,
    UsageError,
    may_be_absent,
    refuse,
    refuse_unless_positive,
)
from experiments.groundwork.recipe import Schedule
from experiments.groundwork.variants import Evaluation, Normalisation
from mnist_jax import metrics, parallel, train
from mnist_jax.data import (
    PIXELS,
    TEST_SIZE,
    TRAIN_SIZE,
    DatasetName,
    Split,
    digests,
    load_mnist,
)
from mnist_jax.model import LeNet, Placement
from mnist_jax.summary import summary
from mnist_jax.train import Programs, TrainState

Platform = Literal["cpu", "gpu", "tpu"]


@dataclass(frozen=True)
class Config:
    """Train LeNet with one residual block on MNIST, as the report does."""

    placement: Placement = "after_fc1"
    """Where the residual block stands."""
    epochs: int = settings.EPOCHS
    """Number of passes over the training images, at least 1."""
    batch_size: int = settings.REPORT.batch_size
    """Number of images in a training step, at least 1."""
    learning_rate: float = settings.REPORT.learning_rate
    """Learning rate of stochastic gradient descent, at least 0."""
    momentum: float = settings.REPORT.momentum
    """Momentum of stochastic gradient descent, at least 0 and below 1."""
    nesterov: bool = False
    """Use Nesterov's momentum."""
    schedule: Schedule = "constant"
    """How the learning rate changes: constant, or one cycle up to --peak-learning-rate and down."""
    peak_learning_rate: float = settings.PEAK_LEARNING_RATE
    """Highest learning rate of --schedule one_cycle, at least 0."""
    seed: int = 0
    """Seed of the initial weights and of the order of the images, from 0 to 4294967295."""
    normalisation: Normalisation = "half"
    """Scale of a pixel x of 0..1: (x - 0.5)/0.5, (x - 0.1307)/0.3081, or x itself."""
    dataset: DatasetName = "mnist"
    """Data set to train on."""
    init_from: OptionalPath = None
    """A .safetensors file with the initial weights, from an earlier run or from PyTorch."""
    evaluation: Evaluation = "running"
    """Statistics with which batch normalisation treats the test images: the running statistics of
    training, those of each test batch, or the means over all training images. The last are then
    written into the file of weights, too."""
    devices: int = 1
    """Number of devices that share each batch, at least 1."""
    platform: Annotated[Platform | None, may_be_absent(*get_args(Platform))] = None
    """Platform to compute on; by default the one that JAX prefers."""
    threads: OptionalInt = None
    """Number of threads on the CPU, at least 1; by default one for each core, but only one where
    there are two cores that lie so far apart that a second thread would cost time."""
    out: Path = Path("runs")
    """Directory in which the directory of the run is made."""
    resume: OptionalPath = None
    """Directory of a run to continue, or to lengthen with --epochs."""
    keep_epochs: bool = False
    """Keep the weights of every epoch, in the folder epochs of the run."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    cache: Annotated[CacheOptions, tyro.conf.arg(name="")] = field(default_factory=CacheOptions)
    dry_run: bool = False
    """Check the options, train a few steps on made-up images, and write nothing."""
    summary: bool = False
    """Print the network layer by layer, and stop."""
    quiet: bool = False
    """Print errors only."""

    def described(self) -> dict[str, Any]:
        """The part that the files of a run record, as JSON values."""
        values = {name: getattr(self, name) for name in (*FIXED, "epochs", "keep_epochs")}
        return values | {"init_from": self.init_from and str(self.init_from)}

    def words_of_this_machine(self) -> list[str]:
        """The options that do not define a run, so that its directory does not have them."""
        given = {
            "--data-dir": self.data.data_dir,
            "--mirror": self.data.mirror,
            "--platform": self.platform,
            "--threads": self.threads,
            "--compile-cache": self.cache.compile_cache,
        }
        words = [word for name, value in given.items() if value for word in (name, str(value))]
        return words + ["--no-compile-cache"] * self.cache.no_compile_cache


# These options define a run: when it is continued they must be those that it was begun with.
FIXED = (
    "placement",
    "batch_size",
    "learning_rate",
    "momentum",
    "nesterov",
    "schedule",
    "peak_learning_rate",
    "seed",
    "normalisation",
    "dataset",
    "init_from",
    "evaluation",
    "devices",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    begun: list[tuple[Path, Config]] = []  # the run's directory and options, once there is one

    def continue_with() -> str | None:
        for directory, config in begun:
            if (directory / run_directory.CHECKPOINT).exists():
                words = ["python", "-m", "experiments.run", "--resume", str(directory)]
                return shlex.join([*words, *config.words_of_this_machine()])
        return None

    def body() -> int:
        config = _parsed(arguments)
        check(config)
        console = terminal.console(quiet=config.quiet)
        model = LeNet(config.placement, PIXELS[config.normalisation])
        if config.summary:
            console.print(terminal.summary_table(model.placement, summary(model)))
            return options.OK
        threads = _start_jax(
            config.platform, config.devices, config.threads, config.resume, console
        )
        keeping = not (config.dry_run or config.cache.no_compile_cache)
        if keeping and (line := compile_cache.turn_on(config.cache.compile_cache)):
            console.print(line)
        rate, cycle = settings.rate_and_cycle(
            config.schedule,
            learning_rate=config.learning_rate,
            peak_learning_rate=config.peak_learning_rate,
            epochs=config.epochs,
            batch_size=config.batch_size,
            train_size=TRAIN_SIZE,
        )
        tx = settings.sgd(rate, config.momentum, nesterov=config.nesterov, one_cycle_steps=cycle)
        programs = _programs(model, tx, config.batch_size, config.devices)
        if config.dry_run:
            init_key, order_key = settings.keys_of(config.seed)
            state = _initial_state(programs, init_key, config.init_from, model, tx)
            row = _try_out(programs, state, order_key, config.batch_size)
            console.print(terminal.epoch_line(row))
            console.print("made-up images; nothing was written")
            return options.OK
        name = f"{config.placement}-seed{config.seed}"
        with _directory(config.resume, config.out, name) as directory:
            begun.append((directory, config))
            _train_in(
                directory,
                config.described(),
                config.data,
                model,
                tx,
                programs,
                resumed=config.resume is not None,
                threads=threads,
                console=console,
            )
            console.print(f"written: {directory}")
        return options.OK

    return options.run_command(body, continue_with=continue_with)


def _train_in(
    directory: Path,
    described: Mapping[str, Any],
    data: DataOptions,
    model: LeNet,
    tx: optax.GradientTransformation,
    programs: Programs,
    *,
    resumed: bool,
    threads: int | None,
    console: Console,
) -> None:
    """Trains a run from its start, or from where it was stopped, and shows what came of it.

    Args:
      directory: the run's.
      described: the options that define the run, as `Config.described` returns them.
      data: where the data are.
      model: the network.
      tx: the optimiser.
      programs: what `_programs` made of both.
      resumed: whether the directory is that of an earlier run.
      threads: what `_start_jax` returned.
      console: prints what happens.
    """
    devices, batch_size = described["devices"], described["batch_size"]
    saved = _saved(directory, described, console) if resumed else None
    ready = _made_ready(programs, devices, data, described["dataset"], console)
    console.print(terminal.network_line(model))
    console.print(terminal.devices_line(jax.devices()[:devices]))
    init_key, order_key = settings.keys_of(described["seed"])
    # A checkpoint has all that a continued run starts from.
    init_from = None if saved or not (path := described["init_from"]) else Path(path)
    state = _initial_state(ready.programs, init_key, init_from, model, tx)
    environment = manifest(ready.data_sha256, threads=threads)
    state, history = _begun(directory, described, environment, state, saved, console)
    way = evaluation.in_one_way(ready.programs, described["evaluation"], ready.in_order)
    record = partial(
        run_directory.write_epoch,
        directory,
        config=described,
        data_sha256=ready.data_sha256,
        pixels=model.pixels,
        steps_per_epoch=-(-len(ready.splits[0].labels) // batch_size),
        keep=described["keep_epochs"],
    )
    three_ways = model.placement != "none" and TEST_SIZE % batch_size != 1
    with ThreadPoolExecutor(1) as beside:  # what the end needs, while the network trains
        at_end = beside.submit(_ready_for_the_end, programs, ready, three_ways=three_ways)
        state, history, logits = _train(
            way, state, ready.splits, order_key, history, described["epochs"], record, console
        )
        tested = beside.submit(at_end.result(), train.variables_of(state))
        shown = ready.splits[1] if described["evaluation"] == "running" else ready.in_order()[1]
        _finish(directory, model.placement, history, shown, logits, console)
        if (evaluations := tested.result()) is not None:
            terminal.print_table(console, terminal.evaluations_table(evaluations))
    if _is_the_reports(described):
        compared = published.compare_last_epoch(model.placement, history[-1])
        terminal.print_table(console, terminal.report_table(compared))


class Ready(NamedTuple):
    """The data of a run, and programs that need not be compiled any more."""

    programs: Programs
    splits: tuple[Split, Split]  # for training and for testing, on the devices
    in_order: Callable[[], tuple[Split, Split]]  # the same in file order, made when first asked for
    data_sha256: dict[str, str]


def _parsed(arguments: Sequence[str] | None) -> Config:
    """The configuration; a continued run keeps the options that are not given anew.

    Raises:
      UsageError: an option contradicts the run that is to be continued.
    """
    parse = partial(options.parse, Config, arguments, name="experiments.run", description=__doc__)
    config = parse()
    if config.resume is None:
        return config
    begun = run_directory.read_config(config.resume)
    # A run of an earlier version lacks later options, and was trained with their defaults.
    own = {name: begun.get(name, getattr(Config, name)) for name in (*FIXED, "epochs")}
    own["init_from"] = begun.get("init_from") and Path(begun["init_from"])
    # A flag that is on by default could not be given again.
    given = parse(default=replace(Config(), **(own | {"nesterov": False})))
    given = replace(given, nesterov=given.nesterov or own["nesterov"])
    # A cycle of the learning rate depends on the number of epochs.
    fixed = FIXED if own["schedule"] == "constant" else (*FIXED, "epochs")
    for name in fixed:
        if getattr(given, name) != own[name]:
            raise UsageError(
                f"--{name.replace('_', '-')} {getattr(given, name)} contradicts the run in "
                f"{config.resume}, which has {own[name]}"
            )
    return replace(given, keep_epochs=given.keep_epochs or begun.get("keep_epochs", False))


def check(config: Config) -> None:
    """Checks all options that can be checked without the data.

    Raises:
      UsageError: naming the option and what is allowed.
    """
    refuse_unless_positive(epochs=config.epochs, devices=config.devices)
    options.refuse_training(
        train_size=TRAIN_SIZE,
        placement=config.placement,
        batch_size=config.batch_size,
        seed=config.seed,
        learning_rate=config.learning_rate,
        peak_learning_rate=config.peak_learning_rate,
        momentum=config.momentum,
    )
    options.refuse_threads(config.threads)
    if config.threads is not None and config.threads < config.devices:
        refuse("threads", f"at least --devices {config.devices}", config.threads)
    if config.evaluation == "batch" and TEST_SIZE % config.batch_size == 1:
        refuse("batch_size", "such that no batch of test images has one", config.batch_size)
    if config.batch_size % config.devices:
        refuse("batch_size", f"a multiple of --devices {config.devices}", config.batch_size)
    if config.resume:
        if config.dry_run:
            refuse("dry_run", "given without --resume", config.dry_run)
        if config.out != Config.out:
            refuse("out", "given without --resume, which names the directory", config.out)
    else:  # an earlier version took them, and what it began can be continued
        without = "learning_rate" if config.schedule == "one_cycle" else "peak_learning_rate"
        if (rate := getattr(config, without)) != getattr(Config, without):
            refuse(without, f"left out with --schedule {config.schedule}", rate)


def _worthwhile_threads(resume: Path | None, console: Console) -> int:
    """The number of threads with which a run is fastest; a continued one keeps to what it had.

    Args:
      resume: the directory of a run to continue.
      console: prints why, where a core is left out.

    Raises:
      FileError: the manifest of the run is damaged.
    """
    if not cores.can_choose():
        return cores.count()
    if resume is not None and (resume / run_directory.MANIFEST).exists():
        before = run_directory.read_manifest(resume)["starts"][-1]["threads"]
        return min(before, cores.count())
    if cores.count() != 2:
        return cores.count()
    if (nanoseconds := cores.far_apart()) is None:
        return 2
    console.print(
        f"one thread, as a byte takes {nanoseconds:.0f} ns between the two cores and back "
        "(--threads 2 starts two)"
    )
    return 1


def _start_jax(
    platform: str | None, devices: int, threads: int | None, resume: Path | None, console: Console
) -> int | None:
    """Starts JAX on a platform.

    Args:
      platform: None means the one that JAX prefers.
      devices: how many it must have at least.
      threads: how many the CPU gets; None means as many as one device is fastest with.
      resume: as in `_worthwhile_threads`.
      console: as in `_worthwhile_threads`.

    Returns:
      The number of threads that was given or found; None where JAX decides.

    Raises:
      UsageError: this machine has no such platform, or too few devices.
      FileError: the manifest of the run to continue is damaged.
    """
    if threads is None and platform in (None, "cpu") and devices == 1:
        threads = _worthwhile_threads(resume, console)
    if platform:
        jax.config.update("jax_platforms", platform)
    if devices > 1:
        with contextlib.suppress(RuntimeError):  # if JAX has started, its devices are fixed
            jax.config.update("jax_num_cpu_devices", devices)
    try:
        with cores.threads_made(threads or cores.count()):
            found = len(jax.devices())
    except (RuntimeError, AssertionError):
        if platform:
            refuse("platform", "one that this machine has", platform)
        raise
    if found < devices:
        refuse("devices", f"at most {found}, as many as there are", devices)
    return threads


def _programs(
    model: LeNet, tx: optax.GradientTransformation, batch_size: int, devices: int
) -> Programs:
    if devices == 1:
        return train.compiled(model, tx, batch_size=batch_size)
    mesh = parallel.batch_mesh(jax.devices()[:devices])
    return parallel.over_batch(model, tx, mesh=mesh, batch_size=batch_size)


def _placed(splits: tuple[Split, Split], devices: int) -> tuple[Split, Split]:
    """Puts the splits on the device, or on all devices that share the batches."""
    if devices == 1:
        return jax.device_put(splits)
    return parallel.replicate(splits, parallel.batch_mesh(jax.devices()[:devices]))


def _try_out(
    programs: Programs, state: TrainState, order_key: jax.Array, batch_size: int
) -> dict[str, Any]:
    """Trains on noise: one or three whole batches, and a last one as large as in the real data."""
    rng = np.random.default_rng(0)
    size = (1 if batch_size > 1000 else 3) * batch_size + TRAIN_SIZE % batch_size
    images = rng.integers(0, 256, (size, 28, 28, 1), dtype=np.uint8)
    split = Split(images, rng.integers(0, 10, size, dtype=np.int32))
    start = time.perf_counter()
    (epoch,) = train.fit(programs, state, split, split, order_key, epochs=1)
    return _row(epoch, time.perf_counter() - start)


@contextlib.contextmanager
def _directory(resume: Path | None, out: Path, name: str) -> Iterator[Path]:
    """Locks the directory of the run; a new one is removed again if no epoch was finished.

    Raises:
      UsageError: the directory cannot be written.
      FileError: another command is writing it.
    """
    with contextlib.ExitStack() as stack:
        try:
            directory = resume or files.new_directory(out, name)
            stack.enter_context(files.locked(directory))
        except OSError as error:
            option, path = ("resume", resume) if resume else ("out", out)
            refuse(option, f"a directory that can be written ({error.strerror})", path)
        try:
            yield directory
        finally:
            stack.close()
            if not (resume or (directory / run_directory.CHECKPOINT).exists()):
                shutil.rmtree(directory, ignore_errors=True)


def _made_ready(
    programs: Programs, devices: int, data: DataOptions, dataset: DatasetName, console: Console
) -> Ready:
    """Loads the data, and compiles the programs of the epochs meanwhile.

    Raises:
      DataError: the data cannot be had.
    """
    pool = ThreadPoolExecutor(1)
    try:
        # With several devices, compilation needs to know where the arrays lie.
        compiling = devices == 1 and pool.submit(
            train.ahead_of_time, programs, TRAIN_SIZE, TEST_SIZE
        )
        # Here and not in the other thread, so that a signal ends a download at once.
        with terminal.log_of_library(console):
            loaded = load_mnist(data.data_dir, data.mirror, dataset=dataset)
        # A run without a block, evaluated with running statistics, never asks for file order.
        in_order = cache(lambda: _placed(evaluation.original(*loaded), devices))
        ready = Ready(programs, _placed(loaded, devices), in_order, digests(*loaded))
        if not compiling or [len(split.labels) for split in loaded] != [TRAIN_SIZE, TEST_SIZE]:
            return ready
        return ready._replace(programs=compiling.result())
    finally:
        pool.shutdown(wait=False)


def _ready_for_the_end(
    programs: Programs, ready: Ready, *, three_ways: bool
) -> Callable[[train.Variables], dict[str, train.Evaluation] | None]:
    """Gets ready what only the end of a run needs: matplotlib, and an evaluation in three ways.

    Args:
      programs: what `_programs` returned.
      ready: what `_made_ready` made of them.
      three_ways: whether the network can be evaluated in three ways.

    Returns:
      What evaluates the trained network in three ways, by name; it returns None if it cannot.
    """
    import experiments.figures.run  # noqa: F401  # matplotlib, which takes half a second

    if not three_ways:
        return lambda variables: None
    splits, compiled = ready.in_order(), ready.programs
    if compiled is not programs:  # else several devices, or other sizes: they compile when called
        names = ("recalibrate", "evaluate_batch")
        found = train.ahead_of_time(programs, TRAIN_SIZE, TEST_SIZE, names)
        compiled = compiled._replace(**{name: getattr(found, name) for name in names})
    return lambda variables: evaluation.evaluate_all(compiled, variables, *splits)


def _initial_state(
    programs: Programs,
    key: jax.Array,
    init_from: Path | None,
    model: LeNet,
    tx: optax.GradientTransformation,
) -> TrainState:
    """The state before the first epoch.

    Raises:
      UsageError: the weights to start from cannot be used.
    """
    if init_from is None:
        return programs.init_state(key)
    found = run_directory.read_weights(init_from)
    if found.placement != model.placement:
        raise UsageError(
            f"{init_from}: weights of placement {found.placement}, not {model.placement}"
        )
    if found.pixels not in (None, model.pixels):
        names = {pixels: name for name, pixels in PIXELS.items()}
        raise UsageError(
            f"{init_from}: weights for --normalisation {names.get(found.pixels, found.pixels)}, "
            f"not {names[model.pixels]}"
        )
    return train.start_from(found.variables, tx)


def _saved(directory: Path, described: Mapping[str, Any], console: Console) -> Checkpoint | None:
    """The checkpoint of a run to be continued; None if no epoch was finished.

    Raises:
      UsageError: it is damaged, not of this run, or has more epochs than are asked for.
    """
    run_directory.read_manifest(directory)  # if it is damaged, better now than after compilation
    if not (directory / run_directory.CHECKPOINT).exists():
        console.print(f"no epoch of {directory} was finished: it starts anew")
        return None
    saved = run_directory.read_checkpoint(directory)
    begun = saved.metadata["config"]  # of an earlier version perhaps, as in `_parsed`
    for name in FIXED:
        if begun.get(name, getattr(Config, name)) != described[name]:
            raise UsageError(f"{saved.path}: not the checkpoint of the run in {directory}: {name}")
    done = len(saved.metadata["history"])
    if done > described["epochs"]:
        refuse("epochs", f"at least {done}, which this run has", described["epochs"])
    return saved


def _begun(
    directory: Path,
    described: Mapping[str, Any],
    environment: Mapping[str, Any],
    state: TrainState,
    saved: Checkpoint | None,
    console: Console,
) -> tuple[TrainState, list[dict[str, Any]]]:
    """Writes how the run is begun, or what differs when it is continued.

    Args:
      directory: the run's.
      described: the configuration.
      environment: versions, machine and data.
      state: the state before the first epoch.
      saved: the checkpoint, if there is one.
      console: prints what differs.

    Returns:
      The state from which the run goes on, and the rows of the epochs before it.

    Raises:
      UsageError: the run was trained on other data, or with another network.
    """
    history: list[dict[str, Any]] = []
    if saved is not None:
        state, history = _continued(saved, state, environment["data_sha256"])
        console.print(f"continued after epoch {len(history)}")
    if not (directory / run_directory.MANIFEST).exists():
        run_directory.begin(directory, described, environment)
        return state, history
    before = run_directory.begin_again(directory, described, environment)
    for line in differences(before, environment):
        console.print(f"differs from when the run was begun: {line}")
    return state, history


def _continued(
    saved: Checkpoint, like: TrainState, data_sha256: Mapping[str, str]
) -> tuple[TrainState, list[dict[str, Any]]]:
    """The state and the history that a checkpoint holds.

    Raises:
      UsageError: the run was trained on other data, or with another network.
    """
    if saved.metadata["data_sha256"] != data_sha256:
        raise UsageError(f"{saved.path}: the data are not those on which this run was trained")
    try:
        return jax.device_put(restore(saved, like)), saved.metadata["history"]
    except CheckpointError as error:
        raise UsageError(str(error)) from error


def _train(
    way: evaluation.Way,
    state: TrainState,
    splits: tuple[Split, Split],
    order_key: jax.Array,
    history: list[dict[str, Any]],
    epochs: int,
    record: Callable[..., None],
    console: Console,
) -> tuple[TrainState, list[dict[str, Any]], np.ndarray]:
    """Trains the epochs that are left; each one is recorded before its line is printed.

    Args:
      way: the programs, and how they evaluate.
      state: the state after the epochs that are done.
      splits: for training and for testing.
      order_key: random key of the order of the images.
      history: the rows of the epochs that are done.
      epochs: how many there are in all.
      record: `run_directory.write_epoch`, with all arguments that are the same for each epoch.
      console: prints a line for each epoch.

    Returns:
      The state after the last epoch, the rows of all epochs, and the logits `[N, 10]` of the test
      images after the last one.

    Raises:
      FailedError: the loss became NaN or infinite, or was so when the run was continued.
    """
    done = len(history)
    if history:  # so that a file beside the checkpoint that was damaged or lost is mended
        record(state, way.variables_of(state), history=history)
        if None in history[-1].values():
            raise FailedError(f"the loss is not finite after epoch {done}")
    fitted = train.fit(way.programs, state, *splits, order_key, epochs=epochs, done=done)
    logits = None
    with terminal.progress(console) as progress:
        task = progress.add_task("epochs", total=epochs, completed=done)
        while True:
            start = time.perf_counter()
            if (epoch := next(fitted, None)) is None:
                break
            row = _row(epoch, time.perf_counter() - start)
            history = [*history, row]
            state, logits = epoch.state, epoch.test.logits
            record(state, way.variables_of(state), history=history)
            progress.update(task, completed=epoch.number)
            console.print(terminal.epoch_line(row))
            if None in row.values():
                raise FailedError(f"the loss is not finite after epoch {epoch.number}")
    if logits is None:  # all epochs were finished already
        logits = way.programs.evaluate(train.variables_of(state), splits[1]).logits
    return state, history, np.asarray(logits)


def _row(epoch: train.Epoch, seconds: float) -> dict[str, Any]:
    """A line of metrics.jsonl; None stands for a loss that is not finite, as JSON requires."""
    row = {
        "epoch": epoch.number,
        "train_loss": epoch.train.mean_loss,
        "train_accuracy_percent": epoch.train.accuracy_percent,
        "test_loss": epoch.test.metrics.mean_loss,
        "test_accuracy_percent": epoch.test.metrics.accuracy_percent,
        "seconds": seconds,
    }
    return {key: value if np.isfinite(value) else None for key, value in row.items()}


def _finish(
    directory: Path,
    placement: str,
    history: Sequence[Mapping[str, Any]],
    test_split: Split,
    logits: np.ndarray,
    console: Console,
) -> None:
    """Prints and writes the results of the last epoch: accuracy by class, and three figures."""
    from experiments.figures import run as figures  # here, as the first epoch need not wait for it

    labels = np.asarray(test_split.labels)
    counts = metrics.confusion_matrix(jnp.asarray(logits.argmax(-1)), jnp.asarray(labels))
    confusion = np.asarray(counts)  # [10, 10]
    for line in terminal.per_class_lines(confusion):
        console.print(line)
    run_directory.write_per_class(directory, confusion)
    probabilities = np.asarray(jax.nn.softmax(logits))  # [N, 10]
    predictions = probabilities.argmax(1)
    worst = metrics.worst_mistakes(probabilities, labels)
    with files.writing(directory):
        figures.curves(history, placement, directory / "curves.png")
        figures.confusion(confusion, directory / "confusion.png")
        figures.mistakes(
            np.asarray(test_split.images)[worst, :, :, 0],
            labels[worst],
            predictions[worst],
            probabilities[worst, predictions[worst]],
            directory / "mistakes.png",
        )


def _is_the_reports(described: Mapping[str, Any]) -> bool:
    """Whether a run has the report's setting, so that its last epoch can be compared with it."""
    free = {"placement", "seed", "devices", "keep_epochs"}
    reports = Config().described()
    same = all(described[name] == reports[name] for name in reports.keys() - free)
    return same and described["placement"] in published.HISTORY


if __name__ == "__main__":
    options.leave(main())
