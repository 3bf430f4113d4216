"""Dashboard, alerts and what Prometheus scrapes: read by the parsers of their own tools, against our metrics."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import promql_parser
import pytest
import yaml
from ray.serve._private.common import RequestProtocol
from ray.serve._private.request_ingress_metrics import RequestIngressMetrics

import neuralblack.cluster
import neuralblack.service
from neuralblack.service.meter import Meter

CONFIGS = Path(__file__).parents[2] / "serve_configs"
PARTS = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count"),
}
PANELS = json.loads((CONFIGS / "grafana.json").read_text())["panels"]
RULES = [rule for group in yaml.safe_load((CONFIGS / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
OURS = {f"ray_{family.name}{part}" for family in Meter().registry.collect() for part in PARTS[family.type]}


def of_the_proxy():
    """What Serve's proxy counts, HAProxy's answers among them: the name that a scrape gives it, and its labels."""
    counter = RequestIngressMetrics(RequestProtocol.HTTP, source="proxy", node_id="", node_ip_address="")
    known = counter.request_counter.info
    return {f"ray_{known['name']}_total": {*known["tag_keys"]}}


def selectors(expression):
    """Every selection of series in an expression of PromQL: its name, and its conditions on labels."""
    found = []

    def see(node):
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(expression.replace("$__rate_interval", "1m")), see)
    return found


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_asks_for_metrics_that_replicas_have(panel):
    asked = [each for target in panel["targets"] for each in selectors(target["expr"])]

    assert asked and {each.name for each in asked} <= OURS | {*of_the_proxy()}
    assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"]


def test_every_kind_of_number_has_its_panel():
    asked = {each.name for panel in PANELS for target in panel["targets"] for each in selectors(target["expr"])}
    families = {family.name for family in Meter().registry.collect()}

    shown = {name for name in families if any(each.startswith(f"ray_{name}") for each in asked)}
    # `neuralblack drift` reads the first three, `neuralblack status` the last
    beside = {
        "input_slices",
        "input_expected_share",
        "input_reference",
        "last_failure_timestamp_seconds",
    }
    assert families - shown == {f"neuralblack_{name}" for name in beside}


def test_what_counts_as_failure_is_every_error_of_ours_and_of_the_proxy_whose_numbers_are_asked_for():
    (failed,) = [panel for panel in PANELS if panel["title"] == "Requests that failed"]
    (condition,) = re.findall(r"status_code=~`(.+?)`", failed["targets"][0]["expr"])
    source = "".join(path.read_text() for path in Path(neuralblack.service.__path__[0]).glob("*.py"))
    wrapper = (Path(neuralblack.cluster.__path__[0]) / "haproxy.sh").read_text()

    ours, its_own = re.findall(r"Problem\(\s*(\d\d\d),", source), re.findall(r"status (\d\d\d) content-type", wrapper)
    assert {"500", "503", "507"} <= {*ours} and {"408", "429", "502", "503", "504"} <= {*its_own}
    failing = {status for status in (*ours, *its_own) if re.fullmatch(condition, status)}
    assert failing == {status for status in (*ours, *its_own) if status == "429" or status >= "500"}
    assert {each.name for each in selectors(failed["targets"][0]["expr"])} == {*of_the_proxy()}


@pytest.mark.parametrize("expression", [*PANELS, *RULES], ids=lambda each: each.get("title") or each["alert"])
def test_what_is_asked_of_the_proxy_is_asked_by_its_own_labels(expression):
    for asked in [target["expr"] for target in expression.get("targets", [])] or [expression["expr"]]:
        for each in selectors(asked):
            if each.name in of_the_proxy():
                assert {matcher.name for matcher in each.matchers.matchers} <= of_the_proxy()[each.name]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_metrics_that_there_are_and_says_what_is_wrong(rule):
    asked = selectors(rule["expr"])

    assert asked and {each.name for each in asked} <= OURS | {*of_the_proxy()}
    assert rule["labels"]["severity"] in ("page", "ticket") and rule["annotations"]["summary"] and rule["for"]


def test_prometheus_is_given_the_alerts():
    assert yaml.safe_load((CONFIGS / "prometheus.yaml").read_text())["rule_files"] == ["alerts.yaml"]


def test_the_alerts_limits_fit_those_of_the_service():
    (application,) = yaml.safe_load((CONFIGS / "production.yaml").read_text())["applications"]
    (near,) = [rule["expr"] for rule in RULES if rule["alert"] == "AnswersNearDeadline"]

    deadline_s = application["args"]["deadline_s"]
    assert 0.5 * deadline_s <= float(near.rpartition(">")[2]) < deadline_s  # what is later is no answer


ANSWERED = 'ray_serve_num_http_requests_total{method="POST",status_code="%s"}'
SLICES = 'ray_neuralblack_requests_total{route="predict",outcome="%s"}'
INFO = 'ray_neuralblack_model_info{name="m",replica="a"}'
WELL = {ANSWERED % 200: "0+90x90", INFO: "1x90", SLICES % "ok": "0+80x90", SLICES % "refused": "0+10x90"}


@pytest.mark.parametrize(
    ("change", "fired"),
    [
        ({}, []),
        ({INFO: "1x10"}, ["NoReplica"]),
        ({ANSWERED % 502: "0+4x90"}, []),
        ({ANSWERED % 502: "0+4x90", ANSWERED % 503: "0+4x90"}, ["RequestsFail"]),
        ({ANSWERED % 429: "0+9x90"}, ["ServiceFull"]),
        ({ANSWERED % 401: "0+90x90", ANSWERED % 408: "0+90x90"}, []),
        ({ANSWERED.replace("POST", "GET") % 503: "0+90x90"}, []),
        ({SLICES % "refused": "0+30x90"}, ["SlicesRefused"]),
        ({'ray_neuralblack_drift_psi{statistic="head"}': "0.2x90"}, []),
        ({'ray_neuralblack_drift_psi{statistic="head"}': "0.3x90"}, ["InputsDrift"]),
        (
            {
                'ray_neuralblack_model_seconds_bucket{le="5.0"}': "0+80x90",
                'ray_neuralblack_model_seconds_bucket{le="+Inf"}': "0+90x90",
                'ray_neuralblack_model_seconds_bucket{le="10.0"}': "0+90x90",
            },
            ["AnswersNearDeadline"],
        ),
    ],
    ids=[
        "well",
        "no replica",
        "a few errors",
        "the proxy's errors",
        "full",
        "clients' own errors",
        "probes",
        "refused slices",
        "little drift",
        "drift",
        "slow",
    ],
)
def test_an_alert_fires_at_what_it_says_and_at_nothing_else(change, fired, tmp_path):
    program = shutil.which("promtool")
    if not program:
        pytest.skip("there is no promtool: it is not tested when alerts fire (apt-get install prometheus)")
    expected = [{"eval_time": "80m", "alertname": rule["alert"], "exp_alerts": []} for rule in RULES]
    series = [{"series": name, "values": values} for name, values in (WELL | change).items()]
    tests = {
        "rule_files": [str(CONFIGS / "alerts.yaml")],
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": expected}],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))

    run = subprocess.run([program, "test", "rules", tmp_path / "tests.yaml"], capture_output=True, text=True)

    said = run.stdout + run.stderr
    assert "time: 1h20m" in said or run.returncode == 0, said
    assert sorted(re.findall(r"alertname: (\w+)", said)) == fired


def test_no_two_panels_lie_on_each_other_or_have_one_number():
    places = [panel["gridPos"] for panel in PANELS]

    covered = [
        (x, y)
        for each in places
        for x in range(each["x"], each["x"] + each["w"])
        for y in range(each["y"], each["y"] + each["h"])
    ]
    assert len({*covered}) == len(covered) and max(x for x, _ in covered) < 24
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_prometheus_finds_the_nodes_in_the_file_that_rays_head_keeps():
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    (job,) = yaml.safe_load((CONFIGS / "prometheus.yaml").read_text())["scrape_configs"]

    assert [Path(each).name for each in job["file_sd_configs"][0]["files"]] == [PROMETHEUS_SERVICE_DISCOVERY_FILE]
