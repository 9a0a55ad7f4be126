"""Pictures from files: found, decoded, and refused in one line where they are none."""

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
    """The files that are named, and in directories the pictures, in the order of their names."""
    Image.init()
    endings = {ending for ending, kind in Image.EXTENSION.items() if kind in FORMATS}
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.iterdir() if file.suffix.lower() in endings)
        else:
            yield path


def decode(path: Path) -> np.ndarray:
    """Decodes a picture: the first frame, turned as its camera says, transparency over white.

    Args:
      path: of a PNG, JPEG, WebP, BMP, TIFF or GIF file.

    Returns:
      `[H, W]` or `[H, W, 3]` uint8, or `[H, W]` uint16 for 16 bits a pixel.

    Raises:
      ImageError: the file cannot be read, is no picture, damaged, or larger than `MAX_PIXELS`.
    """
    try:
        if not path.is_file():  # a pipe would wait for its writer
            raise ImageError("no such file" if not path.exists() else "not a regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(f"{image.width} x {image.height} pixels are too many")
                return _pixels(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise ImageError("not a picture that can be read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"more than {MAX_PIXELS:,} pixels") from None
    except OSError as error:
        raise ImageError(f"damaged or not readable: {error.strerror or error}") from error
    except (ValueError, SyntaxError, EOFError, IndexError, KeyError, MemoryError) as error:
        raise ImageError(f"damaged: {error}") from error  # what Pillow's decoders raise


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits and more
        wide = np.asarray(image)
        return np.clip(wide, 0, 65535).astype(np.uint16)
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    if image.mode == "P" or "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return np.asarray(Image.alpha_composite(white, image).convert("RGB"))
    return np.asarray(image.convert("RGB"))
