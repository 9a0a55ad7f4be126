"""A short form of each test of soak.py."""

import os
import shutil
import subprocess
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest

from experiments import compare, run
from experiments.groundwork import options
from tests import soak

WORKS = {"run": soak.a_run("none", epochs=8), "study": soak.a_study("none", "--epochs", "4")}


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def unbroken(cache, tmp_path_factory):
    """Content and seconds of each of the works."""
    return {
        name: soak.unbroken(work, tmp_path_factory.mktemp(name), cache)
        for name, work in WORKS.items()
    }


@pytest.mark.parametrize("work", [soak.a_run("none"), soak.a_study("none"), *soak.ON_SMALL_DISKS])
def test_the_works_of_a_whole_round_are_accepted(work, tmp_path):
    _, _, command, *words = work.begin(tmp_path)
    module = {"run": run, "compare": compare}[command]
    module.check(options.parse(module.Config, list(map(str, words)), name=command, description=""))


@pytest.mark.parametrize("name", WORKS)
def test_what_is_killed_is_continued_to_the_same_bytes(name, unbroken, cache, tmp_path):
    whole, _ = unbroken[name]
    after_the_first_epoch = iter(["accuracy"])
    assert soak.kill_until_done(WORKS[name], tmp_path, cache, whole, after_the_first_epoch) == 1


def test_kills_are_counted_once_and_each_work_has_a_directory_of_its_own(monkeypatch, rng):
    """Where a work ends before it is killed, and where a case fails."""
    outcomes = [0, 2, soak.FailedCaseError("x"), 1]
    directories = []

    def kill_until_done(work, root, cache, whole, moments):
        directories.append(root)
        outcome = outcomes[(len(directories) - 1) % len(outcomes)]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(soak, "unbroken", lambda *_: ({}, 1.0))
    monkeypatch.setattr(soak, "kill_until_done", kill_until_done)
    outcome = soak.kills(12, rng, Path("root"))
    assert len(set(directories)) == len(directories)
    assert (outcome.cases, len(outcome.failures)) == (12, 3)


@pytest.fixture
def said(monkeypatch):
    """What commands say and how they end, in turn, without a process."""
    ended = []
    monkeypatch.setattr(soak, "command", lambda *_, **__: ended.pop(0))
    return ended


@pytest.mark.parametrize(
    ("line", "epoch"),
    [
        ("Epoch 1, train:: loss: 0.2, accuracy: 91%\n", "Epoch 1"),
        ("report/none, seeds 0 to 1, epoch 1/8: test accuracy 91%\n", "report/none, seeds 0 to 1"),
    ],
)
def test_an_epoch_that_is_trained_again_is_found_out(line, epoch, said, tmp_path):
    said += [soak.Ended(-9, line, ""), soak.Ended(0, line, "")]
    with pytest.raises(soak.FailedCaseError, match=f"trained again: .*{epoch}"):
        soak.kill_until_done(WORKS["run"], tmp_path, tmp_path, {}, iter([1.0]))


def test_another_result_is_found_out(said, tmp_path):
    work = WORKS["run"]._replace(content=lambda _: {"weights": b"1", "metrics": b"2"})
    for whole in ({"weights": b"1", "metrics": b"3"}, {"weights": b"1"}):
        said += [soak.Ended(-9, "", ""), soak.Ended(0, "", "")]
        with pytest.raises(soak.FailedCaseError, match=r"different after 1 kills: \['metrics'\]"):
            soak.kill_until_done(work, tmp_path, tmp_path, whole, iter([1.0]))


@pytest.mark.parametrize(
    "ended", [soak.Ended(1, "", "error: x\n"), soak.Ended(2, "", "Traceback\nerror: x\n")]
)
def test_more_than_one_line_is_found_out(ended):
    with pytest.raises(soak.FailedCaseError):
        soak.expect_one_line(ended, "x")


def test_of_two_commands_at_one_study_the_second_is_refused(unbroken, cache, tmp_path):
    """Or both are right, where the first has ended by then."""
    begin = WORKS["study"].begin(tmp_path)
    with ThreadPool(2) as pool:
        ended = pool.map(lambda _: soak.command(*begin, cache=cache), range(2))
    assert WORKS["study"].content(tmp_path) == unbroken["study"][0]
    refused = [one for one in ended if one.status]
    assert len(refused) < 2
    for one in refused:
        soak.expect_one_line(one)


def test_damage_is_found_out(tmp_path, rng):
    outcome = soak.damage(30, rng, tmp_path)
    assert outcome.failures == []
    assert outcome.cases >= 20
    assert int(outcome.seen.split(" refused")[0]) >= 5, outcome.seen


def test_malformed_weights_are_refused(tmp_path, rng):
    """One of each kind."""
    assert soak.malformed(len(soak.MALFORMED), rng, tmp_path).failures == []


@pytest.mark.skipif(
    not shutil.which("mount") or os.getuid() != 0, reason="only root can mount a small disk"
)
def test_a_full_disk_is_one_line_and_then_continued(unbroken, cache, tmp_path):
    work, (whole, _) = WORKS["study"], unbroken["study"]
    try:
        with soak.disk_of(64, tmp_path / "disk") as disk:
            soak.expect_one_line(soak.command(*work.begin(disk / "out"), cache=cache), disk)
            soak.grow(disk)
            soak.kill_until_done(work, disk / "out", cache, whole, iter(()))
    except subprocess.CalledProcessError:
        pytest.skip("a small disk cannot be mounted here")
