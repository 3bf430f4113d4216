"""What `neuralblack status` sees and says, of a service and a dashboard that are servers here with canned answers."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from neuralblack.cluster.status import status_of
from neuralblack.errors import InputError
from neuralblack.evaluation.drift import measure_drift
from neuralblack.registry.aliases import point_alias
from neuralblack.registry.audit import add_entry
from neuralblack.service.client import metrics_of
from neuralblack.service.meter import Meter
from neuralblack.service.problems import Problem
from neuralblack.terminal import print_status

OLD, NEW = "tiny-0123456789ab", "tiny-ba9876543210"


@pytest.fixture
def serving():
    """Start a server for a table of path -> answer; what is missing there is 404, and its token is asked for."""
    servers = []

    def start(answers, token=None):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                allowed = token is None or self.path == "/ready" or self.headers["Authorization"] == f"Bearer {token}"
                status = 401 if not allowed else 200 if self.path in answers else 404
                self.send_response(status)
                self.end_headers()
                self.wfile.write(answers[self.path] if status == 200 else b"")

            def log_message(self, *_):
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def registry(tmp_path):
    """A registry whose champion is NEW, since today, behind OLD."""
    for before, after in ((None, OLD), (OLD, NEW)):
        add_entry(tmp_path, {"action": "promote", "alias": "champion", "before": before, "after": after})
        point_alias(tmp_path, "champion", after)
    return tmp_path


def replica(model, *, requests=1, failing=False):
    """The lines of a replica's /metrics."""
    meter = Meter()
    meter.describe(name=model, version="0123", pending=lambda: 2.0)
    for _ in range(requests):
        meter.request("predict", "ok")
    if failing:
        with pytest.raises(Problem), meter.trouble("study"):
            raise Problem(503, "decoder_down", "…")
    return meter.text().decode()


# What a head says of its HAProxy: a replica knows nothing of the 502 and the 503.
PROXY = """\
# TYPE ray_serve_num_http_requests_total counter
ray_serve_num_http_requests_total{application="neuralblack",method="POST",route="/",status_code="200"} 5.0
ray_serve_num_http_requests_total{application="neuralblack",method="POST",route="/",status_code="502"} 1.0
ray_serve_num_http_requests_total{application="neuralblack",method="POST",route="/",status_code="503"} 1.0
ray_serve_num_http_requests_total{application="",method="POST",route="",status_code="503"} 2.0
ray_serve_num_http_requests_total{application="neuralblack",method="GET",route="/",status_code="503"} 40.0
"""


def ready(model):
    return {"/ready": json.dumps({"status": "ready", "model": {"name": model}}).encode()}


def test_a_service_that_answers_with_the_champion_is_no_trouble(serving, registry):
    service = serving(ready(NEW) | {"/metrics": replica(NEW, requests=3, failing=True).encode()})

    found = status_of(registry=registry, service=service)

    assert found["troubles"] == []
    assert found["registry"]["champion"]["model"] == found["service"]["model"] == NEW
    assert found["registry"]["champion"]["since"] and found["registry"]["challenger"] is None
    assert found["counted"]["models"] == {NEW: 1} and found["counted"]["pending"] == 2
    assert found["counted"]["requests"] == {"ok": 3, "decoder_down": 1} and found["counted"]["answers"] == {}
    assert (found["counted"]["last_failure"]["route"], found["counted"]["last_failure"]["code"]) == (
        "study",
        "decoder_down",
    )


def test_a_service_that_answers_with_another_model_than_the_champion_is_said(serving, registry):
    service = serving(ready(OLD) | {"/metrics": replica(OLD).encode()})

    (trouble,) = status_of(registry=registry, service=service)["troubles"]

    assert f"answers with {OLD}, but the champion is {NEW}. Fix: start it again; on a cluster" in trouble


def test_what_does_not_answer_is_said_and_hides_nothing_else(serving, registry, tmp_path):
    found = status_of(registry=registry, service="http://127.0.0.1:1", dashboard=serving({}))

    assert found["registry"]["champion"]["model"] == NEW and found["counted"] is None
    assert sorted(re.findall("found (no|404)", "\n".join(found["troubles"]))) == ["404", "404", "no"]
    assert all("expected an answer. Fix: " in trouble for trouble in found["troubles"])


def test_a_registry_that_is_not_there_is_trouble_and_one_that_was_not_named_is_said_to_be_unseen(
    serving, tmp_path, capsys
):
    service = serving(ready(NEW) | {"/metrics": replica(NEW).encode()})

    (trouble,) = status_of(registry=tmp_path / "elsewhere", service=service)["troubles"]
    assert trouble.startswith(f"{tmp_path}/elsewhere: found no folder; expected the registry. Fix: ")
    found = status_of(registry=None, service=service)
    print_status(found)
    assert (found["registry"], found["troubles"]) == (None, [])
    assert "not looked at; --registry DIR" in capsys.readouterr().out


def test_a_service_with_a_token_is_asked_with_it(serving, registry):
    service = serving(ready(NEW) | {"/metrics": replica(NEW).encode()}, token="secret")

    assert status_of(registry=registry, service=service, token="secret")["troubles"] == []
    (trouble,) = status_of(registry=registry, service=service)["troubles"]
    assert trouble.startswith(f"{service}: found 401 ")


def test_a_token_that_cannot_be_sent_is_said_and_not_repeated(serving, registry, monkeypatch):
    service = serving(ready(NEW) | {"/metrics": replica(NEW).encode()})
    monkeypatch.setenv("RAY_AUTH_TOKEN", "rays-secret\nand more")

    troubles = status_of(registry=registry, service=service, token="secret \n0")["troubles"]
    troubles += status_of(registry=registry, service=service, dashboard=service)["troubles"]

    assert [trouble.partition(":")[0] for trouble in troubles] == ["token", "Ray's token", "Ray's token"]
    assert all("characters that cannot be sent" in trouble and "secret" not in trouble for trouble in troubles)


def test_status_and_drift_say_the_same_of_an_address_without_metrics(serving, registry):
    service = serving(ready(NEW) | {"/metrics": b"\xff\xfe"})

    (trouble,) = status_of(registry=registry, service=service)["troubles"]
    with pytest.raises(InputError) as error:
        measure_drift({service: metrics_of(service, token=None)})
    assert trouble == str(error.value)


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"status": "ready"}', b"\xff\xfe"])
def test_where_something_else_answers_it_is_said(answer, serving, registry):
    other = serving({"/ready": answer, "/api/serve/applications/": answer, "/api/prometheus/sd": answer})

    found = status_of(registry=registry, service=other, dashboard=other)

    assert found["service"]["model"] is None and found["troubles"]
    assert found["registry"]["champion"]["model"] == NEW


def test_a_changed_audit_is_trouble(serving, registry):
    lines = (registry / "audit.jsonl").read_text()
    (registry / "audit.jsonl").write_text(lines.replace(OLD, NEW, 1))

    found = status_of(registry=registry, service=serving(ready(NEW) | {"/metrics": replica(NEW).encode()}))

    assert "does not follow from the one before" in found["troubles"][0]
    assert found["counted"]["models"] == {NEW: 1}


@pytest.mark.parametrize(("status", "cause"), [("RUNNING", False), ("DEPLOYING", False), ("UNHEALTHY", True)])
def test_only_an_application_that_is_not_well_has_a_cause(status, cause, serving, registry):
    application = {"status": status, "message": "", "deployments": {}}
    said = json.dumps({"applications": {"neuralblack": application}}).encode()
    dashboard = serving({"/api/serve/applications/": said, "/api/prometheus/sd": b"[]"})

    found = status_of(registry=registry, service=serving(ready(NEW)), dashboard=dashboard)

    assert ("cause" in found["applications"]["neuralblack"]) == cause
    assert found["troubles"] == ["application neuralblack is UNHEALTHY: Serve gave no reason"] * cause


def test_with_a_dashboard_every_replica_of_every_node_counts_and_serves_own_trouble_is_said(
    serving, registry, monkeypatch, capsys
):
    nodes = [serving({"/metrics": replica(NEW, requests=count).encode()}) for count in (1, 4)]
    nodes.append(serving({"/metrics": PROXY.encode()}))
    application = {
        "status": "DEPLOY_FAILED",
        "message": "neuralblack.errors.InputError: weights: found x",
        "deployments": {
            "Classifier": {"message": "", "replicas": [{"state": "RUNNING"}] * 2 + [{"state": "STARTING"}]}
        },
    }
    targets = [{"targets": [node.removeprefix("http://")]} for node in nodes]
    targets.append({"targets": ["127.0.0.1:44217", "127.0.0.1:44227"]})  # Ray's own: not there, and no trouble
    dashboard = serving(
        {
            "/api/serve/applications/": json.dumps({"applications": {"neuralblack": application}}).encode(),
            "/api/prometheus/sd": json.dumps(targets).encode(),
        },
        token="ray",
    )
    monkeypatch.setenv("RAY_AUTH_TOKEN", "ray")

    found = status_of(registry=registry, service=serving(ready(NEW)), dashboard=dashboard)

    assert found["counted"]["models"] == {NEW: 2} and found["counted"]["requests"] == {"ok": 5}
    assert found["counted"]["answers"] == {"200": 5, "502": 1, "503": 3}
    print_status(found)
    assert re.search(r"answers of the proxy\W+200 5, 502 1, 503 3", capsys.readouterr().out)
    assert found["applications"]["neuralblack"]["replicas"] == {"RUNNING": 2, "STARTING": 1}
    assert found["troubles"] == ["application neuralblack is DEPLOY_FAILED: weights: found x"]
