"""The page before a whole service: Ray Serve, HAProxy, the decoders' processes, a network."""

import httpx
import pytest
from tests.e2e.page.looks import choose, percent, rows
from tests.medical_files import dicom_bytes, nifti_bytes

from neuralblack.registry.aliases import resolve

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def scans(slices, tmp_path_factory):
    """A slice in each format: {suffix: path}."""
    folder = tmp_path_factory.mktemp("scans")
    (folder / "scan.dcm").write_bytes(dicom_bytes())
    (folder / "scan.nii.gz").write_bytes(nifti_bytes(zipped=True))
    return {path.suffix: path for path in slices[:4]} | {".dcm": folder / "scan.dcm", ".nii.gz": folder / "scan.nii.gz"}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".mat", ".dcm", ".nii.gz"])
def test_a_chosen_slice_is_shown_with_its_probabilities(suffix, open_page, service, scans):
    page = open_page(service.url)
    page.wait_for_selector(".state.ready")
    choose(page, scans[suffix])

    answer = httpx.post(f"{service.url}/predict", content=scans[suffix].read_bytes(), timeout=60).json()
    assert page.inner_text(".verdict strong").lower() == answer["label"]
    assert rows(page) == {label: percent(share) for label, share in answer["probabilities"].items()}
    assert page.get_attribute("#slice", "src").startswith("data:image/png;base64,")
    assert page.evaluate("document.getElementById('slice').naturalWidth") == 256
    assert answer["model"]["name"] in page.inner_text("#answer")
    assert "not a diagnosis" in page.inner_text("#answer")
    assert page.is_hidden("#problem")


def test_the_card_that_the_champion_was_promoted_with_is_read_on_the_page(open_page, service, registry):
    champion = resolve(registry, "champion").id
    written = (registry / "evaluations" / champion / "README.md").read_text()
    page = open_page(service.url)
    page.click("#card")
    page.wait_for_selector(f"#card-text h3:text-is('{champion}')")

    assert httpx.get(f"{service.url}/card", timeout=60).text == written
    headings = [line.removeprefix("## ") for line in written.splitlines() if line.startswith("## ")]
    assert [each.inner_text() for each in page.query_selector_all("#card-text h4")] == headings
    shown = page.inner_text("#card-text")
    (accuracy,) = (line for line in written.splitlines() if line.startswith("| accuracy |"))
    assert "\t".join(cell.strip() for cell in accuracy.strip("|").split("|")) in shown
    assert not set("*|#`") & set(shown), "Markdown that the page does not know"
