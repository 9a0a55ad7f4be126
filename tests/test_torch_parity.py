"""This program and PyTorch compute the same numbers, forward, backward and over an epoch."""

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from experiments.groundwork import recipe
from experiments.groundwork.recipe import Recipe
from experiments.parity import __main__ as parity
from experiments.parity import traces
from mnist_jax import data, store, torch_weights, train
from mnist_jax.data import PIXELS, Dataset, Split
from mnist_jax.model import PLACEMENTS, LeNet
from mnist_jax.programs import uncompiled

torch = pytest.importorskip("torch")

from experiments.parity import torch_report  # noqa: E402

pytestmark = pytest.mark.torch

HALF = PIXELS["half"]
LEARNING_RATE, MOMENTUM = 0.01, 0.9
ROOT = Path(__file__).parents[1]


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
    model = torch_report.build(placement, 0, dtype)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "running" in name or (".bn" in name and tensor.shape):
                tensor.uniform_(0.5, 1.5, generator=rng)
    variables = torch_weights.from_torch(model.state_dict(), placement)
    return model, jax.tree.map(jnp.asarray, variables)


def forward(variables, images, *, placement, mode, dtype=jnp.float32):
    model = LeNet(placement, HALF, dtype)
    return model.apply(variables, images, train=mode == "train", mutable=["batch_stats"])[0]


def assert_equal_entries(ours, theirs):
    """Equal but for rounding; a variance of two values makes that a few digits larger."""
    assert list(ours) == list(theirs)
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype
        np.testing.assert_allclose(ours[name], array, rtol=1e-10, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_names_shapes_and_order_are_those_of_pytorch(placement):
    state_dict = torch_report.build(placement, 0).state_dict()
    shapes = torch_weights.shapes(placement)
    assert list(shapes.items()) == [(n, tuple(t.shape)) for n, t in state_dict.items()]


@pytest.mark.parametrize("batch_size", [64, 1])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_step_is_pytorchs(placement, batch_size):
    """Logits in both modes, loss, gradients, running statistics and weights after one step."""
    if placement == "after_fc1" and batch_size == 1:
        pytest.skip("an error in both, see below")
    with jax.enable_x64(True):
        model, variables = networks(placement, torch.float64)
        split = made_up(batch_size)
        images, labels = torch_report.in_memory(split, HALF, torch.float64)
        tx = optax.sgd(LEARNING_RATE, momentum=MOMENTUM)

        @jax.jit
        def compute(variables, split):
            logits = {
                mode: forward(
                    variables, split.images, placement=placement, mode=mode, dtype=jnp.float64
                )
                for mode in ("train", "eval")
            }
            state = train.start_from(variables, tx)
            our_model = LeNet(placement, HALF, jnp.float64)
            return logits, *train.train_step(state, split, model=our_model, tx=tx)

        logits, state, sums = compute(variables, split)
        for mode in ("train", "eval"):
            peer = copy.deepcopy(model).train(mode == "train")
            with torch.no_grad():
                expected = peer(images).numpy()
            np.testing.assert_allclose(logits[mode], expected, rtol=0, atol=1e-11, err_msg=mode)

        optimizer = torch_report.make_optimizer(model, LEARNING_RATE, MOMENTUM)
        expected = torch_report.train_epoch(model, optimizer, [(images, labels)])
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
        forward(
            variables, jnp.full((1, 28, 28, 1), 127, jnp.uint8), placement="after_fc1", mode="train"
        )
    with torch.no_grad():
        grey = (torch.full((1, 1, 28, 28), 127 / 255) - 0.5) / 0.5
        expected = model.eval()(grey).numpy()
    logits = forward(
        variables, jnp.full((1, 28, 28, 1), 127, jnp.uint8), placement="after_fc1", mode="eval"
    )
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_float32_differs_by_rounding(placement):
    model, variables = networks(placement, torch.float32)
    split = made_up(64)
    images, _ = torch_report.in_memory(split, HALF)
    theirs = torch_report.activations(model.train(), images)
    ours = traces.activations(LeNet(placement), variables, jnp.asarray(split.images), train=True)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].shape == array.shape and ours[name].dtype == array.dtype == np.float32
        assert parity.difference(ours[name], array).relative < 1e-5, name


@pytest.mark.parametrize("pixels", PIXELS)
def test_both_scale_pixels_alike(pixels):
    split = made_up(3)
    images, labels = torch_report.in_memory(split, PIXELS[pixels], torch.float64)
    x = split.images.astype(np.float64).transpose(0, 3, 1, 2) / 255
    mean, std = PIXELS[pixels]
    np.testing.assert_allclose(images.numpy(), (x - mean) / std, rtol=1e-12)
    assert labels.dtype == torch.int64 and labels.tolist() == split.labels.tolist()


def in_batches(split: Split, size: int, dtype: torch.dtype):
    images, labels = torch_report.in_memory(split, HALF, dtype)
    return list(zip(images.split(size), labels.split(size), strict=True))


@pytest.mark.parametrize("placement", ["before_fc1", "after_fc1"])
def test_evaluation_is_pytorchs_in_three_ways(placement):
    """With running statistics, with those of each batch, and with recalibrated ones."""
    with jax.enable_x64(True):
        model, variables = networks(placement, torch.float64)
        before = copy.deepcopy(model.state_dict())
        programs = uncompiled(
            LeNet(placement, HALF, jnp.float64), optax.sgd(0.1), batch_size=16, test_batch_size=16
        )
        train_split, test_split = made_up(64), made_up(40, seed=1)
        recalibrated = programs.recalibrate(variables, train_split)
        evaluate = jax.jit(programs.evaluate)
        ours = (
            evaluate(variables, test_split),
            jax.jit(programs.evaluate_batch)(variables, test_split),
            evaluate(recalibrated, test_split),
        )

    tests = in_batches(test_split, 16, torch.float64)
    peer = torch_report.recalibrated(model, in_batches(train_split, 16, torch.float64))
    theirs = (
        torch_report.evaluate(model, tests),
        torch_report.evaluate_in_training_mode(model, tests),
        torch_report.evaluate(peer, tests),
    )
    for (sums, _), expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(sums.loss, expected.loss, rtol=1e-10)
        assert (sums.correct, sums.count) == expected[1:]
    assert len({sums.loss for sums in theirs}) == 3
    state = torch_weights.to_torch(recalibrated, num_batches_tracked=4)
    found = {name: tensor.numpy() for name, tensor in peer.state_dict().items()}
    assert_equal_entries(state, found)
    for name, tensor in model.state_dict().items():  # evaluating changes nothing
        assert torch.equal(tensor, before[name]), name


def test_a_cycle_with_nesterovs_momentum_is_pytorchs(monkeypatch):
    """A schedule has no meaning in the report; benchmarks compare it."""
    size, batch_size, epochs = 96, 16, 2
    monkeypatch.setattr(data, "TRAIN_SIZE", size)
    cycle = Recipe("none", epochs, batch_size, nesterov=True, schedule="one_cycle")
    cycle = replace(cycle, peak_learning_rate=0.1)
    split = made_up(size)
    with jax.enable_x64(True):
        model, variables = networks("none", torch.float64)
        tx = recipe.optimiser(cycle)
        state = train.start_from(variables, tx)
        programs = uncompiled(LeNet("none", HALF, jnp.float64), tx, batch_size=batch_size)
        train_epoch = jax.jit(programs.train_epoch)
        for _ in range(epochs):
            state, sums = train_epoch(state, split, jnp.arange(size))
        ours = torch_weights.to_torch(train.variables_of(state))

    # PyTorch's own OneCycleLR reaches the peak one step earlier.
    rate = optax.cosine_onecycle_schedule(epochs * size // batch_size, 0.1)
    with jax.numpy_dtype_promotion("standard"):
        rates = [float(rate(step)) for step in range(epochs * size // batch_size + 1)]
    optimizer = torch_report.make_optimizer(model, 1.0, MOMENTUM, nesterov=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rates.__getitem__)
    for _ in range(epochs):
        batches = in_batches(split, batch_size, torch.float64)
        expected = torch_report.train_epoch(model, optimizer, batches, scheduler)
    np.testing.assert_allclose(sums.loss, expected.loss, rtol=1e-6)
    for name, tensor in model.state_dict().items():  # our rates are rounded to float32
        np.testing.assert_allclose(ours[name], tensor.numpy(), rtol=0, atol=1e-6, err_msg=name)


@pytest.fixture
def small_data(monkeypatch):
    """60 batches and half a batch, in place of MNIST."""
    with small.in_place_of_mnist(Dataset(made_up(60 * 64 + 32), made_up(500, seed=1), {})):
        yield


@pytest.mark.parametrize("placement", ["before_fc1", "after_fc1"])
def test_an_epoch_in_float64(placement, small_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(traces, "REPORTED_STEPS", (1,))  # each one compiles a piece of the epoch
    file = tmp_path / "parity.json"
    words = ["--placement", placement, "--float64", "--threads", "1", "--json", str(file)]
    assert parity.main([*words, "--learning-rate", str(LEARNING_RATE)]) == 0
    result = store.read_json(file)
    rows = {(row["stage"], row["name"]): row["ours"]["absolute"] for row in result["rows"]}
    assert max(rows.values()) <= parity.TOLERANCE == 1e-9
    assert [stage for stage in dict.fromkeys(stage for stage, _ in rows)] == [
        "activations, training",
        "activations, evaluation",
        traces.GRADIENTS,
        "after step 1",
        "after step 61",
        traces.EVALUATION,
    ]
    for name in torch_weights.shapes(placement):
        assert ("after step 61", name) in rows
    for how in ("", ", batch statistics", ", recalibrated"):
        assert (traces.EVALUATION, f"test loss{how}") in rows
    assert "after step 61" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("apart", "float64", "status"),
    [(1e-10, True, 0), (1e-8, True, 1), (np.nan, True, 1), (1e-8, False, 0)],
)
def test_the_exit_status_says_whether_they_agree(
    apart, float64, status, small_data, monkeypatch, capsys
):
    def trace(value):
        arrays = {"test accuracy": np.asarray(50.0), "fc1.bias": np.array([1.0, value])}
        return lambda *_, **__: {"after step 9": arrays, traces.EVALUATION: arrays}

    monkeypatch.setattr(parity, "trace_ours", trace(2 + apart))
    monkeypatch.setattr(parity, "trace_torch", trace(2.0))
    assert parity.main(["--float64"] * float64) == status
    printed = capsys.readouterr().err
    assert printed == ("error: the programs differ by more than 1e-09\n" if status else "")


def test_what_cannot_be_is_refused_before_it_trains(monkeypatch, capsys):
    monkeypatch.setattr(data, "load_mnist", None)
    assert parity.main(["--batch-size", "9"]) == 2  # a last batch of one test image
    assert "--batch-size must be" in capsys.readouterr().err
    monkeypatch.setattr(parity.importlib.util, "find_spec", lambda name: None)
    assert parity.main([]) == 2
    assert "pip install -e '.[torch]'" in capsys.readouterr().err


def test_the_library_and_parity_do_not_import_torch():
    code = "import sys, experiments.parity.__main__, mnist_jax.torch_weights"
    code += "; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_one_image_at_a_time_gives_the_same_images():
    split = made_up(5)
    one_by_one = torch_report.OneByOne(split, HALF)
    images, _ = torch_report.in_memory(split, HALF)
    assert len(one_by_one) == 5
    for index in range(5):
        image, label = one_by_one[index]
        assert torch.equal(image, images[index])
        assert label == split.labels[index]
