"""The page in a real browser: what a researcher sees, and what is said when something is wrong."""

import os
import time
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.e2e

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM.exists():
        pytest.skip("there is no /usr/bin/chromium: the page is not tested here")
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")
    with playwright.sync_playwright() as started:
        flags = ["--no-sandbox"] if os.getuid() == 0 else []  # its sandbox refuses to run as root
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=flags)
        yield browser
        browser.close()


@pytest.fixture
def context(browser):
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture
def page(context, service):
    """The page, ready; whatever it asks of another server, or its own policy blocks, fails the test."""
    page = context.new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if "Content Security" in message.text else None)
    page.on(
        "request", lambda request: None if request.url.startswith((service.url, "data:")) else wrong.append(request.url)
    )
    page.goto(service.url)
    page.wait_for_selector(".state.ready")
    yield page
    assert wrong == []


def rows(page):
    """The probabilities as they are read: {class: text}."""
    return {
        row.query_selector("span").inner_text(): row.query_selector(".number").inner_text()
        for row in page.query_selector_all(".classes li")
    }


def percent(share):
    return "< 0.1 %" if share < 0.001 else "> 99.9 %" if share > 0.999 else f"{100 * share:.1f} %"


@pytest.mark.parametrize("index", range(4), ids=["png", "jpg", "tif", "mat"])
def test_a_chosen_slice_is_shown_with_its_probabilities(index, page, service, slices):
    page.set_input_files("#file", slices[index])
    page.wait_for_selector(".verdict")

    answer = httpx.post(f"{service.url}/predict", content=slices[index].read_bytes(), timeout=60).json()
    assert page.inner_text(".verdict strong").lower() == answer["label"]
    assert rows(page) == {label: percent(share) for label, share in answer["probabilities"].items()}
    assert page.get_attribute("#slice", "src").startswith("data:image/png;base64,")
    assert page.evaluate("document.getElementById('slice').naturalWidth") == 256
    assert answer["model"]["name"] in page.inner_text("#answer")
    assert "not a diagnosis" in page.inner_text("#answer")
    assert page.is_hidden("#problem")


def test_a_dropped_slice_is_classified(page, slices):
    content = list(slices[0].read_bytes())
    transfer = page.evaluate_handle(
        "bytes => { const t = new DataTransfer(); t.items.add(new File([new Uint8Array(bytes)], 'a.png')); return t; }",
        content,
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})

    page.wait_for_selector(".verdict")
    assert page.inner_text("#name") == "a.png"


def test_the_keyboard_alone_is_enough(page, slices):
    # Listened for from the start: Chromium hears of it some time later, and opens a dialog of its own until then.
    choosers = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    page.reload()
    page.wait_for_selector(".state.ready")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    page.keyboard.press("Space")
    deadline = time.monotonic() + 30
    while not choosers:
        assert time.monotonic() < deadline, "Space on the file input opened nothing"
        page.wait_for_timeout(50)  # lets the event in
    choosers[0].set_files(slices[0])
    page.wait_for_selector(".verdict")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "again"


def test_a_file_that_is_no_slice_is_refused_in_words(page, tmp_path):
    (tmp_path / "notes.png").write_text("hello")
    page.set_input_files("#file", tmp_path / "notes.png")
    page.wait_for_selector("#problem:not([hidden])")

    assert "PNG, JPEG, TIFF or MATLAB" in page.inner_text("#problem")
    assert "Request " in page.inner_text("#problem")
    assert rows(page) == {}
    assert page.is_hidden("#slice")


def test_a_file_that_is_too_large_is_not_even_sent(page, tmp_path):
    with (tmp_path / "volume.mat").open("wb") as file:
        file.truncate(30 * 2**20)
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    page.set_input_files("#file", tmp_path / "volume.mat")
    page.wait_for_selector("#problem:not([hidden])")

    assert "too large: 30.0 MiB, the limit is 20 MiB" in page.inner_text("#problem")
    assert not any("predict" in url for url in sent)


def test_a_server_that_is_down_is_said_in_words_and_the_next_try_works(page, context, slices):
    context.set_offline(True)
    page.set_input_files("#file", slices[0])
    page.wait_for_selector("#problem:not([hidden])")
    assert "does not answer" in page.inner_text("#problem")

    context.set_offline(False)
    page.set_input_files("#file", slices[0])
    page.wait_for_selector(".verdict")
    assert page.is_hidden("#problem")


def test_a_model_that_is_still_loading_is_said_and_then_found(context, service):
    page = context.new_page()
    left = 1

    def not_yet(route):
        nonlocal left
        if left:
            left -= 1
            route.fulfill(status=503, json={"error": "The model is still being loaded.", "code": "not_ready"})
        else:
            route.continue_()

    page.route("**/ready", not_yet)
    page.goto(service.url)
    page.wait_for_function("document.getElementById('state').textContent.includes('being loaded')")
    page.wait_for_selector(".state.ready")


def test_a_file_name_is_text_and_nothing_else(page, slices, tmp_path):
    named = tmp_path / "<img src=x onerror=document.title='bad'>.png"
    named.write_bytes(slices[0].read_bytes())
    page.set_input_files("#file", named)
    page.wait_for_selector(".verdict")

    assert page.inner_text("#name") == named.name
    assert page.query_selector("#name img") is None
    assert page.title() == "NeuralBlack"


def test_only_the_last_of_two_slices_is_shown(page, slices):
    page.set_input_files("#file", slices[0])
    page.set_input_files("#file", slices[4])
    page.wait_for_selector(".verdict")

    assert page.inner_text("#name") == slices[4].name


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_cut_off(scheme, width, browser, service, slices):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(service.url)
    page.set_input_files("#file", slices[0])
    page.wait_for_selector(".verdict")

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def contrast(one, other):
    """The contrast ratio of two CSS colours rgb(...), by WCAG 2.2."""

    def luminance(colour):
        channels = [float(value) / 255 for value in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(scheme, browser, service, slices):
    page = browser.new_page(color_scheme=scheme)
    page.goto(service.url)
    page.set_input_files("#file", slices[0])
    page.wait_for_selector(".verdict")
    texts = page.evaluate(
        """() => [...document.querySelectorAll("h1, h2, p, span, small, button, strong")]
            .filter(e => e.offsetParent && e.innerText)
            .map(e => {
              let ground = e;
              while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
              return [e.innerText, getComputedStyle(e).color, getComputedStyle(ground).backgroundColor];
            })"""
    )
    page.close()

    assert len(texts) > 12
    assert [text for text, ink, ground in texts if contrast(ink, ground) < 4.5] == []
