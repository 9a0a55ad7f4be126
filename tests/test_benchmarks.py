"""How the benchmarks run programs and what they compute from times; no time is asserted."""

import functools
import importlib
import itertools
import json
import os
import signal
import threading
import time
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from benchmarks import (
    epoch_time,
    flax_program,
    harness,
    jax_program,
    kernels,
    program,
    time_to_accuracy,
    torch_program,
    whole_run,
)
from benchmarks.harness import Finished, Program
from experiments.groundwork import recipe, terminal
from experiments.groundwork.command import DataOptions, FailedError
from experiments.groundwork.recipe import Recipe
from mnist_jax import metrics, store, train
from mnist_jax.model import PLACEMENTS


def process(*lines: dict | str, seconds: float = 9.0) -> Finished:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    return Finished([*enumerate(texts, 1)], seconds, 500.0, 0.5)


def python(code: str, **named) -> Program:
    return Program({"program": "python", "placement": None}, ("-c", code), **named)


@pytest.mark.parametrize(
    "words",
    [
        "epoch_time --repeats 0",
        "jax_program --examples 60001",
        "jax_program --batch-size 1",
        "jax_program --held-out 60000",
        "jax_program --seed 4294967295 --seeds 2",
        "kernels --seconds 0",
        "time_to_accuracy --seeds 1",
        "whole_run --json {tmp}/absent/x.json",
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(harness.subprocess, "Popen", None)
    name, option, *value = words.format(tmp=tmp_path).split()
    assert importlib.import_module(f"benchmarks.{name}").main([option, *value]) == 2
    assert capsys.readouterr().err.startswith(f"error: {option} must be ")


# The harness.


def test_a_random_order_has_everything_once_a_round():
    order = harness.in_random_order("abcdef", 4, seed=0)
    rounds = {tuple(order[i : i + 6]) for i in range(0, 24, 6)}
    assert len(rounds) > 1 and all(sorted(each) == list("abcdef") for each in rounds)
    assert order == harness.in_random_order("abcdef", 4, seed=0)
    assert order != harness.in_random_order("abcdef", 4, seed=1)


def test_a_process_has_its_own_directory_and_finds_no_compiled_programs(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "filled")
    code = "import os; print(os.getcwd()); print(os.path.isdir(os.environ['OWN']))\n"
    code += "print('JAX_COMPILATION_CACHE_DIR' in os.environ)"
    finished = harness.run(python(code, folder=tmp_path, environment={"OWN": "{scratch}"}))
    assert [line for _, line in finished.lines] == [str(tmp_path), "True", "False"]
    assert 0 < finished.lines[0][0] <= finished.lines[-1][0] <= finished.seconds


def test_a_process_that_fails_says_why():
    with pytest.raises(FailedError, match=r"^python: error: no$"):
        harness.run(python("import sys; print('first', file=sys.stderr); sys.exit('error: no')"))
    with pytest.raises(FailedError, match=r"^python: exit status 3$"):
        harness.run(python("raise SystemExit(3)"))


def test_an_interrupt_ends_the_process(tmp_path):
    file = tmp_path / "started"
    code = f"import os, time; open({str(file)!r}, 'w').write(str(os.getpid())); time.sleep(100)"

    def interrupt():
        while not (file.exists() and file.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        harness.run(python(code))
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


def test_json_lines_and_lines_of_the_report_are_read():
    names = ("train_loss", "test_loss", "train_accuracy_percent", "test_accuracy_percent")
    row = dict.fromkeys(names, 1.0) | {"epoch": 1, "seconds": 1.5}
    line = terminal.epoch_line(row | {"epoch": 2})
    facts, epochs = harness.read(process({"threads": 2}, row, "written: x", line))
    assert facts == {"threads": 2} and epochs[0] == row | {"at": 2}
    assert epochs[1] == {"epoch": 2, "seconds": 1.5, "at": 4}


def test_measurements_are_gathered_by_labels(tmp_path, monkeypatch, capsys):
    labels = {"program": "a", "placement": "none"}
    programs = [Program(labels, ("seed 0",)), Program(labels, ("seed 1",))]
    programs.append(Program(labels | {"program": "b"}, ("other",)))
    monkeypatch.setattr(harness, "run", lambda program: process(seconds=len(program.words[0])))
    file = tmp_path / "x.json"
    rows = harness.measure(programs, lambda _, f: {"s": [f.seconds]}, rounds=2, seed=0, path=file)
    assert store.read_json(file)["rows"] == rows
    assert [(row["program"], row["s"]) for row in rows] == [("a", [6] * 4), ("b", [5] * 2)]
    assert [len(row["load_average"]) for row in rows] == [4, 2]
    conditions = store.read_json(file)["conditions"]
    assert Counter(conditions["order"]) == {"a none": 4, "b none": 2}
    assert conditions["packages"]["jaxlib"] and "1/6 " in capsys.readouterr().out


def test_a_failure_leaves_what_was_measured(tmp_path, capsys):
    file = tmp_path / "x.json"
    programs = [Program({"program": n}, ("-c", f"open({str(tmp_path / n)!r}, 'x')")) for n in "ab"]
    with pytest.raises(FailedError, match="exists"):
        harness.measure(programs, lambda *_: {"s": [1.0]}, rounds=2, seed=0, path=file)
    assert [row["s"] for row in store.read_json(file)["rows"]] == [[1.0]] * 2


def test_ratios_are_of_medians_their_range_is_of_pairs_and_intervals_are_students():
    assert harness.spread([3.0, 1.0, 2.5]) == "2.50 (1.00 to 3.00)"
    assert harness.ratio([4.0, 3.0, 4.4], [1.0, 1.0, 1.1]) == "4.00 (3.00 to 4.00)"
    mean, margin = time_to_accuracy.mean_and_margin([1.0, 2.0, 3.0])
    assert mean == 2
    assert margin == pytest.approx(4.302653 / 3**0.5)  # t of 0.975 and two degrees of freedom


# The timed programs.


@pytest.fixture
def made_up():
    """The programs read the made-up images instead of MNIST."""
    with small.in_place_of_mnist():
        yield small.DATASET


def printed_by(module, capsys, *words: str) -> list[dict]:
    assert module.main(words) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


VARIANTS = [
    pytest.param(torch_program, ["--variant", variant, "--threads", "1"], marks=pytest.mark.torch)
    for variant in ("eager", "channels_last", "dataloader")
]


@pytest.mark.parametrize(("module", "words"), [(jax_program, []), (flax_program, []), *VARIANTS])
def test_all_programs_learn_and_print_the_same_lines(module, words, made_up, capsys):
    if module is torch_program:
        pytest.importorskip("torch")
    training = "--placement none --epochs 3 --batch-size 50 --seeds 2 --learning-rate 0.1"
    ready, *rows = printed_by(module, capsys, *words, *training.split())
    assert ready.keys() == {"compile_seconds", "threads"}
    if module is jax_program:
        assert rows.pop()["matrix_product_gflops"] > 0
    assert [(row["seed"], row["epoch"]) for row in rows] == [*itertools.product((0, 1), (1, 2, 3))]
    for row in rows:
        assert [*row] == [
            *("seed", "epoch", "train_loss", "train_accuracy_percent"),
            *("test_loss", "test_accuracy_percent"),
            *("seconds", "cpu_seconds", "evaluation_seconds"),
        ]
        assert 0 <= row["test_accuracy_percent"] <= 100
    assert rows[2]["train_loss"] < rows[0]["train_loss"]


def test_our_program_trains_as_a_run_does(made_up, capsys):
    words = "--placement none --epochs 2 --held-out 50 --batch-size 50"
    _, *rows, _ = printed_by(jax_program, capsys, *words.split())
    trained = Recipe(placement="none", held_out=50, batch_size=50)
    programs = recipe.programs(trained)
    init_key, order_key = recipe.keys_of(0)
    state, splits = programs.init_state(init_key), recipe.splits(trained, made_up)
    for row in rows:
        order = train.epoch_order(order_key, row["epoch"], 150, 50)
        state, sums = programs.train_epoch(state, splits[0], order)
        assert row["train_loss"] == sums.mean_loss
        tested = programs.evaluate(train.variables_of(state), splits[1]).metrics
        assert row["test_loss"] == tested.mean_loss


def test_stock_flax_has_the_reports_networks():
    def parameters(placement):
        init = functools.partial(flax_program.LeNet(placement).init, train=True)
        shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((2, 28, 28, 1)))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))

    assert [parameters(placement) for placement in PLACEMENTS] == [44_426, 49_098, 304_106]


def test_the_clock_divides_an_epoch_into_its_parts(monkeypatch):
    monkeypatch.setattr(program.time, "perf_counter", itertools.count().__next__)
    monkeypatch.setattr(program.time, "process_time", itertools.count(0, 5).__next__)
    sums = metrics.Metrics(50.0, 90, 100)
    side = program.Side(
        start=lambda seed: ("fresh", seed),
        train_epoch=lambda state, number: ((*state, number), sums),
        evaluate=lambda state: sums if state == ("fresh", 7, 1) else None,
    )
    (row,) = program.timed(side, 7, 1)
    assert [row[name] for name in ("seconds", "cpu_seconds", "evaluation_seconds")] == [1, 5, 1]


# The questions.


def test_epoch_time_passes_its_options_on(tmp_path):
    source, programs = DataOptions(mirror=tmp_path / "m"), ("ours", "channels_last")
    options = epoch_time.Options(("none", "after_fc1"), programs, tmp_path, (1, 2), data=source)
    found = epoch_time.programs(options)
    assert len({each.name for each in found}) == len(found) == 2 * 3 * 2
    for each in found:
        words, labels = " ".join(each.words), each.labels
        assert f"--placement {labels['placement']} --threads {labels['threads']}" in words
        assert words.endswith(f"--epochs 4 --mirror {tmp_path / 'm'}")
        theirs, other = "pytorch channels_last", f"mnist_jax of {tmp_path.name}"
        assert each.folder == (tmp_path if labels["program"] == other else harness.ROOT)
        assert ("--variant channels_last" in words) == (labels["program"] == theirs)


def test_a_process_is_the_median_of_its_epochs_but_the_first():
    rows = [{"epoch": n, "seconds": s, "cpu_seconds": 2 * s} for n, s in enumerate((9, 1, 2, 4), 1)]
    finished = process({"compile_seconds": 2.0}, *rows, {"matrix_product_gflops": 100.0})
    values = epoch_time.values_of(python(""), finished)
    assert values["epoch_seconds"] == [2] and values["warm_up_seconds"] == [7]
    assert values["compile_seconds"] == [2.0] and values["cpus"] == [2]
    assert values["matrix_product_gflops"] == [100.0]


def test_the_limit_counts_two_operations_for_each_multiply_add():
    # conv1 twice, everything else three times; on one pixel only centre taps.
    none = 2 * 86_400 + 3 * (153_600 + 30_720 + 10_080 + 840)
    counts = [none, none + 3 * 2 * 36_864, none + 3 * 2 * 120**2]
    assert [epoch_time.training_multiply_adds(placement) for placement in PLACEMENTS] == counts
    row = {"program": "mnist_jax", "placement": "none", "threads": 2, "epoch_seconds": [1.0]}
    (line,) = epoch_time.limit_lines([row | {"matrix_product_gflops": [100.0]}])
    assert line.endswith("takes 1.10 times the arithmetic's limit of 0.91 s")


def test_cold_runs_have_an_empty_cache_each_and_cached_ones_share_a_filled_one(
    tmp_path, monkeypatch, capsys
):
    caches = []

    def run(each):
        caches.append((each.environment.get("XDG_CACHE_HOME"), each.words[-2:]))
        return process({"epoch": 1, "seconds": 1.5}, {"epoch": 2, "seconds": 1.0}, seconds=10.0)

    monkeypatch.setattr(harness, "run", run)
    file = tmp_path / "x.json"
    words = "--placements none --variants eager --repeats 3 --json"
    assert whole_run.main([*words.split(), str(file)]) == 0
    (filled, last), *measured = caches
    assert last == ("--epochs", "1")  # fills the cache before anything is timed
    assert Counter(cache for cache, _ in measured) == {harness.SCRATCH: 3, filled: 3, None: 3}
    cold, cached, theirs = store.read_json(file)["rows"]
    assert [row["program"] for row in (cold, cached, theirs)] == ["cold", "cached", "pytorch eager"]
    assert cold["besides_epochs_seconds"] == [7.5] * 3 and cold["first_line_seconds"] == [1] * 3
    assert "besides_epochs_seconds" not in theirs


def test_seeds_are_divided_over_processes_and_joined_by_training(tmp_path, monkeypatch, capsys):
    commands = []

    def run(each):
        commands.append(" ".join(each.words))
        first, count = (int(each.words[each.words.index(n) + 1]) for n in ("--seed", "--seeds"))
        row = {"seconds": 1.5, "test_accuracy_percent": 98.8}
        seeds = range(first, first + count)
        return process(*(row | {"seed": seed, "epoch": n} for seed in seeds for n in (1, 2)))

    monkeypatch.setattr(harness, "run", run)
    file = tmp_path / "x.json"
    words = "--placements before_fc1 --epochs 2 --seeds 25 --torch-seeds 3 --nesterov --json"
    assert time_to_accuracy.main([*words.split(), str(file)]) == 0
    assert sum("jax_program" in command for command in commands) == 3 and len(commands) == 4
    training = "--placement before_fc1 --epochs 2 --schedule one_cycle --peak-learning-rate 0.05"
    assert all(f"{training} --nesterov --held-out 0" in command for command in commands)
    ours, theirs = store.read_json(file)["rows"]
    assert sorted(ours["seeds"]) == [*range(25)] and theirs["seeds"] == [0, 1, 2]
    assert set(ours["seconds"]) == {3.0} and ours["accuracy_percent"] == pytest.approx([98.8] * 25)
    assert " yes " in capsys.readouterr().out  # the report has 98.71


# kernels.


def test_a_loop_of_a_kernel_changes_its_inputs_by_nothing_that_counts():
    x, y = jnp.ones((2, 3)), jnp.ones((2, 3))
    after, _ = kernels._loop(lambda x, y: x * 2 + y, jnp.int32(5), x, y)
    np.testing.assert_allclose(after, (x, y), rtol=1e-6)


def test_a_kernel_is_timed_in_both_forms(monkeypatch):
    monkeypatch.setattr(kernels, "KERNELS", kernels.KERNELS[-1:])
    # A loop over less than a kilobyte or two compiles another way, which in jaxlib 0.12 knows no
    # barriers; hence 16 images.
    rows = list(kernels.measure(batch_size=16, repeats=1, seconds=1e-4))
    assert [row["what"] for row in rows] == ["value", "value, gradient"]
    assert all(row["fast"][0] > 0 and row["reference"][0] > 0 for row in rows)
    assert kernels.table(rows).row_count == 2
