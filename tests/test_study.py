"""A study equals single runs, continues to the bit from any crash, and mixes nothing."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import files, manifest
from experiments.files import FileError
from experiments.settings import SETTINGS, keys_of, model_of, sgd
from experiments.study import directory as study_directory
from experiments.study import hosts, plan, report, session
from experiments.study.plan import Group, Saved, Task
from mnist_jax import checkpoint, train
from mnist_jax.checkpoint import Checkpoint
from mnist_jax.data import digests

EPOCHS = 3


def study(
    out: Path,
    splits: Any,
    *,
    seeds: range = range(3),
    placements: tuple = ("none",),  # it compiles fastest
    variants: tuple = ("report",),
    epochs: int = EPOCHS,
    stop_after: int | None = None,
) -> tuple[list[str], list[tuple[int, ...]]]:
    """Trains what a directory has not got; notes, and seeds of the epochs that were trained."""
    with study_directory.opened(out):
        begun = session.begin(
            out, variants, placements, seeds, epochs=epochs, data_sha256=digests(*splits)
        )
        trained = []
        for group, _, _ in session.finished_epochs(begun, splits):
            trained.append(group.seeds)
            if len(trained) == stop_after:
                break
        return begun.notes, trained


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
    asked = plan.groups(["report"], ["none"], seeds, most=10)
    return plan.left_to_do(asked, rows, list(saved), epochs=3)


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
    asked = plan.groups(["report"], ["none", "after_fc1"], range(5, 10), most=2)
    assert [group.seeds for group in asked] == [(5, 6), (7, 8), (9,)] * 2
    assert [group.placement for group in asked] == ["none"] * 3 + ["after_fc1"] * 3


def test_what_tables_leave_out_is_said():
    rows = [row(seed, epoch) for seed in (0, 4, 5, 6) for epoch in (1, 2)] + [row(0, 3)]
    assert plan.left_out(rows, epochs=3) == [
        "report/none, seeds 4 to 6: left out of the tables, not all 3 epochs are there"
    ]


# Training --------------------------------------------------------------------------------------


def test_every_seed_and_epoch_has_a_row(whole):
    """With the confusion matrix of all 77 test images; no checkpoint is left."""
    rows = rows_of(whole)
    keys = [(row["seed"], row["epoch"]) for row in rows]
    assert sorted(keys) == [(seed, epoch) for seed in range(3) for epoch in (1, 2, 3)]
    for one in rows:
        confusion = np.array(one["confusion"])
        assert confusion.sum() == 77
        assert one["test_accuracy_percent"] == pytest.approx(100 * np.trace(confusion) / 77)
    assert not checkpoints(whole)
    assert sorted(path.name for path in whole.iterdir()) == ["manifest.json", "results.jsonl"]


def test_a_seed_equals_its_single_run(whole, synthetic):
    """The same keys, batches and arithmetic as `experiments.run`."""
    init_key, order_key = keys_of(2)
    setting = SETTINGS["report"]
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
        todo = session.begin(
            begun, ["report"], ["none"], range(3), epochs=EPOCHS, data_sha256=digests(*synthetic)
        )
        shutil.copy(checkpoints(other)[0], checkpoints(begun)[0])
        list(session.finished_epochs(todo, synthetic))
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
    assert [one["seeds"] for one in sessions] == [[0, 1], [0, 2]]
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
    """Today's pair of commands gave weights of one epoch the number of another."""
    with files.locked(begun), pytest.raises(FileError, match=rf"^{begun}: process {os.getpid()} "):
        study(begun, synthetic)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("settings", "report", "learning_rate"), "learning_rate is 0.01 there and would be 0.001"),
        (("settings", "report", "batch_size"), "batch_size is 0.01 there and would be 64 now"),
        (("epochs",), "epochs is 0.01 there and would be 3 now"),
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
        {"settings": {"report": SETTINGS["mnist"]._asdict()}},
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
        train.compiled(model_of(SETTINGS["report"], "none"), sgd(0.001, 0.9)).init_state,
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
    assert ("without" in str(error.value)) == (name != "manifest.json")
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
    monkeypatch.setenv(rank, "x")
    with pytest.raises(Exception, match=f"{rank} must be a number: x"):
        hosts.number(None)


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
