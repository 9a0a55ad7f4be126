"""Cores: how far apart they lie, and how many threads a run starts for that."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import core_distance
from experiments import run
from experiments.groundwork import cores, files, terminal
from experiments.groundwork.cores import far_apart
from experiments.groundwork.published import METRICS

ROOT = Path(__file__).parents[1]
two_cores = pytest.mark.skipif(
    not cores.can_choose() or cores.count() < 2, reason="there is one core, or none can be chosen"
)


@two_cores
def test_a_byte_goes_to_another_core_and_back(capsys):
    here = os.sched_getaffinity(0)
    assert cores.distance(turns=5) > 0
    assert os.sched_getaffinity(0) == here
    assert core_distance.main(["--turns", "5"]) == 0
    assert capsys.readouterr().out.endswith(" ns from one core to another and back\n")


@two_cores
def test_the_distance_is_the_median_over_the_turns():
    """In a process of its own, as `measure` keeps to a core; the turns take 7, 7 and 900 here."""
    code = """
from experiments.groundwork import cores
answers = iter([7, 7, 900])
turn = cores._turn
cores._turn = lambda byte: (turn(byte), next(answers))[1]
print(cores.measure(3))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "7\n"


def test_one_core_has_no_distance(monkeypatch, capsys):
    monkeypatch.setattr(cores, "count", lambda: 1)
    assert cores.distance() is far_apart() is None
    assert core_distance.main([]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_system_that_cannot_choose_cores_has_no_distance(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cores.distance() is far_apart() is None
    assert cores.count() >= 1
    cores.keep_to(cores.count())  # does nothing where all cores are to be used
    with cores.threads_made(cores.count()):
        pass


@two_cores
@pytest.mark.parametrize("error", [OSError, subprocess.TimeoutExpired("x", 1)])
def test_a_measurement_that_fails_has_no_distance(error, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(cores.subprocess, "run", fail)
    assert cores.distance() is None


@pytest.mark.parametrize(
    ("count", "nanoseconds", "found"),
    [(2, 349.0, None), (2, 350.0, 350.0), (2, None, None), (1, 900.0, None), (3, 900.0, None)],
)
def test_two_cores_are_far_apart_from_350_nanoseconds_on(count, nanoseconds, found, monkeypatch):
    monkeypatch.setattr(cores, "count", lambda: count)
    monkeypatch.setattr(cores, "distance", lambda: nanoseconds)
    assert far_apart() == found


@two_cores
def test_jax_starts_as_many_threads_as_are_asked_for_and_may_use_all_cores_later():
    """The cores of every thread are listed: JAX's are those that its start adds."""
    code = """
import os, sys
from experiments.groundwork import cores
import jax
def masks():
    return sorted(len(os.sched_getaffinity(int(t))) for t in os.listdir("/proc/self/task"))
all_cores, before = cores.count(), len(masks())
with cores.threads_made(int(sys.argv[1])):
    print(cores.count())
    jax.devices()
assert set(masks()) == {all_cores}
print(len(masks()) - before)
"""
    started = {}
    for number in (1, cores.count()):
        command = [sys.executable, "-c", code, str(number)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        inside, started[number] = map(int, done.stdout.split())
        assert inside == number
    assert started[1] < started[cores.count()]


# What a run does with it.


@pytest.fixture
def asked(monkeypatch):
    """The numbers of threads that runs start JAX with; two cores that are far apart."""
    numbers = []

    def record(number):
        numbers.append(number)
        return contextlib.nullcontext()

    row = dict.fromkeys(("epoch", *METRICS, "seconds"), 1)
    monkeypatch.setattr(run, "_try_out", lambda *_: row)  # which would train some steps
    monkeypatch.setattr(cores, "count", lambda: 2)
    monkeypatch.setattr(cores, "can_choose", lambda: True)
    monkeypatch.setattr(cores, "far_apart", lambda: 460.0)
    monkeypatch.setattr(cores, "threads_made", record)
    return numbers


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ([], 1),
        (["--platform", "cpu"], 1),
        (["--threads", "2"], 2),
        (["--threads", "1"], 1),
        (["--devices", "2"], 2),
    ],
)
def test_a_run_starts_one_thread_where_the_cores_are_far_apart(words, number, asked, capsys):
    assert run.main(["--dry-run", "--placement", "none", *words]) == 0
    assert asked == [number]
    line = "one thread, as a byte takes 460 ns between the two cores and back (--threads 2 starts"
    says = not words or "--platform" in words
    assert (line in " ".join(capsys.readouterr().out.split())) == says


def test_a_run_starts_two_threads_where_the_cores_are_near(asked, monkeypatch, capsys):
    monkeypatch.setattr(cores, "far_apart", lambda: None)
    assert run.main(["--dry-run", "--placement", "none"]) == 0
    assert asked == [2]
    assert "one thread" not in capsys.readouterr().out


@pytest.mark.parametrize(("before", "now"), [(1, 1), (2, 2), (8, 2)])
def test_a_continued_run_has_as_many_threads_as_before(before, now, asked, tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "far_apart", lambda: 460.0 if before != 1 else None)
    starts = {"starts": [{"threads": 99}, {"threads": before}]}
    files.write_whole(tmp_path / "manifest.json", files.as_json(starts))
    assert run._worthwhile_threads(tmp_path, terminal.console()) == now
    monkeypatch.setattr(cores, "count", lambda: 6)
    assert run._worthwhile_threads(tmp_path, terminal.console()) == min(before, 6)


def test_more_cores_than_two_are_all_used(asked, monkeypatch):
    monkeypatch.setattr(cores, "count", lambda: 6)
    assert run._worthwhile_threads(None, terminal.console()) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--threads", "0"], "--threads must be from 1 to 2, as many as there are cores: 0"),
        (["--threads", "3"], "--threads must be from 1 to 2, as many as there are cores: 3"),
        (["--threads", "1", "--devices", "2"], "--threads must be at least --devices 2: 1"),
    ],
)
def test_impossible_numbers_of_threads_are_refused(words, message, asked, capsys):
    assert run.main(["--dry-run", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_system_that_cannot_choose_starts_a_thread_for_each_core(asked, monkeypatch, capsys):
    monkeypatch.setattr(cores, "can_choose", lambda: False)
    assert run.main(["--dry-run", "--threads", "1"]) == 2
    assert "cannot keep a core idle" in capsys.readouterr().err
