"""XLA's options: ours where they were tried, the user's before ours, nothing at import."""

import json
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
UNTRIED = ["0.9.2", "0.11.0", "0.13.0.dev20270101", "1.10.0"]


@pytest.fixture(autouse=True)
def _no_flags(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)


@pytest.fixture
def jaxlib(monkeypatch):
    """Sets the version of jaxlib that seems to be installed."""
    return lambda version: monkeypatch.setattr(compilation, "version", {"jaxlib": version}.get)


@pytest.mark.parametrize("release", sorted(BOTH))
def test_each_option_is_pinned(jaxlib, release):
    jaxlib(release)
    expected = {name: value for name, (value, releases) in PINNED.items() if release in releases}
    assert compilation.options("cpu") == expected
    assert compilation.known_release()


@pytest.mark.parametrize("release", sorted(BOTH))
def test_a_program_that_runs_once_is_compiled_at_level_1(monkeypatch, jaxlib, release):
    jaxlib(release)
    level = {"xla_backend_optimization_level": "1"}
    assert compilation.options("cpu", quickly=True) == compilation.options("cpu") | level
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=3")
    assert compilation.options("cpu", quickly=True) == compilation.options("cpu")
    assert compilation.options("gpu", quickly=True) == {}


@pytest.mark.parametrize("release", UNTRIED)
def test_an_untried_release_gets_none(jaxlib, release):
    jaxlib(release)
    assert compilation.options("cpu") == compilation.options("cpu", quickly=True) == {}
    assert not compilation.known_release()


@pytest.mark.parametrize("platform", ["gpu", "cuda", "rocm", "tpu"])
@pytest.mark.parametrize("release", sorted(BOTH))
def test_other_platforms_get_none(jaxlib, platform, release):
    jaxlib(release)
    assert compilation.options(platform) == {}


def test_the_platform_is_the_one_that_jax_computes_on():
    assert jax.default_backend() == "cpu"
    assert compilation.options() == compilation.options("cpu")


@pytest.mark.parametrize("release", sorted(BOTH))
@pytest.mark.parametrize("spelling", ["--{}=theirs", "--{}"])
def test_the_users_value_wins(monkeypatch, jaxlib, release, spelling):
    jaxlib(release)
    ours = compilation.options("cpu")
    for name in ours:
        monkeypatch.setenv("XLA_FLAGS", f"--xla_one=1  {spelling.format(name)}\t--xla_two")
        others = {other: value for other, value in ours.items() if other != name}
        assert compilation.options("cpu") == others


def test_other_flags_of_the_user_change_nothing(monkeypatch):
    ours = compilation.options("cpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=xla_cpu_prefer_vector_width --xla_cpu_prefer=1")
    assert compilation.options("cpu") == ours


def test_the_users_value_wins_in_a_file_too(monkeypatch, tmp_path):
    """XLA takes a value that does not begin with a dash for the name of a file with flags."""
    ours = compilation.options("cpu")
    file = tmp_path / "flags"
    file.write_text("--xla_one=1\n--xla_cpu_prefer_vector_width=256\n")
    monkeypatch.setenv("XLA_FLAGS", str(file))
    assert ours.pop("xla_cpu_prefer_vector_width") == "512"
    assert compilation.options("cpu") == ours
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "absent"))
    assert compilation.options("cpu").keys() > ours.keys()


def squared_norm(row):
    return jnp.square(jnp.eye(3) @ row).sum()


def test_large_sums_are_right():
    """The wrong result of jaxlib 0.10.2, jax issue 39103: a product, then a fused large sum."""
    rows = 32_769  # the first size at which a part of it was taken twice
    x = np.zeros((rows, 3), np.float32)
    x[:, 0] = np.arange(rows)
    found = compilation.jit(jax.vmap(squared_norm))(x)
    np.testing.assert_allclose(found, np.square(x).sum(1), rtol=1e-6)


@pytest.mark.skipif(not compilation.known_release(), reason="this jaxlib gets no options")
def test_barriers_stay():
    """A barrier ends a fusion, so it must still be there when XLA has fused."""

    def function(x):
        return in_memory(x * 2) + 1

    def compiled(jit):
        return jit(function).lower(jnp.ones(8)).compile().as_text()

    assert "opt-barrier" in compiled(compilation.jit)
    assert "opt-barrier" not in compiled(jax.jit)


def python(code: str) -> str:
    """What a fresh Python prints, started without flags."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    root = Path(__file__).parents[1]
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        check=True,
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )
    return finished.stdout


ROOMS = sorted(
    f"mnist_jax.{path.stem}"
    for path in (Path(__file__).parents[1] / "mnist_jax").glob("*.py")
    if path.stem != "__init__"
)


def test_importing_changes_nothing_and_starts_nothing():
    """Not the environment, not JAX's configuration; and no device is looked for."""
    code = f"""
        import importlib, json, os, threading
        import jax
        from jax._src import xla_bridge

        def state():
            return dict(os.environ), dict(jax.config.values)

        import mnist_jax
        rooms = {ROOMS}
        before = state()
        for room in rooms:
            importlib.import_module(room)
        assert state() == before
        assert not xla_bridge.backends_are_initialized()
        print(len(rooms))
    """
    assert int(python(code)) == len(ROOMS) > 8


def test_the_package_itself_imports_nothing():
    assert python("import sys, mnist_jax; print('jax' in sys.modules)").split() == ["False"]


EPOCH = """
    import hashlib, json
    import numpy as np
    import jax, optax
    from mnist_jax import compilation
    from mnist_jax.data import Split
    from mnist_jax.programs import compiled, fit
    from mnist_jax.model import LeNet

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (160, 28, 28, 1), dtype=np.uint8)
    split = Split(images, rng.integers(0, 10, 160, dtype=np.int32))
    programs = compiled(LeNet("none"), optax.sgd(0.01))
    state = programs.init_state(jax.random.key(0))
    epochs = fit(programs, state, split, split, jax.random.key(1), epochs=1)
    bits = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(list(epochs)))
    print(json.dumps([compilation.options(), hashlib.sha256(bits).hexdigest()]))
"""


def test_the_order_of_imports_does_not_matter():
    """JAX may have started before the package is imported: same options, same bits."""
    options, bits = json.loads(python(EPOCH))
    started_before = "\n    import jax; jax.devices(); import mnist_jax\n" + EPOCH
    assert json.loads(python(started_before)) == [options, bits]
    assert options == compilation.options("cpu")
