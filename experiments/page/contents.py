"""Gathers what the page holds: the network, answers and mistakes of each run, and a study's tables.

Everything here becomes JSON or text of the page. It contains no paths of the machine.
"""

import base64
import hashlib
import math
import mimetypes
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from markdown_it import MarkdownIt
from markupsafe import Markup

from experiments.groundwork import published
from experiments.groundwork.options import UsageError
from experiments.groundwork.run_directory import Run, open_weights
from mnist_jax import compilation, metrics, torch_weights, train
from mnist_jax.data import Split
from mnist_jax.disk import read_regular
from mnist_jax.summary import summary

MISTAKES = 200  # the most mistakes of a run that are shown, the worst ones
ROW = 24  # number of test images beside the drawing area
SETTINGS = ("dataset", "momentum", "normalisation", "learning_rate", "batch_size", "seed")
CENTRE_TAP = (slice(None), slice(None), 1, 1)

# The tables of a study that are shown open, in this order; all others are folded.
OPEN_TABLES = ("claims", "rank", "reproduction")
LONG = 60  # a table with a cell of more characters is shown as a list on a phone
MAX_TEXT = 2**20  # the largest table, in bytes
MAX_FIGURE = 2**22  # the largest figure, in bytes


class Answers(NamedTuple):
    """What a run says of the test images; `N` is their number."""

    probabilities: np.ndarray  # [N, 10]
    digits: np.ndarray  # [N], the most probable
    worst: np.ndarray  # [K] the misread images, by ascending probability of their label


class Text(NamedTuple):
    """A table or a paragraph of a study."""

    title: str
    html: Markup  # safe, because it is made from Markdown in which markup is text
    folded: bool


class Figure(NamedTuple):
    """A figure of a study."""

    title: str
    url: str  # the picture itself, as a data URL


class Study(NamedTuple):
    """What is shown of a study."""

    name: str
    texts: tuple[Text, ...]
    figures: tuple[Figure, ...]


def gather(runs: Sequence[Run], test: Split) -> dict[str, Any]:
    """The data of the page's scripts, ready for JSON.

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
        "images": _base64(zlib.compress(images.tobytes(), 9)),
        "row": [_row_entry(i, number[i], answers, labels) for i in row],
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


def _row_entry(
    index: int, number: int, answers: Sequence[Answers], labels: np.ndarray
) -> dict[str, Any]:
    misread = [
        {"run": n, "digit": int(each.digits[index])}
        for n, each in enumerate(answers)
        if each.digits[index] != labels[index]
    ]
    return {"image": number, "label": int(labels[index]), "misread": misread}


def _run(
    run: Run, answers: Answers, labels: np.ndarray, number: Mapping[int, int]
) -> dict[str, Any]:
    layers = summary(run.model)
    tensors = learned(run.variables)
    mistakes = answers.worst[:MISTAKES].tolist()
    kept = [(epoch, path) for epoch, path in run.epochs if run.epoch and epoch < run.epoch]
    parameters = sum(layer.parameters for layer in layers)
    statistics = sum(leaf.size for leaf in jax.tree.leaves(run.variables.get("batch_stats", {})))
    embedded = sum(tensor.size for tensor in tensors.values())
    return {
        "name": run.name,
        "placement": run.model.placement,
        "mean": run.model.pixels.mean,
        "std": run.model.pixels.std,
        "epoch": run.epoch,
        "parameters": parameters,
        "unused": parameters + statistics - embedded,
        "layers": [layer._asdict() for layer in layers],
        "tensors": [[name, tensor.shape] for name, tensor in tensors.items()],
        "weights": pack(tensors),
        "epochs": [
            {"epoch": epoch, "weights": pack(learned(open_weights(path)[1]))}
            for epoch, path in kept
        ],
        "settings": [[name, run.config[name]] for name in SETTINGS if name in run.config],
        "history": [_finite(row) for row in run.history],
        "report": [epoch._asdict() for epoch in published.HISTORY.get(run.model.placement, ())],
        "confusion": np.asarray(
            metrics.confusion_matrix(jnp.asarray(answers.digits), jnp.asarray(labels))
        ).tolist(),
        "mistaken": len(answers.worst),
        "mistakes": [
            {
                "image": number[i],
                "label": int(labels[i]),
                "digit": int(answers.digits[i]),
                "probability": float(answers.probabilities[i].max()),
            }
            for i in mistakes
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


def read_study(directory: Path) -> Study:
    """Reads the tables and figures that a study wrote, whatever their names are.

    Args:
      directory: the study's, with `tables/*.md` and `figures/*.svg` or `.png`.

    Raises:
      UsageError: the directory has no tables, or a file cannot be read.
    """
    tables = {path.stem: path for path in sorted(directory.glob("tables/*.md"))}
    if not tables:
        raise UsageError(f"{directory}: not the directory of a study, it has no tables/*.md")
    order = [name for name in OPEN_TABLES if name in tables]
    order += [name for name in tables if name not in order]
    texts = (
        Text(_title(name), render(_read(tables[name], MAX_TEXT)), name not in OPEN_TABLES)
        for name in order
    )
    names = sorted({path.stem for path in directory.glob("figures/*") if _drawn(path)})
    figures = (Figure(_title(name), _picture(directory / "figures", name)) for name in names)
    return Study(directory.resolve().name, tuple(texts), tuple(figures))


def render(markdown: bytes) -> Markup:
    """Renders a study's Markdown as HTML, with markup, links and pictures in it as plain text."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.disable(["image", "link", "autolink", "html_block", "html_inline"])
    tokens = parser.parse(markdown.decode(errors="replace"))
    table, columns, cell = None, [], 0
    for i, token in enumerate(tokens):
        if token.type == "table_open":
            table, columns = token, []
        elif token.type == "tr_open":
            cell = 0
        elif token.type in ("th_open", "td_open") and table:
            inner = tokens[i + 1]
            # How a column is aligned comes as a style, and the page's policy forbids styles.
            right = "right" in str(token.attrs.get("style", ""))
            token.attrs = {"class": "number"} if right else {}
            if token.type == "th_open":
                columns.append(inner.content)
            else:
                token.attrs["data-column"] = columns[cell]
            cell += 1
            if len(inner.content) > LONG:
                table.attrs = {"class": "long"}
    return Markup(parser.renderer.render(tokens, parser.options, {}))


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _drawn(path: Path) -> bool:
    return path.suffix in (".svg", ".png")


def _picture(folder: Path, name: str) -> str:
    """The smaller of a figure's files as a data URL."""
    files = [path for path in folder.glob(f"{name}.*") if _drawn(path)]
    path = min(files, key=lambda path: path.stat().st_size)
    kind, _ = mimetypes.guess_type(path.name)
    return f"data:{kind};base64,{_base64(_read(path, MAX_FIGURE))}"


def _read(path: Path, limit: int) -> bytes:
    try:
        return read_regular(path, limit=limit)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a history for JSON, which has no NaN."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
