"""A browser with a page of made-up networks, and what the tests of the page do in it."""

import contextlib
import json

import numpy as np
import pytest
from made_up import networks, split

from benchmarks import page_latency
from experiments.page import build, contents
from mnist_jax import train

selenium = pytest.importorskip("selenium", reason="needs Selenium: pip install -e '.[web]'")
from selenium.webdriver.common.actions.action_builder import ActionBuilder  # noqa: E402
from selenium.webdriver.common.actions.pointer_input import PointerInput  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(
        page_latency.browser() is None, reason="needs Chromium and its driver: chromium-driver"
    ),
]
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
