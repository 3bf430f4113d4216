"""A Ray head of a test's own: `ray start --head` on loopback, with a token and its own ports and folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.e2e.processes import free_ports

START_S = 240  # a deadline on a machine that does other things as well
STOP_S = 8  # asked to end, a head drains for 30 s, which is not what a test is about

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    """The process, and the addresses of its dashboard and of the node's metrics."""

    pid: int
    url: str
    metrics: str


@contextmanager
def ray_head(folder: Path, environment: dict[str, str]) -> Iterator[Head]:
    """Run a head for a block.

    `environment` is all that it gets, with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN; `folder` has a short path, because
    those of Ray's sockets may have 107 characters.
    """
    dashboard, *others = free_ports(6)
    names = ("port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
    ports = dict(zip((*names, "runtime-env-agent-port"), others, strict=True))
    command = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1"),
        *("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *(f"--{name}={port}" for name, port in ports.items()),
        *("--num-cpus=4", "--num-gpus=0", "--object-store-memory=150000000", "--disable-usage-stats"),
        f"--temp-dir={folder / 'ray'}",
    ]
    said = folder / "start.log"
    with said.open("w") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    url = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + START_S
        while not _answers(url, environment["RAY_AUTH_TOKEN"]):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the head did not start:\n{said.read_text()[-4000:]}")
            time.sleep(0.5)
        yield Head(process.pid, url, f"http://127.0.0.1:{ports['metrics-export-port']}/metrics")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(url: str, token: str) -> bool:
    try:
        return httpx.get(f"{url}/api/version", headers={"Authorization": f"Bearer {token}"}, timeout=5).is_success
    except httpx.TransportError:
        return False
