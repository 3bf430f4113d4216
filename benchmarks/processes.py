"""What a service's processes cost: CPU and memory of all of them, found by a mark in their environment.

A mark and not the parents: Ray's and HAProxy's processes outlive theirs, and a decoder leads a session of its own.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

MARK = "NEURALBLACK_BENCHMARK"  # its value is the service's
TICKS = os.sysconf("SC_CLK_TCK")


def marked(mark: str) -> list[int]:
    """List the processes that were started with this mark, their children's children included."""
    wanted, found = f"{MARK}={mark}\0".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if wanted in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue  # it ended, or is somebody else's
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """Add up the user and system time of processes, in seconds; what has ended is not in it."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])  # utime, stime: fields 14 and 15 of proc(5)
    return total / TICKS


def memory_mib(pid: int) -> tuple[float, float]:
    """Read a process's RSS and PSS (its own pages and its share of shared ones) in MiB; zeros where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    return sizes.get("Rss", 0) / 1024, sizes.get("Pss", 0) / 1024


def role(pid: int) -> str:
    """Say what a service's process is, from its command line."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "ended"
    roles = {
        "ServeReplica": "replica",
        "decoder_worker": "decoder",
        "haproxy": "HAProxy" if "HAProxyManager" not in line else "Serve's controller and proxy",
        "ServeController": "Serve's controller and proxy",
        "ProxyActor": "Serve's controller and proxy",
        "HAProxyManager": "Serve's controller and proxy",
        "gcs_server": "Ray",
        "raylet": "Ray",
        "ray::": "Ray",
        "/ray/": "Ray",
    }
    return next((name for word, name in roles.items() if word in line), "the command")


def pause(pids: Iterable[int]) -> None:
    """Stop processes where they are; they keep their memory and take no CPU."""
    _send(pids, signal.SIGSTOP)


def resume(pids: Iterable[int]) -> None:
    """Let paused processes go on."""
    _send(pids, signal.SIGCONT)


def kill(pids: Iterable[int]) -> None:
    """End processes at once."""
    _send(pids, signal.SIGKILL)


def _send(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def cores_used(pids: list[int], *, seconds: float) -> float:
    """Measure how many cores processes keep busy."""
    before, start = cpu_s(pids), time.monotonic()
    time.sleep(seconds)
    return (cpu_s(pids) - before) / (time.monotonic() - start)


def await_quiet(used: Callable[[], float], *, below: float, deadline_s: float) -> bool:
    """Wait until `used` (in cores) stays below a limit twice running; False where it does not within the deadline.

    A client that stops leaves its last requests behind: uvicorn and LitServe finish them, in the next row's time.
    """
    end, calm = time.monotonic() + deadline_s, 0
    while calm < 2:
        calm = calm + 1 if used() < below else 0
        if time.monotonic() > end:
            return False
    return True
