"""cluster.yaml keeps its promises, as far as can be seen without AWS."""

import copy
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

from neuralblack.cluster.serve_here import environment as environment_here

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "cluster.yaml").read_text()
HOME = "/home/ray/neuralblack"
SHARED = "/mnt/shared"


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(TEXT)


@pytest.fixture
def workers(cluster):
    return [node for name, node in cluster["available_node_types"].items() if name != cluster["head_node_type"]]


def pinned(package: str) -> str:
    (version,) = re.findall(rf"(?m)^{package}==(\S+)$", (ROOT / "constraints.txt").read_text())
    return version


def environment(cluster) -> dict[str, str]:
    """The container's environment, read as the shell of `docker run` would read it."""
    words = shlex.split(" ".join(cluster["docker"]["run_options"]))
    return dict(words[i + 1].split("=", 1) for i, word in enumerate(words) if word == "--env")


def test_ray_accepts_the_file(cluster):
    prepared = prepare_config(copy.deepcopy(cluster))

    validate_config(prepared)

    assert prepared["cluster_name"] == "neuralblack"


def test_a_misspelt_key_would_not_pass(cluster):
    cluster["idle_timeout_minuets"] = 10

    with pytest.raises(Exception, match="idle_timeout_minuets"):
        validate_config(prepare_config(cluster))


def test_the_machine_image_and_the_file_system_are_all_there_is_to_fill_in(cluster):
    (image,) = {node["node_config"]["ImageId"] for node in cluster["available_node_types"].values()}
    (file_system,) = re.findall(r"shared=(\S+?)\.efs\.", TEXT)

    assert re.fullmatch("ami-(FILL-IN|[0-9a-f]{8,17})", image)
    assert re.fullmatch("fs-(FILL-IN|[0-9a-f]{8,40})", file_system)
    rest = TEXT.replace(image, "", 1).replace(file_system, "", 1)
    assert not re.search(r"(?i)fill-in|todo|xxx|your[-_]|<[a-z]+>|change.?me|example", rest)


def test_region_is_said_and_is_the_file_systems_own(cluster):
    assert cluster["provider"]["type"] == "aws"
    assert f".efs.{cluster['provider']['region']}.amazonaws.com" in cluster["initialization_commands"][0]


def test_workers_come_and_go_between_limits(cluster, workers):
    for node in workers:
        assert 0 <= node["min_workers"] <= node["max_workers"] <= cluster["max_workers"]
    assert sum(node["min_workers"] for node in workers) == 0
    assert cluster["idle_timeout_minutes"] > 0
    assert cluster["provider"]["cache_stopped_nodes"] is False


def test_head_takes_no_work_and_workers_offer_whole_gpus(cluster, workers):
    assert cluster["available_node_types"][cluster["head_node_type"]]["resources"] == {"CPU": 0}
    for node in workers:
        assert node["resources"]["GPU"] >= 1
        assert all(type(number) is int for number in node["resources"].values())


@pytest.mark.parametrize(("key", "device"), [("image", "gpu"), ("head_image", "cpu"), ("worker_image", "gpu")])
def test_image_has_the_ray_and_the_python_that_were_tested(cluster, key, device):
    least = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    major, minor = re.match(r">=(\d+)\.(\d+)", least).groups()

    assert cluster["docker"][key] == f"rayproject/ray:{pinned('ray')}-py{major}{minor}-{device}"


def test_autoscaler_finds_an_image_for_every_kind_of_node(cluster):
    config = AutoscalingConfig(prepare_config(copy.deepcopy(cluster)), skip_content_hash=True)  # as on the head

    images = {name: config.get_docker_config(name)["image"] for name in cluster["available_node_types"]}

    head = cluster["head_node_type"]
    assert images.pop(head) == cluster["docker"]["head_image"]
    assert set(images.values()) == {cluster["docker"]["worker_image"]}


def test_every_node_installs_this_commits_wheel_with_the_tested_versions(cluster):
    mounts, setup = cluster["file_mounts"], cluster["setup_commands"]

    assert mounts[f"{HOME}/dist"] == "./dist"
    assert "cp constraints.txt dist/" in (ROOT / "Makefile").read_text()
    assert any(f"-c {HOME}/dist/constraints.txt" in line and f"{HOME}/dist/neuralblack-*.whl" in line for line in setup)
    assert any("--force-reinstall" in line and "--no-deps" in line for line in setup)
    installs = [line for line in setup + cluster["head_setup_commands"] if "pip install" in line]
    assert all(line.startswith("python -m pip ") for line in installs)  # the python that runs the jobs, no other
    assert all("constraints.txt" in line or "--no-deps" in line for line in installs)


def test_the_readme_asks_for_the_status_on_the_head_where_the_dashboard_and_its_token_are(cluster):
    (said,) = re.findall(r"`ray exec cluster.yaml '(neuralblack status [^']*)'`", (ROOT / "README.md").read_text())
    address, port = re.findall(r"--dashboard-(?:host|port)=(\S+)", cluster["head_start_ray_commands"][-1])

    assert said.endswith(f"--registry {SHARED}/registry --dashboard http://{address}:{port}")
    assert environment(cluster)["RAY_AUTH_TOKEN_PATH"] in cluster["file_mounts"]


def test_what_the_readme_serves_and_scrapes_with_lies_on_the_head(cluster):
    assert cluster["file_mounts"][f"{HOME}/serve_configs"] == "./serve_configs"
    named = re.findall(rf"{HOME}/serve_configs/([\w.]+)", (ROOT / "README.md").read_text())

    assert {"production.yaml", "prometheus.yaml"} <= set(named)
    assert [name for name in named if not (ROOT / "serve_configs" / name).is_file()] == []


def test_jobs_run_under_the_python_that_has_the_package(cluster):
    assert 'dirname "$(command -v python)"' in cluster["setup_commands"][0]
    assert 'dirname "$(command -v ray)"' in cluster["setup_commands"][0]


def test_nothing_of_rays_own_defaults_is_left(cluster):
    prepared = prepare_config(copy.deepcopy(cluster))
    for key in ("initialization_commands", "setup_commands"):
        assert prepared[key] == cluster[key]
    for key in ("head_setup_commands", "worker_setup_commands"):  # Ray puts the common ones before these
        assert prepared[key] == cluster["setup_commands"] + cluster[key]
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert cluster[key][0] == "ray stop"
        assert cluster[key][-1].count("ray start ") == 1


def test_dashboard_listens_on_loopback_only(cluster):
    (start,) = [line for line in cluster["head_start_ray_commands"] if "ray start" in line]

    assert "--dashboard-host=127.0.0.1" in start
    assert "0.0.0.0" not in TEXT


def test_every_node_asks_for_the_token_and_has_it(cluster):
    values = environment(cluster)

    assert values["RAY_AUTH_MODE"] == "token"
    assert cluster["file_mounts"][values["RAY_AUTH_TOKEN_PATH"]] == "~/.ray/auth_token"


def test_serving_flags_are_those_of_the_serve_command(cluster, tmp_path):
    own = re.compile("_PORT$|_PATH$|_FILE|_LOC$|_BASE$")  # of one service on one machine; a node has Ray's defaults
    here = environment_here(tmp_path, ports=20_000, max_pending=128)
    flags = {key: value for key, value in here.items() if key.startswith("RAY_SERVE_") and not own.search(key)}

    there = {key: value for key, value in environment(cluster).items() if key.startswith("RAY_SERVE_")}

    assert there == flags


def test_haproxy_refuses_a_crowd_where_the_replicas_of_production_would(cluster):
    production = yaml.safe_load((ROOT / "serve_configs" / "production.yaml").read_text())

    most = production["applications"][0]["args"]["max_pending"]
    assert environment(cluster)["NEURALBLACK_MAX_PENDING"] == str(most)


@pytest.mark.parametrize("key", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_haproxy_is_wrapped_before_ray_starts(cluster, key, tmp_path):
    (tmp_path / "ray").write_text('#!/bin/sh\necho "$RAY_SERVE_HAPROXY_BINARY_PATH $NEURALBLACK_HAPROXY"\n')
    (tmp_path / "ray").chmod(0o755)

    done = subprocess.run(
        ["bash", "-c", cluster[key][-1]],
        env={"PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    wrapper, haproxy = map(Path, done.stdout.split())
    assert wrapper == ROOT / "platform" / "neuralblack" / "cluster" / "haproxy.sh"
    assert os.access(haproxy, os.X_OK)


def test_container_sees_the_shared_file_system(cluster):
    assert f"--volume {SHARED}:{SHARED}" in cluster["docker"]["run_options"]


def test_the_services_token_is_written_once_for_its_user_alone(tmp_path):
    (said,) = re.findall(r"(?m)^#   ray exec cluster\.yaml \"(\(umask .*service_token\))\"$", TEXT)
    assert f'ray exec cluster.yaml "{said}"\n' in (ROOT / "README.md").read_text()
    command = ["bash", "-c", said.replace(SHARED, str(tmp_path))]
    token = tmp_path / "service_token"

    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    first = token.read_text()
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0

    assert token.read_text() == first
    assert len(first.strip()) >= 32
    assert token.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("key", ["initialization_commands", "setup_commands", "head_start_ray_commands"])
def test_commands_are_good_shell(cluster, key):
    for command in cluster[key]:
        assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0


@pytest.fixture
def mounting(cluster, tmp_path):
    """Run the initialization commands with a `sudo` that only writes down what it was asked."""
    asked = tmp_path / "asked"
    for name, body in (("sudo", f'echo "$@" >> {asked}'), ("mountpoint", "exit 1"), ("mount.nfs4", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)

    def run(file_system: str) -> tuple[subprocess.CompletedProcess[str], str]:
        (command,) = cluster["initialization_commands"]
        done = subprocess.run(
            ["bash", "-c", re.sub(r"shared=\S+?\.efs", f"shared={file_system}.efs", command)],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done, asked.read_text() if asked.exists() else ""

    return run


def test_unfilled_file_system_fails_loudly_before_anything_is_done(mounting):
    done, asked = mounting("fs-FILL-IN")

    assert done.returncode == 2
    assert asked == ""
    for words in ("cluster.yaml", "found fs-FILL-IN", "expected the DNS name", "Fix:"):
        assert words in done.stderr


def test_filled_in_file_system_is_mounted_over_nfs(mounting):
    done, asked = mounting("fs-0123456789abcdef0")

    assert done.returncode == 0, done.stderr
    assert "mount -t nfs4 " in asked
    assert f"fs-0123456789abcdef0.efs.us-west-2.amazonaws.com:/ {SHARED}" in asked


def test_make_cluster_refuses_the_unfilled_file():
    rule = re.search(r"(?ms)^cluster:.*?\n\n", (ROOT / "Makefile").read_text()).group()

    assert rule.index("grep -n 'FILL-IN' cluster.yaml || { ") < rule.index("wheel") < rule.index("ray up")


def test_make_cluster_lets_ray_ask_before_it_restarts_a_cluster_that_runs():
    rule = re.search(r"(?ms)^cluster:.*?\n\n", (ROOT / "Makefile").read_text()).group()

    assert re.search(r"(?m)RAY_USAGE_STATS_ENABLED=0 ray up cluster\.yaml$", rule)  # the one question, and no --yes
