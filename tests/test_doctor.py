"""The doctor says what is wrong in one line each, and its exit status says that something is."""

import ast
import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

from experiments import doctor
from experiments.groundwork import compile_cache, manifest
from mnist_jax import compilation, kernels, sources

ROOT = Path(__file__).parents[1]
CHECKS = [
    "versions",
    "devices",
    "cores",
    "compile options",
    "large sums",
    "kernels",
    "compile cache",
    "data",
]
FLAG = "--xla_cpu_prefer_vector_width=256"


@pytest.fixture(autouse=True)
def _nothing_there(monkeypatch, tmp_path):
    monkeypatch.delenv("MNIST_MIRROR", raising=False)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def quick(monkeypatch):
    """Without the checks that compile programs."""
    fine = doctor.Finding(True, "skipped", "")
    monkeypatch.setattr(doctor, "_large_sums", lambda: fine)
    monkeypatch.setattr(doctor, "_kernels", lambda: fine)


def lines(capsys, *arguments) -> tuple[int, dict[str, str], list[str]]:
    """The exit status, what was found by check, and the checks that are wrong."""
    status = doctor.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert printed.err == ""
    found, wrong = {}, []
    for line in printed.out.splitlines():
        mark, (what, _, text) = line[:5].strip(), line[6:].partition(": ")
        found[what] = text
        wrong += [what] if mark == "wrong" else []
        assert mark in ("ok", "wrong")
    assert status == (1 if wrong else 0)
    return status, found, wrong


def test_a_sound_installation(capsys, tmp_path):
    status, found, wrong = lines(capsys)
    assert (status, wrong) == (0, [])
    assert list(found) == CHECKS
    assert list(tmp_path.iterdir()) == []  # nothing was made


def test_no_check_is_an_assertion_which_python_may_leave_out():
    tree = ast.parse(Path(doctor.__file__).read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]


def test_a_package_that_is_absent(capsys, monkeypatch, quick):
    monkeypatch.setattr(manifest, "PACKAGES", (*manifest.PACKAGES, "no-such-package"))
    _, found, wrong = lines(capsys)
    assert wrong == ["versions"]
    assert "no-such-package" in found["versions"] and "pip install" in found["versions"]


def test_the_compile_options_are_reported(capsys, quick):
    _, found, _ = lines(capsys)
    for name, value in compilation.options().items():
        assert f"{name}={value}" in found["compile options"]


def test_flags_that_override_ours(capsys, monkeypatch, quick):
    monkeypatch.setenv("XLA_FLAGS", FLAG)
    _, found, wrong = lines(capsys)
    assert wrong == ["compile options"]
    assert "xla_cpu_prefer_vector_width" in found["compile options"]


def test_flags_that_do_not(capsys, monkeypatch, quick):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    _, found, wrong = lines(capsys)
    assert wrong == []
    assert "xla_force_host_platform_device_count" in found["compile options"]


def test_a_file_of_flags(capsys, monkeypatch, tmp_path, quick):
    file = tmp_path / "flags"
    file.write_text("--xla_force_host_platform_device_count=1\n")
    monkeypatch.setenv("XLA_FLAGS", str(file))
    _, found, wrong = lines(capsys)
    assert wrong == [] and str(file) in found["compile options"]
    file.write_text(f"{FLAG}\n")
    _, found, wrong = lines(capsys)
    assert wrong == ["compile options"]


@pytest.mark.parametrize("users", ["--xla_no_such_flag=1", "absent/file"])
def test_flags_with_which_xla_does_not_start(users, tmp_path):
    environment = os.environ | {"XLA_FLAGS": users, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "experiments.doctor"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("wrong")]
    assert line.startswith(f"wrong devices: XLA_FLAGS={users} stops XLA: ")
    assert users.strip("-").partition("=")[0] in line.partition("stops XLA")[2]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("Unable to initialize 'cuda'\nand more"), "Unable to initialize 'cuda'"),
        (AssertionError(), "JAX finds none"),
    ],
)
def test_a_platform_that_is_not_there(error, reason, capsys, monkeypatch):
    def fail():
        raise error

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(doctor.jax, "devices", fail)
    _, found, wrong = lines(capsys)
    assert wrong == ["devices"]
    assert found["devices"] == f"{reason}; JAX_PLATFORMS is 'cuda': unset it, or set it to cpu"
    assert list(found) == ["versions", "devices", "compile cache", "data"]


@pytest.mark.parametrize("name", ["conv_pool_relu", "conv3x3", "batch_norm"])
def test_a_kernel_that_computes_something_else(name, capsys, monkeypatch):
    reference = getattr(kernels, f"{name}_reference")

    def off_by_little(x, factor, *others):
        return reference(x, factor * jnp.float32(1.1), *others)

    monkeypatch.setattr(kernels, name, off_by_little)
    _, found, wrong = lines(capsys)
    assert wrong == ["kernels"]
    assert found["kernels"].startswith(f"{name} is off by ")


def test_a_kernel_that_is_wrong_where_it_divides_the_batch(capsys, monkeypatch):
    """As it does in training, but not with every batch."""

    def off_in_halves(x, kernel, bias):
        factor = jnp.float32(1.1 if x.shape[-1] % 32 == 0 else 1)
        return kernels.conv_pool_relu_reference(x, kernel, bias * factor)

    monkeypatch.setattr(kernels, "conv_pool_relu", off_in_halves)
    _, _, wrong = lines(capsys)
    assert wrong == ["kernels"]


def test_a_kernel_that_does_not_compile(capsys, monkeypatch):
    def fail(*_):
        raise RuntimeError("no registers left\nat all")

    monkeypatch.setattr(kernels, "conv_pool_relu", fail)
    _, found, wrong = lines(capsys)
    assert wrong == ["kernels"]
    assert found["kernels"] == "RuntimeError: no registers left"


def test_sums_that_are_off(capsys, monkeypatch):
    """The bug cannot be had with our compile options, so the product is wrong."""
    monkeypatch.setattr(doctor.jnp, "eye", lambda size: 1.01 * jnp.identity(size))
    _, found, wrong = lines(capsys)
    assert wrong == ["large sums"]
    assert "39103" in found["large sums"]


# The data.


def test_data_that_are_not_there_come_from_the_network(capsys, tmp_path, quick):
    _, found, _ = lines(capsys)
    folder = tmp_path / "tfds" / "mnist" / "3.0.1"
    assert found["data"] == f"to be prepared in {folder}, from the network"
    folder.mkdir(parents=True)
    _, found, wrong = lines(capsys)
    assert wrong == [] and "to be prepared in" in found["data"]


def test_a_folder_of_junk_is_not_a_dataset(capsys, tmp_path, quick):
    folder = tmp_path / "tfds" / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    _, found, wrong = lines(capsys)
    assert wrong == ["data"]
    assert str(folder) in found["data"] and "--data-dir" in found["data"]


def test_a_file_is_no_data_directory(capsys, tmp_path, quick):
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "below"):
        _, found, wrong = lines(capsys, "--data-dir", path)
        assert wrong == ["data"] and "--data-dir" in found["data"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_directory_that_cannot_be_written(capsys, tmp_path, quick):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    _, found, wrong = lines(capsys, "--data-dir", closed, "--compile-cache", closed)
    assert wrong == ["compile cache", "data"]
    assert "--data-dir" in found["data"]


def test_a_place_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "below", tmp_path / "file" / "far" / "below"):
        finding = doctor._to_be_made("data", place, "kept in", "--data-dir DIR")
        assert not finding.good and "--data-dir DIR" in finding.found
    assert doctor._to_be_made("data", tmp_path / "new" / "below", "kept in", "x").good


@pytest.mark.parametrize("junk", [b"junk", gzip.compress(b"junk", mtime=0), b""])
def test_a_mirror_of_junk(junk, capsys, tmp_path, quick):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for name in sources.FILES.values():
        (mirror / name).write_bytes(junk)
    _, found, wrong = lines(capsys, "--mirror", mirror)
    assert wrong == ["data"]
    assert sources.FILES["train_images"] in found["data"] and "--mirror" in found["data"]


def test_a_mirror_without_files(capsys, tmp_path, monkeypatch, quick):
    monkeypatch.setenv("MNIST_MIRROR", str(tmp_path))
    _, found, wrong = lines(capsys)
    assert wrong == ["data"] and "train-images" in found["data"]


@pytest.mark.mnist
def test_a_mirror_of_the_original_files(mnist_dir, capsys, monkeypatch, quick, tmp_path):
    del mnist_dir  # it skips this test where the files are not there
    from conftest import MIRROR  # the module that pytest has read, before the variable was removed

    _, found, wrong = lines(capsys, "--mirror", MIRROR)
    assert wrong == []
    assert found["data"].endswith(f"from the mirror {MIRROR}, digests right")


@pytest.mark.mnist
def test_prepared_data_are_judged_by_their_digests(mnist_dir, capsys, tmp_path, quick):
    _, found, wrong = lines(capsys, "--data-dir", mnist_dir)
    folder = mnist_dir / "mnist" / "3.0.1"
    assert wrong == [] and found["data"] == f"prepared in {folder}, digests right"
    shutil.copytree(mnist_dir, tmp_path / "copy")
    folder = tmp_path / "copy" / "mnist" / "3.0.1"
    (cached,) = folder.glob("mnist_jax/train_images*")
    cached.unlink()
    before = sorted(folder.rglob("*"))
    _, found, wrong = lines(capsys, "--data-dir", tmp_path / "copy")
    assert wrong == [] and "decode" in found["data"]
    assert sorted(folder.rglob("*")) == before
    record = next(folder.glob("mnist-train.array_record*"))
    content = bytearray(record.read_bytes())
    content[len(content) // 2] ^= 1
    record.write_bytes(content)
    _, found, wrong = lines(capsys, "--data-dir", tmp_path / "copy")
    assert wrong == ["data"] and record.name in found["data"]


# The compile cache.


def test_the_compile_cache(capsys, tmp_path, quick):
    _, found, _ = lines(capsys)
    assert found["compile cache"] == f"to be kept in {tmp_path / 'cache' / 'mnist_jax'}"
    (tmp_path / "jit_step-cache").write_bytes(b"x" * 2**20)
    tmp_path.chmod(0o700)
    _, found, wrong = lines(capsys, "--compile-cache", tmp_path)
    assert wrong == [] and found["compile cache"] == f"1 programs, 1.0 MiB in {tmp_path}"
    _, found, _ = lines(capsys, "--compile-cache", tmp_path / "absent")
    assert "to be kept in" in found["compile cache"]
    assert not (tmp_path / "absent").exists()


def test_a_file_is_no_compile_cache(capsys, tmp_path, quick):
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "below"):
        _, found, wrong = lines(capsys, "--compile-cache", path)
        assert wrong == ["compile cache"]
        assert str(path) in found["compile cache"] and "--compile-cache" in found["compile cache"]


def test_a_compile_cache_that_others_can_write(capsys, tmp_path, quick):
    tmp_path.chmod(0o777)
    _, found, wrong = lines(capsys, "--compile-cache", tmp_path)
    assert wrong == ["compile cache"] and "other users" in found["compile cache"]


def test_without_a_home_there_is_no_cache(capsys, monkeypatch, quick):
    monkeypatch.setattr(compile_cache, "default_directory", lambda: None)
    _, found, wrong = lines(capsys)
    assert wrong == [] and found["compile cache"].startswith("off")


def test_a_home_that_does_not_exist_is_refused(capsys):
    assert doctor.main(["--compile-cache", "~no-such-user/x"]) == 2
    assert "~no-such-user/x: there is no such home directory" in capsys.readouterr().err
