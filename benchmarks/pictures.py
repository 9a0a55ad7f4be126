"""How well are digits read from pictures?

    python -m benchmarks.pictures runs/none-seed0 runs/before_fc1-seed0 runs/after_fc1-seed0

Method. Test images of MNIST, drawn at random, are made into pictures such as people have. Each is
written to a file, read again by `groundwork.images`, prepared by `mnist_jax.digits`, and answered
by each network. Beside each accuracy stands its difference from that on the same images as MNIST
has them.
A picture in which no digit is found counts as a mistake. `MAKERS` lists the kinds of pictures.

Conditions. The accuracies depend on the networks and the images, not on the machine. With 1,000
images one image is 0.1 %.
"""

if __name__ == "__main__":
    from experiments.groundwork import stopping

    stopping.end_at_once()

import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from experiments.groundwork.options import DataOptions, UsageError, refuse, refuse_unless_positive
from PIL import Image, ImageFilter
from rich import box
from rich.table import Table

from experiments.groundwork import images, options, terminal
from experiments.groundwork.run_directory import open_run
from mnist_jax import compilation, train
from mnist_jax.data import Split, load_mnist
from mnist_jax.digits import to_mnist

ORIENTATION = 0x0112  # EXIF's tag

# A function that makes a picture of an image of MNIST, [28, 28] uint8 with light ink on black.
Maker = Callable[[np.ndarray, np.random.Generator], Image.Image]


@dataclass(frozen=True)
class Config:
    """Measure how well digits are read from pictures."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Directories that experiments.run made, or .safetensors files."""
    images: int = 1000
    """Number of test images, at least 1."""
    seed: int = 0
    """Seed of the choice of images and of what is random in the pictures, at least 0."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""

    def body() -> int:
        config = options.parse(Config, arguments, name="benchmarks.pictures", description=__doc__)
        refuse_unless_positive(images=config.images)
        if config.seed < 0:
            refuse("seed", "at least 0", config.seed)
        if not config.runs:
            raise UsageError("name at least one run: python -m benchmarks.pictures RUN")
        runs = [open_run(path) for path in config.runs]
        networks = [compilation.jit(partial(train.predict, model=run.model)) for run in runs]
        _, test = load_mnist(config.data.data_dir, config.data.mirror)
        test = chosen(test, config.images, config.seed)

        table = Table("pictures", box=box.SIMPLE_HEAD)
        for run in runs:
            table.add_column(run.name, justify="right", no_wrap=True)
        table.add_column("no digit found", justify="right", no_wrap=True)

        def row(name: str, seen: np.ndarray, before: Sequence[float] | None, refused: int):
            percents = [
                accuracy_percent(network(run.variables, seen), test)
                for run, network in zip(runs, networks, strict=True)
            ]
            cells = [f"{percent:.1f}" for percent in percents]
            if before is not None:
                cells = [f"{p:.1f} ({p - b:+.1f})" for p, b in zip(percents, before, strict=True)]
            table.add_row(name, *cells, str(refused))
            return percents

        before = row("as MNIST has them, not prepared again", np.asarray(test.images), None, 0)
        for name, maker in MAKERS.items():
            seen, refused = read_back(maker, np.asarray(test.images)[..., 0], config.seed)
            row(name, seen, before, refused)
        terminal.print_table(terminal.console(), table)
        return options.OK

    return options.run_command(body)


def chosen(test: Split, size: int, seed: int) -> Split:
    """`size` examples of a split, drawn at random; all of them if there are no more."""
    total = len(test.labels)
    which = np.random.default_rng(seed).choice(total, min(size, total), replace=False)
    return Split(test.images[which], test.labels[which])


def read_back(maker: Maker, images_: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
    """Makes a picture of each image, writes it to a file, and reads and prepares it again.

    Args:
      maker: makes the pictures.
      images_: `[N, 28, 28]` uint8.
      seed: decides what is random in the pictures.

    Returns:
      The prepared images, `[N, 28, 28, 1]` uint8, and the number of those in which no digit was
      found, which are black.
    """
    rng = np.random.default_rng(seed)
    seen = np.zeros((*images_.shape, 1), np.uint8)
    refused = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "picture"
        for number, image in enumerate(images_):
            file.write_bytes(_encoded(maker(image, rng)))
            try:
                seen[number] = to_mnist(images.decode(file))
            except ValueError:
                refused += 1
    return seen, refused


def accuracy_percent(logits: Any, test: Split) -> float:
    """The share of right answers among logits `[N, 10]`, in percent."""
    return 100 * float(np.mean(np.asarray(logits).argmax(1) == test.labels))


def _encoded(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    kind = "JPEG" if picture.info.get("jpeg") else "PNG"
    picture.save(content, kind, exif=picture.getexif())
    return content.getvalue()


def same(image: np.ndarray, _: np.random.Generator) -> Image.Image:
    """The image itself."""
    return Image.fromarray(image)


def inverted(image: np.ndarray, _: np.random.Generator) -> Image.Image:
    """Dark ink on white."""
    return Image.fromarray(255 - image)


def enlarged(image: np.ndarray, _: np.random.Generator, *, smooth: bool = True) -> Image.Image:
    """Ten times as large."""
    resample = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return Image.fromarray(image).resize((280, 280), resample)


def turned(image: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Lying on a side or upside down, with EXIF's orientation, which says which side is up."""
    # How an upright picture is stored so that EXIF's orientation turns it upright again.
    ways = {
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }
    orientation = int(rng.choice(list(ways)))
    picture = inverted(image, rng).transpose(ways[orientation])
    picture.getexif()[ORIENTATION] = orientation
    return picture


def on_a_page(
    image: np.ndarray, rng: np.random.Generator, *, at_least: float = 2, at_most: float = 8
) -> Image.Image:
    """Dark ink anywhere on a page of 400x300, enlarged by `at_least` to `at_most` times."""
    side = round(28 * rng.uniform(at_least, at_most))
    page = Image.new("L", (400, 300), 255)
    place = rng.integers(0, 401 - side), rng.integers(0, 301 - side)
    ink = Image.fromarray(255 - image).resize((side, side), Image.Resampling.BICUBIC)
    page.paste(ink, (int(place[0]), int(place[1])))
    return page


def photographed(
    image: np.ndarray, rng: np.random.Generator, *, shadow: bool = False, table: bool = False
) -> Image.Image:
    """A page in uneven light: its dark side has half the light of the other; noise, slight blur."""
    page = on_a_page(image, rng, at_least=4)
    ink = 1 - np.asarray(page.filter(ImageFilter.GaussianBlur(1.2))) / 255  # [H, W], 0..1
    down, along = np.mgrid[0:1:300j, 0:1:400j]
    angle = rng.uniform(0, 2 * np.pi)
    light = np.cos(angle) * along + np.sin(angle) * down
    light = 1 - 0.5 * (light - light.min()) / np.ptp(light)
    if shadow:
        light *= 1 - 0.4 / (1 + np.exp((rng.uniform(0.2, 0.8) - along) * 40))
    picture = 230 * light * (1 - 0.75 * ink)
    if table:
        picture = np.pad(picture, ((0, 0), (int(rng.integers(10, 50)), 0)), constant_values=50)
    noisy = picture + rng.normal(0, 5, picture.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def compressed(image: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """A photograph as a JPEG."""
    picture = photographed(image, rng)
    picture.info["jpeg"] = True
    return picture


def cropped(image: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Ten times as large and cut off right beside the ink."""
    picture = np.asarray(enlarged(image, rng))
    rows, columns = (np.flatnonzero((picture > 127).any(axis)) for axis in (1, 0))
    return Image.fromarray(255 - picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def on_ruled_paper(image: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """A photograph of paper with printed lines."""
    picture = np.array(photographed(image, rng))
    for row in (10, 11):
        picture[row::25] = 0.8 * picture[row::25]
    return Image.fromarray(picture)


MAKERS: dict[str, Maker] = {
    "the same, as PNG": same,
    "inverted": inverted,
    "ten times as large": enlarged,
    "ten times as large, in squares": partial(enlarged, smooth=False),
    "turned, with EXIF's orientation": turned,
    "anywhere on a page of 400x300": on_a_page,
    "photographed: light 2:1, noise, slight blur": photographed,
    "photographed, as a JPEG": compressed,
    "photographed with a shadow": partial(photographed, shadow=True),
    "photographed with the table beside it": partial(photographed, table=True),
    "photographed on ruled paper": on_ruled_paper,
    "cut off beside the ink": cropped,
}


if __name__ == "__main__":
    options.leave(main())
