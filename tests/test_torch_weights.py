"""The way to PyTorch's names and back, without PyTorch."""

import jax
import numpy as np
import optax
import pytest
import safetensors.numpy

from mnist_jax import torch_weights, train
from mnist_jax.model import PLACEMENTS, LeNet
from mnist_jax.torch_weights import from_torch, to_torch


def made_up(placement, dtype=np.float32):
    """A state_dict in which every number is its own."""
    rng = np.random.default_rng(0)
    state_dict = {
        name: rng.normal(size=shape).astype(dtype)
        for name, shape in torch_weights.shapes(placement).items()
        if shape
    }
    counters = {n: np.int64(7) for n, shape in torch_weights.shapes(placement).items() if not shape}
    return state_dict | {name: np.asarray(count) for name, count in counters.items()}


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
    assert_bitwise(to_torch(variables, num_batches_tracked=7), state_dict)
    assert_bitwise(from_torch(to_torch(variables), placement), variables)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_variables_are_those_of_the_model(placement):
    tx = optax.sgd(0.1)
    state = jax.eval_shape(
        lambda key: train.init_state(LeNet(placement), tx, key), jax.random.key(0)
    )
    expected = train.variables_of(state)
    variables = from_torch(made_up(placement), placement)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, expected)


def test_every_number_lands_in_its_place():
    state_dict = made_up("after_fc1")
    variables = from_torch(state_dict, "after_fc1")
    params, stats = variables["params"], variables["batch_stats"]
    assert params["conv2"]["kernel"][4, 1, 5, 15] == state_dict["conv2.weight"][15, 5, 4, 1]
    assert params["fc1"]["kernel"][255, 3] == state_dict["fc1.weight"][3, 255]
    block = params["resnet_block"]
    kernel = state_dict["resnet_block.conv1.weight"]
    assert block["conv1"]["kernel"][2, 0, 7, 8] == kernel[8, 7, 2, 0]
    assert block["bn2"]["scale"][5] == state_dict["resnet_block.bn2.weight"][5]
    assert block["bn2"]["bias"][5] == state_dict["resnet_block.bn2.bias"][5]
    stats = stats["resnet_block"]["bn2"]
    assert stats["mean"][5] == state_dict["resnet_block.bn2.running_mean"][5]
    assert stats["var"][5] == state_dict["resnet_block.bn2.running_var"][5]


def test_variables_are_copies():
    state_dict = made_up("none")
    bias = from_torch(state_dict, "none")["params"]["fc3"]["bias"]
    state_dict["fc3.bias"][:] = 0
    assert bias.all()


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


def test_two_precisions_are_refused():
    state_dict = made_up("none")
    state_dict["fc3.bias"] = state_dict["fc3.bias"].astype(np.float64)
    with pytest.raises(ValueError, match="float32 beside float64"):
        from_torch(state_dict, "none")


@pytest.mark.parametrize("placement", ["before_fc1", "after_fc1"])
def test_counters_may_be_missing(placement):
    state_dict = made_up(placement)
    variables = from_torch(state_dict, placement)
    old = {name: array for name, array in state_dict.items() if "tracked" not in name}
    assert_bitwise(from_torch(old, placement), variables)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_file_holds_exactly_the_state_dict(placement, tmp_path):
    path = tmp_path / "weights.safetensors"
    state_dict = made_up(placement)
    variables = from_torch(state_dict, placement)
    torch_weights.save(path, variables, 7)
    assert_bitwise(safetensors.numpy.load_file(path), state_dict)
    assert_bitwise(torch_weights.load(path, placement), variables)


def test_a_float64_file_starts_a_float32_run(tmp_path):
    path = tmp_path / "weights.safetensors"
    torch_weights.save(path, from_torch(made_up("none", np.float64), "none"))
    leaves = jax.tree.leaves(torch_weights.load(path, "none"))
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}


def good_file(path):
    torch_weights.save(path, from_torch(made_up("none"), "none"))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda content: b"", "not a .safetensors file, or damaged"),
        (lambda content: b"PK\x03\x04" + content, "not a .safetensors file, or damaged"),
        (lambda content: content[:-1], "not a .safetensors file, or damaged"),
        (lambda content: content.replace(b'"F32"', b'"I32"'), "neither float32 nor float64"),
        (lambda content: content.replace(b"fc3.bias", b"fc4.bias"), "missing: fc3.bias; unexp"),
    ],
)
def test_a_damaged_file_is_named_on_one_line(damage, complaint, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(damage(good_file(path)))
    with pytest.raises(ValueError) as error:
        torch_weights.load(path, "none")
    assert str(error.value).startswith(f"{path}: ")
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_a_dtype_that_numpy_lacks_is_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    header = b'{"fc3.bias":{"dtype":"BF16","shape":[10],"data_offsets":[0,20]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(20))
    with pytest.raises(ValueError, match="must be float32 or float64, not BF16"):
        torch_weights.load(path, "none")


def test_the_weights_of_another_placement_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    torch_weights.save(path, from_torch(made_up("after_fc1"), "after_fc1"))
    with pytest.raises(
        ValueError, match=r"misshapen: resnet_block.conv1.weight \[120, 120, 3, 3\]"
    ):
        torch_weights.load(path, "before_fc1")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(OSError, match=r"none\.safetensors"):
        torch_weights.load(tmp_path / "none.safetensors", "none")
