"""Closed-loop load by wrk: N clients, each sending its next request when it has its answer.

wrk costs 10 to 50 µs of CPU a request, a Python client ten times that, on the cores that the service needs.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neuralblack.errors import InputError

PATIENCE_S = 60  # wrk's own 2 s would count a slow service's queue as errors
SCRIPT = """
-- Post each of the files in turn; say the results as one line of JSON. What wrk counts is every whole response,
-- and in errors.status those of status 400 or more: no hook on responses, which would cost more than the request.
local bodies, at = {}, 0
function init(args)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = args[1]
  wrk.headers["Authorization"] = "Bearer " .. args[2]
  for i = 3, #args do
    local file = assert(io.open(args[i], "rb"))
    bodies[#bodies + 1] = wrk.format(nil, nil, nil, file:read("*all"))
    file:close()
  end
end
function request()
  at = at % #bodies + 1
  return bodies[at]
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nRESULT {"requests": %d, "duration_us": %d, "p50_us": %.1f, "p99_us": %.1f, "max_us": %.1f, ' ..
    '"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    e.connect, e.read, e.write, e.status, e.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What wrk saw in one cell."""

    rate: float  # answers of status below 400 a second
    answered: int  # such answers
    p50_ms: float
    p99_ms: float
    errors: int  # statuses from 400 on, and whatever went wrong with a connection
    wrk_ms: float  # CPU of wrk itself for each answer


def find_wrk() -> str:
    """Find wrk on the PATH; raises InputError saying how to install it."""
    found = shutil.which("wrk")
    if found is None:
        raise InputError("wrk", found="no such program", expected="it on the PATH", fix="apt-get install wrk")
    return found


def run_wrk(url: str, bodies: Sequence[Path], *, kind: str, clients: int, seconds: float, token: str) -> Load:
    """Post `bodies` in turn for some seconds.

    Args:
        url: where to.
        bodies: files, each sent as it is.
        kind: their media type.
        clients: connections, each with one request at a time.
        seconds: rounded up to whole ones, as wrk takes no others.
        token: of the Authorization header, which services without one ignore.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT)
        script.flush()
        command = [find_wrk(), "-t1", f"-c{clients}", f"-d{max(1, round(seconds + 0.49))}s", "--latency"]
        command += [f"--timeout={PATIENCE_S}s", "-s", script.name, url, "--", kind, token, *map(str, bodies)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)  # its CPU, and no other child's
        process.returncode = os.waitstatus_to_exitcode(status)
    return parse(output, cpu_s=usage.ru_utime + usage.ru_stime)


def parse(output: str, *, cpu_s: float) -> Load:
    """Read what the script above has written; raises RuntimeError with wrk's own words where it did not get so far."""
    line = next((line for line in output.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise RuntimeError(f"wrk did not end in order: {output.strip()}")
    said = json.loads(line.removeprefix("RESULT "))
    answered = said["requests"] - said["status"]
    return Load(
        rate=answered / (said["duration_us"] / 1e6),
        answered=answered,
        p50_ms=said["p50_us"] / 1e3,
        p99_ms=said["p99_us"] / 1e3,
        errors=sum(said[name] for name in ("connect", "read", "write", "status", "timeout")),
        wrk_ms=1e3 * cpu_s / max(1, answered),
    )
