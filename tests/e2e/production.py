"""A cluster of a test's own as cluster.yaml starts one, and what is deployed and looked at there."""

import json
import os
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml
from tests.e2e.conftest import CONFIGS, SIZE
from tests.e2e.head import Head, ray_head
from tests.e2e.processes import free_ports

from neuralblack.cluster.serve_config import write_resolved
from neuralblack.cluster.serve_environment import environment, free_block, own_folder
from neuralblack.config import TrainConfig
from neuralblack.data.preprocessing import Preprocessing
from neuralblack.labels import CLASSES
from neuralblack.models.table import build_model
from neuralblack.registry.gate import Judgement
from neuralblack.registry.model_folder import save_model
from neuralblack.registry.promotion import promote

START_S = 240  # a deadline on a machine that does other things as well


@dataclass
class Cluster:
    """A head on loopback that was given its environment before `ray start`, as cluster.yaml does."""

    head: Head
    environment: dict[str, str]
    url: str
    folder: Path

    def api(self, method, content=None):
        headers = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        return httpx.request(
            method, f"{self.head.url}/api/serve/applications/", headers=headers, json=content, timeout=60
        )

    @property
    def application(self):
        return self.api("GET").json()["applications"].get("neuralblack", {})

    def running(self):
        """Process ids of the replicas that Serve calls running."""
        replicas = self.application.get("deployments", {}).get("Classifier", {}).get("replicas", [])
        return {each["pid"] for each in replicas if each["state"] == "RUNNING"}

    def await_that(self, condition):
        deadline = time.monotonic() + START_S
        while not condition():
            assert time.monotonic() < deadline, json.dumps(self.application, indent=1)[-4000:]
            time.sleep(0.3)

    def answering(self):
        """The hash of the model that answers now; none where nothing does."""
        try:
            response = httpx.get(f"{self.url}/ready", timeout=30)
        except httpx.TransportError:
            return None
        return response.json()["model"]["hash"] if response.status_code == 200 else None


@contextmanager
def started_cluster(*, token):
    """Run one for a block, whose services ask for this token."""
    with own_folder() as folder:
        settings = environment(folder, ports=free_block(), max_pending=128)
        env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | settings
        env |= {"NEURALBLACK_TOKEN": token, "OMP_NUM_THREADS": "1"}
        env["RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT"] = "1"  # a bad model is tried three times, not nine
        with ray_head(folder, env) as head:
            cluster = Cluster(head, env, f"http://127.0.0.1:{free_ports(1)[0]}", folder)
            cluster.await_that(lambda: cluster.api("GET").is_success)
            yield cluster
            cluster.api("DELETE")


def untrained(folder, *, seed, **more):
    """A registry whose champion is an untrained Lite0."""
    config = TrainConfig(model="efficientnet_lite0", weights="none", size=SIZE)
    save_model(
        folder / "trained",
        build_model(config.model, classes=len(CLASSES), seed=seed).state_dict(),
        card={"classes": list(CLASSES), "config": config.model_dump(mode="json")},
        spec=Preprocessing(size=256),
        split={},
        history=[],
        **more,
    )
    promote(folder / "trained", folder, Judgement(forced="a test"))
    return folder


def write_production(folder, registry, *, port):
    """Write production.yaml, resolved for a registry, as it is but for what two cores without a GPU cannot give."""
    content = yaml.safe_load((CONFIGS / "production.yaml").read_text())
    application, http = content["applications"][0], content["http_options"]
    (deployment,) = application["deployments"]
    deployment["ray_actor_options"] = {"num_cpus": 0.3}
    deployment["autoscaling_config"]["max_replicas"] = 3
    deployment["user_config"]["max_batch_size"] = 8
    deployment["health_check_timeout_s"] = 60  # a busy machine is not a dead replica
    application["args"] |= {"decoders": 1, "engine": "eager-fp32", "deadline_s": 100}
    http["request_timeout_s"] = 120
    (folder / "edited.yaml").write_text(yaml.safe_dump(content))
    write_resolved(folder / "edited.yaml", folder / "production.yaml", registry=registry, host="127.0.0.1", port=port)
    return folder / "production.yaml"


@contextmanager
def prometheus_beside(cluster, folder, *, program):
    """Run Prometheus for a block, with our file but for where this head lists its nodes and how long a test waits."""
    content = yaml.safe_load((CONFIGS / "prometheus.yaml").read_text())
    content["global"]["scrape_interval"] = "1s"
    content["rule_files"] = [str(CONFIGS / file) for file in content["rule_files"]]
    (job,) = content["scrape_configs"]
    (discovery,) = job["file_sd_configs"]
    (listed,) = discovery["files"]
    discovery["files"] = [listed.replace("/tmp/ray", str(cluster.folder / "ray"))]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(content))
    address = f"127.0.0.1:{free_ports(1)[0]}"
    command = [program, f"--config.file={folder}/prometheus.yaml", f"--web.listen-address={address}"]
    with (folder / "said").open("w") as said:
        process = subprocess.Popen([*command, f"--storage.tsdb.path={folder}/kept"], stdout=said, stderr=said)
    try:
        cluster.await_that(lambda: is_ready(f"http://{address}/-/ready"))
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(START_S)


def is_ready(url):
    try:
        return httpx.get(url, timeout=30).status_code == 200
    except httpx.TransportError:
        return False
