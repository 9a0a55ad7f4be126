"""The page in a browser: what it computes, and what can be done with it."""

# ruff: noqa: E402, F401, F811  (pytest finds fixtures by their names)

import base64
import copy
import re

import numpy as np
import pytest
from in_browser import (
    BAR,
    MARKS,
    SEVEN,
    answers,
    css,
    draw,
    driver,
    expected,
    frame,
    gathered,
    look_into,
    open_file,
    page,
    page_file,
    runs,
    seen,
)
from made_up import split
from PIL import Image

from benchmarks import page_latency
from experiments.groundwork.run_directory import open_weights
from experiments.page import build, contents
from mnist_jax import train
from mnist_jax.digits import to_mnist
from mnist_jax.model import PLACEMENTS

selenium = pytest.importorskip("selenium", reason="needs Selenium: pip install -e '.[web]'")
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

pytestmark = MARKS
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.mark.parametrize("run", range(3), ids=PLACEMENTS)
def test_logits_are_those_of_jax(run, page, runs):
    found = page.execute_script(
        "const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));"
        "return Array.from({ length: bytes.length / 784 }, (_, n) =>"
        " mnistJax.logits(arguments[1], bytes.subarray(784 * n, 784 * (n + 1))))",
        base64.b64encode(split().images.tobytes()).decode(),
        run,
    )
    network = runs[run]
    wanted = np.asarray(train.predict(network.variables, split().images, model=network.model))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_preprocessing_is_that_of_digits_py(page):
    rng = np.random.default_rng(0)
    # Not so long that ink fills a third of the picture: digits.py would see a shadow.
    drawings = [
        [
            (
                rng.uniform(20, 260, 2) + rng.normal(0, 12, (rng.integers(1, 25), 2)).cumsum(0)
            ).tolist()
            for _ in range(rng.integers(1, 4))
        ]
        for _ in range(60)
    ]
    found = page.execute_script(
        "return arguments[0].map((strokes) => {"
        " const ink = mnistJax.ink(strokes);"
        " return [btoa(Array.from(ink, (grey) => String.fromCharCode(grey)).join('')),"
        "  Array.from(mnistJax.toMnist(ink))] })",
        drawings,
    )
    for ink, image in found:
        ink = np.frombuffer(base64.b64decode(ink), np.uint8).reshape(140, 140)
        difference = np.array(image) - to_mnist(ink).reshape(-1).astype(int)
        assert np.abs(difference).max() <= 2


@pytest.mark.parametrize("kind", ["mouse", "pen", "touch"])
def test_a_drawing_is_answered_by_every_network(kind, page, runs):
    draw(page, SEVEN, kind=kind)
    image = seen(page)
    wanted = [expected(run.model, run.variables, image) for run in runs]
    assert answers(page) == wanted
    assert css(page, "#said").get_attribute("textContent") == "; ".join(
        f"{label}: {digit}, {probability}"
        for label, (digit, probability) in zip(
            ("no block", "block before fc1", "block after fc1"), wanted, strict=True
        )
    )


def test_undo_redo_and_clear(page):
    example = seen(page)
    draw(page, SEVEN)
    one = seen(page)
    draw(page, BAR)
    two = seen(page)
    blank = 0 * one
    assert (one != two).any() and (one != example).any()
    for step, wanted in [("undo", one), ("redo", two), ("clear", blank), ("undo", two)]:
        css(page, f"#{step}").click()
        np.testing.assert_array_equal(seen(page), wanted, step)
    # The letter counts, Caps Lock does not; on a layout without Latin letters the key's place does.
    for key, code, shift, wanted in [
        ("z", "KeyY", False, one), ("y", "KeyZ", False, two), ("Z", "KeyZ", False, one),
        ("Z", "KeyZ", True, two), ("\u044f", "KeyZ", False, one),
    ]:  # fmt: skip
        event = {"key": key, "code": code, "ctrlKey": True, "shiftKey": shift}
        page.execute_script(
            "document.dispatchEvent(new KeyboardEvent('keydown', arguments[0]))", event
        )
        np.testing.assert_array_equal(seen(page), wanted, f"{key} {code}")


def test_the_keyboard_draws(page):
    board = css(page, "#drawing")
    page.execute_script("arguments[0].focus()", board)
    board.send_keys(*[Keys.ARROW_UP] * 9, Keys.SPACE, *[Keys.ARROW_DOWN] * 18, Keys.SPACE)
    rows, columns = np.nonzero(seen(page))
    assert np.ptp(rows) == 19
    assert np.ptp(columns) <= 2


def test_ink_over_a_test_image_leaves_the_image_where_it_is(page):
    css(page, "#row button").click()
    before = seen(page)
    draw(page, [(35, 140), (35, 240)])
    after = seen(page)
    changed = np.argwhere(after != before)
    assert (after >= before).all()
    assert changed.min(0).tolist() >= [12, 2]
    assert changed.max(0).tolist() <= [25, 4]


def test_a_mistake_gets_the_answer_that_stands_beside_it(page):
    for run, placement in enumerate(PLACEMENTS):
        look_into(page, placement)
        button = page.find_elements(By.CSS_SELECTOR, ".gallery button")[5]
        digit, probability = answers_of(button)
        button.click()
        assert answers(page)[run] == (digit, probability)


def answers_of(button):
    return re.fullmatch(r"\d read as (\d)\n([\d.]+ %)", button.text).groups()


def test_a_number_of_the_confusion_matrix_shows_its_mistakes_alone(page):
    cell = css(page, ".confusion button")
    count, label, digit = re.findall(r"\d+", cell.accessible_name)
    cell.click()
    shown = page.find_elements(By.CSS_SELECTOR, ".gallery button")
    assert len(shown) == int(count)
    assert all(button.text.startswith(f"{label} read as {digit}") for button in shown)


def test_layers_stand_in_the_order_of_computing_with_what_they_hold(page):
    def shown(placement):
        look_into(page, placement)
        return [
            f"{layer.get_attribute('data-layer')} {layer.find_element(By.CLASS_NAME, 'shape').text}"
            for layer in page.find_elements(By.CSS_SELECTOR, ".layer")
        ]

    start = ["input [1, 28, 28]", "conv1 [6, 12, 12], 156 parameters"]
    start += ["conv2 [16, 4, 4], 2,416 parameters"]
    fc1 = ["fc1 [120], 30,840 parameters"]
    end = ["fc2 [84], 10,164 parameters", "fc3 [10], 850 parameters"]
    block = [
        "resnet_block/input [120, 1, 1]",
        "resnet_block/inner [120, 1, 1], 129,840 parameters",
        "resnet_block/branch [120, 1, 1], 129,840 parameters",
        "resnet_block/sum [120, 1, 1]",
    ]
    assert shown("none") == start + fc1 + end
    assert len(shown("before_fc1")) == 10
    assert shown("after_fc1") == start + fc1 + block + end
    assert "230,400 of the network" in css(page, ".block").text


def test_the_slider_shows_how_the_answer_formed(page, runs):
    look_into(page, "after_fc1")
    draw(page, SEVEN)
    image = seen(page)
    slider = css(page, "#epoch")
    page.execute_script("arguments[0].focus()", slider)
    slider.send_keys(Keys.ARROW_LEFT)
    for epoch, path in runs[2].epochs:
        digit, probability = expected(*open_weights(path)[:2], image)
        assert slider.get_attribute("aria-valuetext") == f"epoch {epoch}: {digit}, {probability}"
        slider.send_keys(Keys.ARROW_RIGHT)


def test_it_opens_with_an_example_that_makes_way_for_the_first_stroke(page, gathered):
    assert css(page, "#example").is_displayed()
    digits = {digit for digit, _ in answers(page)}
    assert len(digits) > 1
    draw(page, SEVEN)
    alone = seen(page)
    assert not css(page, "#example").is_displayed()
    css(page, "#clear").click()
    draw(page, SEVEN)
    np.testing.assert_array_equal(seen(page), alone)


def test_a_small_drawing_looks_like_a_large_one(page):
    draw(page, SEVEN)
    large = seen(page).astype(int)
    css(page, "#clear").click()
    draw(page, [(140 + x / 6, 140 + y / 6) for x, y in SEVEN])
    assert np.abs(seen(page) - large).mean() < 12
    css(page, "#clear").click()
    draw(page, [(140, 140)])  # a dot stays one
    assert np.count_nonzero(seen(page)) > 300


def test_the_address_keeps_the_drawing(page, page_file):
    draw(page, SEVEN, BAR)
    drawn, address = seen(page), page.current_url
    page.get("about:blank")
    page.back()
    page_latency.until_ready(page)
    np.testing.assert_array_equal(seen(page), drawn)
    css(page, "nav a").click()
    assert page.current_url == address
    css(page, "#row button").click()
    draw(page, BAR)
    image = seen(page)
    page.refresh()
    page_latency.until_ready(page)
    np.testing.assert_array_equal(seen(page), image)
    page.execute_script("location.hash = '#strokes=damaged'")
    np.testing.assert_array_equal(seen(page), image)


@pytest.mark.parametrize("way", ["choose", "paste", "drop"])
def test_a_picture_is_read(way, page, tmp_path):
    draw(page, SEVEN)
    drawn = seen(page).astype(int)
    if way == "choose":
        picture = np.full((300, 400), 230, np.uint8)
        picture[60:80, 150:250] = picture[80:240, 230:250] = 20
        Image.fromarray(picture).save(tmp_path / "seven.png")
        css(page, "#file").send_keys(str(tmp_path / "seven.png"))
    else:
        page.execute_async_script(
            "const done = arguments[1];"
            "document.getElementById('drawing').toBlob((blob) => {"
            " const data = new DataTransfer();"
            " data.items.add(new File([blob], 'a.png', { type: 'image/png' }));"
            " const event = arguments[0] === 'paste'"
            "  ? new ClipboardEvent('paste', { clipboardData: data, bubbles: true })"
            "  : new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true });"
            " document.body.dispatchEvent(event);"
            " done() })",
            way,
        )
    WebDriverWait(page, 10).until(lambda it: css(it, "#picture").is_displayed())
    read = seen(page)
    assert len(page.find_elements(By.CSS_SELECTOR, "#picture button")) == 1
    if way == "choose":
        top, stem = (np.ptp(np.nonzero(read[row])) for row in np.nonzero(read)[0][[0, -1]])
        assert top > 2 * stem
    else:
        assert np.abs(read - drawn).max() < 90
    css(page, "#undo").click()
    assert not css(page, "#picture").is_displayed()


def test_what_is_no_picture_is_said(page, tmp_path):
    (tmp_path / "no.png").write_bytes(b"no picture")
    css(page, "#file").send_keys(str(tmp_path / "no.png"))
    WebDriverWait(page, 10).until(lambda it: "no.png is no picture" in css(it, "#told").text)


def test_a_cell_is_explained_by_what_it_is_made_of(page):
    draw(page, SEVEN)
    for placement in PLACEMENTS:
        look_into(page, placement)
        for layer in page.find_elements(By.CSS_SELECTOR, ".layer"):
            maps = layer.find_element(By.CLASS_NAME, "maps")
            page.execute_script("arguments[0].scrollIntoView({ block: 'center' })", maps)
            page.execute_script("arguments[0].focus()", maps)
            maps.send_keys(Keys.ARROW_RIGHT)
            panel = layer.find_element(By.CLASS_NAME, "panel").text
            value = re.search(r": (\S+)\n", panel).group(1)
            # The last number of the sum is the cell's, unless ReLU has made it 0.
            last = re.findall(r"[\u2212\d.]*\d", panel)[-1]
            if "makes it 0" in panel or value == "0.00":
                assert value == "0.00"
            elif not re.search("of 2.2|comes from|Grey level", panel):
                assert last == value
            else:
                assert value in panel.partition("\n")[2] or "comes from" in panel or "Grey" in panel
            assert ("Only the centre tap" in panel) == (
                placement == "after_fc1"
                and re.search("branch", panel.partition(",")[0]) is not None
            )


def test_the_benchmark_times_every_move(page):
    times = page_latency.draw(page, 30)
    assert 25 < len(times) <= 30
    assert all(0 < entry["answered"] < entry["shown"] for entry in times)


def test_damaged_weights_are_found_out_and_the_rest_answers(driver, gathered, tmp_path):
    damaged = copy.deepcopy(gathered)
    for packed in (damaged["runs"][0]["weights"], damaged["runs"][2]["epochs"][0]["weights"]):
        packed["base64"] = packed["base64"][:-8] + "AAAAAAA="
    file = tmp_path / "damaged.html"
    file.write_text(build.render(damaged))
    open_file(driver, file)
    draw(driver, SEVEN)
    assert len(answers(driver)) == 2
    assert "their SHA-256 is not" in css(driver, ".answer .error").text
    look_into(driver, "after_fc1")
    assert not css(driver, "#epochs").is_displayed()
    assert driver.get_log("browser") == []


def test_hostile_names_are_shown_and_do_nothing(driver, runs, tmp_path):
    file = tmp_path / "page.html"
    hostile = contents.gather([runs[0]._replace(name=HOSTILE)], split())
    file.write_text(build.render(hostile))
    open_file(driver, file)
    assert HOSTILE in css(driver, ".answer .name").text
    assert driver.find_elements(By.TAG_NAME, "img") == []
    assert driver.get_log("browser") == []  # the policy had nothing to forbid


def test_the_policy_forbids_foreign_scripts_and_requests(driver, page_file):
    open_file(driver, page_file)
    ran, fetched = driver.execute_async_script(
        "const script = document.createElement('script');"
        "script.textContent = 'window.foreign = true';"
        "document.body.append(script);"
        "const done = arguments[0];"
        "fetch('http://localhost:9/').then(() => done([window.foreign, true]),"
        " () => done([window.foreign, false]))"
    )
    assert (ran, fetched) == (None, False)
    assert sum("Content Security Policy" in e["message"] for e in driver.get_log("browser")) >= 2
