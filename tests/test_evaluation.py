"""The three ways of evaluation, as a run uses one of them."""

from types import SimpleNamespace
from typing import Any

import pytest

from experiments.groundwork import evaluation
from mnist_jax import train
from mnist_jax.train import Programs, TrainState

TRAIN, TEST, OTHER = "training split", "test split", "another split"


@pytest.fixture
def asked() -> list[Any]:
    """What the programs of `programs` were called with."""
    return []


@pytest.fixture
def programs(asked) -> Programs:
    """Programs that note their arguments and compute nothing."""

    def noting(name: str) -> Any:
        def program(variables: Any, split: Any) -> Any:
            asked.append((name, variables["params"], split))
            return {**variables, "batch_stats": f"by {name}"}

        return program

    names = ("evaluate", "evaluate_batch", "recalibrate")
    return Programs(None, None, **{name: noting(name) for name in names})


def test_running_statistics_need_nothing_else(programs):
    way = evaluation.in_one_way(programs, "running", lambda: pytest.fail("not needed"))
    assert way == (programs, train.variables_of)


def test_statistics_of_test_batches_are_those_of_the_split_in_file_order(programs, asked):
    """Predictions, which know no test batches, use the running statistics."""
    way = evaluation.in_one_way(programs, "batch", lambda: (TRAIN, TEST))
    state = TrainState("weights", "running", None)
    way.programs.evaluate(train.variables_of(state), OTHER)
    assert asked == [("evaluate_batch", "weights", TEST)]
    assert way.variables_of(state) == {"params": "weights", "batch_stats": "running"}


def test_an_epoch_is_recalibrated_once(programs, asked):
    """Although its evaluation and its file of weights both need it."""
    way = evaluation.in_one_way(programs, "recalibrated", lambda: (TRAIN, TEST))
    one, two = (TrainState(SimpleNamespace(), "running", None) for _ in range(2))
    for state in (one, two):
        way.programs.evaluate(train.variables_of(state), OTHER)
        for _ in range(2):
            expected = {"params": state.params, "batch_stats": "by recalibrate"}
            assert way.variables_of(state) == expected
    assert asked == [
        (name, state.params, split)
        for state in (one, two)
        for name, split in (("recalibrate", TRAIN), ("evaluate", TEST))
    ]
