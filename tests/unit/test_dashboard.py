"""The Grafana dashboard and what Prometheus scrapes: read by the parsers of their own tools, against our metrics."""

import json
import re
from pathlib import Path

import promql_parser
import pytest
import yaml

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
OURS = {f"ray_{family.name}{part}" for family in Meter().registry.collect() for part in PARTS[family.type]}


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

    assert asked and {each.name for each in asked} <= OURS
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


def test_the_outcomes_that_count_as_failures_are_codes_of_the_service():
    (failed,) = [panel for panel in PANELS if panel["title"] == "Requests that failed"]
    (condition,) = re.findall(r"outcome=~`(.+?)`", failed["targets"][0]["expr"])
    source = "".join(path.read_text() for path in Path(neuralblack.service.__path__[0]).glob("*.py"))

    ours = set(re.findall(r'Problem\(\s*5\d\d,\s*"(\w+)"', source))
    assert {*condition.split("|")} == (ours | {"not_ready", "overloaded"}) - {"unavailable"}  # which the proxy says


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
