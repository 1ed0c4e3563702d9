"""The viewer's page in a real browser: what is drawn, what mouse and keys do, and that nothing leaves the machine."""

import shutil
import threading
from base64 import b64decode
from io import BytesIO
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from benchmarks.synthetic_slide import TYPES, DrawnSlide
from run_utils.outputs import store
from run_utils.viewer.server import make_server
from run_utils.viewer.stored_nuclei import StoredNuclei

pytestmark = pytest.mark.browser

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SIDE = 9000
TWO_FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
SAMPLE_MS, MOST_SAMPLES = 250, 80  # the page asks for numbers 120 ms after the last movement
IS_COMPLETE = "() => document.querySelector('canvas.overlay')?.dataset.complete === 'yes'"
OVERLAY = "canvas.overlay"
SLIDE = ".openseadragon-canvas canvas:not(.overlay)"


class Viewer:
    """The page, and what the tests do with it."""

    def __init__(self, page, address):
        self.page, self.address = page, address
        self.requests, self.problems, self.num_answered = [], [], 0
        page.on("request", lambda request: self.requests.append(request.url))
        for event in ("requestfinished", "requestfailed"):
            page.on(event, self.count_answer)
        page.on(
            "console",
            lambda message: message.type in ("error", "warning") and self.problems.append(message.text),
        )
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.goto(address)
        self.settle()

    def settle(self):
        """Wait until the numbers in view, the overlay and the slide's tiles are there."""
        self.page.wait_for_load_state("networkidle")
        seen = None
        for _ in range(MOST_SAMPLES):
            self.page.wait_for_function(IS_COMPLETE)
            before, seen = seen, self.look()
            if seen == before and self.num_answered == len(self.requests):
                return
            self.page.wait_for_timeout(SAMPLE_MS)
        pytest.fail("the page does not come to rest")

    def count_answer(self, _):
        self.num_answered += 1

    def look(self):
        """Zoom and numbers in view as they are shown, and how much was asked for till then."""
        self.page.evaluate(TWO_FRAMES)  # what moves has moved on
        return [*map(self.page.inner_text, ("#zoom-text", "#view-total")), len(self.requests)]

    def zoom_in(self, steps):
        self.page.mouse.move(484, 400)
        for _ in range(steps):
            self.page.mouse.wheel(0, -120)
            self.page.wait_for_timeout(60)
        self.settle()

    def pixels(self, name=OVERLAY):
        """The (h, w, 4) uint8 pixels of a canvas, by its selector."""
        address = self.page.evaluate("name => document.querySelector(name).toDataURL('image/png')", name)
        return np.array(Image.open(BytesIO(b64decode(address.partition(",")[2]))).convert("RGBA"))

    def num_of_colour(self, index):
        pixels = self.pixels()
        is_near = np.abs(pixels[..., :3].astype(int) - TYPES[index].colour).max(2) < 12
        return int((is_near & (pixels[..., 3] > 150)).sum())

    def mode(self):
        return self.page.inner_text("#mode")

    def find_nucleus(self):
        """Move the mouse onto a contour and return where that is."""
        for y in range(250, 560, 9):
            for x in range(330, 640, 27):
                self.page.mouse.move(x, y)
                self.page.evaluate(TWO_FRAMES)
                if self.page.is_visible("#tooltip"):
                    return x, y
        pytest.fail("no nucleus under the mouse")


@pytest.fixture(scope="module")
def drawn():
    return DrawnSlide.draw(60_000, SIDE, seed=3)


@pytest.fixture(scope="module")
def address(drawn, tmp_path_factory):
    path = tmp_path_factory.mktemp("viewer") / "drawn.db"
    store.write(drawn.result(), path)
    server = make_server(drawn.slide(), StoredNuclei(path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def viewer(browser, address):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(20_000)
    viewer = Viewer(page, address)
    yield viewer
    assert viewer.problems == []
    assert {urlsplit(url).netloc for url in viewer.requests if not url.startswith("data:")} == {
        urlsplit(address).netloc
    }
    page.close()


def test_slide_numbers_and_density_are_there_after_loading(viewer, drawn):
    total = int((drawn.types > 0).sum())
    assert (viewer.pixels(SLIDE)[..., 3] == 255).mean() > 0.5  # of the stage; the slide is square
    assert viewer.mode() == "Density"
    assert viewer.page.inner_text("#slide-total") == viewer.page.inner_text("#view-total") == f"{total:,}"
    assert (viewer.pixels()[..., 3] > 20).mean() > 0.3
    assert viewer.page.inner_text("#scale-text") == "200 µm"  # 2250 µm on 800 pixels: 150 of them are 422 µm


def test_zooming_in_shows_centres_then_contours_and_fewer_in_view(viewer):
    in_view, modes = [], [viewer.mode()]
    for _ in range(3):
        viewer.zoom_in(3)
        modes.append(viewer.mode())
        in_view.append(int(viewer.page.inner_text("#view-total").replace(",", "")))
    assert in_view == sorted(in_view, reverse=True)
    assert modes[0] == "Density"
    assert "Centres" in modes
    assert modes[-1] == "Contours"
    viewer.page.keyboard.press("0")
    viewer.settle()
    assert viewer.mode() == "Density"


def test_only_the_cells_in_view_are_asked_for(viewer):
    viewer.zoom_in(10)
    cells = {url for url in viewer.requests if "/contours/" in url}
    assert 1 <= len(cells) <= 81 / 3


def test_a_type_that_is_switched_off_is_no_longer_drawn(viewer):
    viewer.zoom_in(5)
    shown = [viewer.num_of_colour(index) for index in range(1, 5)]
    present = int(np.argmax(shown)) + 1
    assert shown[present - 1] > 200
    viewer.page.get_by_role("checkbox", name=TYPES[present].name).uncheck()
    viewer.settle()
    assert viewer.num_of_colour(present) == 0
    viewer.page.keyboard.press(str(present))
    viewer.settle()
    assert viewer.num_of_colour(present) == pytest.approx(shown[present - 1], rel=0.02)


def test_opacity_and_fill_change_what_is_drawn(viewer):
    viewer.zoom_in(9)
    outlined = (viewer.pixels()[..., 3] > 0).mean()
    viewer.page.get_by_text("Fill", exact=True).click()
    viewer.settle()
    assert (viewer.pixels()[..., 3] > 0).mean() > 1.2 * outlined
    viewer.page.get_by_role("slider").fill("40")
    viewer.settle()
    assert viewer.pixels()[..., 3].max() <= 0.41 * 255
    viewer.page.keyboard.press("h")
    viewer.settle()
    assert viewer.pixels()[..., 3].max() == 0


def test_pointing_tells_the_type_and_clicking_the_measures(viewer, drawn):
    viewer.zoom_in(10)
    x, y = viewer.find_nucleus()
    tooltip = viewer.page.inner_text("#tooltip")
    name, share = tooltip.split(" · ")
    assert name in {kind.name for kind in TYPES[1:]}
    assert 60 <= int(share.rstrip(" %")) <= 80  # as drawn
    viewer.page.mouse.click(x, y)
    viewer.page.wait_for_selector("#nucleus .bars")
    text = viewer.page.inner_text("#nucleus")
    for word in (name, share, "Area", "µm²", "Perimeter", "Axes", *(kind.name for kind in TYPES)):
        assert word in text
    column, row = (
        int(part.replace(",", ""))
        for part in viewer.page.inner_text("#position").removesuffix(" px").split()[1::2]
    )
    centre = text.split("Centre (x, y)")[1].split("px")[0].split(", ")
    distance = np.hypot(int(centre[0].replace(",", "")) - column, int(centre[1].replace(",", "")) - row)
    assert distance <= drawn.pitch / 2
    viewer.page.keyboard.press("Escape")
    viewer.page.wait_for_selector("#nucleus .hint")


def test_contours_lie_on_the_nuclei_of_the_slide(viewer):
    viewer.zoom_in(11)
    viewer.page.get_by_text("Fill", exact=True).click()
    viewer.settle()
    is_filled = viewer.pixels()[..., 3] > 0
    viewer.page.keyboard.press("h")
    viewer.settle()
    shown = np.array(Image.open(BytesIO(viewer.page.locator("#slide").screenshot())).convert("RGB")).astype(
        int
    )
    is_nucleus = shown[..., 1] < 130  # painted dark on pink
    middle = (slice(130, 700), slice(70, 900))  # clear of buttons and chips
    overlap = (is_filled & is_nucleus)[middle].sum()
    assert is_nucleus[middle].sum() > 5000
    assert overlap > 0.93 * is_nucleus[middle].sum()
    assert overlap > 0.7 * is_filled[middle].sum()  # filled contours have a line's width around them


def test_keys_alone_move_zoom_and_pick_a_nucleus(viewer):
    viewer.page.locator(".openseadragon-canvas").focus()
    for _ in range(5):
        viewer.page.keyboard.press("+")
        viewer.page.wait_for_timeout(150)
    viewer.settle()
    before = viewer.page.inner_text("#zoom-text")
    viewer.page.keyboard.press("r")  # OpenSeadragon would turn the slide under its nuclei
    viewer.settle()
    assert viewer.page.inner_text("#zoom-text") == before
    viewer.zoom_in(6)
    viewer.page.locator(".openseadragon-canvas").focus()
    for _ in range(40):
        viewer.page.keyboard.press("Enter")
        viewer.page.wait_for_timeout(60)
        if viewer.page.locator("#nucleus .bars").count():
            break
        viewer.page.keyboard.press("ArrowRight")
        viewer.page.wait_for_timeout(120)
    assert viewer.page.locator("#nucleus .bars").count() == 1


def test_a_small_window_shows_slide_and_panel(viewer):
    viewer.page.set_viewport_size({"width": 560, "height": 700})
    viewer.settle()
    slide, panel = (viewer.page.locator(name).bounding_box() for name in ("#slide", ".panel"))
    assert slide["width"] == panel["width"] == 560
    assert slide["height"] > 350
    assert viewer.page.evaluate("document.documentElement.scrollWidth") <= 560


def test_a_server_that_stops_answering_is_said(viewer):
    viewer.page.route("**/counts/**", lambda route: route.fulfill(status=500, body="the slide is damaged"))
    viewer.zoom_in(2)
    viewer.page.wait_for_selector("#failure")
    assert "the slide is damaged" in viewer.page.inner_text("#failure")
    viewer.problems[:] = [text for text in viewer.problems if "500" not in text and "damaged" not in text]
