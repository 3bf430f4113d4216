"""Bulk runs on a Ray of their own: an interrupted one goes on without a slice lost or doubled."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.tiny import save_untrained
from tests.unit.test_bulk import here, rows_of

from neuralblack.data.phantoms import write_phantoms
from neuralblack.files import read_json

pytestmark = [pytest.mark.ray, pytest.mark.soak]
ROOT = Path(__file__).parents[2]

ON_RAY = """
import sys
from pathlib import Path
from tests.tiny import add_tiny_network
from neuralblack.cluster.batch_predict import classify_all
from neuralblack.cluster.session import ray_session

add_tiny_network()
with ray_session(num_cpus=2, runtime_env={"worker_process_setup_hook": "tests.tiny.add_tiny_network"}):
    source, out, model = map(Path, sys.argv[1:])
    classify_all(source, out, model=model)
"""


@pytest.fixture
def start():
    """Start bulk runs on a Ray of their own; whatever still runs at the end is killed."""
    running: list[subprocess.Popen[bytes]] = []
    yield lambda *paths: running.append(run_on_ray(*paths)) or running[-1]
    for process in running:
        process.kill()
        process.wait()


def run_on_ray(source: Path, out: Path, model: Path) -> "subprocess.Popen[bytes]":
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "platform")))
    return subprocess.Popen([sys.executable, "-c", ON_RAY, source, out, model], cwd=ROOT, env=env)


def kill_when(condition, process: "subprocess.Popen[bytes]", *, within_s: float = 240) -> None:
    """Send SIGKILL to what `condition` names as soon as it names a process."""
    deadline = time.monotonic() + within_s
    while not (pid := condition()):
        assert process.poll() is None, f"it ended with {process.returncode} before it could be killed"
        assert time.monotonic() < deadline, f"nothing to kill within {within_s} s"
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)


def classifying_under(pid: int) -> int | None:
    """Find a process that classifies among the descendants of `pid`."""
    below = [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]
    for child in below:
        try:
            if b"Classifying" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
            found = classifying_under(child)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        if found:
            return found
    return None


def test_neither_a_killed_run_nor_a_killed_worker_costs_or_doubles_a_slice(tiny, start, tmp_path):
    write_phantoms(tmp_path / "scans", patients=8, slices=2, size=64)
    pictures, model = sorted((tmp_path / "scans").rglob("*.png")), save_untrained(tmp_path / "model")
    source, out = tmp_path / "many", tmp_path / "out"
    source.mkdir()
    for number in range(600):  # copies: long enough to be interrupted
        shutil.copy(pictures[number % len(pictures)], source / f"{number:04d}.png")
    parts = out / "parts"

    first = start(source, out, model)
    kill_when(lambda: first.pid if any(parts.glob("0*.parquet")) else None, first)
    first.wait()
    done = len(list(parts.glob("0*.parquet")))
    second = start(source, out, model)
    kill_when(lambda: classifying_under(second.pid), second)

    assert second.wait(240) == 0
    assert 0 < done < 32 and len(list(parts.iterdir())) == 32
    rows = rows_of(out)
    assert [row["id"] for row in rows] == [f"{number:04d}.png" for number in range(600)]
    assert read_json(out / "summary.json")["statuses"]["ok"] == 600
    here(source, tmp_path / "whole", model, engine="auto")
    assert [row["label"] for row in rows] == [row["label"] for row in rows_of(tmp_path / "whole")]
