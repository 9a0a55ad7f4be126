"""Compiled programs are code: only this user may write where they lie."""

import os
import stat

import pytest

from experiments.groundwork import compile_cache
from experiments.groundwork.options import UsageError


def test_it_lies_in_the_users_cache_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compile_cache.default_directory() == tmp_path / "mnist_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compile_cache.default_directory() == tmp_path / ".cache" / "mnist_jax"


def test_it_is_made_for_this_user_alone(tmp_path):
    directory = tmp_path / "a" / "cache"
    compile_cache.check(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o702, 0o777])
def test_one_that_others_can_write_is_refused(tmp_path, mode):
    directory = tmp_path / "cache"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(UsageError, match="can be written by other users"):
        compile_cache.check(directory)


def test_one_of_another_user_is_refused(tmp_path, monkeypatch):
    directory = tmp_path / "cache"
    directory.mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: directory.stat().st_uid + 1)
    with pytest.raises(UsageError, match="belongs to another user"):
        compile_cache.check(directory)


def test_a_file_is_refused(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(UsageError, match="compile cache"):
        compile_cache.check(tmp_path / "cache")
    with pytest.raises(UsageError, match="compile cache"):
        compile_cache.check(tmp_path / "cache" / "below")


def test_its_size_is_bounded():
    assert compile_cache.MAX_BYTES == 256 * 2**20


def test_the_users_directory_is_optional_and_one_that_was_asked_for_is_not(monkeypatch, tmp_path):
    (tmp_path / "mnist_jax").write_text("")  # a file where the directory would be
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    line = compile_cache.turn_on()
    assert line and line.startswith("compiled programs are not kept: the compile cache")
    with pytest.raises(UsageError, match="compile cache"):
        compile_cache.turn_on(tmp_path / "mnist_jax")
