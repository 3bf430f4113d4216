"""The model's card on the page, and the result as JSON."""

import json

import pytest
from tests.e2e.page.fake_service import ANSWERS, GLIOMA, TOKEN, page_service, slice_file
from tests.e2e.page.looks import choose

pytestmark = pytest.mark.e2e


def test_the_card_is_read_on_the_page_and_closed_by_keyboard(page):
    page.focus("#card")
    page.keyboard.press("Enter")
    page.wait_for_selector("#card-text h3:text-is('tiny-0123456789ab')")

    assert [each.inner_text() for each in page.query_selector_all("#card-text h4")] == [
        "What it is for",
        "Numbers",
        "Known limits and leaks",
    ]
    assert page.inner_text("#card-text tbody td:nth-child(2)") == "90.7%"
    assert page.inner_text("#card-text li code") == "neuralblack train"
    assert "<b>it</b>" in page.inner_text("#card-text") and page.query_selector("#card-text b") is None
    assert "library_name" not in page.inner_text("#card-text")
    page.keyboard.press("Escape")
    assert page.is_hidden("#card-dialog")
    assert page.evaluate("document.activeElement.id") == "card"


def test_the_card_of_a_closed_service_is_read_with_the_token(open_page):
    with page_service(token=TOKEN) as url:
        page = open_page(url)
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector(".state.ready")
        page.click("#card")

        page.wait_for_selector("#card-text h4:text-is('Numbers')")


def test_a_model_without_a_card_offers_none(open_page):
    with page_service(card=None) as url:
        page = open_page(url)
        page.wait_for_selector(".state.ready")

        assert page.is_hidden("#card")


def test_a_card_that_does_not_come_is_said(page, context):
    context.set_offline(True)
    page.click("#card")

    page.wait_for_selector("#card-text .wrong:text('does not answer')")


def test_a_result_is_copied_as_json_without_its_picture_and_the_page_says_so(page, context, address, tmp_path):
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
    assert page.is_hidden("#copy")
    choose(page, slice_file(tmp_path / "scan.png"))
    page.click("#copy")
    page.wait_for_selector("#copied:text-is('Copied.')")

    assert page.get_attribute("#copied", "role") == "status"
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert copied["label"] == "glioma"
    assert copied["probabilities"] == ANSWERS[GLIOMA].probabilities
    assert "preview" not in copied


def test_a_browser_that_does_not_copy_is_said(page, tmp_path):
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed')); }")
    choose(page, slice_file(tmp_path / "scan.png"))
    page.click("#copy")

    page.wait_for_selector("#copied:text('does not let this page copy')")
