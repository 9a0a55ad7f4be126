"""How long after a stroke of the pen does the page show its new answer?

    python -m experiments.page runs/none-seed0 runs/before_fc1-seed0 runs/after_fc1-seed0
    python -m benchmarks.page_latency page.html

A browser draws with real pointer events, one move each 20 ms. Two times are taken for each move,
both from the event's arrival in the page: until all networks of the page have answered and all
layers of the chosen one are computed, and until the browser has shown the frame with them. A screen
of 60 Hz has a frame each 16.7 ms, so the second time includes waiting for a frame. The page's
opening is timed from the request of its address to the moment at which it can be drawn on.

It needs Chromium, its driver and Selenium: `apt-get install chromium chromium-driver` on Debian,
and `pip install -e '.[web]'`.
"""

if __name__ == "__main__":
    from experiments.groundwork import stopping

    stopping.end_at_once()

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

from benchmarks import processes
from experiments.groundwork import options
from experiments.groundwork.options import UsageError

MOVES = 200
OPENINGS = 5
TO_EVERY_MOVE = """
    window.times = [];
    const board = document.getElementById("drawing");
    let start = 0;
    addEventListener("pointermove", () => { start = performance.now(); }, { capture: true });
    board.addEventListener("pointermove", () => {
      const entry = { answered: performance.now() - start };
      const begun = start;
      requestAnimationFrame(() => {
        const { port1, port2 } = new MessageChannel();
        port1.onmessage = () => {
          entry.shown = performance.now() - begun;
          window.times.push(entry);
        };
        port2.postMessage(null);
      });
    });
"""


@dataclass(frozen=True)
class Config:
    """Time the page's answers while a browser draws."""

    page: tyro.conf.Positional[Path]
    """The file that experiments.page wrote."""


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
    from selenium.webdriver.support.wait import WebDriverWait

    start = time.perf_counter()
    driver.get(page.resolve().as_uri())
    ready = "return document.documentElement.dataset.ready"
    WebDriverWait(driver, 30, poll_frequency=0.005).until(lambda it: it.execute_script(ready))
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""

    def body() -> int:
        config = options.parse(
            Config, arguments, name="benchmarks.page_latency", description=__doc__
        )
        page = config.page
        if not page.is_file():
            raise UsageError(f"{page}: no such file")
        if browser() is None:
            raise UsageError("Chromium or its driver is not installed")
        measure(page)
        return options.OK

    return options.run_command(body)


def measure(page: Path) -> None:
    """Opens the page, draws, and prints the times."""
    with chromium() as driver:
        openings = [open_page(driver, page) for _ in range(OPENINGS)]
        networks = driver.execute_script("return mnistJax.runs.length")
        times = draw(driver)
        version = driver.capabilities["browserVersion"]
    print(f"{page}: {page.stat().st_size / 1e6:.2f} MB, {networks} networks; Chromium {version}")
    if (load := processes.load_average()) is not None:
        print(f"load average {load:.1f} on {os.cpu_count()} processors")
    print(f"opens in {np.median(openings):.2f} s, median of {OPENINGS}")
    for name, text in (("answered", "move to answers"), ("shown", "move to their frame")):
        values = np.array([entry[name] for entry in times])
        low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
        print(
            f"{text}: {middle:.1f} ms, median of {len(values)} (5 to 95 %: {low:.1f} to {high:.1f})"
        )


def draw(driver: Any) -> list[dict[str, float]]:
    """Draws an 8 in one stroke; returns the times `answered` and `shown` of each move, in ms."""
    driver.execute_script(TO_EVERY_MOVE)
    box = driver.execute_script(
        "const { x, y, width } = document.getElementById('drawing').getBoundingClientRect();"
        "return [x, y, width]"
    )
    for n in range(MOVES + 1):
        angle = 2 * math.pi * n / MOVES
        x = box[0] + box[2] * (0.5 + 0.2 * math.sin(2 * angle))
        y = box[1] + box[2] * (0.5 - 0.35 * math.cos(angle))
        kind = "mousePressed" if n == 0 else "mouseMoved"
        event = {"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)
        time.sleep(0.02)
    return driver.execute_script("return times")


if __name__ == "__main__":
    options.leave(main())
