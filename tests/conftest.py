"""Makes JAX as strict as it can be, and holds the data that several files share."""

import os
import signal
from pathlib import Path

import jax
import pytest
import small

from experiments import cores, stopping
from mnist_jax import sources
from mnist_jax.data import Split, load_mnist

jax.config.update("jax_num_cpu_devices", 4)  # for test_parallel.py; before the backend starts
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_legacy_prng_key", "error")
jax.config.update("jax_debug_key_reuse", True)
# `jax_check_tracer_leaks` traces everything anew and would make the suite three times as long;
# test_train.py checks one epoch with it.

MIRROR = Path(
    os.environ.get("MNIST_MIRROR") or Path(__file__).parents[2] / "shared" / "data" / "mnist"
)


@pytest.fixture(autouse=True)
def cores_are_near(monkeypatch):
    """Commands in this process print the same on every machine; test_cores.py has the others."""
    monkeypatch.setattr(cores, "far_apart", lambda: None)


@pytest.fixture
def schedules():
    """The schedules of optax count on what JAX does unless it is told to be strict."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # in all threads
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def no_signal_is_ignored():
    """Under nohup this process ignores SIGHUP, and so would each process that it starts."""
    ignored = [
        number
        for number in (getattr(signal, name) for name in stopping.SIGNALS)
        if signal.getsignal(number) is signal.SIG_IGN
    ]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session")
def mnist_dir(tmp_path_factory):
    """A data directory with real MNIST, prepared once a session (about 15 s)."""
    if not (MIRROR / sources.FILES["train_images"]).is_file():
        pytest.skip("the original MNIST files are neither in MNIST_MIRROR nor in ../shared")
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    load_mnist(folder, MIRROR)
    return folder


@pytest.fixture(scope="session")
def mnist(mnist_dir):
    """Real MNIST: train and test."""
    return load_mnist(mnist_dir)


@pytest.fixture(scope="session")
def synthetic() -> tuple[Split, Split]:
    """Made-up images, see `small.splits`."""
    return small.splits()
