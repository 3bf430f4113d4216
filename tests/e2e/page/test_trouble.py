"""When something is wrong the page says what to do, whoever it was that refused."""

import pytest
from tests.e2e.page.fake_service import REFUSED, UNMARKED, broken_file, page_service, slice_file
from tests.e2e.page.looks import choose

pytestmark = pytest.mark.e2e

PROXY = "<html>not one of ours</html>"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (413, "Send one slice, not a volume."),
        (429, "Try again in a minute."),
        (502, "Try again in a minute, or tell who runs it."),
        (503, "Try again in a minute, or tell who runs it."),
        (504, "Try again in a minute, or tell who runs it."),
        (418, "status 418 and no reason. Try again later."),
    ],
)
def test_an_answer_of_a_proxy_says_what_to_do(status, words, page, tmp_path):
    page.route("**/predict*", lambda route: route.fulfill(status=status, body=PROXY, content_type="text/html"))
    choose(page, slice_file(tmp_path / "scan.png"), until="#problem:not([hidden])")

    assert words in page.inner_text("#problem")
    assert "html" not in page.inner_text("#problem")


def test_a_service_that_fails_says_what_to_do_and_names_the_request(page, open_page, tmp_path):
    async def classify(slice_):
        raise RuntimeError("a fault of ours")

    with page_service(classify=classify) as url:
        failing = open_page(url)
        failing.wait_for_selector(".state.ready")
        choose(failing, slice_file(tmp_path / "scan.png"), until="#problem:not([hidden])")

        assert "Try once more, or tell who runs it the request's id." in failing.inner_text("#problem")
        assert "Request " in failing.inner_text("#problem small")


def test_a_service_with_too_much_to_do_says_when_to_come_back(page, tmp_path):
    busy = {"error": "The service has as much to do as it can hold. Send the request again in a moment."}
    page.route("**/predict*", lambda route: route.fulfill(status=429, headers={"Retry-After": "3600"}, json=busy))
    choose(page, slice_file(tmp_path / "scan.png"), until="#problem:not([hidden])")

    assert "again in a moment" in page.inner_text("#problem")


def test_a_file_that_is_gone_is_not_called_a_server_that_is(page, tmp_path):
    scan = slice_file(tmp_path / "scan.png")
    choose(page, scan)
    scan.unlink()
    page.click("#look")

    page.wait_for_selector("#heat-problem:text('Choose it again')")


def test_a_folder_that_is_dropped_says_what_to_do(page, tmp_path):
    folder = tmp_path / "Jane Doe"
    folder.mkdir()
    slice_file(folder / "scan.png")
    place = page.locator("#drop").bounding_box()
    browser = page.context.new_cdp_session(page)  # a script cannot drop a folder
    data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": place["x"] + 50, "y": place["y"] + 50, "data": data}
        browser.send("Input.dispatchDragEvent", event)
    page.wait_for_selector("#problem:has-text('This is a folder. Open it, and drop the files in it.')")

    assert page.query_selector("#entries li") is None


def test_an_empty_file_says_what_to_do(page, tmp_path):
    (tmp_path / "empty.png").touch()
    choose(page, tmp_path / "empty.png", until="#problem:not([hidden])")

    assert "is empty. Export it again." in page.inner_text("#problem")


def test_a_refusal_says_which_slice_would_fit(page, tmp_path):
    choose(page, slice_file(tmp_path / "cat.png", REFUSED), until=".reasons")
    assert "Choose one slice that fits" in page.inner_text(".advice")

    choose(page, slice_file(tmp_path / "unmarked.png", UNMARKED), until="#name:text-is('unmarked.png')")
    page.wait_for_selector(".reasons:has-text('Draw one')")
    assert page.query_selector(".advice") is None


def test_an_unreadable_file_is_told_in_the_words_of_the_page(page, tmp_path):
    choose(page, broken_file(tmp_path / "half.png"), until="#problem:not([hidden])")

    assert "This file cannot be read: found half a file, expected one slice. Export it again." in page.inner_text(
        "#problem"
    )
    assert page.is_hidden("#again") and page.is_visible(".invitation .button"), "one button to choose another, not two"
    assert page.query_selector("#problem button") is None, "to try the same again would not help"


def test_what_may_be_well_later_is_tried_again_with_one_click(page, tmp_path):
    page.route("**/predict*", lambda route: route.fulfill(status=502, body=PROXY))
    choose(page, slice_file(tmp_path / "scan.png"), until="#problem:not([hidden])")
    page.unroute("**/predict*")
    page.click("#problem button:text-is('Try again')")
    page.wait_for_selector(".verdict")

    assert page.is_hidden("#problem") and page.inner_text("#entries .own").startswith("glioma")


def test_a_server_that_takes_the_first_question_and_never_answers_is_asked_again(context, open_page, address):
    context.add_init_script(
        "const timeout = AbortSignal.timeout.bind(AbortSignal); AbortSignal.timeout = (ms) => timeout(ms / 50);"
    )
    asked = []

    def answer(route):
        asked.append(route)
        if len(asked) > 1:
            route.continue_()

    context.route("**/ready", answer)
    page = open_page(address)

    page.wait_for_selector("#state:text-is('The server does not answer')")
    page.wait_for_selector("#state.ready")


def test_a_server_that_went_is_not_called_ready_and_is_found_again(page, context, tmp_path):
    context.set_offline(True)
    choose(page, slice_file(tmp_path / "scan.png"), until="#problem:not([hidden])")
    page.wait_for_selector("#state:not(.ready):text-is('The server does not answer')")
    context.set_offline(False)

    page.wait_for_selector("#state.ready")
    page.click("#problem button:text-is('Try again')")
    page.wait_for_selector(".verdict")
