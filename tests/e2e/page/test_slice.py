"""One slice on the page: what a researcher sees of it, and what is said when something is wrong."""

import pytest
from tests.e2e.page.fake_service import (
    ANSWERS,
    GLIOMA,
    MENINGIOMA,
    MODEL,
    PLAIN,
    REFUSED,
    UNSURE,
    page_service,
    slice_file,
)
from tests.e2e.page.looks import SPACE, before_facts, choose, drop, file_dialogs, first_dialog, percent, rows

pytestmark = pytest.mark.e2e


@pytest.fixture
def scan(tmp_path):
    return slice_file(tmp_path / "scan.png")


def test_a_slice_is_shown_with_its_probabilities(page, scan):
    choose(page, scan)

    assert page.inner_text(".verdict strong").lower() == "glioma"
    assert rows(page) == {label: percent(share) for label, share in ANSWERS[GLIOMA].probabilities.items()}
    assert rows(page)["pituitary"] == f"under 1{SPACE}%"
    assert page.evaluate("document.getElementById('slice').naturalWidth") == 64
    assert page.is_hidden("#problem")


def test_a_dropped_slice_is_classified(page, scan):
    drop(page, [scan])

    page.wait_for_selector(".verdict")
    assert page.inner_text("#name") == "scan.png"


def test_the_keyboard_alone_is_enough(page, scan):
    opened = file_dialogs(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    page.keyboard.press("Space")
    first_dialog(page, opened).set_files(scan)
    page.wait_for_selector(".verdict")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "again"


def test_a_refusal_is_said_in_words_and_is_no_error(page, tmp_path):
    choose(page, slice_file(tmp_path / "cat.png", REFUSED))

    assert page.inner_text(".verdict strong") == "No answer"
    sentences = [each.inner_text() for each in page.query_selector_all(".reasons li")]
    assert sentences == [reason.sentence for reason in ANSWERS[REFUSED].reasons]
    assert rows(page) == {}
    assert page.is_visible("#slice")
    assert page.is_hidden("#problem")
    assert page.is_hidden("#heat")


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (GLIOMA, ["Not ruled out: glioma or meningioma", "meant to hold the true class in 9 of 10"]),
        (MENINGIOMA, ["Not ruled out: meningioma", "Over all slices of new patients", "in 99 of 100"]),
        (UNSURE, ["Not ruled out: glioma, meningioma or pituitary", "all that the model knows: it cannot tell"]),
    ],
    ids=["two", "one", "all"],
)
def test_what_cannot_be_ruled_out_is_named_and_how_often_that_holds(says, words, page, tmp_path):
    choose(page, slice_file(tmp_path / "scan.png", says))

    for each in words:
        assert each in page.inner_text(".certainty").replace(SPACE, " ")


def test_a_model_that_is_not_calibrated_promises_nothing(page, tmp_path):
    choose(page, slice_file(tmp_path / "scan.png", PLAIN))

    assert page.query_selector(".certainty") is None
    assert "certainty" not in page.inner_text("#answer")


def test_a_file_that_is_no_slice_is_refused_in_words(page, tmp_path):
    (tmp_path / "notes.png").write_text("hello")
    choose(page, tmp_path / "notes.png", until="#problem:not([hidden])")

    assert "PNG, JPEG, TIFF" in page.inner_text("#problem")
    assert "Request " in page.inner_text("#problem")
    assert rows(page) == {}
    assert page.is_hidden("#slice")


def test_a_file_that_is_too_large_is_not_even_sent(page, tmp_path):
    with (tmp_path / "volume.mat").open("wb") as file:
        file.truncate(30 * 2**20)
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    choose(page, tmp_path / "volume.mat", until="#problem:not([hidden])")

    assert "too large: 30 MiB, the limit is 20 MiB" in page.inner_text("#problem")
    assert not any("predict" in url for url in sent)


def test_a_server_that_is_down_is_said_in_words_and_the_next_try_works(page, context, scan):
    context.set_offline(True)
    choose(page, scan, until="#problem:not([hidden])")
    assert "does not answer" in page.inner_text("#problem")

    context.set_offline(False)
    choose(page, scan)
    assert page.is_hidden("#problem")


def test_a_model_that_is_still_loading_is_said_and_then_found(context, address):
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
    page.goto(address)
    page.wait_for_selector("#state:text('being loaded')")
    page.wait_for_selector(".state.ready")


def test_a_file_name_is_text_and_nothing_else(page, tmp_path):
    named = slice_file(tmp_path / "<img src=x onerror=document.title='bad'>.png")
    choose(page, named)

    assert page.inner_text("#name") == named.name
    assert page.query_selector("#name img") is None
    assert page.title() == "NeuralBlack"


def test_only_the_last_of_two_slices_is_shown(page, scan, tmp_path):
    page.set_input_files("#file", scan)
    choose(page, slice_file(tmp_path / "later.png"))

    assert page.inner_text("#name") == "later.png"


def test_formats_are_named_as_the_service_names_them(page, open_page):
    assert page.inner_text("#kinds") == "PNG, JPEG, TIFF, MATLAB v7.3, DICOM, NIfTI"

    with page_service(model=MODEL | {"formats": ["PNG", "GIF"]}) as url:
        other = open_page(url)
        other.wait_for_selector(".state.ready")
        assert other.inner_text("#kinds") == "PNG, GIF"


def test_an_answer_before_the_models_facts_gets_its_feedback_form_with_them(context, collecting, scan):
    page, let_go = before_facts(context, collecting)
    choose(page, scan)
    assert page.is_hidden("#feedback")
    let_go()

    page.wait_for_selector("#feedback:not([hidden])")
    assert page.is_visible(".verdict") and "glioma" in page.inner_text("#label")
