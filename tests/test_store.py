"""Files are whole, arrays come back to the bit, damage is found out, one process writes."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from mnist_jax import store
from mnist_jax.store import StoreError

ROOT = Path(__file__).parents[1]


class State(NamedTuple):
    params: Any
    opt_state: Any


def small_state() -> State:
    params = {
        "conv1": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(3, "f")}
    }
    return State(params, optax.sgd(0.1, momentum=0.9).init(params))


def assert_bitwise(ours: Any, theirs: Any) -> None:
    """Same structure, dtypes, shapes and bits."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for pair in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        a, b = map(np.asarray, pair)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "state"
    store.save(path, small_state(), {"epochs": 3})
    return path


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "file"
    store.write_whole(path, b"old")
    store.write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_on_a_full_disk_the_old_file_stays(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=f"^{path} cannot be written: No space left on device$"):
        store.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_only_a_regular_file_is_replaced(tmp_path, kind):
    """Above all no device: a rename would take the place of /dev/null."""
    path = tmp_path / kind
    path.mkdir() if kind == "directory" else os.mkfifo(path)
    with pytest.raises(StoreError, match="no regular file"):
        store.write_whole(path, b"")
    assert names(tmp_path) == [kind]
    assert not path.is_file()


def test_json_comes_back(tmp_path):
    """NaN becomes null, since JSON has none."""
    path = tmp_path / "file"
    value = {"name": "ü", "rows": [{"loss": 1e-30}, {"loss": float("nan")}]}
    store.write_json(path, value)
    assert store.read_json(path) == {"name": "ü", "rows": [{"loss": 1e-30}, {"loss": None}]}
    lines = store.as_lines(value["rows"]).decode().splitlines()
    assert [json.loads(line) for line in lines] == store.read_json(path)["rows"]


@pytest.mark.parametrize("read", [store.read_json, store.load])
@pytest.mark.parametrize("kind", ["absent", "directory", "fifo", "empty", "3", "[" * 100_000, "x"])
def test_what_is_no_such_file_is_one_line(tmp_path, kind, read):
    """A pipe that nobody writes to does not block."""
    path = tmp_path / "file"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind != "absent":
        path.write_text(kind.removeprefix("empty"))
    with pytest.raises(StoreError, match=f"^{path}: .*$"):
        read(path)


def test_a_file_too_large_is_not_read(tmp_path):
    (path := tmp_path / "file").touch()
    os.truncate(path, 2**40)
    with pytest.raises(StoreError, match=r"1,099,511,627,776 bytes, and at most .* are read"):
        store.load(path)


@settings(deadline=None, max_examples=40)
@given(
    array=arrays_of.arrays(
        st.sampled_from(sorted(store._DTYPES)).flatmap(
            lambda name: st.sampled_from([np.dtype(name), np.dtype(name).newbyteorder()])
        ),
        arrays_of.array_shapes(min_dims=0, min_side=0, max_side=4),
    )
)
def test_any_array_comes_back(array, tmp_path_factory):
    """Of every dtype, byte order and shape, the transposed ones included."""
    path = tmp_path_factory.mktemp("any") / "state"
    store.save(path, (array, array.T), {})
    found = store.load(path).arrays
    native = array.astype(array.dtype.newbyteorder("="))
    assert_bitwise([found["[0]"], found["[1]"]], [native, np.asarray(native.T, order="C")])


def test_a_state_comes_back_to_the_bit(tmp_path):
    """NaN's payload, -0.0 and denormals included, in the structure of another tree."""
    special = np.array([0x7FC12345, 0x80000000, 1, 0xFF800000], np.uint32).view(np.float32)
    tree = State({"a": special, "none": None, "list": [np.int32(7), jnp.zeros((0, 2))]}, ())
    store.save(tmp_path / "state", tree, {"epochs": 2, "seeds": [0, 5], "rate": 0.1})
    loaded = store.load(tmp_path / "state")
    assert loaded.metadata == {"epochs": 2, "seeds": [0, 5], "rate": 0.1}
    assert_bitwise(store.restore(loaded, jax.eval_shape(lambda: tree)), jax.device_get(tree))


def test_any_program_can_read_it(saved, tmp_path):
    """It is a safetensors file; leaves are named by their path, and a flat tree keeps its names."""
    assert set(safetensors.numpy.load_file(saved)) == {
        ".params['conv1']['bias']",
        ".params['conv1']['kernel']",
        ".opt_state[0].trace['conv1']['bias']",
        ".opt_state[0].trace['conv1']['kernel']",
    }
    flat = {"fc.weight": np.ones((2, 3), np.float32), "fc.bias": np.zeros(2, np.float32)}
    store.save(tmp_path / "flat", flat, {})
    assert_bitwise(safetensors.numpy.load_file(tmp_path / "flat"), flat)
    assert_bitwise(store.restore(store.load(tmp_path / "flat"), flat), flat)


def test_the_same_state_is_the_same_file(saved, tmp_path):
    """A run that was interrupted ends with the bytes of one that was not."""
    store.save(tmp_path / "again", small_state(), {"epochs": 3})
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()
    many = {f"leaf{i}": np.full(i, i) for i in range(50)}
    store.save(tmp_path / "once", many, {})
    store.save(tmp_path / "twice", dict(reversed(many.items())), {})
    assert (tmp_path / "once").read_bytes() == (tmp_path / "twice").read_bytes()


@settings(deadline=None)
@given(data=st.data())
def test_changed_bytes_are_found_out(data, saved, tmp_path_factory):
    """Overwritten, cut out, put in, or cut off at the end; the same content may be said otherwise.

    Only where the name of our entry is hit is the file one of another program, without metadata.
    """
    good = saved.read_bytes()
    start = data.draw(st.integers(0, len(good) - 1))
    stop = data.draw(st.integers(start, min(len(good), start + 40)))
    bad = good[:start] + data.draw(st.binary(max_size=40)) + good[stop:]
    if data.draw(st.booleans()):
        bad = bad[:start]
    path = tmp_path_factory.mktemp("damaged") / "state"
    path.write_bytes(bad)
    try:
        found = store.load(path)
    except StoreError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    else:
        expected = store.load(saved)
        assert found.metadata in (expected.metadata, None)
        if found.metadata:
            assert_bitwise(found.arrays, expected.arrays)


def test_what_does_not_fit_is_named(saved):
    """The first difference in one line: missing, unexpected, of another shape or dtype."""
    loaded, like = store.load(saved), small_state()
    params = {"conv1": {"kernel": np.zeros((2, 4), np.float32), "bias": np.ones(3, "f")}}
    for tree, complaint in (
        (like._replace(params=params), "['kernel'] is float32[2, 3], not float32[2, 4]"),
        (like._replace(opt_state=()), "['bias'] is float32[3], not expected"),
    ):
        with pytest.raises(StoreError) as error:
            store.restore(loaded, tree)
        assert str(error.value).startswith(f"{saved}: does not fit") and complaint in str(
            error.value
        )
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tree", "metadata"),
    [
        (np.array(["text"]), {}),
        (np.array([object()]), {}),
        (jnp.zeros(2, jnp.bfloat16), {}),
        ((), {"path": Path("x")}),
    ],
)
def test_what_a_file_cannot_hold_is_refused_at_saving(tmp_path, tree, metadata):
    """Not at loading, when it is too late; and the old file stays."""
    path = tmp_path / "state"
    store.save(path, {}, {"epochs": 1})
    with pytest.raises(TypeError):
        store.save(path, tree, metadata)
    assert store.load(path).metadata == {"epochs": 1}
    assert names(tmp_path) == ["state"]


HOLDER = """
import sys
from mnist_jax import store
with store.locked(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_one_process_writes_a_directory_at_a_time(tmp_path):
    """The lock ends with the process, and what that had half-written is removed, but nothing else.

    Another process is refused in one line, or waits.
    """
    (tmp_path / "folder").mkdir()
    half, mine = tmp_path / "folder" / "0123456789abcdef.incomplete", tmp_path / "mine.incomplete"

    def wait():
        with store.locked(tmp_path, wait=True):
            pass

    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdin=-1, stdout=-1
    ) as holder:
        assert holder.stdout and holder.stdout.readline() == b"locked\n"
        half.touch()
        mine.touch()
        with pytest.raises(StoreError) as error, store.locked(tmp_path):
            pass
        message = f"{tmp_path}: process {holder.pid} on "
        assert str(error.value).startswith(message) and "\n" not in str(error.value)
        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        holder.send_signal(signal.SIGKILL)
    waiting.join(60)
    assert not half.exists()
    assert names(tmp_path) == ["folder", "mine.incomplete"]
