"""What was asked in this visit: looked at again without asking, kept nowhere but in the page, and gone when cleared."""

import pytest
from tests.e2e.page.fake_service import MENINGIOMA, broken_file, page_service, slice_file
from tests.e2e.page.looks import choose

pytestmark = pytest.mark.e2e

KEPT = """async () => [
    localStorage.length, sessionStorage.length, document.cookie.length, (await indexedDB.databases()).length,
    (await caches.keys()).length, history.length,
]"""


@pytest.fixture
def visited(page, tmp_path):
    """A page that was asked about a glioma, a meningioma and a study."""
    files = [slice_file(tmp_path / "Jane Doe 1.png"), slice_file(tmp_path / "Jane Doe 2.png", MENINGIOMA)]
    for number, file in enumerate(files, 1):
        choose(page, file, until=f"#entries li:nth-child({number}) [aria-current]")
    choose(page, *files, until="#entries li:nth-child(3) [aria-current]")
    return page


def test_a_result_is_shown_again_without_asking(visited):
    sent = []
    visited.on("request", lambda request: None if request.url.startswith("data:") else sent.append(request.url))
    visited.click("#entries li:nth-child(2) button")

    assert visited.inner_text(".verdict strong").lower() == "meningioma"
    assert visited.inner_text("#name") == "Jane Doe 2.png"
    assert visited.is_visible("#slice") and visited.is_hidden("#study")
    visited.click("#entries li:nth-child(3) button")
    assert "over 2 slices" in visited.inner_text(".verdict")
    assert visited.is_visible("#study") and visited.is_hidden("#slice")
    assert sent == []
    visited.click("#entries li:nth-child(1) button")
    visited.check("#look")
    visited.wait_for_selector("#heat-map:not([hidden])")


def test_results_are_walked_through_by_keys(visited):
    visited.click("#entries li:nth-child(1) button")
    visited.keyboard.press("j")
    assert visited.inner_text("#name") == "Jane Doe 2.png"
    visited.keyboard.press("k")
    assert visited.inner_text("#name") == "Jane Doe 1.png"


def test_nothing_of_a_visit_is_kept_by_the_browser(page, tmp_path):
    before = page.evaluate(KEPT)
    choose(page, slice_file(tmp_path / "Jane Doe.png"))

    assert page.evaluate(KEPT) == before
    page.reload()
    page.wait_for_selector(".state.ready")
    assert page.is_hidden("#visit")
    assert "Jane" not in page.content()


def test_nothing_of_a_visit_is_sent(open_page, tmp_path):
    heard = []
    with page_service(heard=heard) as url:
        page = open_page(url)
        page.wait_for_selector(".state.ready")
        for number in (1, 2):
            file = slice_file(tmp_path / f"Jane Doe {number}.png")
            choose(page, file, until=f"#entries li:nth-child({number}) [aria-current]")
        page.click("#entries li:nth-child(1) button")
        page.click("#clear")

    assert sum(b"'path': '/predict'" in each for each in heard) == 2
    assert b"Jane" not in b"".join(heard)


def test_clearing_leaves_nothing_on_the_page(visited):
    visited.click("#clear")

    assert visited.is_hidden("#visit") and visited.is_hidden("#study") and visited.is_hidden("#slice")
    assert visited.query_selector(".verdict") is None
    assert visited.get_attribute("#slice", "src") is None
    assert "Jane" not in visited.content()
    assert visited.evaluate("document.activeElement.id") == "file"


def test_the_list_says_how_many_results_it_keeps(visited):
    assert visited.inner_text("#visit > p").startswith("The last 200 results, kept in the memory of this page until")


def test_a_slice_that_failed_is_listed_with_the_reason(page, tmp_path):
    choose(page, broken_file(tmp_path / "broken.png"), until="#problem:not([hidden])")

    assert page.inner_text("#entries .own") == "No answer"
    assert "Export it again." in page.inner_text("#entries .reason")
    assert page.is_disabled("#entries button")


def test_opening_an_older_result_ends_what_is_under_way(visited, tmp_path):
    visited.route("**/predict*", lambda route: None)
    visited.set_input_files("#file", slice_file(tmp_path / "slow.png"))
    visited.click("#entries li:nth-child(1) button")

    assert visited.is_hidden("#busy")
    assert visited.inner_text("#name") == "Jane Doe 1.png"
    assert visited.inner_text("#entries li:nth-child(4) .own") == "Stopped"
