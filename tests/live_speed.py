"""`python tests/live_speed.py [SECONDS]`: live mode in a real browser, with the embedded model.

A hand draws, and a slider moves; the table has medians in milliseconds. A change is on the screen when the picture that
has it is decoded there. Needs Chromium.
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
PARTS = {
    "live": "a change until it is on the screen",
    "live.send": "of that, the drawing's file and the request's text",
    "live.make": "of that, the request until its picture is here",
}


def main(seconds: float) -> None:
    pipe = Pipeline.from_pretrained("emoji")
    with Background(Service("emoji", ServerOptions(port=0)), lambda: pipe) as server, browsers() as browser:
        server.wait_until_ready()
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
    print(f"\n{title}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, words in PARTS.items():
        times = page.evaluate(f"performance.getEntriesByName('{name}').map((one) => one.duration)")
        low, middle, high = statistics.quantiles(times, n=10)[0], statistics.median(times), max(times)
        print(f"{middle:6.0f} ms  {words}; {len(times)} pictures, {low:.0f} to {high:.0f}")
    page.evaluate("performance.clearMeasures()")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
