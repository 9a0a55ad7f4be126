"""The command experiments.predict: every format of pictures, and one line for other files."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import optax
import pytest
import safetensors.numpy
from PIL import Image

from experiments import predict
from experiments.groundwork import images
from mnist_jax import torch_weights, train
from mnist_jax.data import PIXELS
from mnist_jax.digits import to_mnist
from mnist_jax.model import LeNet
from mnist_jax.programs import compiled


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights of a network that was not trained, with another pixel scale."""
    import jax

    model = LeNet("before_fc1", PIXELS["mnist"])
    programs = compiled(model, optax.sgd(0.1))
    variables = train.variables_of(programs.init_state(jax.random.key(0)))
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    torch_weights.save(path, variables, pixels=model.pixels, epochs=0)
    return path, model, variables


def seven() -> np.ndarray:
    """A drawn 7, [60, 50] uint8, dark ink on a light page."""
    page = np.full((60, 50), 235, np.uint8)
    page[10:16, 10:40] = 30
    for row in range(16, 50):
        column = 37 - (row - 16) // 2
        page[row, column - 5 : column] = 30
    return page


def saved(folder: Path, name: str, image: Image.Image, **options) -> Path:
    image.save(folder / name, **options)
    return folder / name


class TestDecoding:
    @pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.gif", "a.webp"])
    def test_lossless_formats_give_the_same_pixels(self, name, tmp_path):
        options = {"lossless": True} if name.endswith("webp") else {}
        decoded = images.decode(saved(tmp_path, name, Image.fromarray(seven()), **options))
        grey = decoded if decoded.ndim == 2 else decoded[..., 0]
        np.testing.assert_array_equal(grey, seven())

    def test_jpeg_is_close(self, tmp_path):
        decoded = images.decode(saved(tmp_path, "a.jpg", Image.fromarray(seven()), quality=95))
        assert np.abs(decoded.astype(int) - seven()).mean() < 3

    def test_palette_and_sixteen_bits(self, tmp_path):
        palette = images.decode(saved(tmp_path, "p.png", Image.fromarray(seven()).convert("P")))
        np.testing.assert_array_equal(palette[..., 0], seven())
        wide = Image.fromarray(seven().astype(np.uint16) * 257)
        decoded = images.decode(saved(tmp_path, "w.png", wide))
        assert decoded.dtype == np.uint16
        np.testing.assert_array_equal(decoded, seven().astype(np.uint16) * 257)

    @pytest.mark.parametrize("mode", ["1", "RGB", "CMYK", "YCbCr", "LAB"])
    def test_all_kinds_of_colours(self, mode, tmp_path):
        black = np.where(seven() < 128, 0, 255).astype(np.uint8)
        drawn = Image.fromarray(black).convert("RGB" if mode == "LAB" else mode)
        if mode == "LAB":
            drawn = Image.merge(
                "LAB", [Image.fromarray(black), *[Image.new("L", (50, 60), 128)] * 2]
            )
        decoded = images.decode(saved(tmp_path, "a.tiff", drawn))
        grey = decoded if decoded.ndim == 2 else decoded.mean(-1)
        assert np.abs(grey - black).max() < 8

    def test_numbers_of_any_range(self, tmp_path):
        decoded = images.decode(saved(tmp_path, "a.tiff", Image.fromarray(seven() / np.float32(7))))
        np.testing.assert_array_equal(to_mnist(decoded), to_mnist(seven()))

    def test_the_camera_says_which_side_is_up(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6  # orientation: turn it a quarter to the right to see it upright
        turned = Image.fromarray(np.rot90(seven()).copy())
        decoded = images.decode(saved(tmp_path, "a.png", turned, exif=exif))
        np.testing.assert_array_equal(decoded, seven())

    def test_a_gif_shows_its_first_frame(self, tmp_path):
        frames = [Image.fromarray(seven()), Image.fromarray(seven()[::-1].copy())]
        path = saved(tmp_path, "a.gif", frames[0], save_all=True, append_images=frames[1:])
        decoded = images.decode(path)
        grey = decoded if decoded.ndim == 2 else decoded[..., 0]
        np.testing.assert_array_equal(grey, seven())

    def test_a_decompression_bomb_is_refused_before_it_is_decoded(self, tmp_path):
        """A PNG of 100,000 x 100,000 pixels whose data are not even there."""

        def chunk(name: bytes, data: bytes) -> bytes:
            crc = struct.pack(">I", zlib.crc32(name + data))
            return struct.pack(">I", len(data)) + name + data + crc

        header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
        png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
        (tmp_path / "bomb.png").write_bytes(png)
        with pytest.raises(images.ImageError, match="pixels"):
            images.decode(tmp_path / "bomb.png")
        assert images.MAX_PIXELS == 50_000_000

    def test_just_too_many_pixels_are_refused(self, tmp_path, monkeypatch):
        path = saved(tmp_path, "a.png", Image.fromarray(seven()))
        monkeypatch.setattr(images, "MAX_PIXELS", 60 * 50 - 1)
        with pytest.raises(images.ImageError, match="50 x 60 pixels are too many"):
            images.decode(path)
        monkeypatch.setattr(images, "MAX_PIXELS", 60 * 50)
        assert images.decode(path).shape == (60, 50)

    def test_what_is_no_picture_is_refused_in_one_line(self, tmp_path):
        whole = saved(tmp_path, "whole.png", Image.fromarray(seven())).read_bytes()
        contents = {
            "text.png": b"hello",
            "empty.png": b"",
            "cut.png": whole[: len(whole) // 2],
            "flipped.png": whole[:60] + bytes([whole[60] ^ 255]) + whole[61:],
            "script.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            "post.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        }
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
            with pytest.raises(images.ImageError) as error:
                images.decode(tmp_path / name)
            assert "\n" not in str(error.value), name
        for path in (tmp_path / "absent.png", tmp_path):
            with pytest.raises(images.ImageError):
                images.decode(path)

    @pytest.mark.parametrize("ink", [0, 255])
    def test_ink_on_nothing_lies_on_paper_of_the_other_shade(self, ink, tmp_path):
        pixels = np.full((8, 8, 4), (ink, ink, ink, 0), np.uint8)
        pixels[2:5, 2:5, 3] = 255
        decoded = images.decode(saved(tmp_path, "a.png", Image.fromarray(pixels)))
        assert (decoded[2:5, 2:5] == ink).all()
        assert (decoded[5:] == 255 - ink).all()

    def test_directories_are_searched_for_pictures_only(self, tmp_path):
        (tmp_path / "c").mkdir()
        for name in ("b.png", "a.JPG", "notes.txt", "c/d.webp"):
            (tmp_path / name).write_bytes(b"")
        named = tmp_path / "notes.txt"
        found = list(images.find([tmp_path, named]))
        assert found == [*(tmp_path / name for name in ("a.JPG", "b.png", "c/d.webp")), named]


def run(*words) -> int:
    return predict.main([str(word) for word in words])


def test_the_answers_are_the_networks(weights, tmp_path, capsys):
    path, model, variables = weights
    picture = saved(tmp_path, "seven.png", Image.fromarray(seven()))
    assert run(path, picture, "--json", tmp_path / "a.json") == 0
    logits = train.predict(variables, to_mnist(seven())[None], model=model)
    expected = np.exp(logits[0]) / np.exp(logits[0]).sum()

    (answer,) = json.loads((tmp_path / "a.json").read_text())
    np.testing.assert_allclose(answer["probabilities"], expected, rtol=1e-4)
    second, first = np.argsort(expected)[-2:]
    assert (answer["digit"], answer["runner_up"]) == (first, second)
    assert capsys.readouterr().out == (
        f"{picture}: {first} ({expected[first]:.1%}), then {second} ({expected[second]:.1%})\n"
    )


def test_the_scale_of_the_pixels_is_asked_for_where_the_file_does_not_say_it(
    weights, tmp_path, capsys
):
    """A file of PyTorch does not; with another scale than that of training it would be misread."""
    path, _, variables = weights
    foreign = tmp_path / "foreign.safetensors"
    safetensors.numpy.save_file(torch_weights.to_torch(variables), foreign)
    picture = saved(tmp_path, "seven.png", Image.fromarray(seven()))
    assert run(foreign, picture) == 2
    assert "give --pixels half, mnist, none" in capsys.readouterr().err
    assert run(foreign, picture, "--pixels", "mnist") == run(path, picture) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert run(path, picture, "--pixels", "half") == 2
    assert "another scale than --pixels half" in capsys.readouterr().err


def test_many_pictures_are_answered_in_their_order(weights, tmp_path):
    """More than one batch; the same picture gets the same answer in each."""
    path, *_ = weights
    folder = tmp_path / "many"
    folder.mkdir()
    count = sum(predict.BATCHES) + 3
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 256, (5, 28, 28), dtype=np.uint8)
    for number in range(count):
        Image.fromarray(drawn[number % 5]).save(folder / f"{number:04}.png")
    assert run(path, folder, "--as-is", "--json", tmp_path / "a.json") == 0
    answers = json.loads((tmp_path / "a.json").read_text())
    assert [Path(answer["file"]).stem for answer in answers] == [f"{n:04}" for n in range(count)]
    for number, answer in enumerate(answers):
        np.testing.assert_allclose(
            answer["probabilities"], answers[number % 5]["probabilities"], rtol=1e-4
        )


def test_a_bad_file_is_named_and_the_others_are_answered(weights, tmp_path, capsys):
    path, *_ = weights
    good = saved(tmp_path, "good.png", Image.fromarray(seven()))
    blank = saved(tmp_path, "blank.png", Image.new("L", (50, 50), 255))
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    answers = tmp_path / "a.json"
    assert run(path, bad, good, blank, tmp_path / "absent.png", "--json", answers) == 1
    printed = capsys.readouterr()
    first, *refused = json.loads(answers.read_text())
    assert first["file"] == str(good)
    assert [(Path(row["file"]).name, row["error"]) for row in refused] == [
        ("bad.png", "not a picture that can be read"),
        ("blank.png", "there is no ink in the picture"),
        ("absent.png", "no such file"),
    ]
    assert printed.out.startswith(f"{good}: ") and printed.out.count("\n") == 1
    lines = printed.err.splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        str(bad),
        str(blank),
        str(tmp_path / "absent.png"),
    ]


def test_as_is_takes_images_of_mnist_only(weights, tmp_path, capsys):
    path, model, variables = weights
    image = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    small = saved(tmp_path, "small.png", Image.fromarray(image))
    large = saved(tmp_path, "large.png", Image.fromarray(seven()))
    assert run(path, small, "--as-is", "--json", tmp_path / "a.json") == 0
    logits = train.predict(variables, image[None, :, :, None], model=model)
    (answer,) = json.loads((tmp_path / "a.json").read_text())
    assert answer["digit"] == int(np.argmax(logits[0]))
    assert run(path, large, "--as-is") == 1
    assert "50 x 60 pixels, and --as-is takes 28 x 28" in capsys.readouterr().err


def test_show_draws_the_first_pictures(weights, tmp_path, monkeypatch):
    path, *_ = weights
    monkeypatch.setattr(predict, "SHOWN", 2)
    wide = Image.fromarray(seven().astype(np.uint16) * 257)
    named = [saved(tmp_path, f"{n} $a_$ \u4e03.png", wide) for n in range(3)]
    heights = []
    for pictures in (named[:1], named[:2], named):
        assert run(path, *pictures, "--show", tmp_path / "show.png") == 0
        with Image.open(tmp_path / "show.png") as shown:
            assert shown.format == "PNG" and shown.width == 1600
            heights.append(shown.height)
    assert heights[0] < heights[1] == heights[2]


def test_a_name_cannot_command_the_terminal(weights, tmp_path, capsys):
    picture = saved(tmp_path, "a\n\x1b[2Jb.png", Image.fromarray(seven()))
    assert run(weights[0], picture, tmp_path / "c\nd.png") == 1
    printed = capsys.readouterr()
    assert printed.out.count("\n") == printed.err.count("\n") == 1
    assert "\x1b" not in printed.out and r"a\n\x1b[2Jb.png" in printed.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent", "a.png"], "absent: No such file"),
        ([__file__, "a.png"], "test_predict.py: not a .safetensors file"),
        (["weights", "a.png", "--json", "absent/a.json"], "--json must be"),
        (["weights", "a.png", "--show", "a.pdf"], "--show must be a file that ends with .png"),
    ],
)
def test_what_cannot_be_used_is_one_line(words, message, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [weights[0] if word == "weights" else word for word in words]
    assert run(*words) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


def test_a_directory_without_pictures_is_refused(weights, tmp_path, capsys):
    assert run(weights[0], tmp_path) == 2
    assert "there is no picture" in capsys.readouterr().err
