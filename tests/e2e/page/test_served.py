"""The page before a whole service: Ray Serve, HAProxy, the decoders' processes, a network."""

import httpx
import pytest
from tests.e2e.page.looks import choose, percent, rows

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("index", range(4), ids=["png", "jpg", "tif", "mat"])
def test_a_chosen_slice_is_shown_with_its_probabilities(index, open_page, service, slices):
    page = open_page(service.url)
    page.wait_for_selector(".state.ready")
    choose(page, slices[index])

    answer = httpx.post(f"{service.url}/predict", content=slices[index].read_bytes(), timeout=60).json()
    assert page.inner_text(".verdict strong").lower() == answer["label"]
    assert rows(page) == {label: percent(share) for label, share in answer["probabilities"].items()}
    assert page.get_attribute("#slice", "src").startswith("data:image/png;base64,")
    assert page.evaluate("document.getElementById('slice').naturalWidth") == 256
    assert answer["model"]["name"] in page.inner_text("#answer")
    assert "not a diagnosis" in page.inner_text("#answer")
    assert page.is_hidden("#problem")
