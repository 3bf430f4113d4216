"""A real service for the tests of this folder: its own process, real Ray Serve, HAProxy, an untrained network."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file
from tests.e2e.processes import folders_of, free_ports
from tests.service import READER_TOKEN
from tests.tiny import phantom_dataset

from neuralblack.cluster.serve_here import processes_of
from neuralblack.config import TrainConfig
from neuralblack.data.mat_writer import write_mat
from neuralblack.data.phantoms import Patient, draw_phantom
from neuralblack.evaluation.held_out import evaluate_held_out
from neuralblack.inference.predictor import Predictor
from neuralblack.labels import CLASSES
from neuralblack.registry.aliases import resolve
from neuralblack.registry.gate import Judgement
from neuralblack.registry.model_folder import save_model
from neuralblack.registry.promotion import name_challenger, promote
from neuralblack.training.runs import train_here

CONFIGS = Path(__file__).parents[2] / "serve_configs"
SIZE = 64  # pixels: what is tested is around the network, not in it
LINES_KEPT_BACK = 20  # of a log, before they are written; as it comes, Serve keeps a thousand
START_S, STOP_S = 180, 90  # deadlines on a machine that does other things as well
SECRETS = f"""
import os
os.environ |= {{"NEURALBLACK_READERS": "anna={READER_TOKEN}", "NEURALBLACK_FEEDBACK_KEY": "{"0f" * 32}"}}
"""
COMMAND = """
import sys
from pathlib import Path
from neuralblack.cli import run_verb
from neuralblack.cluster.serve_here import serve_here
{before}
config, registry, port = sys.argv[1:]
say = lambda address: print("ready", address, flush=True)
run_verb(lambda: serve_here(Path(config), registry=Path(registry), port=int(port), ready=say))
"""


@dataclass
class Service:
    """`neuralblack serve` in a process of its own, and what it has said."""

    process: subprocess.Popen
    url: str
    lines: list[str] = field(default_factory=list)
    said: threading.Condition = field(default_factory=threading.Condition)

    def follow(self):
        """Collect its output as it comes."""
        for line in self.process.stdout:
            with self.said:
                self.lines.append(line.rstrip())
                self.said.notify_all()
        with self.said:
            self.said.notify_all()

    def await_ready(self):
        """Wait until it says so; a service that ends instead fails the test with its own words."""
        with self.said:
            self.said.wait_for(lambda: self.is_ready or self.process.poll() is not None, START_S)
        assert self.is_ready, "\n".join(self.lines)
        return self

    @property
    def is_ready(self):
        return f"ready {self.url}" in self.lines

    @property
    def folder(self):
        """Its own folder: Ray's and Serve's logs, HAProxy's files."""
        (folder,) = {each for each in folders_of(self.process.pid) if (each / "haproxy.sh").exists()}
        return folder

    def stop(self, number=signal.SIGTERM):
        """Ask it to end; its exit status."""
        self.process.send_signal(number)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def start_service(config, registry, *, before="", port=None):
    """Start one; `before` is Python to run in its process first."""
    port = port or free_ports(1)[0]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND.format(before=before), str(config), str(registry), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": str(LINES_KEPT_BACK)},
    )
    service = Service(process, f"http://127.0.0.1:{port}")
    threading.Thread(target=service.follow, daemon=True).start()
    return service


@pytest.fixture(scope="session")
def starting():
    """The function that starts a service; none outlives the tests."""
    started = []

    def start(*arguments, **options):
        started.append(start_service(*arguments, **options))
        return started[-1]

    yield start
    for service in started:
        if service.process.poll() is None:
            service.stop()


@pytest.fixture(scope="session")
def registry(tmp_path_factory):
    """A registry whose champion learnt next to nothing: its answers are nonsense, and always the same.

    It was trained and evaluated on made-up heads, and not calibrated: it refuses nothing. Its challenger has the same
    weights, and another card.
    """
    folder = tmp_path_factory.mktemp("registry")
    data = phantom_dataset(folder, size=256).path
    config = TrainConfig(model="efficientnet_lite0", weights="none", size=SIZE, schedule="head-only", epochs=1, seed=3)
    champion = train_here(config, data=data, run=folder / "run")
    predictor = Predictor.load(champion.path, engine="eager-fp32")
    evaluate_held_out(predictor, data, folder / "report", with_baselines=False)
    promote(champion.path, folder / "registry", Judgement(forced="a test"), evaluation=folder / "report")
    save_model(
        folder / "challenger",
        load_file(champion.path / "weights.safetensors"),
        card=champion.card | {"chosen_by": "a test"},
        spec=champion.spec,
        split=champion.split,
        history=champion.history,
    )
    name_challenger(folder / "challenger", folder / "registry")
    return folder / "registry"


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    """local.yaml, but in fp32, so that answers can be compared to 1e-4, and with more patience."""
    content = yaml.safe_load((CONFIGS / "local.yaml").read_text())
    args = content["applications"][0]["args"]
    args |= {"engine": "eager-fp32", "deadline_s": 100}  # and a busy machine's deadline
    content["http_options"]["request_timeout_s"] = 120
    path = tmp_path_factory.mktemp("config") / "fp32.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """What the service keeps: readers' feedback below `feedback`, the challenger's answers below `shadow`."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="session")
def service(starting, config, registry, kept):
    """One service for all tests that only ask it something, with feedback switched on, and a challenger behind it.

    When they are through it must end as asked, and leave nothing behind but what it keeps.
    """
    content = yaml.safe_load(config.read_text())
    folders = {"feedback": str(kept / "feedback"), "shadow_records": str(kept / "shadow")}
    content["applications"][0]["args"] |= {"shadow": "challenger", **folders}
    (kept / "collecting.yaml").write_text(yaml.safe_dump(content))
    service = starting(kept / "collecting.yaml", registry, before=SECRETS).await_ready()
    folder = service.folder
    yield service
    assert service.stop() == 0
    assert processes_of(folder) == [] and not folder.exists()
    with pytest.raises(httpx.TransportError):
        httpx.get(service.url, timeout=5)


@pytest.fixture(scope="session")
def slices(tmp_path_factory):
    """Made-up slices in every format: the paths of files."""
    folder, files = tmp_path_factory.mktemp("slices"), []
    for seed, label in enumerate(CLASSES):
        phantom = draw_phantom(Patient.draw(label, seed=seed), "axial", size=160)
        eight_bit = Image.fromarray((phantom.image / phantom.image.max() * 255).astype(np.uint8))
        for suffix in ("png", "jpg", "tif"):
            files.append(folder / f"{seed}.{suffix}")
            eight_bit.save(files[-1])
        files.append(folder / f"{seed}.mat")
        write_mat(files[-1], label=1, patient="p1", image=phantom.image, mask=phantom.mask, border=phantom.border)
    return files


@pytest.fixture
def corrupt(registry, tmp_path):
    """A copy of the registry with one bit of its champion's weights flipped."""
    copy = tmp_path / "registry"
    shutil.copytree(registry, copy)
    weights = resolve(copy, "champion").path / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    return copy
