"""What is on the page, as it is read."""

import threading
import time

SPACE = "\N{NO-BREAK SPACE}"
CHOOSER_S = 30  # until the browser must have asked for a file


def choose(page, *files, until=".verdict"):
    """Choose files and wait for what comes of it."""
    page.set_input_files("#file", files)
    page.wait_for_selector(until)


def hold(page, after):
    """Let so many slices be answered, of those that are asked about first, and the others wait for the event."""
    let_go, asked = threading.Event(), []

    def answer(route):
        asked.append(route)
        if len(asked) <= after or let_go.is_set():
            route.continue_()

    page.route("**/predict*", answer)
    return let_go, asked


def before_facts(context, address):
    """A page whose model does not say what it is until the function is called."""
    page, held, is_over = context.new_page(), [], threading.Event()
    page.route("**/model", lambda route: route.continue_() if is_over.is_set() else held.append(route))
    page.goto(address)

    def let_go():
        is_over.set()
        for route in held:
            route.continue_()

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
