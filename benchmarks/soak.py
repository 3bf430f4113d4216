"""The long versions of the tests, as a report: what each promises, how it ended, and how long it took.

python -m benchmarks.soak
"""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from xml.etree import ElementTree

import pytest
import typer
from benchmarks.machine import foot

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "docs" / "benchmarks" / "soak.md"
COLOUR = re.compile(r"#x1B\[[0-9;]*m")  # as pytest writes a terminal's into XML


def main(
    only: Annotated[str, typer.Option("-k", help="As pytest's -k: only tests whose names fit.")] = "",
    out: Annotated[Path, typer.Option(help="The report.")] = REPORT,
) -> None:
    """Run the tests of mark `soak`, print what pytest prints, write the report, and end as pytest does."""
    if only and out == REPORT:
        raise typer.BadParameter("some of the tests are no report of all: give --out, too")
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        words = [sys.executable, "-m", "pytest", "-m", "soak", f"--junitxml={results}", *(["-k", only] if only else [])]
        status = subprocess.run(words, cwd=ROOT).returncode
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            raise typer.Exit(status)  # pytest has said why
        out.write_text("\n".join([*report(ElementTree.parse(results)), *foot("benchmarks.soak")]))
    print(f"written: {out}")
    raise typer.Exit(status)


def report(results: ElementTree.ElementTree) -> Iterator[str]:
    """Say what pytest's junit file holds, test by test in the order of the files."""
    cases = list(results.iter("testcase"))
    ends = [_end(case) for case in cases]
    counted = Counter(end.partition(":")[0] for end in ends)
    yield from ("# The long versions of the tests", "")
    yield ", ".join(f"{count} {end}" for end, count in counted.most_common()) + " of `pytest -m soak`."
    file = ""
    for case, end in zip(cases, ends, strict=True):
        where = case.attrib["classname"].replace(".", "/") + ".py"
        if where != file:
            file = where
            yield from ("", f"## {file}", "", "| what holds | | s |", "|---|---|---|")
        name, _, parameters = case.attrib["name"].removeprefix("test_").removesuffix("]").partition("[")
        route = case.find("properties/property[@name='route']")  # tests/conftest.py keeps it
        parameters = parameters or ("" if route is None else route.attrib["value"])
        said = name.replace("_", " ") + (f" (`{parameters}`)" if parameters else "")
        yield f"| {said} | {end} | {float(case.attrib['time']):.0f} |"


def _end(case: ElementTree.Element) -> str:
    """Say how a test ended; why, where it did not pass."""
    for kind, word in (("error", "failed"), ("failure", "failed"), ("skipped", "skipped")):
        found = case.find(kind)
        if found is not None:
            (first, *_) = found.attrib.get("message", "").splitlines() or [""]
            return f"{word}: {COLOUR.sub('', first)}".replace("|", "/")
    return "passed"


if __name__ == "__main__":
    typer.run(main)
