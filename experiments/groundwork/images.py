"""Finds and decodes pictures in files, and refuses in one line files that are no pictures."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 50_000_000  # of one picture; a larger one is refused before it is decoded
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")

logging.getLogger("PIL").addHandler(logging.NullHandler())  # we report its errors in one line


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
    """Decodes the first frame of a picture.

    It is turned as its camera recorded, and what is transparent becomes white.

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
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(f"{image.width} x {image.height} pixels are too many")
                with _quiet() if image.format == "TIFF" else contextlib.nullcontext():
                    return _pixels(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise ImageError("not a picture that can be read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"more than {MAX_PIXELS:,} pixels") from None
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(f"damaged or not readable: {error.strerror or error}") from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        raise ImageError(f"damaged: {error or type(error).__name__}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps libtiff from writing to the standard error output."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode == "F":  # floating-point numbers, whose range is not known
        wide = np.nan_to_num(np.asarray(image, float), posinf=0, neginf=0)
        return (65535 * (wide - wide.min()) / max(np.ptp(wide), 1e-30)).astype(np.uint16)
    if image.mode.startswith("I"):  # 16 bits and more
        return np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return np.asarray(Image.alpha_composite(white, image).convert("RGB"))
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
