"""Preparing, reading and caching, with small made-up files that pass for the originals."""

import gzip
import hashlib
import logging
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import get_args

import jax
import numpy as np
import pytest
from conftest import MIRROR
from PIL import Image
from test_sources import idx, made_up, write_originals

from mnist_jax import data, prepare, sources
from mnist_jax.data import DataError, load_mnist


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    monkeypatch.delenv("MNIST_MIRROR", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror with made-up files that pass for the originals of every data set."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    originals = write_originals(folder, made_up())
    monkeypatch.setattr(prepare, "originals", lambda dataset: originals)
    return folder


@pytest.fixture
def prepared(tmp_path, mirror):
    """The folder of a kmnist prepared from the mirror."""
    load_mnist(tmp_path / "data", mirror, dataset="kmnist")
    return tmp_path / "data" / "kmnist" / data.VERSION


def load(prepared: Path) -> dict[str, np.ndarray]:
    train, test = load_mnist(prepared.parent.parent, dataset="kmnist")
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


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


@pytest.mark.parametrize("dataset", ["fashion_mnist", "kmnist"])
def test_prepares_from_a_mirror_and_then_needs_neither_mirror_nor_tfds(
    tmp_path, mirror, monkeypatch, capfd, caplog, dataset
):
    caplog.set_level(logging.INFO, logger="mnist_jax")
    first = load_mnist(tmp_path / "data", mirror, dataset=dataset)
    assert "from the mirror" in caplog.text
    caplog.clear()
    shutil.rmtree(mirror)
    monkeypatch.setattr(prepare, "_stock", lambda dataset: pytest.fail("TFDS was used"))
    monkeypatch.setattr(prepare, "_decode", lambda *_: pytest.fail("the cache was not used"))
    second = load_mnist(tmp_path / "data", dataset=dataset)
    assert "prepared dataset" in caplog.text
    assert_made_up(dict(zip(sources.FILES, (*first[0], *first[1]), strict=True)))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert capfd.readouterr() == ("", "")  # the library never prints, nor lets TFDS print


def test_the_dataset_is_the_stock_one(prepared):
    import tensorflow_datasets as tfds

    arrays = load(prepared)
    root = prepared.parent.parent
    for split in ("train", "test"):
        source = tfds.data_source("kmnist", split=split, data_dir=root, download=False)
        images = np.stack([example["image"] for example in source])
        np.testing.assert_array_equal(images, arrays[f"{split}_images"])
        labels = [example["label"] for example in source]
        np.testing.assert_array_equal(labels, arrays[f"{split}_labels"])
    assert tfds.builder("kmnist", data_dir=root).info.full_name == f"kmnist/{data.VERSION}"


def test_registered_checksums_are_those_of_tfds():
    for dataset in get_args(data.DatasetName):
        originals = prepare.originals(dataset)
        assert originals.keys() == set(sources.FILES.values())
        for file, original in originals.items():
            assert original.url.endswith(file)
            assert original.size > 1000 and len(original.sha256) == 64


@pytest.mark.parametrize("name", sources.FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_a_bad_cache_is_rebuilt(prepared, name, damage, caplog):
    caplog.set_level(logging.INFO, logger="mnist_jax")
    file = prepared / "mnist_jax" / f"{name}.bin"
    good = file.read_bytes()
    if damage == "remove":
        file.unlink()
    else:
        flipped = bytes([good[0] ^ 1]) + good[1:]
        file.write_bytes({"flip": flipped, "truncate": good[:-1], "empty": b""}[damage])
    bad = hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "decoding"
    assert_made_up(load(prepared))
    assert file.read_bytes() == good
    assert bad in caplog.text


def test_a_dataset_that_cannot_be_written_to_is_used_all_the_same(prepared, monkeypatch):
    (prepared / "mnist_jax" / "train_images.bin").unlink()

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(prepare.tempfile, "TemporaryDirectory", refuse)
    assert_made_up(load(prepared))


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_bad_dataset_names_file_digests_and_remedy(prepared, damage):
    (prepared / "mnist_jax" / "train_images.bin").unlink()
    (file,) = prepared.glob("kmnist-train.*")
    good = file.read_bytes()
    if damage == "remove":
        file.unlink()
    else:
        flipped = good[:99] + bytes([good[99] ^ 1]) + good[100:]
        file.write_bytes({"flip": flipped, "truncate": good[:-99]}[damage])
    with pytest.raises(DataError) as caught:
        load(prepared)
    found = hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "no file"
    for part in (str(file), hashlib.sha256(good).hexdigest(), found, f"remove {prepared}"):
        assert part in str(caught.value)


def test_a_dataset_of_another_program_is_judged_by_the_decoded_arrays(prepared, monkeypatch):
    train, test = load_mnist(prepared.parent.parent, dataset="kmnist")
    shutil.rmtree(prepared / "mnist_jax")  # as TFDS itself would have prepared it
    with pytest.raises(DataError, match="another program"):
        load(prepared)
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

    train, test = load_mnist(prepared.parent.parent, dataset="kmnist")
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


def test_a_bad_mirror_leaves_nothing(tmp_path, mirror):
    (mirror / sources.FILES["test_labels"]).unlink()
    with pytest.raises(DataError, match="no file"):
        load_mnist(tmp_path / "data", mirror, dataset="kmnist")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("moment", ["encoding", "renaming"])
def test_an_interrupted_preparation_leaves_nothing(tmp_path, mirror, monkeypatch, moment):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        target = (Image, "fromarray") if moment == "encoding" else (prepare, "digests")
        patch.setattr(*target, interrupt)
        with pytest.raises(KeyboardInterrupt):
            load_mnist(tmp_path / "data", mirror, dataset="kmnist")
    assert list((tmp_path / "data").iterdir()) == []
    train, _ = load_mnist(tmp_path / "data", mirror, dataset="kmnist")
    assert len(train.labels) == 7


def test_two_processes_may_prepare_at_once(tmp_path, mirror, monkeypatch):
    write = prepare._write_dataset

    def overtaken(*arguments):
        folder = write(*arguments)
        monkeypatch.setattr(prepare, "_write_dataset", write)
        load_mnist(tmp_path / "data", mirror, dataset="kmnist")  # the faster process
        return folder

    monkeypatch.setattr(prepare, "_write_dataset", overtaken)
    train, test = load_mnist(tmp_path / "data", mirror, dataset="kmnist")
    assert_made_up(dict(zip(sources.FILES, (*train, *test), strict=True)))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["kmnist"]


def test_a_data_dir_that_is_a_file(tmp_path, mirror):
    file = tmp_path / "file"
    file.write_text("mine")
    for data_dir in (file, file / "below"):
        with pytest.raises(DataError, match=rf"data directory.*{file}") as caught:
            load_mnist(data_dir, mirror, dataset="kmnist")
        assert "\n" not in str(caught.value)
    assert file.read_text() == "mine"


def test_a_data_dir_that_cannot_be_written_to(tmp_path, mirror, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DataError, match=r"data directory.*Permission denied"):
        load_mnist(tmp_path / "data", mirror, dataset="kmnist")


def test_loading_from_the_cache_imports_no_tfds(prepared):
    code = (
        "import sys; from mnist_jax.data import load_mnist;"
        f"load_mnist({str(prepared.parent.parent)!r}, dataset='kmnist');"
        "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


@pytest.mark.mnist
def test_what_the_wheel_must_give_are_the_original_files(mnist_dir):
    del mnist_dir  # for its skip
    for name, file in sources.FILES.items():
        original = gzip.decompress((MIRROR / file).read_bytes())
        assert hashlib.sha256(original).hexdigest() == sources.IDX_SHA256[name]
        assert idx(sources._parse_idx(original)) == original
