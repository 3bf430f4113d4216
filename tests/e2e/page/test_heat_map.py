"""The heat map: asked for when it is wanted, laid over the slice, and never without its sentence."""

import pytest
from tests.e2e.page.fake_service import page_service, slice_file
from tests.e2e.page.looks import choose

pytestmark = pytest.mark.e2e

NOTE = "It shows where the network looked, not where the tumour is."


def test_the_heat_map_is_laid_over_the_slice_by_keyboard_alone(page, tmp_path):
    explained = []
    page.on("request", lambda request: explained.append(request.url) if "explain" in request.url else None)
    choose(page, slice_file(tmp_path / "scan.png"))
    assert page.is_hidden("#heat-map")
    assert explained == []

    page.focus("#again")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.wait_for_selector("#heat-map:not([hidden])")
    assert page.inner_text("#heat-note") == NOTE
    assert page.evaluate("document.getElementById('heat-map').naturalWidth") == 64
    assert page.locator("#heat-map").bounding_box() == page.locator("#slice").bounding_box()

    page.keyboard.press("Tab")
    before = page.input_value("#strength")
    page.keyboard.press("ArrowRight")
    after = page.input_value("#strength")
    assert int(after) > int(before)
    assert page.get_attribute("#strength", "aria-valuetext") == page.inner_text("#strength-text") == f"{after} %"
    assert page.evaluate("getComputedStyle(document.getElementById('heat-map')).opacity") == str(int(after) / 100)

    for hidden in (True, False):
        page.click("#look")
        assert page.is_hidden("#heat-map") == page.is_hidden("#heat-note") == hidden
    assert len(explained) == 1


def test_another_slice_starts_without_a_heat_map(page, tmp_path):
    choose(page, slice_file(tmp_path / "scan.png"))
    page.check("#look")
    page.wait_for_selector("#heat-map:not([hidden])")

    page.set_input_files("#file", slice_file(tmp_path / "later.png"))
    page.wait_for_selector("#name:text('later.png')")
    page.wait_for_selector(".verdict")
    assert not page.is_checked("#look")
    assert page.is_hidden("#heat-map")


def test_a_heat_map_that_does_not_come_is_said_and_the_answer_stays(page, context, tmp_path):
    choose(page, slice_file(tmp_path / "scan.png"))
    context.set_offline(True)
    page.click("#look")
    page.wait_for_selector("#heat-problem:not(:empty)")

    assert "does not answer" in page.inner_text("#heat-problem")
    assert not page.is_checked("#look")
    assert page.inner_text(".verdict strong").lower() == "glioma"


@pytest.mark.parametrize(
    ("code", "words"),
    [("no_explanation", "This service offers no heat map."), ("unreadable", "The sentence of the service.")],
)
def test_a_refusal_of_a_heat_map_is_told_by_its_code(code, words, page, tmp_path):
    choose(page, slice_file(tmp_path / "scan.png"))
    refusal = {"error": "The sentence of the service.", "code": code, "request_id": "q1"}
    page.route("**/predict*", lambda route: route.fulfill(status=422, json=refusal))
    page.click("#look")

    page.wait_for_selector(f"#heat-problem:text-is('{words}')")


def test_a_model_that_cannot_say_where_it_looked_offers_no_heat_map(open_page, tmp_path):
    with page_service(explain=None) as url:
        page = open_page(url)
        page.wait_for_selector(".state.ready")
        choose(page, slice_file(tmp_path / "scan.png"))

        assert page.is_hidden("#heat")
