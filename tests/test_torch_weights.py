"""The conversion to PyTorch's names and back, and files of weights, whoever wrote them."""

import functools
import hashlib
import logging
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

from mnist_jax import store, torch_weights, train
from mnist_jax.data import PIXELS, Pixels
from mnist_jax.model import PLACEMENTS, LeNet, NormReLU, ResidualBlock
from mnist_jax.store import StoreError
from mnist_jax.torch_weights import from_torch, to_torch

MNIST = PIXELS["mnist"]
# SHA-256 of files that version 0.2 wrote of `made_up(...)`.
FILES_OF_0_2 = {
    "none": "214b503fad850de90665ecb29c4f823ab8788e903f764a9d364478d73e194449",
    "before_fc1": "96ad3daea736196fd406e0d8582c8a1f6b5497b61ec659938f30b808d7f4514e",
    "after_fc1": "fbcb0e2bf22597e704eba7787395d08c88c99a1083c666648ceebe32c1a3a1fc",
}


def made_up(placement, dtype=np.float32):
    """A state_dict in which every number is its own."""
    rng = np.random.default_rng(0)
    shapes = torch_weights.shapes(placement)
    state_dict = {
        name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items() if shape
    }
    return state_dict | {name: np.asarray(7) for name, shape in shapes.items() if not shape}


def assert_bitwise(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_round_trip_is_bitwise(placement, dtype):
    state_dict = made_up(placement, dtype)
    variables = from_torch(state_dict, placement)
    back = to_torch(variables, num_batches_tracked=7)
    assert_bitwise(back, state_dict)
    assert all(array.flags.writeable for array in back.values())
    without = {name: array for name, array in state_dict.items() if "tracked" not in name}
    assert_bitwise(from_torch(without, placement), variables)  # as before PyTorch 0.4.1
    state_dict["fc3.bias"][:] = 0
    assert variables["params"]["fc3"]["bias"].all()  # it is a copy


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_variables_are_those_of_the_model(placement):
    init = functools.partial(train.init_state, LeNet(placement), optax.sgd(0.1))
    expected = train.variables_of(jax.eval_shape(init, jax.random.key(0)))
    variables = from_torch(made_up(placement), placement)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, expected)
    arrays = to_torch(jax.tree.map(jnp.asarray, variables))
    assert all(array.flags.writeable for array in arrays.values())


def test_every_number_lands_in_its_place():
    state_dict = made_up("after_fc1")
    variables = from_torch(state_dict, "after_fc1")
    params, stats = variables["params"], variables["batch_stats"]["resnet_block"]["bn2"]
    assert params["conv2"]["kernel"][4, 1, 5, 15] == state_dict["conv2.weight"][15, 5, 4, 1]
    assert params["fc1"]["kernel"][255, 3] == state_dict["fc1.weight"][3, 255]
    block = params["resnet_block"]
    kernel = state_dict["resnet_block.conv1.weight"]
    assert block["conv1"]["kernel"][2, 0, 7, 8] == kernel[8, 7, 2, 0]
    assert block["bn2"]["scale"][5] == state_dict["resnet_block.bn2.weight"][5]
    assert block["bn2"]["bias"][5] == state_dict["resnet_block.bn2.bias"][5]
    assert stats["mean"][5] == state_dict["resnet_block.bn2.running_mean"][5]
    assert stats["var"][5] == state_dict["resnet_block.bn2.running_var"][5]


def test_one_error_lists_everything():
    state_dict = made_up("before_fc1")
    del state_dict["conv1.bias"], state_dict["resnet_block.bn1.running_var"]
    state_dict["fc4.weight"] = np.zeros(3, np.float32)
    state_dict["fc1.weight"] = state_dict["fc1.weight"].T
    state_dict["resnet_block.bn2.num_batches_tracked"] = np.zeros(2, np.int64)
    state_dict["fc2.bias"] = state_dict["fc2.bias"].astype(np.float16)
    with pytest.raises(ValueError) as error:
        from_torch(state_dict, "before_fc1")
    assert str(error.value) == (
        "not the weights of placement before_fc1: "
        "missing: conv1.bias, resnet_block.bn1.running_var; "
        "unexpected: fc4.weight; "
        "misshapen: resnet_block.bn2.num_batches_tracked [2] instead of [], "
        "fc1.weight [256, 120] instead of [120, 256]; "
        "neither float32 nor float64: fc2.bias float16"
    )
    state_dict = made_up("none")
    state_dict["fc3.bias"] = state_dict["fc3.bias"].astype(np.float64)
    with pytest.raises(ValueError, match="float32 beside float64"):
        from_torch(state_dict, "none")


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (LeNet("none", fc1_features=134), r"fc1.bias \[134\] instead of \[120\]"),
        (LeNet("after_fc1", resnet_block=NormReLU()), "missing: resnet_block.conv1.weight"),
        (
            LeNet("before_fc1", resnet_block=ResidualBlock(normalise=False)),
            "unexpected: resnet_block.conv1.bias",
        ),
    ],
)
def test_networks_that_are_not_the_reports_are_refused(model, complaint, tmp_path):
    """So that no file is written that cannot be read."""
    images = jnp.zeros((2, 28, 28, 1), jnp.uint8)
    shapes = jax.eval_shape(functools.partial(model.init, train=True), jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    with pytest.raises(ValueError, match=complaint):
        torch_weights.save(tmp_path / "weights", variables, pixels=MNIST, epochs=1)
    assert not list(tmp_path.iterdir())


def saved(path, placement="none", dtype=np.float32):
    """The variables that `save` has written there."""
    variables = from_torch(made_up(placement, dtype), placement)
    torch_weights.save(path, variables, pixels=MNIST, epochs=12, num_batches_tracked=7)
    return variables


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.safetensors"


def complaint(path) -> str:
    """Why `load` refuses the file, without the file's name."""
    with pytest.raises(StoreError) as error:
        torch_weights.load(path)
    name, _, rest = str(error.value).partition(": ")
    assert name == str(path)
    assert "\n" not in rest
    return rest


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_file_gives_back_what_was_saved(placement, path):
    """And is the same, byte for byte, as version 0.2 wrote: each reads the other's."""
    variables = saved(path, placement)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == FILES_OF_0_2[placement]
    assert_bitwise(safetensors.numpy.load_file(path), made_up(placement))
    weights = torch_weights.load(path)
    assert_bitwise(weights.variables, variables)
    assert (weights.placement, weights.pixels, weights.epochs) == (placement, MNIST, 12)
    assert isinstance(weights.pixels, Pixels)


def test_a_float64_file_starts_a_float32_run(path):
    saved(path, dtype=np.float64)
    for wide, dtype in ((False, np.float32), (True, np.float64)):
        with jax.enable_x64(wide):
            leaves = jax.tree.leaves(torch_weights.load(path).variables)
        assert {leaf.dtype for leaf in leaves} == {np.dtype(dtype)}


def test_a_file_of_something_else_is_named(path):
    store.save(path, made_up("none"), {"config": {}})
    assert complaint(path) == "a file of something else, without 'pixels'"
    saved(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"0.1307", b"0.1308"))
    assert complaint(path) == "damaged: its SHA-256 is not that of its content"
    path.write_bytes(content[:-1])
    assert "not a .safetensors file, or damaged" in complaint(path)
    path.write_bytes(bytes(torch_weights.MAX_BYTES + 1))
    assert "16,777,217 bytes" in complaint(path)


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e300])
def test_numbers_that_are_not_finite_are_refused(number, path):
    """Neither is a float64 beyond float32."""
    state_dict = {
        n: a.astype(float) for n, a in made_up("before_fc1").items() if "tracked" not in n
    }
    state_dict["resnet_block.bn2.running_var"].flat[5] = number
    safetensors.numpy.save_file(state_dict, path)
    assert complaint(path) == "weights that are not finite"


def test_the_weights_of_another_network_are_refused(path):
    state_dict = made_up("after_fc1")
    state_dict["resnet_block.conv1.weight"] = np.zeros((60, 60, 3, 3), np.float32)
    state_dict["fc4.bias"] = np.zeros(10, np.float32)
    state_dict["fc3.bias"] = np.zeros(10, np.int32)
    safetensors.numpy.save_file(state_dict, path)
    assert complaint(path) == (
        "not the weights of placement after_fc1: unexpected: fc4.bias; "
        "misshapen: resnet_block.conv1.weight [60, 60, 3, 3] instead of [120, 120, 3, 3]; "
        "neither float32 nor float64: fc3.bias int32"
    )


def tensors(placement="after_fc1"):
    torch = pytest.importorskip("torch")
    return torch, {name: torch.tensor(array) for name, array in made_up(placement).items()}


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def as_safetensors(state, path, metadata=None):
    import safetensors.torch

    safetensors.torch.save_file(state, path, metadata)


def as_torch(state, path):
    import torch

    torch.save(state, path)


def as_old_torch(state, path):
    import torch

    torch.save(state, path, _use_new_zipfile_serialization=False)


WRITTEN = {  # how, and what is said of it
    "safetensors": (as_safetensors, ""),
    "with metadata": (lambda s, p: as_safetensors(s, p, {"format": "pt", "author": "me"}), ""),
    "compiled": (lambda s, p: as_safetensors(prefixed(s, "_orig_mod."), p), "prefix _orig_mod."),
    "torch.save": (as_torch, ""),
    "before 1.6": (as_old_torch, ""),
    "an entry": (lambda s, p: as_torch({"epoch": 3, "model_state_dict": s}, p), "model_state_dict"),
    "another": (lambda s, p: as_torch({"optimizer": {}, "state_dict": s}, p), "entry state_dict"),
    "parallel": (lambda s, p: as_torch(prefixed(s, "module."), p), "prefix module."),
    "both": (lambda s, p: as_torch(prefixed(s, "module._orig_mod."), p), "prefix _orig_mod."),
    "averaged": (
        lambda s, p: as_torch(prefixed(s, "module.") | {"n_averaged": s["fc3.bias"][0]}, p),
        "n_averaged",
    ),
    "parameters": (
        lambda s, p: as_torch(
            {n: t.requires_grad_() if t.is_floating_point() else t for n, t in s.items()}, p
        ),
        "",
    ),
}


@pytest.mark.parametrize("form", WRITTEN)
def test_files_of_pytorch_are_read_however_they_were_written(form, path, caplog):
    """They know neither pixels nor epochs. What was undone is said, once."""
    write, said = WRITTEN[form]
    _, state = tensors()
    write(state, path)
    weights = torch_weights.load(path)
    assert_bitwise(weights.variables, from_torch(made_up("after_fc1"), "after_fc1"))
    assert (weights.placement, weights.pixels, weights.epochs) == ("after_fc1", None, None)
    assert said in caplog.text and bool(said) == bool(caplog.records)
    assert {record.levelno for record in caplog.records} <= {logging.WARNING}


@pytest.mark.parametrize("write", [as_safetensors, as_torch])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_numbers_are_widened(dtype, write, path, caplog):
    torch, state = tensors()
    narrow = {n: t.to(getattr(torch, dtype)) if t.ndim else t for n, t in state.items()}
    write(narrow, path)
    widened = {n: t.float().numpy() if t.ndim else t.numpy() for n, t in narrow.items()}
    assert_bitwise(torch_weights.load(path).variables, from_torch(widened, "after_fc1"))
    assert f"{path}: {dtype} is widened to float32" in caplog.text


def test_what_may_run_code_is_not_read_but_explained(path, monkeypatch):
    torch, state = tensors("none")
    torch.save(torch.nn.Linear(2, 2), path)
    assert complaint(path) == (
        "a whole module, which may run code; if you trust it, save its weights alone: "
        f"model = torch.load('{path}', weights_only=False); "
        "torch.save(model.state_dict(), 'weights.pt')"
    )
    with warnings.catch_warnings(action="ignore"):  # TorchScript is going away
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
        assert complaint(path).startswith("a program of TorchScript; if you trust it")
    torch.save({"weight": state["fc1.weight"]}, path)
    assert complaint(path).startswith("no state_dict of the report's network")
    torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert complaint(path).startswith("damaged: ")
    path.write_bytes(content)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "which PyTorch alone can read; install it, or convert" in complaint(path)


def test_parameters_that_need_gradients_are_detached():
    torch, _ = tensors()
    model = torch.nn.Conv2d(1, 6, 5)
    state = made_up("none") | {"conv1.weight": model.weight, "conv1.bias": model.bias}
    kernel = from_torch(state, "none")["params"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel[1, 2, 0, 3], model.weight.detach()[3, 0, 1, 2])
