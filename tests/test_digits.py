"""Any picture of a digit becomes what MNIST would have stored."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from benchmarks import pictures
from mnist_jax import digits, torch_weights
from mnist_jax.digits import to_mnist
from mnist_jax.model import LeNet


def drawn(points, *, shape=(120, 100), radius=5, soft=0.0) -> np.ndarray:
    """Ink 0 to 1, `[H, W]`, of a round pen along a line through points (row, column)."""
    ink = np.zeros(shape)
    for (y0, x0), (y1, x1) in itertools.pairwise(points):
        steps = 1 + int(2 * max(abs(y1 - y0), abs(x1 - x0)))
        for t in np.linspace(0, 1, steps):
            ink[round(y0 + t * (y1 - y0)), round(x0 + t * (x1 - x0))] = 1
    around = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius
    ink = ndimage.binary_dilation(ink, around).astype(float)
    return ndimage.gaussian_filter(ink, soft) if soft else ink


SEVEN = ((20, 25), (20, 70), (95, 40))
FIVE = ((20, 60), (20, 25), (55, 25), (60, 65), (90, 60), (95, 25))


def page(ink: np.ndarray) -> np.ndarray:
    """Black on white, uint8."""
    return np.rint(255 * (1 - ink)).astype(np.uint8)


def differ(a: np.ndarray, b: np.ndarray) -> int:
    """The largest difference of two images, in grey levels."""
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def box(image: np.ndarray, above: int = 127) -> tuple[int, int]:
    """Height and width of the part of an image that is brighter than a level."""
    inside = image[..., 0] > above
    return tuple(np.ptp(np.flatnonzero(inside.any(axis))) + 1 for axis in (1, 0))


points = st.lists(
    st.tuples(st.integers(15, 105), st.integers(15, 85)), min_size=2, max_size=6, unique=True
)


@settings(max_examples=60, deadline=None)
@given(points, st.integers(2, 8))
def test_a_drawing_is_stored_as_mnist_stores_its_digits(points, radius):
    """20 pixels long, white somewhere, its centre of mass in the pixel that has 14 before it."""
    image = to_mnist(page(drawn(points, radius=radius)))
    assert image.shape == (28, 28, 1) and image.dtype == np.uint8
    assert image.max() == 255
    assert 19 <= max(box(image, 0)) <= 22
    mass = image[..., 0].astype(float)
    for axis, length in zip((0, 1), box(image, 0), strict=True):
        centre = mass.sum(1 - axis) @ (np.arange(28) + 0.5) / mass.sum()
        # Where the middle of the mass is far from the middle of the digit, that stays whole.
        assert 13.9 <= centre <= 15.1 or abs(centre - 14) <= max(0, length / 2 - 4)


class TestTheSameDigit:
    """Pictures of the same ink give the same image."""

    expected = to_mnist(page(drawn(SEVEN)))

    def test_light_on_dark(self):
        assert differ(to_mnist(255 - page(drawn(SEVEN))), self.expected) == 0

    def test_of_any_type(self):
        grey = page(drawn(SEVEN))
        assert differ(to_mnist(grey[..., None]), self.expected) == 0
        assert differ(to_mnist(np.stack([grey] * 3, -1)), self.expected) == 0
        assert differ(to_mnist(grey.astype(np.uint16) * 257), self.expected) == 0
        assert differ(to_mnist(grey / 255), self.expected) == 0

    def test_anywhere(self):
        for place in ((0, 0), (60, 0), (0, 110), (70, 120)):
            whole = np.full((200, 240), 255, np.uint8)
            whole[place[0] : place[0] + 120, place[1] : place[1] + 100] = page(drawn(SEVEN))
            assert differ(to_mnist(whole), self.expected) == 0

    def test_beside_the_edge(self):
        ink = drawn(SEVEN)
        rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
        tight = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert differ(to_mnist(page(tight)), self.expected) == 0

    @pytest.mark.parametrize("times", [2, 3, 10])
    def test_enlarged_in_squares(self, times):
        small = drawn(SEVEN, soft=1)[::4, ::4]
        large = np.kron(page(small), np.ones((times, times), np.uint8))
        assert differ(to_mnist(large), to_mnist(page(small))) == 0

    def test_in_any_size(self):
        for times in (2, 9, 14):
            larger = ndimage.zoom(drawn(SEVEN), times, order=1)
            assert np.abs(to_mnist(page(larger)) - self.expected.astype(float)).mean() < 3

    @pytest.mark.parametrize("ink", [0.8, 0.3])
    def test_in_uneven_light(self, ink):
        """Half of the light at one side, in any direction, and dark corners."""
        v, u = np.mgrid[-1:1:120j, -1:1:100j]
        for along in (u, -u, v, -v, (u + v) / 2):
            light = (0.75 - 0.25 * along) * (1 - 0.1 * (u * u + v * v))
            picture = 230 * light * (1 - ink * drawn(SEVEN))
            assert differ(to_mnist(picture.astype(np.uint8)), self.expected) <= 12

    def test_under_a_shadow(self):
        _, u = np.mgrid[-1:1:120j, -1:1:100j]
        for edge in (-0.6, 0, 0.6):
            light = 1 - 0.4 / (1 + np.exp(-12 * (u - edge)))
            picture = 230 * light * (1 - 0.75 * drawn(SEVEN))
            assert (
                np.abs(to_mnist(picture.astype(np.uint8)) - self.expected.astype(float)).mean() < 3
            )

    def test_with_noise(self):
        noise = np.random.default_rng(0).normal(0, 8, (120, 100))
        picture = np.clip(220 - 170 * drawn(SEVEN, soft=1) + noise, 0, 255).astype(np.uint8)
        assert np.abs(to_mnist(picture) - self.expected.astype(float)).mean() < 6

    def test_with_dirt_beside_it(self):
        ink = drawn(SEVEN)
        ink[100:103, 5:8] = 1  # 9 pixels, less than a fiftieth
        assert differ(to_mnist(page(ink)), self.expected) == 0

    def test_with_the_table_beside_it(self):
        picture = np.pad(page(drawn(SEVEN)), ((0, 0), (15, 0)), constant_values=40)
        assert differ(to_mnist(picture), self.expected) == 0

    @pytest.mark.parametrize("side", range(4))
    def test_with_a_line_along_one_edge(self, side):
        """One pixel wide, and as dark as the digit."""
        picture = page(drawn(SEVEN))
        np.rot90(picture, side)[0] = 0
        assert differ(to_mnist(picture), self.expected) == 0

    def test_with_a_frame_around_it(self):
        picture = np.pad(page(drawn(SEVEN)), 2, constant_values=0)
        assert differ(to_mnist(picture), self.expected) == 0

    def test_in_colours_of_equal_brightness(self):
        """Red on green, which the mean of the channels would not show."""
        ink = drawn(SEVEN)
        picture = np.stack([200 * ink, 200 * (1 - ink), np.zeros_like(ink)], -1)
        assert differ(to_mnist(picture.astype(np.uint8)), self.expected) == 0


def test_all_strokes_of_a_digit_are_kept():
    """A 5 whose bar touches nothing, and the picture's border."""
    ink = drawn(FIVE[2:], shape=(110, 90))
    ink[0:9, 30:75] = 1
    image = to_mnist(page(ink))
    assert (image[3:6] > 127).any() and (image[20:24] > 127).any()


def test_a_thin_pen_leaves_white_strokes():
    """A tenth of a pixel of MNIST's would leave a grey haze."""
    thin = np.zeros((400, 300))
    thin[50:350, 150] = thin[50, 100:200] = 1
    image = to_mnist(page(thin))
    assert box(image) == (20, 7)
    rows = image[..., 0].sum(1)
    assert (rows[rows > 0] > 255).all()  # a whole pixel of ink in each
    assert digits.THINNEST == 1.2


def test_a_thick_pen_is_left_alone():
    """A stroke of a quarter of the digit's length stays as wide."""
    bar = np.zeros((200, 200))
    bar[50:150, 90:115] = 1
    assert box(to_mnist(page(bar))) == (20, 5)


def test_a_blurred_picture_becomes_as_sharp_as_mnist():
    blurred, sharp = (to_mnist(page(drawn(SEVEN, soft=soft))) for soft in (2.0, 0.0))
    assert np.abs(blurred - sharp.astype(float)).mean() < 4
    assert digits.STEEPEST == 4


def test_a_digit_whose_end_is_heavy_stays_inside():
    """Its centre of mass would be in the middle if the digit began before the image."""
    nail = np.zeros((300, 300))
    nail[50:250, 145:155] = nail[220:250, 100:200] = 1
    for turn in range(4):
        image = np.rot90(to_mnist(page(np.rot90(nail, turn)))[..., 0], -turn)
        assert np.flatnonzero(image.any(1)).tolist() == list(range(20))


def blank_pages():
    rng = np.random.default_rng(0)
    v, u = np.mgrid[-1:1:300j, -1:1:400j]
    light = 230 * (0.75 + 0.25 * u) * (1 - 0.1 * v * v)
    yield "white", np.full((50, 40), 255, np.uint8)
    yield "black", np.zeros((50, 40), np.uint8)
    yield "gradient", light.astype(np.uint8)
    yield "noise", rng.integers(0, 256, (60, 60), dtype=np.uint8)
    yield "photograph", (light + rng.normal(0, 5, light.shape)).clip(0, 255).astype(np.uint8)
    yield "faint", np.where(drawn(SEVEN) > 0, 247, 255).astype(np.uint8)
    yield "one pixel", np.zeros((1, 1), np.uint8)


@pytest.mark.parametrize("picture", [pytest.param(p, id=name) for name, p in blank_pages()])
def test_where_no_ink_is_none_is_found(picture):
    with pytest.raises(ValueError, match="there is no ink in the picture"):
        to_mnist(picture)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3,), np.uint8), r"a picture is .*, not \[3\]"),
        (np.zeros((3, 3, 4), np.uint8), r"not \[3, 3, 4\]"),
        (np.zeros((0, 3), np.uint8), r"not \[0, 3, 1\]"),
        (np.full((3, 3), 255.0), "below 0, above 1 or not finite"),
        (np.full((3, 3), -1, np.int8), "below 0, above 1 or not finite"),
        (np.full((3, 3), np.nan), "below 0, above 1 or not finite"),
    ],
)
def test_what_is_no_picture_is_refused(array, message):
    with pytest.raises(ValueError, match=message):
        to_mnist(array)


def test_the_picture_stays_as_it_was():
    picture = page(drawn(FIVE, soft=1))
    before = picture.copy()
    first = to_mnist(picture)
    np.testing.assert_array_equal(picture, before)
    np.testing.assert_array_equal(first, to_mnist(picture))


@pytest.mark.mnist
def test_an_image_of_mnist_changes_next_to_nothing(mnist):
    images = np.asarray(mnist.test.images[:1000])
    change = np.abs(np.stack([to_mnist(image) for image in images]) - images.astype(float))
    assert np.mean(change.max((1, 2, 3)) <= 1) > 0.9
    assert change.mean() < 0.5


@pytest.mark.mnist
def test_the_benchmark_has_a_row_for_each_kind_of_picture(mnist_dir, tmp_path, capsys):
    model = LeNet("none")
    variables = model.init(jax.random.key(0), np.zeros((2, 28, 28, 1), np.uint8), train=False)
    weights = tmp_path / "none.safetensors"
    torch_weights.save(weights, variables, pixels=model.pixels, epochs=0)
    Image.fromarray(page(drawn(SEVEN))).save(tmp_path / "7.png")
    (tmp_path / "index.csv").write_text("file,truth,kind\n7.png,7,scan\n")
    words = [str(weights), "--images", "2", "--data-dir", str(mnist_dir)]
    assert pictures.main([*words, "--handwriting", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert all(f" {kind} " in printed for kind in [*pictures.CHANGES, "handwriting: scan"])
