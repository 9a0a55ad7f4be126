"""Networks with made-up weights, and made-up test images for them: nothing is trained."""

import numpy as np

from experiments.groundwork.run_directory import Run, open_run
from mnist_jax import torch_weights
from mnist_jax.data import PIXELS, Split
from mnist_jax.model import PLACEMENTS, Placement


def state_dict(placement: Placement, seed: int = 0) -> dict[str, np.ndarray]:
    """PyTorch's `state_dict` with random numbers of about the size of trained ones."""
    rng = np.random.default_rng(seed)
    return {
        name: np.asarray(0)
        if not shape
        else rng.uniform(0.5, 1, shape).astype(np.float32)
        if name.endswith("var")
        else rng.uniform(-0.1, 0.1, shape).astype(np.float32)
        for name, shape in torch_weights.shapes(placement).items()
    }


def split(size: int = 60) -> Split:
    """Images of a bright square in noise, each with any label."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (size, 28, 28, 1), dtype=np.uint8)
    for image in images:
        row, column = rng.integers(2, 20, 2)
        image[row : row + 6, column : column + 6] += 180
    return Split(images, np.arange(size, dtype=np.int32) % 10)


def network(folder, placement: Placement = "after_fc1", seed: int = 0, epochs: int = 1) -> Run:
    """A network in a file of `folder`; those of its earlier epochs have other weights."""
    files = []
    for epoch in range(1, epochs + 1):
        files.append(folder / f"{placement}-{epoch}.safetensors")
        variables = torch_weights.from_torch(state_dict(placement, seed + epoch), placement)
        torch_weights.save(files[-1], variables, pixels=PIXELS["half"], epochs=epoch)
    kept = tuple(enumerate(files, start=1))
    return open_run(files[-1])._replace(epochs=kept, name=placement)


def networks(folder) -> list[Run]:
    """One of each placement, the last with an earlier epoch."""
    return [network(folder, place, epochs=1 + (place == "after_fc1")) for place in PLACEMENTS]
