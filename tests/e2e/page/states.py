"""Every state of the page, one after another: pictures are taken of them, and tests ask whether all can use them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.page.fake_service import SIZE, TOKEN, collecting_service, page_service
from tests.e2e.page.looks import choose, hold

if TYPE_CHECKING:  # the tests that need it are skipped where it is not installed
    from playwright.sync_api import Page


@dataclass(frozen=True)
class Addresses:
    """Where the app answers everybody, keeps feedback besides, wants a token, and judges marked tumours."""

    plain: str
    collecting: str
    closed: str
    marking: str


@dataclass(frozen=True)
class Files:
    """What is chosen: a slice with an answer, three or more of a study, one with none, one unmarked, and no slice."""

    slice: Path
    study: list[Path]
    refused: Path
    unmarked: Path
    broken: Path


@contextmanager
def services(folder: Path, *, size: int = SIZE, **options: object) -> Iterator[Addresses]:
    """Serve the apps, with `options` of `build_app`; feedback on slices of `size` pixels is kept in a folder."""
    with ExitStack() as stack:
        plain = stack.enter_context(page_service(**options))
        collecting = stack.enter_context(collecting_service(folder, size=size, **options))
        closed = stack.enter_context(page_service(token=TOKEN, **options))
        marking = stack.enter_context(page_service(mark=lambda slice_, box: slice_, **options))
        yield Addresses(plain, collecting, closed, marking)


def states(page: "Page", at: Addresses, files: Files) -> Iterator[str]:
    """Lead a page through its states; yields each one's name."""
    page.goto(at.plain)
    page.wait_for_selector(".state.ready")
    page.wait_for_load_state("networkidle")
    yield "empty"
    choose(page, files.slice)
    yield "slice"
    page.check("#look")
    page.wait_for_selector("#heat-map:not([hidden])")
    yield "heat-map"
    page.click("#card")
    page.wait_for_selector("#card-text h4")
    yield "card"
    page.click("#card-close")
    choose(page, files.refused, until=".reasons")
    yield "refusal"
    choose(page, *files.study, until="#slices li")
    page.click("#slices li:nth-child(3) button")
    page.wait_for_selector("#slice:not([hidden])")
    yield "study"
    page.uncheck("#together")
    every = [*files.study, files.slice, files.refused, files.broken]
    let_go, _ = hold(page, after=2)
    page.set_input_files("#file", every)
    page.wait_for_selector(f"#progress-words:text-is('2 of {len(every)}')")
    yield "under-way"
    let_go()
    page.wait_for_selector("#progress-words:text('slices read')")
    page.unroute("**/predict*")
    yield "several"
    choose(page, files.broken, until="#problem:not([hidden])")
    yield "error"
    page.goto(at.collecting)
    page.wait_for_selector(".state.ready")
    choose(page, files.slice)
    page.select_option("#label", "glioma")
    page.click("#feedback button")
    page.wait_for_selector("#reader-field:not([hidden])")
    yield "feedback"
    page.goto(at.marking)
    page.wait_for_selector(".state.ready")
    choose(page, files.unmarked)
    side = page.evaluate("document.getElementById('slice').naturalWidth")
    for edge, share in (("left", 0.48), ("top", 0.34), ("right", 0.6), ("bottom", 0.46)):
        page.fill(f"#mark-{edge}", str(round(share * side)))
    page.wait_for_selector("#marked:not([hidden])")
    yield "mark"
    page.goto(at.closed)
    page.wait_for_selector("#door:not([hidden])")
    page.fill("#token", "two words")
    page.keyboard.press("Enter")
    page.wait_for_selector("#door-problem:not(:empty)")
    yield "token"
