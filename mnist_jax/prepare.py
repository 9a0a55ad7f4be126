"""MNIST prepared once by TFDS, without TensorFlow, and then read in milliseconds.

In the data directory lie the stock dataset, such as `mnist/3.0.1`, and in its folder `mnist_jax`
the decoded arrays as raw bytes, without a header that no digest would cover, and the digests they
must have. The arrays keep TFDS's fixed order.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mnist_jax import sources
from mnist_jax.sources import DataError

log = logging.getLogger("mnist_jax")

# SHA-256 of the decoded arrays in TFDS's order, labels as uint8, computed from the original files
# whose checksums TFDS registers. They judge a dataset that another program prepared, too. The
# other two data sets have only the digests recorded when we prepared them from their originals.
DIGESTS: dict[str, dict[str, str]] = {
    "mnist": {
        "train_images": "59edd5ea35c0062957306cacba8ae47e71e2c56261f4ca10230aacc14943dd3b",
        "train_labels": "2736d7d4fa861b3eb5cf799ed3247c49ba46c5b056b3b4aceabec80fbf37b0f7",
        "test_images": "a85d8dffc6063fb89dcbc2122651701e7bbc18837f940fc9d76df48c224558ca",
        "test_labels": "927a9033bdc84a359f1400c691c7eaa8ab1838a0d81e3cc55ed2b4a1dfe95e69",
    }
}


def load(folder: Path, mirror: str | os.PathLike[str] | None = None) -> dict[str, np.ndarray]:
    """Reads a prepared dataset, preparing it first where it is absent.

    Args:
      folder: where it lies or will lie, `DATA_DIR/DATASET/VERSION` as TFDS has it.
      mirror: see `sources.fetch`.

    Returns:
      uint8 arrays by name: `train_images` [N, 28, 28, 1], `train_labels` [N], `test_images` and
      `test_labels`, in TFDS's order.

    Raises:
      DataError: the data cannot be had, or a digest is not what it must be.
    """
    root, dataset = folder.parents[1], folder.parent.name
    try:
        if root.exists() and not root.is_dir():
            raise DataError(f"the data directory {root} is no directory", "data_dir")
        if not folder.exists():
            _prepare(root, folder, dataset, mirror)
        expected = _expected(folder, dataset)
        if (arrays := _read_cache(folder, expected)) is None:
            log.info("data: decoding the prepared dataset in %s, once, about 10 s", folder)
            arrays = _decode(folder, dataset, expected)
            _write_cache(folder, arrays)
        else:
            log.info("data: prepared dataset in %s, decoded arrays from its cache", folder)
    except OSError as error:
        raise DataError(f"the data directory {root} cannot be used: {error}", "data_dir") from error
    return arrays


def digests(arrays: Mapping[str, np.ndarray | jax.Array]) -> dict[str, str]:
    """SHA-256 of each array's bytes as uint8, in hexadecimal."""
    return {name: _sha256(np.ascontiguousarray(a, np.uint8).data) for name, a in arrays.items()}


def _sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _stock(dataset: str) -> Any:
    """TFDS's own builder class."""
    import tensorflow_datasets as tfds  # here, not above: 1 s that a second start does not need

    names = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
    return getattr(tfds.image_classification, names[dataset])


def originals(dataset: str) -> dict[str, sources.Original]:
    """The address, size and checksum that TFDS registers for each file of `dataset`."""
    return {
        info.filename: sources.Original(url, int(info.size), info.checksum)
        for url, info in _stock(dataset).url_infos.items()
    }


def _prepare(root: Path, folder: Path, dataset: str, mirror: str | os.PathLike[str] | None) -> None:
    """Writes the stock dataset to `folder`, all or nothing: aside first, then renamed."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"incomplete.{dataset}.", dir=root) as aside:
        arrays = sources.fetch(dataset, originals(dataset), mirror)
        log.info("data: preparing %s with TFDS in %s, once, about 10 s", dataset, folder)
        prepared = _write_dataset(Path(aside), dataset, folder.name, arrays)
        cache = prepared / "mnist_jax"
        cache.mkdir()
        in_order = {name: array[_tfds_order(name, len(array))] for name, array in arrays.items()}
        files = {file.name: _sha256(file.read_bytes()) for file in prepared.glob(f"{dataset}-*")}
        (cache / "digests.json").write_text(json.dumps(digests(in_order) | files, indent=2))
        folder.parent.mkdir(exist_ok=True)
        try:
            prepared.rename(folder)
        except OSError:
            # Another process was faster; its dataset is judged like any other.
            if not folder.exists():
                raise


def _tfds_order(name: str, size: int) -> np.ndarray:
    """The fixed order in which TFDS stores a split: ascending md5 of split name and index."""
    split = name.split("_")[0]
    return np.asarray(
        sorted(range(size), key=lambda i: hashlib.md5(f"{split}{i}".encode()).digest())
    )


def _write_dataset(
    root: Path, dataset: str, version: str, arrays: Mapping[str, np.ndarray]
) -> Path:
    """Has TFDS write the dataset under `root`; returns its folder."""
    import tensorflow_datasets as tfds
    from PIL import Image

    stock: Any = _stock(dataset)

    # pyright cannot know the base class, which is chosen by name.
    class Builder(stock, skip_registration=True):  # pyright: ignore
        """The stock builder, less what needs TensorFlow: its download, GFile and PNG encoder."""

        name = dataset
        VERSION = tfds.core.Version(version)

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
            del dl_manager  # the files are here and checked
            return {split: self._generate_examples(split) for split in ("train", "test")}

        def _generate_examples(self, split: str) -> Iterator[Any]:
            pairs = zip(arrays[f"{split}_images"], arrays[f"{split}_labels"], strict=True)
            for index, (image, label) in enumerate(pairs):
                yield index, {"image": Image.fromarray(image), "label": int(label)}

    silence = io.StringIO()  # TFDS prints and draws progress bars; this library does neither
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        builder = Builder(data_dir=root, file_format="array_record")
        builder.download_and_prepare()
    return Path(builder.data_dir)


def _expected(folder: Path, dataset: str) -> dict[str, str]:
    """The digests that the arrays and, if we prepared it, the files in `folder` must have."""
    record = folder / "mnist_jax" / "digests.json"
    try:
        expected = {**json.loads(record.read_text())}
    except (OSError, ValueError, TypeError):
        expected = {}
    expected |= DIGESTS.get(dataset, {})
    if not expected.keys() >= sources.FILES.keys():
        raise DataError(
            f"{record}: no record of the digests of this dataset, so another program prepared it; "
            f"remove {folder} to have it prepared from its originals",
            "data_dir",
        )
    return expected


def _decode(folder: Path, dataset: str, expected: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Reads the prepared dataset through TFDS and checks what was read."""
    remedy = f"remove {folder} and start again to have it prepared anew"
    for file in (folder / name for name in expected if name not in sources.FILES):
        found = _sha256(file.read_bytes()) if file.exists() else "no file"
        if found != expected[file.name]:
            raise sources.mismatch(file, expected[file.name], found, remedy, "data_dir")
    arrays = {}
    for split in ("train", "test"):
        file = next(iter(sorted(folder.glob(f"{dataset}-{split}.*"))), folder)
        names = (f"{split}_images", f"{split}_labels")
        try:
            images, labels = zip(*_examples(folder, split), strict=True)
        except Exception as error:  # a damaged file fails anywhere in TFDS and array_record
            reason = f"nothing decodable ({type(error).__name__})"
            raise sources.mismatch(file, expected[names[0]], reason, remedy, "data_dir") from error
        arrays.update(zip(names, (np.stack(images), np.asarray(labels, np.uint8)), strict=True))
        for name, found in digests({name: arrays[name] for name in names}).items():
            if found != expected[name]:
                raise sources.mismatch(
                    f"{file} ({name})", expected[name], found, remedy, "data_dir"
                )
    return arrays


def _examples(folder: Path, split: str) -> Iterator[tuple[np.ndarray, int]]:
    """Yields image [28, 28, 1] uint8 and label."""
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
        examples = source.__getitems__(range(len(source)))  # at once: half the time of one by one
    for example in examples:
        yield np.asarray(Image.open(io.BytesIO(example["image"])))[..., None], example["label"]


def _tfrecords(files: Any) -> Iterator[bytes]:
    """TFRecord's frames: length as uint64, its CRC, the record, its CRC. SHA-256 comes later."""
    for file in files:
        with Path(file).open("rb") as stream:
            while header := stream.read(12):
                (length,) = struct.unpack("<Q4x", header)
                yield stream.read(length)
                stream.read(4)


def _read_cache(folder: Path, expected: Mapping[str, str]) -> dict[str, np.ndarray] | None:
    """The cached arrays, or None if any is missing or bad; a bad one is removed."""
    arrays = {}
    for name in sources.FILES:
        file = folder / "mnist_jax" / f"{name}.bin"
        try:
            arrays[name] = np.fromfile(file, np.uint8)
        except FileNotFoundError:
            return None
        if (found := _sha256(arrays[name].data)) != (digest := expected[name]):
            log.info("data: %s", sources.mismatch(file, digest, found, "rebuilt", "data_dir"))
            file.unlink(missing_ok=True)
            return None
        if name.endswith("images"):
            arrays[name] = arrays[name].reshape(-1, 28, 28, 1)
    return arrays


def _write_cache(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    cache = folder / "mnist_jax"
    try:
        cache.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="incomplete.", dir=cache) as aside:
            for name, array in arrays.items():
                array.tofile(file := Path(aside) / f"{name}.bin")
                file.replace(cache / file.name)
    except OSError as error:  # a shared, read-only dataset can be used all the same, only slower
        log.info("data: the decoded arrays cannot be cached in %s: %s", cache, error.strerror)
