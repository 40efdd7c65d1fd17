"""`python tests/live_speed.py [SECONDS]`: the page in a real browser, with the embedded model.

Visitors come for the first time, with nothing in their caches; then, in live mode, a hand draws and a slider moves. The
table has medians in milliseconds. A change is on the screen when the picture that has it is decoded there. Needs
Chromium.
"""

import os
import statistics
import sys
import time

from helpers.browser import Visit, browsers

from ssd1b_jax import Pipeline
from ssd1b_jax.server.background import Background
from ssd1b_jax.server.options import ServerOptions
from ssd1b_jax.server.service import Service

SECONDS = 10.0  # of drawing
VISITS = 15  # and one before, which is not counted
PAINTS = {
    "first-paint": "until something is seen",
    "first-contentful-paint": "until there is text",
    "usable": "until the example is on the board, and the button works",
}
PARTS = {
    "live": "a change until it is on the screen",
    "live.send": "of that, the drawing's file and the request's text",
    "live.make": "of that, the request until its picture is here",
}


def main(seconds: float) -> None:
    pipe = Pipeline.from_pretrained("emoji")
    with Background(Service("emoji", ServerOptions(port=0)), lambda: pipe) as server, browsers() as browser:
        server.wait_until_ready()
        report_visits([first_visit(browser, server.url) for _ in range(VISITS + 1)][1:])
        visit = Visit(browser, f"{server.url}/")
        page = visit.open()
        page.check("#live")
        page.wait_for_selector("#status:has-text('a second')")
        page.evaluate("performance.clearMeasures()")
        drawn = draw(visit, seconds)
        report(page, f"drawing: {drawn} moves")
        slider = page.locator("#basics [data-setting=strength] [type=range]")
        for step in range(20):
            slider.fill(f"{0.5 + 0.02 * step:.2f}")
            page.wait_for_timeout(400)
        report(page, "single changes of a slider")
    pipe.close()


def first_visit(browser, url: str) -> dict[str, float]:
    """Milliseconds from the beginning of a visit, and what it loads: files and kilobytes as they are sent."""
    visit = Visit(browser, f"{url}/")
    page = visit.open()
    seen = page.evaluate(
        """() => {
            const usable = performance.now();
            const paints = performance.getEntriesByType("paint").map((one) => [one.name, one.startTime]);
            const loaded = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
            const bytes = loaded.reduce((sum, one) => sum + one.transferSize, 0);
            return { usable, ...Object.fromEntries(paints), files: loaded.length, kilobytes: bytes / 1000 };
        }"""
    )
    visit.close()
    return seen


def report_visits(visits: list[dict[str, float]]) -> None:
    heaviest = max(visits, key=lambda visit: visit["kilobytes"])
    print(f"first visits: {heaviest['files']} files, {heaviest['kilobytes']:.1f} kB, {load()}")
    for name, words in PAINTS.items():
        show([visit[name] for visit in visits], f"{words}; {len(visits)} visits")


def draw(visit: Visit, seconds: float) -> int:
    """Move the pen without a rest; the number of its moves."""
    page, moves, end = visit.page, 0, time.monotonic() + seconds
    box = page.locator("#board").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    while time.monotonic() < end:
        moves += 1
        page.mouse.move(box["x"] + 20 + 5 * moves % 200, box["y"] + 20 + 3 * moves % 170)
        page.wait_for_timeout(16)
    page.mouse.up()
    page.wait_for_timeout(1000)
    return moves


def report(page, title: str) -> None:
    print(f"\n{title}, {load()}")
    for name, words in PARTS.items():
        times = page.evaluate(f"performance.getEntriesByName('{name}').map((one) => one.duration)")
        show(times, f"{words}; {len(times)} pictures")
    page.evaluate("performance.clearMeasures()")


def show(times: list[float], words: str) -> None:
    low, middle, high = statistics.quantiles(times, n=10)[0], statistics.median(times), max(times)
    print(f"{middle:6.0f} ms  {words}, {low:.0f} to {high:.0f}")


def load() -> str:
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
