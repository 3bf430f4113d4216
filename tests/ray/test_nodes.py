"""Ray over several nodes, which are processes here: work goes over all of them, and a lost node costs time only."""

import logging
import tempfile
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from ray._private import state
from tests.ray.test_cluster import CONFIG, ROOT, eventually, weights_of
from tests.tiny import save_untrained

from neuralblack.cluster.batch_predict import classify_all
from neuralblack.cluster.others import CLASSIFIES
from neuralblack.cluster.session import await_resources
from neuralblack.cluster.train import train_on_cluster
from neuralblack.errors import RunError
from neuralblack.files import read_json
from neuralblack.registry.run_folder import history_of

pytestmark = pytest.mark.ray
EPOCHS = 16


@pytest.fixture(scope="module")
def cluster():
    """A head without CPUs and two nodes with one each, whose workers know the network `tiny`."""
    import ray
    from ray.cluster_utils import Cluster

    # Ray's socket paths may have 107 characters, and pytest's folders have many.
    short = tempfile.TemporaryDirectory(prefix="nb-", dir="/tmp", ignore_cleanup_errors=True)
    with short as folder, pytest.MonkeyPatch.context() as patch:
        (Path(folder) / "ray").mkdir()
        patch.setenv("RAY_TMPDIR", folder)  # or every other Ray of this user would join this one
        patch.setenv("RAY_health_check_period_ms", "1000")  # of 3,000, five times: a lost node is noticed late
        patch.setenv("RAY_health_check_failure_threshold", "3")
        patch.setenv("PYTHONPATH", str(ROOT), prepend=":")
        head = {"num_cpus": 0, "include_dashboard": False, "node_ip_address": "127.0.0.1"}
        # Its hook at exit would be a signal's, which only a main thread may set, and nodes come while others work.
        nodes = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
        try:
            for _ in range(2):
                nodes.add_node(num_cpus=1, node_ip_address="127.0.0.1")
            hook = {"worker_process_setup_hook": "tests.tiny.add_tiny_network"}
            ray.init(nodes.address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=hook)
            yield nodes
        finally:
            ray.shutdown()
            nodes.shutdown()


def lose_one(cluster):
    """Kill a node, as a machine dies: nothing on it says good-bye."""
    cluster.remove_node(min(cluster.worker_nodes, key=lambda node: node.unique_id), allow_graceful=False)


@pytest.fixture
def two_nodes(cluster):
    """The cluster, whatever the test before has done to it."""
    import ray

    while len(cluster.worker_nodes) < 2:
        cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
    eventually(lambda: ray.available_resources().get("CPU", 0) == 2, within_s=60, what="two free nodes")
    return cluster


def in_background(work, *, until, then):
    """Do `work` here; as soon as `until` is true, `then` beside it. Raises what either raised."""
    problems = []

    def follow():
        try:
            eventually(until, within_s=240, what="the moment")
            then()
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        return work()
    finally:
        thread.join()
        assert problems == []


@pytest.mark.soak
def test_a_node_that_comes_to_a_cluster_of_unknown_size_ends_the_wait(two_nodes, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # no configuration of `ray up`, as under KubeRay
    monkeypatch.setenv("RAY_ADDRESS", two_nodes.address)
    third = []
    monkeypatch.setattr(
        "neuralblack.cluster.session.request_resources",  # an autoscaler that needs no time
        lambda bundles: third.append(two_nodes.add_node(num_cpus=1, node_ip_address="127.0.0.1")) if bundles else None,
    )
    try:
        await_resources({"CPU": 1}, 3, wait_s=60)
    finally:
        for node in third:
            two_nodes.remove_node(node, allow_graceful=False)

    assert len(third) == 1


def test_training_goes_on_with_the_workers_that_are_left(two_nodes, dataset, tiny, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("neuralblack.cluster.train.START_S", 20.0)
    config, run = CONFIG.model_copy(update={"epochs": EPOCHS}), tmp_path / "run"

    in_background(
        lambda: train_on_cluster(config, data=dataset.path, run=run, workers=2, min_workers=1),
        until=(run / "epochs" / "0003.json").exists,
        then=lambda: lose_one(two_nodes),
    )

    assert [row["epoch"] for row in history_of(run)] == list(range(EPOCHS))
    assert "going on behind epoch" in (run / "log.txt").read_text()


@pytest.mark.soak
def test_a_run_waits_for_a_node_in_place_of_the_lost_one_and_says_so(two_nodes, dataset, tiny, tmp_path, caplog):
    config, run = CONFIG.model_copy(update={"epochs": EPOCHS}), tmp_path / "run"
    train_on_cluster(config, data=dataset.path, run=tmp_path / "whole", workers=2)

    def lose_and_replace():
        lose_one(two_nodes)
        eventually(lambda: "a node was lost: 1 CPU left where 2 x 1 CPU are" in caplog.text, within_s=60, what="a line")
        two_nodes.add_node(num_cpus=1, node_ip_address="127.0.0.1")

    with caplog.at_level(logging.INFO):
        in_background(
            lambda: train_on_cluster(config, data=dataset.path, run=run, workers=2),
            until=(run / "epochs" / "0003.json").exists,
            then=lose_and_replace,
        )

    assert "there is room again for 2 x 1 CPU" in caplog.text
    assert "going on behind epoch" in (run / "log.txt").read_text()
    assert history_of(run) == history_of(tmp_path / "whole")
    assert weights_of(run) == weights_of(tmp_path / "whole")


@pytest.mark.soak
def test_without_another_node_a_run_ends_in_one_line_and_goes_on_with_fewer(
    two_nodes, dataset, tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr("neuralblack.cluster.train.START_S", 3.0)
    config, run = CONFIG.model_copy(update={"epochs": EPOCHS}), tmp_path / "run"

    with pytest.raises(RunError, match=r"no room for 2 workers within 9 s; the same command goes on behind"):
        in_background(
            lambda: train_on_cluster(config, data=dataset.path, run=run, workers=2),
            until=(run / "epochs" / "0003.json").exists,
            then=lambda: lose_one(two_nodes),
        )
    train_on_cluster(config, data=dataset.path, run=run, workers=1)

    assert [row["epoch"] for row in history_of(run)] == list(range(EPOCHS))


@pytest.fixture
def bulk(dataset, tiny, tmp_path):
    """Six hundred slices in a folder, where answers go, and a model."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(600):
        Image.fromarray(dataset.images[number % len(dataset)]).save(source / f"{number:04d}.png")
    return source, tmp_path / "out", save_untrained(tmp_path / "model")


@pytest.mark.soak
def test_a_bulk_run_that_waits_for_nodes_asks_for_all_that_may_come_and_goes_on_without_them(
    two_nodes, bulk, monkeypatch
):
    monkeypatch.setattr("neuralblack.cluster.batch_predict.reachable_resources", lambda: {"CPU": 3.0})
    source, out, model = bulk
    models = lambda: sum(CLASSIFIES in each["ActorClassName"] for each in state.actors().values())  # noqa: E731
    before = models()

    classify_all(source, out, model=model, engine="eager-fp32", wait_s=60)

    assert models() - before == 3, "two have room, and one is what the autoscaler hears of"
    assert read_json(out / "summary.json")["statuses"]["ok"] == 600


@pytest.mark.soak
def test_a_bulk_run_goes_over_all_nodes_and_loses_no_slice_with_one(two_nodes, bulk):
    source, out, model = bulk
    in_background(
        lambda: classify_all(source, out, model=model, engine="eager-fp32"),
        until=lambda: any((out / "parts").glob("0*.parquet")),
        then=lambda: lose_one(two_nodes),
    )

    rows = [row for part in sorted((out / "parts").glob("0*.parquet")) for row in pq.read_table(part).to_pylist()]
    assert [row["id"] for row in rows] == [f"{number:04d}.png" for number in range(600)]
    assert read_json(out / "summary.json")["statuses"]["ok"] == 600
