"""The page on screens of every kind, on paper, and with hands, pens and readers of every kind."""

# ruff: noqa: E402, F401, F811  (pytest finds fixtures by their names)

import os
import re
from pathlib import Path

import numpy as np
import pytest
from in_browser import (
    MARKS,
    SEVEN,
    css,
    draw,
    driver,
    emulated,
    frame,
    gathered,
    look_into,
    page,
    page_file,
    runs,
    seen,
)

from benchmarks import page_latency

selenium = pytest.importorskip("selenium", reason="needs Selenium: pip install -e '.[web]'")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

pytestmark = MARKS


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
