"""The page in a browser, used with a pointer and the keyboard, with made-up networks."""

import base64
import copy
import json
import re

import numpy as np
import pytest
from made_up import networks, split

from benchmarks import page_latency
from experiments.groundwork.run_directory import open_weights
from experiments.page import build, contents
from mnist_jax import train
from mnist_jax.digits import to_mnist
from mnist_jax.model import PLACEMENTS

selenium = pytest.importorskip("selenium", reason="needs Selenium: pip install -e '.[web]'")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.actions.action_builder import ActionBuilder  # noqa: E402
from selenium.webdriver.common.actions.pointer_input import PointerInput  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        page_latency.browser() is None, reason="needs Chromium and its driver: chromium-driver"
    ),
]

BLANK = "\u2013"  # in place of a digit
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
SEVEN = [(80, 60), (200, 60), (125, 235)]
BAR = [(60, 140), (220, 140)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def gathered(runs):
    return contents.gather(runs, split())


@pytest.fixture(scope="module")
def page_file(gathered, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(build.render(gathered))
    return file


@pytest.fixture(scope="module")
def driver():
    with page_latency.chromium() as driver:
        yield driver


@pytest.fixture
def page(driver, page_file):
    """The page, freshly opened; at the end no message is in the console and no request was made."""
    open_file(driver, page_file)
    yield driver
    assert driver.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [it["params"] for it in messages if it["method"] == "Network.requestWillBeSent"]
    assert {it["request"]["url"] for it in sent} - {"data:,"} <= {page_file.as_uri()}


def open_file(driver, file):
    for log in ("browser", "performance"):
        driver.get_log(log)
    page_latency.open_page(driver, file)


def css(driver, selector):
    return driver.find_element(By.CSS_SELECTOR, selector)


def frame(driver):
    """Waits until what was asked for is computed, which is done once a frame."""
    driver.execute_async_script(
        "requestAnimationFrame(() => requestAnimationFrame(() => arguments[0]()))"
    )


def draw(driver, *strokes, kind="mouse"):
    """Draws with real pointer events; points are places in the drawing area."""
    board = css(driver, "#drawing")
    size = board.rect["width"]
    pointer = PointerInput(kind, f"the {kind}")
    actions = ActionBuilder(driver, mouse=pointer, duration=5)
    for points in strokes:
        for n, (x, y) in enumerate(points):
            offset = (round((place / 280 - 0.5) * size) for place in (x, y))
            actions.pointer_action.move_to(board, *offset)
            if n == 0:
                actions.pointer_action.pointer_down()
        actions.pointer_action.pointer_up()
    actions.perform()
    frame(driver)


def answers(driver):
    """Digit and probability on each card."""
    frame(driver)
    return [
        tuple(card.find_element(By.CLASS_NAME, name).text for name in ("digit", "probability"))
        for card in driver.find_elements(By.CSS_SELECTOR, ".answer:has(.digit)")
    ]


def seen(driver):
    """What the networks see, [28, 28]; zeros if the drawing is blank."""
    frame(driver)
    grey = driver.execute_script("return mnistJax.seen()") or [0] * 784
    return np.array(grey, np.uint8).reshape(28, 28)


def look_into(driver, placement):
    css(driver, f".picker label[data-placement={placement}]").click()
    frame(driver)


def expected(model, variables, image):
    """The answer of a network to grey levels [28, 28], as a card prints it."""
    logits = np.asarray(train.predict(variables, image[None, ..., None], model=model))[0]
    powers = np.exp(logits - logits.max())
    return str(logits.argmax()), f"{100 * powers.max() / powers.sum():.1f} %"


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
    for _ in range(100):
        strokes = []
        for _ in range(rng.integers(1, 4)):
            # Not so long that it fills a third of the picture: digits.py would see a shadow.
            walk = rng.normal(0, 12, (rng.integers(1, 25), 2)).cumsum(0)
            strokes.append((rng.uniform(20, 260, 2) + walk).tolist())
        ink, image = page.execute_script(
            "const ink = mnistJax.ink(arguments[0]);"
            "return [btoa(Array.from(ink, (grey) => String.fromCharCode(grey)).join('')),"
            " Array.from(mnistJax.toMnist(ink) ?? [])]",
            strokes,
        )
        ink = np.frombuffer(base64.b64decode(ink), np.uint8).reshape(280, 280)
        difference = np.array(image).reshape(28, 28) - to_mnist(ink)[..., 0].astype(int)
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
    draw(page, SEVEN)
    one = seen(page)
    draw(page, BAR)
    two = seen(page)
    assert (one != two).any()
    control = ActionChains(page).key_down(Keys.CONTROL)
    steps = {
        "undo": one, "redo": two, "clear": 0 * one, "Undo": two, "z": one, "y": two, "z ": one,
        "Z": two,
    }  # fmt: skip
    for step, wanted in steps.items():
        if len(step) > 2:
            css(page, f"#{step.lower()}").click()
        else:
            control.send_keys(step.strip()).perform()
        np.testing.assert_array_equal(seen(page), wanted, step)
    ActionChains(page).key_up(Keys.CONTROL).perform()


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
    assert page.find_elements(By.CSS_SELECTOR, ".tap.unused") == []
    assert shown("after_fc1") == start + fc1 + block + end
    assert len(page.find_elements(By.CSS_SELECTOR, ".tap.unused")) == 16


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


def test_the_page_follows_the_systems_colours(page):
    def brightness(scheme):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        colour = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)))

    assert brightness("dark") < 150 < 600 < brightness("light")


def test_the_benchmark_times_every_move(page):
    times = page_latency.draw(page)
    assert 0.9 * page_latency.MOVES < len(times) <= page_latency.MOVES
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
