"""Gathers what the page holds: weights, answers and mistakes of each network, and test images.

Everything here becomes JSON or text of the page. It contains no paths of the machine.
"""

import base64
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.groundwork.run_directory import Run, open_weights
from mnist_jax import compilation, metrics, torch_weights, train
from mnist_jax.data import Split
from mnist_jax.summary import summary

MISTAKES = 200  # the most mistakes of a run that are shown, the worst ones
ROW = 24  # number of test images beside the drawing area
RECIPE = ("dataset", "momentum", "pixels", "learning_rate", "batch_size")  # what is told of it
CENTRE_TAP = (slice(None), slice(None), 1, 1)


class Answers(NamedTuple):
    """What a run says of the test images; `N` is their number."""

    probabilities: np.ndarray  # [N, 10]
    digits: np.ndarray  # [N], the most probable
    worst: np.ndarray  # [K] the misread images, by ascending probability of their label


def gather(runs: Sequence[Run], test: Split) -> dict[str, Any]:
    """The data of the page's template and scripts, ready for JSON.

    Args:
      runs: the networks, in the order in which the page shows them.
      test: the test split, images `[N, 28, 28, 1]` uint8 and labels `[N]`.
    """
    labels = np.asarray(test.labels)
    answers = [answer(run, test) for run in runs]
    row = choose_row(answers, labels)
    shown = [*row, *(i for each in answers for i in each.worst[:MISTAKES].tolist())]
    number = {index: n for n, index in enumerate(dict.fromkeys(shown))}  # of an embedded image
    images = np.asarray(test.images)[list(number)]
    return {
        "example": _example(row, number, answers, labels),
        "images": _base64(zlib.compress(images.tobytes(), 9)),
        "indices": list(number),
        "row": [_tile(i, number[i], runs, answers, labels) for i in row],
        "runs": [_run(run, each, labels, number) for run, each in zip(runs, answers, strict=True)],
    }


def answer(run: Run, test: Split) -> Answers:
    """What a run says of the test images, with the mistakes in the order of the run's figure."""
    predict = compilation.jit(partial(train.predict, model=run.model))
    probabilities = np.asarray(jax.nn.softmax(predict(run.variables, test.images)))  # [N, 10]
    worst = metrics.worst_mistakes(probabilities, np.asarray(test.labels))
    return Answers(probabilities, probabilities.argmax(1), worst)


def choose_row(answers: Sequence[Answers], labels: np.ndarray) -> list[int]:
    """Chooses up to `ROW` test images to show beside the drawing area.

    They are one image of each digit that all runs read correctly, and then images that some runs
    misread. Of the latter, images on which the runs disagree come first. Otherwise they are sorted
    by their smallest place among the worst mistakes of any run.
    """
    right = np.all([each.digits == labels for each in answers], axis=0)  # [N]
    row = [int(np.nonzero(right & (labels == d))[0][0]) for d in np.unique(labels[right])]
    first = {}  # from an image to its smallest place among the worst of any run
    for each in answers:
        for place, index in enumerate(each.worst.tolist()):
            first[index] = min(place, first.get(index, place))
    agree = {i: len({int(each.digits[i]) for each in answers}) == 1 for i in first}
    mistakes = sorted(first, key=lambda i: (agree[i], first[i], i))
    return [*row, *mistakes[: ROW - len(row)]]


def _example(
    row: Sequence[int], number: Mapping[int, int], answers: Sequence[Answers], labels: np.ndarray
) -> dict[str, Any]:
    """The image with which the page opens: one on which the runs disagree, if there is one."""
    read = {i: {int(each.digits[i]) for each in answers} for i in row}
    index = next((i for i in row if len(read[i]) > 1), row[0])
    text = "The networks disagree on" if len(read[index]) > 1 else "An example:"
    text = f"{text} this {labels[index]}"
    return {"image": number[index], "text": text}


def _tile(
    index: int, number: int, runs: Sequence[Run], answers: Sequence[Answers], labels: np.ndarray
) -> dict[str, Any]:
    wrong = [
        f"read as {each.digits[index]} by {run.name}"
        for run, each in zip(runs, answers, strict=True)
        if each.digits[index] != labels[index]
    ]
    name = ", ".join([f"Test image of a {labels[index]}", *wrong])
    return {"image": number, "name": name, "wrong": bool(wrong)}


def _run(
    run: Run, answers: Answers, labels: np.ndarray, number: Mapping[int, int]
) -> dict[str, Any]:
    parameters = {layer.name: layer.parameters for layer in summary(run.model)}
    tensors = learned(run.variables)
    confusion = metrics.confusion_matrix(jnp.asarray(answers.digits), jnp.asarray(labels))
    statistics = sum(leaf.size for leaf in jax.tree.leaves(run.variables.get("batch_stats", {})))
    embedded = sum(tensor.size for tensor in tensors.values())
    right, total = len(labels) - len(answers.worst), len(labels)
    facts = {
        "test images read correctly": f"{right:,} of {total:,}",
        "parameters": f"{sum(parameters.values()):,}",
        **({"epochs": run.epoch} if run.epoch is not None else {}),
        **({name: getattr(run.config.recipe, name) for name in RECIPE} if run.config else {}),
    }
    place = run.model.placement
    return {
        "name": run.name,
        "placement": place,
        "label": "no block" if place == "none" else f"block {place.replace('_', ' ')}",
        "mean": run.model.pixels.mean,
        "std": run.model.pixels.std,
        "epoch": run.epoch,
        "facts": [[name.replace("_", " "), str(value)] for name, value in facts.items()],
        "parameters": parameters,
        "unused": sum(parameters.values()) + statistics - embedded,
        "tensors": [[name, tensor.shape] for name, tensor in tensors.items()],
        "weights": pack(tensors),
        "epochs": [
            {"epoch": epoch, "weights": pack(learned(open_weights(path)[1]))}
            for epoch, path in run.epochs
            if run.epoch and epoch < run.epoch
        ],
        "confusion": np.asarray(confusion).tolist(),
        "mistaken": len(answers.worst),
        "mistakes": [
            {
                "image": number[i],
                "label": int(labels[i]),
                "digit": int(answers.digits[i]),
                "probability": float(answers.probabilities[i].max()),
            }
            for i in answers.worst[:MISTAKES].tolist()
        ],
    }


def learned(variables: Any) -> dict[str, np.ndarray]:
    """The weights that decide a network's answer, under PyTorch's names and in its layouts.

    After fc1 the block's 3x3 convolutions see images of one pixel. Only the centre of each kernel
    is included, `[C, C]`, because its eight other weights meet nothing but padding.
    """
    tensors = torch_weights.to_torch(variables)
    after_fc1 = len(tensors.get("resnet_block.bn1.bias", ())) == 120
    return {
        name: tensor[CENTRE_TAP] if after_fc1 and _is_block_kernel(name, tensor) else tensor
        for name, tensor in tensors.items()
        if tensor.ndim  # BatchNorm's counter is a number that evaluation does not use
    }


def _is_block_kernel(name: str, tensor: np.ndarray) -> bool:
    return name.startswith("resnet_block.") and tensor.ndim == 4


def pack(tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Packs tensors one after another as little-endian float32: as base64, with their SHA-256."""
    content = b"".join(tensor.astype("<f4").tobytes() for tensor in tensors.values())
    return {"sha256": hashlib.sha256(content).hexdigest(), "base64": _base64(content)}


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
