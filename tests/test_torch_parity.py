"""This program and PyTorch compute the same numbers, forward, backward and over an epoch."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from benchmarks import torch_reference  # noqa: E402
from experiments import parity  # noqa: E402
from mnist_jax import data, torch_weights, train  # noqa: E402
from mnist_jax.data import NORMALISATIONS, Split  # noqa: E402
from mnist_jax.model import PLACEMENTS, LeNet  # noqa: E402

pytestmark = pytest.mark.torch

MEAN, STD = NORMALISATIONS["half"]
LEARNING_RATE = 0.01


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other on a busy machine would take most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made_up(size: int, seed: int = 0) -> Split:
    """Blurred noise on an empty ground, brighter in one place for each digit."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, size, dtype=np.int32)
    images = rng.integers(0, 100, (size, 28, 28, 1), dtype=np.uint8)
    images[:, :4] = images[:, :, :4] = 0  # ties in the pooling
    for image, label in zip(images, labels, strict=True):
        row, column = 6 + 8 * (label // 4), 5 + 5 * (label % 4)
        image[row : row + 5, column : column + 5] += 120
    return Split(images, labels)


def networks(placement: str, dtype: torch.dtype):
    """A PyTorch network with running statistics of its own, and the same as our variables."""
    model = torch_reference.build(placement, 0, dtype)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "running" in name or (".bn" in name and tensor.shape):
                tensor.uniform_(0.5, 1.5, generator=rng)
    variables = torch_weights.from_torch(model.state_dict(), placement)
    return model, jax.tree.map(jnp.asarray, variables)


def forward(variables, images, *, placement, mode):
    logits, _ = LeNet(placement).apply(
        variables, images, train=mode == "train", mutable=["batch_stats"]
    )
    return logits


def assert_equal_entries(ours, theirs):
    """Equal but for rounding; a variance of two values makes that a few digits larger."""
    assert list(ours) == list(theirs)
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype
        np.testing.assert_allclose(ours[name], array, rtol=1e-10, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_names_shapes_and_order_are_those_of_pytorch(placement):
    state_dict = torch_reference.build(placement, 0).state_dict()
    shapes = torch_weights.shapes(placement)
    assert list(shapes.items()) == [(n, tuple(t.shape)) for n, t in state_dict.items()]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_pytorch_loads_our_file(placement, tmp_path):
    _, variables = networks(placement, torch.float32)
    torch_weights.save(tmp_path / "weights.safetensors", variables, 938)
    model = torch_reference.LeNet(placement)
    model.load_state_dict(safetensors.torch.load_file(tmp_path / "weights.safetensors"))
    for name, array in torch_weights.to_torch(variables, 938).items():
        np.testing.assert_array_equal(model.state_dict()[name].numpy(), array, strict=True)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_we_load_the_file_of_pytorch(placement, tmp_path):
    model, variables = networks(placement, torch.float32)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "theirs.safetensors")
    loaded = torch_weights.load(tmp_path / "theirs.safetensors", placement)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


@pytest.mark.parametrize("batch_size", [64, 32, 2, 1])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_step_is_pytorchs(placement, batch_size):
    """Logits in both modes, loss, gradients, running statistics and weights after one step."""
    if placement == "after_fc1" and batch_size == 1:
        pytest.skip("an error in both, see below")
    with jax.enable_x64(True):
        model, variables = networks(placement, torch.float64)
        split = made_up(batch_size)
        images = torch_reference.normalise(split.images, MEAN, STD, torch.float64)
        labels = torch.from_numpy(split.labels).long()
        tx = optax.sgd(LEARNING_RATE, momentum=0.9)

        @jax.jit
        def compute(variables, split):
            normal = data.normalise(split.images, MEAN, STD, dtype=jnp.float64)
            logits = {
                mode: forward(variables, normal, placement=placement, mode=mode)
                for mode in ("train", "eval")
            }
            state = train.start_from(variables, tx)
            scale = {"mean": MEAN, "std": STD}
            return logits, *train.train_step(state, *split, model=LeNet(placement), tx=tx, **scale)

        logits, state, sums = compute(variables, split)
        for mode in ("train", "eval"):
            peer = copy.deepcopy(model).train(mode == "train")
            with torch.no_grad():
                expected = peer(images).numpy()
            np.testing.assert_allclose(logits[mode], expected, rtol=0, atol=1e-11, err_msg=mode)

        optimizer = torch_reference.make_optimizer(model, LEARNING_RATE)
        expected = torch_reference.train_epoch(model, optimizer, [(images, labels)])
        np.testing.assert_allclose(sums.loss, expected.loss, rtol=1e-12)
        assert (sums.correct, sums.count) == expected[1:]

        gradient = optax.tree_utils.tree_get(state.opt_state, "trace")
        both = {"params": gradient, "batch_stats": state.batch_stats}
        ours = torch_weights.to_torch(both)
        theirs = {name: tensor.grad.numpy() for name, tensor in model.named_parameters()}
        assert_equal_entries({name: ours[name] for name in theirs}, theirs)

        ours = torch_weights.to_torch(train.variables_of(state), num_batches_tracked=1)
        theirs = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        assert_equal_entries(ours, theirs)


def test_one_sample_after_fc1_is_an_error_in_both():
    model, variables = networks("after_fc1", torch.float32)
    with pytest.raises(ValueError, match="more than 1 value per channel when training"):
        model(torch.zeros(1, 1, 28, 28))
    with pytest.raises(ValueError, match="one value a channel"):
        forward(variables, jnp.zeros((1, 28, 28, 1)), placement="after_fc1", mode="train")
    with torch.no_grad():
        expected = model.eval()(torch.zeros(1, 1, 28, 28)).numpy()
    logits = forward(variables, jnp.zeros((1, 28, 28, 1)), placement="after_fc1", mode="eval")
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_float32_differs_by_rounding(placement):
    model, variables = networks(placement, torch.float32)
    split = made_up(64)
    theirs = torch_reference.activations(
        model.train(), torch_reference.normalise(split.images, MEAN, STD)
    )
    ours = parity.activations(
        LeNet(placement), variables, data.normalise(split.images, MEAN, STD), train=True
    )
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].shape == array.shape and ours[name].dtype == array.dtype == np.float32
        assert parity.difference(ours[name], array).relative < 1e-5, name


@pytest.fixture
def small_data(monkeypatch):
    """60 batches and half a batch, in place of MNIST."""
    splits = made_up(60 * 64 + 32), made_up(500, seed=1)
    monkeypatch.setattr(parity, "load_mnist", lambda data_dir, mirror: splits)
    monkeypatch.setattr(torch_reference, "load_mnist", lambda data_dir, mirror: splits)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_an_epoch_in_float64(placement, small_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(parity, "REPORTED_STEPS", (1,))  # each one compiles a piece of the epoch
    file = tmp_path / "parity.json"
    arguments = ["--placement", placement, "--float64", "--threads", "1", "--json", str(file)]
    assert parity.main([*arguments, "--learning-rate", str(LEARNING_RATE)]) == 0
    result = json.loads(file.read_text())
    rows = {(row["stage"], row["name"]): row["ours"]["absolute"] for row in result["rows"]}
    assert max(rows.values()) <= parity.TOLERANCE
    stages = ["after step 1", "after step 61"]
    assert [stage for stage in dict.fromkeys(s for s, _ in rows) if "after" in stage] == stages
    for name in torch_weights.shapes(placement):
        assert ("after step 61", name) in rows
    accuracies = result["test_accuracy_percent"]
    assert accuracies["here"] == accuracies["PyTorch"]
    assert "after step 61" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("apart", "float64", "status"),
    [(1e-10, True, 0), (1e-8, True, 1), (np.nan, True, 1), (1e-8, False, 0)],
)
def test_the_exit_status_says_whether_they_agree(apart, float64, status, small_data, monkeypatch):
    def trace(value):
        arrays = {"test accuracy": np.asarray(50.0), "fc1.bias": np.array([1.0, value])}
        return lambda *args, **kwargs: {"activations": arrays, "after step 9": arrays}

    monkeypatch.setattr(parity, "trace_ours", trace(2 + apart))
    monkeypatch.setattr(parity, "trace_torch", trace(2.0))
    assert parity.main(["--float64"] * float64) == status


def test_parity_names_the_extra_that_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(parity.importlib.util, "find_spec", lambda name: None)
    assert parity.main([]) == 2
    assert "pip install -e '.[torch]'" in capsys.readouterr().err


def test_parity_refuses_a_place_that_is_not_there(tmp_path, capsys):
    assert parity.main(["--json", str(tmp_path / "none" / "parity.json")]) == 2
    assert "--json" in capsys.readouterr().err


def test_the_library_and_parity_do_not_import_torch():
    code = (
        "import sys, experiments.parity, mnist_jax.torch_weights; sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


@pytest.mark.parametrize("variant", ["eager", "channels_last", "dataloader"])
def test_the_peer_trains_and_times(variant, small_data, capsys):
    arguments = ["--variant", variant, "--epochs", "2", "--batch-size", "500", "--threads", "1"]
    assert torch_reference.main([*arguments, "--json", "-"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["config"]["variant"] == variant
    assert result["first_epoch_seconds"] > 0 and len(result["epoch_seconds"]) == 1
    assert result["train_loss"] < 2.4


def test_one_image_at_a_time_gives_the_same_images():
    split = made_up(5)
    one_by_one = torch_reference.OneByOne(split, MEAN, STD)
    at_once = torch_reference.normalise(split.images, MEAN, STD)
    for index in range(5):
        image, label = one_by_one[index]
        assert torch.equal(image, at_once[index])
        assert label == split.labels[index]
