"""MNIST as two splits of uint8 arrays, and how a network sees their pixels."""

import os
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from mnist_jax import prepare
from mnist_jax.sources import FILES, DataError

__all__ = [
    "PIXELS",
    "TEST_SIZE",
    "TRAIN_SIZE",
    "VERSION",
    "DataError",
    "DatasetName",
    "Pixels",
    "Split",
    "dataset_folder",
    "digests",
    "load_mnist",
    "normalise",
]

DatasetName = Literal["mnist", "fashion_mnist", "kmnist"]

VERSION = "3.0.1"  # of all three datasets in TFDS
TRAIN_SIZE, TEST_SIZE = 60_000, 10_000  # images in the splits of each dataset


class Split(NamedTuple):
    """One split; `N` is its number of examples."""

    images: np.ndarray | jax.Array  # [N, 28, 28, 1] uint8, 0..255
    labels: np.ndarray | jax.Array  # [N] int32, 0..9


class Pixels(NamedTuple):
    """The scale of the pixels: a network sees a pixel `x` of 0..255 as `(x / 255 - mean) / std`."""

    mean: float
    std: float


# `half` is the likeliest scale of the report, of these three (experiments/results/README.md).
# `mnist` has the mean and the standard deviation of x/255 over the training images, to four digits,
# as in PyTorch's MNIST example.
PIXELS: dict[str, Pixels] = {
    "half": Pixels(0.5, 0.5),
    "mnist": Pixels(0.1307, 0.3081),
    "none": Pixels(0.0, 1.0),
}


def normalise(
    images: np.ndarray | jax.Array, pixels: Pixels, *, dtype: Any = jnp.float32
) -> jax.Array:
    """Computes how a network sees images: `(x / 255 - mean) / std`.

    Args:
      images: any shape, uint8, 0..255.
      pixels: the mean and the standard deviation in the formula.
      dtype: the dtype of the result. The arithmetic uses float32, or `dtype` if that is wider.

    Returns:
      An array of the shape of `images`.
    """
    wide = dtype if jnp.finfo(dtype).bits > 32 else jnp.float32
    x = jnp.asarray(images).astype(wide)
    return ((x / 255 - pixels.mean) / pixels.std).astype(dtype)


def load_mnist(
    data_dir: str | os.PathLike[str] | None = None,
    mirror: str | os.PathLike[str] | None = None,
    *,
    dataset: DatasetName = "mnist",
) -> tuple[Split, Split]:
    """Loads both splits as numpy arrays, preparing the dataset first where it is absent.

    Args:
      data_dir: TFDS's data directory; None means `TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
      mirror: a directory with the four original files, to prepare the dataset from; None means
        `MNIST_MIRROR`. Without either the files are downloaded.
      dataset: which of the three datasets to load.

    Returns:
      The train and the test split, in TFDS's order.

    Raises:
      DataError: the dataset is unknown, no source supplies it, or a SHA-256 does not match.
    """
    if dataset not in get_args(DatasetName):
        known = ", ".join(get_args(DatasetName))
        raise DataError(f"the dataset must be one of {known}, not {dataset}", "dataset")
    arrays = prepare.load(dataset_folder(data_dir, dataset), mirror)
    return (
        Split(arrays["train_images"], arrays["train_labels"].astype(np.int32)),
        Split(arrays["test_images"], arrays["test_labels"].astype(np.int32)),
    )


def dataset_folder(
    data_dir: str | os.PathLike[str] | None = None, dataset: DatasetName = "mnist"
) -> Path:
    """The folder of the prepared dataset, whether it exists or not; arguments as in `load_mnist`.

    Raises:
      DataError: the directory begins with `~` and that home directory cannot be found.
    """
    # As in TFDS's constants.py, which would take a second to import.
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    try:
        return root.expanduser() / dataset / VERSION
    except RuntimeError as error:  # pathlib's way to say: no such user, or no home at all
        raise DataError(f"the data directory {root}: {error}", "data_dir") from error


def digests(train: Split, test: Split) -> dict[str, str]:
    """SHA-256 of each of the four arrays' bytes, labels as uint8, in hexadecimal.

    Returns:
      The digests by the names `train_images`, `train_labels`, `test_images` and `test_labels`.
    """
    return prepare.digests(dict(zip(FILES, (*train, *test), strict=True)))
