"""Splits, pixels and where the data lie. How they get there is for `test_prepare.py`."""

import gzip
import hashlib
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MIRROR
from test_sources import idx, made_up

from mnist_jax import data, prepare, sources
from mnist_jax.data import PIXELS, DataError, Pixels, load_mnist, normalise


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


@pytest.fixture
def asked(monkeypatch):
    """What `prepare.load` is asked for; it answers with the made-up arrays."""
    calls = []

    def load(folder, mirror):
        calls.append((folder, mirror))
        arrays = made_up()
        return {n: a[..., None] if n.endswith("images") else a for n, a in arrays.items()}

    monkeypatch.setattr(prepare, "load", load)
    return calls


def test_loads_two_splits(tmp_path, asked):
    for split, name in zip(load_mnist(tmp_path), ("train", "test"), strict=True):
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
        np.testing.assert_array_equal(split.images[..., 0], made_up()[f"{name}_images"])
        np.testing.assert_array_equal(split.labels, made_up()[f"{name}_labels"])
    assert asked == [(tmp_path / "mnist" / "3.0.1", None)]


@pytest.mark.parametrize("dataset", get_args(data.DatasetName))
def test_the_data_lie_where_tfds_has_them(tmp_path, monkeypatch, asked, dataset):
    below = Path(dataset) / "3.0.1"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    load_mnist(dataset=dataset)
    load_mnist("~/here", "mirror", dataset=dataset)
    load_mnist("here", dataset=dataset)
    monkeypatch.setenv("TFDS_DATA_DIR", "~/elsewhere")
    load_mnist(dataset=dataset)
    load_mnist("here", dataset=dataset)
    assert asked == [
        (tmp_path / "tensorflow_datasets" / below, None),
        (tmp_path / "here" / below, "mirror"),
        ("here" / below, None),
        (tmp_path / "elsewhere" / below, None),
        ("here" / below, None),
    ]


def test_a_home_that_does_not_exist(monkeypatch, asked):
    with pytest.raises(DataError, match="~no_such_user/data") as caught:
        load_mnist("~no_such_user/data")
    assert caught.value.about == ("data_dir",)

    def expanduser(path):  # as for an account without a home and with no HOME
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", expanduser)
    with pytest.raises(DataError, match=r"~/tensorflow_datasets.*home directory") as caught:
        load_mnist()
    assert caught.value.about == ("data_dir",)
    assert asked == []


def test_unknown_dataset(tmp_path, asked):
    with pytest.raises(DataError, match=r"mnist, fashion_mnist, kmnist.*emnist") as caught:
        load_mnist(tmp_path, dataset="emnist")
    assert caught.value.about == ("dataset",)
    assert asked == []


def test_digests_are_of_the_bytes_in_order(synthetic):
    train, test = synthetic
    found = data.digests(train, jax.tree.map(jnp.asarray, test))
    assert list(found) == list(sources.FILES)
    assert found["train_images"] == hashlib.sha256(train.images.tobytes()).hexdigest()
    labels = test.labels.astype(np.uint8)
    assert found["test_labels"] == hashlib.sha256(labels.tobytes()).hexdigest()


@pytest.mark.parametrize("name", PIXELS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_normalise(name, dtype):
    pixels = PIXELS[name]
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    found = jax.jit(normalise, static_argnames="dtype")(images, pixels, dtype=dtype)
    assert found.dtype == dtype and found.shape == images.shape
    expected = ((images / 255.0 - pixels.mean) / pixels.std).astype(dtype)
    # A few roundings in float32; in bfloat16 one in the last of 8 bits.
    tolerance = 1e-6 if dtype == jnp.float32 else 2.0**-8
    np.testing.assert_allclose(
        np.asarray(found, np.float64), expected.astype(np.float64), tolerance, tolerance
    )


def test_pixels_that_can_be_chosen():
    """Every result depends on these numbers, so no change of them goes unnoticed."""
    assert PIXELS["half"] == Pixels(0.5, 0.5)
    assert PIXELS["mnist"] == Pixels(0.1307, 0.3081)
    assert PIXELS["none"] == Pixels(0.0, 1.0)
    assert len(PIXELS) == 3


def test_the_splits_have_the_sizes_that_all_three_datasets_have():
    """Steps of a schedule and programs compiled ahead of time are made for these."""
    assert (data.TRAIN_SIZE, data.TEST_SIZE) == (60_000, 10_000)


@pytest.mark.mnist
def test_real_mnist(mnist):
    train, test = mnist
    assert data.digests(train, test) == prepare.DIGESTS["mnist"]
    assert train.images.shape == (60_000, 28, 28, 1) and test.images.shape == (10_000, 28, 28, 1)
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # of the test digits 0 to 9
    np.testing.assert_array_equal(np.bincount(test.labels), counts)


@pytest.mark.mnist
def test_the_pixels_named_mnist_have_the_moments_of_the_training_images(mnist):
    train, _ = mnist
    moments = np.mean(train.images / 255), np.std(train.images / 255)
    np.testing.assert_allclose(moments, PIXELS["mnist"], atol=5e-5)


def test_registered_checksums_are_those_of_tfds():
    for dataset in get_args(data.DatasetName):
        originals = prepare.originals(dataset)
        assert originals.keys() == set(sources.FILES.values())
        for file, original in originals.items():
            assert original.url.endswith(file)
            assert original.size > 1000 and len(original.sha256) == 64


@pytest.mark.mnist
def test_what_the_wheel_must_give_are_the_original_files(mnist_dir):
    del mnist_dir  # for its skip
    for name, file in sources.FILES.items():
        original = gzip.decompress((MIRROR / file).read_bytes())
        assert hashlib.sha256(original).hexdigest() == sources.IDX_SHA256["mnist"][name]
        assert idx(sources._parse_idx(original)) == original
