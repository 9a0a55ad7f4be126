"""Has TFDS prepare MNIST once, without TensorFlow, and then reads it in milliseconds.

The data directory holds TFDS's stock dataset, in a folder such as `mnist/3.0.1`. In that folder,
`mnist_jax` holds the decoded arrays and the SHA-256 digests that they must have. The arrays are raw
bytes in TFDS's fixed order, without a header, because no digest would cover a header.

A dataset appears whole or not at all: it is written under another name, read back, forced onto the
disk and only then renamed. A file lock lets one process at a time write in a data directory. So
what an unfinished process left there belongs to no running one, and the next process removes it.

While TFDS writes, what other threads of the process print is lost.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import struct
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import jax
import numpy as np

from mnist_jax import sources
from mnist_jax.disk import INCOMPLETE, open_regular, read_regular, sync_directory, write_whole
from mnist_jax.sources import FILES, DataError

log = logging.getLogger("mnist_jax")

# SHA-256 of the decoded arrays in TFDS's order, labels as uint8, computed from the original files
# whose checksums TFDS registers. They also check a dataset that another program prepared. For
# KMNIST there are only the digests that are recorded when it is prepared from its original files.
DIGESTS: dict[str, dict[str, str]] = {
    "mnist": {
        "train_images": "59edd5ea35c0062957306cacba8ae47e71e2c56261f4ca10230aacc14943dd3b",
        "train_labels": "2736d7d4fa861b3eb5cf799ed3247c49ba46c5b056b3b4aceabec80fbf37b0f7",
        "test_images": "a85d8dffc6063fb89dcbc2122651701e7bbc18837f940fc9d76df48c224558ca",
        "test_labels": "927a9033bdc84a359f1400c691c7eaa8ab1838a0d81e3cc55ed2b4a1dfe95e69",
    },
    "fashion_mnist": {
        "train_images": "d6f7acb83157a75006f04dbae6822f88b1bb1651cef953707c39831d938776a3",
        "train_labels": "d9cabb237f24364b504cbbac96fd14c13e12dfb57fe27ee9e1c469b4539a4b4c",
        "test_images": "a84f70bc4eaa1b2c5e671e99525a60f9dbe89328fa62013e4aa30ba11800c4df",
        "test_labels": "23f3e82766329d177b7800d1745a355d60ee8031a5c5a684fea01b1983f2d170",
    },
}

OURS = "mnist_jax"  # the folder beside TFDS's files
LOCK = ".mnist_jax.lock"
ASIDE = "incomplete.mnist_jax"
_SILENCE = threading.Lock()  # two threads that redirect in turn would leave the streams redirected


class _Record(NamedTuple):
    """SHA-256 of what a prepared dataset consists of."""

    arrays: dict[str, str]  # by the names in `FILES`
    files: dict[str, str]  # by file name; empty where another program prepared the dataset


def load(folder: Path, mirror: str | os.PathLike[str] | None = None) -> dict[str, np.ndarray]:
    """Reads a prepared dataset, preparing it first where it is absent.

    Args:
      folder: where the dataset lies or will lie, `DATA_DIR/DATASET/VERSION` as in TFDS.
      mirror: a directory with the four original files; None means `MNIST_MIRROR`.

    Returns:
      uint8 arrays by name: `train_images` [N, 28, 28, 1], `train_labels` [N], `test_images` and
      `test_labels`, in TFDS's order.

    Raises:
      DataError: no source supplies the data, or a digest is not what it must be.
    """
    if not is_prepared(folder):
        prepare(folder, mirror)
    arrays, cached = read(folder)
    if not cached:
        _cache(folder, arrays)
    return arrays


def is_prepared(folder: Path) -> bool:
    """Whether `folder` holds anything. Its content is not checked; an empty folder does not count.

    Raises:
      DataError: something on the way to `folder` is no directory, or cannot be searched.
    """
    with _in_data_directory(folder):
        try:
            return any(folder.iterdir())
        except FileNotFoundError:
            return False


def prepare(folder: Path, mirror: str | os.PathLike[str] | None = None) -> None:
    """Fetches the original files and has TFDS write the dataset; arguments as in `load`.

    Raises:
      DataError: the data cannot be fetched or written. No part of a dataset is left then.
    """
    root, dataset = folder.parents[1], folder.parent.name
    _check_name(folder)
    with _in_data_directory(folder):
        root.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if is_prepared(folder):  # by the process that held the lock before
            return
        arrays = sources.fetch(dataset, originals(dataset), mirror)
        log.info("data: preparing %s with TFDS in %s, once, about 10 s", dataset, folder)
        aside = root / ASIDE
        with _in_data_directory(folder):
            shutil.rmtree(aside, ignore_errors=True)
            try:
                aside.mkdir()
                _write_dataset(aside, dataset, folder.name, arrays)
                _complete(aside, arrays)
                folder.parent.mkdir(exist_ok=True)
                aside.rename(folder)
                sync_directory(folder.parent)
                sync_directory(root)
            finally:
                shutil.rmtree(aside, ignore_errors=True)


def read(folder: Path) -> tuple[dict[str, np.ndarray], bool]:
    """Reads a prepared dataset and writes nothing.

    Args:
      folder: as in `load`.

    Returns:
      The arrays that `load` returns, and whether they came from the cache of decoded arrays.

    Raises:
      DataError: there is no dataset, or a digest is not what it must be.
    """
    record = _recorded(folder)
    if isinstance(arrays := _cached(folder, record), dict):
        log.info("data: prepared dataset in %s, decoded arrays from its cache", folder)
        return arrays, True
    _check_name(folder)
    once = "once" if os.access(folder, os.W_OK) else "each time, as nothing can be written there"
    log.info("data: decoding the dataset in %s, about 5 s, %s: %s", folder, once, arrays)
    remedy = f"remove {folder} to have it prepared anew"
    return _decode(folder, record, remedy), False


def digests(arrays: Mapping[str, np.ndarray | jax.Array]) -> dict[str, str]:
    """SHA-256 of each array's bytes as uint8, in hexadecimal."""
    return {name: _sha256(np.ascontiguousarray(a, np.uint8).data) for name, a in arrays.items()}


def tfds_order(split: str, size: int) -> np.ndarray:
    """The fixed order in which TFDS stores a split: ascending MD5 of the split's name and an index.

    Args:
      split: `train` or `test`.
      size: `N`, the number of images in the split.

    Returns:
      `[N]`: the place in the original file of each image, in the order in which TFDS stores them.
    """
    return np.asarray(
        sorted(range(size), key=lambda i: hashlib.md5(f"{split}{i}".encode()).digest())
    )


def originals(dataset: str) -> dict[str, sources.Original]:
    """The address, size and checksum that TFDS registers for each file of `dataset`."""
    return {
        info.filename: sources.Original(url, int(info.size), info.checksum)
        for url, info in _stock(dataset).url_infos.items()
    }


def _stock(dataset: str) -> Any:
    """TFDS's own builder class of a dataset."""
    import tensorflow_datasets as tfds  # here, not above: 1 s that a second start does not need

    names = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
    return getattr(tfds.image_classification, names[dataset])


@contextlib.contextmanager
def _in_data_directory(folder: Path) -> Iterator[None]:
    """Turns an OSError in the data directory into a DataError.

    Nothing is logged inside of it, since an error of the log is not one of the data directory.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.filename is not None:
            reason += f", {error.filename}"
        root = folder.parents[1]
        message = f"the data directory {root} cannot be used: {reason}"
        raise DataError(message, "data_dir") from error


def _check_name(folder: Path) -> None:
    """Refuses a folder that TFDS and array_record would not find, as they take names for UTF-8."""
    if os.fsencode(folder) != str(folder).encode(errors="replace"):
        encoding = sys.getfilesystemencoding()
        raise DataError(
            f"the data directory {folder.parents[1]} has a name that is not UTF-8 in this locale, "
            f"whose encoding is {encoding}; PYTHONUTF8=1 makes it UTF-8",
            "data_dir",
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Waits until no other process writes in the data directory."""
    root = folder.parents[1]
    # Readable and writable by all, as a data directory may be shared by several users.
    lock = filelock.FileLock(path := root / LOCK, mode=0o666)
    with _in_data_directory(folder), contextlib.suppress(filelock.Timeout):
        lock.acquire(blocking=False)
    if not lock.is_locked:
        log.info("data: waiting for another process that prepares data in %s", root)
        with _in_data_directory(folder):
            lock.acquire()
    try:
        yield
    finally:
        # The file is removed before the lock is released: a process that has it open by then finds
        # that it has no name any more, and tries again with a new one.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


def _write_dataset(
    folder: Path, dataset: str, version: str, arrays: Mapping[str, np.ndarray]
) -> None:
    """Has TFDS write the files of the dataset, and puts them into `folder`."""
    import tensorflow_datasets as tfds
    from PIL import Image

    stock: Any = _stock(dataset)

    # pyright cannot know the base class, which is chosen by name.
    class Builder(stock, skip_registration=True):  # pyright: ignore
        """The stock builder without what needs TensorFlow: its download, GFile and PNG encoder."""

        __module__ = stock.__module__  # TFDS writes it into the dataset
        name = dataset
        VERSION = tfds.core.Version(version)

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

    root = folder / "tfds"
    silence = io.StringIO()  # TFDS prints and draws progress bars; this library does neither
    with _SILENCE, contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        try:
            Builder(data_dir=root, file_format="array_record").download_and_prepare()
        except Exception as error:  # TFDS turns a full disk, for one, into other exceptions
            raise OSError(f"TFDS could not write {dataset}: {error}") from error
    for file in (root / dataset / version).iterdir():
        file.rename(folder / file.name)
    shutil.rmtree(root)


def _complete(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Reads TFDS's files back, adds our record and cache, and forces everything onto the disk."""
    in_order = {
        name: array[tfds_order(name.split("_")[0], len(array))] for name, array in arrays.items()
    }
    files = {file.name: _sha256(read_regular(file)) for file in folder.iterdir()}
    record = _Record(digests(in_order), files)
    written = _decode(folder, record, "the disk did not keep what was written")
    for name in files:
        with open_regular(folder / name) as file:
            os.fsync(file.fileno())
    (folder / OURS).mkdir()
    write_whole(folder / OURS / "digests.json", _dump(record).encode())
    _write_cache(folder / OURS, written)
    sync_directory(folder)


def _dump(record: _Record) -> str:
    entries = record._asdict()
    checksum = _sha256(json.dumps(entries).encode())
    return json.dumps(entries | {"checksum": checksum}, indent=2)


def _recorded(folder: Path) -> _Record:
    """The digests recorded when the dataset was prepared; those in `DIGESTS` take precedence."""
    dataset = folder.parent.name
    file = folder / OURS / "digests.json"
    try:
        text = read_regular(file).decode()
        entries = json.loads(text)
        record = _Record(entries["arrays"], entries["files"])
        if text != _dump(record):
            raise ValueError("its checksum is another")
    except (OSError, ValueError, TypeError, KeyError) as error:
        if dataset in DIGESTS:
            return _Record(DIGESTS[dataset], {})
        raise DataError(
            f"{file} is absent or damaged, so that nothing tells whether the data are right; "
            f"remove {folder} to have it prepared from the original files",
            "data_dir",
        ) from error
    return record._replace(arrays=record.arrays | DIGESTS.get(dataset, {}))


def _decode(folder: Path, record: _Record, remedy: str) -> dict[str, np.ndarray]:
    """Reads the prepared dataset through TFDS and checks what is read."""

    def bad(file: object, expected: str, found: str) -> DataError:
        return sources.mismatch(file, expected, found, remedy, "data_dir")

    # The files are checked before TFDS sees them, because damaged ones could make it do anything.
    for file, expected in ((folder / name, digest) for name, digest in record.files.items()):
        try:
            found = _sha256(read_regular(file))
        except OSError as error:
            raise bad(file, expected, f"no file ({error.strerror})") from error
        if found != expected:
            raise bad(file, expected, found)
    arrays = {}
    for split in ("train", "test"):
        file = next(iter(sorted(folder.glob(f"*-{split}.*"))), folder)
        names = (f"{split}_images", f"{split}_labels")
        try:
            images, labels = zip(*_examples(folder, split), strict=True)
            read = np.stack(images), np.asarray(labels, np.uint8)
        except Exception as error:  # a damaged file fails anywhere in TFDS and array_record
            kind = type(error).__name__
            reason = f"nothing that dataset_info.json and features.json describe ({kind})"
            raise bad(file, record.arrays[names[0]], reason) from error
        arrays.update(zip(names, read, strict=True))
        for name, found in digests({name: arrays[name] for name in names}).items():
            if found != record.arrays[name]:
                raise bad(f"{file} ({name})", record.arrays[name], found)
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
        examples = source.__getitems__(range(len(source)))  # half the time of one by one
    for example in examples:
        yield np.asarray(Image.open(io.BytesIO(example["image"])))[..., None], example["label"]


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


def _cached(folder: Path, record: _Record) -> dict[str, np.ndarray] | str:
    """The cached arrays, or a sentence about what is wrong with one of them."""
    arrays = {}
    for name in FILES:
        file = folder / OURS / f"{name}.bin"
        try:
            with open_regular(file) as stream:
                array = np.fromfile(stream, np.uint8)
        except OSError as error:
            return f"{file}: {error.strerror}"
        if (found := _sha256(array.data)) != (expected := record.arrays[name]):
            return f"{file}: expected SHA-256 {expected}, found {found}"
        arrays[name] = array.reshape(-1, 28, 28, 1) if name.endswith("images") else array
    return arrays


def _cache(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the cache. If that is impossible, the next start decodes the dataset again."""
    if not os.access(folder, os.W_OK):
        return
    ours = folder / OURS
    try:
        with _locked(folder), _in_data_directory(folder):
            ours.mkdir(exist_ok=True)
            _write_cache(ours, arrays)
    except DataError as error:
        log.info("data: the decoded arrays cannot be cached: %s", error)


def _write_cache(ours: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the files of the cache that are absent or wrong."""
    # A process that was killed here left a file unwritten, so the next start comes here and cleans.
    for left in ours.glob(f"*{INCOMPLETE}"):
        left.unlink()
    for name, array in arrays.items():
        file, content = ours / f"{name}.bin", array.tobytes()
        if not file.is_file() or read_regular(file) != content:
            write_whole(file, content)


def _sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
