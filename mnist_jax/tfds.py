"""Has TFDS prepare MNIST once, without TensorFlow, and then reads it in milliseconds.

The data directory holds TFDS's stock dataset, in a folder such as `mnist/3.0.1`. TFDS stores the
images in an order of its own and as PNGs, which take seconds to decode. So the folder `mnist_jax`
in it holds what was decoded: the four original files as they were before they were packed, under
their own names. Everything is checked by the SHA-256 of these.

A dataset appears whole or not at all: it is written under another name, forced onto the disk and
only then renamed. A file lock lets one process at a time prepare a dataset.
"""

import contextlib
import hashlib
import io
import logging
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mnist_jax import sources, store
from mnist_jax.sources import FILES, DataError

log = logging.getLogger("mnist_jax")

OURS = "mnist_jax"  # the folder beside TFDS's files
ASIDE = "incomplete.mnist_jax"  # where a dataset lies while it is written


def load(folder: Path, mirror: str | os.PathLike[str] | None = None) -> dict[str, np.ndarray]:
    """Reads a prepared dataset, preparing it first where it is absent.

    Args:
      folder: where the dataset lies or will lie, `DATA_DIR/DATASET/VERSION` as in TFDS.
      mirror: a directory with the four original files; None means `MNIST_MIRROR`.

    Returns:
      uint8 arrays by name: `train_images` [N, 28, 28], `train_labels` [N], `test_images` and
      `test_labels`, in the order of the original files.

    Raises:
      DataError: no source supplies the data, or a digest is not what it must be.
    """
    dataset = folder.parent.name
    try:
        arrays = {
            name: sources.read(dataset, name, folder / OURS / file.removesuffix(".gz"))
            for name, file in FILES.items()
        }
        log.info("data: prepared dataset in %s, decoded arrays from its cache", folder)
        return arrays
    except DataError as error:
        missing = error
    with _in_data_directory(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        is_prepared = folder.is_dir() and any(folder.iterdir())
    if not is_prepared:
        _prepare(folder, mirror)
    log.info("data: decoding the dataset in %s, once, about 5 s: %s", folder, missing)
    arrays = _decode(folder)
    _cache(folder, arrays)
    return arrays


@lru_cache
def tfds_order(split: str, size: int) -> np.ndarray:
    """The fixed order in which TFDS stores a split: ascending MD5 of the split's name and an index.

    Args:
      split: `train` or `test`.
      size: `N`, the number of images in the split.

    Returns:
      `[N]` int32: the place in the original file of each image, in the order in which TFDS stores
      them. It may not be written.
    """
    places = sorted(range(size), key=lambda i: hashlib.md5(f"{split}{i}".encode()).digest())
    order = np.asarray(places, np.int32)
    order.flags.writeable = False
    return order


@contextlib.contextmanager
def _in_data_directory(folder: Path) -> Iterator[None]:
    """Turns what goes wrong in the data directory into a DataError."""
    try:
        yield
    except (OSError, store.StoreError) as error:
        message = f"the data directory {folder.parents[1]} cannot be used: {error}"
        raise DataError(message, "data_dir") from error


def _prepare(folder: Path, mirror: str | os.PathLike[str] | None) -> None:
    """Fetches the original files and has TFDS write the dataset; no part of one is left if not."""
    dataset, aside = folder.parent.name, folder.with_name(ASIDE)
    with _in_data_directory(folder), store.locked(folder.parent, wait=True):
        if folder.is_dir() and any(folder.iterdir()):  # another process has prepared it meanwhile
            return
        arrays = sources.fetch(dataset, mirror)
        log.info("data: preparing %s with TFDS in %s, once, about 10 s", dataset, folder)
        shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
        try:
            _write_dataset(aside, folder, arrays)
            for file in aside.iterdir():
                with store.open_regular(file) as opened:
                    os.fsync(opened.fileno())
            store.sync_directory(aside)
            aside.rename(folder)
            store.sync_directory(folder.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _write_dataset(aside: Path, folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Has TFDS write the files that belong into `folder` into `aside`."""
    import tensorflow_datasets as tfds  # here, not above: 1 s that a second start does not need
    from PIL import Image

    stock: Any = tfds.builder_cls(folder.parent.name)

    # pyright cannot know the base class, which is chosen by name.
    class Builder(stock, skip_registration=True):  # pyright: ignore
        """The stock builder without what needs TensorFlow: its download, GFile and PNG encoder."""

        __module__ = stock.__module__  # TFDS writes it into the dataset
        name = folder.parent.name
        VERSION = tfds.core.Version(folder.name)

        def _info(self) -> Any:
            info = super()._info()
            # Otherwise it looks for Google's bucket and leaves an empty temporary folder behind.
            info.initialize_from_bucket = lambda: None
            return info

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
            del dl_manager  # the files are here and checked
            return {split: self._generate_examples(split) for split in ("train", "test")}

        def _generate_examples(self, split: str) -> Iterator[Any]:
            pairs = zip(arrays[f"{split}_images"], arrays[f"{split}_labels"], strict=True)
            for index, (image, label) in enumerate(pairs):
                yield index, {"image": Image.fromarray(image), "label": int(label)}

    root = aside / "tfds"
    silence = io.StringIO()  # TFDS prints and draws progress bars; this library does neither
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        try:
            Builder(data_dir=root, file_format="array_record").download_and_prepare()
        except Exception as error:  # TFDS turns a full disk, for one, into other exceptions
            raise OSError(f"TFDS could not write the dataset: {error}") from error
    for file in (root / folder.parent.name / folder.name).iterdir():
        file.rename(aside / file.name)
    shutil.rmtree(root)


def _decode(folder: Path) -> dict[str, np.ndarray]:
    """Reads the prepared dataset through TFDS and checks what is read."""
    arrays = {}
    remedy = f"remove {folder} to have it prepared anew"
    for split in ("train", "test"):
        try:
            examples = list(_examples(folder, split))
        except Exception as error:  # a damaged file fails anywhere in TFDS and array_record
            reason = str(error).partition("\n")[0]
            message = f"the dataset in {folder} cannot be read ({reason}); {remedy}"
            raise DataError(message, "data_dir") from error
        images = np.empty((len(examples), 28, 28), np.uint8)
        labels = np.empty(len(examples), np.uint8)
        for place, (image, label) in zip(tfds_order(split, len(examples)), examples, strict=True):
            images[place], labels[place] = image, label
        for name, array in ((f"{split}_images", images), (f"{split}_labels", labels)):
            what = f"{name} in {folder}"
            sources.check(folder.parent.name, name, sources.idx(array), what, remedy, "data_dir")
            arrays[name] = array
    return arrays


def _examples(folder: Path, split: str) -> Iterator[tuple[np.ndarray, int]]:
    """Yields image [28, 28] uint8 and label, in TFDS's order."""
    import tensorflow_datasets as tfds
    from PIL import Image

    examples: Any
    builder: Any = tfds.builder_from_directory(folder)
    # TFDS would decode the same PNGs with PIL too, after a warning that OpenCV is missing.
    png = {"image": tfds.decode.SkipDecoding()}
    if builder.info.file_format.value == "tfrecord":  # what TFDS writes by default
        records = _tfrecords(builder.info.splits[split].filepaths)
        features = builder.info.features
        examples = (features.deserialize_example_np(record, decoders=png) for record in records)
    else:
        source = builder.as_data_source(split, decoders=png)
        examples = source.__getitems__(range(len(source)))  # half the time of one by one
    for example in examples:
        yield np.asarray(Image.open(io.BytesIO(example["image"]))), example["label"]


def _tfrecords(files: Any) -> Iterator[bytes]:
    """Yields the records of TFRecord files.

    A frame is the record's length as uint64, a CRC of that, the record, and a CRC of the record.
    The CRCs are not checked, because the decoded arrays are checked by SHA-256 later.
    """
    for file in files:
        with Path(file).open("rb") as stream:
            while header := stream.read(12):
                (length,) = struct.unpack("<Q4x", header)
                yield stream.read(length)
                stream.read(4)


def _cache(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes what was decoded. If that is impossible, the next start decodes it again."""
    try:
        with _in_data_directory(folder), store.locked(folder.parent, wait=True):
            (folder / OURS).mkdir(exist_ok=True)
            for name, file in FILES.items():
                path = folder / OURS / file.removesuffix(".gz")
                store.write_whole(path, sources.idx(arrays[name]))
    except DataError as error:
        log.info("data: the decoded arrays cannot be kept: %s", error)
