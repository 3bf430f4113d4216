"""A real browser, and the page in it, ready and watched."""

import os
from pathlib import Path

import pytest
from tests.e2e.page.fake_service import collecting_service, page_service

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")  # not longer: an event loop runs in this thread as long as it is there
def browser():
    if not CHROMIUM.exists():
        pytest.skip("there is no /usr/bin/chromium: the page is not tested here")
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")
    with playwright.sync_playwright() as started:
        flags = ["--no-sandbox"] if os.getuid() == 0 else []  # its sandbox refuses to run as root
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def address():
    """Where the real app answers, over quick fakes."""
    with page_service() as url:
        yield url


@pytest.fixture
def folder(tmp_path):
    """Where a service keeps feedback."""
    (tmp_path / "kept").mkdir()
    return tmp_path / "kept"


@pytest.fixture
def collecting(folder):
    """Where the same app answers, and keeps feedback of one reader."""
    with collecting_service(folder) as url:
        yield url


@pytest.fixture
def context(browser):
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture
def open_page(context):
    """Open the page at an address; what it asks of another server, its policy blocks or it throws fails the test."""
    wrong = []

    def listen(message):
        # The browser itself notes every answer above 399; those are the tests' business.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            wrong.append(message.text)

    def open_at(url):
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", listen)
        page.on("request", lambda each: None if each.url.startswith((url, "data:")) else wrong.append(each.url))
        page.goto(url)
        return page

    yield open_at
    assert wrong == []


@pytest.fixture
def page(open_page, address):
    page = open_page(address)
    page.wait_for_selector(".state.ready")
    return page
