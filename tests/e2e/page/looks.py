"""What is on the page, as it is read."""

SPACE = "\N{NO-BREAK SPACE}"


def choose(page, *files, until=".verdict"):
    """Choose files and wait for what comes of it."""
    page.set_input_files("#file", files)
    page.wait_for_selector(until)


def rows(page):
    """The probabilities: {class: text}."""
    return {
        row.query_selector("span").inner_text(): row.query_selector(".number").inner_text()
        for row in page.query_selector_all(".classes li")
    }


def percent(share):
    if 0.001 <= share <= 0.999:
        return f"{100 * share:.1f}{SPACE}%"
    return f"<{SPACE}0.1{SPACE}%" if share < 0.001 else f">{SPACE}99.9{SPACE}%"


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
