"""The page, in a real browser: drawing, generating, live, coming back, and for everyone."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from helpers.browser import Visit, browsers, give
from helpers.server import in_base64, pixels, running

from ssd1b_jax import images, settings
from ssd1b_jax.images import previews

pytestmark = pytest.mark.slow  # one browser is enough: it does not ask which Python the server has

PAGE = Path(__file__).parents[1] / "ssd1b_jax" / "server" / "page"
MOST_BYTES = 100_000  # of all that a first visit loads
LONG = dict(num_inference_steps=1000, strength=1)
SLOWEST = 1.5  # seconds from a change to its picture in live mode, at the median, on a machine that does much else


@pytest.fixture(scope="module")
def server(tiny_pipe):
    with running(tiny_pipe) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    with browsers() as browser:
        yield browser


@pytest.fixture
def visit(browser, server):
    """A visitor's first visit. Nothing may go wrong in the browser, and nothing may come from another host."""
    visit = Visit(browser, f"{server.url}/")
    visit.open()
    yield visit
    visit.close()
    assert visit.faults == []
    assert all(url.startswith((server.url, "blob:", "data:")) for url in visit.requested)


def address(**settings) -> str:
    return "#" + "&".join(f"{name}={value}" for name, value in settings.items())


def with_fast(described: dict) -> dict:
    """What a server says that has a few-step LoRA, or does not know it yet."""
    described["schema"]["properties"]["fast"] = dict(type="boolean", default=False, title="fast", description="fast")
    return described


def photo(width: int = 60, height: int = 40, shade: int = 0) -> bytes:
    """A picture with a gradient from left to right, and another from top to bottom."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [255 * x / width, 255 * y / height, np.full(x.shape, shade)]
    return images.encode(np.stack(channels, -1).astype(np.uint8), ".png")


# The first visit


def test_the_first_press_gives_a_picture(visit):
    """Of the example and the prompt that are there; all that is loaded is small."""
    page = visit.page
    assert page.input_value("#prompt") == "a pumpkin on a blue background"
    loaded = page.evaluate("performance.getEntriesByType('resource').reduce((sum, one) => sum + one.transferSize, 0)")
    assert 20_000 < loaded < MOST_BYTES
    visit.generate()
    assert visit.pictures() == 1 and page.get_attribute("#after", "alt") == "a pumpkin on a blue background, seed 8"
    assert page.inner_text("#status").startswith("Done in")
    assert visit.sent[0]["strength"] == 0.8 and "mask" not in visit.sent[0]
    doodle = PAGE.parents[1] / "embedded" / "doodles" / "face.png"
    assert visit.sent[0]["image"] == in_base64(doodle.read_bytes())


def test_a_second_press_means_another_picture_and_a_change_keeps_the_seed(visit):
    visit.generate()
    visit.generate()
    visit.set("strength", "0.6")
    visit.generate()
    first, second, third = (body["seed"] for body in visit.sent)
    assert first == "8" and second != "8" and third == second
    assert visit.page.input_value("#setting-seed") == second


def test_several_pictures_with_previews(visit, monkeypatch):
    monkeypatch.setitem(previews.MAPS, 0.5, ((0.1, 0.2, 0.3),) * 5)
    visit.open(address(num_images=3, num_inference_steps=80, strength=1, prompt="three"))
    visit.page.click("#generate")
    visit.page.wait_for_selector("#stage.preview")
    assert visit.page.get_attribute("#after", "src").startswith("data:image/jpeg")
    assert re.match(r"Picture [123] of 3: step \d+ of \d+, about", visit.page.inner_text("#status"))
    visit.ended()
    assert visit.pictures() == 3


# Ways in


def test_every_way_in(visit):
    page, seen = visit.page, [visit.board()]

    def changed() -> None:
        visit.until(lambda: visit.board() not in seen)
        seen.append(visit.board())

    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": photo(shade=50)})
    changed()
    give(page, "drop", photo(shade=100))
    changed()
    give(page, "paste", photo(shade=150))
    changed()
    page.click("#examples button >> nth=3")
    changed()
    assert page.input_value("#prompt") == "a castle on a purple background"
    page.click("#shoot")
    visit.until(lambda: page.evaluate("document.querySelector('video').videoWidth > 0"))
    page.click("#camera-dialog .main")
    changed()
    give(page, "drop", b"no picture")
    page.wait_for_selector("#toast:has-text('no picture that the browser can show')")


def test_what_is_drawn_is_sent_and_can_be_undone(visit):
    page = visit.page
    page.click("#clear")
    page.click("[data-color='#dd2e30']")
    visit.stroke([(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8), (0.2, 0.2)])
    page.click("[data-tool=fill]")
    page.click("[data-color='#3f7fd9']")
    page.locator("#board").click()
    filled = pixels(visit.board())
    height, width, _ = filled.shape
    assert tuple(filled[height // 2, width // 2]) == (0x3F, 0x7F, 0xD9)
    assert tuple(filled[height // 5, width // 2]) == (0xDD, 0x2E, 0x30)
    assert tuple(filled[5, 5]) == (255, 255, 255)
    page.click("[data-tool=eraser]")
    visit.stroke([(0.4, 0.5), (0.6, 0.5)])
    assert tuple(pixels(visit.board())[height // 2, width // 2]) == (255, 255, 255)
    page.keyboard.press("Control+z")
    assert np.array_equal(pixels(visit.board()), filled)
    page.keyboard.press("Control+Shift+z")
    assert not np.array_equal(pixels(visit.board()), filled)
    page.click("#undo")
    visit.generate()
    assert np.array_equal(pixels(visit.sent[0]["image"]), filled)


def test_keys_are_enough(visit):
    """Tabs reach the board; arrows and space draw; Ctrl+Enter makes the picture."""
    page = visit.page
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "board":
            break
    before = visit.board()
    for key in ("ArrowRight", " ", *["ArrowRight"] * 5, " ", "ArrowDown"):
        page.keyboard.press(key)
    drawn = visit.board()
    assert drawn != before
    page.keyboard.press("Control+Enter")
    visit.page.wait_for_selector("#pictures li")
    assert np.array_equal(pixels(visit.sent[0]["image"]), pixels(drawn))


@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])  # with "fit" the size is the server's to choose
def test_a_fit_is_shown_as_the_server_does_it(visit, mode):
    page, file = visit.page, photo(600, 400)
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": file})
    page.click(f"[data-fit={mode}]")
    shown = pixels(visit.board())
    height, width, _ = shown.shape
    expected = images.resize(pixels(file), width, height, mode)
    assert np.abs(shown.astype(int) - expected).mean() < 2
    visit.generate()
    assert visit.sent[0]["image"] == in_base64(file) and visit.sent[0].get("resize_mode", "crop") == mode


def test_a_mask_is_painted_where_the_picture_changes(visit):
    page = visit.page
    page.click("[data-tool=mask]")
    page.wait_for_selector("#mask-help:visible")
    page.fill("#brush-size", "60")
    visit.stroke([(0.3, 0.3), (0.7, 0.3)])
    page.check("#mask-invert")
    page.fill("#mask-blur", "2")
    visit.generate()
    (sent,) = visit.sent
    mask = pixels(sent["mask"])
    height, width, _ = mask.shape
    assert tuple(mask[int(0.3 * height), width // 2]) == (255, 255, 255) and not mask[int(0.8 * height)].any()
    assert sent["mask_invert"] is True and sent["mask_blur"] == 2
    page.click("#unmask")
    visit.stroke([(0.1, 0.3), (0.9, 0.3)])
    page.wait_for_selector("#mask-clear:disabled")
    visit.generate()
    assert "mask" not in visit.sent[1]


# While it runs


def test_cancel_stops_the_work(visit, tiny_pipe):
    visit.open(address(prompt="long", **LONG))
    visit.page.click("#generate")
    visit.page.wait_for_selector("#status:has-text('Step')")
    visit.page.wait_for_selector("#generate:has-text('Cancel')")
    visit.page.keyboard.press("Escape")
    visit.ended()
    visit.until(lambda: tiny_pipe.waiting == 0)
    ticks = tiny_pipe.queue.ticks.ticks
    time.sleep(0.2)
    assert tiny_pipe.queue.ticks.ticks == ticks
    assert visit.page.inner_text("#status") == "Cancelled." and visit.pictures() == 0


def test_a_place_in_the_queue_is_told(visit, browser, server):
    other = Visit(browser, visit.url)
    other.open(address(prompt="long", **LONG))
    other.page.click("#generate")
    other.page.wait_for_selector("#status:has-text('Step')")
    other.page.click("#generate")
    visit.generate()
    other.ended()
    assert visit.pictures() == 1 and other.pictures() == 0
    other.close()


def test_an_error_stands_by_its_field(visit):
    page = visit.page
    visit.set("strength", "5")
    visit.generate()
    assert page.inner_text("#error-strength") == "strength must be in (0, 1], got 5.0"
    assert page.evaluate("document.activeElement.id") == "setting-strength"
    assert page.get_attribute("#setting-strength", "aria-invalid") == "true"
    visit.set("strength", "0.5")
    page.click("#more summary")
    visit.set("clip_skip", "7")
    page.click("#more summary")
    visit.generate()
    assert page.locator("#error-strength").is_hidden()
    assert "clip_skip must be" in page.inner_text("#error-clip_skip")
    visit.faults[:] = [line for line in visit.faults if "400" not in line]  # the browser tells of each in its console


def test_two_tabs_have_their_own_pictures(visit):
    other = visit.tab()
    other.goto(visit.url + address(prompt="another", seed="9"))
    visit.started(other)
    visit.page.click("#generate")
    other.click("#generate")
    visit.ended()
    visit.ended(other)
    assert visit.page.get_attribute("#after", "alt") == "a pumpkin on a blue background, seed 8"
    assert other.get_attribute("#after", "alt") == "another, seed 9"


# Live


def test_live_follows_the_hand(visit, tiny_pipe):
    """Pictures come while a line is drawn, fewer than there were moves; the last is of the last state."""
    page = visit.page
    visit.set("num_inference_steps", "30")
    page.check("#live")
    page.wait_for_selector("#status:has-text('a second')")
    box = page.locator("#board").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    for step in range(60):
        page.mouse.move(box["x"] + 20 + 5 * step, box["y"] + 20 + 4 * step)
        page.wait_for_timeout(10)
    made_meanwhile = len(visit.sent)
    page.mouse.up()
    drawn = pixels(visit.board())
    visit.until(lambda: np.array_equal(pixels(visit.sent[-1]["image"]), drawn))
    assert 2 < made_meanwhile < 60
    page.locator("#basics [data-setting=strength] [type=range]").fill("0.5")
    visit.until(lambda: visit.sent[-1]["strength"] == 0.5)
    assert {body["seed"] for body in visit.sent} == {"8"} and visit.sent[-1]["num_inference_steps"] == 4
    visit.until(lambda: tiny_pipe.waiting == 0)
    times = page.evaluate("performance.getEntriesByName('live').map((one) => one.duration)")
    assert np.median(times) < 1000 * SLOWEST
    assert visit.pictures() == 0
    page.wait_for_selector("#keep:visible")
    assert visit.sent[-1]["metadata"] is False
    page.click("#keep")
    visit.until(lambda: visit.pictures() == 1)
    *live, kept = visit.sent
    assert "metadata" not in kept and kept["image"] in [body["image"] for body in live]


def test_live_is_fast_only_where_nothing_was_chosen_that_fast_does_not_know(browser, server):
    """With a server that has a few-step LoRA."""
    visit = Visit(browser, f"{server.url}/")
    with server.client() as client:
        described = with_fast(client.get("/settings").json())
    made = dict(body=photo(), headers={"content-type": "image/png", "x-seed-value": "7", "x-generation-time": "0.1"})
    visit.page.route("**/settings", lambda route: route.fulfill(json=described))
    visit.page.route("**/pictures", lambda route: route.fulfill(**made))
    page = visit.open()
    page.check("#live")
    visit.until(lambda: visit.sent and visit.sent[-1].get("fast") is True and "scheduler" not in visit.sent[-1])
    page.click("#more summary")
    visit.set("guidance_scale", "2")
    visit.until(lambda: "fast" not in visit.sent[-1])
    assert visit.sent[-1]["guidance_scale"] == 2 and visit.sent[-1]["num_inference_steps"] == 4
    page.click("#reset")
    visit.until(lambda: visit.sent[-1].get("fast") is True)
    page.select_option("#setting-scheduler", "heun")
    visit.until(lambda: "fast" not in visit.sent[-1])
    assert visit.faults == []
    visit.close()


@pytest.mark.parametrize("status", [429, 503])
def test_live_waits_for_a_busy_server_and_goes_on_with_the_newest_state(visit, status):
    """As long as Retry-After says; who turns live off in the wait is not asked for."""
    page, asked, seconds = visit.page, [], 2
    page.on("request", lambda request: request.url.endswith("/pictures") and asked.append(time.monotonic()))
    error = dict(error=dict(message="the queue is full"))
    busy = dict(status=status, headers={"retry-after": str(seconds)}, json=error)
    page.route("**/pictures", lambda route: route.fulfill(**busy), times=2)
    page.check("#live")
    page.wait_for_selector(f"#status:has-text('on in {seconds} s')")
    page.uncheck("#live")
    page.wait_for_timeout(1000 * seconds + 200)
    assert len(asked) == 1
    page.check("#live")
    page.wait_for_selector(f"#status:has-text('on in {seconds} s')")
    for value in ("0.4", "0.5"):
        page.locator("#basics [data-setting=strength] [type=range]").fill(value)
    page.wait_for_selector("#status:has-text('a second')")
    assert asked[2] - asked[1] > seconds - 0.1 and [body["strength"] for body in visit.sent] == [0.8, 0.8, 0.5]
    assert page.locator("#error").is_hidden()
    visit.faults[:] = [line for line in visit.faults if str(status) not in line]  # the browser tells of each


# What comes back


def test_a_picture_brings_its_settings_back(visit, tmp_path):
    page = visit.page
    page.click("#more summary")
    page.check("#setting-embed_input")
    visit.set("guidance_scale", "2")
    page.select_option("#setting-scheduler", "dpmpp_2m")
    board = visit.board()
    visit.generate()
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "a-pumpkin-on-a-blue-background-8.png"
    file = Path(download.value.path()).read_bytes()
    page.click("#reset")
    page.click("#clear")
    assert page.input_value("#setting-guidance_scale") == "3"
    give(page, "drop", file)
    page.wait_for_selector("#toast:has-text('Its settings are back')")
    assert page.input_value("#setting-guidance_scale") == "2" and page.input_value("#setting-seed") == "8"
    assert page.input_value("#setting-scheduler") == "dpmpp_2m"
    visit.until(lambda: np.array_equal(pixels(visit.board()), pixels(board)))
    page.click("#toast button")
    visit.until(lambda: page.input_value("#setting-guidance_scale") == "3")
    page.click("#gallery-clear")
    give(page, "drop", file)  # with the input that it embeds
    visit.until(lambda: page.input_value("#setting-guidance_scale") == "2")
    visit.until(lambda: np.abs(pixels(visit.board()).astype(int) - pixels(board)).mean() < 20)


def test_a_picture_of_a1111_brings_its_settings(visit):
    text = "an oil, painting\nNegative prompt: blur\nSteps: 12, Sampler: DPM++ 2M, Schedule type: Karras, Seed: 3"
    give(visit.page, "drop", images.encode(np.zeros((32, 32, 3), np.uint8), ".png", text={"parameters": text}))
    visit.page.wait_for_selector("#toast:has-text('the same meaning')")
    visit.generate()
    (sent,) = visit.sent
    expected = dict(prompt="an oil, painting", negative_prompt="blur", num_inference_steps=12, seed="3")
    assert expected.items() <= sent.items() and sent["scheduler"] == "dpmpp_2m_karras"


def test_a_reload_keeps_settings_drawing_and_pictures(visit):
    page = visit.page
    visit.set("guidance_scale", "2.5")
    page.fill("#prompt", "a cat & a dog")
    visit.stroke([(0.1, 0.1), (0.9, 0.1)])
    drawn = pixels(visit.board())
    visit.generate()
    page.wait_for_timeout(600)  # what has rested is kept
    page.reload()
    visit.started(page)
    page.wait_for_selector("#pictures li")
    assert page.input_value("#prompt") == "a cat & a dog" and page.input_value("#setting-guidance_scale") == "2.5"
    assert np.array_equal(pixels(visit.board()), drawn) and "image" not in page.url
    page.click("#pictures button")
    page.wait_for_selector("#after:visible")
    page.click("#gallery-clear")
    page.click("#toast button")
    assert visit.pictures() == 1
    page.click("#gallery-clear")
    page.wait_for_timeout(200)  # for the browser's disk
    page.goto("about:blank")
    visit.open()
    assert visit.pictures() == 0 and page.input_value("#prompt") == "a pumpkin on a blue background"
    assert not np.array_equal(pixels(visit.board()), drawn)


def test_what_a_picture_offers(visit):
    """Before and after, the settings, another seed, the check, as input, and gone."""
    page = visit.page
    visit.generate()
    page.click("#compare")
    page.fill("#divider", "30")
    assert "70%" in page.evaluate("document.querySelector('#before').style.clipPath")
    page.click("#facts summary")
    page.wait_for_selector("#facts dd:has-text('0.8')")
    page.click("#replay")
    page.wait_for_selector("#status:has-text('Identical')")
    page.click("#again")
    visit.until(lambda: visit.pictures() == 2)
    visit.ended()
    assert visit.sent[0]["image"] == visit.sent[1]["image"] and visit.sent[0]["seed"] != visit.sent[1]["seed"]
    before = visit.board()
    page.click("#use")
    visit.until(lambda: visit.board() != before)
    page.click("#remove")
    assert visit.pictures() == 1


def test_a_grid_of_two_settings(visit):
    page = visit.page
    page.click("#more summary")
    page.click("#open-grid")
    page.fill("#grid-x-values", "0.5, 0.9")
    page.select_option("#grid-y", "seed")
    page.fill("#grid-y-values", "1..2")
    page.click("#grid-make:has-text('Make 4 pictures')")
    page.wait_for_selector("#grid-download:visible")
    assert {(body["strength"], body["seed"]) for body in visit.sent} == {(s, n) for s in (0.5, 0.9) for n in ("1", "2")}
    page.click("#grid-table td button >> nth=3")
    page.wait_for_selector("#after:visible")
    assert page.get_attribute("#after", "alt").endswith("seed 2") and visit.pictures() == 1
    assert page.evaluate("import('/page/grid.js').then((module) => module.SWITCHES)") == dict(settings.SWITCHES)


# For everyone


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(browser, server, scheme):
    visit = Visit(browser, f"{server.url}/", color_scheme=scheme)
    page = visit.open()
    visit.set("strength", "5")
    visit.generate()
    visit.set("strength", "0.5")
    visit.generate()
    page.click("#compare")
    page.click("[data-tool=mask]")
    for details in ("#more", "#facts"):
        page.click(f"{details} summary")
    _assert_no_violation(page)
    page.click("[data-tool=brush]")
    page.click("#open-grid")
    _assert_no_violation(page)
    visit.close()


def _assert_no_violation(page) -> None:
    violations = Axe().run(page).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in violations] == []


def test_a_phone_has_all_of_it(browser, server):
    """In the language with the longer words."""
    phone = dict(viewport=dict(width=360, height=740), has_touch=True, is_mobile=True, locale="de-DE")
    visit = Visit(browser, f"{server.url}/", **phone)
    page = visit.open()
    before = visit.board()
    page.tap("#board")
    assert visit.board() != before
    page.tap("#generate")
    page.wait_for_selector("#pictures li")
    page.tap("[data-tool=mask]")
    page.click("#more summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    visit.close()


def test_german_is_one_file(browser, server):
    visit = Visit(browser, f"{server.url}/", locale="de-AT")
    page = visit.open()
    assert page.get_attribute("html", "lang") == "de" and page.inner_text("#generate") == "Erzeugen"
    page.select_option("#language", "en")
    page.wait_for_selector("#generate:has-text('Generate')")
    english, german = (
        page.evaluate(f"import('/page/strings/{tag}.js').then((module) => module.default)") for tag in ("en", "de")
    )
    assert english.keys() <= german.keys()
    fields = re.compile(r"\{\w+\}")
    for key, text in english.items():
        assert sorted(fields.findall(text)) == sorted(fields.findall(german[key])), key
    page.reload()
    visit.started(page)
    assert page.inner_text("#generate") == "Generate"
    visit.close()


def test_a_key_is_asked_for_where_the_server_wants_one(browser, tiny_pipe):
    with running(tiny_pipe, keys=("long-secret",)) as server:
        visit = Visit(browser, f"{server.url}/")
        page = visit.page
        page.goto(visit.url)
        page.fill("#key", "a wrong one")
        page.click("#key-form .main")
        page.wait_for_selector("#key-error:has-text('does not know this key')")
        page.fill("#key", "long-secret")
        page.click("#key-form .main")
        visit.started(page)
        visit.generate()
        assert visit.pictures() == 1
        visit.close()


def test_a_key_in_the_address_is_taken_out_of_it(browser, tiny_pipe):
    """As a notebook gives it."""
    with running(tiny_pipe, keys=("long-secret",)) as server:
        visit = Visit(browser, f"{server.url}/")
        page = visit.open("#key=long-secret&prompt=a+cat")
        assert page.input_value("#prompt") == "a cat" and "secret" not in page.url
        visit.generate()
        assert visit.pictures() == 1
        page.reload()
        visit.started(page)
        assert visit.faults == []
        visit.close()


def test_a_browser_that_blocks_storage_makes_pictures(browser, server):
    visit = Visit(browser, f"{server.url}/")
    for name in ("localStorage", "sessionStorage", "indexedDB"):
        block = f"Object.defineProperty(window, '{name}', {{ get() {{ throw new DOMException('blocked'); }} }});"
        visit.page.add_init_script(block)
    page = visit.open()
    page.select_option("#language", "de")
    page.wait_for_selector("#generate:has-text('Erzeugen')")
    page.click("#theme")
    visit.generate()
    assert visit.pictures() == 1 and visit.faults == []
    visit.close()


def test_a_server_that_loads_its_model_is_waited_for(browser, server):
    """What it has when it is ready is what live goes by: before, it does not know whether it has a few-step LoRA."""
    visit = Visit(browser, f"{server.url}/")
    with server.client() as client:
        described = with_fast(client.get("/settings").json())
    described |= dict(state="starting", sizes=[])
    visit.page.route("**/settings", lambda route: route.fulfill(json=described), times=2)
    page = visit.open()
    page.wait_for_selector("#generate:disabled")
    assert page.inner_text("#status") == "The model is being loaded …"
    page.wait_for_selector("#generate:enabled")
    visit.generate()
    assert visit.pictures() == 1
    page.check("#live")
    page.wait_for_selector("#status:has-text('a second')")
    assert "fast" not in visit.sent[-1] and visit.faults == []
    visit.close()


def test_every_setting_has_a_control(visit):
    """A new row appears by itself."""
    described = json.loads(visit.page.evaluate("fetch('settings').then((answer) => answer.text())"))
    names = described["schema"]["properties"].keys() - {"image", "mask", "prompt"}
    shown = visit.page.eval_on_selector_all("[data-setting]", "nodes => nodes.map((node) => node.dataset.setting)")
    assert set(shown) == names
