"""What a service's YAML becomes before Ray sees it; no Ray is started here."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from neuralblack.cluster import serve_environment as surroundings
from neuralblack.cluster import serve_here as running
from neuralblack.cluster.serve_config import DEPLOYMENT, check_schema, resolve_config, write_resolved
from neuralblack.config import TrainConfig
from neuralblack.data.feedback import mark_key
from neuralblack.errors import InputError, RunError

CONFIGS = Path(__file__).parents[2] / "serve_configs"
MODEL_ID, HASH = "tiny-0123456789ab", "0123456789ab" + "c" * 52


class Model:
    id, hash, config = MODEL_ID, HASH, TrainConfig()


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry whose champion is a model of this id; what is in it does not matter here."""
    asked = []

    def resolve(where, name):
        asked.append((where, name))
        return Model()

    monkeypatch.setattr("neuralblack.cluster.serve_config.resolve", resolve)
    yield tmp_path / "registry"
    assert set(asked) <= {((tmp_path / "registry").resolve(), "champion")}


@pytest.mark.parametrize("name", ["local.yaml", "production.yaml"])
def test_the_alias_becomes_a_model_and_its_hash_that_rays_own_schema_takes(name, registry, tmp_path):
    assert write_resolved(CONFIGS / name, tmp_path / "out" / name, registry=registry) == MODEL_ID

    config = yaml.safe_load((tmp_path / "out" / name).read_text())
    args = config["applications"][0]["args"]
    assert (args["model"], args["hash"], args["registry"]) == (MODEL_ID, HASH, str(registry.resolve()))
    assert config["http_options"]["host"] == yaml.safe_load((CONFIGS / name).read_text())["http_options"]["host"]
    check_schema(config, where=name)
    with pytest.raises(InputError, match=r"^/proc: found a folder in which none can be made"):
        write_resolved(CONFIGS / name, Path("/proc/below") / name, registry=registry)


@pytest.mark.parametrize("name", ["local.yaml", "production.yaml", "prometheus.yaml"])
def test_every_setting_has_its_reason_beside_it(name):
    lines = (CONFIGS / name).read_text().splitlines()
    settings = [line for line in lines if re.match(r"\s*(- )?\w+: *[^ #]", line)]

    assert settings and [line for line in settings if "# " not in line] == []


@pytest.mark.parametrize("name", ["local.yaml", "production.yaml"])
def test_batches_can_fill_and_replicas_can_scale(name):
    deployment = yaml.safe_load((CONFIGS / name).read_text())["applications"][0]["deployments"][0]

    assert deployment["max_ongoing_requests"] >= 2 * deployment["user_config"]["max_batch_size"]
    scaling = deployment.get("autoscaling_config")
    if scaling:  # the metric ends at max_ongoing_requests
        assert scaling["target_ongoing_requests"] <= deployment["max_ongoing_requests"] / 2


@pytest.mark.parametrize("name", ["local.yaml", "production.yaml"])
def test_a_hundred_and_twenty_eight_clients_are_never_refused_and_refusals_are_the_apps_own(name):
    application = yaml.safe_load((CONFIGS / name).read_text())["applications"][0]
    deployment = application["deployments"][0]

    assert 128 <= application["args"]["max_pending"] <= deployment["max_ongoing_requests"] - 4 * 96
    assert deployment["backpressure_config"]["status_code"] == 429  # Serve's own refusals, behind the app's


def test_only_the_local_service_answers_without_a_token_and_only_on_loopback():
    local, production = (yaml.safe_load((CONFIGS / name).read_text()) for name in ("local.yaml", "production.yaml"))

    assert local["applications"][0]["args"]["anonymous"] is True
    assert local["http_options"]["host"] == "127.0.0.1"
    assert "anonymous" not in production["applications"][0]["args"]


def test_a_clusters_proxy_reaches_replicas_on_other_nodes_whichever_command_is_copied(registry, tmp_path):
    from ray._common.network_utils import get_all_interfaces_ip

    out = tmp_path / "out.yaml"
    write_resolved(CONFIGS / "production.yaml", out, registry=registry)  # as SERVE_ANEW and the file's header say it

    assert yaml.safe_load(out.read_text())["http_options"]["host"] == get_all_interfaces_ip()


@pytest.mark.parametrize(
    ("change", "host", "said"),
    [
        ({}, None, "http_options host 127.0.0.1 is one machine's alone: for a cluster of several say --host 0.0.0.0"),
        ({}, "127.0.0.1", None),
        ({}, "0.0.0.0", "whoever reaches 0.0.0.0 may ask, where the nodes have no NEURALBLACK_TOKEN"),
        ({"anonymous": False}, "0.0.0.0", None),
    ],
    ids=["loopback by the file", "loopback by choice", "everywhere, anonymous", "everywhere, with a token"],
)
def test_it_is_said_who_does_not_reach_what_is_deployed_and_who_does(change, host, said, registry, tmp_path, caplog):
    path = changed(tmp_path, lambda app: app["args"].update(change))

    write_resolved(path, tmp_path / "out.yaml", registry=registry, host=host)

    assert [message.startswith(said or "never") for message in caplog.messages] == [True] * bool(said)


def test_production_has_more_replicas_than_one_request_can_kill(tmp_path):
    deployment = yaml.safe_load((CONFIGS / "production.yaml").read_text())["applications"][0]["deployments"][0]
    retries = int(surroundings.environment(tmp_path, ports=20_000, max_pending=9)["RAY_SERVE_HAPROXY_RETRIES"])

    assert deployment["autoscaling_config"]["min_replicas"] > retries + 1
    assert deployment["max_surge_percent"] == 100


def test_replicas_can_be_spread_over_machines_while_a_new_version_starts_beside_the_old(registry, tmp_path):
    text = (CONFIGS / "production.yaml").read_text()
    spread = tmp_path / "spread.yaml"
    spread.write_text(text.replace("# max_replicas_per_node: 2  #", "max_replicas_per_node: 2  #"))
    deployment = yaml.safe_load(spread.read_text())["applications"][0]["deployments"][0]

    write_resolved(spread, tmp_path / "out.yaml", registry=registry)  # checked by Ray's schema and ours

    machines = yaml.safe_load((CONFIGS.parent / "cluster.yaml").read_text())["max_workers"]
    least, each = deployment["autoscaling_config"]["min_replicas"], deployment["max_replicas_per_node"]
    assert least > each  # so there are two machines
    assert 2 * least <= each * machines  # both versions find room
    assert f"max_replicas: {each * machines}" in text


def test_replicas_logs_can_be_kept_on_the_shared_file_system(registry, tmp_path):
    text = (CONFIGS / "production.yaml").read_text()
    (kept,) = re.findall(r"(?m)^    # (logging_config: {.*})", text)
    path = tmp_path / "kept.yaml"
    path.write_text(re.sub(r"(?m)^    logging_config: {.*?}", f"    {kept}", text))

    write_resolved(path, tmp_path / "out.yaml", registry=registry)  # checked by Ray's schema and ours

    (application,) = yaml.safe_load((tmp_path / "out.yaml").read_text())["applications"]
    assert application["logging_config"] == {"encoding": "JSON", "logs_dir": "/mnt/shared/serve_logs"}


def test_host_and_port_are_taken_from_the_command_line(registry):
    http = resolve_config(CONFIGS / "local.yaml", registry=registry, host="192.0.2.1", port=81)["http_options"]

    assert (http["host"], http["port"]) == ("192.0.2.1", 81)


@pytest.mark.parametrize(("node", "warned"), [("128", False), ("160", True), (None, False)])
def test_another_limit_of_haproxy_than_of_the_replicas_is_said(node, warned, registry, tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("NEURALBLACK_MAX_PENDING", raising=False)
    if node:
        monkeypatch.setenv("NEURALBLACK_MAX_PENDING", node)

    write_resolved(CONFIGS / "production.yaml", tmp_path / "out.yaml", registry=registry)

    said = "max_pending is 128, but HAProxy has NEURALBLACK_MAX_PENDING=160: make them one number"
    assert [message.startswith(said) for message in caplog.messages] == [True] * warned


def changed(tmp_path, change):
    config = yaml.safe_load((CONFIGS / "local.yaml").read_text())
    change(config["applications"][0])
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda app: app["deployments"][0].update(max_ongoing_request=3), ["max_ongoing_request", "spelling"]),
        (lambda app: app["deployments"][0].update(user_config={"max_batch_size": 0}), ["max_batch_size", "found 0"]),
        (lambda app: app["deployments"][0].update(user_config={"batch": 8}), ["user_config", "batch"]),
        (lambda app: app["args"].update(engin="auto"), ["args", "engin"]),
        (lambda app: app["args"].update(decoders=0), ["args", "decoders", "found 0"]),
        (lambda app: app["args"].update(deadline_s=30), ["deadline_s", "found 30", "request_timeout_s, 30"]),
        (lambda app: app["args"].update(max_pending=1024), ["max_pending", "max_ongoing_requests, 1024"]),
        (lambda app: app["deployments"][0].pop("max_ongoing_requests"), ["max_pending", "max_ongoing_requests, 5"]),
        (lambda app: app.update(import_path="other:app"), ["no application of this package"]),
        (lambda app: app.pop("deployments"), ["deployments", "found none", "Classifier"]),
        (lambda app: app["deployments"][0].update(name="Clasifier"), ["deployments", "found Clasifier", "Classifier"]),
        (lambda app: app["deployments"].append({"name": "Other"}), ["found Classifier, Other", "Classifier alone"]),
        (lambda app: app.update(route_prefx="/"), ["application neuralblack", "route_prefx", "route_prefix"]),
        (
            lambda app: app["deployments"][0].update(ray_actor_options={"num_gpu": 1}),
            ["ray_actor_options", "num_gpu", "num_gpus"],
        ),
        (
            lambda app: app["deployments"][0].update(num_replicas=None, autoscaling_config={"min_replica": 3}),
            ["autoscaling_config", "min_replica", "min_replicas"],
        ),
        (lambda app: app["args"].update(engine="openvino_bf16"), ["args engine", "openvino_bf16", "openvino-bf16"]),
        (lambda app: app["args"].update(feedback=5), ["args feedback", "found 5", "Fix: name a folder, or leave"]),
        (lambda app: app.update(args="champion"), ["args", "found 'champion'", "NAME: VALUE"]),
        (lambda app: app["deployments"][0].update(max_ongoing_requests="many"), ["max_ongoing_requests", "many"]),
    ],
    ids=[
        "unknown option",
        "empty batches",
        "unknown live option",
        "misspelt argument",
        "no decoder",
        "deadline behind Serve's",
        "limit behind Serve's",
        "no slots",
        "another app",
        "no deployment",
        "misspelt deployment",
        "two deployments",
        "misspelt key",
        "misspelt actor option",
        "misspelt autoscaling",
        "misspelt engine",
        "a folder that is none",
        "args that are none",
        "slots that are none",
    ],
)
def test_a_mistake_in_the_yaml_is_named_and_nothing_is_written(change, words, registry, tmp_path):
    with pytest.raises(InputError) as error:
        write_resolved(changed(tmp_path, change), tmp_path / "out.yaml", registry=registry)

    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "out.yaml").exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"port": "abc"}, ["http_options port", "found 'abc'", "65535"]),
        ({"port": None}, ["http_options port", "found None"]),
        ({"port": 70_000}, ["http_options port", "found 70000"]),
        ({"port": 0}, ["http_options port", "found 0", "1 to 65535"]),
        ({"request_timeouts": 30}, ["http_options", "request_timeouts", "request_timeout_s"]),
        ({"request_timeout_s": "25"}, ["deadline_s", "request_timeout_s, 25"]),
        (5, ["http_options", "found 5"]),
    ],
    ids=["no number", "nothing", "too large", "any", "misspelt", "a number in quotes", "no settings"],
)
def test_a_mistake_in_the_http_options_is_named_in_one_line(option, words, registry, tmp_path):
    path = changed(tmp_path, lambda app: None)
    config = yaml.safe_load(path.read_text())
    config["http_options"] = config["http_options"] | option if isinstance(option, dict) else option
    path.write_text(yaml.safe_dump(config))

    with pytest.raises(InputError) as error:
        write_resolved(path, tmp_path / "out.yaml", registry=registry)

    assert str(path) in str(error.value) and "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_settings_whose_lines_are_all_commented_out_are_the_defaults(registry, tmp_path):
    path = changed(tmp_path, lambda app: app.update(args=None))
    path.write_text(re.sub(r"http_options:\n( .*\n)+", "http_options:\n", path.read_text()))

    write_resolved(path, tmp_path / "out.yaml", registry=registry)

    config = yaml.safe_load((tmp_path / "out.yaml").read_text())
    assert config["http_options"] == {"host": "127.0.0.1", "port": 8000}
    assert config["applications"][0]["args"]["model"] == MODEL_ID


def test_a_registry_that_is_nothing_is_named(registry, tmp_path):
    with pytest.raises(InputError, match="args registry: found None; expected a folder"):
        resolve_config(changed(tmp_path, lambda app: app["args"].update(registry=None)))


def test_feedback_is_refused_with_a_model_that_would_refuse_each_slice_of_it(registry, tmp_path, monkeypatch):
    path = changed(tmp_path, lambda app: app["args"].update(feedback="kept"))

    assert resolve_config(path, registry=registry)["applications"][0]["args"]["feedback"].endswith("kept")
    monkeypatch.setattr(Model, "config", TrainConfig(input="roi"))
    with pytest.raises(InputError, match=f"args feedback: found a folder, and the model {MODEL_ID}, which needs a box"):
        resolve_config(path, registry=registry)


def test_the_deployment_has_the_name_of_its_class():
    from neuralblack.cluster.serve import Classifier

    assert Classifier.name == DEPLOYMENT


@pytest.mark.parametrize(("text", "words"), [(None, "no file"), (": :", "no YAML"), ("hello", "no application")])
def test_what_is_no_configuration_is_said_in_one_line(text, words, tmp_path):
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)

    with pytest.raises(InputError, match=words) as error:
        resolve_config(path)
    assert "\n" not in str(error.value)


def test_a_replica_refuses_a_configuration_that_was_not_resolved():
    from neuralblack.cluster.serve import app

    with pytest.raises(InputError, match=r"^the application's args: found the model champion without its hash"):
        app({"model": "champion", "registry": "/registry"})
    with pytest.raises(InputError, match="absolute path"):
        app({"model": MODEL_ID, "hash": HASH, "registry": "registry"})


def test_every_port_socket_and_file_of_a_service_is_its_own(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    first = surroundings.environment(one, ports=20_000, max_pending=9)
    second = surroundings.environment(other, ports=20_256, max_pending=9)

    ours = [name for name in first if name.endswith(("_PORT", "_LOC", "_PATH", "_BASE", "_FILE"))]
    assert len(ours) >= 14
    assert all(first[name] != second[name] for name in ours)
    ports = [int(first[name]) for name in ours if name.endswith("_PORT")]
    assert min(ports) >= 20_000 and max(ports) < 20_256 and len(set(ports)) == len(ports)


def test_a_machine_without_free_ports_says_what_frees_some(monkeypatch):
    monkeypatch.setattr(surroundings, "_is_free", lambda host, port: False)

    with pytest.raises(RunError, match="Fix: stop another service"):
        surroundings.free_block()


def test_a_port_that_is_taken_is_refused_before_anything_starts(registry):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="another program listening"):
            running.serve_here(
                CONFIGS / "local.yaml", registry=registry, port=taken.getsockname()[1], ready=pytest.fail
            )


@pytest.mark.parametrize(
    ("named", "host", "warned"),
    [("0.0.0.0", None, True), ("127.0.0.1", None, False), ("0.0.0.0", "127.0.0.1", False)],
    ids=["by the file", "nowhere", "by both"],
)
def test_a_host_that_only_the_file_names_is_said_to_be_passed_over(named, host, warned, registry, tmp_path, caplog):
    path = tmp_path / "open.yaml"
    path.write_text((CONFIGS / "local.yaml").read_text().replace("host: 127.0.0.1", f"host: {named}"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match="another program listening"):
            running.serve_here(path, registry=registry, host=host, port=port, ready=pytest.fail)

    said = "listening on loopback only: http_options host 0.0.0.0 counts with --resolved; here say --host 0.0.0.0"
    assert (said in caplog.messages) == warned


def test_without_a_token_a_service_that_is_not_anonymous_is_refused_before_anything_starts(
    registry, tmp_path, monkeypatch
):
    monkeypatch.delenv("NEURALBLACK_TOKEN", raising=False)
    config = changed(tmp_path, lambda app: app["args"].pop("anonymous"))

    with pytest.raises(InputError, match="environment NEURALBLACK_TOKEN: found no token") as error:
        running.serve_here(config, registry=registry, ready=pytest.fail)
    assert "\n" not in str(error.value)


def test_feedback_that_was_kept_by_another_key_is_refused_before_anything_starts(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("NEURALBLACK_READERS", "anna=anna-may-say-what-it-is")
    monkeypatch.setenv("NEURALBLACK_FEEDBACK_KEY", "0f" * 16)
    mark_key(tmp_path, b"1e" * 16)
    config = changed(tmp_path, lambda app: app["args"].update(feedback=str(tmp_path)))

    with pytest.raises(InputError, match="another key than the one"):
        running.serve_here(config, registry=registry, ready=pytest.fail)


def test_replicas_on_a_cluster_inherit_the_token_from_a_file_that_only_their_user_reads():
    commands = yaml.safe_load((CONFIGS.parent / "cluster.yaml").read_text())

    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        before, _, _ = commands[name][-1].partition("ray start")
        assert 'export NEURALBLACK_TOKEN="$(cat /mnt/shared/service_token' in before


@pytest.mark.parametrize("name", ["serve_here", "serve_config", "serve_environment"])
def test_the_settings_can_still_be_made_when_the_module_is_loaded(name):
    """Ray Serve reads its environment at import, so these modules must not import it."""
    code = f"import sys, neuralblack.cluster.{name}; sys.exit('ray.serve' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_replicas_that_want_a_gpu_are_refused_where_there_is_none():
    config = yaml.safe_load((CONFIGS / "production.yaml").read_text())

    running.refuse_missing_gpus(config, {"CPU": 2.0, "GPU": 1.0})
    with pytest.raises(InputError, match="no GPU on this machine"):
        running.refuse_missing_gpus(config, {"CPU": 2.0})


def test_a_temporary_folder_too_deep_for_sockets_is_refused(registry, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp/" + "x" * 60)

    with pytest.raises(InputError, match="TMPDIR"), surroundings.own_folder():
        pytest.fail("it was taken")
