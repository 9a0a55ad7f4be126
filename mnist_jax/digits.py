"""Any picture of a digit as MNIST would have stored it.

A network trained on MNIST reads a stranger's digit only if that looks like MNIST's: light ink on
black, 20 pixels long, its centre of mass in the middle. LeCun, Cortes and Burges describe on their
page "The MNIST database of handwritten digits" what they did to the forms that NIST had scanned in
black and white (Grother, "NIST Special Database 19: Handprinted forms and characters database",
1995): "The original black and white (bilevel) images from NIST were size normalized to fit in a
20x20 pixel box while preserving their aspect ratio. The resulting images contain grey levels as a
result of the anti-aliasing technique used by the normalization algorithm. The images were centered
in a 28x28 image by computing the center of mass of the pixels, and translating the image so as to
position this point at the center of the 28x28 field." Measured on all images of MNIST: the longer
side is 20 pixels, the brightest pixel is 254 or 255, and the centre of mass lies in the pixel that
has 14 others before it. `to_mnist` does the same, and changes next to nothing in an image of MNIST.

What comes before is ours, because a picture is not a scan of a form. Five functions in turn take a
picture `[H, W]` with values of 0 to 1:

1. `_grey`: one channel; a picture that was enlarged in squares gets its own pixels back, and a
   large one is averaged over squares.
2. `_dark_ink`: the negative, if the ink is light.
3. `_ink`: the part of the light on the paper that is missing; gradients and shadows are no ink.
4. `_digit`: the connected parts that are ink, without specks and without the edge of the table.
5. `_place`: scaled and shifted. NIST's scans were black and white before they were averaged, so the
   edges of a picture that is larger than MNIST's are steepened first. A pen that was thin for the
   size of its digit would leave less than a pixel of grey where NIST's writers left two or three of
   white, so thin strokes are widened.

The paper must fill most of the picture's border.
"""

from typing import Any

import numpy as np
from scipy import ndimage

SIZE = 28  # of an image, pixels a side
LENGTH = 20  # of a digit's longer side in it

WORKING_SIZE = 1024  # longest side in pixels on which a digit is looked for
COARSE_SIZE = 64  # and on which the light on the paper is found
WIDEST = 0.35  # of the picture's longer side: what is wider than that both ways is no stroke
BORDER = 0.25  # how much ink at the border counts against rough paper
ROUNDS = 3  # of finding the light on the paper
LEAST_LIGHT = 1 / 255  # on the paper, and by which it is uneven
RARE = 1 / 5000  # part of the pixels that may be darker than full ink: outliers, not ink
LEAST_CONTRAST = 0.05  # of full ink, as a part of white
LEAST_SIGNAL = 6  # standard deviations of the noise that full ink must be
STRONG = 0.5  # part of full ink from which a pixel is ink for certain
REACH = 2  # pixels around it whose ink belongs to it, faint as it may be
SPECK = 0.02  # part of the largest connected part below which another one is dirt
TOUCHES = 0.15  # part of the picture's border from which what lies along it is no digit's
THINNEST = 1.2  # of MNIST's pixels: thinner strokes are widened to that
STEEPEST = 4  # factor by which the edges of a large picture's ink are steepened at most

TENTH_OF_NOISE = 0.1257  # standard deviations of normal noise that a tenth of it does not exceed
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
    """A picture `[H, W, C]` that was enlarged without smoothing, in its own pixels again."""
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
    """How rough the paper in a picture `[h, w]` would be, and how inked its border, were ink dark.

    On a page with a small digit the paper tells: without what is narrow and dark, dark ink leaves
    nothing behind, and light ink a spot. In a picture that the digit fills the border tells.
    """
    paper = _without_strokes(x)
    ink = (paper - x) ** 2
    border = ink[0].sum() + ink[-1].sum() + ink[1:-1, 0].sum() + ink[1:-1, -1].sum()
    rough = (np.diff(paper, axis=0) ** 2).sum() + (np.diff(paper, axis=1) ** 2).sum()
    return rough + BORDER * border


def _without_strokes(x: np.ndarray) -> np.ndarray:
    """A picture `[h, w]` without what is dark and, one way at least, narrow.

    This is morphology's closing with a square, for which nothing lies outside the picture.
    """
    window = 2 * int(WIDEST * max(x.shape) / 2) + 1
    x = ndimage.maximum_filter(x, window, mode="constant", cval=-np.inf)
    return ndimage.minimum_filter(x, window, mode="constant", cval=np.inf)


def _ink(grey: np.ndarray) -> np.ndarray:
    """How much ink each pixel of a picture `[H, W]` with dark ink has, `[H, W]`, full ink being 1.

    Raises:
      ValueError: there is no ink.
    """
    coarse = np.maximum(_reduce(grey, COARSE_SIZE), LEAST_LIGHT)  # [h, w]
    light = _without_strokes(coarse)
    if np.ptp(light) > LEAST_LIGHT:
        # At the dark side of a gradient a closing is too light by what the gradient changes over
        # half its window. Without most of the gradient it is not, and so on.
        for _ in range(ROUNDS):
            gradient = _quadratic(light)
            light = gradient * _without_strokes(coarse / gradient)
    light = _enlarge(light, grey.shape)
    missing = light - grey

    # Noise is the same everywhere, but a part of the light that differs from place to place.
    size = missing.size
    noise = np.partition(np.abs(missing).reshape(-1), size // 10)[size // 10] / TENTH_OF_NOISE
    if _all_but_rare(missing) < max(LEAST_CONTRAST, LEAST_SIGNAL * noise):
        raise ValueError("there is no ink in the picture")
    ink = missing / light
    return np.clip(ink / _all_but_rare(ink), 0, 1)


def _all_but_rare(x: np.ndarray) -> float:
    """The value that no more than the part `RARE` of all values exceeds."""
    last = x.size - 1 - int(RARE * x.size)
    return np.partition(x.reshape(-1), last)[last]


def _quadratic(x: np.ndarray) -> np.ndarray:
    """The quadratic surface nearest to the lighter part of a picture `[h, w]`."""
    v, u = (2 * (np.arange(n) + 0.5) / n - 1 for n in x.shape)  # -1 to 1
    v, u = np.repeat(v, u.size), np.tile(u, v.size)
    terms = np.stack([np.ones_like(u), u, v, u * u, v * v, u * v], 1)  # [h w, 6]
    values = x.reshape(-1)
    lighter = values > STRONG * np.median(values)  # not a dark table beside the paper
    b = np.linalg.lstsq(terms[lighter], values[lighter])[0]
    return np.clip(terms @ b, LEAST_LIGHT, 1).reshape(x.shape)


def _digit(ink: np.ndarray) -> np.ndarray:
    """The ink `[H, W]` without what is not part of a digit."""
    found: Any = ndimage.label(ink >= STRONG, np.ones((3, 3)))
    labels, count = found  # [H, W], from 1; 0 is no ink
    sizes = np.bincount(labels.reshape(-1), minlength=count + 1)
    sizes[0] = 0
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    inside = np.bincount(border, minlength=count + 1) < TOUCHES * border.size
    if (sizes * inside).max() > RARE * ink.size:
        sizes *= inside
    kept = (sizes >= max(1, SPECK * sizes.max()))[labels]
    return np.where(ndimage.maximum_filter(kept, 2 * REACH + 1), ink, 0)


def _place(ink: np.ndarray) -> np.ndarray:
    """The ink `[H, W]` scaled and shifted as in MNIST, `[28, 28]` uint8."""
    half = np.median(ink[ink >= STRONG]) / 2  # of the ink of a stroke
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
    )  # pixels of the picture in one of ours
    steep = min(max(1, scale), STEEPEST)
    ink = np.clip(steep * ink - (steep - 1) * half, 0, 1)
    weights = []
    for axis, (start, end) in enumerate(spans):
        mass = ink.sum(1 - axis)
        centre = (mass @ (np.arange(mass.size) + 0.5) / mass.sum() - start) / scale
        first = SIZE // 2 - int(np.floor(centre + NUDGE))  # the digit's first pixel in ours
        last_first = SIZE - int(np.ceil((end - start) / scale - NUDGE))
        first = min(max(first, 0), last_first)
        weights.append(_weights(mass.size, start - first * scale, scale))
    image = weights[0] @ ink @ weights[1].T
    return np.floor(255 * image / image.max() + 0.5).astype(np.uint8)


def _spans(inside: np.ndarray) -> list[tuple[int, int]]:
    """Of `[H, W]` bool the first row inside and the one after the last; the same of the columns."""
    lines = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    return [(int(line[0]), int(line[-1]) + 1) for line in lines]


def _weights(size: int, origin: float, scale: float) -> np.ndarray:
    """The part that each of `size` pixels has in each of ours, `[28, size]`.

    Our pixel `i` is the mean over a window around its centre at `origin + (i + 1/2) scale`, as wide
    as the pixel, but at least as one of the picture's: that averages over areas where the picture
    is larger, interpolates linearly where it is smaller, and changes nothing at scale 1.
    """
    width = max(scale, 1)
    centres = origin + (np.arange(SIZE)[:, None] + 0.5) * scale
    pixels = np.arange(size)[None, :]
    covered = np.minimum(centres + width / 2, pixels + 1) - np.maximum(centres - width / 2, pixels)
    return np.clip(covered, 0, None) / width


def _reduce(x: np.ndarray, longest: int) -> np.ndarray:
    """Means over squares, so large that the longer side is at most `longest` long.

    Rows and columns at the end that fill no square are left out.
    """
    side = _side(x.shape, longest)
    if side == 1:
        return x.astype(float)
    height, width = (max(1, length // side) for length in x.shape[:2])
    x = x[: height * side, : width * side]
    squares = x.reshape(height, x.shape[0] // height, width, x.shape[1] // width, *x.shape[2:])
    return squares.mean((1, 3), dtype=float)


def _enlarge(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What `_reduce` made of a picture of `shape` to `COARSE_SIZE`, as large as that again."""
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
