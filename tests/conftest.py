"""JAX at its strictest, and the data that several files share."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

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
    """200 train and 77 test images: in noise a bright square, whose place tells the class."""
    rng = np.random.default_rng(0)

    def split(size: int) -> Split:
        labels = rng.permutation(np.arange(size, dtype=np.int32) % 10)
        images = rng.integers(0, 60, (size, 28, 28, 1), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = 7 + 9 * (label // 5), 2 + 5 * (label % 5)
            image[row : row + 5, column : column + 5] += 180
        return Split(images, labels)

    return split(200), split(77)
