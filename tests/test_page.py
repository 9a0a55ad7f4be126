"""The file that experiments.page writes, without a browser."""

import base64
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

import jax
import numpy as np
import pytest
from made_up import network, networks, split, state_dict

from experiments.groundwork.command import UsageError
from experiments.groundwork.recipe import Recipe
from experiments.groundwork.run_directory import Config
from experiments.page import __main__ as command
from experiments.page import build, contents
from mnist_jax import data, digits, torch_weights
from mnist_jax.model import PLACEMENTS

FOLDER = Path(build.__file__).parent
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def gathered(runs):
    return contents.gather(runs, split())


class Parts(HTMLParser):
    """The elements of a page with their attributes, and the text of scripts and styles."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.texts, self.inside = [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        if tag in ("script", "style"):
            self.texts.append((tag, dict(attrs).get("type"), ""))

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside in ("script", "style"):
            tag, kind, text = self.texts[-1]
            self.texts[-1] = tag, kind, text + data

    def text(self, tag, kind=None):
        (text,) = [text for t, k, text in self.texts if (t, k) == (tag, kind)]
        return text


def test_every_module_is_built_in_after_those_that_it_imports():
    assert {path.stem for path in FOLDER.glob("*.js")} == set(build.MODULES)
    exported, declared = set(), []
    for module in build.MODULES:
        code = (FOLDER / f"{module}.js").read_text()
        for wanted, source in re.findall(r'import \{([^}]*)\} from "\./(\w+)\.js";', code):
            assert {f"{source}.{name}" for name in wanted.replace(",", " ").split()} <= exported
        names = re.findall(
            r"^(export )?(?:async )?(?:const|let|function) (\w+)", code, re.MULTILINE
        )
        exported |= {f"{module}.{name}" for export, name in names if export}
        declared += [name for _, name in names]
    assert len(declared) == len(set(declared))  # because all modules become one scope
    assert not re.search(r"^\s*(import|export)\b", build.script(), re.MULTILINE)


def test_the_policy_admits_the_pages_own_style_and_script_and_no_request(gathered):
    parts = Parts(build.render(gathered))
    (policy,) = [
        found["content"]
        for tag, found in parts.elements
        if found.get("http-equiv") == "Content-Security-Policy"
    ]

    def source(text):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        return f"'sha256-{digest}'"

    assert dict(part.split(maxsplit=1) for part in policy.split("; ")) == {
        "default-src": "'none'",
        "script-src": source(parts.text("script", "module")),
        "style-src": source(parts.text("style")),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_the_page_names_no_address_no_path_and_no_style(gathered, runs):
    page = build.render(gathered)
    assert "://" not in page
    assert str(runs[0].path.parent) not in page
    for _, found in Parts(page).elements:
        assert "style" not in found
        for attribute in ("src", "href"):
            assert found.get(attribute, "#").startswith(("#", "data:"))


def test_hostile_text_stays_text(runs, gathered):
    parts = Parts(build.render(contents.gather([runs[0]._replace(name=HOSTILE)], split())))
    tags = {tag for tag, _ in Parts(build.render(gathered)).elements}
    assert {tag for tag, _ in parts.elements} == tags
    assert sum(tag == "script" for tag, _ in parts.elements) == 2
    (run,) = json.loads(parts.text("script", "application/json"))["runs"]
    assert run["name"] == HOSTILE


def test_weights_travel_as_float32_under_their_digest():
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([0.1], np.float64)}
    packed = contents.pack(tensors)
    content = base64.b64decode(packed["base64"])
    assert packed["sha256"] == hashlib.sha256(content).hexdigest()
    numbers = np.array([0, 1, 2, 3, 4, 5, 0.1], np.float32)
    np.testing.assert_array_equal(np.frombuffer(content, "<f4"), numbers)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_taps_that_never_train_are_left_out_after_fc1_and_nowhere_else(placement, runs, gathered):
    at = PLACEMENTS.index(placement)
    found = gathered["runs"][at]
    embedded = len(base64.b64decode(found["weights"]["base64"])) // 4
    everything = sum(leaf.size for leaf in jax.tree.leaves(runs[at].variables))
    dead = 2 * 8 * 120 * 120 if placement == "after_fc1" else 0
    assert embedded == everything - dead
    assert found["unused"] == dead
    assert sum(np.prod(shape, dtype=int) for _, shape in found["tensors"]) == embedded


def test_the_taps_left_out_decide_nothing(tmp_path):
    run = network(tmp_path)
    changed = state_dict("after_fc1", seed=1)
    for name in ("resnet_block.conv1.weight", "resnet_block.conv2.weight"):
        centre = changed[name][:, :, 1, 1].copy()
        changed[name] = np.full_like(changed[name], 7.0)
        changed[name][:, :, 1, 1] = centre
    other = run._replace(variables=torch_weights.from_torch(changed, "after_fc1"))
    answers = [contents.answer(each, split()).probabilities for each in (run, other)]
    np.testing.assert_array_equal(*answers)
    first, second = (contents.pack(contents.learned(each.variables)) for each in (run, other))
    assert first == second


def test_three_networks_make_a_page_below_a_megabyte_and_a_half(gathered):
    held = 24 + 3 * contents.MISTAKES  # images at most; 300 bytes each in MNIST, as base64 400
    images = len(gathered["images"])
    epochs = sum(len(json.dumps(run["epochs"])) for run in gathered["runs"])
    assert len(build.render(gathered)) - images - epochs + 400 * held < 1.5e6


def test_mistakes_come_worst_first_with_their_images(runs, gathered):
    images = np.frombuffer(zlib.decompress(base64.b64decode(gathered["images"])), np.uint8)
    images = images.reshape(-1, 28, 28, 1)
    labels = split().labels
    for run, found in zip(runs, gathered["runs"], strict=True):
        answers = contents.answer(run, split())
        assert found["mistaken"] == (answers.digits != labels).sum() == len(found["mistakes"])
        of_label = []
        for mistake, index in zip(found["mistakes"], answers.worst, strict=True):
            np.testing.assert_array_equal(images[mistake["image"]], split().images[index])
            assert mistake["label"] == labels[index] != mistake["digit"]
            assert mistake["probability"] == answers.probabilities[index].max()
            of_label.append(answers.probabilities[index, labels[index]])
        assert of_label == sorted(of_label)
        confusion = np.array(found["confusion"])
        assert confusion.sum() == len(labels)
        assert confusion.trace() == len(labels) - found["mistaken"]


def test_the_row_has_a_right_image_of_each_digit_then_mistakes_runs_disagree_on_first():
    labels = np.repeat(np.arange(10), 4)
    right = np.eye(10)[labels]
    one, other = right.copy(), right.copy()
    one[[1, 5]] = np.eye(10)[9]  # both misread 1 alike; 5 only the first
    other[1] = np.eye(10)[9]
    answers = [
        contents.Answers(p, p.argmax(1), np.nonzero(p.argmax(1) != labels)[0]) for p in (one, other)
    ]
    assert contents.choose_row(answers, labels) == [*range(0, 40, 4), 5, 1]


def test_the_preprocessing_has_the_constants_of_digits_py():
    code = (FOLDER / "digits.js").read_text()
    constants = dict(re.findall(r"^const ([A-Z]+) = ([\d.e-]+);", code, re.MULTILINE))
    assert {"SIZE", "LENGTH"} <= constants.keys()
    for name, value in constants.items():
        assert float(value) == getattr(digits, name)


def data_of(file):
    return Parts(file.read_text()).text("script", "application/json")


@pytest.fixture
def no_mnist(monkeypatch):
    """The command reads made-up images instead of MNIST."""
    loaded = data.Dataset(split(), split(), {})
    monkeypatch.setattr(data, "load_mnist", lambda *args, **kwargs: loaded)


def test_the_command_writes_one_file_and_shows_it(no_mnist, tmp_path, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(command.webbrowser, "open", lambda url: shown.append(url) or True)
    out = tmp_path / "page.html"
    files = [str(run.path) for run in networks(tmp_path)]
    assert command.main([*files, "--out", str(out), "--open"]) == 0
    assert f"written: {out}" in capsys.readouterr().out
    assert shown == [out.as_uri()]
    found = json.loads(data_of(out))
    assert [run["placement"] for run in found["runs"]] == list(PLACEMENTS)
    assert [run["epoch"] for run in found["runs"]] == [1, 1, 2]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["absent"], "absent"),
        ([], "name at least one run"),
        (["none-1.safetensors", "--out", "page.txt"], "--out must be a file that ends with .html"),
        (["none-1.safetensors", "--out", "a/p.html"], "--out must be in a directory that exists"),
    ],
)
def test_bad_input_is_one_line(words, named, no_mnist, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    network(tmp_path, "none")
    assert command.main(words) == 2
    printed = capsys.readouterr().err
    assert named in printed
    assert printed.count("\n") == 1
    assert not list(tmp_path.glob("*.html"))


def test_runs_on_two_data_sets_cannot_share_a_page(runs):
    mnist, fashion = (
        runs[0]._replace(config=Config(recipe=Recipe(dataset=name)))
        for name in ("mnist", "fashion_mnist")
    )
    with pytest.raises(UsageError, match="fashion_mnist and mnist"):
        command.dataset_of([mnist, fashion])
    assert command.dataset_of([fashion, runs[0]]) == "fashion_mnist"
