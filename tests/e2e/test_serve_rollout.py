"""production.yaml on a real head, with its token but no GPU: what dies or changes under load costs no request."""

import io
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from tests.e2e.conftest import CONFIGS
from tests.e2e.load import Load
from tests.e2e.processes import folders_of, haproxies_of, replicas_of, unread_by
from tests.e2e.production import START_S, prometheus_beside, started_cluster, untrained, write_production

from neuralblack.registry.aliases import resolve

pytestmark = pytest.mark.e2e

TOKEN = secrets.token_hex(32)


@pytest.fixture(scope="module")
def cluster():
    with started_cluster(token=TOKEN) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def registries(registry, tmp_path_factory):
    """Registries with a champion that serves, one that is to follow it, and one that fails on its own slices."""
    folder = tmp_path_factory.mktemp("registries")
    shutil.copytree(registry, folder / "old")
    images = torch.from_numpy(np.random.default_rng(5).integers(0, 256, (2, 256, 256), np.uint8))
    untrue = {"golden_images": images, "golden_logits": torch.tensor([[9.0, 0, 0, 0], [0, 9.0, 0, 0]])}
    return {
        "old": folder / "old",
        "new": untrained(folder / "new", seed=4),
        "untrue": untrained(folder / "untrue", seed=4, reference=untrue),
    }


@pytest.fixture(scope="module")
def configured(cluster, tmp_path_factory):
    """Write production.yaml, resolved for a registry, as it is but for what two cores without a GPU cannot give."""
    folder = tmp_path_factory.mktemp("production")
    return partial(write_production, folder, port=int(cluster.url.rpartition(":")[2]))


@pytest.fixture(scope="module")
def deployed(cluster, configured, registries):
    """Deploy `old` as the README says; gives the function that deploys another file's content."""
    file = configured(registries["old"])
    serve = Path(sys.executable).with_name("serve")
    subprocess.run(
        [serve, "deploy", file], env=cluster.environment | {"RAY_DASHBOARD_ADDRESS": cluster.head.url}, check=True
    )
    cluster.await_that(lambda: len(cluster.running()) == 3 and cluster.answering())

    def deploy(change=lambda args: None, registry=registries["old"]):
        content = yaml.safe_load(configured(registry).read_text())
        change(content["applications"][0]["args"])
        cluster.api("PUT", content).raise_for_status()

    return deploy


@pytest.fixture(scope="module")
def bodies():
    """Slices of about 11, 60 and 300 KB: noise cannot be compressed."""
    files = []
    for side in (104, 245, 546):
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side), np.uint8)).save(buffer, "PNG")
        files.append(buffer.getvalue())
    assert [round(len(file) / 1000) for file in files] == [11, 60, 299]
    return files


def test_two_services_on_this_host_have_nothing_in_common(service, cluster, deployed, bodies):
    asked = [httpx.post(f"{url}/predict", content=bodies[0], timeout=120) for url in (service.url, cluster.url)]

    assert [response.status_code for response in asked] == [200, 401]
    pids = service.process.pid, cluster.head.pid
    for found in (folders_of, haproxies_of, replicas_of):
        first, second = map(found, pids)
        assert first and second and first.isdisjoint(second)


def lost(load):
    return [result for result in load.results if result[0] != 200]


def counted(cluster):
    """What a scrape of the node says of requests that were answered: each replica's number."""
    families = text_string_to_metric_families(httpx.get(cluster.head.metrics, timeout=30).text)
    samples = [sample for family in families for sample in family.samples]
    asked = [each for each in samples if each.name == "ray_neuralblack_requests_total"]
    return {each.labels["replica"]: each.value for each in asked if each.labels["outcome"] == "ok"}


def test_one_scrape_of_a_node_sees_what_every_replica_has_counted(cluster, deployed, bodies):
    before = sum(counted(cluster).values())

    with Load(cluster.url, bodies, token=TOKEN) as load:
        load.await_results(30)
    answered = load.statuses[200]

    cluster.await_that(lambda: sum(counted(cluster).values()) == before + answered)
    assert len(counted(cluster)) > 1


@pytest.fixture
def prometheus(cluster, tmp_path):
    """Prometheus, with our file but for where this head lists its nodes and how long a test waits; its address."""
    program = shutil.which("prometheus")
    if not program:
        pytest.skip("there is no prometheus: it is not tested that it reads our numbers (apt-get install prometheus)")
    with prometheus_beside(cluster, tmp_path, program=program) as address:
        yield address


def test_prometheus_gives_grafana_a_number_for_every_panel(cluster, deployed, prometheus, bodies):
    panels = json.loads((CONFIGS / "grafana.json").read_text())["panels"]
    asked = {target["expr"].replace("$__rate_interval", "1m") for panel in panels for target in panel["targets"]}
    unused = ("refusals", "drift", "shadow")  # this model refuses nothing, knows no drift, and answers alone

    def found(expression):
        answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": expression}, timeout=30).json()
        assert answer["status"] == "success", answer
        return [float(each["value"][1]) for each in answer["data"]["result"]]

    (replicas,) = (each for each in asked if each.startswith("count by (name, version)"))
    with Load(cluster.url, bodies[:1], clients=1, token=TOKEN, pause_s=0.1):
        wanted = [each for each in asked if not any(word in each for word in unused)]
        cluster.await_that(lambda: all(np.isfinite(found(each) or np.nan).all() for each in wanted))
        cluster.await_that(lambda: found(replicas) == [3])

    def rules():
        return httpx.get(f"{prometheus}/api/v1/rules", timeout=30).json()["data"]["groups"][0]["rules"]

    cluster.await_that(lambda: {rule["health"] for rule in rules()} == {"ok"})  # "unknown" until they were asked once
    assert len(wanted) > 10
    assert [found(each) for each in asked - set(wanted)] == [[]] * 3


def test_one_command_shows_every_replica_and_that_the_champion_answers(cluster, deployed, registries):
    command = [Path(sys.executable).with_name("neuralblack"), "status", cluster.url, "--dashboard", cluster.head.url]
    command += ["--registry", registries["old"], "--json"]

    def look():
        run = subprocess.run(command, env=cluster.environment, capture_output=True, text=True)
        return json.loads(run.stdout) | {"status": run.returncode}

    champion, looks = resolve(registries["old"], "champion").id, []

    def all_are_counted():
        looks.append(look())
        return (looks[-1]["counted"] or {}).get("models") == {champion: 3}

    cluster.await_that(all_are_counted)
    found = looks[-1]
    assert found["status"] == 0, found["troubles"]
    assert found["applications"]["neuralblack"]["replicas"] == {"RUNNING": 3}
    assert found["service"]["model"] == found["registry"]["champion"]["model"] == champion


def test_a_refused_request_is_found_in_the_log_by_its_id_at_once(cluster, deployed):
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Request-ID": "asked-for-by-phone"}
    assert httpx.post(f"{cluster.url}/predict", content=b"%PDF", headers=headers, timeout=60).status_code == 415

    logs = [path.read_text() for path in cluster.folder.glob("ray/session_2*/logs/serve/replica_*.log")]
    lines = [json.loads(line) for log in logs for line in log.splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "asked-for-by-phone"]
    assert line["message"].endswith("415 unsupported") and line["levelname"] == "INFO"
    assert line["application"] == "neuralblack" and line["replica"]


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.soak)])
def test_a_replica_killed_under_load_costs_no_request(kills, cluster, deployed, bodies):
    with Load(cluster.url, bodies, token=TOKEN, pause_s=0.1) as load:
        for _ in range(kills):
            cluster.await_that(lambda: len(cluster.running()) == 3)
            load.await_results(40)
            victim = min(cluster.running())
            os.kill(victim, signal.SIGKILL)
            cluster.await_that(lambda victim=victim: victim not in cluster.running())
        cluster.await_that(lambda: len(cluster.running()) == 3)
        load.await_results(40)

    print(f"{kills} kills, {len(load.results)} requests of 11 to 300 KB: {dict(load.statuses)}")
    assert lost(load) == []


@pytest.mark.soak
def test_a_request_that_kills_its_replica_is_sent_once_more_and_the_third_replica_stays(cluster, deployed, bodies):
    cluster.await_that(lambda: len(cluster.running()) == 3)
    with Load(cluster.url, bodies, token=TOKEN) as load:
        load.await_results(40)  # HAProxy knows all three by now
    replicas, answers = sorted(cluster.running()), []
    ask = threading.Thread(
        target=lambda: answers.append(
            httpx.post(
                f"{cluster.url}/predict",
                content=bodies[1],
                headers={"Authorization": f"Bearer {TOKEN}"},
                timeout=START_S,
            )
        )
    )
    for replica in replicas:
        os.kill(replica, signal.SIGSTOP)  # so that the request waits where it is, unread
    try:
        ask.start()
        first = holding(replicas, len(bodies[1]) // 2)
        os.kill(first, signal.SIGKILL)
        second = holding([replica for replica in replicas if replica != first], len(bodies[1]) // 2)
        os.kill(second, signal.SIGKILL)
        ask.join()
        (third,) = set(replicas) - {first, second}
        assert holding([third], len(bodies[1]) // 2, within_s=1) is None
    finally:
        for replica in set(replicas) & replicas_of(cluster.head.pid):
            os.kill(replica, signal.SIGCONT)

    assert answers[0].status_code in (502, 503)
    assert third in replicas_of(cluster.head.pid)
    cluster.await_that(lambda: not {first, second} & cluster.running())
    cluster.await_that(lambda: len(cluster.running()) == 3 and cluster.answering())
    assert third in cluster.running()


def holding(pids, size, *, within_s=20):
    """Wait for one of some stopped processes to be sent so many bytes; None where none is."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        for pid in pids:
            if unread_by(pid) >= size:
                return pid
        time.sleep(0.02)
    return None


def flip(registry, folder):
    """A copy of a registry with one bit of its weights flipped."""
    shutil.copytree(registry, folder)
    (weights,) = folder.glob("models/*/weights.safetensors")
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("weights", "weights.safetensors: found"),
        pytest.param("hash", "the model of hash", marks=pytest.mark.soak),
        pytest.param("answers", "golden slices with another class", marks=pytest.mark.soak),
    ],
)
def test_a_bad_model_never_takes_traffic_and_the_old_one_stays(
    wrong, said, cluster, deployed, registries, bodies, tmp_path
):
    old = resolve(registries["old"], "champion").hash
    deployed()
    cluster.await_that(lambda: cluster.application["status"] == "RUNNING" and cluster.answering() == old)
    new, untrue = (resolve(registries[name], "champion") for name in ("new", "untrue"))
    changes = {  # what `neuralblack serve --resolved` would refuse, or cannot see
        "weights": {"model": new.id, "hash": new.hash, "registry": str(flip(registries["new"], tmp_path / "flipped"))},
        "hash": {"hash": new.hash},
        "answers": {"model": untrue.id, "hash": untrue.hash, "registry": str(registries["untrue"])},
    }

    with Load(cluster.url, bodies[:1], clients=2, token=TOKEN, pause_s=0.1) as load:
        deployed(lambda args: args.update(changes[wrong]))
        cluster.await_that(lambda: cluster.application["status"] == "DEPLOY_FAILED")
        load.await_results(20)

    assert lost(load) == []
    assert {json.loads(said)["model"]["hash"] for _, said in load.results} == {old}
    assert said in json.dumps(cluster.application)
    deployed()
    cluster.await_that(lambda: cluster.application["status"] == "RUNNING" and len(cluster.running()) == 3)


def test_a_new_model_under_load_costs_no_request_and_takes_over(cluster, deployed, registries, bodies):
    old, new = (resolve(registries[name], "champion").hash for name in ("old", "new"))
    deployed()
    cluster.await_that(lambda: cluster.answering() == old)
    with Load(cluster.url, bodies, token=TOKEN, pause_s=0.1) as load:
        load.await_results(20)
        deployed(registry=registries["new"])
        cluster.await_that(lambda: cluster.application["status"] == "RUNNING" and new in load.results[-1][1])
        load.await_results(20)

    print(f"a new model: {len(load.results)} requests: {dict(load.statuses)}")
    assert lost(load) == []
    assert {json.loads(said)["model"]["hash"] for _, said in load.results} == {old, new}
    assert {json.loads(said)["model"]["hash"] for _, said in load.results[-8:]} == {new}


def test_only_who_has_the_token_is_answered_and_it_is_on_no_command_line_and_in_no_file(cluster, deployed, bodies):
    refused = httpx.post(f"{cluster.url}/predict", content=bodies[0], headers={"Authorization": "Bearer other"})
    folder = Path(cluster.environment["RAY_SERVE_HAPROXY_BINARY_PATH"]).parent

    assert refused.status_code == 401
    assert httpx.get(f"{cluster.url}/ready").status_code == 200
    assert cluster.running() <= replicas_of(cluster.head.pid)
    for pid in (entry for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        try:
            assert TOKEN.encode() not in (pid / "cmdline").read_bytes()
        except OSError:
            continue
    assert containing(folder, TOKEN.encode()) == []


def containing(folder, words):
    """The files below a folder that hold these bytes."""
    return [path for path in folder.rglob("*") if path.is_file() and words in path.read_bytes()]
