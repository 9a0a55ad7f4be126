"""MNIST as two splits of uint8 arrays, and how a network sees their pixels."""

import os
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from mnist_jax import sources, tfds

DatasetName = Literal["mnist", "fashion_mnist"]

VERSION = "3.0.1"  # of both datasets in TFDS
TRAIN_SIZE, TEST_SIZE = 60_000, 10_000  # images in the splits of each dataset


class Split(NamedTuple):
    """One split; `N` is its number of examples."""

    images: np.ndarray | jax.Array  # [N, 28, 28, 1] uint8, 0..255
    labels: np.ndarray | jax.Array  # [N] int32, 0..9


class Dataset(NamedTuple):
    """What `load_mnist` returns."""

    train: Split
    test: Split
    sha256: dict[str, str]  # of each original file when unpacked, by the names in `sources.FILES`


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
      dtype: of the arithmetic and the result, float32 or float64.

    Returns:
      An array of the shape of `images`.
    """
    x = jnp.asarray(images).astype(dtype)
    return (x / 255 - pixels.mean) / pixels.std


def check(split: Split) -> None:
    """Refuses a split with which nothing should be trained or tested.

    Compiled programs see sizes but no values, and would take a label of -1 for 9. This function
    looks at every label, so call it outside of them, once.

    Raises:
      ValueError: images and labels differ in number, there are none, or one of them is not what
        `Split` says.
    """
    check_sizes(split)
    labels = np.asarray(split.labels)
    if labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"labels must be 0 to 9, not {labels.min()} to {labels.max()}")


def check_sizes(split: Split) -> None:
    """Refuses a split whose shapes or dtypes are not those of `Split`, with a ValueError."""
    images, labels = split
    size = images.shape[0] if images.ndim else 0
    if images.shape != (size, 28, 28, 1) or images.dtype != np.uint8 or not size:
        found = f"{list(images.shape)} {images.dtype}"
        raise ValueError(f"images must be [N, 28, 28, 1] uint8, N at least 1, not {found}")
    if labels.shape != (size,) or labels.dtype.kind not in "iu":
        found = f"{list(labels.shape)} {labels.dtype}"
        raise ValueError(f"labels of {size} images must be [{size}] integers, not {found}")


def load_mnist(
    data_dir: str | os.PathLike[str] | None = None,
    mirror: str | os.PathLike[str] | None = None,
    *,
    dataset: DatasetName = "mnist",
) -> Dataset:
    """Loads both splits as numpy arrays, preparing the dataset first where it is absent.

    Args:
      data_dir: TFDS's data directory; None means `TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
      mirror: a directory with the four original files, to prepare the dataset from; None means
        `MNIST_MIRROR`. Without either the files are downloaded.
      dataset: which of the two datasets to load.

    Returns:
      The train and the test split, in the order of the original files, and their digests.

    Raises:
      DataError: the dataset is unknown, no source supplies it, or a SHA-256 does not match.
    """
    if dataset not in get_args(DatasetName):
        known = ", ".join(get_args(DatasetName))
        raise sources.DataError(f"the dataset must be one of {known}, not {dataset}", "dataset")
    # As in TFDS's constants.py, which would take a second to import.
    root = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    arrays = tfds.load(sources.local(root, "data_dir") / dataset / VERSION, mirror)
    train, test = (
        Split(arrays[f"{split}_images"][..., None], arrays[f"{split}_labels"].astype(np.int32))
        for split in ("train", "test")
    )
    return Dataset(train, test, sources.IDX_SHA256[dataset])


def hold_out(split: Split, count: int) -> tuple[Split, Split]:
    """Divides a training split into images to train on and images to test on.

    Args:
      split: `N` images in the order of the original file.
      count: the number of images to hold out, at least 1 and below `N`: the last ones in TFDS's
        order, which is none of the file's.

    Returns:
      The `N - count` images that are kept and the `count` others, in the order of the file. An
      order of training for the first is `train.epoch_order(..., held_out=count)`.
    """
    order = tfds.tfds_order("train", len(split.labels))
    kept, held = np.sort(order[:-count]), np.sort(order[-count:])
    return (
        Split(split.images[kept], split.labels[kept]),
        Split(split.images[held], split.labels[held]),
    )


@lru_cache
def places_in_tfds_order(size: int, held_out: int = 0) -> np.ndarray:
    """The places `[size]` int32 of a training split's images, in the order in which TFDS has them.

    Args:
      size: the number of images in the split, which are in the order of the original file.
      held_out: the number of images that `hold_out` took away before.
    """
    order = tfds.tfds_order("train", size + held_out)[:size]
    return np.argsort(np.argsort(order)).astype(np.int32)
