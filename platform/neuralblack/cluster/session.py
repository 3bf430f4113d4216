"""Ray for the length of one command: the cluster that this job belongs to, or one in this process on loopback."""

import logging
import math
import os
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.autoscaler.sdk import request_resources

from neuralblack.cluster.environment import joins_cluster, refuse_ray_imported_first
from neuralblack.errors import InputError

log = logging.getLogger(__name__)

Resources = dict[str, float]


@contextmanager
def ray_session(*, dashboard: bool = False, **more: Any) -> Iterator[None]:
    """Have Ray for a block, and leave nothing running of what was started here.

    Args:
        dashboard: start it too (loopback); trials over several workers need it, or stopped ones keep their CPUs.
        more: arguments of ray.init for a Ray that is started here.

    Raises:
        InputError: a cluster is to be joined, and none answers there; or one is to be started, and this process
            imported Ray before this package.

    """
    if ray.is_initialized():  # a test's, or an enclosing command's
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    if joins_cluster():
        _join()
    else:
        refuse_ray_imported_first()
        # Sockets live in there and their paths may have 107 characters: a short name of our own.
        with tempfile.TemporaryDirectory(prefix="nb-", ignore_cleanup_errors=True) as folder:
            yield from _own_ray(folder, dashboard=dashboard, **more)
        return
    try:
        yield
    finally:
        ray.shutdown()


def _join() -> None:
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except (ValueError, ConnectionError) as error:
        if not address:  # a job's own cluster, and something else is wrong
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise InputError(
            f"RAY_ADDRESS {address}",
            found=f"no Ray cluster ({reason[:200]})",
            expected="the address of one that runs, such as 127.0.0.1:6379 or ray://HOST:10001",
            fix="RAY_ADDRESS=HOST:6379 (the dashboard's, http://HOST:8265, is for ray job submit), or unset it",
        ) from None


def _own_ray(folder: str, *, dashboard: bool, runtime_env: Mapping[str, Any] = {}, **more: Any) -> Iterator[None]:
    options: dict[str, Any] = {"include_dashboard": dashboard, "runtime_env": dict(runtime_env), **more}
    if dashboard:
        # What frees a stopped trial's CPUs asks the dashboard, and finds it by this address; without it, it gives up
        # where several Rays run on a machine. The address must be known before Ray starts, so its port is chosen here.
        port, options["dashboard_port"] = _free_port(), _free_port()
        os.environ["RAY_GCS_SERVER_PORT"] = str(port)
        options["runtime_env"]["env_vars"] = {"RAY_ADDRESS": f"127.0.0.1:{port}"}
    try:
        ray.init(
            address="local",
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=150_000_000,  # datasets are memory-mapped files, not objects
            **options,
        )
    finally:
        os.environ.pop("RAY_GCS_SERVER_PORT", None)
    try:
        yield
    finally:
        ray.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_resources(each: Resources, count: int, *, wait_s: float, driver_cpu: float = 0) -> None:
    """Make sure that `count` bundles fit; Ray itself would wait for ever, and say nothing.

    Args:
        each: what one worker takes, such as {"CPU": 2, "GPU": 1}.
        count: how many of them run at once.
        wait_s: how long the autoscaler may take to bring what is missing.
        driver_cpu: what whoever starts them takes beside them.

    Raises:
        InputError: more than the cluster can ever have, where that is known, or not there within `wait_s`.

    """
    needed = {name: value * count for name, value in each.items() if value}
    needed["CPU"] += driver_cpu
    most_of = reachable_resources()
    for name, value in needed.items():
        most = math.inf if most_of is None else most_of.get(name, 0)
        if value > most:
            raise InputError(
                f"{count} x {words(each)}",
                found=f"{most:g} {name} at most in this cluster",
                expected=f"{value:g} {name}",
                fix="ask for fewer workers or GPUs, or raise max_workers in cluster.yaml",
            )
    hope = "the autoscaler can reach it" if most_of is not None else "or fewer, where no autoscaler brings more nodes"
    deadline, said = time.monotonic() + wait_s, -math.inf
    try:
        while missing := {n: value for n, value in needed.items() if ray.cluster_resources().get(n, 0) < value}:
            if time.monotonic() >= deadline:
                raise InputError(
                    f"{count} x {words(each)}",
                    found=", ".join(f"{ray.cluster_resources().get(name, 0):g} {name}" for name in missing),
                    expected=words(missing),
                    fix=f"--wait-for-nodes SECONDS, more than {wait_s:g}; {hope}",
                )
            if time.monotonic() - said > 10:
                log.info("waiting for %s, up to %.0f s more", words(missing), deadline - time.monotonic())
                request_resources(bundles=[each] * count)
                said = time.monotonic()
            time.sleep(0.5)
    finally:
        if said > -math.inf:
            request_resources(bundles=[])  # a request stands until the next one, and so would the nodes


@contextmanager
def said_when_nodes_are_lost(each: Resources, count: int, *, patience_s: float) -> Iterator[None]:
    """Say while a block runs when `count` bundles fit no longer, and when they do again; Ray itself says nothing.

    Args:
        each: what one worker takes.
        count: how many of them are needed at least.
        patience_s: how long the block will wait for room.

    """
    needed = {name: value * count for name, value in each.items() if value}

    def watch(done: threading.Event) -> None:
        lost = False
        while not done.wait(1):
            have = ray.cluster_resources()
            missing = [name for name, value in needed.items() if have.get(name, 0) < value]
            if missing and not lost:
                left = " and ".join(f"{have.get(name, 0):g} {name}" for name in missing)
                log.warning(
                    "a node was lost: %s left where %d x %s are needed; waiting up to %.0f s for another",
                    *(left, count, words(each), patience_s),
                )
            if lost and not missing:
                log.info("there is room again for %d x %s", count, words(each))
            lost = bool(missing)

    with beside(watch):
        yield


@contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Do `work` in a thread while a block runs; it ends when its event is set."""
    done = threading.Event()
    thread = threading.Thread(target=work, args=(done,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def reachable_resources() -> Resources | None:
    """Count what the cluster has, or could have when the autoscaler has brought every node it may; None: nobody knows.

    `ray up` leaves its configuration on the head, where a job's entrypoint runs. What the autoscaler of another cluster
    may bring, such as KubeRay's, is written nowhere in it. A Ray of our own has none.
    """
    most: Resources = {name: float(value) for name, value in ray.cluster_resources().items()}
    if not joins_cluster():
        return most
    path = Path("~/ray_bootstrap_config.yaml").expanduser()
    if not path.exists():
        return None
    config, total = yaml.safe_load(path.read_text("utf-8")), Counter[str]()
    for node in config["available_node_types"].values():
        for name, value in node.get("resources", {}).items():
            total[name] += value * node.get("max_workers", config.get("max_workers", 0))
    return {name: max(most.get(name, 0), float(total[name])) for name in {*most, *total}}


def cpus_per_worker(workers: int, *, gpus: bool) -> int:
    """Share the CPUs out: each worker gets as many threads as it is granted CPUs. A GPU's worker needs one."""
    if gpus:
        return 1
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    nodes = [cpus for cpus in nodes if cpus >= 1] or [1]
    return max(1, int(min(nodes) // -(-workers // len(nodes))))


def words(resources: Resources) -> str:
    """Say resources, such as 2 CPU and 1 GPU."""
    return " and ".join(f"{value:g} {name}" for name, value in resources.items() if value)
