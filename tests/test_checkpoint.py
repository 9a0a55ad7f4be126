"""A checkpoint gives back what was saved, to the bit, or says in one line why it cannot."""

import os
import subprocess
import sys
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

from mnist_jax import checkpoint
from mnist_jax.checkpoint import CheckpointError

ROOT = Path(__file__).parents[1]


class State(NamedTuple):
    params: Any
    opt_state: Any


def small_state() -> State:
    params = {"conv1": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(3)}}
    return State(params, optax.sgd(0.1, momentum=0.9).init(params))


def equal(ours: Any, theirs: Any) -> bool:
    """Same structure, dtypes, shapes and bits."""
    if jax.tree.structure(ours) != jax.tree.structure(theirs):
        return False
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return all(
        np.asarray(a).dtype == np.asarray(b).dtype
        and np.shape(a) == np.shape(b)
        and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in pairs
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "state"
    checkpoint.save(path, small_state(), {"epochs": 3})
    return path


def test_a_state_comes_back_to_the_bit(tmp_path):
    """NaN's payload, -0.0 and denormals included, in the structure of another tree."""
    special = np.array([0x7FC12345, 0x80000000, 1, 0xFF800000], np.uint32).view(np.float32)
    tree = State({"a": special, "none": None, "list": [np.int32(7), jnp.zeros((0, 2))]}, ())
    checkpoint.save(tmp_path / "state", tree, {"epochs": 2, "seeds": [0, 5], "rate": 0.1})
    loaded = checkpoint.load(tmp_path / "state")
    assert loaded.metadata == {"epochs": 2, "seeds": [0, 5], "rate": 0.1}
    assert equal(checkpoint.restore(loaded, tree), jax.tree.map(np.asarray, tree))
    like = jax.eval_shape(lambda: tree)
    assert equal(checkpoint.restore(loaded, like), jax.tree.map(np.asarray, tree))


@settings(deadline=None)
@given(
    array=arrays_of.arrays(
        st.sampled_from(sorted(checkpoint._DTYPES)).flatmap(
            lambda name: st.sampled_from([np.dtype(name), np.dtype(name).newbyteorder()])
        ),
        arrays_of.array_shapes(min_dims=0, min_side=0, max_side=4),
    )
)
def test_any_array_comes_back(array, tmp_path_factory):
    """Of every dtype, byte order and shape, the transposed ones included."""
    path = tmp_path_factory.mktemp("any") / "state"
    checkpoint.save(path, (array, array.T), {})
    found = checkpoint.load(path).arrays
    native = array.astype(array.dtype.newbyteorder("="))
    assert equal([found["[0]"], found["[1]"]], [native, np.asarray(native.T, order="C")])


def test_leaves_are_named_by_their_path(saved):
    assert set(checkpoint.load(saved).arrays) == {
        ".params['conv1']['bias']",
        ".params['conv1']['kernel']",
        ".opt_state[0].trace['conv1']['bias']",
        ".opt_state[0].trace['conv1']['kernel']",
    }


def test_behind_its_two_lines_it_is_a_safetensors_file(saved):
    """So that a stranger can read it without this project."""
    first, metadata, rest = saved.read_bytes().split(b"\n", 2)
    assert first.startswith(b"mnist_jax checkpoint 1, sha256 ")
    assert metadata == b'{"epochs": 3}'
    assert safetensors.numpy.load(rest)[".params['conv1']['bias']"].tolist() == [1, 1, 1]


def test_the_same_state_is_the_same_file(saved, tmp_path):
    """A run that was interrupted ends with the bytes of one that was not."""
    checkpoint.save(tmp_path / "again", small_state(), {"epochs": 3})
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()
    many = {f"leaf{i}": np.full(i, i) for i in range(50)}
    checkpoint.save(tmp_path / "once", many, {})
    checkpoint.save(tmp_path / "twice", dict(reversed(many.items())), {})
    assert (tmp_path / "once").read_bytes() == (tmp_path / "twice").read_bytes()


@settings(deadline=None)
@given(data=st.data())
def test_any_change_of_any_bytes_is_found_out(data, saved, tmp_path_factory):
    """Overwritten, cut out, put in, or cut off at the end."""
    good = saved.read_bytes()
    start = data.draw(st.integers(0, len(good) - 1))
    stop = data.draw(st.integers(start, min(len(good), start + 40)))
    bad = good[:start] + data.draw(st.binary(max_size=40)) + good[stop:]
    if data.draw(st.booleans()):
        bad = bad[:start]
    path = tmp_path_factory.mktemp("damaged") / "state"
    path.write_bytes(bad)
    if bad == good:
        assert checkpoint.load(path).metadata == {"epochs": 3}
        return
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(path)
    assert_one_line(error, path)


def test_every_single_byte_counts(saved, tmp_path):
    """Each one flipped in turn, in its lowest bit and as a letter's case."""
    good = saved.read_bytes()
    path = tmp_path / "state"
    for place in range(len(good)):
        for bits in (0x01, 0x20):
            bad = bytearray(good)
            bad[place] ^= bits
            path.write_bytes(bad)
            with pytest.raises(CheckpointError):
                checkpoint.load(path)


@pytest.mark.parametrize("kind", ["absent", "directory", "fifo", "/dev/zero", "empty", "text"])
def test_what_is_no_checkpoint_is_one_line(kind, tmp_path):
    """A pipe that nobody writes to does not block, and a device without an end is not read."""
    path = Path(kind) if kind.startswith("/") else tmp_path / kind
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind in ("empty", "text"):
        path.write_text("" if kind == "empty" else "nothing of the kind\n" * 100)
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(path)
    assert_one_line(error, path)


HUGE = """
import resource, sys
from mnist_jax import checkpoint
limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    checkpoint.load(sys.argv[1])
except checkpoint.CheckpointError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - limit, "KiB")
"""


@pytest.mark.parametrize("lie", [False, True], ids=["as it is", "with a size that fits"])
def test_a_huge_file_takes_no_memory(saved, tmp_path, lie):
    """A checkpoint with 600 MB of nothing behind it, whose first line may even claim them."""
    path = tmp_path / "state"
    first, rest = saved.read_bytes().split(b"\n", 1)
    if lie:
        words = first.split()
        first = b" ".join([*words[:-2], b"%020d" % 600_000_000, words[-1]])
    path.write_bytes(first + b"\n" + rest)
    os.truncate(path, len(first) + 1 + 600_000_000)
    done = subprocess.run(
        [sys.executable, "-c", HUGE, str(path)], capture_output=True, text=True, cwd=ROOT
    )
    message, memory = done.stdout.splitlines()
    wrong = "its SHA-256 is not the one" if lie else "it does not have the size"
    assert message.startswith(f"{path}: damaged, {wrong}")
    assert int(memory.split()[0]) < 20_000 * (1024 if sys.platform == "darwin" else 1)


def test_what_does_not_fit_is_named(saved):
    """Each difference in the one line: missing, unexpected, of another shape or dtype."""
    loaded = checkpoint.load(saved)
    like = small_state()
    params = {"conv1": {"kernel": np.zeros((2, 4), np.float32), "bias": np.zeros(3, np.float32)}}
    with pytest.raises(CheckpointError) as error:
        checkpoint.restore(loaded, like._replace(params=params))
    assert "['kernel'] is float32[2, 3], not float32[2, 4]" in str(error.value)
    assert "['bias'] is float64[3], not float32[3]" in str(error.value)
    assert_one_line(error, saved)
    with pytest.raises(CheckpointError, match=r"missing: \[0\]"):
        checkpoint.restore(loaded, [*like])
    with pytest.raises(CheckpointError, match=r"unexpected: \.opt_state"):
        checkpoint.restore(loaded, like._replace(opt_state=()))


def test_a_long_list_of_differences_is_cut(tmp_path):
    checkpoint.save(tmp_path / "state", {f"leaf{i:02}": np.zeros(1) for i in range(50)}, {})
    with pytest.raises(CheckpointError, match=r"unexpected: \['leaf00'\].* and 47 more$"):
        checkpoint.restore(checkpoint.load(tmp_path / "state"), {})


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
    checkpoint.save(path, {}, {"epochs": 1})
    with pytest.raises(TypeError):
        checkpoint.save(path, tree, metadata)
    assert checkpoint.load(path).metadata == {"epochs": 1}
    assert list(tmp_path.iterdir()) == [path]


def assert_one_line(error: pytest.ExceptionInfo, path: Path) -> None:
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
