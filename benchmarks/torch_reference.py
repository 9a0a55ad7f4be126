"""The report's networks and training loop in PyTorch, the peer of every comparison.

The networks are the report's printout, module by module and name by name. Four programs train them:

    dataloader      as the report's author would write it: a data set that transforms one image
                    at a time, and a DataLoader that shuffles and stacks them
    eager           images normalised once and kept in memory, a batch by index
    channels_last   the same with images and kernels stored channels last
    compile         as eager, the network compiled by torch.compile

    python -m benchmarks.torch_reference --variant eager --placement after_fc1 --epochs 3

prints a line an epoch; `--json -` prints one JSON object with the seconds of each epoch instead.
The first epoch is kept apart from the others, because it contains warm-up and compilation.
"""

import json
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
import tyro
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mnist_jax.data import NORMALISATIONS, Normalisation, Split, load_mnist
from mnist_jax.model import Placement
from mnist_jax.sources import DataError

Variant = Literal["dataloader", "eager", "channels_last", "compile"]
Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]  # images [B, 1, 28, 28], labels [B] int64


class ResNetBlock(nn.Module):
    """The report's block; `C` is `channels`."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, C, H, W]` to `[B, C, H, W]`."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class LeNet(nn.Module):
    """The report's network, its modules in the order of the printout."""

    def __init__(self, placement: Placement):
        super().__init__()
        self.placement = placement
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        if placement == "before_fc1":
            self.resnet_block = ResNetBlock(16)
        self.fc1 = nn.Linear(256, 120)
        if placement == "after_fc1":
            self.resnet_block = ResNetBlock(120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[B, 10]` of normalised images `[B, 1, 28, 28]`."""
        x = self.pool(F.relu(self.conv1(x)))  # [B, 6, 12, 12]
        x = self.pool(F.relu(self.conv2(x)))  # [B, 16, 4, 4]
        if self.placement == "before_fc1":
            x = self.resnet_block(x)
        x = torch.flatten(x, 1)  # [B, 256]
        x = F.relu(self.fc1(x))  # [B, 120]
        if self.placement == "after_fc1":
            x = self.resnet_block(x.view(-1, 120, 1, 1)).view(-1, 120)
        x = F.relu(self.fc2(x))  # [B, 84]
        return self.fc3(x)  # [B, 10]


class Sums(NamedTuple):
    """Sums over the examples of an epoch."""

    loss: float
    correct: int
    count: int


def build(placement: Placement, seed: int, dtype: torch.dtype = torch.float32) -> LeNet:
    """A network with PyTorch's default initialisation, in training mode."""
    torch.manual_seed(seed)
    return LeNet(placement).to(dtype)  # drawn in float32, so a seed gives the same in both


def make_optimizer(
    model: nn.Module, learning_rate: float = 0.001, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """The report's optimiser, with the momentum that its numbers imply."""
    return torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=momentum)


def normalise(
    images: np.ndarray, mean: float, std: float, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Images `[N, 28, 28, 1]` uint8 as ((x / 255) - mean) / std, `[N, 1, 28, 28]`."""
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return (x.to(dtype) / 255 - mean) / std


def in_order(
    images: torch.Tensor, labels: torch.Tensor, order: torch.Tensor, batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of data in memory, in the given order `[N]`; the last one may be partial."""
    for chosen in order.split(batch_size):
        yield images[chosen], labels[chosen]


def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches) -> Sums:
    """Trains on each batch once and returns the sums over the batches as they were trained on.

    The gradients of the last step stay in the parameters' `grad`.
    """
    model.train()
    loss_sum, correct, count = 0.0, 0, 0
    for images, labels in batches:
        optimizer.zero_grad()
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * len(labels)
        correct += (logits.argmax(1) == labels).sum().item()
        count += len(labels)
    return Sums(loss_sum, correct, count)


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches) -> Sums:
    """The sums over the batches, with the running statistics."""
    model.eval()
    loss_sum, correct, count = 0.0, 0, 0
    for images, labels in batches:
        logits = model(images)
        loss_sum += F.cross_entropy(logits, labels, reduction="sum").item()
        correct += (logits.argmax(1) == labels).sum().item()
        count += len(labels)
    return Sums(loss_sum, correct, count)


@torch.no_grad()
def activations(model: LeNet, images: torch.Tensor) -> dict[str, np.ndarray]:
    """What each module computes, in the model's present mode, by the module's name.

    The pooling module is called twice; its outputs are `conv1, pool` and `conv2, pool`. The
    convolutions before it stand there only as what the pooling made of them. Running in training
    mode moves the running statistics.
    """
    outputs: dict[str, np.ndarray] = {}

    def keep(name: str):
        def hook(module: nn.Module, args: object, output: torch.Tensor) -> None:
            pools = sum(key.endswith("pool") for key in outputs)
            outputs[f"conv{pools + 1}, pool" if name == "pool" else name] = output.numpy().copy()

        return hook

    left_out = {"conv1", "conv2", "resnet_block.shortcut", ""}
    handles = [
        module.register_forward_hook(keep(name))
        for name, module in model.named_modules()
        if name not in left_out
    ]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


class OneByOne(Dataset):
    """A split as torchvision's MNIST gives it: a PIL image, then `ToTensor` and `Normalize`."""

    def __init__(self, split: Split, mean: float, std: float):
        self.images = split.images  # [N, 28, 28, 1] uint8
        self.labels = split.labels  # [N]
        self.mean, self.std = mean, std

    def __len__(self) -> int:
        """`N`."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Image `[1, 28, 28]` float32 and label."""
        image = Image.fromarray(self.images[index, :, :, 0])
        tensor = torch.from_numpy(np.array(image)).view(28, 28, 1).permute(2, 0, 1).contiguous()
        tensor = tensor.to(torch.float32).div(255)
        mean, std = torch.as_tensor([self.mean]), torch.as_tensor([self.std])
        return tensor.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1)), int(self.labels[index])


@dataclass(frozen=True)
class Config:
    """Train the report's network in PyTorch and time each epoch."""

    variant: Variant = "eager"
    """Which program."""
    placement: Placement = "after_fc1"
    """Where the residual block stands."""
    epochs: int = 3
    """Passes over the training images."""
    batch_size: int = 64
    """Images a step."""
    threads: int = 2
    """Of PyTorch's operations."""
    seed: int = 0
    """Of the initial weights and the order of the images."""
    normalisation: Normalisation = "half"
    """Of the pixels x/255."""
    data_dir: Path | None = None
    """TFDS's data directory; else TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    mirror: Path | None = None
    """A directory with the four original files; else MNIST_MIRROR."""
    json: str | None = None
    """Where to write the result as JSON; - is the standard output, in place of the lines."""


class Epoch(NamedTuple):
    """One epoch and what it took."""

    train_seconds: float
    test_seconds: float
    train: Sums
    test: Sums


def run(config: Config, train: Split, test: Split) -> Iterator[Epoch]:
    """Trains as configured and yields after each epoch."""
    mean, std = NORMALISATIONS[config.normalisation]
    model = build(config.placement, config.seed)
    if config.variant == "channels_last":
        model = model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model)
    network = torch.compile(model) if config.variant == "compile" else model

    if config.variant == "dataloader":
        train_batches = DataLoader(OneByOne(train, mean, std), config.batch_size, shuffle=True)
        test_batches = DataLoader(OneByOne(test, mean, std), config.batch_size)
    else:
        images, labels = _in_memory(config, train)
        test_images, test_labels = _in_memory(config, test)

    for _ in range(config.epochs):
        start = time.perf_counter()
        if config.variant != "dataloader":
            train_batches = in_order(images, labels, torch.randperm(len(labels)), config.batch_size)
            test_batches = zip(test_images.split(500), test_labels.split(500), strict=True)
        trained = train_epoch(network, optimizer, train_batches)
        middle = time.perf_counter()
        tested = evaluate(network, test_batches)
        yield Epoch(middle - start, time.perf_counter() - middle, trained, tested)


def _in_memory(config: Config, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised images `[N, 1, 28, 28]` and labels `[N]` int64."""
    images = normalise(split.images, *NORMALISATIONS[config.normalisation])
    if config.variant == "channels_last":
        images = images.contiguous(memory_format=torch.channels_last)
    return images, torch.from_numpy(split.labels.astype(np.int64))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    torch.set_num_threads(config.threads)
    try:
        train, test = load_mnist(config.data_dir, config.mirror)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    epochs = []
    for number, epoch in enumerate(run(config, train, test), 1):
        epochs.append(epoch)
        if config.json != "-":
            print(_line(number, epoch), flush=True)
    if config.json:
        result = json.dumps(_result(config, epochs), default=str)
        if config.json == "-":
            print(result)
        else:
            Path(config.json).write_text(result + "\n")
    return 0


def _line(number: int, epoch: Epoch) -> str:
    """The report's own line, and the seconds."""
    train, test = (
        f"loss: {sums.loss / sums.count:.4f}, accuracy: {100 * sums.correct / sums.count:.4f}%"
        for sums in (epoch.train, epoch.test)
    )
    return f"Epoch {number}, train:: {train} test:: {test} ({epoch.train_seconds:.2f} s)"


def _result(config: Config, epochs: list[Epoch]) -> dict[str, object]:
    seconds = [epoch.train_seconds for epoch in epochs]
    last = epochs[-1]
    return {
        "config": asdict(config),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "first_epoch_seconds": seconds[0],
        "epoch_seconds": seconds[1:],
        "evaluation_seconds": [epoch.test_seconds for epoch in epochs],
        "train_loss": last.train.loss / last.train.count,
        "test_accuracy_percent": 100 * last.test.correct / last.test.count,
    }


if __name__ == "__main__":
    sys.exit(main())
