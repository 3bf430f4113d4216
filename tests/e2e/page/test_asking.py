"""How the page asks: with a token where one is needed, again where the service is busy, and an older service too."""

import pytest
from tests.e2e.page.fake_service import CLASSES, TOKEN, page_service, slice_file
from tests.e2e.page.looks import choose

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def closed():
    """The address of a service that asks for a token."""
    with page_service(token=TOKEN) as url:
        yield url


@pytest.fixture
def scan(tmp_path):
    return slice_file(tmp_path / "scan.png")


def enter(page, token):
    page.fill("#token", token)
    page.keyboard.press("Enter")


def busy(page, times, status=429):
    """Let the service say for so many requests that it is busy; the list grows with every request for an answer."""
    asked = []

    def answer(route):
        asked.append(route.request.url)
        if len(asked) > times:
            route.continue_()
        else:
            problem = {"error": "The service has as much to do as it can hold.", "code": "overloaded"}
            route.fulfill(status=status, headers={"Retry-After": "2"}, json=problem)

    page.route("**/predict*", answer)
    page.clock.install()  # the page's seconds pass when a test says so
    return asked


def test_a_token_is_asked_for_and_kept_for_the_visit(open_page, closed, scan):
    page = open_page(closed)
    page.wait_for_selector("#door:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "token"
    assert page.get_attribute("#token", "type") == "password"
    assert "kept in this tab until you close it" in page.inner_text("#door")

    enter(page, TOKEN)
    page.wait_for_selector(".state.ready")
    assert page.is_hidden("#door")
    choose(page, scan)

    page.reload()
    page.wait_for_selector(".state.ready")
    choose(page, scan)
    assert TOKEN not in page.content()


@pytest.mark.parametrize(
    ("token", "words"),
    [("some-other-token-0123", "does not accept"), ("two words", "one word"), ("  ", "Type the token")],
    ids=["wrong", "impossible", "blank"],
)
def test_a_token_that_does_not_fit_is_said_in_words(token, words, open_page, closed):
    page = open_page(closed)
    page.wait_for_selector("#door:not([hidden])")
    enter(page, token)
    page.wait_for_selector(f"#door-problem:text('{words}')")

    assert page.is_visible("#door")
    assert page.evaluate("document.activeElement.id") == "token"


def test_a_token_can_be_forgotten(open_page, closed, scan):
    page = open_page(closed)
    enter(page, TOKEN)
    page.wait_for_selector(".state.ready")
    choose(page, scan)
    page.click("#forget")
    page.wait_for_selector("#door:not([hidden])")

    assert page.query_selector(".verdict") is None
    assert page.evaluate("sessionStorage.length") == 0


def test_a_slice_sent_without_the_token_goes_on_when_there_is_one(open_page, closed, scan):
    page = open_page(closed)
    page.wait_for_selector("#door:not([hidden])")
    page.set_input_files("#file", scan)
    page.wait_for_selector("#busy[hidden]", state="attached")
    enter(page, TOKEN)

    page.wait_for_selector(".verdict")
    assert page.inner_text("#name") == "scan.png"


def test_what_waits_for_a_token_is_forgotten_with_the_visit(open_page, closed, scan):
    page = open_page(closed)
    page.wait_for_selector("#door:not([hidden])")
    page.set_input_files("#file", scan)
    page.wait_for_selector("#entries .own:text-is('No answer yet')")
    page.click("#clear")
    sent = []
    page.on("request", lambda request: sent.append(request.url) if "predict" in request.url else None)
    enter(page, TOKEN)

    page.wait_for_selector(".state.ready")
    page.wait_for_selector("#door[hidden]", state="attached")
    assert sent == [] and page.query_selector("#entries li") is None


def test_a_busy_service_is_asked_again_by_itself(page, scan):
    asked = busy(page, 2)
    page.set_input_files("#file", scan)
    for number in (1, 2):
        for seconds in (2, 1):
            page.wait_for_selector(f"#wait:text('Trying again in {seconds} s')")
            assert "The service is busy." in page.inner_text("#answer")
            assert len(asked) == number
            page.clock.run_for(1000)

    page.wait_for_selector(".verdict")
    assert len(asked) == 3
    assert page.is_hidden("#wait")


@pytest.mark.parametrize("status", [502, 503, 504])
def test_an_answer_that_was_lost_is_asked_for_again_by_itself(status, page, scan):
    asked = busy(page, 1, status)
    page.set_input_files("#file", scan)
    page.wait_for_selector("#wait:text('Trying again in 2 s')")
    assert "The service cannot answer at the moment." in page.inner_text("#answer")
    page.clock.run_for(2000)

    page.wait_for_selector(".verdict")
    assert len(asked) == 2


def test_another_choice_stops_the_waiting(page, scan, tmp_path):
    asked = busy(page, 1)
    page.set_input_files("#file", scan)
    page.wait_for_selector("#wait:not([hidden])")
    choose(page, slice_file(tmp_path / "later.png"))
    assert page.is_hidden("#wait")

    page.clock.run_for(10_000)
    assert page.inner_text("#name") == "later.png"
    assert len(asked) == 2


def test_a_service_that_stays_busy_is_left_alone_in_the_end(page, scan):
    asked = busy(page, 99)
    page.set_input_files("#file", scan)
    for number in range(1, 5):
        page.wait_for_selector("#wait:text('in 2 s')")
        assert len(asked) == number
        page.clock.run_for(2000)
    page.wait_for_selector("#problem:not([hidden])")

    assert "as much to do as it can hold" in page.inner_text("#problem")
    assert len(asked) == 5


def test_an_older_service_without_the_new_parts_still_answers(page, scan, tmp_path):
    old = {
        "status": "ok",
        "label": "glioma",
        "probabilities": dict(zip(CLASSES, (0.9, 0.05, 0.05), strict=True)),
        "model": {"name": "old", "hash": "0" * 64},
        "preprocessing": 1,
        "request_id": "a1",
        "notice": "Research use only; not a diagnosis.",
        "preview": "data:image/gif;base64,R0lGODlhAQABAAAAACw=",
    }
    facts = {"name": "old", "hash": "0" * 64, "classes": CLASSES, "max_bytes": 20 * 2**20}
    page.route("**/predict*", lambda route: route.fulfill(json=old))
    page.route("**/ready", lambda route: route.fulfill(json={"status": "ready"}))
    page.route("**/model", lambda route: route.fulfill(json=facts))
    page.route("**/study", lambda route: route.fulfill(status=404, json={"error": "There is nothing here."}))
    page.reload()
    page.wait_for_selector(".state.ready")

    choose(page, scan)
    assert page.inner_text(".verdict strong").lower() == "glioma"
    page.click("#look")
    page.wait_for_selector("#heat-problem:text('offers no heat map')")
    choose(page, scan, slice_file(tmp_path / "other.png"), until="#problem:not([hidden])")
    assert "one slice at a time" in page.inner_text("#problem")
