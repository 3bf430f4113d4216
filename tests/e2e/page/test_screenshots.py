"""The command that takes pictures of the page still finds every state."""

import pytest

pytestmark = pytest.mark.e2e


def test_every_state_has_a_picture(browser, tmp_path):
    from tests.e2e.page.screenshots import SIZE, StandIn, take, write_files  # need playwright, as `browser` does
    from tests.e2e.page.states import services

    model, out = StandIn(), tmp_path / "out"
    out.mkdir()
    with services(tmp_path, classify=model.classify, explain=model.explain, size=SIZE) as addresses:
        take(browser, addresses, write_files(tmp_path, model), out, "-dark")

    names = {"empty", "slice", "heat-map", "page", "card", "refusal", "study", "under-way", "several", "error"}
    names |= {"feedback", "mark", "token"}
    assert {path.stem for path in out.iterdir()} == {f"{name}-dark" for name in names}
    assert (out / "page-dark.png").stat().st_size < 200_000
