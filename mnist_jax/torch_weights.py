"""Converts between PyTorch's `state_dict` of the report's networks and variables of `model.LeNet`.

Both hold the same numbers under different names. `C` is the number of channels of the block.

    PyTorch                                       Flax
    conv1.weight               [O, I, H, W]       params conv1 kernel             [H, W, I, O]
    fc1.weight                 [O, I]             params fc1 kernel               [I, O]
    fc1.bias                   [O]                params fc1 bias                 [O]
    resnet_block.bn1.weight    [C]                params resnet_block bn1 scale   [C]
    resnet_block.bn1.running_mean, running_var    batch_stats resnet_block bn1 mean, var

So arrays are only renamed and transposed. fc1 needs no permutation of its 256 inputs, because
`LeNet` flattens channel by channel, in PyTorch's order (C, H, W).

PyTorch counts the training steps of a BatchNorm layer in `num_batches_tracked`. The layer does not
use that number as long as its momentum is set, and our variables do not contain it.
"""

import io
import logging
import os
import pickle
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.typing import ArrayLike

from mnist_jax import store
from mnist_jax.data import Pixels
from mnist_jax.model import Placement
from mnist_jax.store import Stored, StoreError

log = logging.getLogger("mnist_jax")

_TORCH_NAMES: dict[str | None, str] = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_COUNTER = "num_batches_tracked"
MAX_BYTES = 2**24  # of a file that is read; the largest network takes a seventh in float64


def shapes(placement: Placement) -> dict[str, tuple[int, ...]]:
    """Name and shape of each entry of PyTorch's `state_dict`, in PyTorch's order."""
    modules = {
        "conv1": {"weight": (6, 1, 5, 5), "bias": (6,)},
        "conv2": {"weight": (16, 6, 5, 5), "bias": (16,)},
    }
    if placement == "before_fc1":
        modules |= _block_shapes(16)
    modules["fc1"] = {"weight": (120, 256), "bias": (120,)}
    if placement == "after_fc1":
        modules |= _block_shapes(120)
    modules["fc2"] = {"weight": (84, 120), "bias": (84,)}
    modules["fc3"] = {"weight": (10, 84), "bias": (10,)}
    return {
        f"{module}.{tensor}": shape
        for module, tensors in modules.items()
        for tensor, shape in tensors.items()
    }


def _block_shapes(channels: int) -> dict[str, dict[str, tuple[int, ...]]]:
    vectors = ("weight", "bias", "running_mean", "running_var")
    conv = {"weight": (channels, channels, 3, 3)}
    norm = dict.fromkeys(vectors, (channels,)) | {_COUNTER: ()}
    modules = {"conv1": conv, "bn1": norm, "conv2": conv, "bn2": norm}
    return {f"resnet_block.{name}": tensors for name, tensors in modules.items()}


def to_torch(variables: Any, num_batches_tracked: int = 0) -> dict[str, np.ndarray]:
    """The variables of a `LeNet` as PyTorch's `state_dict`, in PyTorch's order.

    Args:
      variables: `params` and `batch_stats` of any placement.
      num_batches_tracked: training steps so far, as PyTorch's BatchNorm would have counted them.

    Returns:
      Contiguous arrays of the variables' own dtype, which may be written; the counters are int64.

    Raises:
      ValueError: the variables are not those of a network of the report; the message lists every
        entry that does not fit.
    """
    arrays = {
        # A copy that may be written, which an array of JAX may not.
        ".".join((*modules, _TORCH_NAMES.get(leaf, str(leaf)))): np.array(
            _to_torch_axes(np.asarray(array)), order="C"
        )
        for (_, *modules, leaf), array in flatten_dict(variables).items()
    }
    placement = _placement(arrays)
    _check(arrays, placement)
    counter = np.asarray(num_batches_tracked, np.int64)
    return {name: arrays.get(name, counter) for name in shapes(placement)}


def from_torch(state_dict: Mapping[str, ArrayLike], placement: Placement) -> dict[str, Any]:
    """PyTorch's `state_dict` as the variables of `LeNet(placement)`, bit by bit.

    Args:
      state_dict: arrays or tensors, all float32 or float64; those that need gradients are detached.
        The value of a `num_batches_tracked` is ignored, and it may be missing: files of PyTorch
        before 0.4.1 do not have it, and PyTorch reads them too.
      placement: where the block stands in the network that they must fit.

    Returns:
      `params` and `batch_stats`, the latter `{}` for placement none, as numpy arrays.

    Raises:
      ValueError: an entry is missing, unexpected, or of a wrong shape or dtype; the message lists
        every such entry.
    """
    arrays = {name: _as_array(value) for name, value in state_dict.items()}
    _check(arrays, placement)
    leaves = {
        # A copy, because a PyTorch model trains in the memory its state_dict shows.
        _flax_path(name, array.ndim): np.array(_from_torch_axes(array), order="C")
        for name, array in arrays.items()
        if not name.endswith(_COUNTER)
    }
    return {"batch_stats": {}} | unflatten_dict(leaves)


class Weights(NamedTuple):
    """What a file of weights holds."""

    placement: Placement  # as the shapes tell
    variables: dict[str, Any]  # of `LeNet(placement, pixels)`
    pixels: Pixels | None  # the scale of training; None if another program wrote the file
    epochs: int | None  # the number that was trained; None if another program wrote the file


def save(
    path: str | os.PathLike[str],
    variables: Any,
    *,
    pixels: Pixels,
    epochs: int,
    num_batches_tracked: int = 0,
) -> None:
    """Writes PyTorch's `state_dict` of a network as a .safetensors file, whole or not at all.

    Args:
      path: where the file goes.
      variables: `params` and `batch_stats` of a `LeNet` of any placement.
      pixels: the network's scale of the pixels. The file's metadata keep it, as well as `epochs`
        and a digest of everything, which `load` checks.
      epochs: the number of epochs that the weights were trained for.
      num_batches_tracked: training steps so far, as PyTorch's BatchNorm would have counted them.

    Raises:
      StoreError: the file cannot be written.
      ValueError: the variables are not those of a network of the report.
    """
    metadata = {"pixels": [float(x) for x in pixels], "epochs": epochs}
    store.save(path, to_torch(variables, num_batches_tracked), metadata)


def load(path: str | os.PathLike[str]) -> Weights:
    """Reads a file of weights that `save` or a PyTorch program wrote.

    What is unusual about a file of PyTorch, such as a prefix of all names or a narrow dtype, is
    undone, and a warning of the logger `mnist_jax` says so.

    Args:
      path: a .safetensors file of one of the report's networks or, where PyTorch is installed, what
        `torch.save` made of its `state_dict`, or of a dictionary that has it as an entry.

    Returns:
      The weights as device arrays: float64 becomes float32 unless `jax_enable_x64` is set.

    Raises:
      StoreError: the file cannot be read, is larger than `MAX_BYTES`, is no file of weights, is
        damaged, belongs to another network, or holds numbers that are not finite. The message is
        one line and names the file.
    """
    stored = _read_torch(path) if _of_torch(path) else store.load(path, limit=MAX_BYTES)
    pixels = epochs = None
    try:
        if stored.metadata is not None:
            pixels, epochs = Pixels(*stored.metadata["pixels"]), stored.metadata["epochs"]
        arrays = _usual(stored)
        placement = _placement(arrays)
        with np.errstate(over="ignore"):  # a float64 may be infinite as a float32
            variables = jax.tree.map(jnp.asarray, from_torch(arrays, placement))
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)):
            raise ValueError("weights that are not finite")
    except KeyError as error:
        raise StoreError(f"{path}: a file of something else, without {error}") from error
    except ValueError as error:
        raise StoreError(f"{path}: {error}") from error
    return Weights(placement, variables, pixels, epochs)


def _of_torch(path: str | os.PathLike[str]) -> bool:
    """Whether `torch.save` wrote a file: as a zip file or, before PyTorch 1.6, as a pickle."""
    try:
        with store.open_regular(path) as file:
            head = file.read(8)
    except OSError:
        return False  # `store.load` says why
    # A .safetensors file begins with the length of its header, which is never that large.
    return head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[2:] > b"\0" * 6)


def _read_torch(path: str | os.PathLike[str]) -> Stored:
    """Reads a file of `torch.save`, and never runs code from it.

    Raises:
      StoreError: PyTorch is not installed, or the file has no `state_dict` of the report's network.
    """
    to_file = "torch.save(model.state_dict(), 'weights.pt')"
    try:
        import torch  # optional, and it takes seconds
    except ImportError:
        raise StoreError(
            f"{path}: a file of torch.save, which PyTorch alone can read; install it, or convert "
            f"the file elsewhere: state = torch.load({str(path)!r}, weights_only=True); "
            "safetensors.torch.save_file(state, 'weights.safetensors')"
        ) from None
    try:
        content = io.BytesIO(store.read_regular(path, limit=MAX_BYTES))
        loaded = torch.load(content, map_location="cpu", weights_only=True)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    except Exception as error:  # of many kinds
        if "TorchScript" in str(error):
            what, read = "a program of TorchScript", "torch.jit.load({!r})"
        elif isinstance(error, pickle.UnpicklingError):
            what, read = (
                "a whole module, which may run code",
                "torch.load({!r}, weights_only=False)",
            )
        else:
            raise StoreError(f"{path}: damaged: {str(error).partition(chr(10))[0]}") from error
        message = f"{path}: {what}; if you trust it, save its weights alone: "
        raise StoreError(f"{message}model = {read.format(str(path))}; {to_file}") from error
    entries = {"": loaded} | (loaded if isinstance(loaded, dict) else {})
    for name, entry in entries.items():
        if isinstance(entry, Mapping) and any(str(key).endswith("conv1.weight") for key in entry):
            if name:
                log.warning("%s: the weights are taken from its entry %s", path, name)
            tensors = {str(key): _as_array(value) for key, value in entry.items()}
            return Stored(tensors, None, str(path))
    raise StoreError(f"{path}: no state_dict of the report's network, which has a conv1.weight")


def _usual(stored: Stored) -> dict[str, np.ndarray]:
    """The arrays by the names and in the dtypes that the report's network has."""
    arrays = dict(stored.arrays)
    if "n_averaged" in arrays:  # the counter of torch.optim.swa_utils.AveragedModel
        del arrays["n_averaged"]
        log.warning("%s: n_averaged is left out", stored.path)
    # Of torch.nn.DataParallel and AveragedModel, and of torch.compile.
    for prefix in ("module.", "_orig_mod.") * 2:
        if arrays and all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
            log.warning("%s: the prefix %s is taken off all names", stored.path, prefix)
    narrow = sorted({a.dtype.name for a in arrays.values()} & {"float16", "bfloat16"})
    if narrow:
        log.warning("%s: %s is widened to float32", stored.path, " and ".join(narrow))
    return {n: a.astype(np.float32) if a.dtype.name in narrow else a for n, a in arrays.items()}


def _as_array(value: Any) -> np.ndarray:
    """An array or a tensor of PyTorch, wherever it lies, as an array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # which numpy does not have
            return value.float().numpy().astype(jnp.bfloat16)
    return np.asarray(value)


def _placement(arrays: Mapping[str, np.ndarray]) -> Placement:
    """The placement, which the size of the block in a `state_dict` tells."""
    bias = arrays.get("resnet_block.bn1.bias")
    if bias is None:
        return "none"
    return "before_fc1" if bias.shape == (16,) else "after_fc1"


def _flax_path(name: str, rank: int) -> tuple[str, ...]:
    """`conv1.weight` to `("params", "conv1", "kernel")`, and so on."""
    *modules, tensor = name.split(".")
    if tensor.startswith("running_"):
        return ("batch_stats", *modules, tensor.removeprefix("running_"))
    # The only weight that is a vector is BatchNorm's.
    weight = "kernel" if rank > 1 else "scale"
    return ("params", *modules, weight if tensor == "weight" else tensor)


def _to_torch_axes(array: np.ndarray) -> np.ndarray:
    """`[H, W, I, O]` to `[O, I, H, W]`, `[I, O]` to `[O, I]`; a vector stays."""
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def _from_torch_axes(array: np.ndarray) -> np.ndarray:
    """The inverse of `_to_torch_axes`."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _check(arrays: Mapping[str, np.ndarray], placement: Placement) -> None:
    """Raises a ValueError if a `state_dict` does not fit the placement, as `from_torch` says."""
    expected = shapes(placement)
    missing = [name for name in expected if name not in arrays and not name.endswith(_COUNTER)]
    unexpected = [name for name in arrays if name not in expected]
    known = {name: arrays[name] for name in expected if name in arrays}
    misshapen = [
        f"{name} {list(array.shape)} instead of {list(expected[name])}"
        for name, array in known.items()
        if array.shape != expected[name]
    ]
    # All must have one dtype, because training computes in that of the parameters.
    floats = {n: array.dtype for n, array in known.items() if not n.endswith(_COUNTER)}
    wrong = [f"{name} {dtype}" for name, dtype in floats.items() if dtype.char not in "fd"]
    mixed = [] if wrong or len(set(floats.values())) < 2 else ["float32 beside float64"]
    kinds = {
        "missing": missing,
        "unexpected": unexpected,
        "misshapen": misshapen,
        "neither float32 nor float64": wrong,
        "of two precisions": mixed,
    }
    if errors := [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]:
        raise ValueError(f"not the weights of placement {placement}: {'; '.join(errors)}")
