"""Several slices that are not of one patient: each is asked about by itself, and the list fills while they come."""

import pytest
from tests.e2e.page.fake_service import GLIOMA, MENINGIOMA, REFUSED, TOKEN, broken_file, page_service, slice_file
from tests.e2e.page.looks import before_facts, choose, drop, hold, percent

pytestmark = pytest.mark.e2e


@pytest.fixture
def files(tmp_path):
    """Twelve slices: the second is a meningioma, the third refused, the fourth broken, the others gliomas."""
    says = dict.fromkeys(range(1, 13), GLIOMA) | {2: MENINGIOMA, 3: REFUSED}
    files = [slice_file(tmp_path / f"{number}.png", each) for number, each in says.items()]
    broken_file(files[3])
    return files


@pytest.fixture
def apart(page):
    """The page, which takes several files one by one."""
    page.uncheck("#together")
    return page


def lines(page):
    return [line.inner_text().split("\n")[1:] for line in page.query_selector_all("#entries .line")]


def test_more_files_than_the_list_holds_are_refused_before_one_is_sent(apart):
    sent = []
    apart.on("request", lambda request: sent.append(request.url))
    many = [{"name": f"{index}.png", "mimeType": "image/png", "buffer": b"a"} for index in range(201)]
    apart.set_input_files("#file", many)
    apart.wait_for_selector("#problem:has-text('201 files; at most 200 at once')")

    assert sent == [] and lines(apart) == []


def test_an_older_result_can_be_looked_at_before_the_first_answer_of_several(apart, files):
    choose(apart, files[1])
    let_go, _ = hold(apart, 0)
    drop(apart, files[4:7])
    apart.wait_for_selector("#progress-words:text-is('0 of 3')")
    apart.click("#entries li:nth-child(1) button")

    assert apart.inner_text(".verdict strong").lower() == "meningioma"
    assert apart.is_hidden("#busy")
    let_go()
    apart.wait_for_selector("#progress-words:text-is('3 of 3 slices read.')")


def test_a_slice_of_an_older_study_can_be_looked_at_while_several_come(page, files):
    choose(page, *files[4:6], until="#entries li:nth-child(1) [aria-current]")
    page.uncheck("#together")
    let_go, asked = hold(page, 0)
    drop(page, files[6:9])
    page.wait_for_selector("#progress-words:text-is('0 of 3')")
    page.click("#entries li:nth-child(1) button")
    page.click("#slices button >> nth=1")
    while len(asked) < 4:
        page.wait_for_timeout(50)
    let_go()

    page.wait_for_selector("#progress-words:text-is('3 of 3 slices read.')")
    page.wait_for_selector("#slice:not([hidden])")
    assert page.inner_text("#name") == files[5].name
    assert [line[1] for line in lines(page)[1:]] == [f"glioma, {percent(0.91)}"] * 3


def test_each_slice_gets_its_own_answer_and_one_that_fails_stops_no_other(apart, files):
    drop(apart, reversed(files))
    apart.wait_for_selector("#progress-words:text-is('11 of 12 slices read.')")

    found = lines(apart)
    assert [each[0] for each in found] == [f"{number}.png" for number in range(1, 13)]
    assert found[0][1:] == [f"glioma, {percent(0.91)}"]
    assert found[1][1:] == [f"meningioma, {percent(0.75)}"]
    assert found[2][1] == "No answer" and "has colours" in found[2][2]
    assert found[3][1] == "No answer" and "Export it again" in found[3][2]
    assert all(each[1].startswith("glioma") for each in found[4:])
    assert apart.is_hidden("#problem") and apart.is_hidden("#study") and apart.is_hidden("#cancel")


def test_how_far_it_is_stands_beside_a_bar_and_the_first_answer_is_shown_meanwhile(apart, files):
    let_go, _ = hold(apart, after=3)
    apart.set_input_files("#file", files)
    apart.wait_for_selector("#progress-words:text-is('3 of 12')")

    assert apart.get_attribute("#progress-words", "role") == "status"
    assert apart.evaluate("document.getElementById('progress-bar').value") == 3
    assert apart.is_visible(".verdict") and apart.is_hidden("#busy")
    other = apart.query_selector_all("#entries button:not(:disabled, [aria-current])")[0]
    other.click()
    name = other.query_selector(".file").inner_text()
    assert apart.inner_text("#name") == name
    assert apart.inner_text("#progress-words") == "3 of 12"
    let_go()
    apart.wait_for_selector("#progress-words:text-is('11 of 12 slices read.')")
    assert apart.inner_text("#name") == name


@pytest.mark.parametrize("way", ["button", "key"])
def test_what_is_left_can_be_stopped_and_what_is_there_stays(way, apart, files):
    hold(apart, after=2)
    apart.set_input_files("#file", files)
    apart.wait_for_selector("#progress-words:text-is('2 of 12')")
    if way == "button":
        apart.click("#cancel")
    else:
        apart.keyboard.press("Escape")
    apart.wait_for_selector("#progress-words:text-is('Stopped.')")

    assert [each[1] for each in lines(apart)].count("Stopped") == 10
    assert apart.evaluate("document.activeElement.id") == "file"
    assert apart.is_visible(".verdict")
    apart.click("#entries button:not(:disabled)")
    assert apart.is_visible(".verdict")


def test_a_study_can_be_stopped_too(page, files):
    page.route("**/study", lambda route: None)
    page.set_input_files("#file", files)
    page.click("#cancel")
    page.wait_for_selector("#progress-words:text-is('Stopped.')")

    assert lines(page) == [["Study of 12 slices", "Stopped"]]
    assert page.is_hidden("#busy")


def test_several_files_before_the_models_facts_are_a_study_with_them(context, address, files):
    page, let_go = before_facts(context, address)
    page.set_input_files("#file", files[4:7])
    page.wait_for_selector("#answer:has-text('Waiting for the model')")
    let_go()
    page.wait_for_selector("#slices li")

    assert [line[0] for line in lines(page)] == ["Study of 3 slices"]


def test_slices_that_a_server_lost_get_their_answers_with_one_click_and_the_others_are_not_asked_again(apart, files):
    sent = []

    def answer(route):
        sent.append(route.request.post_data_buffer)
        if len(sent) == 1:
            route.continue_()
        else:
            route.fulfill(status=502, body="gone")

    apart.route("**/predict*", answer)
    drop(apart, files[4:8])
    apart.wait_for_selector("#progress-words:text-is('1 of 4 slices read.')")
    apart.wait_for_selector("#state:not(.ready)")  # a proxy answers for a server that is gone
    apart.click("#entries button:not(:disabled)")
    apart.click("#retry:text-is('Ask about 3 again')")
    apart.wait_for_selector("#retry:text-is('Ask about 3 again')")
    assert apart.is_visible(".verdict"), "what is answered is shown, although the others were lost again"
    apart.unroute("**/predict*")
    again = []
    apart.on("request", lambda request: again.append(request.url) if "/predict" in request.url else None)
    apart.click("#retry")
    apart.wait_for_selector("#progress-words:text-is('4 of 4 slices read.')")

    assert apart.is_hidden("#retry") and len(again) == 3
    assert [line[1] for line in lines(apart)] == [f"glioma, {percent(0.91)}"] * 4


def test_a_slice_of_an_older_study_leaves_the_offer_to_ask_again(page, files):
    choose(page, *files[4:6], until="#entries li:nth-child(1) [aria-current]")
    page.uncheck("#together")
    page.route("**/predict*", lambda route: route.fulfill(status=502, body="gone"))
    drop(page, files[6:8])
    page.wait_for_selector("#retry:text-is('Ask about 2 again')")
    page.unroute("**/predict*")
    page.click("#entries li:nth-child(1) button")
    page.click("#slices button >> nth=1")
    page.wait_for_selector("#slice:not([hidden])")
    page.click("#retry:text-is('Ask about 2 again')")

    page.wait_for_selector("#progress-words:text-is('2 of 2 slices read.')")


def test_files_of_which_none_can_be_read_say_so(apart, tmp_path):
    apart.set_input_files("#file", [broken_file(tmp_path / f"{number}.png") for number in (1, 2)])
    apart.wait_for_selector("#answer:has-text('None of these slices has an answer')")

    assert apart.inner_text("#progress-words") == "0 of 2 slices read."


def test_slices_sent_without_the_token_go_on_when_there_is_one(open_page, files):
    with page_service(token=TOKEN) as url:
        page = open_page(url)
        page.wait_for_selector("#door:not([hidden])")
        page.uncheck("#together")
        page.set_input_files("#file", files)
        page.wait_for_selector("#progress[hidden]", state="attached")
        page.fill("#token", TOKEN)
        page.press("#token", "Enter")
        page.wait_for_selector("#progress-words:text-is('11 of 12 slices read.')")

    assert len(lines(page)) == 12


def test_the_switch_decides_what_several_files_are(page, files):
    sent = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    choose(page, *files[:2])
    assert [url.rpartition("/")[2] for url in sent] == ["study"]

    page.uncheck("#together")
    choose(page, *files[:2], until="#progress-words:text-is('2 of 2 slices read.')")
    assert [url.rpartition("/")[2] for url in sent[1:]] == ["predict?preview=true"] * 2
