"""Turns any picture of a digit into the image that MNIST would have stored.

A network trained on MNIST reads a stranger's digit only if that looks like MNIST's: light ink on
black, 20 pixels long, its centre of mass in the middle. LeCun, Cortes and Burges describe on their
page "The MNIST database of handwritten digits" what they did to the forms that NIST had scanned in
black and white (Grother, "NIST Special Database 19: Handprinted forms and characters database",
1995): "The original black and white (bilevel) images from NIST were size normalized to fit in a
20x20 pixel box while preserving their aspect ratio. The resulting images contain grey levels as a
result of the anti-aliasing technique used by the normalization algorithm. The images were centered
in a 28x28 image by computing the center of mass of the pixels, and translating the image so as to
position this point at the center of the 28x28 field." In all images of MNIST the longer side
measures 20 pixels, the brightest pixel is 254 or 255, and the centre of mass lies in row 14 and
column 14, counted from 0. `to_mnist` does the same, and changes next to nothing in an image of
MNIST.

The steps before that are ours, because a picture is not a scan of a form. Five functions work one
after another on a picture `[H, W]` with values from 0 to 1:

1. `_grey` undoes an enlargement that made each pixel a square, averages a large picture over
   squares, and chooses one channel.
2. `_dark_ink` takes the negative if the ink is light.
3. `_ink` estimates the light on the paper and finds what part of it is missing in each pixel, so
   that gradients and shadows do not count as ink.
4. `_digit` keeps the connected parts that are ink, without specks and without the edge of a table.
5. `_place` scales and shifts the digit. NIST's scans were black and white before they were
   averaged, so the edges of a picture that is larger than MNIST's are steepened first. A pen that
   was thin for the size of its digit would leave less than a pixel of grey where NIST's writers
   left two or three of white, so thin strokes are widened.

The paper must fill most of the picture's border.
"""

from typing import Any

import numpy as np
from scipy import ndimage

SIZE = 28  # pixels on each side of an image
LENGTH = 20  # pixels on the longer side of a digit in it

WORKING_SIZE = 1024  # longest side, in pixels, of the picture in which the digit is looked for
COARSE_SIZE = 64  # longest side of the one from which the light on the paper is estimated
WIDEST = 0.35  # share of the picture's longer side: what is wider in both directions is no stroke
BORDER = 0.25  # weight of ink at the border, against 1 for the roughness of the paper
ROUNDS = 3  # how often the estimate of the light on the paper is refined
LEAST_LIGHT = 1 / 255  # least light on the paper, and the difference above which it is uneven
RARE = 1 / 5000  # share of the pixels that may be darker than full ink: outliers, not ink
LEAST_CONTRAST = 0.05  # least difference between full ink and paper, as a share of white
LEAST_SIGNAL = 6  # least difference between them, in standard deviations of the noise
STRONG = 0.5  # share of full ink from which a pixel is ink for certain
REACH = 2  # pixels around such a pixel in which even faint ink belongs to it
SPECK = 0.02  # a connected part below this share of the largest one is dirt
TOUCHES = 0.15  # what takes this share of the picture's border or more is not part of a digit
THINNEST = 1.2  # width in MNIST's pixels to which thinner strokes are widened
STEEPEST = 4  # largest factor by which the edges of a large picture's ink are steepened

TENTH_OF_NOISE = 0.1257  # a tenth of normal noise lies within this many standard deviations
NUDGE = 1e-6  # so that a sum's last digit cannot decide in which pixel the centre of mass lies


def to_mnist(image: np.ndarray) -> np.ndarray:
    """Finds the digit in a picture and returns it as an image of MNIST.

    Args:
      image: `[H, W]`, `[H, W, 1]` or `[H, W, 3]`: grey or colour of any size, dark ink on light
        ground or light ink on dark ground. Integers from 0 to the largest of their dtype, or
        floating-point numbers from 0 to 1.

    Returns:
      `[28, 28, 1]` uint8: the ink light on black, its longer side 20 pixels, its centre of mass in
      the middle.

    Raises:
      ValueError: there is no ink in the picture, or the array is no picture.
    """
    return _place(_digit(_ink(_dark_ink(_grey(image)))))[..., None]


def _grey(image: np.ndarray) -> np.ndarray:
    """`[H, W, C]` of any size to `[H, W]` float64, 0..1, at most `WORKING_SIZE` long.

    Of several channels it takes the one with the largest standard deviation: blue ink on white
    paper is clearest in red, and red on green invisible in their mean.
    """
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
        raise ValueError(f"a picture is [H, W], [H, W, 1] or [H, W, 3], not {list(image.shape)}")
    image = _without_squares(image)
    largest = np.iinfo(image.dtype).max if image.dtype.kind in "iu" else 1
    x = _reduce(image, WORKING_SIZE) / largest
    if not ((x >= 0) & (x <= 1)).all():
        raise ValueError("the picture has values below 0, above 1 or not finite")
    return x[..., x.std((0, 1)).argmax()] if x.shape[2] > 1 else x[..., 0]


def _without_squares(image: np.ndarray) -> np.ndarray:
    """Undoes the enlargement of a picture `[H, W, C]` in which each pixel became a square.

    A picture that was not enlarged in this way is returned as it is.
    """
    rows = np.flatnonzero((image[1:] != image[:-1]).any((1, 2))) + 1
    columns = np.flatnonzero((image[:, 1:] != image[:, :-1]).any((0, 2))) + 1
    if not rows.size or not columns.size:
        return image
    side = np.gcd.reduce(np.concatenate([np.diff(rows), np.diff(columns)]))
    if side < 2 or max(image.shape) < side * SIZE:
        return image
    return image[rows[0] % side :: side, columns[0] % side :: side]


def _dark_ink(grey: np.ndarray) -> np.ndarray:
    """The picture `[H, W]`, or its negative if its ink is light."""
    coarse = _reduce(grey, COARSE_SIZE)
    return grey if _strangeness(coarse) <= _strangeness(1 - coarse) else 1 - grey


def _strangeness(x: np.ndarray) -> float:
    """How rough the paper of a picture `[h, w]` and how inked its border are if its ink is dark.

    On a page with a small digit the paper decides: once what is narrow and dark is removed, dark
    ink leaves nothing behind, and light ink leaves a spot. In a picture that the digit fills, the
    border decides.
    """
    paper = _without_strokes(x)
    ink = (paper - x) ** 2
    border = ink[0].sum() + ink[-1].sum() + ink[1:-1, 0].sum() + ink[1:-1, -1].sum()
    rough = (np.diff(paper, axis=0) ** 2).sum() + (np.diff(paper, axis=1) ** 2).sum()
    return rough + BORDER * border


def _without_strokes(x: np.ndarray) -> np.ndarray:
    """Removes from a picture `[h, w]` what is dark and, in at least one direction, narrow.

    This is the morphological closing with a square. Nothing outside the picture counts.
    """
    window = 2 * int(WIDEST * max(x.shape) / 2) + 1
    x = ndimage.maximum_filter(x, window, mode="constant", cval=-np.inf)
    return ndimage.minimum_filter(x, window, mode="constant", cval=np.inf)


def _ink(grey: np.ndarray) -> np.ndarray:
    """How much ink each pixel of a picture `[H, W]` with dark ink has: `[H, W]`, 1 for full ink.

    Raises:
      ValueError: there is no ink.
    """
    coarse = np.maximum(_reduce(grey, COARSE_SIZE), LEAST_LIGHT)  # [h, w]
    light = _without_strokes(coarse)
    if np.ptp(light) > LEAST_LIGHT:
        # At the dark side of a gradient the closing is too light, by what the gradient changes over
        # half its window. Each round therefore divides by the gradient as far as it is known.
        for _ in range(ROUNDS):
            gradient = _quadratic(light)
            light = gradient * _without_strokes(coarse / gradient)
    light = _enlarge(light, grey.shape)
    missing = light - grey

    # Noise is equally strong everywhere in what is missing. As a share of the light it is not.
    size = missing.size
    noise = np.sort(np.abs(missing).reshape(-1))[size // 10] / TENTH_OF_NOISE
    if _all_but_rare(missing) < max(LEAST_CONTRAST, LEAST_SIGNAL * noise):
        raise ValueError("there is no ink in the picture")
    ink = missing / light
    return np.clip(ink / _all_but_rare(ink), 0, 1)


def _all_but_rare(x: np.ndarray) -> float:
    """The value that at most the share `RARE` of all values exceeds."""
    # Blank paper is one value many times, with which `np.partition` takes far longer than a sort.
    return np.sort(x.reshape(-1))[x.size - 1 - int(RARE * x.size)]


def _quadratic(x: np.ndarray) -> np.ndarray:
    """The quadratic surface that fits the lighter part of a picture `[h, w]` best."""
    v, u = (2 * (np.arange(n) + 0.5) / n - 1 for n in x.shape)  # -1 to 1
    v, u = np.repeat(v, u.size), np.tile(u, v.size)
    terms = np.stack([np.ones_like(u), u, v, u * u, v * v, u * v], 1)  # [h w, 6]
    values = x.reshape(-1)
    lighter = values > STRONG * np.median(values)  # leaves out a dark table beside the paper
    b = np.linalg.lstsq(terms[lighter], values[lighter])[0]
    return np.clip(terms @ b, LEAST_LIGHT, 1).reshape(x.shape)


def _digit(ink: np.ndarray) -> np.ndarray:
    """Removes from the ink `[H, W]` what is not part of a digit."""
    found: Any = ndimage.label(ink >= STRONG, np.ones((3, 3)))
    labels, count = found  # [H, W]: parts are numbered from 1, and 0 is no ink
    sizes = np.bincount(labels.reshape(-1), minlength=count + 1)
    sizes[0] = 0
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    inside = np.bincount(border, minlength=count + 1) < TOUCHES * border.size
    if (sizes * inside).max() > RARE * ink.size:
        sizes *= inside
    kept = (sizes >= max(1, SPECK * sizes.max()))[labels]
    return np.where(ndimage.maximum_filter(kept, 2 * REACH + 1), ink, 0)


def _place(ink: np.ndarray) -> np.ndarray:
    """Scales and shifts the ink `[H, W]` as in MNIST, to `[28, 28]` uint8."""
    half = np.median(ink[ink >= STRONG]) / 2  # half of a stroke's ink
    inside = ink >= half
    scale = max(end - start for start, end in _spans(inside)) / LENGTH
    outline = inside.sum() - ndimage.binary_erosion(inside).sum()  # pixels
    missing = THINNEST * scale - 2 * inside.sum() / outline  # a stroke has two sides
    reach = int(np.floor(missing / 2 + 0.5))
    if reach > 0:
        ink = ndimage.maximum_filter(np.pad(ink, reach), 2 * reach + 1)

    spans = _spans(ink >= half)
    scale = (
        max(end - start for start, end in spans) / LENGTH
    )  # pixels of the picture to one of the image
    steep = min(max(1, scale), STEEPEST)
    ink = np.clip(steep * ink - (steep - 1) * half, 0, 1)
    weights = []
    for axis, (start, end) in enumerate(spans):
        mass = ink.sum(1 - axis)
        centre = (mass @ (np.arange(mass.size) + 0.5) / mass.sum() - start) / scale
        first = SIZE // 2 - int(np.floor(centre + NUDGE))  # the digit's first pixel in the image
        last_first = SIZE - int(np.ceil((end - start) / scale - NUDGE))
        first = min(max(first, 0), last_first)
        weights.append(_weights(mass.size, start - first * scale, scale))
    image = weights[0] @ ink @ weights[1].T
    return np.floor(255 * image / image.max() + 0.5).astype(np.uint8)


def _spans(inside: np.ndarray) -> list[tuple[int, int]]:
    """The first row of `[H, W]` with a true pixel, and the row after the last; then the columns."""
    lines = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    return [(int(line[0]), int(line[-1]) + 1) for line in lines]


def _weights(size: int, origin: float, scale: float) -> np.ndarray:
    """The weight of each of the picture's `size` pixels in each of the image's, `[28, size]`.

    The image's pixel `i` is the mean over a window around its centre at `origin + (i + 1/2) scale`.
    The window is as wide as that pixel, and at least as wide as one pixel of the picture. So a
    larger picture is averaged over areas, a smaller one is interpolated linearly, and at scale 1
    nothing changes.
    """
    width = max(scale, 1)
    centres = origin + (np.arange(SIZE)[:, None] + 0.5) * scale
    pixels = np.arange(size)[None, :]
    covered = np.minimum(centres + width / 2, pixels + 1) - np.maximum(centres - width / 2, pixels)
    return np.clip(covered, 0, None) / width


def _reduce(x: np.ndarray, longest: int) -> np.ndarray:
    """Averages over squares that are just large enough for a longer side of at most `longest`.

    Rows and columns at the end that do not fill a square are left out.
    """
    side = _side(x.shape, longest)
    if side == 1:
        return x.astype(float)
    height, width = (max(1, length // side) for length in x.shape[:2])
    x = x[: height * side, : width * side]
    squares = x.reshape(height, x.shape[0] // height, width, x.shape[1] // width, *x.shape[2:])
    return squares.mean((1, 3), dtype=float)


def _enlarge(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Interpolates what `_reduce` made of a picture with `COARSE_SIZE` back to its `shape`."""
    side = _side(shape, COARSE_SIZE)
    if side == 1:
        return x
    for axis, length in enumerate(shape):
        at = np.clip((np.arange(length) + 0.5) / side - 0.5, 0, x.shape[axis] - 1)
        before = np.minimum(at.astype(int), max(x.shape[axis] - 2, 0))
        after = np.minimum(before + 1, x.shape[axis] - 1)
        part = np.expand_dims(at - before, 1 - axis)
        x = x.take(before, axis) * (1 - part) + x.take(after, axis) * part
    return x


def _side(shape: tuple[int, ...], longest: int) -> int:
    return -(-max(shape[:2]) // longest)
