"""How long after a movement of the pen does the page show its new answer?

    python -m experiments.page runs/none-seed0 runs/before_fc1-seed0 runs/after_fc1-seed0
    python -m benchmarks.page_latency page.html --throttle 4

A browser draws with real pointer events, one move each 20 ms. Two times are taken for each move,
both from the event's arrival in the page: until all networks of the page have answered and the
layers on the screen are shown, and until the browser has shown the frame with them. The page
computes once a frame, and a screen of 60 Hz has a frame each 16.7 ms. The page's opening is timed
from the request of its address to the moment at which it can be drawn on. How much it moves while
it opens is the browser's layout shift: 0 if nothing does, 0.1 if it disturbs.

It needs Chromium, its driver and Selenium: `apt-get install chromium chromium-driver` on Debian,
and `pip install -e '.[web]'`.
"""

import contextlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.groundwork import command
from experiments.groundwork.command import UsageError, refuse

MOVES = 200
OPENINGS = 5
TO_EVERY_MOVE = """
    window.times = [];
    let start = 0;
    addEventListener("pointermove", () => { start = performance.now(); }, { capture: true });
    document.getElementById("drawing").addEventListener("pointermove", () => {
      const begun = start;
      requestAnimationFrame(() => { // after that of the page
        const entry = { answered: performance.now() - begun };
        const { port1, port2 } = new MessageChannel();
        port1.onmessage = () => {
          entry.shown = performance.now() - begun;
          window.times.push(entry);
        };
        port2.postMessage(null);
      });
    });
"""
LAYOUT_SHIFT = """
    const done = arguments[0];
    let sum = 0;
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) sum += entry.value;
    }).observe({ type: "layout-shift", buffered: true });
    setTimeout(() => done(sum), 500);
"""


@dataclass(frozen=True)
class Options:
    """Time the page's answers while a browser draws."""

    page: tyro.conf.Positional[Path]
    """The file that experiments.page wrote."""
    throttle: float = 1
    """How many times slower the browser makes the processor, at least 1."""


def browser() -> tuple[str, str] | None:
    """The paths of Chromium and its driver; None if this machine does not have both."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    return (found, driver) if found and driver else None


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A Selenium driver of a fresh Chromium without a screen, which makes no requests of its own.

    Its performance log has every request of a page, its browser log every message of the console.

    Raises:
      RuntimeError: this machine has no Chromium or no driver of it.
    """
    from selenium import webdriver

    programs = browser()
    if programs is None:
        raise RuntimeError("neither Chromium nor its driver is installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        chosen = webdriver.ChromeOptions()
        chosen.binary_location = programs[0]
        for argument in (
            "headless=new",
            *(["no-sandbox"] if os.geteuid() == 0 else []),
            "disable-gpu",
            "disable-quic",
            "no-first-run",
            "disable-background-networking",
            "disable-component-update",
            "disable-sync",
            "force-device-scale-factor=1",
            "window-size=1280,800",
            f"user-data-dir={profile}",
        ):
            chosen.add_argument(f"--{argument}")
        chosen.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=chosen, service=webdriver.ChromeService(programs[1]))
        try:
            yield driver
        finally:
            driver.quit()


def open_page(driver: Any, page: Path) -> float:
    """Opens a page and waits until it can be drawn on; returns the seconds that this took."""
    start = time.perf_counter()
    driver.get(page.resolve().as_uri())
    until_ready(driver)
    return time.perf_counter() - start


def until_ready(driver: Any) -> None:
    """Waits until the page can be drawn on."""
    from selenium.webdriver.support.wait import WebDriverWait

    ready = "return document.documentElement.dataset.ready"
    WebDriverWait(driver, 30, poll_frequency=0.005).until(lambda it: it.execute_script(ready))


def layout_shift(driver: Any) -> float:
    """How much the open page has moved since its opening."""
    return driver.execute_async_script(LAYOUT_SHIFT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    name = "benchmarks.page_latency"
    return command.main(Options, measure, arguments, name=name, description=__doc__)


def measure(options: Options) -> None:
    """Opens the page, draws, and prints the times.

    Raises:
      UsageError: there is no page, or no browser.
    """
    page = options.page
    if not page.is_file():
        raise UsageError(f"{page}: no such file")
    if not options.throttle >= 1:
        refuse("throttle", "at least 1", options.throttle)
    if browser() is None:
        raise UsageError("Chromium or its driver is not installed")
    with chromium() as driver:
        driver.execute_cdp_cmd("Emulation.setCPUThrottlingRate", {"rate": options.throttle})
        openings = [open_page(driver, page) for _ in range(OPENINGS)]
        moved = layout_shift(driver)
        networks = driver.execute_script("return mnistJax.runs.length")
        times = draw(driver)
        version = driver.capabilities["browserVersion"]
    print(f"{page}: {page.stat().st_size / 1e6:.2f} MB, {networks} networks; Chromium {version}")
    print(f"processor {options.throttle:g} times slower, load {os.getloadavg()[0]:.1f}")
    print(f"opens in {np.median(openings):.2f} s, median of {OPENINGS}; layout shift {moved:.3f}")
    for name, text in (("answered", "move to answers"), ("shown", "move to their frame")):
        values = np.array([entry[name] for entry in times])
        low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
        print(
            f"{text}: {middle:.1f} ms, median of {len(values)} (5 to 95 %: {low:.1f} to {high:.1f})"
        )


def draw(driver: Any, moves: int = MOVES) -> list[dict[str, float]]:
    """Draws an 8 in one stroke; returns the times `answered` and `shown` of each move, in ms."""
    driver.execute_script(TO_EVERY_MOVE)
    box = driver.execute_script(
        "const { x, y, width } = document.getElementById('drawing').getBoundingClientRect();"
        "return [x, y, width]"
    )
    for n in range(moves + 1):
        angle = 2 * math.pi * n / moves
        x = box[0] + box[2] * (0.5 + 0.2 * math.sin(2 * angle))
        y = box[1] + box[2] * (0.5 - 0.35 * math.cos(angle))
        kind = "mousePressed" if n == 0 else "mouseMoved"
        event = {"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)
        time.sleep(0.02)
    return driver.execute_script("return times")


if __name__ == "__main__":
    command.leave(main())
