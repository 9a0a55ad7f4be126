"""A study equals single runs, continues after any kill, joins its shares, and mixes nothing."""

import contextlib
import functools
import lzma
import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
import small

from experiments.groundwork import recipe as recipes
from experiments.groundwork.evaluation import EVALUATIONS
from experiments.groundwork.recipe import Recipe, keys_of
from experiments.groundwork.variants import PLAN, VARIANTS, Cell
from experiments.study import files, manifest, report, runs, session, training
from experiments.study.files import Study
from experiments.study.runs import Group, Run
from mnist_jax import data, programs, store, train
from mnist_jax.store import StoreError

RESULTS = Path(__file__).parents[1] / "experiments" / "results"
EPOCHS = 2
NONE = Cell("report", "none", range(3))  # it compiles fastest
NORM = Cell("batch_norm_only", "after_fc1", range(3))


@pytest.fixture(scope="module", autouse=True)
def programs_are_kept():
    """The studies of this file are of two networks, and need not compile each of them anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_programs", functools.cache(training._programs.__wrapped__))
        yield


def study(out: Path, *cells: Cell, stop_after: int | None = None, **changes: float) -> list[Group]:
    """Trains what a directory lacks, at most `stop_after` epochs; returns the groups it began."""
    short = {cell.variant: replace(VARIANTS[cell.variant], epochs=EPOCHS) for cell in cells}
    short = {variant: replace(recipe, **changes) for variant, recipe in short.items()}
    with files.opened(out):
        begun = session.begin(out, short, cells, small.DATASET)
        trained = {}
        for count, (group, _) in enumerate(session.finished_epochs(begun), 1):
            trained[group] = None
            if count == stop_after:
                break
    return list(trained)


def assert_equal(one: Study, other: Study) -> None:
    """All but the manifests, whose sessions began at different times."""
    pd.testing.assert_frame_equal(one.table, other.table, check_exact=True)
    assert [said[:3] for said in one.answers] == [said[:3] for said in other.answers]
    for ours, theirs in zip(one.answers, other.answers, strict=True):
        for x, y in zip(ours[3:], theirs[3:], strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A study of two networks that nothing interrupted."""
    out = tmp_path_factory.mktemp("studies") / "whole"
    study(out, NONE, NORM)
    return out


@pytest.fixture
def one(whole, tmp_path) -> Path:
    """The study of the network without a block, to be changed."""
    (tmp_path / "one" / "runs").mkdir(parents=True)
    for path in (whole / "manifest.json", *whole.glob("runs/report.none.*")):
        (tmp_path / "one" / path.relative_to(whole)).write_bytes(path.read_bytes())
    return tmp_path / "one"


# Groups ----------------------------------------------------------------------------------------


def test_groups_are_of_the_seeds_that_are_missing():
    """At most so many, a multiple of the devices, and without holes."""
    cells, done = [Cell("report", "none", range(30)), NORM], {Run("report", "none", 4)}
    found = runs.groups(cells, VARIANTS, done, devices=8)
    spans = [(group.variant, group.seeds[0], group.seeds[-1]) for group in found]
    assert spans == [("report", 0, 3), ("report", 5, 28), ("report", 29, 29), (NORM.variant, 0, 2)]
    assert found[-1].recipe == replace(VARIANTS[NORM.variant], placement="after_fc1")


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_shares_are_all_runs_once(shards):
    shares = [runs.share(PLAN["parts"], number, shards) for number in range(1, shards + 1)]
    found = [(*cell[:2], seed) for part in shares for cell in part for seed in cell.seeds]
    assert sorted(found) == sorted((*cell[:2], s) for cell in PLAN["parts"] for s in cell.seeds)


# Training --------------------------------------------------------------------------------------


def rounded(value: float) -> float:
    return float(f"{value:.6g}")


def test_a_seed_has_the_numbers_of_its_single_run(whole):
    """Bit for bit: the same keys, batches and arithmetic, evaluated in three ways."""
    init_key, order_key = keys_of(1)
    recipe = replace(VARIANTS[NORM.variant], placement=NORM.placement, epochs=EPOCHS)
    ours, (train_split, test_split, _) = recipes.programs(recipe), small.DATASET
    state = ours.init_state(init_key)
    single = programs.fit(ours, state, train_split, test_split, order_key, epochs=EPOCHS)
    table = files.read([whole]).table
    rows = table[(table["variant"] == NORM.variant) & (table["seed"] == 1)].to_dict("records")
    for row, epoch in zip(rows, single, strict=True):
        variables = train.variables_of(epoch.state)
        recalibrated = ours.recalibrate(variables, train_split)
        sums = {
            "train": epoch.train,
            "test": epoch.test.metrics,
            "batch_test": ours.evaluate_batch(variables, test_split).metrics,
            "recalibrated_test": ours.evaluate(recalibrated, test_split).metrics,
        }
        for name, one in sums.items():
            assert row[f"{name}_loss"] == rounded(one.mean_loss)
            assert row[f"{name}_accuracy_percent"] == rounded(one.accuracy_percent)
        assert len({row[f"{name}_loss"] for name in sums}) == 4  # so none passes for another


def test_groups_of_any_size_give_the_same(one, tmp_path, monkeypatch):
    """So that it does not matter which seeds train together."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(runs, "GROUP", 2)
    assert len(study(tmp_path / "study", NONE)) == 2
    assert_equal(files.read([tmp_path / "study"]), files.read([one]))


def test_answers_are_of_the_test_images_after_the_last_epoch(whole):
    """In the order of the original files; without batch normalisation the evaluations are one."""
    found, labels = files.read([whole]), np.asarray(small.DATASET.test.labels)
    assert (found.labels == labels).all()
    kinds = [(NORM.variant, NORM.placement, name) for name in sorted(EVALUATIONS)]
    assert [said[:3] for said in found.answers] == [*kinds, ("report", "none", "running")]
    prefixes: dict[str, str] = {**EVALUATIONS}
    last = found.table[found.table["epoch"] == EPOCHS]
    for said in found.answers:
        right = np.unpackbits(said.correct, axis=1, count=77)
        assert (said.confusion.sum(2) == np.bincount(labels)).all()
        diagonal = np.diagonal(said.confusion, axis1=1, axis2=2)
        assert (diagonal == [np.bincount(labels[row == 1], minlength=10) for row in right]).all()
        accuracy = last[last["variant"] == said.variant]
        accuracy = accuracy[f"{prefixes[said.evaluation]}test_accuracy_percent"]
        assert accuracy.tolist() == [rounded(100 * x.mean()) for x in right]
    none = found.table[found.table["placement"] == "none"]
    for prefix in ("batch_", "recalibrated_"):
        assert (none[f"{prefix}test_loss"] == none["test_loss"]).all()


def test_held_out_images_are_not_trained_on(tmp_path):
    """They stand in the place of the test images, and nothing of it is an answer."""
    study(tmp_path, Cell("held_out_0.001", "none", range(1)), epochs=1, held_out=50)
    found = files.read([tmp_path])
    assert found.answers == []
    (row,) = found.table.to_dict("records")
    init_key, order_key = keys_of(0)
    ours = recipes.programs(Recipe(placement="none"))
    kept, held = data.hold_out(small.DATASET.train, 50)
    order = train.epoch_order(order_key, 1, 150, 50)
    state, sums = ours.train_epoch(ours.init_state(init_key), kept, order)
    assert row["train_loss"] == rounded(sums.mean_loss)
    tested = ours.evaluate(train.variables_of(state), held)
    assert row["test_loss"] == rounded(tested.metrics.mean_loss)


# Continuing, joining ---------------------------------------------------------------------------


def test_a_study_continues_after_its_last_finished_group(whole, tmp_path):
    """What a kill interrupts starts anew and ends with the same bytes; nothing else does."""
    study(tmp_path, NONE, NORM, stop_after=EPOCHS + 1)
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert [group.variant for group in study(tmp_path, NONE, NORM)] == [NORM.variant]
    assert study(tmp_path, NONE, NORM) == []
    (tmp_path / "runs" / "report.none.0-2.csv.gz").unlink()  # killed just before it was written
    assert [group.variant for group in study(tmp_path, NONE, NORM)] == ["report"]
    for path in (whole / "runs").iterdir():
        assert (tmp_path / "runs" / path.name).read_bytes() == path.read_bytes()
    sessions = store.read_json(tmp_path / "manifest.json")["sessions"]
    none, norm = ["report", "none", 0, 2], ["batch_norm_only", "after_fc1", 0, 2]
    assert [each["runs"] for each in sessions] == [[none], [norm], [none]]
    assert sessions[0]["started"] <= sessions[1]["started"]
    assert sessions[1]["packages"]["jax"] == jax.__version__


def test_shares_join_to_what_one_training_gives(one, whole, tmp_path):
    """Also if one is committed meanwhile, or they overlap."""
    for number in (1, 2):
        study(tmp_path / str(number), *runs.share([NONE], number, 2))
    (tmp_path / "committed").mkdir()
    files.write_committed(files.read([tmp_path / "1"]), tmp_path / "committed")
    for name in ("1", "committed"):
        joined = files.read([tmp_path / name, tmp_path / "2"])
        assert_equal(joined, files.read([one]))
        assert [len(each["runs"]) for each in joined.manifest["sessions"]] == [1, 1]
    assert_equal(files.read([tmp_path / "2", whole]), files.read([whole]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("recipe", "learning_rate of report is 0.1 in one and 0.001 in the other"),
        ("data", "the test images are different ones"),
        ("numbers", "two files have different numbers of report/none, seed 1"),
    ],
)
def test_what_does_not_belong_together_is_not_joined(one, whole, changed, message):
    """With a sentence that names both; and a study is not continued with something else."""
    found = files.read([one])
    if changed == "numbers":
        found.table.loc[found.table["seed"] == 1, "train_loss"] += 1e-5
        (one / "runs" / "report.none.0-2.csv.gz").unlink()
        group = Group("report", VARIANTS["report"], range(3))
        files.write_group(one, found.manifest, group, found.table, found.answers)
        (one / "runs" / "report.after_fc1.0-2.csv.gz").rename(one / "runs" / "x.csv.gz")
        (one / "runs" / "report.after_fc1.0-2.npz.xz").rename(one / "runs" / "x.npz.xz")
    elif changed == "data":
        found.manifest["test_labels"] = "0" + found.manifest["test_labels"][1:]
    else:
        found.manifest["recipes"]["report"]["learning_rate"] = 0.1
    store.write_json(one / "manifest.json", found.manifest)
    with pytest.raises(StoreError, match=message) as error:
        files.read([one, whole])
    assert str(one) in str(error.value)
    with contextlib.nullcontext() if changed == "numbers" else pytest.raises(StoreError):
        study(one, NONE)


def test_a_second_command_is_refused(one):
    message = rf"^{one}: process {os.getpid()} "
    with store.locked(one), pytest.raises(StoreError, match=message):
        study(one, NONE)


@pytest.mark.parametrize("name", ["manifest.json", "runs/*.csv.gz", "runs/*.npz.xz"])
@pytest.mark.parametrize("damage", ["changed", "cut", "absent"])
def test_a_damaged_file_is_refused(one, name, damage):
    """Named in one line, and left as it is; what is absent is trained again, if it is a table."""
    (path,) = one.glob(name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if damage != "absent":
        path.write_bytes(content if damage == "changed" else content[:-20])
    if name == "manifest.json" and damage == "changed":
        path.write_text('{"sessions": []}')  # JSON has no digest
    refused = pytest.raises(StoreError, match=f"^{path}: ")
    with contextlib.nullcontext() if (name, damage) in MENDED else refused as error:
        study(one, NONE)
    assert error is None or "\n" not in str(error.value)


MENDED = {("manifest.json", "absent"), ("runs/*.csv.gz", "absent")}

# Committed -------------------------------------------------------------------------------------


def test_a_committed_study_holds_the_same_in_the_same_bytes(whole, tmp_path):
    """Also of a run that diverged; whatever else lies there stays."""
    study = files.read([whole])
    study.table.loc[0, "test_loss"] = np.nan
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plan.md").write_text("The plan.")
        files.write_committed(study, tmp_path / name)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("first", "second")
    )
    assert first == second
    assert sorted(first) == ["answers.npz.xz", "manifest.json", "plan.md", "results.csv.gz"]
    again = files.read([tmp_path / "first"])
    assert_equal(again, study)
    assert again.manifest == study.manifest


@pytest.fixture(scope="module")
def published() -> Study:
    return files.read([RESULTS])


def test_the_committed_results_are_read_as_they_were(published, tmp_path, monkeypatch):
    """`export` would write the same files; a digest is of the answers that version 0.2 read."""
    assert len(published.runs) == 2375
    monkeypatch.setattr(lzma, "compress", lambda content: content)  # it takes ten seconds
    files.write_committed(published, tmp_path)
    table = (tmp_path / "results.csv.gz").read_bytes()
    assert table == (RESULTS / "results.csv.gz").read_bytes()
    answers = (tmp_path / "answers.npz.xz").read_bytes()
    assert answers == lzma.decompress((RESULTS / "answers.npz.xz").read_bytes())
    digest = sha256()
    for *kind, seeds, confusion, correct in published.answers:
        digest.update("/".join(kind).encode())
        for array in (seeds, confusion, correct):
            digest.update(array.tobytes())
    assert digest.hexdigest()[:16] == "126bafa6204dd596"


def test_new_runs_join_the_committed_ones(published):
    """Version 0.2 wrote its manifest, with less in it; what it says is what is trained now."""
    digits = np.array([*map(int, published.manifest["test_labels"])])
    dataset = small.DATASET._replace(test=small.DATASET.test._replace(labels=digits))
    now = manifest.begun(VARIANTS, dataset)
    joined = manifest.join(published.manifest, now, "both")
    assert joined["recipes"].keys() == VARIANTS.keys()
    assert "nesterov" not in joined["recipes"]["report"]
    assert joined["recipes"]["rate_0.1"] == now["recipes"]["rate_0.1"]
    other = manifest.begun({"report": Recipe(pixels="mnist")}, dataset)
    with pytest.raises(StoreError, match="pixels of report is half in one and mnist in the other"):
        manifest.join(published.manifest, other, "both")


TIMES = [{"program": "p", "threads": 2, "placement": "none", "epoch_seconds": [2.2, 2.3]}]


@pytest.mark.parametrize("change", [{"epoch_seconds": [1.0, None]}, {"placement": "nowhere"}])
def test_times_of_something_else_are_refused(tmp_path, change):
    path = tmp_path / "times.json"
    store.write_json(path, {"rows": TIMES})
    assert report.read_timing(path) == {"rows": TIMES}
    store.write_json(path, {"rows": [TIMES[0] | change]})
    with pytest.raises(StoreError, match=f"^{path}: not what benchmarks.epoch_time writes$"):
        report.read_timing(path)
