"""The interface in a browser: read and tried, with nothing from another server and under the page's own policy."""

import pytest
from tests.e2e.page.fake_service import TOKEN, page_service, slice_file

pytestmark = pytest.mark.e2e


def test_the_interface_is_read_with_its_examples_and_tried_with_the_token(open_page, tmp_path):
    with page_service(token=TOKEN) as url:
        page = open_page(url)
        assert page.get_attribute("footer a:text-is('Interface')", "target") == "_blank", "what is under way goes on"
        page.goto(f"{url}/docs")
        page.click("[id^=operations-Slices-predict] .opblock-summary-control")
        page.wait_for_selector(".is-open .highlight-code:has-text('prediction_set')")
        page.click("button.authorize:has-text('Authorize')")
        page.fill(".auth-container >> nth=0 >> input", TOKEN)
        page.click(".auth-container >> nth=0 >> button.authorize")
        page.click(".btn-done >> nth=0")
        page.click(".is-open .try-out__btn")
        page.set_input_files(".is-open input[type=file]", slice_file(tmp_path / "scan.png"))
        page.click(".is-open button.execute")

        page.wait_for_selector(".is-open .live-responses-table .response-col_status:has-text('200')")
        assert "glioma" in page.inner_text(".is-open .live-responses-table")
