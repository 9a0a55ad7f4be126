"""Makes JAX as strict as it can be, and holds the data that several files share."""

import gc
import os
import signal
from pathlib import Path

import jax
import pytest
import small

from mnist_jax import sources
from mnist_jax.data import Dataset, Split, load_mnist

jax.config.update("jax_num_cpu_devices", 4)  # for test_parallel.py; before the backend starts
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_legacy_prng_key", "error")
jax.config.update("jax_debug_key_reuse", True)
# `jax_check_tracer_leaks` traces everything anew and would make the suite three times as long;
# test_train.py checks one epoch with it.

# A job in the background of a shell ignores SIGINT. So would the tests that send it to themselves,
# and wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

MIRROR = Path(
    os.environ.get("MNIST_MIRROR") or Path(__file__).parents[2] / "shared" / "data" / "mnist"
)


@pytest.fixture(autouse=True)
def all_cores_may_be_used():
    """A command that keeps this process to one core would keep all later tests to it."""
    if not hasattr(os, "sched_setaffinity"):  # as on macOS
        yield
        return
    allowed = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, allowed)


@pytest.fixture(scope="module", autouse=True)
def earlier_objects_are_not_garbage():
    """JAX keeps millions of objects, and each collection of garbage would search them again.

    statsmodels collects at each call of `multipletests`, and a test of the study has dozens.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def schedules():
    """The schedules of optax count on what JAX does unless it is told to be strict."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # in all threads
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def no_signal_is_ignored():
    """Under nohup this process ignores SIGHUP, and so would each process that it starts."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ignored = [number for number in signals if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session")
def mnist_dir(tmp_path_factory):
    """A data directory with real MNIST, prepared once (about 15 s), for all processes of pytest."""
    if not (MIRROR / sources.FILES["train_images"]).is_file():
        pytest.skip("the original MNIST files are neither in MNIST_MIRROR nor in ../shared")
    base = tmp_path_factory.getbasetemp()
    # Each process has a directory of its own in that of the session; the library locks the data.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tensorflow_datasets"
    load_mnist(folder, MIRROR)
    return folder


@pytest.fixture(scope="session")
def mnist(mnist_dir) -> Dataset:
    """Real MNIST."""
    return load_mnist(mnist_dir)


@pytest.fixture(scope="session")
def synthetic() -> tuple[Split, Split]:
    """Made-up images, see `small.DATASET`."""
    return small.DATASET.train, small.DATASET.test
