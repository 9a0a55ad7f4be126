"""What a manifest records, and that what cannot be known is recorded as unknown."""

import json
import subprocess

import pytest

from experiments.groundwork import manifest
from mnist_jax import compilation

GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")


@pytest.fixture
def checkout(tmp_path):
    """A repository with one commit."""
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "file").write_text("one\n")
    git(folder, "add", "file")
    git(folder, "commit", "-q", "-m", "one")
    return folder


def git(folder, *arguments) -> str:
    command = [*GIT, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_manifest_is_plain_json():
    found = manifest.manifest({"train_images": "ab"})
    assert json.loads(json.dumps(found)) == found
    assert found["data_sha256"] == {"train_images": "ab"}
    assert set(found["packages"]) == set(manifest.PACKAGES)
    assert found["threads"] >= 1


def test_the_users_flags_and_the_options_in_force_are_recorded(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    ours = compilation.options()
    assert manifest.manifest({})["compile_options"] == ours
    users = "--xla_cpu_prefer_vector_width=256"
    monkeypatch.setenv("XLA_FLAGS", users)
    found = manifest.manifest({})
    assert found["xla_flags"] == users
    assert found["compile_options"] == compilation.options()
    assert "xla_cpu_prefer_vector_width" not in found["compile_options"]


def test_a_clean_and_a_changed_checkout(checkout):
    commit = git(checkout, "rev-parse", "HEAD")
    assert manifest.git_state(checkout) == (commit, False)
    (checkout / "file").write_text("two\n")
    assert manifest.git_state(checkout) == (commit, True)
    git(checkout, "checkout", "-q", "file")
    (checkout / "new").touch()
    assert manifest.git_state(checkout) == (commit, True)


def test_a_folder_in_a_checkout_of_something_else_is_unknown(checkout):
    (checkout / "copy").mkdir()
    assert manifest.git_state(checkout / "copy") == (None, None)


def test_another_repository_that_a_hook_names_is_not_asked(checkout, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    found = manifest.git_state(checkout)
    monkeypatch.undo()
    assert found == (git(checkout, "rev-parse", "HEAD"), False)


def test_without_git_the_state_is_unknown(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert manifest.git_state(checkout) == (None, None)
    monkeypatch.setattr(manifest, "ROOT", checkout)
    found = manifest.manifest({})
    assert found["git_commit"] is None and found["git_dirty"] is None


def test_a_checkout_whose_status_cannot_be_read_is_not_clean(checkout):
    (checkout / ".git" / "index").write_bytes(b"damaged")
    assert manifest.git_state(checkout)[1] is None


def test_an_absent_package_has_no_version(monkeypatch):
    monkeypatch.setattr(manifest, "PACKAGES", ("no-such-package",))
    assert manifest.versions() == {"no-such-package": None}


def test_differences_name_what_can_change_a_result():
    now = manifest.manifest({})
    assert manifest.differences(now, now) == []
    assert manifest.differences(now | {"git_commit": "x", "data_sha256": {"a": "b"}}, now) == []
    before = now | {
        "packages": now["packages"] | {"jaxlib": "0.9"},
        "threads": 99,
        "compile_options": {"xla_old": True},
    }
    lines = manifest.differences(before, now)
    assert f"jaxlib 0.9 before, {now['packages']['jaxlib']} now" in lines
    assert f"threads 99 before, {now['threads']} now" in lines
    assert "xla_old True before, None now" in lines
    assert len(lines) == 3 + len(now["compile_options"])
