"""Preparing, reading and caching, with small made-up files that pass for the originals."""

import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_sources import made_up, write_originals

from mnist_jax import data, prepare, sources
from mnist_jax.data import DataError, load_mnist

OURS = {"digests.json", *(f"{name}.bin" for name in sources.FILES)}


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    monkeypatch.delenv("MNIST_MIRROR", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


@pytest.fixture(scope="module")
def kmnist(tmp_path_factory) -> Iterator[Path]:
    """The folder of a prepared kmnist, to be copied, beside the `mirror` that it came from.

    In the whole module, the made-up files pass for the originals of every data set.
    """
    root = tmp_path_factory.mktemp("prepared")
    (root / "mirror").mkdir()
    registered = write_originals(root / "mirror", made_up())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "originals", lambda dataset: registered)
        patch.setattr(prepare, "DIGESTS", {})
        load_mnist(root, root / "mirror", dataset="kmnist")
        yield root / "kmnist" / data.VERSION


@pytest.fixture
def mirror(kmnist) -> Path:
    return kmnist.parents[1] / "mirror"


@pytest.fixture
def prepared(kmnist, tmp_path) -> Path:
    """The folder of a prepared kmnist that a test may spoil."""
    return shutil.copytree(kmnist, tmp_path / "data" / "kmnist" / data.VERSION)


def load(prepared: Path) -> dict[str, np.ndarray]:
    train, test = load_mnist(prepared.parents[1], dataset="kmnist")
    return dict(zip(sources.FILES, (*train, *test), strict=True))


def assert_made_up(arrays: dict[str, np.ndarray]) -> None:
    """The same examples in TFDS's order, which is no order of ours."""
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        assert images.dtype == np.uint8 and labels.dtype == np.int32
        assert images.shape == (len(labels), 28, 28, 1)
        originals = zip(made_up()[f"{split}_images"], made_up()[f"{split}_labels"], strict=True)
        expected = sorted((image.tobytes(), int(label)) for image, label in originals)
        found = zip(images, labels, strict=True)
        assert sorted((image.tobytes(), int(label)) for image, label in found) == expected


def assert_whole(root: Path, kmnist: Path) -> None:
    """The data directory holds one kmnist, all of it, and nothing else."""
    folder = root / "kmnist" / data.VERSION
    found = {path.relative_to(folder) for path in folder.rglob("*")}
    assert found == {path.relative_to(kmnist) for path in kmnist.rglob("*")}
    assert [path.name for path in root.iterdir()] == ["kmnist"]
    assert [path.name for path in (root / "kmnist").iterdir()] == [data.VERSION]


def assert_nothing(root: Path) -> None:
    """The data directory holds no part of a dataset."""
    assert list(root.iterdir()) == []


def assert_one_line(error: DataError, *parts: object) -> None:
    message = str(error)
    assert "\n" not in message and "--" not in message
    for part in parts:
        assert str(part) in message


@pytest.mark.parametrize("dataset", ["fashion_mnist", "kmnist"])
def test_prepares_from_a_mirror_and_then_needs_neither_mirror_nor_tfds(
    tmp_path, mirror, monkeypatch, capfd, caplog, dataset
):
    caplog.set_level(logging.INFO, logger="mnist_jax")
    first = load_mnist(tmp_path, mirror, dataset=dataset)
    assert "from the mirror" in caplog.text
    caplog.clear()
    monkeypatch.setattr(sources, "fetch", lambda *_: pytest.fail("the mirror was read"))
    monkeypatch.setattr(prepare, "_stock", lambda dataset: pytest.fail("TFDS was used"))
    monkeypatch.setattr(prepare, "_decode", lambda *_: pytest.fail("the cache was not used"))
    second = load_mnist(tmp_path, dataset=dataset)
    assert "from its cache" in caplog.text
    assert_made_up(dict(zip(sources.FILES, (*first[0], *first[1]), strict=True)))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert capfd.readouterr() == ("", "")  # the library never prints, nor lets TFDS print


def test_the_dataset_is_the_stock_one(prepared):
    import tensorflow_datasets as tfds

    arrays = load(prepared)
    root = prepared.parents[1]
    for split in ("train", "test"):
        source = tfds.data_source("kmnist", split=split, data_dir=root, download=False)
        images = np.stack([example["image"] for example in source])
        np.testing.assert_array_equal(images, arrays[f"{split}_images"])
        labels = [example["label"] for example in source]
        np.testing.assert_array_equal(labels, arrays[f"{split}_labels"])
    assert tfds.builder("kmnist", data_dir=root).info.full_name == f"kmnist/{data.VERSION}"
    info = json.loads((prepared / "dataset_info.json").read_text())
    assert info["moduleName"] == tfds.image_classification.KMNIST.__module__


def test_an_empty_folder_is_no_dataset(tmp_path, kmnist, mirror):
    folder = tmp_path / "kmnist" / data.VERSION
    folder.mkdir(parents=True)
    assert not prepare.is_prepared(folder)
    load_mnist(tmp_path, mirror, dataset="kmnist")
    assert_whole(tmp_path, kmnist)


@pytest.mark.parametrize("name", sources.FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove", "directory"])
def test_a_bad_cache_is_rebuilt(prepared, name, damage, caplog):
    caplog.set_level(logging.INFO, logger="mnist_jax")
    file = prepared / "mnist_jax" / f"{name}.bin"
    good = file.read_bytes()
    if damage in ("remove", "directory"):
        file.unlink()
    else:
        flipped = bytes([good[0] ^ 1]) + good[1:]
        file.write_bytes({"flip": flipped, "truncate": good[:-1], "empty": b""}[damage])
    if damage == "directory":
        file.mkdir()
        assert_made_up(load(prepared))
        assert f"{file}: is a directory" in caplog.text
        return
    bad = hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "No such file"
    assert_made_up(load(prepared))
    assert file.read_bytes() == good
    assert str(file) in caplog.text and bad in caplog.text
    assert {path.name for path in file.parent.iterdir()} == OURS


def test_what_the_cache_holds_is_not_written_again(prepared, monkeypatch):
    monkeypatch.setattr(prepare, "_cache", lambda *_: pytest.fail("the cache was written"))
    assert_made_up(load(prepared))


def test_a_dataset_that_cannot_be_written_to_is_used_all_the_same(prepared, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="mnist_jax")
    (file := prepared / "mnist_jax" / "train_images.bin").write_bytes(b"bad")
    monkeypatch.setattr(prepare.os, "access", lambda path, mode: False)  # root may write anywhere
    assert_made_up(load(prepared))
    assert file.read_bytes() == b"bad"
    (line,) = (record.getMessage() for record in caplog.records)
    assert str(file) in line and "each time" in line
    assert [path.name for path in prepared.parents[1].iterdir()] == ["kmnist"]


def test_a_cache_that_finds_no_room_is_done_without(prepared, caplog):
    caplog.set_level(logging.INFO, logger="mnist_jax")
    (prepared / "mnist_jax" / "train_images.bin").unlink()
    with files_of_at_most(2500):
        assert_made_up(load(prepared))
    assert "cannot be cached" in caplog.text
    assert {path.name for path in (prepared / "mnist_jax").iterdir()} < OURS
    assert_made_up(load(prepared))
    assert {path.name for path in (prepared / "mnist_jax").iterdir()} == OURS


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("name", ["kmnist-train.array_record-00000-of-00001", "dataset_info.json"])
def test_a_bad_dataset_names_file_digests_and_remedy(prepared, name, damage):
    (prepared / "mnist_jax" / "train_images.bin").unlink()
    file = prepared / name
    good = file.read_bytes()
    if damage == "remove":
        file.unlink()
    else:
        flipped = good[:99] + bytes([good[99] ^ 1]) + good[100:]
        file.write_bytes({"flip": flipped, "truncate": good[:-99]}[damage])
    with pytest.raises(DataError) as caught:
        load(prepared)
    found = hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "no file"
    expected = hashlib.sha256(good).hexdigest()
    assert_one_line(caught.value, file, expected, found, f"remove {prepared}")
    assert caught.value.about == ("data_dir",)


def test_a_dataset_of_another_program_is_judged_by_the_decoded_arrays(prepared, monkeypatch):
    train, test = load_mnist(prepared.parents[1], dataset="kmnist")
    shutil.rmtree(prepared / "mnist_jax")  # as TFDS itself would have prepared it
    with pytest.raises(DataError) as caught:
        load(prepared)
    assert_one_line(caught.value, prepared / "mnist_jax" / "digests.json", "absent", "remove")
    good = data.digests(train, test)
    monkeypatch.setitem(prepare.DIGESTS, "kmnist", good | {"test_labels": "0" * 64})
    with pytest.raises(DataError, match=rf"expected SHA-256 0+, found {good['test_labels']}"):
        load(prepared)
    monkeypatch.setitem(prepare.DIGESTS, "kmnist", good)
    assert_made_up(load(prepared))
    for file in prepared.glob("kmnist-train.*"):
        file.write_bytes(file.read_bytes()[:-99])
    shutil.rmtree(prepared / "mnist_jax")
    with pytest.raises(DataError, match=f"expected SHA-256 {good['train_images']}, found nothing"):
        load(prepared)


def test_reads_the_tfrecords_that_tfds_writes_by_default(prepared, monkeypatch):
    import tensorflow_datasets as tfds

    train, test = load_mnist(prepared.parents[1], dataset="kmnist")
    builder = tfds.builder_from_directory(prepared)
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    for split in ("train", "test"):
        records = list(builder.as_data_source(split, deserialize_method=raw))
        (old,) = prepared.glob(f"kmnist-{split}.*")
        frames = (struct.pack("<Q4x", len(record)) + record + bytes(4) for record in records)
        old.with_name(old.name.replace("array_record", "tfrecord")).write_bytes(b"".join(frames))
        old.unlink()
    info = prepared / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    shutil.rmtree(prepared / "mnist_jax")
    monkeypatch.setitem(prepare.DIGESTS, "kmnist", data.digests(train, test))
    assert_made_up(load(prepared))


@st.composite
def damages(draw):
    """A function that spoils some bytes of a file, wherever they lie."""
    start, length = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(1, 40))
    mask = draw(st.integers(1, 255) | st.none())  # None cuts the bytes out

    def damage(old: bytes) -> bytes:
        first = int(start * len(old))
        middle = old[first : first + length]
        middle = b"" if mask is None else bytes(byte ^ mask for byte in middle)
        return old[:first] + middle + old[first + length :]

    return damage


@pytest.mark.parametrize("prepared_by", ["us", "us, cache lost", "another program"])
@given(data=st.data())
@settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_damaged_bytes_are_found_out_wherever_they_lie(kmnist, prepared_by, data):
    files = sorted(path.relative_to(kmnist) for path in kmnist.rglob("*") if path.is_file())
    caches = [file for file in files if file.suffix == ".bin"]
    ours = [file for file in files if file.parent.name == "mnist_jax"]
    lost = {"us": [], "us, cache lost": caches, "another program": ours}[prepared_by]
    victim = data.draw(st.sampled_from([file for file in files if file not in lost]))
    damage = data.draw(damages())
    good, _ = prepare.read(kmnist)
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        if prepared_by == "another program":
            patch.setitem(prepare.DIGESTS, "kmnist", prepare.digests(good))
        folder = shutil.copytree(kmnist, Path(root) / "kmnist" / kmnist.name)
        for file in lost:
            (folder / file).unlink()
        (folder / victim).write_bytes(damage((folder / victim).read_bytes()))
        try:
            found = prepare.load(folder)
        except DataError as error:
            assert_one_line(error, f"remove {folder}")
            assert victim.name in str(error) or prepared_by == "another program"
        else:
            assert victim.name != "digests.json"
            jax.tree.map(np.testing.assert_array_equal, found, good)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Any write beyond `size` bytes of a file fails, in C++ too: like a full disk, for anyone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 1, 31, 1000, 2000, 100_000])
def test_a_full_disk_leaves_nothing(tmp_path, kmnist, mirror, size):
    with files_of_at_most(size), pytest.raises(DataError) as caught:
        load_mnist(tmp_path, mirror, dataset="kmnist")
    assert_one_line(caught.value, tmp_path, "File too large")
    assert caught.value.about == ("data_dir",)
    assert_nothing(tmp_path)
    load_mnist(tmp_path, mirror, dataset="kmnist")
    assert_whole(tmp_path, kmnist)


def test_a_disk_that_keeps_something_else_is_found_out(tmp_path, mirror, monkeypatch):
    write = prepare._write_dataset

    def forgetful(root, dataset, version, arrays):
        write(root, dataset, version, arrays | {"test_labels": arrays["test_labels"][::-1]})

    monkeypatch.setattr(prepare, "_write_dataset", forgetful)
    with pytest.raises(DataError, match="did not keep what was written"):
        load_mnist(tmp_path, mirror, dataset="kmnist")
    assert_nothing(tmp_path)


def test_a_bad_mirror_leaves_nothing(tmp_path, mirror):
    (empty := tmp_path / "mirror").mkdir()
    with pytest.raises(DataError, match="no file"):
        load_mnist(tmp_path / "data", empty, dataset="kmnist")
    assert_nothing(tmp_path / "data")


@pytest.mark.parametrize("moment", ["encoding", "flushing"])
def test_an_interrupted_preparation_leaves_nothing(tmp_path, kmnist, mirror, monkeypatch, moment):
    def interrupt(*_):
        raise KeyboardInterrupt

    target = {"encoding": (Image, "fromarray"), "flushing": (prepare.os, "fsync")}[moment]
    with monkeypatch.context() as patch:
        patch.setattr(*target, interrupt)
        with pytest.raises(KeyboardInterrupt):
            load_mnist(tmp_path, mirror, dataset="kmnist")
    assert_nothing(tmp_path)
    load_mnist(tmp_path, mirror, dataset="kmnist")
    assert_whole(tmp_path, kmnist)


def kill_before(operation: int, root: Path, registered: dict, mirror: Path) -> None:
    """Prepares kmnist in a process of its own, which ends before a given change of the disk."""
    prepare.originals = lambda dataset: registered
    prepare.DIGESTS.clear()
    changes = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal changes
        if event == "open" and not (arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            return
        changes += os.fspath(root) in os.fsdecode(arguments[0])
        if changes == operation:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    load_mnist(root, mirror, dataset="kmnist")


@pytest.mark.parametrize("start", ["nothing", "a lost cache"])
def test_a_preparation_killed_at_any_moment_is_made_good(tmp_path, kmnist, mirror, start):
    context = multiprocessing.get_context("forkserver")  # no thread of JAX's is forked
    slow_imports = ["mnist_jax.data", "tensorflow_datasets.image_classification", "hypothesis"]
    context.set_forkserver_preload(slow_imports)
    registered = prepare.originals("kmnist")
    operation, killed = 0, True
    while killed:
        operation += 1
        root = tmp_path / str(operation)
        if start == "a lost cache":
            folder = shutil.copytree(kmnist, root / "kmnist" / data.VERSION)
            for name in ("train_images", "test_images"):
                (folder / "mnist_jax" / f"{name}.bin").unlink()
        process = context.Process(target=kill_before, args=(operation, root, registered, mirror))
        process.start()
        process.join()
        killed = process.exitcode == -signal.SIGKILL
        assert killed or process.exitcode == 0
        train, test = load_mnist(root, mirror, dataset="kmnist")
        assert_made_up(dict(zip(sources.FILES, (*train, *test), strict=True)))
        (root / prepare.LOCK).unlink(missing_ok=True)  # all that may be left where all was done
        assert_whole(root, kmnist)
    assert operation > {"nothing": 30, "a lost cache": 7}[start]


def test_of_two_that_prepare_at_once_one_waits(tmp_path, kmnist, mirror, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="mnist_jax")
    writing, waiting = threading.Event(), threading.Event()
    write = prepare._write_dataset
    results = []

    def slow(*arguments):
        writing.set()
        assert waiting.wait(60)
        write(*arguments)

    class Handler(logging.Handler):
        def emit(self, record):
            if "waiting for another" in record.getMessage():
                monkeypatch.setattr(prepare, "_write_dataset", lambda *_: pytest.fail("twice"))
                waiting.set()

    monkeypatch.setattr(prepare, "_write_dataset", slow)
    prepare.log.addHandler(handler := Handler())
    try:
        first = threading.Thread(
            target=lambda: results.append(load_mnist(tmp_path, mirror, dataset="kmnist"))
        )
        first.start()
        assert writing.wait(60)
        results.append(load_mnist(tmp_path, mirror, dataset="kmnist"))
        first.join()
    finally:
        prepare.log.removeHandler(handler)
    for train, test in results:
        assert_made_up(dict(zip(sources.FILES, (*train, *test), strict=True)))
    assert len(results) == 2
    assert_whole(tmp_path, kmnist)


def test_tfds_leaves_no_temporary_folder(tmp_path, mirror, monkeypatch):
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    load_mnist(tmp_path / "data", mirror, dataset="kmnist")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("name", ["Ziffern für 数字 🙂", "[0-9]*?", "a@2 %s {x} #", "two\nlines"])
def test_any_name_of_a_data_directory(tmp_path, kmnist, mirror, name):
    root = tmp_path / name
    load_mnist(root, mirror, dataset="kmnist")
    assert_whole(root, kmnist)
    for file in root.rglob("*.bin"):
        file.unlink()
    assert_made_up(load(root / "kmnist" / data.VERSION))


def test_a_name_that_tfds_cannot_open(tmp_path, mirror, kmnist):
    root = tmp_path / os.fsdecode(b"\xff")  # as any name beyond ASCII in an ASCII locale
    with pytest.raises(DataError, match="UTF-8") as caught:
        load_mnist(root, mirror, dataset="kmnist")
    assert_one_line(caught.value, tmp_path, "\\udcff")
    assert not root.exists()
    shutil.copytree(kmnist.parents[1], root)
    load_mnist(root, dataset="kmnist")  # its cache needs no TFDS
    (root / "kmnist" / data.VERSION / "mnist_jax" / "train_images.bin").unlink()
    with pytest.raises(DataError, match="UTF-8"):
        load_mnist(root, dataset="kmnist")


def test_a_data_directory_that_is_a_file(tmp_path, mirror):
    file = tmp_path / "file"
    file.write_text("mine")
    for data_dir in (file, file / "below"):
        with pytest.raises(DataError, match="Not a directory") as caught:
            load_mnist(data_dir, mirror, dataset="kmnist")
        assert_one_line(caught.value, f"the data directory {data_dir}", f"directory, {data_dir}")
        assert caught.value.about == ("data_dir",)
    assert file.read_text() == "mine"


def test_a_data_directory_with_too_long_a_name(tmp_path, mirror):
    with pytest.raises(DataError, match="File name too long") as caught:
        load_mnist(tmp_path / ("x" * 300), mirror, dataset="kmnist")
    assert_one_line(caught.value)


def test_a_data_directory_that_cannot_be_written_to(tmp_path, mirror, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DataError, match=r"data directory.*Permission denied") as caught:
        load_mnist(tmp_path / "data", mirror, dataset="kmnist")
    assert_one_line(caught.value)


def test_loading_from_the_cache_imports_no_tfds(prepared):
    code = (
        "import sys; from mnist_jax import prepare; from mnist_jax.data import load_mnist;"
        f"load_mnist({str(prepared.parents[1])!r}, dataset='kmnist');"
        "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
