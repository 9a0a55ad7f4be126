"""How the benchmarks run programs and what they compute from times; nothing here is timed."""

import ast
import importlib
import itertools
import json
import os
import sys
import typing
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
    epoch_time,
    jax_program,
    kernels,
    processes,
    program,
    scaling,
    time_to_accuracy,
    torch_program,
    whole_run,
)
from benchmarks.processes import Conditions, Finished, ProcessError
from experiments.groundwork import cores, files, settings, terminal
from mnist_jax import train
from mnist_jax.data import Split
from mnist_jax.model import PLACEMENTS

COMMANDS = (
    "benchmarks.core_distance",
    "benchmarks.epoch_time",
    "benchmarks.jax_program",
    "benchmarks.kernels",
    "benchmarks.page_latency",
    "benchmarks.pictures",
    "benchmarks.scaling",
    "benchmarks.time_to_accuracy",
    "benchmarks.torch_program",
    "benchmarks.whole_run",
)
OURS = {"mnist_jax", "mnist_jax as run"}
QUIET = Conditions(0.5, 0.1, 0.0, 200.0)
HERE = {
    "packages": {"jaxlib": "0.10.2"},
    "versions": {"jaxlib": "0.10.2"},
    "cpu": "some processor",
    "threads": 2,
    "devices": ["cpu: cpu"],
    "python": "3.11",
    "xla_flags": "",
}


def main_of(command: str):
    return importlib.import_module(command).main


# Every command.


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_pytorch_and_is_80_columns_wide(command, capsys, monkeypatch):
    before = "torch" in sys.modules
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        main_of(command)(["--help"])
    assert end.value.code == 0
    assert ("torch" in sys.modules) == before
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).replace("│", " ").split())
    for option in ("epochs", "repeats", "batch-size", "seeds", "turns", "threads", "examples"):
        if f"--{option} INT " in text:
            described = text.split(f"--{option} INT ")[-1].split(" --")[0]
            assert "at least " in described, option


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("benchmarks.core_distance", "--turns 0"),
        ("benchmarks.epoch_time", "--repeats 0"),
        ("benchmarks.epoch_time", "--epochs -1"),
        ("benchmarks.epoch_time", "--placement nowhere"),
        ("benchmarks.epoch_time", "--json {tmp}/absent/x.json"),
        ("benchmarks.epoch_time", "--figure {tmp}/absent/x"),
        ("benchmarks.jax_program", "--epochs 0"),
        ("benchmarks.jax_program", "--batch-size 0"),
        ("benchmarks.jax_program", "--batch-size 60001"),
        ("benchmarks.jax_program", "--batch-size 1"),
        ("benchmarks.jax_program", "--examples 0"),
        ("benchmarks.jax_program", "--examples 60001"),
        ("benchmarks.jax_program", "--held-out 60000"),
        ("benchmarks.jax_program", "--held-out -1"),
        ("benchmarks.jax_program", "--threads 0"),
        ("benchmarks.jax_program", "--threads 100000"),
        ("benchmarks.jax_program", "--learning-rate -1"),
        ("benchmarks.jax_program", "--learning-rate nan"),
        ("benchmarks.jax_program", "--peak-learning-rate -1"),
        ("benchmarks.jax_program", "--seed -1"),
        ("benchmarks.jax_program", "--seed 4294967296"),
        ("benchmarks.jax_program", "--seeds 0"),
        ("benchmarks.jax_program", "--seed 4294967295 --seeds 2"),
        ("benchmarks.jax_program", "--json {tmp}"),
        ("benchmarks.kernels", "--batch-size 0"),
        ("benchmarks.kernels", "--repeats 0"),
        ("benchmarks.kernels", "--seconds 0"),
        ("benchmarks.kernels", "--json {tmp}/absent/x.json"),
        ("benchmarks.pictures", "--images 0 a.safetensors"),
        ("benchmarks.pictures", "--seed -1 a.safetensors"),
        ("benchmarks.pictures", "absent"),
        ("benchmarks.scaling", "--repeats 0"),
        ("benchmarks.scaling", "--epochs 0"),
        ("benchmarks.scaling", "--json {tmp}/absent/x.json"),
        ("benchmarks.time_to_accuracy", "--epochs 0"),
        ("benchmarks.time_to_accuracy", "--epochs 2 0"),
        ("benchmarks.time_to_accuracy", "--peak-learning-rate 0"),
        ("benchmarks.time_to_accuracy", "--peak-learning-rates 0.1 nan"),
        ("benchmarks.time_to_accuracy", "--seeds 1"),
        ("benchmarks.time_to_accuracy", "--torch-seeds 0"),
        ("benchmarks.time_to_accuracy", "--placement none"),
        ("benchmarks.time_to_accuracy", "--json {tmp}/absent/x.json"),
        ("benchmarks.torch_program", "--epochs 0"),
        ("benchmarks.torch_program", "--variant fastest"),
        ("benchmarks.whole_run", "--repeats -1"),
        ("benchmarks.whole_run", "--json {tmp}/absent/x.json"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_before_anything_runs(
    command, words, tmp_path, capsys, monkeypatch
):
    def run(*_):
        raise AssertionError("a process was started")

    monkeypatch.setattr(processes.subprocess, "Popen", run)
    monkeypatch.setattr(program, "load_mnist", run)
    words = words.format(tmp=tmp_path).split()
    assert main_of(command)(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert words[0].strip("-") in line
    assert list(tmp_path.iterdir()) == []


def test_the_timed_programs_have_the_same_options():
    common = {field.name for field in program.Options.__dataclass_fields__.values()}
    assert set(jax_program.Config.__dataclass_fields__) == common | {"choose_threads"}
    assert set(torch_program.Config.__dataclass_fields__) == common | {"variant"}


def test_nothing_imports_pytorch_above_the_functions():
    for path in Path(program.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = {alias.name for alias in getattr(node, "names", [])}
            module = getattr(node, "module", None) or ""
            assert "torch" not in names | {module.split(".")[0]}, path
            assert "torch_report" not in names, path


# Processes.


def test_a_random_order_has_everything_once_a_round():
    order = processes.in_random_order("abcdef", rounds=4, seed=0)
    assert [number for number, _ in order] == [n for n in range(1, 5) for _ in range(6)]
    rounds = [[what for n, what in order if n == number] for number in range(1, 5)]
    assert all(sorted(round_) == list("abcdef") for round_ in rounds)
    assert len(set(map(tuple, rounds))) > 1
    assert order == processes.in_random_order("abcdef", rounds=4, seed=0)
    assert order != processes.in_random_order("abcdef", rounds=4, seed=1)


def test_programs_that_belong_together_run_one_after_another():
    order = processes.in_random_order(range(12), rounds=8, seed=0, together=lambda n: n // 2)
    names = [what for _, what in order]
    assert all(sorted(names[12 * n : 12 * n + 12]) == list(range(12)) for n in range(8))
    pairs = list(zip(names[::2], names[1::2], strict=True))
    assert all(one // 2 == other // 2 for one, other in pairs)
    assert {one < other for one, other in pairs} == {True, False}
    assert len({tuple(pairs[6 * n : 6 * n + 6]) for n in range(8)}) == 8


def test_a_process_gives_its_lines_and_what_it_took():
    code = "import sys; print('one'); print('two'); print('three', file=sys.stderr)"
    finished = processes.run(["-c", code])
    assert [line for _, line in finished.lines] == ["one", "two"]
    times = [at for at, _ in finished.lines]
    assert times == sorted(times) and times[-1] <= finished.seconds
    if finished.peak_memory_mib is not None:
        assert 1 < finished.peak_memory_mib < 1000
    for value in finished.conditions:
        assert value is None or value >= 0


def test_memory_is_in_bytes_on_macos_and_in_kib_elsewhere(monkeypatch):
    here = processes.run(["-c", ""]).peak_memory_mib
    monkeypatch.setattr(processes.sys, "platform", "darwin")
    there = processes.run(["-c", ""]).peak_memory_mib
    assert here is None or there < here / 500


def test_a_process_that_fails_says_why():
    with pytest.raises(ProcessError, match=r"^error: no$"):
        processes.run(["-c", "import sys; print('first', file=sys.stderr); sys.exit('error: no')"])
    with pytest.raises(ProcessError, match=r"^exit status 3$"):
        processes.run(["-c", "raise SystemExit(3)"])


def test_an_interrupt_ends_the_process(monkeypatch):
    started = []
    popen = processes.subprocess.Popen

    class Interrupted(popen):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            started.append(self)
            self.stdout.close()
            self.stdout = self

        def __iter__(self):
            raise KeyboardInterrupt

        def close(self):
            pass

    monkeypatch.setattr(cores, "distance", lambda: None)  # it starts a process, too
    monkeypatch.setattr(processes.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        processes.run(["-c", "import time; time.sleep(1000)"])
    assert started[0].returncode is not None


def test_the_larger_distance_of_the_cores_counts(monkeypatch):
    measured = [200.0, 460.0, 460.0, 200.0]
    monkeypatch.setattr(cores, "distance", lambda: measured.pop(0))
    for _ in range(2):
        assert processes.run(["-c", ""]).conditions.core_distance_ns == 460
    monkeypatch.setattr(cores, "distance", lambda: None)
    assert processes.run(["-c", ""]).conditions.core_distance_ns is None


def test_without_what_only_some_systems_have_the_conditions_are_unknown(monkeypatch):
    monkeypatch.delattr(os, "wait4", raising=False)
    monkeypatch.delattr(os, "getloadavg", raising=False)
    finished = processes.run(["-c", "print(1)"])
    assert finished.peak_memory_mib is None
    assert finished.conditions[:3] == (None, None, None)
    with pytest.raises(ProcessError):
        processes.run(["-c", "raise SystemExit(3)"])


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="no priorities")
def test_a_busy_process_is_there_at_the_lowest_priority_and_gone_after(monkeypatch):
    started = []
    popen = processes.subprocess.Popen

    def keep(*arguments, **named):
        started.append(popen(*arguments, **named))
        return started[-1]

    monkeypatch.setattr(processes.subprocess, "Popen", keep)
    with processes.busy_beside(False):
        assert started == []
    with processes.busy_beside(True):
        while os.getpriority(os.PRIO_PROCESS, started[0].pid) != 19:
            assert started[0].poll() is None
    assert started[0].returncode is not None


def test_options_of_the_data_are_passed_on():
    assert processes.data_words(None, None) == []
    words = processes.data_words(Path("a b"), Path("c"))
    assert words == ["--data-dir", "a b", "--mirror", "c"]


# The timed programs.


@pytest.fixture
def data(synthetic, monkeypatch):
    """The programs read the synthetic split instead of MNIST."""
    monkeypatch.setattr(program, "load_mnist", lambda *_: synthetic)
    return synthetic


def test_our_program_trains_and_prints_json(data, capsys):
    words = ["--placement", "none", "--epochs", "2", "--examples", "100", "--seeds", "2"]
    assert jax_program.main([*words, "--json", "-"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert [run["seed"] for run in result["runs"]] == [0, 1]
    rows = [row for run in result["runs"] for row in run["epochs"]]
    assert [row["epoch"] for row in rows] == [1, 2, 1, 2]
    for row in rows:
        assert np.isfinite(row["train_loss"]) and np.isfinite(row["test_loss"])
        assert 0 <= row["test_accuracy_percent"] <= 100
        assert row["seconds"] > 0 and row["evaluation_seconds"] > 0 and row["cpu_seconds"] > 0
    assert result["compile_seconds"] > 0 and result["matrix_product_gflops"] > 0
    assert result["conditions"]["devices"][0].startswith(jax.default_backend())


def test_our_program_trains_as_a_run_does(data, capsys):
    assert jax_program.main(["--placement", "none", "--epochs", "2", "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)["runs"][0]["epochs"]
    model = settings.model_of(settings.REPORT, "none")
    tx = settings.sgd(settings.REPORT.learning_rate, settings.REPORT.momentum)
    init_key, order_key = settings.keys_of(0)
    programs = train.compiled(model, tx)
    state = programs.init_state(init_key)
    for row, epoch in zip(
        rows, train.fit(programs, state, *data, order_key, epochs=2), strict=True
    ):
        assert row["train_loss"] == epoch.train.mean_loss
        assert row["test_loss"] == epoch.test.metrics.mean_loss


def test_lines_are_the_reports_and_json_goes_to_a_file(data, tmp_path, capsys):
    file = tmp_path / "result.json"
    words = ["--placement", "none", "--epochs", "1", "--examples", "64", "--json", str(file)]
    assert jax_program.main(words) == 0
    row = files.read_json(file)["runs"][0]["epochs"][0]
    assert capsys.readouterr().out == terminal.epoch_line(row) + "\n"
    assert whole_run.EPOCH.fullmatch(terminal.epoch_line(row))


def test_held_out_images_are_evaluated_and_not_trained_on():
    images = np.arange(10, dtype=np.uint8)
    train_split, test_split = Split(images, images), Split(images + 100, images + 100)
    divided = program.divided(train_split, test_split, examples=None, held_out=0)
    assert divided[0].labels.tolist() == list(range(10)) and divided[1] is test_split
    divided = program.divided(train_split, test_split, examples=4, held_out=3)
    assert divided[0].labels.tolist() == divided[0].images.tolist() == [0, 1, 2, 3]
    assert divided[1].labels.tolist() == divided[1].images.tolist() == [7, 8, 9]


def test_a_cycle_rises_for_three_tenths_of_the_steps_and_falls_to_nothing(schedules):
    rates = jax.vmap(settings.one_cycle(0.1, 1000))(jnp.arange(1001))
    assert rates.argmax() == 300
    ends = np.asarray(rates)[[0, 300, 1000]]
    np.testing.assert_allclose(ends, [0.1 / 25, 0.1, 0.1 / 25e4], rtol=1e-4)
    assert (np.diff(rates[:301]) >= 0).all() and (np.diff(rates[300:]) <= 0).all()


def test_pytorchs_program_has_the_rates_of_ours(schedules):
    rate = settings.one_cycle(0.1, 50)
    expected = [rate(step) for step in range(51)]
    np.testing.assert_allclose(torch_program.every_rate(0.1, 50), expected, rtol=1e-6)


def test_a_schedule_and_nesterov_change_what_is_learned(data, capsys, schedules):
    losses = []
    cycle = ["--schedule", "one_cycle"]
    for words in ([], ["--learning-rate", "0.1"], ["--nesterov"], cycle):
        assert (
            jax_program.main(["--placement", "none", "--epochs", "2", *words, "--json", "-"]) == 0
        )
        rows = json.loads(capsys.readouterr().out)["runs"][0]["epochs"]
        losses.append(rows[-1]["train_loss"])
    assert len(set(losses)) == 4


def test_without_pytorch_its_program_says_what_to_install(data, monkeypatch, capsys):
    monkeypatch.setattr(torch_program.importlib.util, "find_spec", lambda name: None)
    assert torch_program.main([]) == 2
    assert "pip install -e '.[torch]'" in capsys.readouterr().err


def test_the_clock_divides_an_epoch_into_its_parts(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(program.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(program.time, "process_time", itertools.count(0, 5).__next__)
    calls = []

    class Sums:
        mean_loss, accuracy_percent = 0.5, 90.0

    def record(name, result):
        def call(*arguments):
            calls.append((name, *arguments))
            return result

        return call

    side = program.Side(
        start=record("start", "state0"),
        train_epoch=record("train", ("state1", Sums)),
        recalibrate=record("recalibrate", "state2"),
        evaluate=record("evaluate", Sums),
        multiply=record("multiply", None),
        threads=2,
        compile_seconds=1.0,
        versions={},
    )
    (row,) = program.timed(side, 7, 1, recalibrated=True)
    assert calls == [
        ("start", 7),
        ("train", "state0", 1),
        ("recalibrate", "state1"),
        ("evaluate", "state2"),
    ]
    parts = "seconds", "recalibration_seconds", "evaluation_seconds", "cpu_seconds"
    assert [row[part] for part in parts] == [1, 1, 1, 5]
    calls.clear()
    list(program.timed(side, 7, 1, recalibrated=False))
    assert calls[-1] == ("evaluate", "state1")


def test_a_product_of_two_matrices_of_1024_is_2_times_1024_to_the_third_operations(monkeypatch):
    """A multiplication and an addition for each of the 1024 terms of each of 1024² numbers."""
    monkeypatch.setattr(program.time, "perf_counter", itertools.count(0, 4).__next__)
    asked = []
    gflops = program.matrix_product_gflops(lambda *size_and_number: asked.append(size_and_number))
    assert asked == [(1024, 1), (1024, 20)]  # the first one is not timed
    assert gflops == pytest.approx(20 * 2 * 1024**3 / 4 / 1e9)


# epoch_time.


def row(program: str, placement: str, threads: int, seconds: list[float], **other) -> dict:
    count = len(seconds)
    each = {
        "warm_up_seconds": 0.1,
        "compile_seconds": 1.0,
        "evaluation_seconds": 0.05,
        "cpus": 1.9,
        "matrix_product_gflops": 100.0,
        "peak_memory_mib": 400.0,
        "threads_used": 2,
        "load_average": 0.5,
        "other_cpus": 0.1,
        "stolen_cpus": 0.0,
        "core_distance_ns": 200.0,
    }
    assert {"epoch_seconds", *each} == set(epoch_time.EACH)
    named = {"program": program, "placement": placement, "threads": threads}
    lists = {name: [value] * count for name, value in each.items()}
    return named | {"epoch_seconds": seconds} | lists | other


TIMING = {
    "conditions": HERE | {"repeats": 3, "epochs": 3, "seed": 0, "beside_busy": False},
    "rows": [
        row("mnist_jax", "before_fc1", 1, [2.0, 2.0, 2.0]),
        row("mnist_jax", "before_fc1", 2, [1.0, 1.0, 1.1]),
        row("pytorch eager", "before_fc1", 1, [4.5, 4.5, 4.5]),
        row("pytorch eager", "before_fc1", 2, [4.0, 3.0, 4.4], compile_seconds=[None] * 3),
        row("pytorch compile", "before_fc1", 2, [3.0, 3.0, 3.3]),
        row("pytorch dataloader", "before_fc1", 2, [9.0, 8.0, 9.9]),
        row("mnist_jax", "after_fc1", 2, [1.5, 1.5, 1.65]),
    ],
}
BEFORE = [row for row in TIMING["rows"] if row["placement"] == "before_fc1"]


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr(cores, "count", lambda: 2)


def test_ratios_are_of_medians_and_of_pairs():
    _, ours, _, eager, *_ = TIMING["rows"]
    assert epoch_time.ratio(eager, ours) == 4
    assert epoch_time.in_pairs(eager, ours) == "in pairs 3.00 to 4.00"


def test_the_summary_names_the_fastest_peer(two_threads):
    lines = list(epoch_time.summary_lines(BEFORE))
    assert lines[0].startswith(
        "mnist_jax on 2 threads: 1.00 s, evaluation 0.050 s, peak memory 400"
    )
    assert lines[1] == "2 threads take 0.50 of one thread's time, the slowest process 0.55"
    assert "3.00 times as fast as the fastest PyTorch, pytorch compile on 2 threads" in lines[2]
    assert "9.00 times as fast as pytorch dataloader on 2 threads" in lines[3]
    assert list(epoch_time.same_time_lines(TIMING["rows"])) == [
        "after_fc1 / before_fc1, mnist_jax on 2 threads: 1.50 (in pairs 1.50 to 1.50)"
    ]


def test_the_summary_tells_what_the_choice_of_threads_comes_to(two_threads):
    chosen = row("mnist_jax as run", "before_fc1", 2, [1.0, 1.5, 2.1])
    lines = list(epoch_time.summary_lines([*BEFORE, chosen]))
    what = "as many as a run chooses take 0.75 of one thread's time, the slowest process 1.05"
    assert lines[2] == what
    assert "3.00 times as fast as the fastest PyTorch, pytorch compile" in lines[3]


def test_times_with_distant_cores_are_told_apart():
    moved = row("mnist_jax", "none", 2, [0.5, 1.0, 0.6, 1.2], core_distance_ns=[200, 351, 349, 350])
    stayed = row("pytorch eager", "none", 2, [2.0, 2.0], core_distance_ns=[460, None])
    alone = row("mnist_jax", "none", 1, [0.8, 0.8], core_distance_ns=[200, 460])
    assert list(epoch_time.distance_lines([moved, stayed, alone])) == [
        "mnist_jax, none: 0.55 s in 2 processes with near cores, 1.10 s in 2 with distant ones "
        "(350 ns and more), +100%"
    ]
    assert list(epoch_time.distance_lines(TIMING["rows"])) == []
    unknown = row("mnist_jax", "none", 2, [0.5], core_distance_ns=[None])
    assert list(epoch_time.distance_lines([unknown])) == []


def test_the_fastest_peer_may_have_another_number_of_threads(two_threads):
    slow = row("pytorch compile", "before_fc1", 2, [6.0, 6.0, 6.0])
    rows = [slow if other["program"] == slow["program"] else other for other in BEFORE]
    rows[2]["epoch_seconds"], before = [2.5] * 3, rows[2]["epoch_seconds"]
    try:
        assert any("pytorch eager on 1 threads" in line for line in epoch_time.summary_lines(rows))
    finally:
        rows[2]["epoch_seconds"] = before


def test_tables_are_whole_on_a_narrow_terminal(two_threads, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    epoch_time.show(TIMING, terminal.console())
    printed = capsys.readouterr().out
    assert "…" not in printed
    lines = [line for line in printed.splitlines() if line.strip().startswith("pytorch eager")]
    assert len(lines) == 2
    cells = "2 4.00 3.00 to 4.40 4.00 0.1 1.90 0.10"
    assert " ".join(lines[1].split()) == f"pytorch eager {cells}"
    assert max(len(line) for line in printed.splitlines() if "  " in line.strip()) <= 100


def test_conditions_say_what_the_machine_did():
    lines = list(epoch_time.conditions_lines(TIMING))
    assert any("load average before a process: median 0.50" in line for line in lines)
    assert any("CPUs that others kept busy: median 0.10" in line for line in lines)
    assert not any("busy process" in line for line in lines)
    busy = TIMING | {"conditions": TIMING["conditions"] | {"beside_busy": True}}
    assert any("beside one busy process at nice 19" in x for x in epoch_time.conditions_lines(busy))


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        # conv1 twice, everything else three times; on one pixel only centre taps.
        ("none", 2 * 86_400 + 3 * (153_600 + 30_720 + 10_080 + 840)),
        ("before_fc1", 2 * 86_400 + 3 * (153_600 + 30_720 + 10_080 + 840 + 2 * 36_864)),
        ("after_fc1", 2 * 86_400 + 3 * (153_600 + 30_720 + 10_080 + 840 + 2 * 120**2)),
    ],
)
def test_multiply_adds_of_training(placement, expected):
    assert epoch_time.training_multiply_adds(placement) == expected


def test_share_of_the_arithmetic_limit():
    one = row("mnist_jax", "none", 2, [1.0])
    operations = 2 * 60_000 * epoch_time.training_multiply_adds("none")
    assert epoch_time.arithmetic_share(one) == pytest.approx(operations / 100e9)


def found(torch: bool, platform: str, monkeypatch) -> list[epoch_time.Program]:
    spec = object() if torch else None
    monkeypatch.setattr(epoch_time.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(processes, "platform", lambda: platform)
    monkeypatch.setattr(cores, "can_choose", lambda: True)
    monkeypatch.setattr(cores, "count", lambda: 2)
    variants = typing.get_args(torch_program.Variant)
    return epoch_time.programs(PLACEMENTS, variants, ["--epochs", "4"], terminal.console())


def test_before_and_after_run_next_to_each_other(monkeypatch):
    programs = found(True, "cpu", monkeypatch)
    order = processes.in_random_order(programs, 5, 0, together=epoch_time._pair_of)
    pairs = 0
    for (_, one), (_, other) in itertools.pairwise(order):
        both = {one.placement, other.placement} == {"before_fc1", "after_fc1"}
        pairs += both and (one.name, one.threads) == (other.name, other.threads)
    assert pairs == 5 * len(programs) / 3


def test_a_variant_can_be_timed_alone(monkeypatch):
    found(True, "cpu", monkeypatch)
    programs = epoch_time.programs(("none",), ("eager",), [], terminal.console())
    assert {each.name for each in programs} == {*OURS, "pytorch eager"}


def test_programs_are_those_of_both_sides_on_one_core_and_on_all(monkeypatch, capsys):
    programs = found(True, "cpu", monkeypatch)
    assert capsys.readouterr().out == ""
    assert len(set(programs)) == len(programs) == 3 * (2 + 1 + 3 * 2 + 1)
    for each in programs:
        assert each.command[-2:] == ("--epochs", "4")
        words = " ".join(each.command)
        assert f"--placement {each.placement} --threads {each.threads}" in words
        assert ("torch_program" in words) == each.name.startswith("pytorch")
        assert ("--choose-threads" in words) == (each.name == epoch_time.AS_RUN)
    loops = [each for each in programs if each.name == epoch_time.LOOP]
    assert {each.threads for each in loops} == {2}


@pytest.mark.parametrize(
    ("torch", "platform", "says"),
    [(False, "cpu", "pip install -e '.[torch]'"), (True, "gpu", "does not compute on the CPU")],
)
def test_ours_may_be_timed_alone(torch, platform, says, monkeypatch, capsys):
    programs = found(torch, platform, monkeypatch)
    assert {each.name for each in programs} == (OURS if platform == "cpu" else {"mnist_jax"})
    assert {each.threads for each in programs} == ({1, 2} if platform == "cpu" else {2})
    assert says in capsys.readouterr().out


def result_of(seconds: list[float]) -> dict:
    epochs = [
        {"seconds": s, "cpu_seconds": 1.5 * s, "evaluation_seconds": 0.1 * s} for s in seconds
    ]
    return {
        "conditions": HERE,
        "compile_seconds": 2.0,
        "matrix_product_gflops": 100.0,
        "runs": [{"seed": 0, "epochs": epochs}],
    }


def test_a_process_is_the_median_of_its_epochs_but_the_first():
    values = epoch_time.values_of(result_of([9.0, 1.0, 2.0, 4.0]), Finished([], 30.0, 500.0, QUIET))
    assert values["epoch_seconds"] == 2 and values["warm_up_seconds"] == 7
    assert values["cpus"] == 1.5 and values["evaluation_seconds"] == pytest.approx(0.2)
    assert values["load_average"] == 0.5 and values["other_cpus"] == 0.1
    assert values["threads_used"] == 2
    assert set(values) == set(epoch_time.EACH)


def test_every_program_runs_in_each_round_and_one_that_fails_is_left_out(
    monkeypatch, capsys, two_threads
):
    programs = [epoch_time.Program(name, "none", 2, (name,)) for name in ("a", "b", "c")]
    ran = []

    def answer(command):
        ran.append(command[0])
        if command == ("b",) and ran.count("b") == 2:
            raise ProcessError("no compiler")
        return result_of([2.0, 1.0]), Finished([], 3.0, None, QUIET)

    monkeypatch.setattr(processes, "run_for_json", answer)
    *before, timing = epoch_time.measure(programs, 4, 0, terminal.console())
    assert [each["conditions"]["repeats"] for each in (*before, timing)] == [1, 2, 3, 4]
    assert [len(each["conditions"]["order"]) for each in before] == [3, 6, 9]
    assert Counter(ran) == {"a": 4, "b": 2, "c": 4}
    assert [row["program"] for row in timing["rows"]] == ["a", "c"]
    for measured in timing["rows"]:
        assert {len(measured[name]) for name in epoch_time.EACH} == {4}
    assert len(timing["conditions"]["order"]) == 12
    assert timing["conditions"]["order"] != sorted(timing["conditions"]["order"])
    assert json.loads(json.dumps(timing)) == timing
    assert "b, none, 2 threads is left out: no compiler" in capsys.readouterr().out


def test_nothing_timed_is_a_failure(monkeypatch, capsys, tmp_path):
    def fail(command):
        raise ProcessError("no memory")

    monkeypatch.setattr(processes, "run_for_json", fail)
    monkeypatch.setattr(processes, "platform", lambda: "cpu")
    file = tmp_path / "x.json"
    assert epoch_time.main(["--placement", "none", "--repeats", "1", "--json", str(file)]) == 1
    assert capsys.readouterr().err == "error: nothing could be timed\n"
    assert not file.exists()


@pytest.mark.parametrize("busy", [False, True])
def test_what_was_measured_is_written_with_what_was_asked(busy, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(processes, "platform", lambda: "cpu")
    beside = []
    monkeypatch.setattr(
        processes, "run_for_json", lambda _: (result_of([2.0, 1.0]), Finished([], 3.0, 1.0, QUIET))
    )
    before = processes.busy_beside
    monkeypatch.setattr(processes, "busy_beside", lambda w: beside.append(w) or before(False))
    file = tmp_path / "x.json"
    words = ["--placement", "none", "--repeats", "2", "--json", str(file), "--seed", "5"]
    assert epoch_time.main([*words, *(["--beside-busy"] if busy else [])]) == 0
    timing = files.read_json(file)
    conditions = timing["conditions"]
    assert (conditions["repeats"], conditions["epochs"], conditions["seed"]) == (2, 3, 5)
    assert conditions["beside_busy"] is busy and beside == [busy]
    assert all(row["epoch_seconds"] == [1.0, 1.0] for row in timing["rows"])
    assert all(row["core_distance_ns"] == [200.0, 200.0] for row in timing["rows"])


# whole_run.


def lines_of(*epochs: tuple[float, float]) -> list[tuple[float, str]]:
    lines = [(0.5, "network: LeNet, block none, 44,426 parameters")]
    for number, (at, seconds) in enumerate(epochs, 1):
        epoch = {"epoch": number, "seconds": seconds}
        names = ("train_loss", "train_accuracy_percent", "test_loss", "test_accuracy_percent")
        lines.append((at, terminal.epoch_line(epoch | dict.fromkeys(names, 1.0))))
    return [*lines, (9.0, "written: runs/x")]


def test_a_run_is_divided_at_its_lines():
    finished = Finished(lines_of((3.0, 1.5), (4.0, 1.0)), 10.0, 500.0, QUIET)
    ours = whole_run.Program(whole_run.COLD, "none", ())
    values = whole_run.values_of(ours, finished)
    assert values["seconds"] == 10 and values["first_line_seconds"] == 3
    assert values["besides_epochs_seconds"] == 7.5
    theirs = whole_run.values_of(whole_run.Program("pytorch eager", "none", ()), finished)
    assert theirs["besides_epochs_seconds"] is None
    imports = Finished([(0.9, "0.75")], 1.0, None, QUIET)
    program_ = whole_run.Program(whole_run.IMPORTS, None, ())
    assert whole_run.values_of(program_, imports) == {"seconds": 0.75}


def test_cold_runs_have_an_empty_cache_each_and_cached_ones_a_filled_one(
    monkeypatch, tmp_path, capsys
):
    programs = whole_run.programs(("none",), ("eager",), ("--mirror", "m"))
    order = processes.in_random_order(programs, 3, 0)
    caches: dict[str, list[str]] = {}
    filled = []

    def run(command):
        if command[0] == "-c":
            return Finished([(0.1, "0.5")], 0.2, None, QUIET)
        assert command[-2:] == ("--epochs", "10") or "experiments.run" in command
        assert "--mirror m" in " ".join(command)
        if "experiments.run" in command:
            cache = command[command.index("--compile-cache") + 1]
            if command[-2:] == ("--epochs", "1"):
                filled.append(cache)
            else:
                caches.setdefault(cache, []).append(cache)
        return Finished(lines_of((3.0, 1.5)), 10.0, 500.0, QUIET)

    monkeypatch.setattr(processes, "run", run)
    *_, rows = whole_run.measure(order, tmp_path, terminal.console())
    (cache,) = filled
    assert sorted(map(len, caches.values())) == [1, 1, 1, 3]
    assert len(caches[cache]) == 3
    assert {program.name: len(row["seconds"]) for program, row in rows.items()} == {
        "cold": 3,
        "cached": 3,
        "pytorch eager": 3,
        "imports": 3,
    }


def test_pytorch_is_charged_no_imports_of_ours(capsys):
    each = {
        "besides_epochs_seconds": [4.0],
        "first_line_seconds": [3.0],
        "peak_memory_mib": [500.0],
    }
    rows = [
        {"program": "cold", "placement": "none", "seconds": [10.0], **each},
        {"program": "pytorch eager", "placement": "none", "seconds": [31.0], **each},
        {"program": "pytorch compile", "placement": "none", "seconds": [41.0], **each},
        {"program": "imports", "placement": None, "seconds": [1.0]},
    ]
    terminal.print_table(terminal.console(), whole_run.table(rows))
    printed = capsys.readouterr().out
    (cold,) = [line for line in printed.splitlines() if " cold " in line]
    assert cold.split()[-1] == "3.00"
    (eager,) = [line for line in printed.splitlines() if " eager " in line]
    assert "30.0" in eager
    assert "imports" not in printed


def test_a_run_that_fails_ends_the_measurement(monkeypatch, capsys):
    def fail(command):
        raise ProcessError("error: no space left")

    monkeypatch.setattr(processes, "run", fail)
    assert whole_run.main(["--placement", "none", "--repeats", "1"]) == 1
    assert "no space left" in capsys.readouterr().err


# time_to_accuracy.


def runs_of(accuracies: list[float], seconds: float) -> list[dict]:
    rows = [
        {"seconds": seconds, "recalibration_seconds": 100.0, "test_accuracy_percent": 10.0},
        {"seconds": seconds, "recalibration_seconds": 0.5},
    ]
    return [
        {"epochs": [rows[0], rows[1] | {"test_accuracy_percent": accuracy}]}
        for accuracy in accuracies
    ]


def test_a_training_is_its_last_accuracy_and_all_its_seconds():
    values = time_to_accuracy.values_of(runs_of([98.0, 99.0], 2.0))
    assert values == {"accuracy_percent": [98.0, 99.0], "seconds": [4.5, 4.5]}


def test_the_interval_is_students():
    mean, margin = time_to_accuracy.mean_and_margin([1.0, 2.0, 3.0])
    assert mean == 2
    assert margin == pytest.approx(4.302653 * 1 / 3**0.5)  # t of 0.975 and two degrees of freedom


def test_seeds_are_divided_over_processes():
    training = time_to_accuracy.Training("mnist_jax", "before_fc1", 2, 0.1, True)
    parts = time_to_accuracy.divided(training, 25)
    assert [(part.seed, part.seeds) for part in parts] == [(0, 10), (10, 10), (20, 5)]
    words = " ".join(time_to_accuracy.command(parts[2]))
    assert words == (
        "-m benchmarks.jax_program --placement before_fc1 --epochs 2 --schedule one_cycle "
        "--peak-learning-rate 0.1 --seed 20 --seeds 5 --nesterov"
    )
    theirs = training._replace(program="pytorch channels_last", nesterov=False)
    words = " ".join(time_to_accuracy.command(time_to_accuracy.Process(theirs, 0, 10)))
    assert words.startswith("-m benchmarks.torch_program --variant channels_last ")
    assert "--nesterov" not in words


def trained(**values) -> dict:
    training = time_to_accuracy.Training("mnist_jax", "before_fc1", 2, 0.05, False)
    lists = {"accuracy_percent": [98.7, 98.8], "seconds": [3.0, 3.2]}
    return training._asdict() | lists | values


def test_the_targets_are_the_reports():
    assert time_to_accuracy.TARGETS == {"before_fc1": 98.71, "after_fc1": 98.79}


def test_the_smallest_number_of_epochs_that_reaches_the_report_counts():
    rows = [
        trained(epochs=1, accuracy_percent=[98.6, 98.8]),  # 98.70
        trained(epochs=3, accuracy_percent=[98.9, 98.9]),
        trained(epochs=2, accuracy_percent=[98.70, 98.72]),  # 98.71
        trained(program="pytorch eager", epochs=1, accuracy_percent=[98.0, 98.1]),
    ]
    assert [time_to_accuracy.reached(row) for row in rows] == [False, True, True, False]
    ours, theirs = time_to_accuracy.summary_lines(rows)
    assert ours.startswith("before_fc1, mnist_jax: 98.71 % is reached after 2 epochs, in 3.10 ± ")
    assert ours.endswith("seconds (n = 2)")
    assert theirs == "before_fc1, pytorch eager: 98.71 % is not reached in 1 epochs"


@pytest.mark.parametrize("choose", [False, True])
def test_trainings_are_measured_in_random_order_and_written(choose, monkeypatch, tmp_path, capsys):
    commands = []

    def answer(command):
        commands.append(" ".join(command))
        seeds = int(command[command.index("--seeds") + 1])
        rate = float(command[command.index("--peak-learning-rate") + 1])
        runs = runs_of([98.0 + rate + 0.01 * k for k in range(seeds)], 1.0)
        result = {"conditions": HERE, "runs": runs}
        return result, Finished([], 3.0, 1.0, QUIET)

    monkeypatch.setattr(processes, "run_for_json", answer)
    monkeypatch.setattr(time_to_accuracy.importlib.util, "find_spec", lambda name: object())
    file = tmp_path / "x.json"
    words = ["--epochs", "1", "2", "--seeds", "12", "--torch-seeds", "3", "--json", str(file)]
    words += ["--peak-learning-rates", "0.1", "0.3", "--statistics", "recalibrated"]
    assert time_to_accuracy.main([*words, *(["--choose"] if choose else [])]) == 0
    rows = files.read_json(file)["rows"]
    printed = capsys.readouterr().out
    assert all("--statistics recalibrated" in command for command in commands)
    assert all(("--held-out 10000" in command) == choose for command in commands)
    if choose:
        assert len(rows) == 2 * 2 * 2 * 2 and {row["program"] for row in rows} == {"mnist_jax"}
        table = printed[printed.index("Block before_fc1, 1 epochs") :].split("Block")[1]
        rates = [line.split()[0] for line in table.splitlines() if " 12 " in line]
        assert rates == ["0.3", "0.3", "0.1", "0.1"]
    else:
        assert len(rows) == 2 * 2 * 2
        assert {len(row["seconds"]) for row in rows} == {12, 3}
        assert "is not reached in 2 epochs" in printed
    # Each seed has its own value, in the order of the seeds, whichever process came first.
    ours = [row for row in rows if row["program"] == "mnist_jax"]
    for row in ours:
        assert len(row["load_average"]) == len(row["accuracy_percent"]) == 12
        first, second = row["accuracy_percent"][:10], row["accuracy_percent"][10:]
        assert first == sorted(first) and second == first[:2]
    assert commands != sorted(commands)


def test_a_failure_ends_the_measurement_and_what_was_measured_is_there(
    monkeypatch, capsys, tmp_path
):
    answers = [({"conditions": HERE, "runs": runs_of([98.0, 98.5], 1.0)}, QUIET)] * 3

    def answer(command):
        if not answers:
            raise ProcessError("error: no memory")
        result, conditions = answers.pop()
        return result, Finished([], 3.0, 1.0, conditions)

    monkeypatch.setattr(processes, "run_for_json", answer)
    file = tmp_path / "x.json"
    words = ["--choose", "--epochs", "1", "--seeds", "2", "--json", str(file)]
    assert time_to_accuracy.main(words) == 1
    assert "no memory" in capsys.readouterr().err
    assert [row["accuracy_percent"] for row in files.read_json(file)["rows"]] == 3 * [[98.0, 98.5]]


# scaling and kernels.


def test_scaling_has_a_cell_for_each_setting():
    seconds = {setting: [1.0] for setting in scaling.settings([1, 2])}
    by_batch, by_examples = scaling.tables(seconds)
    assert by_batch.row_count == len(scaling.BATCH_SIZES)
    assert by_examples.row_count == len(scaling.EXAMPLES)


def test_scaling_passes_its_settings_on(monkeypatch):
    commands = []

    def answer(command):
        commands.append(command)
        return result_of([3.0, 1.0, 2.0]), Finished([], 3.0, 1.0, QUIET)

    monkeypatch.setattr(processes, "run_for_json", answer)
    conditions, values = scaling.measure(scaling.Setting(32, 3_750, 1), ["--placement", "none"])
    assert values["epoch_seconds"] == 1.5 and values["load_average"] == 0.5
    assert conditions == HERE
    words = "-m benchmarks.jax_program --placement none --batch-size=32 --examples=3750 --threads=1"
    assert commands == [tuple(words.split())]


def test_a_loop_of_a_kernel_changes_its_inputs_by_nothing_that_counts():
    def double(x, y):
        return x * 2 + y

    x, y = jnp.ones((2, 3)), jnp.ones((2, 3))
    after, _ = kernels._loop(double, jnp.int32(5), x, y)
    np.testing.assert_allclose(after, (x, y), rtol=1e-6)


def test_every_kernel_is_timed_in_both_forms():
    # A loop over less than a kilobyte or two compiles another way, which in jaxlib 0.12 knows no
    # barriers; hence 16 images.
    rows = list(kernels.measure(batch_size=16, repeats=1, seconds=1e-4))
    assert [row["kernel"] for row in rows[::2]] == [kernel.name for kernel in kernels.KERNELS]
    assert all(row["fast"][0] > 0 and row["reference"][0] > 0 for row in rows)
    assert all(len(row["load_average"]) == 1 for row in rows)
    assert kernels.table(rows).row_count == len(rows)
