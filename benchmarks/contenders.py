"""CONTENDERS: the services that are measured, and the life of one: started, warm, paused while others are measured."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import yaml
from benchmarks.counter import read_counter
from benchmarks.empty import EMPTY
from benchmarks.processes import MARK, await_quiet, cores_used, cpu_s, kill, marked, pause, resume

import neuralblack
from neuralblack.errors import RunError

ROOT = Path(__file__).resolve().parents[1]
START_S, STOP_S, DRAIN_S = 300, 60, 120
TOKEN = "of-a-benchmark-on-loopback"  # for services that want one
ALL = 10_000


@dataclass(frozen=True)
class Contender:
    """A row of CONTENDERS."""

    title: str
    module: str | None  # of benchmarks.services; None: the real service
    between: str  # what becomes of it while another is measured: paused, running or stopped
    most_clients: int = ALL  # in cells with more it is left out


CONTENDERS: dict[str, Contender] = {
    # Answers 10 ResNet-50 slices a second: 128 clients would wait 13 s for an answer, longer than a cell lasts.
    "eager": Contender("FastAPI + uvicorn, eager fp32 inline", "eager", "paused", most_clients=32),
    "uvicorn": Contender("FastAPI + uvicorn, our engine, our batcher", "uvicorn_batched", "paused"),
    "litserve": Contender("LitServe, our engine", "litserve_batched", "paused"),
    # Serve's health checks take a pause for a failure, and its idle processes would take CPU from the others.
    "ray": Contender("Ray Serve as it comes, our engine", "ray_default", "stopped"),
    "ours": Contender("neuralblack serve", None, "running"),
}


@dataclass
class Setting:
    """What all services of one phase share."""

    folder: Path  # for logs, counters and configurations
    registry: Path
    model: Path
    engine: str  # a key of ENGINES, or `empty`
    threads: int
    config: Path  # of the real service


class Service:
    """One contender's processes."""

    def __init__(self, name: str, setting: Setting) -> None:
        self.name, self.contender, self._setting = name, CONTENDERS[name], setting
        self.mark, self.idle_cores = f"{name}-{setting.engine}", 0.0
        self._counter = setting.folder / f"{self.mark}.counter"
        self._log: IO[str] | None = None
        self.process: subprocess.Popen[str] | None = None
        self.address, self.started_s = "", 0.0

    @property
    def url(self) -> str:
        """Where slices are posted."""
        return f"{self.address}/predict"

    def start(self, picture: Path, *, kind: str) -> None:
        """Start it and wait until it answers; raises RunError with the end of its log."""
        began, port = time.monotonic(), free_port()
        self.address = f"http://127.0.0.1:{port}"
        self._log = (self._setting.folder / f"{self.mark}.log").open("w")
        self.process = subprocess.Popen(
            self._command(port),
            cwd=ROOT,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(empty=self._setting.engine == EMPTY) | {MARK: self.mark},
            start_new_session=True,  # Ctrl-C is for the benchmark, which stops it in order
        )
        while self.answer(picture, kind=kind) is None:
            if self.process.poll() is not None or time.monotonic() - began > START_S:
                words = (self._setting.folder / f"{self.mark}.log").read_text()[-2000:]
                self.stop()
                raise RunError(f"{self.contender.title} did not start:\n{words}")
            time.sleep(0.2)
        self.started_s = time.monotonic() - began

    def answer(self, picture: Path, *, kind: str) -> dict[str, Any] | None:
        """Post one picture; None where there is no answer of status 200."""
        headers = {"Content-Type": kind, "Authorization": f"Bearer {TOKEN}"}
        try:
            with urlopen(Request(self.url, picture.read_bytes(), headers), timeout=60) as response:
                return dict(json.load(response))
        except (URLError, OSError, ValueError):
            return None

    def measure_idle(self, *, seconds: float = 3.0) -> None:
        """Measure how many cores it keeps busy without a request."""
        self.idle_cores = cores_used(self.pids(), seconds=seconds)

    def drain(self) -> bool:
        """Wait until requests that a client left behind are done; False where it does not become quiet."""
        pids = self.pids()
        below = self.idle_cores + 0.15
        return await_quiet(lambda: cores_used(pids, seconds=0.25), below=below, deadline_s=DRAIN_S)

    def pids(self) -> list[int]:
        """All of its processes."""
        return marked(self.mark)

    def cpu_s(self) -> float:
        """CPU seconds of all its processes so far."""
        return cpu_s(self.pids())

    def batches(self) -> tuple[float, float]:
        """Batches and slices so far; zeros where it does not say."""
        return read_counter(self._counter) if self.contender.module else self._metrics()

    def pause(self) -> None:
        """Stop its processes where they are, if it stands that."""
        if self.contender.between == "paused":
            pause(self.pids())

    def resume(self) -> None:
        """Let it go on."""
        if self.contender.between == "paused":
            resume(self.pids())

    def stop(self) -> None:
        """End it in order, then whatever is left of it."""
        if self.process is None:
            return
        self.resume()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        kill(self.pids())
        if self._log is not None:
            self._log.close()
        self.process = None

    def _command(self, port: int) -> list[str]:
        setting = self._setting
        if self.contender.module is None:
            config = _with_engine(setting) if setting.engine != EMPTY else setting.config
            command = str(Path(sys.executable).with_name("neuralblack"))
            return [command, "serve", str(config), "--registry", str(setting.registry), "--port", str(port)]
        arguments = [port, setting.model, setting.engine, setting.threads, self._counter]
        return [sys.executable, "-m", f"benchmarks.services.{self.contender.module}", *map(str, arguments)]

    def _metrics(self) -> tuple[float, float]:
        try:
            request = Request(f"{self.address}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
            with urlopen(request, timeout=10) as response:
                return parse_batches(response.read().decode())
        except (URLError, OSError):
            return 0, 0


def parse_batches(text: str) -> tuple[float, float]:
    """Find batches and slices in the service's /metrics, Prometheus' text; of the one replica that was asked."""
    totals = {"count": 0.0, "sum": 0.0}
    for kind, value in re.findall(r"^neuralblack_batch_slices_(count|sum) ([0-9.eE+-]+)", text, re.MULTILINE):
        totals[kind] += float(value)
    return totals["count"], totals["sum"]


def environment(*, empty: bool = False) -> dict[str, str]:
    """Make the environment of every process that is measured; `empty` exchanges the real service's engines."""
    package = Path(neuralblack.__file__).parents[1]
    paths = [str(ROOT), str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    if empty:
        paths.insert(0, str(ROOT / "benchmarks" / "empty_engine"))
    kept = {name: value for name, value in os.environ.items() if not name.endswith("NUM_THREADS")}
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "NEURALBLACK_TOKEN": TOKEN}


def _with_engine(setting: Setting) -> Path:
    config = yaml.safe_load(setting.config.read_text("utf-8"))
    for application in config["applications"]:
        application.setdefault("args", {})["engine"] = setting.engine
    path = setting.folder / f"ours-{setting.engine}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def free_port() -> int:
    """Find a port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
