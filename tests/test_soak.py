"""A few cases of each test of soak.py."""

import numpy as np
import pytest

from tests import soak


@pytest.mark.parametrize(("name", "cases"), [("damage", 60), ("full_disk", 2)])
def test_nothing_is_lost_or_taken_for_good(name, cases, tmp_path):
    soak.TESTS[name](cases, np.random.default_rng(0), tmp_path)


@pytest.mark.parametrize("work", [soak.a_run(12), soak.a_study(2)], ids=lambda work: work.name)
def test_what_is_killed_is_continued_to_the_same_bytes(work, tmp_path):
    whole, seconds = soak.unbroken(work, tmp_path)
    assert soak.killed(work, tmp_path, whole, iter([0.8 * seconds])) <= 1
