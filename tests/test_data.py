"""Splits, pixels and where the data lie. How they get there is for `test_tfds.py`."""

import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sources import made_up

from mnist_jax import data, sources, tfds
from mnist_jax.data import PIXELS, Pixels, Split, load_mnist, normalise
from mnist_jax.sources import DataError


@pytest.fixture
def asked(monkeypatch):
    """What `tfds.load` is asked for; it answers with the made-up arrays."""
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    calls = []
    monkeypatch.setattr(tfds, "load", lambda *asked: calls.append(asked) or made_up())
    return calls


def test_loads_two_splits_and_their_digests(tmp_path, asked):
    dataset = load_mnist(tmp_path)
    for split, name in zip(dataset[:2], ("train", "test"), strict=True):
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
        np.testing.assert_array_equal(split.images[..., 0], made_up()[f"{name}_images"])
        np.testing.assert_array_equal(split.labels, made_up()[f"{name}_labels"])
    assert dataset.sha256 == sources.IDX_SHA256["mnist"]
    assert asked == [(tmp_path / "mnist" / "3.0.1", None)]


def test_the_data_lie_where_tfds_has_them(tmp_path, monkeypatch, asked):
    monkeypatch.setenv("HOME", str(tmp_path))
    load_mnist()
    load_mnist("~/here", "mirror", dataset="fashion_mnist")
    monkeypatch.setenv("TFDS_DATA_DIR", "~/elsewhere")
    load_mnist()
    load_mnist("here")
    assert asked == [
        (tmp_path / "tensorflow_datasets/mnist/3.0.1", None),
        (tmp_path / "here/fashion_mnist/3.0.1", "mirror"),
        (tmp_path / "elsewhere/mnist/3.0.1", None),
        (Path("here/mnist/3.0.1"), None),
    ]


@pytest.mark.parametrize(
    "directory, reason",
    [("gs://bucket/data", "is an address"), ("~no_such_user/data", "~no_such_user/data: ")],
)
def test_a_data_directory_that_is_none(directory, reason, monkeypatch, asked):
    with pytest.raises(DataError, match=reason) as caught:
        load_mnist(Path(directory))
    assert caught.value.about == ("data_dir",)
    monkeypatch.setenv("TFDS_DATA_DIR", directory)
    with pytest.raises(DataError, match=f"{directory}.*"):
        load_mnist()
    assert asked == []


def test_unknown_dataset(tmp_path, asked):
    with pytest.raises(DataError, match=r"mnist, fashion_mnist.*emnist") as caught:
        load_mnist(tmp_path, dataset="emnist")
    assert caught.value.about == ("dataset",)
    assert asked == []


def test_normalise():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    found = jax.jit(normalise)(images, PIXELS["mnist"])
    assert found.dtype == jnp.float32 and found.shape == images.shape
    np.testing.assert_allclose(found, (images / 255.0 - 0.1307) / 0.3081, 1e-6, 1e-6)


def test_pixels_that_can_be_chosen():
    """Every result depends on these numbers, so no change of them goes unnoticed."""
    pinned = {"half": Pixels(0.5, 0.5), "mnist": Pixels(0.1307, 0.3081), "none": Pixels(0.0, 1.0)}
    assert pinned == PIXELS


def split(size: int = 3, **changes) -> Split:
    arrays = {"images": np.zeros((size, 28, 28, 1), np.uint8), "labels": np.arange(size) % 10}
    return Split(**arrays | changes)


@pytest.mark.parametrize(
    "bad, reason",
    [
        (split(labels=np.array([0, -1, 3])), "0 to 9, not -1 to 3"),
        (split(labels=np.array([0, 10, 3])), "0 to 9, not 0 to 10"),
        (split(labels=np.arange(4)), r"labels of 3 images must be \[3\] integers, not \[4\]"),
        (split(labels=np.zeros((3, 10), np.int32)), r"not \[3, 10\] int32"),
        (split(labels=np.zeros(3, np.float32)), r"not \[3\] float32"),
        (split(images=np.zeros((3, 28, 28), np.uint8)), r"images must be .* not \[3, 28, 28\]"),
        (split(images=np.zeros((3, 28, 28, 1), np.float32)), "images must be .* float32"),
        (split(0), "N at least 1"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(bad, reason):
    for given in (bad, jax.tree.map(jnp.asarray, bad)):
        with pytest.raises(ValueError, match=reason):
            data.check(given)
    data.check(split())


def test_images_that_are_held_out_are_the_last_in_tfdss_order():
    order = tfds.tfds_order("train", 50)
    whole = split(50, images=np.arange(50, dtype=np.uint8)[:, None, None, None])
    kept, held = data.hold_out(whole, 20)
    places = kept.images.ravel()
    np.testing.assert_array_equal(places, np.sort(order[:30]))
    np.testing.assert_array_equal(held.images.ravel(), np.sort(order[30:]))
    np.testing.assert_array_equal(held.labels, np.sort(order[30:]) % 10)
    np.testing.assert_array_equal(places[data.places_in_tfds_order(30, 20)], order[:30])


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


@pytest.mark.mnist
def test_real_mnist(mnist):
    """In the order of the original files; what is held out is what version 0.2 held out."""
    train, test, digests = mnist
    assert digests == sources.IDX_SHA256["mnist"]
    assert len(train.labels) == data.TRAIN_SIZE and len(test.labels) == data.TEST_SIZE
    assert sha256(train.images).startswith("741c988805d008ac")
    assert sha256(test.images).startswith("6d87418db22cc802")
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # of the test digits 0 to 9
    np.testing.assert_array_equal(np.bincount(test.labels), counts)
    moments = np.mean(train.images / 255), np.std(train.images / 255)
    np.testing.assert_allclose(moments, PIXELS["mnist"], atol=5e-5)
    kept, held = data.hold_out(train, 10_000)
    assert sha256(kept.images).startswith("5f09ce41f10aaa5d")
    assert sha256(held.images).startswith("ce4a1423cb63f11c")
