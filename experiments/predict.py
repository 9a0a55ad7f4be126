"""Says which digits are in pictures.

    python -m experiments.predict runs/after_fc1-seed0 three.png photos/

The first argument is the directory of a run, which may still be training, or a file of weights.
Each picture is prepared as MNIST's makers prepared theirs (`mnist_jax.digits`), so that dark or
light ink, any size and any place on the page will do.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tyro

from experiments.groundwork import command, images, machine, terminal
from experiments.groundwork.command import UsageError
from experiments.groundwork.recipe import PixelScale
from experiments.groundwork.run_directory import open_run
from mnist_jax import compilation, digits, store, train

BATCHES = (32, 512)  # numbers of images computed at once; a program is compiled for each
SHOWN = 40  # the most pictures that --show draws, since a taller figure could not be looked at
THUMBNAIL = 400  # the most pixels on the longer side of a drawn picture


@dataclass(frozen=True)
class Options:
    """Say which digits are in pictures."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Directory of a run, or a .safetensors file."""
    pictures: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="IMAGE ...", help_behavior_hint=lambda _: ""),
    ]
    """Files or directories of pictures: PNG, JPEG, WebP, BMP, TIFF or GIF."""
    pixels: PixelScale | None = None
    """Scale of a pixel x of 0..1, for a file of weights that does not say it: (x - 0.5)/0.5,
    (x - 0.1307)/0.3081, or x itself."""
    as_is: bool = False
    """Take pictures of 28x28 pixels as they are, light ink on black, without preparing them."""
    json: Path | None = None
    """File for the answers as JSON, with all ten probabilities, and for the unreadable files."""
    show: Path | None = None
    """PNG file to draw; it shows each of the first 40 pictures, what the network saw, and the
    probabilities as ten bars."""


class Seen(NamedTuple):
    """A picture that could be read."""

    file: Path
    picture: np.ndarray | None  # a small copy, [H, W] or [H, W, 3]; None if it is not shown
    image: np.ndarray  # [28, 28, 1] uint8, as the network sees it


class Answer(NamedTuple):
    """What a network says of one picture."""

    file: Path
    digit: int
    probability: float  # 0 to 1
    runner_up: int
    runner_up_probability: float
    probabilities: tuple[float, ...]  # those of the ten digits


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return command.main(Options, run, arguments, name="experiments.predict", description=__doc__)


def run(options: Options) -> int:
    """Prints a line for each picture, and returns the exit status."""
    check(options)
    console = terminal.console()
    machine.start()
    opened = open_run(options.run, options.pixels)
    program = compilation.jit(partial(train.predict, model=opened.model))
    shown: list[Seen] = []
    answers: list[Answer] = []
    refused: dict[Path, str] = {}
    for chunk in _chunks(images.find(options.pictures), max(BATCHES)):
        readable = []
        for file in chunk:
            try:
                keep = options.show is not None and len(shown) + len(readable) < SHOWN
                readable.append(_read(file, options.as_is, keep=keep))
            except images.ImageError as error:
                refused[file] = str(error)
                terminal.complain(f"{_on_one_line(file)}: {error}")
        shown += [one for one in readable if one.picture is not None]
        of_chunk = predict(program, opened.variables, readable)
        if of_chunk:
            console.print("\n".join(map(_line, of_chunk)))
        answers += of_chunk
    if options.json:
        store.write_whole(options.json, _as_json(answers, refused))
    if options.show and shown:
        from experiments.figures import prediction  # matplotlib, only where it is needed

        pairs = [(one.picture, one.image[..., 0]) for one in shown]
        prediction.answers(pairs, answers[: len(pairs)], options.show)
    if not answers and not refused:
        raise UsageError("there is no picture in what was named")
    return command.FAILED if refused else command.OK


def check(options: Options) -> None:
    """Checks the options.

    Raises:
      UsageError: there is no picture, or a file could not be written.
    """
    if not options.pictures:
        raise UsageError("name at least one picture or directory of pictures")
    if options.show and options.show.suffix.lower() != ".png":
        command.refuse("show", "a file that ends with .png", options.show)
    command.refuse_unless_writable(json=options.json, show=options.show)


def predict(program: Any, variables: Any, seen: Sequence[Seen]) -> list[Answer]:
    """Computes the answers of a network.

    Args:
      program: `train.predict` of the network, compiled.
      variables: the network's variables.
      seen: at most as many pictures as the largest of `BATCHES`.

    Returns:
      One answer for each picture, in the order of the pictures.
    """
    if not seen:
        return []
    size = min(batch for batch in BATCHES if batch >= len(seen))
    padded = np.zeros((size, 28, 28, 1), np.uint8)
    padded[: len(seen)] = [one.image for one in seen]
    logits = program(variables, padded)[: len(seen)]
    probabilities = np.asarray(jax.nn.softmax(logits), float)  # [N, 10]
    return [_answer(one.file, row) for one, row in zip(seen, probabilities, strict=True)]


def _answer(file: Path, probabilities: np.ndarray) -> Answer:
    second, first = np.argsort(probabilities, kind="stable")[-2:]
    return Answer(
        file,
        int(first),
        float(probabilities[first]),
        int(second),
        float(probabilities[second]),
        tuple(map(float, probabilities)),
    )


def _read(file: Path, as_is: bool, *, keep: bool) -> Seen:
    """Decodes a picture and turns it into an image of MNIST.

    Raises:
      ImageError: the file is no picture, there is no digit in it, or `as_is` is set and the size is
        not 28x28.
    """
    picture = images.decode(file)
    try:
        image = _unprepared(picture) if as_is else digits.to_mnist(picture)
    except ValueError as error:
        raise images.ImageError(str(error)) from error
    step = -(-max(picture.shape) // THUMBNAIL)
    return Seen(file, picture[::step, ::step].copy() if keep else None, image)


def _unprepared(picture: np.ndarray) -> np.ndarray:
    """A picture of the right size as `[28, 28, 1]` uint8, with the mean of its colours."""
    if picture.shape[:2] != (28, 28):
        height, width = picture.shape[:2]
        raise ValueError(f"{width} x {height} pixels, and --as-is takes 28 x 28")
    grey = picture.mean(-1) if picture.ndim == 3 else picture
    scale = 257 if picture.dtype == np.uint16 else 1
    return np.rint(grey / scale).astype(np.uint8)[..., None]


def _chunks(found: Iterator[Path], size: int) -> Iterator[list[Path]]:
    """Lists of at most `size` paths; the first one is short, so that its answers come at once."""
    chunk: list[Path] = []
    room = min(BATCHES)
    for path in found:
        chunk.append(path)
        if len(chunk) == room:
            yield chunk
            chunk, room = [], size
    if chunk:
        yield chunk


def _on_one_line(file: Path) -> str:
    """The name of a file, with line breaks and control characters of a terminal escaped."""
    name = str(file)
    return name if name.isprintable() else repr(name)


def _line(answer: Answer) -> str:
    return (
        f"{_on_one_line(answer.file)}: {answer.digit} ({answer.probability:.1%}), "
        f"then {answer.runner_up} ({answer.runner_up_probability:.1%})"
    )


def _as_json(answers: Sequence[Answer], refused: Mapping[Path, str]) -> bytes:
    rows = [answer._asdict() | {"file": str(answer.file)} for answer in answers]
    wrong = [{"file": str(file), "error": error} for file, error in refused.items()]
    return (json.dumps([*rows, *wrong], indent=1) + "\n").encode()


if __name__ == "__main__":
    command.leave(main())
