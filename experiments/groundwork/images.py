"""Finds and decodes pictures in files, and refuses in one line files that are no pictures."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 50_000_000  # of one picture; a larger one is refused before it is decoded
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")


class ImageError(Exception):
    """A file that cannot be used as a picture; the message is one line without the file's name."""


def find(paths: Sequence[Path]) -> Iterator[Path]:
    """Yields the files that are named, and all pictures in directories, sorted by name."""
    Image.init()
    endings = {ending for ending, kind in Image.EXTENSION.items() if kind in FORMATS}
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in endings)
        else:
            yield path


def decode(path: Path) -> np.ndarray:
    """Decodes the first frame of a picture, turned as its camera recorded.

    What is transparent takes the shade of the paper: see `_opaque`.

    Args:
      path: a PNG, JPEG, WebP, BMP, TIFF or GIF file.

    Returns:
      `[H, W]` or `[H, W, 3]` uint8, or `[H, W]` uint16 for 16 bits a pixel and more.

    Raises:
      ImageError: the file cannot be read, is no picture, damaged, or larger than `MAX_PIXELS`.
    """
    try:
        if not path.is_file():  # a pipe would wait for its writer
            raise ImageError("no such file" if not path.exists() else "not a regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the picture can be read in spite of them
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(f"{image.width} x {image.height} pixels are too many")
                return _pixels(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise ImageError("not a picture that can be read") from None
    except ImageError:
        raise
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise ImageError(f"damaged or not readable: {reason}") from error


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode == "F":  # floating-point numbers, whose range is not known
        wide = np.nan_to_num(np.asarray(image, float), posinf=0, neginf=0)
        return (65535 * (wide - wide.min()) / max(np.ptp(wide), 1e-30)).astype(np.uint16)
    if image.mode.startswith("I"):  # 16 bits and more
        return np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
    if image.has_transparency_data:
        return _opaque(image.convert("RGBA"))
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def _opaque(image: Image.Image) -> np.ndarray:
    """Lays a picture on white or black, whichever its paper is closer to.

    What is visible of a picture and fills less than half of it is taken for ink alone.
    """
    visible = np.asarray(image.getchannel("A"), float) / 255
    grey = (np.asarray(image.convert("L")) * visible).sum() / max(visible.sum(), 1)
    ink_alone = visible.mean() < 0.5
    ground = Image.new("RGBA", image.size, "white" if (grey < 128) == ink_alone else "black")
    return np.asarray(Image.alpha_composite(ground, image).convert("RGB"))
