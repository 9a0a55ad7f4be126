"""The report's networks and training loop in PyTorch, with which this project compares itself.

The networks follow the report's printout, module by module and name by name. `B` is the batch size
and `N` the number of images of a split. This module imports PyTorch at its top, so commands import
it only where they need it.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from mnist_jax.data import Pixels, Split
from mnist_jax.model import Placement

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]  # images [B, 1, 28, 28], labels [B] int64


class ResNetBlock(nn.Module):
    """The report's residual block; `C` is `channels`."""

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
    """The report's network, with its modules in the order of the report's printout."""

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
    """Sums over the examples of an epoch, like `mnist_jax.metrics.Metrics`."""

    loss: float
    correct: int
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]

    @property
    def mean_loss(self) -> float:
        """The mean cross-entropy of an example, in nats."""
        return self.loss / self.count

    @property
    def accuracy_percent(self) -> float:
        """The share of right predictions, in percent."""
        return 100 * self.correct / self.count


def build(placement: Placement, seed: int, dtype: torch.dtype = torch.float32) -> LeNet:
    """A network with PyTorch's default initialisation, in training mode."""
    torch.manual_seed(seed)
    return LeNet(placement).to(dtype)  # drawn in float32, so a seed means the same in float64


def make_optimizer(
    model: nn.Module,
    learning_rate: float,
    momentum: float,
    *,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent, the report's optimiser."""
    parameters = model.parameters()
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum, nesterov=nesterov)


def in_memory(
    split: Split, pixels: Pixels, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """A split as normalised images `[N, 1, 28, 28]` and labels `[N]` int64."""
    x = torch.from_numpy(np.ascontiguousarray(np.asarray(split.images).transpose(0, 3, 1, 2)))
    images = (x.to(dtype) / 255 - pixels.mean) / pixels.std
    return images, torch.from_numpy(np.asarray(split.labels).astype(np.int64))


def in_order(
    images: torch.Tensor, labels: torch.Tensor, order: torch.Tensor, batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields batches of data in memory, in the given order `[N]`; the last one may be partial."""
    for chosen in order.split(batch_size):
        yield images[chosen], labels[chosen]


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> Sums:
    """Trains on each batch once and returns the sums over the batches as they were trained on.

    The gradients of the last step stay in the parameters' `grad`. The learning rate stays as it is
    unless there is a scheduler, which takes a step with each batch.
    """
    model.train()
    loss_sum, correct, count = 0.0, 0, 0
    for images, labels in batches:
        optimizer.zero_grad()
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        loss_sum += loss.item() * len(labels)
        correct += int((logits.argmax(1) == labels).sum())
        count += len(labels)
    return Sums(loss_sum, correct, count)


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches) -> Sums:
    """The sums over the batches, normalised with the running statistics of training."""
    return _evaluate(model.eval(), batches)


@torch.no_grad()
def evaluate_in_training_mode(model: nn.Module, batches: Batches) -> Sums:
    """The sums over the batches, each normalised with its own statistics.

    A program that does not call `model.eval()` computes this. It also moves the running statistics.
    Here a copy of the network is evaluated, and the given one stays as it is.
    """
    return _evaluate(copy.deepcopy(model).train(), batches)


@torch.no_grad()
def recalibrated(model: nn.Module, batches: Batches) -> nn.Module:
    """A copy of the network whose running statistics are the means over the batches.

    With `momentum=None` a BatchNorm layer averages the statistics of all batches that it has seen
    instead of forgetting the older ones. The weights stay as they are.
    """
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    for images, _ in batches:
        model(images)
    return model


def _evaluate(model: nn.Module, batches: Batches) -> Sums:
    loss_sum, correct, count = 0.0, 0, 0
    for images, labels in batches:
        logits = model(images)
        loss_sum += F.cross_entropy(logits, labels, reduction="sum").item()
        correct += int((logits.argmax(1) == labels).sum())
        count += len(labels)
    return Sums(loss_sum, correct, count)


@torch.no_grad()
def activations(model: LeNet, images: torch.Tensor) -> dict[str, np.ndarray]:
    """What each module computes in the model's current mode, by the module's name.

    The pooling module is called twice; its outputs are `conv1, pool` and `conv2, pool`. The outputs
    of the convolutions before it are left out. In training mode the call moves the running
    statistics.
    """
    outputs: dict[str, np.ndarray] = {}

    def keep(name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
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

    def __init__(self, split: Split, pixels: Pixels):
        self.images = np.asarray(split.images)  # [N, 28, 28, 1] uint8
        self.labels = np.asarray(split.labels)  # [N]
        self.pixels = pixels

    def __len__(self) -> int:
        """`N`."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """The image `[1, 28, 28]` float32 and the label of one example."""
        image = Image.fromarray(self.images[index, :, :, 0])
        tensor = torch.from_numpy(np.array(image)).view(28, 28, 1).permute(2, 0, 1).contiguous()
        tensor = tensor.to(torch.float32).div(255)
        mean, std = (torch.as_tensor([value]).view(-1, 1, 1) for value in self.pixels)
        return tensor.sub_(mean).div_(std), int(self.labels[index])
