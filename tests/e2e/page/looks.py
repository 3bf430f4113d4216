"""What is on the page, as it is read."""

import threading
import time

SPACE = "\N{NO-BREAK SPACE}"
CHOOSER_S = 30  # until the browser must have asked for a file


def choose(page, *files, until=".verdict"):
    """Choose files and wait for what comes of it."""
    page.set_input_files("#file", files)
    page.wait_for_selector(until)


def hold(page, after, pattern="**/predict*"):
    """Let so many requests be answered; the function that lets the others go, and all that have come."""
    asked, is_over = [], threading.Event()

    def answer(route):
        asked.append(route)
        if len(asked) <= after or is_over.is_set():
            route.continue_()

    def let_go():
        is_over.set()
        for route in asked[after:]:
            route.continue_()

    page.route(pattern, answer)
    return let_go, asked


def before_facts(context, address):
    """A page whose model does not say what it is until the function is called."""
    page = context.new_page()
    let_go, _ = hold(page, 0, "**/model")
    page.goto(address)
    return page, let_go


def rows(page):
    """The probabilities: {class: text}."""
    return {
        row.query_selector("span").inner_text(): row.query_selector(".number").inner_text()
        for row in page.query_selector_all(".classes li")
    }


def percent(share):
    """As the page writes a probability."""
    if share > 0.99:
        return f"over 99{SPACE}%"
    return f"under 1{SPACE}%" if share < 0.01 else f"{int(100 * share + 0.5)}{SPACE}%"


def file_dialogs(page):
    """Load the page again and collect the dialogs for files that it opens.

    Listened for from the start: Chromium hears of it some time later, and opens a dialog of its own until then.
    """
    opened = []
    page.on("filechooser", lambda chooser: opened.append(chooser))
    page.reload()
    page.wait_for_selector(".state.ready")
    return opened


def first_dialog(page, opened):
    """Wait for the first of `file_dialogs`."""
    deadline = time.monotonic() + CHOOSER_S
    while not opened:
        assert time.monotonic() < deadline, "no dialog was opened"
        page.wait_for_timeout(50)  # lets the event in
    return opened[0]


def drop(page, files):
    """Drop files onto the page."""
    transfer = page.evaluate_handle(
        """files => {
            const transfer = new DataTransfer();
            for (const [name, bytes] of files) transfer.items.add(new File([new Uint8Array(bytes)], name));
            return transfer;
        }""",
        [[file.name, list(file.read_bytes())] for file in files],
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
