"""XLA's options: ours where they were tried, the user's before ours, nothing at import."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax import compilation
from mnist_jax.kernels import in_memory

# The value of each option, by the releases of jaxlib that get it. An option that is changed or
# dropped makes epochs slower, or sums wrong, and no other test need notice.
BOTH, OLD = {"0.10.2", "0.12.0.1"}, {"0.10.2"}
PINNED = {
    # Barriers stay until code is emitted, which test_barriers_stay checks.
    "xla_disable_hlo_passes": ("cse_barrier_expander", BOTH),
    # Vectors of 16 floats.
    "xla_cpu_prefer_vector_width": ("512", BOTH),
    # Loops over slices are vectorised.
    "xla_cpu_use_fusion_emitters": (False, OLD),
    # All fusions but those of reductions, see test_large_sums_are_right.
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION",
        OLD,
    ),
}
QUICKLY = {"xla_backend_optimization_level": "1"}


@pytest.fixture
def jaxlib(monkeypatch):
    """Sets the version of jaxlib that seems to be installed."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    return lambda version: monkeypatch.setattr(compilation, "version", {"jaxlib": version}.get)


@pytest.mark.parametrize("release", sorted(BOTH))
def test_each_option_is_pinned(jaxlib, release, monkeypatch):
    """And one that the user has set is left out, however it is spelled."""
    jaxlib(release)
    expected = {name: value for name, (value, releases) in PINNED.items() if release in releases}
    assert compilation.options("cpu") == expected
    assert compilation.options("cpu", quickly=True) == expected | QUICKLY
    assert compilation.options("gpu") == compilation.options("tpu", quickly=True) == {}
    for name in expected:
        monkeypatch.setenv(
            "XLA_FLAGS", f"--xla_one=1  --{name}=theirs\t--{name}_2 --xla_two={name}"
        )
        assert compilation.options("cpu") == {n: v for n, v in expected.items() if n != name}


@pytest.mark.parametrize("release", ["0.9.2", "0.11.0", "0.13.0.dev20270101", "1.10.0"])
def test_an_untried_release_gets_none(jaxlib, release):
    jaxlib(release)
    assert compilation.options("cpu") == compilation.options("cpu", quickly=True) == {}


def squared_norm(row):
    return jnp.square(jnp.eye(3) @ row).sum()


def test_large_sums_are_right():
    """The wrong result of jaxlib 0.10.2, jax issue 39103: a product, then a fused large sum."""
    rows = 32_769  # the first size at which a part of it was taken twice
    x = np.zeros((rows, 3), np.float32)
    x[:, 0] = np.arange(rows)
    found = compilation.jit(jax.vmap(squared_norm))(x)
    np.testing.assert_allclose(found, np.square(x).sum(1), rtol=1e-6)


@pytest.mark.skipif(not compilation.options("cpu"), reason="this jaxlib gets no options")
def test_barriers_stay():
    """A barrier ends a fusion, so it must still be there when XLA has fused."""

    def function(x):
        return in_memory(x * 2) + 1

    def compiled(jit):
        return jit(function).lower(jnp.ones(8)).compile().as_text()

    assert "opt-barrier" in compiled(compilation.jit)
    assert "opt-barrier" not in compiled(jax.jit)


ROOT = Path(__file__).parents[1]
ROOMS = sorted(f"mnist_jax.{path.stem}" for path in (ROOT / "mnist_jax").glob("[a-z]*.py"))


def test_importing_changes_nothing_and_starts_nothing():
    """Not the environment, not JAX's configuration; and no device is looked for."""
    code = f"""
        import importlib, os, sys
        import mnist_jax
        assert "jax" not in sys.modules
        import jax
        from jax._src import xla_bridge

        def state():
            return dict(os.environ), dict(jax.config.values)

        before = state()
        for room in {ROOMS}:
            importlib.import_module(room)
        assert state() == before
        assert not xla_bridge.backends_are_initialized()
    """
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    program = [sys.executable, "-c", textwrap.dedent(code)]
    subprocess.run(program, check=True, cwd=ROOT, env=environment)
