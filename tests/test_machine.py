"""What a result depends on is recorded; compiled programs are kept where only the user writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.groundwork import machine
from experiments.groundwork.command import UsageError

ROOT = Path(__file__).parents[1]
COMPILE = """
import jax, jax.numpy as jnp
from experiments.groundwork import machine
machine.start()
jax.jit(lambda x: x + 1)(jnp.ones(3)).block_until_ready()
"""


def python(code: str, **environment: str | Path) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=kept | {name: str(value) for name, value in environment.items()},
        capture_output=True,
        text=True,
        check=False,
    )


def test_compiled_programs_are_kept_in_the_users_own_directory(tmp_path):
    for name, mode in (("mine", 0o700), ("everybodys", 0o777)):
        (tmp_path / name / "mnist_jax").mkdir(parents=True)
        (tmp_path / name / "mnist_jax").chmod(mode)
        done = python(COMPILE, XDG_CACHE_HOME=tmp_path / name)
        assert (done.returncode, done.stderr) == (0, "")
        assert any((tmp_path / name / "mnist_jax").iterdir()) == (name == "mine")


def test_the_users_own_choice_of_a_directory_wins(tmp_path):
    chosen = {
        "JAX_COMPILATION_CACHE_DIR": tmp_path / "chosen",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    done = python(COMPILE, XDG_CACHE_HOME=tmp_path / "cache", **chosen)
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == {"chosen"}


@pytest.mark.parametrize("platform", ["cuda", "abacus"])
def test_a_platform_that_this_machine_has_not_is_one_line(platform):
    """JAX fails on the two in different ways."""
    code = "from experiments import run; raise SystemExit(run.main(['--dry-run']))"
    done = python(code, JAX_PLATFORMS=platform, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr == (
        f"error: JAX finds no device for {platform!r}, which --platform or JAX_PLATFORMS asks for\n"
    )


def test_more_threads_than_cores_are_refused():
    with pytest.raises(UsageError, match="--threads must be from 1 to"):
        machine.keep_to(machine.cores() + 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no core can be kept idle")
def test_one_thread_is_one_core():
    code = "from experiments.groundwork import machine; machine.keep_to(1); print(machine.cores())"
    assert python(code).stdout == "1\n"


def test_a_manifest_says_what_a_result_depends_on():
    found = machine.manifest({"train_images": "digest"})
    assert found["packages"]["jax"] and found["devices"] and found["compile_options"]
    assert found["data_sha256"] == {"train_images": "digest"}
    other = found | {"threads": 77, "git_commit": "another", "data_sha256": {}}
    assert machine.differences(found, found) == []
    assert machine.differences(other, found) == [f"threads 77 before, {found['threads']} now"]


def test_only_tracked_files_make_a_checkout_dirty(tmp_path):
    def git(*words):
        subprocess.run(["git", "-C", tmp_path, *words], check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "a")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "untracked").touch()
    commit, dirty = machine.git_state(tmp_path)
    assert len(commit or "") == 40 and dirty is False
    (tmp_path / "file").write_text("b")
    assert machine.git_state(tmp_path) == (commit, True)
    assert machine.git_state(tmp_path / "venv") == (None, None)
