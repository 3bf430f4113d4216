"""The page is small, needs no other server, and a result fits on one sheet of paper."""

import re

import pytest
from tests.e2e.page.fake_service import GLIOMA, MENINGIOMA, slice_file
from tests.e2e.page.looks import choose

from neuralblack.service.pages import SCRIPTS

pytestmark = pytest.mark.e2e

MOST_BYTES = 100_000  # of all that a visit begins with, but for the pictures of the examples


def sheets(pdf):
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


def test_the_whole_page_is_small(context, address):
    page, got = context.new_page(), {}
    page.on("response", lambda response: got.setdefault(response.url.removeprefix(address), response))
    page.goto(address)
    page.wait_for_selector(".state.ready")
    page.wait_for_load_state("networkidle")
    sizes = {path: len(response.body()) for path, response in got.items() if "/examples/" not in path}

    assert {"/", "/app.js", "/style.css", "/model"} <= set(sizes)
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


def test_a_study_of_nine_slices_is_printed_on_one_sheet(page, tmp_path):
    says = [GLIOMA, MENINGIOMA] + [GLIOMA] * 7
    choose(page, *[slice_file(tmp_path / f"{number}.png", each) for number, each in enumerate(says, 1)])

    assert sheets(page.pdf(format="A4")) == 1
