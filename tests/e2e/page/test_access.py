"""The page for everybody: every state can be read, reached and named, on a phone, in the dark, in little data."""

from importlib import resources

import pytest
from tests.e2e.page.fake_service import MENINGIOMA, REFUSED, UNMARKED, broken_file, slice_file
from tests.e2e.page.states import Files, services, states

from neuralblack.service.pages import PAGE

pytestmark = pytest.mark.e2e

FILES = resources.files("neuralblack.service") / "page"

TEXTS = """() => [
      ...document.querySelectorAll(`h1, h2, h3, h4, p, span, small, button, strong, label, output, li, summary, select,
        a, kbd, td, th, code`)]
    .filter(e => e.offsetParent && e.innerText)
    .map(e => {
      let ground = e;
      while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
      return [e.innerText, getComputedStyle(e).color, getComputedStyle(ground).backgroundColor];
    })"""
CONTROLS = """[...document.querySelectorAll("input, button, select, a[href]")]
    .filter(e => e.checkVisibility() && !e.disabled)"""
FAULTS = """() => {
    const seen = [...document.querySelectorAll("input, button, select, a")].filter(e => e.offsetParent);
    const named = e => e.innerText?.trim() || e.labels?.length || e.getAttribute("aria-label");
    const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
    const points = [...document.querySelectorAll("[aria-labelledby], [aria-describedby]")]
      .flatMap(e => [e.getAttribute("aria-labelledby"), e.getAttribute("aria-describedby")])
      .flatMap(each => each?.split(" ") ?? []);
    const box = e => (e.closest("label") ?? e).getBoundingClientRect();
    return [
      ...seen.filter(e => !named(e)).map(e => `no name: ${e.outerHTML}`),
      ...seen.filter(e => box(e).height < 24 || box(e).width < 24).map(e => `too small: ${e.outerHTML}`),
      ...[...document.images].filter(e => !e.hasAttribute("alt")).map(e => `no alt: ${e.outerHTML}`),
      ...ids.filter((id, index) => ids.indexOf(id) !== index).map(id => `twice: ${id}`),
      ...points.filter(id => !document.getElementById(id)).map(id => `points nowhere: ${id}`),
      ...[...document.querySelectorAll("[tabindex]")].filter(e => e.tabIndex > 0).map(e => `order: ${e.outerHTML}`),
    ];
}"""


def contrast(one, other):
    """The contrast ratio of two CSS colours rgb(...), by WCAG 2.2."""

    def luminance(colour):
        channels = [float(value) / 255 for value in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.fixture(scope="module")
def every_state(tmp_path_factory):
    """Lead a page through its states; yields each one's name."""
    folder = tmp_path_factory.mktemp("states")
    scan = slice_file(folder / "a rather long name of a file that somebody exported from a viewer.png")
    cat, other, broken = (folder / name for name in ("cat.png", "other.png", "broken.png"))
    study = [scan, slice_file(cat, REFUSED), slice_file(other, MENINGIOMA), broken_file(broken)]
    files = Files(scan, study, cat, slice_file(folder / "unmarked.png", UNMARKED), broken)
    (folder / "kept").mkdir()
    with services(folder / "kept") as addresses:
        yield lambda page: states(page, addresses, files)


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_cut_off(width, browser, every_state):
    page = browser.new_page(viewport={"width": width, "height": 800})
    too_wide = [name for name in every_state(page) if page.evaluate("document.documentElement.scrollWidth") > width]
    page.close()

    assert too_wide == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(scheme, browser, every_state):
    page = browser.new_page(color_scheme=scheme, reduced_motion="reduce")  # no colour on its way to another
    faint, count = [], 0
    for name in every_state(page):
        texts = page.evaluate(TEXTS)
        count += len(texts)
        faint += [(name, text) for text, ink, ground in texts if contrast(ink, ground) < 4.5]
    page.close()

    assert count > 12 * 9
    assert faint == []


def test_every_control_has_a_name_a_size_and_its_place(browser, every_state):
    page = browser.new_page()
    faults = [(name, fault) for name in every_state(page) for fault in page.evaluate(FAULTS)]
    page.close()

    assert faults == []


def test_the_tab_key_reaches_every_control_in_the_order_of_the_page(browser, every_state):
    page = browser.new_page()
    for name in every_state(page):
        if name in ("card", "under-way"):
            continue  # a dialog keeps the key to itself; what is under way comes and goes
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        wanted, reached = page.evaluate(f"{CONTROLS}.length"), []
        for _ in range(wanted + 1):
            page.keyboard.press("Tab")
            reached.append(page.evaluate(f"{CONTROLS}.indexOf(document.activeElement)"))

        reached.remove(-1)  # between the last and the first the key leaves the page
        assert sorted(reached) == list(range(wanted)), name
        turn = reached.index(0)
        assert reached[turn:] + reached[:turn] == list(range(wanted)), name
    page.close()


def test_who_wants_no_motion_sees_none(browser, address):
    page = browser.new_page(reduced_motion="reduce")
    page.goto(address)

    assert page.evaluate("getComputedStyle(document.getElementById('drop')).transitionDuration") == "0s"
    page.close()


def test_all_files_of_the_page_are_served_and_small_together():
    files = {file.name: file.read_bytes() for file in FILES.iterdir() if file.is_file()}

    assert set(files) == {name for name, _ in PAGE.values()}
    assert sum(map(len, files.values())) < 100_000


@pytest.mark.parametrize("name", sorted(name for name, _ in PAGE.values() if name.endswith(".js")))
def test_no_script_makes_markup_of_a_text_or_knows_another_server(name):
    script = (FILES / name).read_text()

    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "://"):
        assert word not in script
