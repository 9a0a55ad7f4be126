"""Makes JAX as strict as it can be, and holds the data that several files share."""

import gc
import gzip
import os
from pathlib import Path

import jax
import pytest
import small

from mnist_jax import compilation, data, sources, tfds
from mnist_jax.data import Dataset, Split

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


def pytest_configure(config):
    """Tests compile the same programs again and again, in several processes."""
    folder = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("jax")))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


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


@pytest.fixture(scope="session")
def mnist_dir(tmp_path_factory):
    """A data directory with real MNIST as `tfds` keeps it, but without what TFDS would write."""
    if not (MIRROR / sources.FILES["train_images"]).is_file():
        pytest.skip("the original MNIST files are neither in MNIST_MIRROR nor in ../shared")
    root = tmp_path_factory.mktemp("tensorflow_datasets")
    (folder := root / "mnist" / data.VERSION / tfds.OURS).mkdir(parents=True)
    for file in sources.FILES.values():
        (folder / file.removesuffix(".gz")).write_bytes(
            gzip.decompress((MIRROR / file).read_bytes())
        )
    return root


@pytest.fixture(scope="session")
def mnist(mnist_dir) -> Dataset:
    """Real MNIST."""
    return data.load_mnist(mnist_dir)


@pytest.fixture(scope="session")
def synthetic() -> tuple[Split, Split]:
    """Made-up images, see `small.DATASET`."""
    return small.DATASET.train, small.DATASET.test


@pytest.fixture(scope="module")
def compiled_quickly():
    """Programs of commands in half the time: how fast they are does not matter on a few images."""
    options = compilation.options
    with pytest.MonkeyPatch.context() as patch:
        level = {"xla_backend_optimization_level": "0"}
        patch.setattr(compilation, "options", lambda *a, **k: options(*a, **k) | level)
        yield


@pytest.fixture
def commands_read_synthetic():
    """The commands read the made-up images instead of MNIST."""
    with small.in_place_of_mnist():
        yield
