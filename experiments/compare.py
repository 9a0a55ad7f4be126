"""Trains placements x variants x seeds, and tests the report's numbers and claims on them.

    python -m experiments.compare --seeds 20 --out studies/report
    python -m experiments.compare --from studies/report

A study is a directory. Training writes `manifest.json`, `results.jsonl` (a line for each variant,
placement, seed and epoch, see `experiments.analysis`) and, for what is in progress,
`checkpoints/`. From these files alone come `tables/`, `summary.json` and `figures/`; the second
command remakes them. `--resume` continues a killed study, which loses no more than the epoch in
progress, and adds seeds, placements or variants to a finished one.

Several hosts, each with its share of the seeds: start the same command on all of them, under a
scheduler that JAX knows (Slurm, Open MPI) or with

    python -m experiments.compare ... --coordinator ADDRESS:PORT --hosts 2 --host 0   (then 1)

Host 0 alone writes. With `--resume` all hosts must see the directory.
"""

import io
import json
import logging
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import optax
import tyro
from jax.experimental import multihost_utils
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments import published, run
from experiments.manifest import manifest, threads
from experiments.run import UsageError, keys_of, refuse
from mnist_jax import metrics, parallel, train
from mnist_jax.data import NORMALISATIONS, Split, digests, load_mnist
from mnist_jax.metrics import Metrics
from mnist_jax.model import LeNet
from mnist_jax.sources import DataError
from mnist_jax.train import TrainState


@dataclass(frozen=True)
class Config:
    """Train the report's networks with many seeds and test its numbers and claims."""

    seeds: int = 20
    """Runs of each placement and variant: seeds 0, 1, ..."""
    placements: str = ",".join(published.PLACEMENTS)
    """Where the residual block stands, separated by commas."""
    variants: str = "report"
    """Settings of momentum and pixels, separated by commas: see `published.SETTINGS`."""
    epochs: int = run.Config.epochs
    """Passes over the training images."""
    out: Path = Path("studies/report")
    """The directory of the study."""
    resume: bool = False
    """Continue the study in --out, or add to it."""
    from_dir: Annotated[Path | None, tyro.conf.arg(aliases=["--from"])] = None
    """Train nothing; remake tables and figures of the study in this directory."""
    timing: Path | None = None
    """What `benchmarks.epoch_time` wrote, for claim 2; it is copied into the study."""
    coordinator: str | None = None
    """Of several hosts: address and port of host 0."""
    hosts: int | None = None
    """With --coordinator: how many hosts."""
    host: int | None = None
    """With --coordinator: which one this is, from 0."""
    data_dir: Path | None = None
    """TFDS's data directory; else TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    mirror: Path | None = None
    """A directory with the four original files, to prepare the data from; else MNIST_MIRROR."""


class Group(NamedTuple):
    """Runs that differ by seed only, and so train side by side."""

    variant: str
    placement: str
    seeds: tuple[int, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    try:
        check(config)
        if config.from_dir is None:
            _use_every_core()
            _meet_other_hosts(config)
            logging.basicConfig(format="%(message)s", level=logging.WARNING)
            logging.getLogger("mnist_jax").setLevel(logging.INFO)
            console.quiet = not _first_host()
            study(config, *load_mnist(config.data_dir, config.mirror), console)
        if config.from_dir is not None or _first_host():
            report(config.from_dir or config.out, config.timing, console)
    except (UsageError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; --resume continues", file=sys.stderr)
        return 130  # as a shell reports SIGINT
    return 0


def check(config: Config) -> None:
    """Checks all options that can be checked without the data.

    Raises:
      UsageError: naming the option and what is allowed.
    """
    if config.seeds < 1:
        refuse("seeds", "at least 1", config.seeds)
    if config.epochs < 1:
        refuse("epochs", "at least 1", config.epochs)
    for option, known in (("placements", published.PLACEMENTS), ("variants", published.SETTINGS)):
        names = getattr(config, option).split(",")
        if len(set(names)) < len(names) or not set(names) <= set(known):
            refuse(option, f"of {','.join(known)}, each once", getattr(config, option))
    if config.timing is not None:
        _read_timing(config.timing)
    if config.from_dir is not None:
        if not _results(config.from_dir).is_file():
            refuse("from", "a directory with results.jsonl", config.from_dir)
    elif config.resume:
        if not (config.out / "manifest.json").is_file():
            refuse("out", "a study with a manifest.json, to resume it", config.out)
    elif _host_number(config) > 0:
        pass  # host 0 may have made the directory by now
    elif config.out.exists() and not (config.out.is_dir() and not any(config.out.iterdir())):
        refuse("out", "new; --resume continues what is there", config.out)
    if config.coordinator is None:
        if config.hosts is not None or config.host is not None:
            refuse("hosts", "given with --coordinator, --hosts and --host", config.hosts)
    elif config.hosts is None or config.host is None or not 0 <= config.host < config.hosts:
        refuse("host", "from 0 to --hosts - 1, both given", config.host)


def study(config: Config, train_split: Split, test_split: Split, console: Console) -> None:
    """Trains what `config.out` does not have yet, and writes every epoch as it ends.

    Raises:
      UsageError: the directory cannot be written, or holds a study of something else.
    """
    results = _results(config.out)
    rows = _read_results(results) if config.resume and results.exists() else []
    groups, rows = _left_to_do(config, rows)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("every host has read what there is")
    if _first_host():
        try:
            _sign(config, manifest(digests(train_split, test_split)))
        except OSError as error:
            refuse("out", f"a directory that can be written ({error.strerror})", config.out)
        _replace(results, "".join(json.dumps(row) + "\n" for row in rows).encode())

    mesh = parallel.make_mesh()
    splits = parallel.replicate((train_split, test_split), mesh)
    console.print(
        f"study: {sum(len(g.seeds) for g, _ in groups)} runs to do in {config.out}, "
        f"{mesh.devices.size} devices ({jax.devices()[0].device_kind})"
    )
    with (
        _progress(console) as progress,
        results.open("a") if _first_host() else io.StringIO() as file,
    ):
        todo = sum(len(group.seeds) * (config.epochs - done) for group, done in groups)
        task = progress.add_task("", total=todo)
        for group, done in groups:
            name = f"{group.variant}/{group.placement}"
            progress.update(task, description=name)
            start = time.perf_counter()
            for epoch, lines in _train(config, group, done, splits, mesh, file):
                seconds = (time.perf_counter() - start) / len(group.seeds)
                progress.advance(task, len(group.seeds))
                accuracy = statistics.fmean(line["test_accuracy_percent"] for line in lines)
                if not console.is_terminal:
                    console.print(
                        f"{name} epoch {epoch}/{config.epochs}: test accuracy {accuracy:.2f}%, "
                        f"{len(group.seeds)} seeds, {seconds:.2f} s a seed"
                    )
                start = time.perf_counter()


def report(directory: Path, timing: Path | None, console: Console) -> None:
    """Makes tables, summary and figures from the files of a study.

    Raises:
      UsageError: the study has no finished epoch.
    """
    import pandas as pd  # these three only now: training needs none of them

    from experiments import analysis, figures

    rows = _read_results(_results(directory))
    if not rows:
        raise UsageError(f"no epoch of the study in {directory} is finished")
    kept = directory / "timing.json"
    if timing is not None and timing.resolve() != kept.resolve():
        shutil.copyfile(timing, kept)
    times = _read_timing(kept) if kept.exists() else None
    results = pd.DataFrame(rows)
    tables = analysis.analyse(results, times)
    runs = analysis.complete_runs(results)

    folder = directory / "tables"
    folder.mkdir(exist_ok=True)
    for name, text in analysis.to_markdown(tables).items():
        (folder / f"{name}.md").write_text(text + "\n")
    summary = json.dumps(analysis.summary(tables), indent=1)
    (directory / "summary.json").write_text(summary + "\n")

    folder = directory / "figures"
    folder.mkdir(exist_ok=True)
    figures.final_accuracy(runs, folder / "final_accuracy")
    figures.paired_differences(tables.evidence, folder / "paired_differences")
    shown = runs[runs["variant"] == "report"]
    if len(shown):
        placements = [p for p in published.PLACEMENTS if p in set(shown["placement"])]
        pooled = {p: analysis.pooled_confusion(shown, p) for p in placements}
        figures.study_curves(shown, folder / "curves")
        figures.per_class(tables.per_class, folder / "per_class")
        figures.pooled_confusion(pooled, folder / "confusion")
    if times:
        figures.epoch_times(times, folder / "epoch_times")
    console.print(analysis.to_markdown(tables)["joint"])
    console.print(f"written: {directory}/tables, summary.json, figures")


# Training ------------------------------------------------------------------------------------

_STATIC = ("mesh", "model", "mean", "std")
_train_epoch = jax.jit(parallel.train_epoch, static_argnames=(*_STATIC, "tx", "batch_size"))


@cache
def _sgd(momentum: float) -> optax.GradientTransformation:
    """One object for each momentum: jit compiles again for another, however equal."""
    return optax.sgd(run.Config.learning_rate, momentum=momentum or None)


@partial(jax.jit, static_argnames=_STATIC)
def _evaluate(states, split, *, mesh, model, mean, std):
    """Metrics `[S]` and confusion matrices `[S, 10, 10]` on a whole split."""

    def one(state, split):
        logits = train.predict(
            state, split.images, model=model, batch_size=500, mean=mean, std=std
        )  # [N, 10]
        confusion = metrics.confusion_matrix(logits.argmax(-1), split.labels)
        return metrics.of_batch(logits, split.labels), confusion

    return parallel.map_seeds(one, states, split, mesh)


def _train(
    config: Config,
    group: Group,
    done: int,
    splits: tuple[Split, Split],
    mesh: jax.sharding.Mesh,
    file: Any,
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Trains a group's remaining epochs; yields each one's lines when they are on disk."""
    setting = published.SETTINGS[group.variant]
    mean, std = NORMALISATIONS[setting.normalisation]
    common = {"mesh": mesh, "model": LeNet(group.placement), "mean": mean, "std": std}
    tx = _sgd(setting.momentum)
    init_keys, order_keys = zip(*map(keys_of, group.seeds), strict=True)
    states = [train.init_state(common["model"], tx, key) for key in init_keys]
    # As numpy arrays they are alike on every host, and so can enter a computation of all hosts.
    states = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(states))
    if done:
        states = _load_checkpoint(config, group, states)
    size = splits[0].labels.shape[0]

    for epoch in range(done + 1, config.epochs + 1):
        orders = np.stack([train.epoch_order(key, epoch, size) for key in order_keys])  # [S, N]
        states, trained = _train_epoch(
            states, splits[0], orders, tx=tx, batch_size=run.Config.batch_size, **common
        )
        tested, confusions = _evaluate(states, splits[1], **common)
        # The states as numpy arrays again: as they came, they would be placed otherwise than those
        # of the first epoch, and compiled for once more.
        states, *sums = _fetch((states, trained, tested, confusions))
        lines = _lines(group, epoch, *sums)
        file.writelines(json.dumps(line) + "\n" for line in lines)
        file.flush()
        # Lines first: an epoch that has them and no checkpoint is trained again and its lines are
        # dropped; the other way round they would be missing for ever.
        if _first_host() and epoch < config.epochs:
            _save_checkpoint(config, group, epoch, states)
        elif _first_host():
            _checkpoint(config, group.variant, group.placement).unlink(missing_ok=True)
        yield epoch, lines


def _lines(
    group: Group, epoch: int, trained: Metrics, tested: Metrics, confusions: np.ndarray
) -> list[dict[str, Any]]:
    """The lines of one epoch of a group, a line a seed; see `experiments.analysis`."""
    lines = []
    for place, seed in enumerate(group.seeds):
        of_train, of_test = (Metrics(*(x[place] for x in sums)) for sums in (trained, tested))
        lines.append(
            {
                "variant": group.variant,
                "placement": group.placement,
                "seed": seed,
                "epoch": epoch,
                "train_loss": of_train.mean_loss,
                "train_accuracy_percent": of_train.accuracy_percent,
                "test_loss": of_test.mean_loss,
                "test_accuracy_percent": of_test.accuracy_percent,
                "confusion": confusions[place].tolist(),
            }
        )
    return lines


def _use_every_core() -> None:
    """A CPU device for each core, unless the user's flags say how many; before JAX starts."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", threads())


def _host_number(config: Config) -> int:
    """Which host this is by the options or the scheduler, before the hosts have met."""
    ranks = (os.environ.get(name) for name in ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK"))
    return config.host or int(next(filter(None, ranks), 0))


def _meet_other_hosts(config: Config) -> None:
    """Joins the hosts that the options or a scheduler name, if any do.

    Raises:
      UsageError: they did not meet.
    """
    scheduled = int(os.environ.get("SLURM_NTASKS", 1)) > 1 or "OMPI_COMM_WORLD_SIZE" in os.environ
    if config.coordinator is None and not scheduled:
        return
    try:
        jax.distributed.initialize(config.coordinator, config.hosts, config.host)
    except (RuntimeError, ValueError) as error:
        refuse("coordinator", f"an address where host 0 is reached ({error})", config.coordinator)


def _first_host() -> bool:
    return jax.process_index() == 0


def _fetch(tree: Any) -> Any:
    """A tree of arrays as numpy arrays, whole, on every host."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def _progress(console: Console) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    # An epoch of many seeds takes longer than the 30 s over which rich would estimate the speed.
    return Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=3600,
    )


# Files ---------------------------------------------------------------------------------------


def _results(directory: Path) -> Path:
    return directory / "results.jsonl"


def _read_results(path: Path) -> list[dict[str, Any]]:
    """The lines; the last one may be torn, where the program was killed while writing it."""
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _read_timing(path: Path) -> dict[str, Any]:
    try:
        timing = json.loads(path.read_text())
        if "rows" not in timing:
            raise ValueError("no rows")
    except (OSError, ValueError, TypeError) as error:
        refuse("timing", f"a file that benchmarks.epoch_time wrote ({error})", path)
    return timing


def _sign(config: Config, environment: Mapping[str, Any]) -> None:
    """Adds this call to the manifest, or begins it.

    Raises:
      UsageError: the study that is there has other epochs or other data.
    """
    path = config.out / "manifest.json"
    shared = {
        "epochs": config.epochs,
        "batch_size": run.Config.batch_size,
        "learning_rate": run.Config.learning_rate,
        "data_sha256": environment["data_sha256"],
    }
    sessions = []
    if config.resume:
        found = json.loads(path.read_text())
        sessions = found.pop("sessions")
        for name, option in (("epochs", "epochs"), ("data_sha256", "data-dir")):
            if found[name] != shared[name]:
                refuse(option, f"what the study in {config.out} was begun with", "it differs")
    config.out.mkdir(parents=True, exist_ok=True)
    asked = {name: getattr(config, name) for name in ("seeds", "placements", "variants")}
    manifest = shared | {"sessions": [*sessions, asked | dict(environment)]}
    _replace(path, (json.dumps(manifest, indent=1) + "\n").encode())


def _left_to_do(
    config: Config, rows: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[Group, int]], list[Mapping[str, Any]]]:
    """The groups to train with their epochs done, and the lines that stay."""
    reached: dict[tuple[str, str, int], int] = {}
    for row in rows:
        run_of = row["variant"], row["placement"], row["seed"]
        reached[run_of] = max(row["epoch"], reached.get(run_of, 0))
    groups, keep = [], {}
    for variant in config.variants.split(","):
        for placement in config.placements.split(","):
            runs = {seed: (variant, placement, seed) for seed in range(config.seeds)}
            missing = [s for s, key in runs.items() if reached.get(key, 0) < config.epochs]
            saved, done = _saved(config, variant, placement)
            begun = [s for s in missing if s in saved]
            fresh = [s for s in missing if s not in saved]
            for seeds, epochs in ((begun, done), (fresh, 0)):
                if seeds:
                    groups.append((Group(variant, placement, tuple(seeds)), epochs))
                keep |= {runs[seed]: epochs for seed in seeds}
    kept = [
        row
        for row in rows
        if row["epoch"] <= keep.get((row["variant"], row["placement"], row["seed"]), config.epochs)
    ]
    return groups, kept


def _checkpoint(config: Config, variant: str, placement: str) -> Path:
    return config.out / "checkpoints" / f"{variant}.{placement}.npz"


def _saved(config: Config, variant: str, placement: str) -> tuple[list[int], int]:
    """The seeds of a checkpoint and their epochs done; none and 0 where there is no checkpoint."""
    path = _checkpoint(config, variant, placement)
    if not path.exists():
        return [], 0
    with np.load(path) as saved:
        return saved["seeds"].tolist(), int(saved["epochs"])


def _save_checkpoint(config: Config, group: Group, epochs: int, states: TrainState) -> None:
    content = io.BytesIO()
    np.savez(content, *jax.tree.leaves(states), epochs=epochs, seeds=group.seeds)
    path = _checkpoint(config, group.variant, group.placement)
    path.parent.mkdir(exist_ok=True)
    _replace(path, content.getvalue())


def _load_checkpoint(config: Config, group: Group, like: TrainState) -> TrainState:
    """The states of a group's seeds, in the structure of fresh ones."""
    with np.load(_checkpoint(config, group.variant, group.placement)) as saved:
        seeds = saved["seeds"].tolist()
        places = [seeds.index(seed) for seed in group.seeds]
        leaves, structure = jax.tree.flatten(like)
        restored = [saved[f"arr_{i}"][places] for i in range(len(leaves))]
    return jax.tree.unflatten(structure, restored)


def _replace(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    aside = path.with_name(path.name + ".incomplete")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


if __name__ == "__main__":
    sys.exit(main())
