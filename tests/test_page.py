import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.figures.style import LOOKS
from experiments.groundwork.options import UsageError
from experiments.groundwork.run_directory import Run
from experiments.page import __main__ as command
from experiments.page import build, contents
from mnist_jax import digits, torch_weights
from mnist_jax.data import Split
from mnist_jax.model import PLACEMENTS, LeNet

FOLDER = Path(build.__file__).parent
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def weights(placement, seed=0):
    """PyTorch's `state_dict` with random numbers of about the size of trained ones."""
    rng = np.random.default_rng(seed)
    return {
        name: np.asarray(0)
        if not shape
        else rng.uniform(
            0.5 if name.endswith("var") else -0.1, 1 if name.endswith("var") else 0.1, shape
        ).astype(np.float32)
        for name, shape in torch_weights.shapes(placement).items()
    }


def a_run(placement="after_fc1", seed=0, **changes):
    variables = torch_weights.from_torch(weights(placement, seed), placement)
    row = {
        "epoch": 1,
        "train_loss": 0.5,
        "train_accuracy_percent": 80.0,
        "test_loss": float("nan"),
        "test_accuracy_percent": 85.0,
        "seconds": 1.0,
    }
    config = {"dataset": "mnist", "momentum": 0.9, "init_from": "/nowhere/somebody/secret"}
    run = Run(placement, Path(), LeNet(placement), variables, 1, [row], config, {}, ())
    return run._replace(**changes)


@pytest.fixture(scope="module")
def split(synthetic):
    return synthetic[1]


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

    def values(self, tag, attribute):
        return [found[attribute] for t, found in self.elements if t == tag and attribute in found]


def page_of(runs, split, study=None, title="a title"):
    return build.render(contents.gather(runs, split), study, title=title)


def test_the_forward_pass_is_at_most_150_lines_with_a_shape_beside_each():
    lines = (FOLDER / "forward.js").read_text().splitlines()
    assert len(lines) <= 150
    assigned = [
        line for line in lines if re.match(r"  (let |if \(placement.*\) )?[xy] = |  layer\(", line)
    ]
    assert len(assigned) > 12
    unshaped = [
        line
        for line in assigned
        if not re.search(r"// \[.*\]|\[[\d, ]+\], [xy]\)|shape, [xy]\)", line)
    ]
    assert unshaped == []


def test_every_module_is_built_in_after_those_that_it_imports():
    assert {path.stem for path in FOLDER.glob("*.js")} == set(build.MODULES)
    names = set()
    for module in build.MODULES:
        code = (FOLDER / f"{module}.js").read_text()
        for wanted, source in re.findall(r'import \{([^}]*)\} from "\./(\w+)\.js";', code):
            assert build.MODULES.index(source) < build.MODULES.index(module)
            for name in wanted.replace(",", " ").split():
                assert f"{source}.{name}" in names
        exported = re.findall(r"^export (?:async )?(?:const|function) (\w+)", code, re.MULTILINE)
        names |= {f"{module}.{name}" for name in exported}
    assert not re.search(r"^\s*(import|export)\b", build.script(), re.MULTILINE)


def test_the_policy_admits_the_pages_own_style_and_script_and_no_request(split):
    parts = Parts(page_of([a_run()], split))
    (policy,) = [
        found["content"]
        for tag, found in parts.elements
        if found.get("http-equiv") == "Content-Security-Policy"
    ]
    directives = dict(part.split(maxsplit=1) for part in policy.split("; "))

    def source(text):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        return f"'sha256-{digest}'"

    assert directives == {
        "default-src": "'none'",
        "script-src": source(parts.text("script", "module")),
        "style-src": source(parts.text("style")),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_the_page_names_no_address_and_holds_no_style_attribute(split):
    page = page_of([a_run()], split)
    parts = Parts(page)
    assert set(re.findall(r"https?://[\w./]+", page)) == {"http://www.w3.org/2000/svg"}
    assert not any("style" in found for _, found in parts.elements)
    for attribute in ("src", "href"):
        for _, found in parts.elements:
            assert found.get(attribute, "#").startswith(("#", "data:"))


def test_hostile_text_stays_text(split, tmp_path):
    hostile = a_run(name=HOSTILE, config={"dataset": "mnist", "momentum": HOSTILE})
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "claims.md").write_text(f"| {HOSTILE} |\n| --- |\n| {HOSTILE} |\n")
    study = contents.read_study(tmp_path)._replace(name=HOSTILE)
    plain = Parts(page_of([a_run()], split))
    parts = Parts(page_of([hostile], split, study, title=HOSTILE))
    count = lambda found, tag: sum(t == tag for t, _ in found.elements)  # noqa: E731
    assert count(parts, "script") == count(plain, "script") == 2
    assert count(parts, "img") == 0
    (run,) = json.loads(parts.text("script", "application/json"))["runs"]
    assert run["name"] == HOSTILE
    assert ["momentum", HOSTILE] in run["settings"]


def test_paths_of_the_machine_stay_out_of_the_page(split):
    assert "somebody" not in page_of([a_run(path=Path("/nowhere/somebody/runs"))], split)


def test_weights_travel_as_float32_under_their_digest():
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([0.1], np.float64)}
    packed = contents.pack(tensors)
    content = base64.b64decode(packed["base64"])
    assert packed["sha256"] == hashlib.sha256(content).hexdigest()
    np.testing.assert_array_equal(
        np.frombuffer(content, "<f4"), np.array([0, 1, 2, 3, 4, 5, 0.1], np.float32)
    )


def test_taps_that_never_train_are_left_out_after_fc1_and_nowhere_else(split):
    dead = 2 * 8 * 120 * 120
    for placement in PLACEMENTS:
        run = a_run(placement)
        (data,) = contents.gather([run], split)["runs"]
        embedded = len(base64.b64decode(data["weights"]["base64"])) // 4
        everything = sum(leaf.size for leaf in jax.tree.leaves(run.variables))
        assert embedded == everything - (dead if placement == "after_fc1" else 0)
        assert data["unused"] == (dead if placement == "after_fc1" else 0)
        assert sum(np.prod(shape, dtype=int) for _, shape in data["tensors"]) == embedded


def test_the_taps_left_out_decide_nothing(split):
    changed = weights("after_fc1")
    for name in ("resnet_block.conv1.weight", "resnet_block.conv2.weight"):
        centre = changed[name][:, :, 1, 1].copy()
        changed[name] = np.full_like(changed[name], 7.0)
        changed[name][:, :, 1, 1] = centre
    run = a_run()
    other = run._replace(variables=torch_weights.from_torch(changed, "after_fc1"))
    answers = [contents.answer(each, split).probabilities for each in (run, other)]
    np.testing.assert_array_equal(*answers)
    first, second = (contents.pack(contents.learned(each.variables)) for each in (run, other))
    assert first == second


def test_three_networks_make_a_page_of_at_most_two_and_a_half_megabytes():
    images = np.random.default_rng(0).integers(0, 256, (1000, 28, 28, 1), dtype=np.uint8)
    noise = Split(images, np.zeros(1000, np.int32))  # nothing of it can be compressed
    page = page_of([a_run(placement) for placement in PLACEMENTS], noise)
    assert len(page.encode()) < 2.5e6


def test_mistakes_come_worst_first_with_their_images(split):
    run = a_run()
    data = contents.gather([run], split)
    answers = contents.answer(run, split)
    images = np.frombuffer(zlib.decompress(base64.b64decode(data["images"])), np.uint8)
    images = images.reshape(-1, 28, 28, 1)
    (found,) = data["runs"]
    labels = np.asarray(split.labels)
    assert found["mistaken"] == (answers.digits != labels).sum() == len(found["mistakes"])
    of_label = []
    for mistake, index in zip(found["mistakes"], answers.worst, strict=True):
        np.testing.assert_array_equal(images[mistake["image"]], split.images[index])
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


def test_a_history_with_nan_is_json_all_the_same(split):
    parts = Parts(page_of([a_run()], split))
    text = parts.text("script", "application/json")
    (run,) = json.loads(text, parse_constant=pytest.fail)["runs"]
    assert run["history"][0]["test_loss"] is None


def test_a_studys_markdown_becomes_tables_and_its_markup_text():
    html = contents.render(
        b"# <b>x</b>\n\n[a](javascript:alert(1)) ![b](http://example.org/c.png)\n\n"
        b"| name | n |\n| :--- | ---: |\n| <i>a</i> | 1 |\n"
    )
    parts = Parts(str(html))
    assert {tag for tag, _ in parts.elements} == {
        "h1", "p", "table", "thead", "tr", "th", "tbody", "td",
    }  # fmt: skip
    assert not any("style" in found or "href" in found for _, found in parts.elements)
    assert parts.values("td", "class") == ["number"]
    assert parts.values("td", "data-column") == ["name", "n"]


def test_an_empty_text_renders_as_nothing():
    assert contents.render(b"\n") == ""


def test_a_study_shows_claims_first_and_of_each_figure_the_smaller_file(tmp_path):
    for folder in ("tables", "figures"):
        (tmp_path / folder).mkdir()
    for name in ("settings", "reproduction", "claims"):
        (tmp_path / "tables" / f"{name}.md").write_text("| a |\n| --- |\n| 1 |\n")
    (tmp_path / "figures" / "curves.png").write_bytes(b"x" * 100)
    (tmp_path / "figures" / "curves.svg").write_bytes(b"<svg/>")
    (tmp_path / "figures" / "notes.txt").write_bytes(b"")
    study = contents.read_study(tmp_path)
    assert [(text.title, text.folded) for text in study.texts] == [
        ("Claims", False), ("Reproduction", False), ("Settings", True),
    ]  # fmt: skip
    (figure,) = study.figures
    assert figure == ("Curves", "data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode())


def test_the_preprocessing_has_the_constants_of_digits_py():
    code = (FOLDER / "digits.js").read_text()
    constants = dict(re.findall(r"^const ([A-Z]+) = ([\d.e-]+);", code, re.MULTILINE))
    assert constants.keys() == {
        "SIZE", "LENGTH", "STRONG", "REACH", "SPECK", "THINNEST", "STEEPEST", "NUDGE",
    }  # fmt: skip
    for name, value in constants.items():
        assert float(value) == getattr(digits, name)


def test_placements_are_called_what_the_figures_call_them():
    labels = dict(
        re.findall(r'^  (\w+): "([\w ]+)",', (FOLDER / "dom.js").read_text(), re.MULTILINE)
    )
    assert labels == {placement: look.label for placement, look in LOOKS.items()}


@pytest.fixture
def saved(tmp_path):
    """Files of weights of the three networks."""
    paths = [tmp_path / f"{placement}.safetensors" for placement in PLACEMENTS]
    for path, placement in zip(paths, PLACEMENTS, strict=True):
        pixels = LeNet(placement).pixels
        torch_weights.save(path, a_run(placement).variables, pixels=pixels, epochs=3)
    return paths


@pytest.fixture
def data(synthetic, monkeypatch):
    """The command reads the synthetic split instead of MNIST."""
    monkeypatch.setattr(command, "load_mnist", lambda *args, **kwargs: synthetic)


def test_the_command_writes_one_file(saved, data, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert command.main([*map(str, saved), "--out", str(out)]) == 0
    assert f"written: {out}" in capsys.readouterr().out
    found = json.loads(Parts(out.read_text()).text("script", "application/json"))
    assert [run["placement"] for run in found["runs"]] == list(PLACEMENTS)
    assert [run["epoch"] for run in found["runs"]] == [3, 3, 3]


def test_open_shows_the_file_that_was_written(saved, data, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(command.webbrowser, "open", lambda url: shown.append(url) or True)
    monkeypatch.chdir(tmp_path)
    assert command.main([str(saved[0]), "--open"]) == 0
    assert shown == [(tmp_path / "page.html").as_uri()]
    assert (tmp_path / "page.html").is_file()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], "name at least one run"),
        (["absent"], "absent"),
        ([__file__], "test_page.py"),
        (["--out", "page.txt"], "--out must be a file that ends with .html"),
        (["--out", "absent/page.html"], "--out must be in a directory that exists"),
        (["--study", "absent"], "absent: not the directory of a study"),
    ],
)
def test_bad_input_is_one_line(options, named, saved, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs = [str(saved[0])] if options[:1] in (["--out"], ["--study"]) else []
    assert command.main([*runs, *options]) == 2
    printed = capsys.readouterr().err
    assert named in printed
    assert printed.count("\n") == 1
    assert not list(tmp_path.glob("*.html"))


def test_runs_on_two_data_sets_cannot_share_a_page():
    runs = [a_run(config={"dataset": name}) for name in ("mnist", "kmnist")]
    with pytest.raises(UsageError, match="kmnist and mnist"):
        command.dataset_of(runs)
    assert command.dataset_of([runs[1], a_run(config={})]) == "kmnist"


def test_the_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.page", "--help"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--study" in done.stdout
