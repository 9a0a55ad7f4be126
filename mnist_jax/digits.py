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
has 14 others before it. `to_mnist` does the same, and leaves an image of MNIST as it is.

What comes before is ours, because a picture is not a scan of a form: ink and paper are told apart
in four steps, each a function below, on a grey picture `[H, W]` with values of 0 to 1:

1. `_grey`: one channel; a large picture is averaged over whole squares of pixels.
2. `_background`: a quadratic surface through the pixels at the border, without what deviates there.
3. `_ink`: the deviation from it in the direction in which most deviates, dark or light.
4. `_parts`: what is connected and somewhere clearly ink, without specks.

Last, `_place` scales and shifts it. NIST's scans were black and white before they were averaged, so
the edges of a picture that is larger than MNIST's are steepened first.
"""

from typing import Any

import numpy as np
from scipy import ndimage

SIZE = 28  # of an image, pixels a side
LENGTH = 20  # of a digit's longer side in it

WORKING_SIZE = 1024  # longest side in pixels on which a digit is looked for
COARSE_SIZE = 64  # and on which the background is fitted
FRAME = 0.1  # part of each side that counts as border
ROUNDS = 5  # of fitting the border and leaving out what deviates
DEVIATES = 2.5  # standard deviations from which a pixel does not count as background
LEAST_DEVIATION = 1 / 255  # below this nothing deviates
RIDGE = 1e-6  # keeps the fit solvable where few pixels are left
RARE = 1 / 5000  # part of the pixels that may be darker than full ink: outliers, not ink
LEAST_CONTRAST = 0.1  # of full ink, as a part of the largest that the background allows
LEAST_SIGNAL = 6  # standard deviations of the noise that full ink must be
STRONG = 0.5  # part of full ink from which a pixel is ink for certain
FAINT = 0.02  # part of full ink from which a pixel beside ink is ink
NOISE = 3  # standard deviations of the noise from which it may be
SPECK = 0.02  # part of the largest connected part below which another one is dirt
STEEPEST = 4  # factor by which the edges of a large picture's ink are steepened at most

# Standard deviations of normally distributed noise that half and a quarter of it do not exceed.
HALF_NOISE, QUARTER_NOISE = 0.6745, 0.3186
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
    grey = _grey(image)
    ink, noise = _ink(grey, _background(grey))
    return _place(_parts(ink, noise))[..., None]


def _grey(image: np.ndarray) -> np.ndarray:
    """`[H, W, C]` of any size to `[H, W]` float64, 0..1, at most `WORKING_SIZE` long.

    Of several channels it takes the one with the largest standard deviation: blue ink on white
    paper is clearest in red, and red on green invisible in their mean.
    """
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
        raise ValueError(f"a picture is [H, W], [H, W, 1] or [H, W, 3], not {list(image.shape)}")
    largest = np.iinfo(image.dtype).max if image.dtype.kind in "iu" else 1
    x = _reduce(image, WORKING_SIZE) / largest
    if not np.isfinite(x).all():
        raise ValueError("the picture has values that are not finite")
    return x[..., x.std((0, 1)).argmax()]


def _reduce(x: np.ndarray, longest: int) -> np.ndarray:
    """Means over squares, so large that the longer side is at most `longest` long.

    Rows and columns at the end that fill no square are left out.
    """
    side = -(-max(x.shape[:2]) // longest)
    height, width = (max(1, length // side) for length in x.shape[:2])
    if side == 1:
        return x.astype(float)
    x = x[: height * side, : width * side]
    squares = x.reshape(height, x.shape[0] // height, width, x.shape[1] // width, *x.shape[2:])
    return squares.mean((1, 3), dtype=float)


def _background(grey: np.ndarray) -> np.ndarray:
    """What the picture `[H, W]` would be without ink, `[H, W]`: b0 + b1 v + ... + b5 u v."""
    coarse = _reduce(grey, COARSE_SIZE)
    height, width = coarse.shape
    side = -(-max(grey.shape) // COARSE_SIZE)
    u, v = (
        (2 * side * (np.arange(n) + 0.5) / size - 1)  # -1 to 1 over the picture
        for n, size in zip(coarse.shape, grey.shape, strict=True)
    )
    terms = _terms(u[:, None], v[None, :]).reshape(6, -1)  # [6, P]
    x = coarse.reshape(-1)  # [P]

    rows, columns = int(np.ceil(FRAME * height)), int(np.ceil(FRAME * width))
    frame = np.ones((height, width), bool)
    frame[rows : height - rows, columns : width - columns] = False
    frame = frame.reshape(-1)

    b = np.zeros(6)
    b[0] = np.median(x[frame])
    for number in range(ROUNDS + 1):
        deviation = np.abs(x - b @ terms)
        tolerance = DEVIATES / HALF_NOISE * np.median(deviation[frame])
        fits = deviation <= max(tolerance, LEAST_DEVIATION)
        if number < ROUNDS:  # the last time the inside of the picture counts, too
            fits &= frame
        a = terms[:, fits]
        ridge = RIDGE * a.shape[1] * np.eye(6)
        b = b + np.linalg.solve(a @ a.T + ridge, a @ (x[fits] - b @ a))
    u, v = (2 * (np.arange(size) + 0.5) / size - 1 for size in grey.shape)
    return np.tensordot(b, _terms(u[:, None], v[None, :]), 1)


def _terms(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The terms of a quadratic surface, `[6, H, W]`, at `u` `[H, 1]` and `v` `[1, W]`."""
    one = np.ones((u.shape[0], v.shape[1]))
    return np.stack([one, u * one, v * one, u * u * one, v * v * one, u * v])


def _ink(grey: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, float]:
    """How much ink each pixel has, `[H, W]`, 1 at most, and the noise of that.

    Ink takes a part of the light away, so it is measured as a part of what can be taken away; then
    uneven light on the paper does not matter.
    """
    deviation = grey - background
    light = np.sum(deviation * np.abs(deviation)) > 0
    room = np.maximum(1 - background if light else background, LEAST_DEVIATION)
    ink = (deviation if light else -deviation) / room
    noise = np.quantile(np.abs(ink), 0.25) / QUARTER_NOISE
    values = ink.reshape(-1)
    rank = values.size - 1 - int(RARE * values.size)
    full = np.partition(values, rank)[rank]
    if full < max(LEAST_CONTRAST, LEAST_SIGNAL * noise):
        raise ValueError("there is no ink in the picture")
    return np.clip(ink / full, 0, 1), noise / full


def _parts(ink: np.ndarray, noise: float) -> np.ndarray:
    """The ink `[H, W]` without what is not part of a digit."""
    strong = ink >= STRONG
    found: Any = ndimage.label(ink >= min(max(FAINT, NOISE * noise), STRONG), np.ones((3, 3)))
    labels, count = found  # [H, W], from 1; 0 is no ink
    sizes = np.bincount(labels[strong], minlength=count + 1)  # pixels of ink for certain
    keep = sizes >= max(1, SPECK * sizes.max())
    keep[0] = False
    return np.where(keep[labels], ink, 0)


def _place(ink: np.ndarray) -> np.ndarray:
    """The ink `[H, W]` scaled and shifted as in MNIST, `[28, 28]` uint8."""
    half = np.median(ink[ink >= STRONG]) / 2  # of the ink of a stroke
    inside = ink >= half
    spans = [np.flatnonzero(inside.any(axis))[[0, -1]] + (0, 1) for axis in (1, 0)]
    scale = (
        max(end - start for start, end in spans) / LENGTH
    )  # pixels of the picture in one of ours
    steep = min(max(1, scale), STEEPEST)
    ink = np.clip(steep * ink - (steep - 1) * half, 0, 1) * (ink > 0)
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
