"""What the benchmarks compute from times, and that each program runs; nothing here is timed."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from benchmarks import core_distance, epoch_time, jax_program, kernels, scaling
from mnist_jax.model import PLACEMENTS

CONDITIONS = {
    "packages": {"jaxlib": "0.10.2"},
    "cpu": "some processor",
    "threads": 2,
    "devices": ["cpu: cpu"],
    "python": "3.11",
    "xla_flags": "",
    "load": [0.5, 1.5],
    "repeats": 2,
}


def row(program: str, placement: str, threads: int, seconds: list[float], **other) -> dict:
    return {
        "program": program,
        "placement": placement,
        "threads": threads,
        "epoch_seconds": seconds,
        "warm_up_seconds": [0.1],
        "compile_seconds": [],
        "evaluation_seconds": [0.05],
        "matrix_product_gflops": [100.0],
        "peak_memory_mib": [400.0],
        "core_distance_ns": [200.0],
    } | other


TIMING = {
    "conditions": CONDITIONS,
    "rows": [
        row("mnist_jax", "before_fc1", 1, [2.0, 2.0, 2.0]),
        row("mnist_jax", "before_fc1", 2, [1.0, 1.0, 1.1]),
        row("pytorch eager", "before_fc1", 2, [4.0, 3.0, 4.4]),
        row("pytorch compile", "before_fc1", 2, [3.0, 3.0, 3.3]),
        row("pytorch dataloader", "before_fc1", 2, [9.0, 8.0, 9.9]),
        row("mnist_jax", "after_fc1", 2, [1.5, 1.5, 1.65]),
    ],
}


def test_ratios_are_of_medians_and_of_pairs():
    _, ours, eager, *_ = TIMING["rows"]
    assert epoch_time.ratios(eager, ours) == ("4.00", "3.00 to 4.00")


def test_the_summary_names_the_fastest_peer():
    lines = list(epoch_time.summary_lines(TIMING))
    assert lines[0].startswith("before_fc1: mnist_jax 1.00 s, evaluation 0.050 s, peak memory 400")
    assert "3.00 times as fast as the fastest PyTorch, pytorch compile on 2 threads" in lines[1]
    assert "9.00 times as fast as pytorch dataloader on 2 threads" in lines[2]
    assert lines[3].startswith("after_fc1: mnist_jax 1.50 s")
    assert lines[4] == (
        "after_fc1 / before_fc1, mnist_jax on 2 threads: 1.50 (in pairs 1.50 to 1.50)"
    )


def test_the_table_has_a_row_for_each_measurement():
    grid = epoch_time.table(TIMING)
    assert grid.row_count == len(TIMING["rows"])
    assert len(list(epoch_time.conditions_lines(CONDITIONS))) == 3


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


def test_without_pytorch_ours_is_timed_alone(monkeypatch, capsys):
    monkeypatch.setattr(epoch_time.importlib.util, "find_spec", lambda name: None)
    commands = []

    def answer(program, placement, config):
        commands.append(program)
        return {
            "conditions": CONDITIONS,
            "platform": "cpu",
            "epoch_seconds": [1.0, 2.0, 4.0],
            "first_epoch_seconds": 3.0,
            "evaluation_seconds": [1.0, 0.5, 0.5],
            "compile_seconds": 1.0,
            "matrix_product_gflops": 100.0,
            "peak_memory_mib": 400.0,
        }

    monkeypatch.setattr(epoch_time, "_run", answer)
    monkeypatch.setattr(epoch_time, "_core_distance", lambda: 200.0)
    config = epoch_time.Config(repeats=2)
    timing = epoch_time.measure(config, Console(markup=False))
    assert "pip install -e '.[torch]'" in capsys.readouterr().out
    assert {program.name for program in commands} == {"mnist_jax"}
    assert {row["placement"] for row in timing["rows"]} == set(PLACEMENTS)
    for measured in timing["rows"]:
        assert measured["epoch_seconds"] == [2.0, 2.0]
        assert measured["warm_up_seconds"] == [1.0, 1.0]


def test_a_program_that_fails_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(epoch_time, "_run", lambda *_: "no compiler")
    timing = epoch_time.measure(epoch_time.Config(placement="none"), Console())
    assert timing["rows"] == []
    assert "mnist_jax is left out: no compiler" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads stay on no core")
def test_a_byte_goes_to_another_core_and_back():
    here = os.sched_getaffinity(0)
    nanoseconds = core_distance.round_trip_nanoseconds(turns=5)
    assert nanoseconds is None if len(here) < 2 else nanoseconds > 0
    assert os.sched_getaffinity(0) == here


def test_one_core_has_no_distance(monkeypatch, capsys):
    monkeypatch.setattr(core_distance.os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert core_distance.main() == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_our_program_trains_and_prints_json(synthetic, monkeypatch, capsys):
    monkeypatch.setattr(jax_program, "load_mnist", lambda *_: synthetic)
    arguments = ["--placement", "none", "--epochs", "2", "--examples", "100", "--json", "-"]
    assert jax_program.main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["epoch_seconds"]) == 1
    assert len(result["evaluation_seconds"]) == 2
    assert result["platform"] == jax.default_backend()
    assert np.isfinite(result["train_loss"])
    assert 0 <= result["test_accuracy_percent"] <= 100


def test_scaling_has_a_cell_for_each_setting():
    seconds = {setting: [1.0] for setting in scaling.settings()}
    by_batch, by_examples = scaling.tables(seconds)
    assert by_batch.row_count == len(scaling.BATCH_SIZES)
    assert by_examples.row_count == len(scaling.EXAMPLES)


def test_a_loop_of_a_kernel_changes_its_inputs_by_nothing_that_counts():
    def double(x, y):
        return x * 2 + y

    x, y = jnp.ones((2, 3)), jnp.ones((2, 3))
    after, _ = kernels._scan(double, jnp.int32(5), x, y)
    np.testing.assert_allclose(after, (x, y), rtol=1e-6)


def test_every_kernel_is_timed_in_both_forms():
    # A loop over less than a kilobyte or two compiles another way, which in jaxlib 0.12 knows no
    # barriers; hence 16 images.
    config = kernels.Config(batch_size=16, repeats=1, seconds=1e-4)
    rows = list(kernels.measure(config))
    assert [row["kernel"] for row in rows[::2]] == [kernel.name for kernel in kernels.KERNELS]
    assert all(row["fast"][0] > 0 and row["reference"][0] > 0 for row in rows)
