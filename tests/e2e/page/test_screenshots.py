"""The command that takes pictures of the page still finds every state."""

import pytest
from tests.e2e.page.fake_service import page_service

pytestmark = pytest.mark.e2e


def test_every_state_has_a_picture(browser, tmp_path):
    from tests.e2e.page.screenshots import StandIn, take, write_files  # needs playwright, as `browser` does

    model, out = StandIn(), tmp_path / "out"
    out.mkdir()
    with page_service(classify=model.classify, explain=model.explain) as address:
        take(browser, address, write_files(tmp_path, model), out, "-dark")

    names = {"empty", "slice", "heat-map", "page", "card", "study", "several", "refusal", "error"}
    assert {path.stem for path in out.iterdir()} == {f"{name}-dark" for name in names}
    assert (out / "page-dark.png").stat().st_size < 200_000
