"""How sure the model is: in words, in whole percents, and never beyond what it can know."""

import pytest
from tests.e2e.page.fake_service import CLASSES, PLAIN, slice_file
from tests.e2e.page.looks import SPACE, choose, rows

pytestmark = pytest.mark.e2e


@pytest.fixture
def answered(page, tmp_path):
    """Let a calibrated model say glioma with a given probability."""

    def answer(share):
        def say(route):
            body = route.fetch().json()
            rest = (1 - share) / 2
            route.fulfill(json=body | {"probabilities": dict(zip(CLASSES, (share, rest, rest), strict=True))})

        page.route("**/predict*", say)
        choose(page, slice_file(tmp_path / "scan.png"), until=".likelihood")
        return page

    return answer


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.9999999, "Very likely: of 100 such answers on slices like those it learnt from, over 99 are right."),
        (0.896, "Very likely: of 100 such answers on slices like those it learnt from, about 90 are right."),
        (0.894, "Likely: of 100 such answers on slices like those it learnt from, about 89 are right."),
        (0.66, "Likely: of 100 such answers on slices like those it learnt from, about 66 are right."),
        (0.51, "More likely than not: of 100 such answers on slices like those it learnt from, about 51 are right."),
        (0.5, "Unsure: of 100 such answers on slices like those it learnt from, about 50 are right."),
    ],
)
def test_a_word_and_a_frequency_say_how_sure_the_model_is(share, words, answered):
    assert answered(share).inner_text(".likelihood") == words


@pytest.mark.parametrize(
    ("share", "shown"),
    [(1.0, "over 99"), (0.991, "over 99"), (0.99, "99"), (0.505, "51"), (0.34, "34")],
)
def test_probabilities_are_whole_percents(share, shown, answered):
    assert rows(answered(share))["glioma"] == f"{shown}{SPACE}%"


def test_nothing_is_ever_certain(answered):
    page = answered(1.0)

    assert rows(page) == {"glioma": f"over 99{SPACE}%", **dict.fromkeys(CLASSES[1:], f"under 1{SPACE}%")}
    for never in (f"100{SPACE}%", f" 0{SPACE}%", "100%"):
        assert never not in page.inner_text("#answer")


def test_a_model_that_is_not_calibrated_gets_no_word(page, tmp_path):
    choose(page, slice_file(tmp_path / "scan.png", PLAIN))

    assert page.query_selector(".likelihood") is None
