"""The page is small, needs no other server, and a result fits on one sheet of paper."""

import re

import pytest
from tests.e2e.page.fake_service import GLIOMA, MENINGIOMA, MODEL, page_service, slice_file
from tests.e2e.page.looks import choose

from neuralblack.labels import CLASSES as LABELS
from neuralblack.service.pages import SCRIPTS
from neuralblack.service.study import MOST_SLICES

pytestmark = pytest.mark.e2e

MOST_BYTES = 100_000  # of all that a visit begins with, on its way, with the pictures of all four examples


def sheets(pdf):
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


def test_the_whole_page_is_small(context):
    page, got = context.new_page(), {}
    page.on("requestfinished", lambda request: got.setdefault(request.url.removeprefix(address), request.sizes()))
    with page_service(model=MODEL | {"classes": list(LABELS)}) as address:
        page.goto(address)
        page.wait_for_selector(".state.ready")
        page.wait_for_load_state("networkidle")

    sizes = {path: each["responseHeadersSize"] + each["responseBodySize"] for path, each in got.items()}
    assert {"/", "/app.js", "/style.css", "/model", "/examples/no-tumour.jpg", "/examples/glioma.jpg"} <= set(sizes)
    assert all(each["responseBodySize"] > 0 for each in got.values())
    assert sum(sizes.values()) < MOST_BYTES


def test_every_script_is_asked_for_at_once(page):
    preloaded = {each.get_attribute("href") for each in page.query_selector_all("link[rel=modulepreload]")}

    assert preloaded == {f"{name}.js" for name in SCRIPTS} - {"app.js"}


def test_the_page_works_where_every_other_server_is_out_of_reach(context, address, tmp_path):
    context.route(lambda url: not url.startswith((address, "data:")), lambda route: route.abort())
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(".state.ready")
    choose(page, slice_file(tmp_path / "scan.png"))
    page.check("#look")

    page.wait_for_selector("#heat-map:not([hidden])")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_result_is_printed_on_one_sheet(scheme, page, tmp_path):
    page.emulate_media(color_scheme=scheme)
    choose(page, slice_file(tmp_path / "scan.png"))
    page.check("#look")
    page.wait_for_selector("#heat-map:not([hidden])")

    for paper in ("A4", "Letter"):
        assert sheets(page.pdf(format=paper)) == 1
    page.emulate_media(color_scheme=scheme, media="print")
    ink = "getComputedStyle(document.querySelector('.verdict strong')).color"
    assert page.evaluate(ink) == "rgb(20, 32, 43)", "dark on paper, whatever is on the screen"


@pytest.mark.parametrize("slices", [9, MOST_SLICES])
def test_a_study_is_printed_on_one_sheet(slices, page, tmp_path):
    says = [GLIOMA, MENINGIOMA] + [GLIOMA] * (slices - 2)
    choose(page, *[slice_file(tmp_path / f"{number}.png", each) for number, each in enumerate(says, 1)])

    assert sheets(page.pdf(format="A4")) == 1
