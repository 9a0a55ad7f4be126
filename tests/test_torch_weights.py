"""The conversion to PyTorch's names and back, without PyTorch."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

from mnist_jax import torch_weights, train
from mnist_jax.data import PIXELS, Pixels
from mnist_jax.model import PLACEMENTS, LeNet, NormReLU, ResidualBlock
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


def test_no_step_is_counted_unless_a_number_is_given(tmp_path):
    variables = from_torch(made_up("after_fc1"), "after_fc1")
    torch_weights.save(tmp_path / "w", variables, pixels=PIXELS["half"], epochs=0)
    for arrays in (to_torch(variables), safetensors.numpy.load_file(tmp_path / "w")):
        counters = [int(n) for name, n in arrays.items() if name.endswith("num_batches_tracked")]
        assert counters == [0, 0]


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
        torch_weights.save(tmp_path / "weights", variables, pixels=PIXELS["half"], epochs=1)
    assert not list(tmp_path.iterdir())


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


MNIST = PIXELS["mnist"]


def saved(path, placement="none", dtype=np.float32, **settings):
    """The variables that `save` has written there."""
    variables = from_torch(made_up(placement, dtype), placement)
    torch_weights.save(path, variables, **{"pixels": MNIST, "epochs": 3} | settings)
    return variables


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.safetensors"


def complaint(path) -> str:
    """Why `load` refuses the file, without the file's name."""
    with pytest.raises(ValueError) as error:
        torch_weights.load(path)
    name, _, rest = str(error.value).partition(": ")
    assert name == str(path)
    assert "\n" not in rest
    return rest


@pytest.mark.parametrize("pixels", [*PIXELS.values(), Pixels(1 / 3, np.float32(0.1))])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_file_gives_back_what_was_saved(placement, pixels, path):
    variables = saved(path, placement, pixels=pixels, epochs=12, num_batches_tracked=7)
    assert_bitwise(safetensors.numpy.load_file(path), made_up(placement))
    weights = torch_weights.load(path)
    assert_bitwise(weights.variables, variables)
    assert (weights.placement, weights.pixels, weights.epochs) == (placement, pixels, 12)


def test_equal_weights_are_equal_files(path, tmp_path):
    saved(path)
    saved(tmp_path / "again")
    assert path.read_bytes() == (tmp_path / "again").read_bytes()


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_file_of_pytorch_knows_neither_pixels_nor_epochs(placement, metadata, path):
    safetensors.numpy.save_file(made_up(placement), path, metadata)
    weights = torch_weights.load(path)
    assert_bitwise(weights.variables, from_torch(made_up(placement), placement))
    assert (weights.placement, weights.pixels, weights.epochs) == (placement, None, None)


def test_metadata_of_another_program_are_named(path):
    """They could be ours with a damaged name."""
    safetensors.numpy.save_file(made_up("none"), path, {"format": "pt", "author": "somebody"})
    assert "metadata of another program" in complaint(path)
    assert "author" in complaint(path)


def test_a_float64_file_starts_a_float32_run(path):
    saved(path, dtype=np.float64)
    leaves = jax.tree.leaves(torch_weights.load(path).variables)
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}
    with jax.enable_x64(True):
        leaves = jax.tree.leaves(torch_weights.load(path).variables)
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float64)}


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda content: b"", "not a .safetensors file, or damaged"),
        (lambda content: b"PK\x03\x04" + content, "not a .safetensors file, or damaged"),
        (lambda content: content[:-1], "not a .safetensors file, or damaged"),
        (lambda content: content + b"x", "not a .safetensors file, or damaged"),
        (lambda content: b"\xff" * 8 + content[8:], "not a .safetensors file, or damaged"),
        (lambda content: content.replace(b'"F32"', b'"I32"'), "damaged: its SHA-256"),
        (lambda content: content.replace(b"fc3.bias", b"fc4.bias"), "damaged: its SHA-256"),
        (lambda content: content.replace(b"0.1307", b"0.1308"), "damaged: its SHA-256"),
        (lambda content: content.replace(b"mnist_jax", b"mnist-jax"), "another program: mnist-jax"),
    ],
)
def test_a_damaged_file_is_named_on_one_line(damage, expected, path):
    saved(path)
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert path.read_bytes() != content
    assert expected in complaint(path)


def test_no_flipped_byte_goes_unnoticed(path):
    """Every byte of the header, and some of the numbers; white space in the header may differ."""
    variables = saved(path)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    numbers = np.random.default_rng(0).integers(header, len(content), 100)
    refused = 0
    for place in [*range(header), *numbers, len(content) - 1]:
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            weights = torch_weights.load(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)
            refused += 1
        else:
            assert place < header
            assert_bitwise(weights.variables, variables)
            assert (weights.placement, weights.pixels, weights.epochs) == ("none", MNIST, 3)
    assert refused > 0.95 * header


def with_metadata(path, ours, *, sign=False):
    """A file whose metadata somebody wrote by hand, with the right digest if `sign`."""
    tensors = made_up("none")
    if sign:
        ours["sha256"] = torch_weights._digest(tensors, ours)
    text = ours if isinstance(ours, str) else json.dumps(ours)
    safetensors.numpy.save_file(tensors, path, {"mnist_jax": text})


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "{}", "[" * 100_000, '{"sha256": 1}'])
def test_metadata_that_are_no_record_are_damage(text, path):
    with_metadata(path, text)
    assert complaint(path) == "damaged: its SHA-256 is not that of its content"


@pytest.mark.parametrize(
    "ours",
    [
        {"epochs": 1},
        {"pixels": [0.5, 0.5]},
        {"pixels": [0.5], "epochs": 1},
        {"pixels": [0.5, 0.5, 0.5], "epochs": 1},
        {"pixels": ["half", "half"], "epochs": 1},
        {"pixels": [0.5, 0.5], "epochs": None},
    ],
)
def test_signed_metadata_are_read_with_care(ours, path):
    """A metadata error is not taken for one of the numbers' dtype."""
    with_metadata(path, ours, sign=True)
    assert complaint(path) == "damaged: its SHA-256 is not that of its content"


def test_a_dtype_that_numpy_lacks_is_named(path):
    header = b'{"fc3.bias":{"dtype":"BF16","shape":[10],"data_offsets":[0,20]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(20))
    assert complaint(path) == "must be float32 or float64, not BF16"


def test_integers_are_no_weights(path):
    state_dict = made_up("none")
    state_dict["fc3.bias"] = state_dict["fc3.bias"].astype(np.int32)
    safetensors.numpy.save_file(state_dict, path)
    assert "neither float32 nor float64: fc3.bias int32" in complaint(path)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["conv1.weight", "resnet_block.bn2.running_var"])
def test_numbers_that_are_not_finite_are_refused(number, name, path):
    state_dict = made_up("before_fc1")
    state_dict[name].flat[5] = number
    safetensors.numpy.save_file(state_dict, path)
    assert complaint(path) == "weights that are not finite"


def test_a_float64_beyond_float32_is_not_finite_either(path):
    state_dict = {name: array.astype(np.float64) for name, array in made_up("none").items()}
    state_dict["fc3.bias"][0] = 1e300
    safetensors.numpy.save_file(state_dict, path)
    assert complaint(path) == "weights that are not finite"


def test_an_entry_that_no_layer_of_pytorch_has_is_named():
    variables = from_torch(made_up("none"), "none")
    variables["params"]["fc3"]["embedding"] = np.ones(3, np.float32)
    with pytest.raises(ValueError, match=r"unexpected: fc3\.embedding"):
        to_torch(variables)


def test_the_weights_of_another_network_are_refused(path):
    state_dict = made_up("after_fc1")
    state_dict["resnet_block.conv1.weight"] = np.zeros((60, 60, 3, 3), np.float32)
    state_dict["fc4.bias"] = np.zeros(10, np.float32)
    safetensors.numpy.save_file(state_dict, path)
    assert complaint(path) == (
        "not the weights of placement after_fc1: unexpected: fc4.bias; "
        "misshapen: resnet_block.conv1.weight [60, 60, 3, 3] instead of [120, 120, 3, 3]"
    )


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(OSError, match=r"none\.safetensors"):
        torch_weights.load(tmp_path / "none.safetensors")
    with pytest.raises(OSError, match=f"directory.*{tmp_path.name}"):
        torch_weights.load(tmp_path)


def test_a_file_that_is_too_large_is_not_read(path):
    with path.open("wb") as file:
        file.truncate(torch_weights.MAX_BYTES + 1)
    with pytest.raises(OSError, match="16,777,217 bytes"):
        torch_weights.load(path)
    saved(path, "after_fc1", np.float64)  # the largest network in the widest dtype
    assert path.stat().st_size < torch_weights.MAX_BYTES / 2
