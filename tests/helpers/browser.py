"""A real browser for the page's tests: Chromium without a window, driven by Playwright."""

import base64
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, Playwright, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
VARIABLE = "SSD1B_CHROMIUM"
FLAGS = ("--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
MS = 60_000  # for whatever a test waits for


def chromium() -> str:
    """The browser's program; it is not skipped where there is none."""
    found = os.environ.get(VARIABLE) or next(filter(None, map(shutil.which, NAMES)), None)
    assert found, f"the page's tests need Chromium: apt-get install chromium, or name its program in {VARIABLE}"
    return found


@contextmanager
def browsers() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield from _launched(playwright)


def _launched(playwright: Playwright) -> Iterator[Browser]:
    browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
    try:
        yield browser
    finally:
        browser.close()


class Visit:
    """A visitor: a page of a browser's own, what it asked the server for, and what went wrong in it."""

    def __init__(self, browser: Browser, url: str, **options):
        self.url = url
        self.context = browser.new_context(**{"locale": "en-US", "viewport": dict(width=1280, height=800)} | options)
        self.context.set_default_timeout(MS)
        self.faults: list[str] = []
        self.sent: list[dict] = []
        self.requested: list[str] = []
        self.page = self.tab()

    def tab(self) -> Page:
        page = self.context.new_page()
        page.on("console", lambda line: line.type in ("error", "warning") and self.faults.append(line.text))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", self._note)
        return page

    def _note(self, request) -> None:
        self.requested.append(request.url)
        if request.method == "POST" and request.url.endswith(("/jobs", "/pictures")):
            self.sent.append(json.loads(request.post_data))

    def open(self, address: str = "") -> Page:
        """Visit the page; returns once its example is on the board."""
        self.page.goto(self.url + address)
        self.started(self.page)
        return self.page

    def started(self, page: Page) -> None:
        page.wait_for_selector("#model:not(:empty)")

    def generate(self, page: Page | None = None) -> None:
        """Press the button, and wait for the end."""
        page = page or self.page
        page.click("#generate")
        self.ended(page)

    def ended(self, page: Page | None = None) -> None:
        (page or self.page).wait_for_selector("#generate:not(.running)")

    def until(self, condition) -> None:
        """Wait for a condition; meanwhile the browser's events come in."""
        end = time.monotonic() + MS / 1000
        while not condition():
            assert time.monotonic() < end
            self.page.wait_for_timeout(20)

    def set(self, setting: str, value: str) -> None:
        """Write into the field of a setting."""
        field = self.page.locator(f"#setting-{setting}")
        field.fill(value)
        field.blur()

    def stroke(self, points, touch: bool = False) -> None:
        """Draw a line through points of the board, as fractions of its sides."""
        box = self.page.locator("#board").bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=4)
        self.page.mouse.up()

    def board(self) -> bytes:
        """The board's pixels, as the bytes of a PNG."""
        return self._canvas("#picture")

    def _canvas(self, selector: str) -> bytes:
        url = self.page.evaluate(f"document.querySelector('{selector}').toDataURL('image/png')")
        return base64.b64decode(url.partition(",")[2])

    def pictures(self) -> int:
        """In the gallery."""
        return self.page.locator("#pictures li").count()

    def close(self) -> None:
        self.context.close()


def give(page: Page, event: str, data: bytes, media_type: str = "image/png") -> None:
    """Drop or paste a file on the page, as a hand does."""
    page.evaluate(
        """([event, text, type]) => {
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], "given.png", { type }));
            const options = { bubbles: true, cancelable: true };
            const made = event === "paste"
                ? new ClipboardEvent("paste", { ...options, clipboardData: data })
                : new DragEvent("drop", { ...options, dataTransfer: data });
            document.body.dispatchEvent(made);
        }""",
        [event, base64.b64encode(data).decode(), media_type],
    )
