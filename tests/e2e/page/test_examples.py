"""The made-up slices of the page: said to be so, and tried by one click or key."""

import pytest
from tests.e2e.page.fake_service import CLASSES, MODEL, page_service

from neuralblack.labels import CLASSES as ALL_CLASSES
from neuralblack.service.example_slices import EXAMPLES, SIZE

pytestmark = pytest.mark.e2e


def shown(page):
    return [each.get_attribute("data-label") for each in page.query_selector_all(".example") if each.is_visible()]


def test_one_key_on_an_example_asks_about_it(page):
    page.focus(".example[data-label='pituitary']")
    page.keyboard.press("Enter")
    page.wait_for_selector(".verdict")

    assert page.inner_text("#name") == "made-up pituitary.jpg"
    assert page.evaluate("document.getElementById('slice').naturalWidth") == SIZE
    assert page.inner_text("#entries .file") == "made-up pituitary.jpg"


def test_examples_are_said_to_be_made_up(page):
    words = page.inner_text("#examples").lower()  # the heading is in capitals

    assert "made-up" in words
    assert "not how good the model is" in words


def test_only_examples_of_the_models_classes_are_offered(page, open_page):
    assert shown(page) == CLASSES

    with page_service(model=MODEL | {"classes": list(ALL_CLASSES)}) as url:
        other = open_page(url)
        other.wait_for_selector(".state.ready")
        assert set(shown(other)) == set(ALL_CLASSES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_pictures_of_the_examples_are_there(name, page):
    page.wait_for_selector(".example")
    loads = "name => { const image = new Image(); image.src = `examples/${name}.jpg`; return image.decode(); }"
    page.evaluate(loads, name)

    assert EXAMPLES[name][0] == name.replace("-", " ")
    assert page.query_selector(f".example img[src='examples/{name}.jpg']")


def test_an_example_that_does_not_come_is_said(page, context):
    context.set_offline(True)
    page.click(".example")

    page.wait_for_selector("#problem:has-text('does not answer')")
