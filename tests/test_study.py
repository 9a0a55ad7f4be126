"""A study equals single runs, continues to the bit from any crash, and mixes nothing."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from experiments.groundwork.files import FileError
from mnist_jax.checkpoint import Checkpoint

from experiments.groundwork import evaluation, files, manifest
from experiments.groundwork.evaluation import EVALUATIONS
from experiments.groundwork.recipe import keys_of
from experiments.groundwork.variants import VARIANTS, Cell, Setting, model_of, sgd
from experiments.study import directory as study_directory
from experiments.study import hosts, plan, report, results, session, training
from experiments.study.plan import Group, Saved, Task
from mnist_jax import checkpoint, parallel, train
from mnist_jax.data import Split
from mnist_jax.prepare import tfds_order

EPOCHS = 3


def study(
    out: Path,
    splits: Any,
    *,
    seeds: range = range(3),
    placements: tuple = ("none",),  # it compiles fastest
    variants: tuple = ("report",),
    stop_after: int | None = None,
) -> tuple[list[str], list[tuple[int, ...]]]:
    """Trains what a directory lacks; returns notes, and the seeds of each epoch of training."""
    with study_directory.opened(out):
        begun = session.begin(
            out, short(*variants), [Cell(v, p, seeds) for v in variants for p in placements], splits
        )
        trained = []
        for group, _, _ in session.finished_epochs(begun):
            trained.append(group.seeds)
            if len(trained) == stop_after:
                break
        return begun.notes, trained


def short(*variants: str) -> dict[str, Setting]:
    """Settings with fewer epochs."""
    return {name: VARIANTS[name]._replace(epochs=EPOCHS) for name in variants}


def rows_of(out: Path) -> list[dict]:
    return sorted(files.read_lines(out / "results.jsonl").values, key=str)


def checkpoints(out: Path) -> list[Path]:
    return sorted((out / "checkpoints").glob("*"))


@pytest.fixture(scope="module")
def whole(synthetic, tmp_path_factory) -> Path:
    """A study that nothing interrupted."""
    out = tmp_path_factory.mktemp("studies") / "whole"
    study(out, synthetic)
    return out


@pytest.fixture
def begun(synthetic, tmp_path) -> Path:
    """The same study, of which two epochs are done."""
    out = tmp_path / "begun"
    study(out, synthetic, stop_after=2)
    return out


# The plan --------------------------------------------------------------------------------------


def row(seed: int, epoch: int) -> dict:
    return {"variant": "report", "placement": "none", "seed": seed, "epoch": epoch}


def saved(seeds: tuple[int, ...], epochs: int) -> Saved:
    return Saved(Group("report", "none", seeds), epochs, Checkpoint({}, {}, ""))


def left(rows: list[dict], *saved: Saved, seeds: range = range(2)) -> plan.Plan:
    asked = plan.groups([Cell("report", "none", seeds)], most=10)
    return plan.left_to_do(asked, rows, list(saved), epochs={"report": 3})


def test_what_has_every_epoch_is_done():
    rows = [row(seed, epoch) for seed in (0, 1) for epoch in (3, 1, 2)]
    assert left(rows) == ((), rows, ())


def test_a_checkpoint_counts_where_every_epoch_so_far_has_its_row():
    """Seed 1 lacks its second row, though it has a third: nobody would ever train that epoch."""
    rows = [row(0, 1), row(0, 2), row(1, 1), row(1, 3)]
    begun = saved((0, 1), 2)
    todo = left(rows, begun)
    assert todo.tasks == (
        Task(Group("report", "none", (0,)), 2, begun),
        Task(Group("report", "none", (1,)), 0, None),
    )
    assert todo.rows == [row(0, 1), row(0, 2)]
    assert todo.notes == (
        "report/none, seed 1: rows or checkpoint are missing, so they start anew",
    )


def test_rows_ahead_of_the_checkpoint_are_trained_again():
    todo = left([row(0, 1), row(1, 1), row(0, 2)], saved((0, 1), 1))
    assert [(task.group.seeds, task.done) for task in todo.tasks] == [((0, 1), 1)]
    assert todo.rows == [row(0, 1), row(1, 1)]


def test_the_checkpoint_with_most_epochs_is_taken():
    rows = [row(seed, epoch) for seed in (0, 1) for epoch in (1, 2)]
    todo = left(rows, saved((0, 1), 1), saved((1,), 2))
    assert [(task.group.seeds, task.done) for task in todo.tasks] == [((1,), 2), ((0,), 1)]


def test_a_checkpoint_of_other_runs_is_not_taken():
    other = saved((0, 1), 1)
    other = other._replace(group=other.group._replace(placement="after_fc1"))
    todo = left([row(0, 1), row(1, 1)], other)
    assert [(task.group.seeds, task.done) for task in todo.tasks] == [((0, 1), 0)]


def test_rows_of_runs_that_nobody_asks_for_stay():
    assert row(7, 1) in left([row(7, 1)]).rows


def test_groups_are_of_so_many_seeds_at_most():
    asked = plan.groups(
        [Cell("report", "none", range(5, 10)), Cell("report", "after_fc1", range(5, 10))], most=2
    )
    assert [group.seeds for group in asked] == [(5, 6), (7, 8), (9,)] * 2
    assert [group.placement for group in asked] == ["none"] * 3 + ["after_fc1"] * 3


def test_what_tables_leave_out_is_said():
    rows = [row(seed, epoch) for seed in (0, 4, 5, 6) for epoch in (1, 2)] + [row(0, 3)]
    rows.append(row(0, 1) | {"variant": "unknown to tables"})
    assert plan.left_out(rows, epochs={"report": 3}) == [
        "report/none, seeds 4 to 6: left out of the tables, not all 3 epochs are there"
    ]


# Training --------------------------------------------------------------------------------------


def test_every_seed_and_epoch_has_a_row(whole):
    """No checkpoint is left."""
    keys = [(row["seed"], row["epoch"]) for row in rows_of(whole)]
    assert sorted(keys) == [(seed, epoch) for seed in range(3) for epoch in (1, 2, 3)]
    assert not checkpoints(whole)
    assert sorted(path.name for path in whole.iterdir()) == ["manifest.json", "results.jsonl"]


def test_a_seed_equals_its_single_run(whole, synthetic):
    """The same keys, batches and arithmetic as `experiments.run`."""
    init_key, order_key = keys_of(2)
    setting = VARIANTS["report"]
    programs = train.compiled(model_of(setting, "none"), sgd(0.001, 0.9))
    train_split, test_split = synthetic
    state = programs.init_state(init_key)
    run = train.fit(programs, state, train_split, test_split, order_key, epochs=EPOCHS)
    single = [(e.number, e.train.mean_loss, e.test.metrics.mean_loss) for e in run]
    ours = [(r["epoch"], r["train_loss"], r["test_loss"]) for r in rows_of(whole) if r["seed"] == 2]
    np.testing.assert_allclose(sorted(ours), single, rtol=1e-5)


def test_groups_of_any_size_give_the_same(whole, synthetic, tmp_path, monkeypatch):
    """So that it does not matter what was killed when, and which seeds then train together."""
    for most in (1, 2):
        monkeypatch.setattr(session, "GROUP", most)
        monkeypatch.setattr(jax, "device_count", lambda: 1)
        study(tmp_path / str(most), synthetic)
        assert rows_of(tmp_path / str(most)) == rows_of(whole)


@pytest.fixture(scope="module")
def with_block(synthetic, tmp_path_factory) -> Path:
    """A study of a network with batch normalisation."""
    out = tmp_path_factory.mktemp("studies") / "with_block"
    study(out, synthetic, placements=("after_fc1",), variants=("batch_norm_only",))
    return out


@pytest.fixture(scope="module")
def in_file_order(synthetic) -> tuple[Split, Split]:
    """The splits in the order of original files, taking `synthetic` to be in TFDS's order."""
    found = []
    for name, split in zip(("train", "test"), synthetic, strict=True):
        of_file = np.empty_like(split.images), np.empty_like(split.labels)
        for ours, place in enumerate(tfds_order(name, len(split.labels))):
            of_file[0][place], of_file[1][place] = split.images[ours], split.labels[ours]
        found.append(Split(*of_file))
    return found[0], found[1]


def test_a_single_run_is_evaluated_in_the_order_of_the_files_too(synthetic, in_file_order):
    """The statistics of a test batch depend on which images it holds."""
    for ours, expected in zip(evaluation.original(*synthetic), in_file_order, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_an_epoch_is_evaluated_three_ways(with_block, synthetic, in_file_order):
    """Each as a single run's programs do it, in the order of the files where that matters."""
    init_key, order_key = keys_of(1)
    model = model_of(VARIANTS["batch_norm_only"], "after_fc1")
    programs = train.compiled(model, sgd(0.001, 0.9))
    train_split, test_split = in_file_order
    state = programs.init_state(init_key)
    rows = [row for row in rows_of(with_block) if row["seed"] == 1]
    for row, epoch in zip(
        sorted(rows, key=lambda row: row["epoch"]),
        train.fit(programs, state, synthetic[0], synthetic[1], order_key, epochs=EPOCHS),
        strict=True,
    ):
        variables = train.variables_of(epoch.state)
        recalibrated = programs.recalibrate(variables, train_split)
        expected = {
            "": programs.evaluate(variables, test_split),
            "batch_": programs.evaluate_batch(variables, test_split),
            "recalibrated_": programs.evaluate(recalibrated, test_split),
        }
        in_order = programs.evaluate_batch(variables, synthetic[1])  # another one
        losses = sorted(one.metrics.mean_loss for one in (*expected.values(), in_order))
        assert min(np.diff(losses)) > 2e-5 * losses[0]  # so the numbers below cannot be confused
        for prefix, one in expected.items():
            loss, percent = one.metrics.mean_loss, one.metrics.accuracy_percent
            assert row[f"{prefix}test_loss"] == pytest.approx(loss, rel=1e-5)
            assert row[f"{prefix}test_accuracy_percent"] == pytest.approx(percent, rel=1e-5)
        assert row["train_loss"] == pytest.approx(epoch.train.mean_loss, rel=1e-5)


def test_without_batch_normalisation_the_evaluations_are_one(whole):
    for row in rows_of(whole):
        for metric in ("test_loss", "test_accuracy_percent"):
            assert row[metric] == row[f"batch_{metric}"] == row[f"recalibrated_{metric}"]
        assert set(row.get("answers", {"running": None})) == {"running"}


def test_the_last_epoch_holds_what_was_said_of_each_test_image(with_block, in_file_order):
    """In the order of the original files, and agreeing with the accuracies."""
    labels = in_file_order[1].labels
    for row in rows_of(with_block):
        assert ("answers" in row) == (row["epoch"] == EPOCHS)
    found = results.read(with_block)
    assert (found.labels == labels).all()
    assert [kind.evaluation for kind in found.answers] == ["batch", "recalibrated", "running"]
    for kind, said in found.answers.items():
        right = np.unpackbits(said.correct, axis=1, count=77)
        assert (said.confusion.sum(2) == np.bincount(labels)).all()
        diagonal = np.diagonal(said.confusion, axis1=1, axis2=2)
        of_digit = [np.bincount(labels[one == 1], minlength=10) for one in right]
        assert (diagonal == of_digit).all()
        column = EVALUATIONS[kind.evaluation] + "test_accuracy_percent"
        accuracy = [row[column] for row in found.rows if row["epoch"] == EPOCHS]
        assert accuracy == pytest.approx(100 * right.mean(1), rel=1e-5)


def test_held_out_images_are_not_trained_on(synthetic, tmp_path):
    """The last training images, in place of the test images; nothing of it is an answer."""
    setting = VARIANTS["held_out_0.001"]._replace(epochs=1, held_out=50)
    out = tmp_path / "study"
    with study_directory.opened(out):
        begun = session.begin(
            out, {"held_out_0.001": setting}, [Cell("held_out_0.001", "none", range(1))], synthetic
        )
        list(session.finished_epochs(begun))
    (row,) = rows_of(out)
    assert "answers" not in row
    init_key, order_key = keys_of(0)
    programs = train.compiled(model_of(setting, "none"), sgd(0.001, 0.9))
    first, last = (
        Split(*(x[part] for x in synthetic[0])) for part in (slice(150), slice(150, 200))
    )
    (epoch,) = train.fit(programs, programs.init_state(init_key), first, last, order_key, epochs=1)
    assert row["train_loss"] == pytest.approx(epoch.train.mean_loss, rel=1e-5)
    assert row["test_loss"] == pytest.approx(epoch.test.metrics.mean_loss, rel=1e-5)


def test_variants_have_their_own_numbers_of_epochs(synthetic, tmp_path):
    settings = {
        name: VARIANTS[name]._replace(epochs=n) for name, n in (("report", 1), ("longer", 2))
    }
    with study_directory.opened(tmp_path):
        begun = session.begin(
            tmp_path, settings, [Cell(v, "none", range(1)) for v in settings], synthetic
        )
        done = [(group.variant, epoch) for group, epoch, _ in session.finished_epochs(begun)]
    assert done == [("report", 1), ("longer", 1), ("longer", 2)]
    assert not checkpoints(tmp_path)


def test_a_network_is_compiled_once(synthetic, tmp_path, monkeypatch):
    """However many groups of seeds and epochs there are; and nothing of other networks is kept."""
    monkeypatch.setattr(session, "GROUP", 2)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    training._programs.cache_clear()
    made = []
    over_seeds = parallel.over_seeds

    def kept(*arguments: Any, **named: Any) -> Any:
        made.append(over_seeds(*arguments, **named))
        return made[-1]

    monkeypatch.setattr(parallel, "over_seeds", kept)
    where, what = ("after_fc1",), ("batch_norm_only",)
    study(tmp_path / "study", synthetic, seeds=range(4), placements=where, variants=what)
    (programs,) = made
    sizes = [program._cache_size() for program in programs]
    assert sizes == [0, 1, 1, 1, 1]  # initial weights are those of the program of a single run
    assert training._programs.cache_info().maxsize == 1


# Committed -------------------------------------------------------------------------------------


def test_a_committed_study_holds_the_same(with_block, tmp_path):
    """In the same bytes each time; whatever else lies there stays."""
    notes = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plan.md").write_text("The plan.")
        notes += results.write(with_block, tmp_path / name, {"rows": TIMES})
    assert notes == []
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("first", "second")
    )
    assert first == second
    names = ["answers.npz.xz", "manifest.json", "plan.md", "results.csv.gz", "timing.json"]
    assert sorted(first) == names
    before, after = results.read(with_block), results.read(tmp_path / "first")
    assert (after.rows, after.notes) == (before.rows, [])
    assert (after.labels == before.labels).all()
    assert list(after.answers) == list(before.answers)
    for kind, said in before.answers.items():
        for x, y in zip(said, after.answers[kind], strict=True):
            np.testing.assert_array_equal(x, y)


def test_a_diverged_run_is_committed_too(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "study")
    rows = files.read_lines(whole / "results.jsonl").values
    rows[0] |= {"test_loss": None}
    files.write_whole(tmp_path / "study" / "results.jsonl", files.as_lines(rows))
    (tmp_path / "committed").mkdir()
    results.write(tmp_path / "study", tmp_path / "committed", None)
    after = results.read(tmp_path / "committed")
    assert [row["test_loss"] for row in after.rows].count(None) == 1
    assert after.rows == results.read(tmp_path / "study").rows


@pytest.mark.parametrize("name", ["answers.npz.xz", "manifest.json", "results.csv.gz"])
@pytest.mark.parametrize("damage", ["cut short", "changed", "empty", "absent"])
def test_a_damaged_file_of_a_committed_study_is_refused(with_block, tmp_path, name, damage):
    results.write(with_block, tmp_path, None)
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "absent":
        path.unlink()
    else:
        damaged = {"cut short": content[: len(content) // 2], "changed": content, "empty": b""}
        path.write_bytes(damaged[damage])
    with pytest.raises(FileError, match=f"^{path}: ") as error:
        results.read(tmp_path)
    assert "\n" not in str(error.value)


# Continuing ------------------------------------------------------------------------------------


def test_an_interrupted_study_continues(whole, begun, synthetic):
    """Epochs 1 and 2 are not trained again, and the files are those of the whole study."""
    _, trained = study(begun, synthetic)
    assert trained == [(0, 1, 2)]
    assert (begun / "results.jsonl").read_bytes() == (whole / "results.jsonl").read_bytes()
    assert not checkpoints(begun)


def test_nothing_is_left_to_do_in_a_finished_study(whole, synthetic, tmp_path):
    shutil.copytree(whole, tmp_path / "study")
    assert study(tmp_path / "study", synthetic) == ([], [])
    assert rows_of(tmp_path / "study") == rows_of(whole)


def test_rows_are_on_the_disk_before_the_checkpoint(synthetic, tmp_path, monkeypatch):
    """A kill between the two then costs an epoch; in the other order its rows would be lost."""
    calls = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        calls.append(Path(f"/dev/fd/{descriptor}").resolve().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    study(tmp_path / "study", synthetic, stop_after=1)
    start = calls.index("results.jsonl")
    assert [Path(name).suffix for name in calls[start:]] == [".jsonl", "", ".incomplete", ""]


@pytest.mark.parametrize("hole", ["torn", "lost", "absent", "one line", "a first line"])
def test_a_hole_in_the_rows_is_filled(whole, begun, synthetic, hole):
    """After a power cut the checkpoint may be ahead of the rows: those seeds start anew."""
    results = begun / "results.jsonl"
    lines = results.read_bytes().splitlines(keepends=True)
    if hole == "absent":
        results.unlink()
    else:
        kept = {
            "torn": [*lines[:-1], lines[-1][:-30]],
            "lost": lines[:-3],
            "one line": lines[:4] + lines[5:],
            "a first line": lines[1:],
        }
        results.write_bytes(b"".join(kept[hole]))
    notes, _ = study(begun, synthetic)
    assert rows_of(begun) == rows_of(whole)
    assert any("start anew" in note for note in notes)
    assert any("ends within a line" in note for note in notes) == (hole == "torn")


def test_a_full_disk_at_every_write(whole, synthetic, tmp_path, monkeypatch):
    """One line that names a file; what was there before stays readable and is continued."""
    fsync = os.fsync
    writes = 0
    for allowed in range(100):
        out = tmp_path / str(allowed)
        writes = 0

        def full(descriptor: int, allowed: int = allowed) -> None:
            nonlocal writes
            writes += 1
            if writes > allowed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        try:
            study(out, synthetic)
        except FileError as error:
            assert "No space left" in str(error)
            assert "\n" not in str(error)
        else:
            break
        finally:
            monkeypatch.setattr(os, "fsync", fsync)
        assert not list(out.rglob("*.incomplete"))
        assert not list(out.rglob(".lock"))
        study(out, synthetic)
        assert (out / "results.jsonl").read_bytes() == (whole / "results.jsonl").read_bytes()
    assert writes >= 10


def test_what_is_read_at_the_start_is_what_is_trained(whole, begun, synthetic):
    """Whatever becomes of the checkpoint meanwhile: epochs and arrays are one read."""
    other = begun.parent / "other"
    study(other, synthetic, stop_after=1)
    with study_directory.opened(begun):
        todo = session.begin(begun, short("report"), [Cell("report", "none", range(3))], synthetic)
        shutil.copy(checkpoints(other)[0], checkpoints(begun)[0])
        list(session.finished_epochs(todo))
    assert rows_of(begun) == rows_of(whole)


def test_adding_seeds_keeps_what_is_there(whole, synthetic, tmp_path):
    """Two seeds, then a third; the manifest names both sessions."""
    out = tmp_path / "grown"
    study(out, synthetic, seeds=range(2))
    first = (out / "results.jsonl").read_bytes()
    _, trained = study(out, synthetic)
    assert trained == [(2,)] * EPOCHS
    assert (out / "results.jsonl").read_bytes().startswith(first)
    assert rows_of(out) == rows_of(whole)
    sessions = files.read_json(out / "manifest.json")["sessions"]
    expected = [[["report", "none", 0, last]] for last in (1, 2)]
    assert [one["cells"] for one in sessions] == expected
    assert sessions[1]["packages"]["jax"] == jax.__version__


def test_asking_for_fewer_seeds_keeps_the_others_epochs(whole, begun, synthetic):
    """The third seed goes on from its second epoch when it is asked for again."""
    study(begun, synthetic, seeds=range(2))
    _, trained = study(begun, synthetic)
    assert trained == [(2,)]
    assert rows_of(begun) == rows_of(whole)
    assert not checkpoints(begun)


# Refusing --------------------------------------------------------------------------------------


def test_a_second_command_is_refused(begun, synthetic):
    """Two commands at once could give the weights of one epoch the number of another."""
    with files.locked(begun), pytest.raises(FileError, match=rf"^{begun}: process {os.getpid()} "):
        study(begun, synthetic)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("settings", "report", "learning_rate"), "learning_rate is 0.01 there and would be 0.001"),
        (("settings", "report", "batch_size"), "batch_size is 0.01 there and would be 64 now"),
        (("settings", "report", "epochs"), "epochs is 0.01 there and would be 3 now"),
        (("data_sha256", "test_labels"), "test_labels is 0.01 there and would be "),
    ],
)
def test_a_study_of_something_else_is_refused(begun, synthetic, keys, message):
    """With both values: its finished part would not belong to the rest."""
    path = begun / "manifest.json"
    changed = files.read_json(path)
    inner = changed
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = 0.01
    files.write_whole(path, files.as_json(changed))
    before = path.read_bytes()
    with pytest.raises(FileError, match=message) as error:
        study(begun, synthetic)
    assert str(error.value).startswith(f"{path}: ")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 1},
        {"settings": {"report": short("mnist")["mnist"]._asdict()}},
        {"data_sha256": {}},
        {"test_losses": [0.1, 0.2, 0.3]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_checkpoint_that_lies_is_refused(begun, synthetic, change):
    """With a right checksum: only its own words, beside the rows and the manifest, betray it."""
    (path,) = checkpoints(begun)
    metadata, arrays, _ = checkpoint.load(path)
    tree = checkpoint.restore(checkpoint.load(path), shapes(synthetic))
    assert set(arrays)
    checkpoint.save(path, tree, metadata | change)
    with pytest.raises(FileError, match=f"^{path}: .* (there and would be|has) "):
        study(begun, synthetic)


def shapes(splits: Any) -> Any:
    """The structure of the states in a checkpoint of three seeds."""
    state = jax.eval_shape(
        train.compiled(model_of(VARIANTS["report"], "none"), sgd(0.001, 0.9)).init_state,
        jax.random.key(0),
    )
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((3, *x.shape), x.dtype), state)


@pytest.mark.parametrize("name", ["manifest.json", "results.jsonl", "checkpoints"])
def test_a_damaged_file_is_refused(begun, synthetic, name):
    """Named in one line, and untouched; what to do is said where something can be done."""
    path = checkpoints(begun)[0] if name == "checkpoints" else begun / name
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileError) as error:
        study(begun, synthetic)
    assert str(error.value).startswith(f"{path}: ")
    assert "damaged" in str(error.value)
    assert ("delete that " in str(error.value)) == (name != "manifest.json")
    assert path.read_bytes() == content


def test_without_its_damaged_checkpoint_a_study_goes_on(whole, begun, synthetic):
    checkpoints(begun)[0].unlink()
    notes, _ = study(begun, synthetic)
    assert notes == [
        "report/none, seeds 0 to 2: rows or checkpoint are missing, so they start anew"
    ]
    assert rows_of(begun) == rows_of(whole)


def test_a_row_twice_is_refused(begun, synthetic):
    path = begun / "results.jsonl"
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(FileError, match=r"two lines of .*'report', 'none', 0, 1"):
        study(begun, synthetic)


def test_a_directory_in_which_nothing_was_written_is_removed(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt), study_directory.opened(tmp_path / "new"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_an_unknown_state_of_git_is_recorded_as_unknown(monkeypatch, tmp_path):
    """It is not a clean one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    recorded = manifest.manifest({})
    assert (recorded["git_commit"], recorded["git_dirty"]) == (None, None)


# Hosts, report ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", ["SLURM_PROCID", "OMPI_COMM_WORLD_RANK"])
def test_a_scheduler_numbers_the_hosts(monkeypatch, rank):
    assert hosts.number(None) == 0
    monkeypatch.setenv(rank, "2")
    assert hosts.number(None) == 2
    assert hosts.number(1) == 1
    assert hosts.number(0) == 0
    monkeypatch.setenv(rank, "x")
    with pytest.raises(Exception, match=f"{rank} must be a number: x"):
        hosts.number(None)


@pytest.mark.parametrize(
    ("variables", "joins"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "a,b"}, True),
        ({"SLURM_NTASKS": "2"}, False),  # a shell inside an allocation
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "a"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
    ],
)
def test_hosts_meet_where_a_scheduler_started_several(monkeypatch, variables, joins):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args: calls.append(args))
    monkeypatch.setattr(jax.config, "update", lambda *args: None)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    hosts.meet(None, None, None)
    assert calls == ([(None, None, None)] if joins else [])


TIMES = [
    {"program": "mnist_jax", "threads": 2, "placement": placement, "epoch_seconds": [s, s + 0.1]}
    for placement, s in (("before_fc1", 2.2), ("after_fc1", 1.8))
]


@pytest.mark.parametrize(
    "rows",
    [
        None,
        [{}],
        [3],
        [TIMES[0] | {"epoch_seconds": []}],
        [TIMES[0] | {"epoch_seconds": [1.0, -1.0]}],
        [TIMES[0] | {"epoch_seconds": [1.0, None]}],
        [TIMES[0] | {"placement": "nowhere"}],
        [TIMES[0] | {"threads": "two"}],
    ],
)
def test_times_of_something_else_are_refused(tmp_path, rows):
    path = tmp_path / "times.json"
    path.write_bytes(files.as_json({} if rows is None else {"rows": rows}))
    with pytest.raises(FileError, match=f"^{path}: not what benchmarks.epoch_time writes$"):
        report.read_timing(path)


def test_times_are_read(tmp_path):
    path = tmp_path / "times.json"
    path.write_bytes(files.as_json({"rows": TIMES}))
    assert report.read_timing(path) == {"rows": TIMES}
