"""A model that is shown marked tumours: the box is drawn on the page, or typed, and the slice is asked about again."""

import re

import numpy as np
import pytest
from tests.e2e.page.fake_service import MENINGIOMA, SIZE, TOKEN, UNMARKED, page_service, slice_file
from tests.e2e.page.looks import before_facts, choose, hold

pytestmark = pytest.mark.e2e

JUDGED = re.compile(r"/predict\?box=")


@pytest.fixture(scope="module")
def marks():
    """Every box that the service was sent."""
    return []


@pytest.fixture(scope="module")
def address(marks):
    def mark(slice_: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
        marks.append(box)
        answered = slice_.copy()
        answered[0, 0] = MENINGIOMA
        return answered

    with page_service(mark=mark) as address:
        yield address


@pytest.fixture
def unmarked(page, tmp_path):
    choose(page, slice_file(tmp_path / "scan.png", UNMARKED))
    page.wait_for_selector("#mark")
    return page


def stroke(page, start, end):
    """Draw from one place of the slice to another, in shares of its side."""
    page.locator("#slice").scroll_into_view_if_needed()
    place = page.query_selector("#slice").bounding_box()
    points = [(place["x"] + x * place["width"], place["y"] + y * place["height"]) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=5)
    page.mouse.up()


def edges(page):
    return [int(page.input_value(f"#mark-{edge}")) for edge in ("left", "top", "right", "bottom")]


def test_without_a_box_the_page_asks_for_one(unmarked):
    assert unmarked.inner_text(".verdict strong") == "No answer"
    assert "Draw a box around it" in unmarked.inner_text("#mark")
    assert unmarked.is_hidden("#marked")


def test_a_box_is_drawn_and_the_tumour_judged(unmarked, marks):
    opened = []
    unmarked.on("filechooser", lambda chooser: opened.append(chooser))
    stroke(unmarked, (0.75, 0.5), (0.25, 0.125))

    assert edges(unmarked) == [SIZE // 4, SIZE // 8, SIZE * 3 // 4, SIZE // 2]
    assert unmarked.is_visible("#marked") and not opened
    unmarked.click("#mark button")
    unmarked.wait_for_selector(".verdict strong:text-is('meningioma')")
    assert marks[-1] == (SIZE // 4, SIZE // 8, SIZE * 3 // 4, SIZE // 2)
    assert unmarked.is_visible("#slice") and unmarked.is_visible("#marked")


def test_a_box_can_be_typed_and_is_drawn_as_typed(unmarked, marks):
    for edge, value in (("left", 10), ("top", 20), ("right", 30), ("bottom", 44)):
        unmarked.fill(f"#mark-{edge}", str(value))
    box, place = (unmarked.query_selector(name).bounding_box() for name in ("#marked", "#slice"))
    scale = place["width"] / SIZE

    assert box["x"] - place["x"] == pytest.approx(10 * scale, abs=1.5)
    assert box["height"] == pytest.approx(24 * scale, abs=3)
    unmarked.keyboard.press("Enter")
    unmarked.wait_for_selector(".verdict strong:text-is('meningioma')")
    assert marks[-1] == (10, 20, 30, 44)


def test_an_empty_box_is_not_sent(unmarked, marks):
    before = len(marks)
    for edge, value in (("left", 30), ("top", 20), ("right", 30), ("bottom", 44)):
        unmarked.fill(f"#mark-{edge}", str(value))
    unmarked.click("#mark button")

    assert "right edge must lie right" in unmarked.inner_text("#mark-said")
    assert len(marks) == before


def test_the_heat_map_is_of_the_marked_tumour(unmarked, marks):
    stroke(unmarked, (0.25, 0.25), (0.5, 0.5))
    unmarked.click("#mark button")
    unmarked.wait_for_selector("#look")
    before = len(marks)
    unmarked.check("#look")
    unmarked.wait_for_selector("#heat-map")

    assert marks[before:] == [(SIZE // 4, SIZE // 4, SIZE // 2, SIZE // 2)]


def test_several_files_are_taken_each_by_itself_and_each_gets_its_box(page, tmp_path):
    assert page.is_hidden("#together") and page.is_hidden("#together-note")
    assert page.inner_text("#several") == "Several are taken each by itself"
    page.set_input_files("#file", [slice_file(tmp_path / f"{number}.png", UNMARKED) for number in (1, 2)])
    page.wait_for_selector("#progress-words:text-is('2 of 2 slices read.')")

    assert page.is_hidden("#study")
    for number in (1, 2):
        page.click(f"#entries li:nth-child({number}) button")
        assert page.inner_text("#name") == f"{number}.png" and page.is_visible("#mark")


def test_several_files_before_the_models_facts_wait_for_them_and_are_taken_each_by_itself(context, address, tmp_path):
    page, let_go = before_facts(context, address)
    sent = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    page.set_input_files("#file", [slice_file(tmp_path / f"{number}.png", UNMARKED) for number in (1, 2)])
    page.wait_for_selector("#answer:has-text('Waiting for the model')")
    assert sent == []
    let_go()
    page.wait_for_selector("#progress-words:text-is('2 of 2 slices read.')")

    assert page.locator("#entries .file").all_inner_texts() == ["1.png", "2.png"]
    assert page.locator("#entries .index").all_inner_texts() == ["1", "2"]
    page.wait_for_selector("#mark:not([hidden])")


def test_several_files_that_waited_for_the_token_are_taken_each_by_itself_behind_it(open_page, tmp_path):
    files = [slice_file(tmp_path / f"{number}.png", UNMARKED) for number in (1, 2)]
    with page_service(mark=lambda slice_, box: slice_, token=TOKEN) as url:
        page = open_page(url)
        page.wait_for_selector("#door:not([hidden])")
        page.set_input_files("#file", files)
        page.wait_for_selector("#entries .own:text-is('No answer yet')")
        page.fill("#token", TOKEN)
        page.press("#token", "Enter")
        page.wait_for_selector("#progress-words:text-is('2 of 2 slices read.')")
        assert page.locator("#entries .file").all_inner_texts() == ["1.png", "2.png"]
        page.wait_for_selector("#mark:not([hidden])")


def test_a_judgement_that_fails_leaves_the_answer_before_and_the_slice_while_others_come(page, tmp_path):
    let_go, _ = hold(page, after=1)
    page.set_input_files("#file", [slice_file(tmp_path / f"{number}.png", UNMARKED) for number in (1, 2, 3)])
    page.wait_for_selector("#progress-words:text-is('1 of 3')")
    page.wait_for_selector("#mark")
    name = page.inner_text("#name")
    page.route(JUDGED, lambda route: route.fulfill(status=418))
    stroke(page, (0.25, 0.25), (0.5, 0.5))
    page.click("#mark button")
    page.wait_for_selector("#problem:has-text('status 418')")
    let_go()
    page.wait_for_selector("#progress-words:text-is('3 of 3 slices read.')")

    assert page.inner_text("#name") == name and page.is_visible("#problem")
    assert page.inner_text(".verdict strong") == "No answer"
    assert edges(page) == [SIZE // 4, SIZE // 4, SIZE // 2, SIZE // 2]
    assert "Judging" not in page.inner_text("main")


@pytest.mark.parametrize("way", ["drawn", "typed"])
def test_another_box_takes_the_answer_and_the_heat_map_of_the_old_one_away(way, unmarked):
    stroke(unmarked, (0.25, 0.25), (0.5, 0.5))
    unmarked.click("#mark button")
    unmarked.wait_for_selector(".verdict strong:text-is('meningioma')")
    unmarked.check("#look")
    unmarked.wait_for_selector("#heat-map:not([hidden])")
    if way == "drawn":
        stroke(unmarked, (0.5, 0.5), (0.75, 0.75))
    else:
        unmarked.fill("#mark-right", "40")

    assert unmarked.inner_text("#answer") == "The box has changed. Judge it."
    assert unmarked.is_hidden("#heat-map") and unmarked.is_hidden("#heat") and unmarked.is_hidden("#take")
    unmarked.click("#mark button")
    unmarked.wait_for_selector(".verdict strong:text-is('meningioma')")


def test_a_box_that_changes_while_it_is_judged_gets_no_answer_of_the_old_one(unmarked):
    hold(unmarked, 0, JUDGED)
    stroke(unmarked, (0.25, 0.25), (0.5, 0.5))
    unmarked.click("#mark button")
    unmarked.wait_for_selector("#mark-said:text-is('Judging the tumour…')")
    with unmarked.expect_event("requestfailed"):
        unmarked.fill("#mark-left", "10")

    assert unmarked.inner_text("#answer") == "The box has changed. Judge it."
    assert unmarked.inner_text("#mark-said") == "" and unmarked.is_hidden("#busy")


def test_a_box_that_is_gone_is_not_judged_when_a_token_comes(open_page, tmp_path):
    with page_service(mark=lambda slice_, box: slice_, token=TOKEN) as url:
        page = open_page(url)
        page.fill("#token", TOKEN)
        page.press("#token", "Enter")
        page.wait_for_selector(".state.ready")
        choose(page, slice_file(tmp_path / "scan.png", UNMARKED))
        page.route(JUDGED, lambda route: route.fulfill(status=401))
        stroke(page, (0.25, 0.25), (0.5, 0.5))
        page.click("#mark button")
        page.wait_for_selector("#door:not([hidden])")
        page.fill("#mark-left", "10")
        judged = []
        page.on("request", lambda request: judged.append(request.url) if JUDGED.search(request.url) else None)
        page.fill("#token", TOKEN)
        page.press("#token", "Enter")
        page.wait_for_selector("#door", state="hidden")

        assert page.inner_text("#answer") == "The box has changed. Judge it."
        assert judged == []


def test_an_older_result_is_shown_with_the_box_that_was_judged(unmarked, tmp_path):
    stroke(unmarked, (0.25, 0.25), (0.5, 0.5))
    unmarked.click("#mark button")
    unmarked.wait_for_selector(".verdict strong:text-is('meningioma')")
    unmarked.fill("#mark-left", "10")
    unmarked.click("#entries li:nth-child(1) button")

    assert unmarked.inner_text(".verdict strong").lower() == "meningioma"
    assert edges(unmarked) == [SIZE // 4, SIZE // 4, SIZE // 2, SIZE // 2] and unmarked.is_visible("#marked")


def test_another_slice_begins_without_a_box(unmarked, tmp_path):
    stroke(unmarked, (0.25, 0.25), (0.5, 0.5))
    unmarked.set_input_files("#file", slice_file(tmp_path / "other.png", UNMARKED))
    unmarked.wait_for_selector("#name:text-is('other.png')")
    unmarked.wait_for_selector("#mark")

    assert unmarked.is_hidden("#marked")
    assert unmarked.input_value("#mark-left") == ""


def test_an_answer_before_the_models_facts_can_be_marked_with_them(context, address, tmp_path):
    page, let_go = before_facts(context, address)
    choose(page, slice_file(tmp_path / "unmarked.png", UNMARKED), until=".reasons")
    assert page.is_hidden("#mark")
    let_go()

    page.wait_for_selector("#mark:not([hidden])")
