"""The page in a browser, used with a pointer, with networks that the tests have just trained."""

import base64
import json
import re

import numpy as np
import pytest

from benchmarks import page_latency
from experiments import run
from experiments.groundwork.run_directory import open_run, open_weights
from experiments.page import __main__ as command
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
    pytest.mark.mnist,
    pytest.mark.skipif(
        page_latency.browser() is None, reason="needs Chromium and its driver: chromium-driver"
    ),
]

BLANK = "\u2013"  # in place of a digit
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def arc(x, y, width, height, start, end):
    """Points on an ellipse, from one angle to another, in degrees from the top, clockwise."""
    angles = np.radians(np.linspace(start, end, 24))
    return [(x + width * np.sin(a), y - height * np.cos(a)) for a in angles]


# Digits as a hand draws them, in the drawing area's 280 by 280.
STROKES = {
    0: [arc(140, 140, 60, 85, -20, 345)],
    1: [[(150, 50), (140, 140), (130, 235)]],
    3: [arc(130, 95, 55, 45, -60, 160) + arc(130, 180, 60, 50, 10, 230)],
    7: [[(80, 60), (140, 57), (200, 60), (170, 120), (140, 180), (125, 235)]],
}


@pytest.fixture(scope="module")
def trained(mnist_dir, tmp_path_factory):
    """Directories of three runs of two epochs, and from which mistakes each drew its first 24."""
    out, drawn = tmp_path_factory.mktemp("runs"), {}
    with pytest.MonkeyPatch.context() as patch:
        for placement in PLACEMENTS:
            patch.setattr(
                "experiments.figures.run.mistakes",
                lambda *args, placement=placement: drawn.update({placement: args[:4]}),
            )
            options = ["--placement", placement, "--epochs", "2", "--learning-rate", "0.01"]
            places = ["--data-dir", str(mnist_dir), "--out", str(out), "--no-compile-cache"]
            assert run.main([*options, *places, "--keep-epochs", "--quiet"]) == 0
    return {name: out / f"{name}-seed0" for name in PLACEMENTS}, drawn


@pytest.fixture(scope="module")
def page_file(trained, mnist_dir, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "page.html"
    directories = map(str, trained[0].values())
    assert command.main([*directories, "--out", str(file), "--data-dir", str(mnist_dir)]) == 0
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
    assert requests(driver) == {page_file.as_uri()}


def open_file(driver, file):
    for log in ("browser", "performance"):
        driver.get_log(log)
    page_latency.open_page(driver, file)


def requests(driver):
    """The addresses that were asked for since the logs were last read."""
    messages = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    urls = (
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    )
    return {url for url in urls if not url.startswith("data:")}


def draw(driver, strokes, kind="mouse"):
    """Draws with real pointer events; points are places in the drawing area."""
    board = driver.find_element(By.ID, "drawing")
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


def answers(driver):
    """Digit and probability on each card."""
    return [
        tuple(card.find_element(By.CLASS_NAME, name).text for name in ("digit", "probability"))
        for card in driver.find_elements(By.CSS_SELECTOR, ".answer:has(.digit)")
    ]


def digits(driver):
    return [digit for digit, _ in answers(driver)]


def look_into(driver, placement):
    label = f"#inside-picker label[data-placement={placement}]"
    driver.find_element(By.CSS_SELECTOR, label).click()


def computed_in_page(driver, script, content, *arguments):
    """Runs a script on bytes, of which it gets the array as `bytes`."""
    return driver.execute_script(
        "const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));" + script,
        base64.b64encode(content).decode(),
        *arguments,
    )


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_logits_are_those_of_jax_and_every_digit_is_the_same(placement, page, trained, mnist):
    images = mnist[1].images[:1000]
    found = computed_in_page(
        page,
        "const all = [];"
        "for (let n = 0; n < 1000; n++)"
        "  all.push(mnistJax.logits(arguments[1], bytes.subarray(784 * n, 784 * (n + 1))));"
        "return all",
        images.tobytes(),
        PLACEMENTS.index(placement),
    )
    opened = open_run(trained[0][placement])
    expected = np.asarray(train.predict(opened.variables, images, model=opened.model))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(np.argmax(found, 1), expected.argmax(1))


def test_preprocessing_is_that_of_digits_py(page):
    rng = np.random.default_rng(0)
    for _ in range(200):
        strokes = []
        for _ in range(rng.integers(1, 4)):
            # Not so long that it fills a third of the picture: digits.py would see a shadow.
            walk = rng.normal(0, 12, (rng.integers(1, 25), 2)).cumsum(0)
            strokes.append((rng.uniform(20, 260, 2) + walk).tolist())
        ink, seen = page.execute_script(
            "const ink = mnistJax.ink(arguments[0]);"
            "let text = '';"
            "for (const grey of ink) text += String.fromCharCode(grey);"
            "return [btoa(text), Array.from(mnistJax.toMnist(ink) ?? [])]",
            strokes,
        )
        ink = np.frombuffer(base64.b64decode(ink), np.uint8).reshape(280, 280)
        difference = np.array(seen).reshape(28, 28) - to_mnist(ink)[..., 0].astype(int)
        assert np.abs(difference).max() <= 2


@pytest.mark.parametrize("kind", ["mouse", "pen", "touch"])
@pytest.mark.parametrize("digit", STROKES)
def test_a_drawn_digit_is_read_by_every_network(digit, kind, page):
    draw(page, STROKES[digit], kind)
    assert digits(page) == [str(digit)] * 3
    assert f": {digit}, " in page.find_element(By.ID, "said").get_attribute("textContent")


def test_undo_and_clear_go_back(page):
    draw(page, STROKES[1])
    one = answers(page)
    draw(page, [[(60, 140), (220, 140)]])
    assert answers(page) != one
    page.find_element(By.ID, "undo").click()
    assert answers(page) == one
    page.find_element(By.ID, "clear").click()
    assert digits(page) == [BLANK] * 3
    page.find_element(By.ID, "undo").click()
    assert answers(page) == one
    ActionChains(page).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()
    assert digits(page) == [BLANK] * 3


def test_the_keyboard_draws(page):
    board = page.find_element(By.ID, "drawing")
    page.execute_script("arguments[0].focus()", board)
    board.send_keys(*[Keys.ARROW_UP] * 9, Keys.SPACE, *[Keys.ARROW_DOWN] * 18, Keys.SPACE)
    assert digits(page) == ["1"] * 3


def test_a_test_image_goes_to_the_networks_as_it_is(page, trained, mnist):
    tile = page.find_element(By.CSS_SELECTOR, "#row .wrong")
    name = tile.accessible_name
    tile.click()
    for placement, digit in zip(PLACEMENTS, digits(page), strict=True):
        misread = re.search(rf"read as (\d) by {placement}-seed0", name)
        label = re.search(r"of a (\d)", name)
        assert digit == (misread or label).group(1)


def test_ink_over_a_test_image_leaves_the_image_where_it_is(page):
    def seen():
        return page.execute_script(
            "const copy = document.createElement('canvas');"
            "const context = copy.getContext('2d', { willReadFrequently: true });"
            "context.drawImage(document.querySelector('#seen canvas'), 0, 0);"
            "const { data } = context.getImageData(0, 0, 28, 28);"
            "return Array.from(data).filter((_, n) => n % 4 === 3)"
        )

    page.find_element(By.CSS_SELECTOR, "#row button").click()
    before = np.array(seen()).reshape(28, 28)
    draw(page, [[(35, 140), (35, 240)]])
    after = np.array(seen()).reshape(28, 28)
    changed = np.argwhere(after != before)
    assert (after >= before).all()
    assert after[20, 3] == 255
    assert changed.min(0).tolist() == [12, 2]
    assert changed.max(0).tolist() == [25, 4]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_mistake_gets_the_answer_of_the_runs_own_figure(placement, page, trained):
    look_into(page, placement)
    _, labels, predictions, probabilities = trained[1][placement]
    buttons = page.find_elements(By.CSS_SELECTOR, ".gallery button")
    assert len(buttons) == 24 <= len(labels)
    for n in (0, 5, 23):
        expected = str(predictions[n]), f"{100 * probabilities[n]:.1f} %"
        text = f"{labels[n]} read as {predictions[n]}\n{expected[1]}"
        assert buttons[n].text == text
        buttons[n].click()
        assert answers(page)[PLACEMENTS.index(placement)] == expected


def test_a_number_of_the_confusion_matrix_shows_its_mistakes_alone(page):
    cell = page.find_element(By.CSS_SELECTOR, ".confusion button")
    count, label, digit = re.search(
        r"(\d+) times a (\d) was read as (\d)", cell.accessible_name
    ).groups()
    cell.click()
    shown = page.find_elements(By.CSS_SELECTOR, ".gallery button")
    assert len(shown) == min(int(count), 24)
    assert all(button.text.startswith(f"{label} read as {digit}") for button in shown)


def test_each_layer_shows_its_shape_and_parameters_in_the_order_of_computing(page):
    shapes = {}
    for placement in PLACEMENTS:
        look_into(page, placement)
        layers = page.find_elements(By.CSS_SELECTOR, ".layer")
        shapes[placement] = [
            layer.get_attribute("data-layer")
            + " "
            + layer.find_element(By.CLASS_NAME, "shape").text
            for layer in layers
        ]
    start = ["input [1, 28, 28]", "conv1 [6, 12, 12], 156 parameters"]
    start += ["conv2 [16, 4, 4], 2,416 parameters"]
    fc1 = ["fc1 [120], 30,840 parameters"]
    end = ["fc2 [84], 10,164 parameters", "fc3 [10], 850 parameters"]

    def block(shape, parameters):
        parts = {"input": "", "inner": parameters, "branch": parameters, "sum": ""}
        return [f"resnet_block/{part} {shape}{count}" for part, count in parts.items()]

    assert shapes["none"] == start + fc1 + end
    before = block("[16, 4, 4]", ", 2,336 parameters")
    assert shapes["before_fc1"] == start + before + fc1 + end
    after = block("[120, 1, 1]", ", 129,840 parameters")
    assert shapes["after_fc1"] == start + fc1 + after + end


@pytest.mark.parametrize(("placement", "unused"), [("before_fc1", 0), ("after_fc1", 16)])
def test_the_taps_that_never_train_are_marked(placement, unused, page):
    look_into(page, placement)
    assert len(page.find_elements(By.CLASS_NAME, "tap")) == 18
    assert len(page.find_elements(By.CSS_SELECTOR, ".tap.unused")) == unused


def test_the_slider_shows_how_the_answer_formed(page, trained, mnist):
    look_into(page, "after_fc1")
    page.find_element(By.CSS_SELECTOR, ".gallery button").click()
    slider = page.find_element(By.ID, "epoch")
    last = slider.get_attribute("aria-valuetext")
    page.execute_script("arguments[0].focus()", slider)
    slider.send_keys(Keys.ARROW_LEFT)
    first = slider.get_attribute("aria-valuetext")
    image = trained[1]["after_fc1"][0][0]
    for epoch, said in ((1, first), (2, last)):
        file = trained[0]["after_fc1"] / "epochs" / f"{epoch:02}.safetensors"
        model, variables, _ = open_weights(file)
        logits = np.asarray(train.predict(variables, image[None, ..., None], model=model))[0]
        powers = np.exp(logits - logits.max())
        probability = powers.max() / powers.sum()
        assert said == f"epoch {epoch}: {logits.argmax()}, {100 * probability:.1f} %"


def test_everything_that_can_be_pressed_has_a_name(page):
    for found in page.find_elements(
        By.CSS_SELECTOR, "button, input, [role=img], [role=application]"
    ):
        if found.is_displayed():
            assert found.accessible_name


def test_the_page_follows_the_systems_colours(page):
    def brightness():
        colour = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)))

    found = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        found[scheme] = brightness()
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert found["dark"] < 150 < 600 < found["light"]


def test_on_a_phone_nothing_is_wider_than_the_screen_and_the_answer_is_seen(page):
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        draw(page, STROKES[7], "touch")
        wide, bottom = page.execute_script(
            "const bars = [...document.querySelectorAll('.bars')];"
            "return [document.documentElement.scrollWidth,"
            " Math.max(...bars.map((bar) => bar.getBoundingClientRect().bottom))]"
        )
        assert digits(page) == ["7"] * 3
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide == 390
    assert bottom < 844


def test_the_benchmark_times_every_move(page):
    times = page_latency.draw(page)
    assert digits(page) == ["8"] * 3
    assert 0.9 * page_latency.MOVES < len(times) <= page_latency.MOVES
    assert all(0 < entry["answered"] < entry["shown"] for entry in times)


def test_damaged_weights_are_found_out_and_the_other_networks_answer(driver, page_file, tmp_path):
    text = page_file.read_text()
    start = text.index('"base64": "', text.index('"tensors": ')) + 5000  # in the first network
    other = "B" if text[start] == "A" else "A"
    damaged = tmp_path / "damaged.html"
    damaged.write_text(text[:start] + other + text[start + 1 :])
    open_file(driver, damaged)
    draw(driver, STROKES[7])
    assert digits(driver) == ["7"] * 2
    assert "their SHA-256 is not" in driver.find_element(By.CSS_SELECTOR, ".answer .error").text


def test_a_damaged_epoch_is_left_out(driver, page_file, tmp_path):
    text = page_file.read_text()
    start = text.index('"base64": "', text.index('"epochs": ')) + 5000  # of the first network
    damaged = tmp_path / "damaged.html"
    damaged.write_text(text[:start] + ("B" if text[start] == "A" else "A") + text[start + 1 :])
    open_file(driver, damaged)
    draw(driver, STROKES[7])
    assert digits(driver) == ["7"] * 3
    assert not driver.find_element(By.ID, "epochs").is_displayed()
    look_into(driver, "after_fc1")
    assert driver.find_element(By.ID, "epochs").is_displayed()
    assert driver.get_log("browser") == []


def test_hostile_names_are_shown_and_do_nothing(driver, trained, mnist, tmp_path):
    opened = open_run(trained[0]["after_fc1"])
    hostile = opened._replace(name=HOSTILE, config={**opened.config, "momentum": HOSTILE})
    file = tmp_path / "page.html"
    file.write_text(build.render(contents.gather([hostile], mnist[1]), None, title=HOSTILE))
    open_file(driver, file)
    assert HOSTILE in driver.title
    assert HOSTILE in driver.find_element(By.CSS_SELECTOR, ".answer .small").text
    assert HOSTILE in driver.find_element(By.CLASS_NAME, "facts").text
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
