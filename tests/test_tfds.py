"""Preparing, reading and caching, with small made-up files that pass for the originals."""

import contextlib
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
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image
from test_sources import assert_same, digests, made_up, write_originals

from mnist_jax import data, sources, tfds
from mnist_jax.sources import DataError

OURS = {file.removesuffix(".gz") for file in sources.FILES.values()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Iterator[Path]:
    """The folder of a prepared data set, to be copied, beside the `mirror` that it came from.

    In the whole module, the made-up files pass for the originals of both data sets.
    """
    root = tmp_path_factory.mktemp("prepared")
    write_originals(root / "mirror", made_up())
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MNIST_MIRROR", raising=False)
        known = dict.fromkeys(("mnist", "fashion_mnist"), digests(made_up()))
        patch.setattr(sources, "IDX_SHA256", known)
        folder = root / "mnist" / data.VERSION
        tfds.load(folder, root / "mirror")
        yield folder


@pytest.fixture
def mirror(whole) -> Path:
    return whole.parents[1] / "mirror"


@pytest.fixture
def prepared(whole, tmp_path) -> Path:
    """The folder of a prepared data set that a test may spoil."""
    return shutil.copytree(whole, tmp_path / "data" / "mnist" / data.VERSION)


@pytest.fixture
def absent(tmp_path) -> Path:
    """The folder of a data set that is not prepared yet."""
    return tmp_path / "data" / "mnist" / data.VERSION


def assert_whole(folder: Path, whole: Path) -> None:
    """The data directory holds one data set, all of it, and nothing else."""
    found = {path.relative_to(folder) for path in folder.rglob("*")}
    assert found == {path.relative_to(whole) for path in whole.rglob("*")}
    assert [path.name for path in folder.parent.iterdir()] == [data.VERSION]


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_prepares_from_a_mirror_and_then_needs_neither_mirror_nor_tfds(
    tmp_path, mirror, monkeypatch, capfd, caplog, dataset
):
    caplog.set_level(logging.INFO, logger="mnist_jax")
    folder = tmp_path / dataset / data.VERSION
    assert_same(tfds.load(folder, mirror), made_up())
    assert "from the mirror" in caplog.text
    caplog.clear()
    monkeypatch.setattr(sources, "fetch", lambda *_: pytest.fail("the mirror was read"))
    monkeypatch.setattr(tfds, "_decode", lambda *_: pytest.fail("the cache was not used"))
    assert_same(tfds.load(folder), made_up())
    assert "from its cache" in caplog.text
    assert capfd.readouterr() == ("", "")  # the library never prints, nor lets TFDS print


def test_the_dataset_is_the_stock_one(prepared):
    root = prepared.parents[1]
    for split in ("train", "test"):
        source = tensorflow_datasets.data_source(
            "mnist", split=split, data_dir=root, download=False
        )
        order = tfds.tfds_order(split, len(source))
        images = np.stack([example["image"] for example in source])[..., 0]
        np.testing.assert_array_equal(images, made_up()[f"{split}_images"][order])
        labels = [example["label"] for example in source]
        np.testing.assert_array_equal(labels, made_up()[f"{split}_labels"][order])
    builder = tensorflow_datasets.builder("mnist", data_dir=root)
    assert builder.info.full_name == f"mnist/{data.VERSION}"
    info = json.loads((prepared / "dataset_info.json").read_text())
    assert info["moduleName"] == tensorflow_datasets.image_classification.MNIST.__module__


def test_the_addresses_are_those_of_tfds():
    for dataset, address in sources.URLS.items():
        registered = tensorflow_datasets.builder_cls(dataset).url_infos
        assert set(registered) == {address + file for file in sources.FILES.values()}


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "directory"])
def test_a_bad_cache_is_rebuilt(prepared, damage, whole, caplog):
    caplog.set_level(logging.INFO, logger="mnist_jax")
    file = prepared / "mnist_jax" / "train-images-idx3-ubyte"
    good = file.read_bytes()
    file.unlink()
    if damage == "directory":
        file.mkdir()
    elif damage != "remove":
        file.write_bytes(good[:-1] if damage == "truncate" else good[:-1] + bytes([good[-1] ^ 1]))
    assert_same(tfds.load(prepared), made_up())
    assert str(file) in caplog.text
    if damage != "directory":  # which is not ours to remove
        assert file.read_bytes() == good
        assert_whole(prepared, whole)


def test_a_cache_that_cannot_be_written_is_done_without(prepared, caplog):
    caplog.set_level(logging.INFO, logger="mnist_jax")
    shutil.rmtree(prepared / "mnist_jax")
    with files_of_at_most(2500):
        assert_same(tfds.load(prepared), made_up())
    assert "cannot be kept" in caplog.text
    assert_same(tfds.load(prepared), made_up())
    assert {path.name for path in (prepared / "mnist_jax").iterdir()} == OURS


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("name", ["mnist-train.array_record-00000-of-00001", "dataset_info.json"])
def test_a_bad_dataset_is_named_with_its_remedy(prepared, name, damage):
    shutil.rmtree(prepared / "mnist_jax")
    file = prepared / name
    good = file.read_bytes()
    bad = {"flip": good[:99] + bytes([good[99] ^ 1]) + good[100:], "truncate": good[:-99]}
    file.write_bytes(bad[damage]) if damage in bad else file.unlink()
    try:
        assert_same(tfds.load(prepared), made_up())
    except DataError as error:
        assert f"remove {prepared}" in str(error) and "\n" not in str(error)
        assert error.about == ("data_dir",)


def test_other_numbers_in_the_dataset_are_found_out(prepared, monkeypatch):
    """As another program may have prepared it: the SHA-256 of what is decoded decides."""
    shutil.rmtree(prepared / "mnist_jax")
    known = digests(made_up()) | {"test_labels": "0" * 64}
    monkeypatch.setattr(sources, "IDX_SHA256", {"mnist": known})
    with pytest.raises(
        DataError, match=rf"test_labels in {prepared}: expected SHA-256 0+ of mnist"
    ):
        tfds.load(prepared)


def test_reads_what_version_0_2_prepared(prepared, whole):
    """Its cache has other names, and the images in another order."""
    shutil.rmtree(prepared / "mnist_jax")
    (prepared / "mnist_jax").mkdir()
    (prepared / "mnist_jax" / "train_images.bin").write_bytes(b"in TFDS's order")
    assert_same(tfds.load(prepared), made_up())
    (prepared / "mnist_jax" / "train_images.bin").unlink()
    assert_whole(prepared, whole)


def test_reads_the_tfrecords_that_tfds_writes_by_default(prepared):
    builder = tensorflow_datasets.builder_from_directory(prepared)
    raw = tensorflow_datasets.decode.DeserializeMethod.RAW_BYTES
    for split in ("train", "test"):
        records = list(builder.as_data_source(split, deserialize_method=raw))
        (old,) = prepared.glob(f"mnist-{split}.*")
        frames = (struct.pack("<Q4x", len(record)) + record + bytes(4) for record in records)
        old.with_name(old.name.replace("array_record", "tfrecord")).write_bytes(b"".join(frames))
        old.unlink()
    info = prepared / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    shutil.rmtree(prepared / "mnist_jax")
    assert_same(tfds.load(prepared), made_up())


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Any write beyond `size` bytes of a file fails, in C++ too: like a full disk, for anyone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 1000])
def test_a_full_disk_leaves_nothing(absent, whole, mirror, size):
    with files_of_at_most(size), pytest.raises(DataError, match="cannot be used") as caught:
        tfds.load(absent, mirror)
    assert str(absent.parents[1]) in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.about == ("data_dir",)
    assert list(absent.parent.iterdir()) == []
    tfds.load(absent, mirror)
    assert_whole(absent, whole)


@pytest.mark.parametrize("moment", ["encoding", "flushing"])
def test_an_interrupted_preparation_leaves_nothing(absent, whole, mirror, monkeypatch, moment):
    def interrupt(*_):
        raise KeyboardInterrupt

    target = {"encoding": (Image, "fromarray"), "flushing": (tfds.os, "fsync")}[moment]
    with monkeypatch.context() as patch:
        patch.setattr(*target, interrupt)
        with pytest.raises(KeyboardInterrupt):
            tfds.load(absent, mirror)
    assert list(absent.parent.iterdir()) == []
    absent.mkdir()  # an empty folder is no data set
    tfds.load(absent, mirror)
    assert_whole(absent, whole)


def prepare_and_wait(folder: Path, mirror: Path, known: dict, ready) -> None:
    """In a process of its own, where nothing is patched."""

    def wait(*_):
        ready.set()
        signal.pause()

    sources.IDX_SHA256 = known
    tfds.os.fsync = wait  # TFDS's files are written, and nothing is renamed yet
    tfds.load(folder, mirror)


# JAX warns of a fork where earlier tests of this process have started it.
@pytest.mark.filterwarnings("ignore:os.fork")
def test_what_a_killed_process_left_is_removed_and_a_live_one_is_waited_for(absent, whole, mirror):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    arguments = (absent, mirror, sources.IDX_SHA256, ready)
    child = context.Process(target=prepare_and_wait, args=arguments)
    child.start()
    assert ready.wait(60)
    waiting = threading.Thread(target=tfds.load, args=(absent, mirror))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive() and not absent.exists()
    assert child.pid
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    waiting.join(60)
    assert_whole(absent, whole)


def test_a_second_start_imports_no_tfds(whole):
    code = (
        "import sys; from pathlib import Path; from mnist_jax import sources, tfds;"
        f"sources.IDX_SHA256 = {sources.IDX_SHA256!r}; tfds.load(Path({str(whole)!r}));"
        "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
