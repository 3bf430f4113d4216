"""Single keys: they are listed, they do what they say, and nobody presses one by accident."""

import pytest
from tests.e2e.page.fake_service import MENINGIOMA, slice_file
from tests.e2e.page.looks import choose, file_dialogs, first_dialog

pytestmark = pytest.mark.e2e


@pytest.fixture
def answered(page, tmp_path):
    choose(page, slice_file(tmp_path / "scan.png"))
    return page


def test_every_key_is_listed_and_no_other(page):
    listed = [each.inner_text() for each in page.query_selector_all("#keys-list li")]

    assert listed == [
        "O choose a file",
        "H heat map",
        "J next slice",
        "K previous",
        "C copy as JSON",
        "M model card",
    ]


def test_a_file_is_chosen_by_a_key(page):
    opened = file_dialogs(page)
    page.keyboard.press("o")

    assert first_dialog(page, opened).is_multiple()


def test_the_heat_map_comes_and_goes_by_a_key(answered):
    answered.keyboard.press("h")
    answered.wait_for_selector("#heat-map:not([hidden])")
    answered.keyboard.press("h")
    answered.wait_for_selector("#heat-map[hidden]", state="attached")


def test_a_study_is_walked_through_by_keys(page, tmp_path):
    choose(page, *[slice_file(tmp_path / f"{number}.png", says) for number, says in ((1, 0), (2, MENINGIOMA), (3, 0))])
    for key, name in (("j", "1.png"), ("j", "2.png"), ("j", "3.png"), ("k", "2.png")):
        page.keyboard.press(key)
        page.wait_for_selector(f"#name:text-is('{name}')")

        assert name in page.evaluate("document.activeElement.innerText")


@pytest.mark.parametrize("pressed", ["Control+h", "Alt+h", "Meta+h"])
def test_keys_of_the_browser_stay_the_browsers(pressed, answered):
    answered.keyboard.press(pressed)

    assert not answered.is_checked("#look")


def test_no_key_acts_while_a_text_is_typed(open_page, collecting, tmp_path):
    page = open_page(collecting)
    page.wait_for_selector(".state.ready")
    choose(page, slice_file(tmp_path / "scan.png"))
    page.focus("#patient")
    page.keyboard.type("mhc")

    assert page.input_value("#patient") == "mhc"
    assert not page.is_checked("#look")
    assert page.is_hidden("#card-dialog")
    assert page.inner_text("#copied") == ""


def test_keys_can_be_switched_off_and_stay_off(answered, tmp_path):
    answered.uncheck("#keys-on")
    answered.keyboard.press("h")
    assert not answered.is_checked("#look")

    answered.reload()
    answered.wait_for_selector(".state.ready")
    assert not answered.is_checked("#keys-on")
    choose(answered, slice_file(tmp_path / "scan.png"))
    answered.keyboard.press("h")
    assert not answered.is_checked("#look")

    answered.check("#keys-on")
    answered.keyboard.press("h")
    answered.wait_for_selector("#heat-map:not([hidden])")
