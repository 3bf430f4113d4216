"""A reader says on the page what a slice is; the page says whether the service keeps such slices."""

import os

import pytest
from tests.e2e.page.fake_service import PLAIN, SIZE, UNSURE, slice_file
from tests.e2e.page.looks import choose, hold
from tests.service import READER_TOKEN

from neuralblack.data.feedback import list_feedback, read_feedback

pytestmark = pytest.mark.e2e


@pytest.fixture
def page_with_slice(open_page, collecting, tmp_path):
    page = open_page(collecting)
    page.wait_for_selector(".state.ready")
    choose(page, slice_file(tmp_path / "Jane Doe.png"))
    return page


def send(page, label="meningioma", patient="p1"):
    page.select_option("#label", label)
    page.fill("#patient", patient)
    page.click("#feedback button")


def said(page, words):
    page.wait_for_function("words => document.getElementById('feedback-said').textContent.includes(words)", arg=words)


def test_a_reader_says_what_a_slice_is_and_it_is_kept(page_with_slice, folder):
    page = page_with_slice
    assert page.input_value("#label") == ""  # nothing is suggested
    send(page)
    said(page, "Only a reader may say")
    assert page.evaluate("document.activeElement.id") == "reader"

    page.fill("#reader", READER_TOKEN)
    page.keyboard.press("Enter")
    said(page, "Kept as meningioma.")

    assert page.is_hidden("#reader-field")
    feedback, pixels = read_feedback(*list_feedback(folder))
    assert (feedback.reader, feedback.label, feedback.answer.label) == ("anna", "meningioma", "glioma")
    assert pixels.shape == (SIZE, SIZE)


def test_the_same_again_is_kept_once_and_another_class_besides(page_with_slice, folder):
    page = page_with_slice
    send(page)
    said(page, "Only a reader")
    page.fill("#reader", READER_TOKEN)
    for label, count in (("glioma", 1), ("glioma", 1), ("pituitary", 2)):
        send(page, label)
        said(page, f"Kept as {label}")
        assert len(list_feedback(folder)) == count


def test_a_failure_is_told_of_the_slice_that_it_is_of(page_with_slice, tmp_path):
    page = page_with_slice
    _, asked = hold(page, 0, "**/feedback")
    send(page)
    choose(page, slice_file(tmp_path / "other.png"), until="#name:text-is('other.png')")
    page.wait_for_selector("#feedback")
    assert page.is_enabled("#feedback button")
    asked[0].fulfill(status=507, json={"error": "There is no room to keep it."})
    page.wait_for_selector("#problem:has-text('Feedback on Jane Doe.png: There is no room to keep it.')")

    assert page.inner_text("#feedback-said") == ""


def test_a_busy_service_is_not_told_of_another_slice(page_with_slice, tmp_path):
    page = page_with_slice
    asked = []
    page.route("**/feedback", lambda route: asked.append(route))
    page.clock.install()
    send(page)
    choose(page, slice_file(tmp_path / "other.png"), until="#name:text-is('other.png')")
    page.wait_for_selector("#feedback")
    asked[0].fulfill(status=429, headers={"Retry-After": "2"}, json={"error": "The service is busy."})
    while len(asked) < 2:
        page.clock.run_for(1000)
        assert page.inner_text("#feedback-said") == ""


def test_feedback_under_way_ends_with_the_visit_and_nothing_is_told_of_it(page_with_slice):
    page = page_with_slice
    hold(page, 0, "**/feedback")
    send(page)
    said(page, "Sending…")
    with page.expect_event("requestfailed"):
        page.click("#clear")

    assert page.is_hidden("#problem") and "Jane" not in page.content()


def test_two_files_of_one_name_size_and_time_are_both_kept(page_with_slice, folder, tmp_path):
    page = page_with_slice
    send(page)
    said(page, "Only a reader")
    page.fill("#reader", READER_TOKEN)
    for number, (series, says) in enumerate({"a": UNSURE, "b": PLAIN}.items(), 1):  # whose files are of one size
        (tmp_path / series).mkdir()
        file = slice_file(tmp_path / series / "IM0001.png", says)
        os.utime(file, (0, 0))
        choose(page, file, until=f"#entries li:nth-child({number + 1}) [aria-current]")
        page.wait_for_selector("#feedback")
        send(page)
        page.wait_for_selector("#feedback-said:not(:text-is('Sending…')):not(:empty)")
        assert "Kept as meningioma" in page.inner_text("#feedback-said")
        assert len(list_feedback(folder)) == number


@pytest.mark.parametrize("way", ["#clear", "#forget"])
def test_who_comes_next_gives_feedback_under_no_other_name(way, page_with_slice, folder, tmp_path):
    page = page_with_slice
    assert page.is_hidden("#forget")
    send(page)
    said(page, "Only a reader")
    page.fill("#reader", READER_TOKEN)
    send(page)
    said(page, "Kept as meningioma")
    assert page.is_visible("#forget")

    page.click(way)
    page.wait_for_selector("#forget", state="hidden")
    assert page.input_value("#reader") == "" and page.is_hidden("#reader-field")
    page.wait_for_selector(".state.ready")
    choose(page, slice_file(tmp_path / "next.png"))
    send(page)
    said(page, "Only a reader")
    assert len(list_feedback(folder)) == 1


def test_of_a_made_up_slice_nothing_is_asked(page_with_slice):
    assert page_with_slice.is_visible("#feedback")
    page_with_slice.click(".example")
    page_with_slice.wait_for_selector("#entries li:nth-child(2) [aria-current]")

    assert page_with_slice.is_hidden("#feedback")


def test_the_patient_who_was_named_is_not_that_of_another_slice(page_with_slice, tmp_path):
    page = page_with_slice
    page.fill("#patient", "p1")
    choose(page, slice_file(tmp_path / "other.png"), until="#name:text-is('other.png')")
    page.wait_for_selector("#feedback")
    assert page.input_value("#patient") == ""

    page.fill("#patient", "p2")
    page.click("#entries li:nth-child(1) button")
    assert page.input_value("#patient") == ""
    page.fill("#patient", "p1")
    page.click("#clear")
    assert page.input_value("#patient") == ""


def test_the_patient_is_named_once_for_a_study(page_with_slice, tmp_path):
    page = page_with_slice
    choose(page, *[slice_file(tmp_path / f"{number}.png") for number in (1, 2)], until="#slices button")
    page.click("#slices button >> nth=0")
    page.wait_for_selector("#feedback")
    assert page.input_value("#patient") == ""
    page.fill("#patient", "p1")
    page.click("#slices button >> nth=1")
    page.wait_for_selector("#name:text-is('2.png')")
    page.wait_for_selector("#feedback")
    assert page.input_value("#patient") == "p1"

    page.click("#entries li:nth-child(1) button")
    page.click("#entries li:nth-child(2) button")
    page.click("#slices button >> nth=0")
    page.wait_for_selector("#feedback")
    assert page.input_value("#patient") == ""


def test_without_a_class_nothing_is_sent(page_with_slice, folder):
    page_with_slice.click("#feedback button")

    said(page_with_slice, "Choose the class first.")
    assert list_feedback(folder) == []


def test_the_page_says_whether_slices_are_kept(page, page_with_slice, tmp_path):
    choose(page, slice_file(tmp_path / "scan.png"))

    assert page.inner_text("#keeping") == (
        "Slices are read in memory, classified and forgotten. Their file names never leave this page."
    )
    assert page.is_hidden("#feedback")
    assert "but for those that a reader sends feedback on" in page_with_slice.inner_text("#keeping")
    assert page_with_slice.is_visible("#feedback")
