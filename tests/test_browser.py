"""The page in a browser, used with a pointer and the keyboard, with made-up networks."""

import base64
import contextlib
import copy
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from made_up import networks, split
from PIL import Image

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
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

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


@contextlib.contextmanager
def emulated(driver, width=1280, height=800, **media):
    """A window of another size, or another medium; `colour_scheme="dark"` and the like."""
    features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    frame(driver)
    yield
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


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


def pointer(driver, *events):
    """Sends pointer events that a driver cannot make: (type, changes)."""
    driver.execute_script(
        "const board = document.getElementById('drawing');"
        "board.setPointerCapture = () => {};"
        "const { left, top } = board.getBoundingClientRect();"
        "for (const [type, { x, y, ...others }] of arguments[0])"
        " board.dispatchEvent(new PointerEvent(type, { bubbles: true, pointerId: 1, buttons: 1,"
        " clientX: left + x, clientY: top + y, ...others }))",
        events,
    )


def test_what_is_no_stroke_leaves_no_ink(page):
    css(page, "#clear").click()
    palm = {"pointerId": 2, "pointerType": "touch", "x": 30, "y": 30}
    pen = {"pointerId": 3, "pointerType": "pen", "x": 140, "y": 40}
    move = {**pen, "y": 240}
    pointer(page, ("pointerdown", palm), ("pointercancel", palm))
    assert not seen(page).any()
    pointer(page, ("pointerdown", palm), ("pointerdown", pen), ("pointermove", move))
    upright = seen(page)
    assert np.ptp(np.nonzero(upright)[1]) <= 4
    pointer(
        page, ("pointermove", {**move, "x": 30, "buttons": 0}), ("pointermove", {**move, "x": 9})
    )
    np.testing.assert_array_equal(seen(page), upright)  # the release was lost


def test_what_is_selected_can_be_drawn_on(page):
    ActionChains(page).key_down(Keys.CONTROL).send_keys("a").key_up(Keys.CONTROL).perform()
    draw(page, SEVEN)
    selected = seen(page)
    css(page, "#clear").click()
    draw(page, SEVEN)
    np.testing.assert_array_equal(selected, seen(page))


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


def test_layers_that_are_not_in_sight_are_not_painted(page):
    painted = (
        "const canvas = document.createElement('canvas');"
        "const copy = canvas.getContext('2d', { willReadFrequently: true });"
        "copy.drawImage(document.querySelector('[data-layer=fc3] canvas'), 0, 0);"
        "return copy.getImageData(0, 0, 10, 1).data.some(Boolean)"
    )
    draw(page, SEVEN)
    assert not page.execute_script(painted)
    page.execute_script("document.querySelector('[data-layer=fc3]').scrollIntoView()")
    frame(page)
    assert page.execute_script(painted)


SIZES = [(320, 568), (360, 640), (390, 844), (768, 1024), (1024, 768), (1280, 800), (1920, 1080)]


@pytest.mark.parametrize(("width", "height"), [*SIZES, (844, 390), (640, 400)])
def test_nothing_is_cut_and_the_answers_are_seen_while_drawing(width, height, page):
    with emulated(page, width, height):
        draw(page, SEVEN)
        wide, bottom, board = page.execute_script(
            "const lowest = (all) => Math.max(..."
            "[...document.querySelectorAll(all)].map((it) => it.getBoundingClientRect().bottom));"
            "return [Math.max(document.documentElement.scrollWidth,"
            " ...[...document.querySelectorAll('main *:not(.unseen, .unseen *)')]"
            " .map((it) => it.getBoundingClientRect().right)), lowest('.bars'), lowest('.board')]"
        )
    assert wide <= width
    assert max(bottom, board) <= height


def test_on_a_phone_there_is_a_way_back_to_the_mistake(page):
    with emulated(page, 390, 844):
        button = css(page, ".gallery button")
        page.execute_script("arguments[0].scrollIntoView(); arguments[0].click()", button)
        frame(page)
        assert page.execute_script("return scrollY") < 400
        css(page, "#back").click()
        assert page.switch_to.active_element == button
        assert not css(page, "#back").is_displayed()


def test_print_is_black_on_white_without_controls(page):
    with emulated(page, prefers_color_scheme="dark"):
        dark = brightness(page)
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        assert not css(page, "#undo").is_displayed()
        assert css(page, ".bars").is_displayed()
        assert (
            page.execute_script("return getComputedStyle(document.body).color") == "rgb(28, 27, 26)"
        )
        filters = "return getComputedStyle(document.getElementById('drawing')).filter"
        assert page.execute_script(filters) == "none"
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert dark < 150 < 600 < brightness(page)


def brightness(page):
    colour = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)))


def test_forced_colours_show_bars_and_the_chosen_network(page):
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    with emulated(page, forced_colors="active"):
        bar, track = (
            page.execute_script(style, it, "backgroundColor") for it in (".bar", ".track")
        )
        chosen = page.execute_script(style, ".picker label:has(:checked)", "outlineStyle")
    assert bar != track
    assert chosen == "solid"


@pytest.mark.parametrize(
    "media",
    [{}, {"prefers_color_scheme": "dark"}, {"forced_colors": "active"}, {"width": 390}],
    ids=["light", "dark", "forced", "phone"],
)
@pytest.mark.skipif("AXE" not in os.environ, reason="needs AXE, the path of axe-core's axe.min.js")
def test_axe_finds_nothing(media, page):
    look_into(page, "after_fc1")
    with emulated(page, **media):
        axe = Path(os.environ["AXE"]).read_text()
        page.execute_cdp_cmd("Runtime.evaluate", {"expression": axe})
        found = page.execute_async_script(
            "axe.run({ rules: { 'target-size': { enabled: true } } })"
            ".then(({ violations }) => arguments[0](violations.map("
            "({ id, nodes }) => [id, ...nodes.map(({ target }) => target.join(' '))])))"
        )
    assert found == []


def test_names_end_and_have_no_more_digits_than_one_can_hear(page):
    css(page, "#row button").click()
    tree = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    texts = [
        node.get(key, {}).get("value") or "" for node in tree for key in ("name", "description")
    ]
    assert not [text for text in texts if re.search(r"\d\.\d{5}", str(text))]
    assert any("the arrow keys move the pen" in str(text) for text in texts)


def test_opening_moves_nothing(page):
    assert page_latency.layout_shift(page) < 0.05
    assert not css(page, "#opening").is_displayed()


def test_without_javascript_one_line_says_so(driver, page_file):
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    driver.get(page_file.as_uri())
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "which is switched off" in css(driver, "noscript p").text
    assert not css(driver, "#undo").is_displayed()


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
