"""The user's flags come first; ours are added once, and only where they are known."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_jax import xla_flags

RELEASES = ["0.10.2", "0.12.0.1"]


@pytest.fixture
def jaxlib(monkeypatch):
    """Sets the version of jaxlib that seems to be installed."""
    return lambda version: monkeypatch.setattr(xla_flags, "version", {"jaxlib": version}.get)


def set_for_cpu(monkeypatch, users: str | None) -> list[str]:
    """The flags after `set_for_cpu`, from the user's own."""
    if users is None:
        monkeypatch.delenv("XLA_FLAGS", raising=False)
    else:
        monkeypatch.setenv("XLA_FLAGS", users)
    xla_flags.set_for_cpu()
    return os.environ["XLA_FLAGS"].split()


@pytest.mark.parametrize("release", RELEASES)
def test_flags_are_appended_to_the_users(monkeypatch, jaxlib, release):
    jaxlib(release)
    ours = list(xla_flags.wanted())
    assert len(ours) >= 2
    assert set_for_cpu(monkeypatch, None) == ours
    assert set_for_cpu(monkeypatch, "--xla_one=1 --xla_two") == ["--xla_one=1", "--xla_two", *ours]


@pytest.mark.parametrize("release", RELEASES)
def test_the_users_value_wins(monkeypatch, jaxlib, release):
    jaxlib(release)
    for flag in xla_flags.wanted():
        name = flag.partition("=")[0]
        for users in (f"{name}=theirs", name):
            flags = set_for_cpu(monkeypatch, users)
            assert [f for f in flags if f.partition("=")[0] == name] == [users]
            assert len(flags) == len(xla_flags.wanted())


def test_twice_is_once(monkeypatch, jaxlib):
    jaxlib("0.10.2")
    once = set_for_cpu(monkeypatch, "--xla_one=1")
    assert set_for_cpu(monkeypatch, " ".join(once)) == once


@pytest.mark.parametrize("release", ["0.9.2", "0.11.0", "0.13.0.dev20270101", "1.10.0"])
def test_an_untried_release_gets_none(monkeypatch, jaxlib, release):
    jaxlib(release)
    assert set_for_cpu(monkeypatch, None) == []
    assert set_for_cpu(monkeypatch, "--xla_one=1") == ["--xla_one=1"]


def test_only_the_release_with_the_bug_gets_its_guard(jaxlib):
    guard = "--xla_cpu_experimental_ynn_fusion_type=-reduce"
    jaxlib("0.10.2")
    assert guard in xla_flags.wanted()
    jaxlib("0.12.0.1")
    assert guard not in xla_flags.wanted()


def test_importing_the_package_sets_them_before_jax_is_imported():
    code = (
        "import os, sys, mnist_jax\n"
        "assert 'jax' not in sys.modules\n"
        "assert os.environ['XLA_FLAGS'].split() == list(mnist_jax.xla_flags.wanted())\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env=environment)
