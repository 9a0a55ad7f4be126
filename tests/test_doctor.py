"""The doctor says what is wrong in one line each, and its exit status says that something is."""

import jax.numpy as jnp
import pytest

from experiments import doctor
from mnist_jax import kernels, xla_flags

pytestmark = pytest.mark.filterwarnings("ignore")  # whatever the machine under test says


def lines(capsys, *arguments: str) -> tuple[int, list[str]]:
    status = doctor.main(arguments)
    return status, capsys.readouterr().out.splitlines()


@pytest.fixture(autouse=True)
def _no_sources(monkeypatch, tmp_path):
    monkeypatch.delenv("MNIST_MIRROR", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))


def wrong(found: list[str]) -> list[str]:
    return [line.split()[1] for line in found if line.startswith("wrong")]


def test_a_sound_installation(capsys):
    status, found = lines(capsys)
    assert (status, wrong(found)) == (0, [])
    names = [line[6:].partition(":")[0] for line in found]
    assert names == [
        "versions",
        "devices",
        "threads",
        "XLA flags",
        "large sums",
        "kernels",
        "compile cache",
        "data",
    ]


def test_flags_that_the_user_overrode(capsys, monkeypatch):
    flag = xla_flags.wanted()[0]
    monkeypatch.setenv("XLA_FLAGS", flag.partition("=")[0] + "=theirs")
    status, found = lines(capsys)
    assert (status, wrong(found)) == (1, ["XLA"])
    assert any(flag in line for line in found)


def test_a_kernel_that_computes_something_else(capsys, monkeypatch):
    def off_by_little(x, kernel, bias):
        return kernels.conv_pool_relu_reference(x, kernel, bias * jnp.float32(1.1))

    monkeypatch.setattr(kernels, "conv_pool_relu", off_by_little)
    status, found = lines(capsys)
    assert (status, wrong(found)) == (1, ["kernels:"])


def test_sums_that_are_off(capsys, monkeypatch):
    """What the bug does cannot be had with the flags of these tests, so the product is wrong."""
    monkeypatch.setattr(doctor.jnp, "eye", lambda size: 1.01 * jnp.identity(size))
    status, found = lines(capsys)
    assert (status, wrong(found)) == (1, ["large"])


def test_where_the_data_are(capsys, tmp_path):
    status, found = lines(capsys, "--mirror", str(tmp_path))
    assert (status, wrong(found)) == (1, ["data:"])
    assert "train-images-idx3-ubyte.gz" in found[-1]
    (tmp_path / "tfds" / "mnist" / "3.0.1").mkdir(parents=True)
    status, found = lines(capsys)
    assert status == 0
    assert "prepared in" in found[-1]


def test_the_compile_cache(capsys, tmp_path):
    (tmp_path / "jit_step-cache").write_bytes(b"x" * 1000)
    _, found = lines(capsys, "--compile-cache", str(tmp_path))
    assert "1 programs" in found[-2]
    _, found = lines(capsys, "--compile-cache", str(tmp_path / "absent"))
    assert "will be made" in found[-2]
