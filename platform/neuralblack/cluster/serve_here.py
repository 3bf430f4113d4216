"""Run one service on this machine: a Ray of its own on loopback, HAProxy in front, nothing left behind at the end.

Two services on one host, and what an earlier one left, do not meet: every port, socket and file is this one's own.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from neuralblack.cluster.environment import refuse_ray_imported_first
from neuralblack.cluster.serve_config import LOOPBACK, ServeArgs, check_schema, is_loopback, resolve_config
from neuralblack.cluster.serve_environment import QUIET, environment, free_block, own_folder, refuse_taken
from neuralblack.config import checked
from neuralblack.data.feedback import check_key
from neuralblack.errors import InputError, RunError
from neuralblack.service.auth import token_from
from neuralblack.service.feedback import need_secrets

log = logging.getLogger(__name__)

OBJECT_STORE = 128 * 2**20  # bytes; requests do not go through it


def serve_here(
    config: Path,
    *,
    registry: Path | None = None,
    host: str | None = None,
    port: int | None = None,
    ready: Callable[[str], None],
    until: threading.Event | None = None,
    deadline_s: float = 180.0,
) -> None:
    """Serve until a signal (SIGINT, SIGTERM) or `until`, then stop everything that was started.

    Once per process, and before anything has imported Ray Serve: its settings are read at import.

    Args:
        config: one of serve_configs/.
        registry: where its model is looked up; none given: what the file says.
        host: the interface to listen on; none given: loopback, and a file that says another is warned of.
        port: none given: the file's.
        ready: called once with the address when the model answers.
        until: another way to end it.
        deadline_s: from the start until the model answers.

    Raises:
        InputError: a wrong configuration, no whole model of that name, a port that is taken, no NEURALBLACK_TOKEN
            for a service that is not anonymous.
        RunError: the deployment failed or did not come up in time.
    """
    resolved = resolve_config(config, registry=registry, port=port)
    _need_secrets(resolved, host or LOOPBACK)
    max_pending = max(checked(ServeArgs, each["args"], where=config).max_pending for each in resolved["applications"])
    http = resolved["http_options"]
    if host is None and not is_loopback(http["host"]):
        words = "listening on loopback only: http_options host %s counts with --resolved; here say --host %s"
        log.warning(words, http["host"], http["host"])
    http["host"] = LOOPBACK  # of replicas and Serve's own proxy; HAProxy alone listens where `host` says
    refuse_taken(host or LOOPBACK, http["port"])
    if "ray.serve" in sys.modules:
        raise RuntimeError("Ray Serve is imported already; its settings can no longer be made")
    stop = until or threading.Event()
    with own_folder() as folder, _handlers_kept():
        _hear_signals(stop)
        settings = environment(folder, ports=free_block(), bind_host=host, max_pending=max_pending)
        if "RAY_SERVE_ENABLE_HA_PROXY" not in settings:
            http["host"] = host or LOOPBACK
        os.environ.update(QUIET | settings)
        check_schema(resolved, where=config)
        try:
            try:
                _start_ray(folder)
            except SystemExit:  # how Ray ends a process that gets SIGTERM meanwhile
                return
            _hear_signals(stop)  # Ray has put its own handler there, which aborts
            _deploy(resolved)
            address = f"http://{host or LOOPBACK}:{http['port']}"
            if _await_ready(resolved, stop, time.monotonic() + deadline_s, host=_reachable(host)):
                ready(address)
                stop.wait()
        finally:
            _shut_down(folder)


def _need_secrets(config: dict[str, Any], host: str) -> None:
    """Raise InputError where a replica would refuse to start; it inherits this process's environment."""
    for application in config["applications"]:
        args = application["args"]
        token = token_from(os.environ, anonymous=args.get("anonymous") is True)
        if args.get("feedback"):
            _, key = need_secrets(os.environ)
            check_key(Path(args["feedback"]), key)
        if token is None and host != LOOPBACK:
            log.warning("whoever reaches %s may ask: the configuration says anonymous and there is no token", host)


def _start_ray(folder: Path) -> None:
    import ray

    refuse_ray_imported_first()
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    ray.init(
        address="local",
        namespace="serve",
        include_dashboard=False,
        object_store_memory=OBJECT_STORE,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address=LOOPBACK,
        _temp_dir=str(folder / "ray"),
    )


def _deploy(config: dict[str, Any]) -> None:
    import ray
    from ray.serve._private.api import serve_start
    from ray.serve.schema import ServeDeploySchema

    refuse_missing_gpus(config, ray.cluster_resources())
    schema = ServeDeploySchema.model_validate(config)
    # What `serve run CONFIG` does; the public way to deploy a file is REST, and would need the dashboard's process.
    try:
        client = serve_start(http_options=schema.http_options.model_dump(), proxy_location=schema.proxy_location)
        client.deploy_apps(schema)
    except ray.exceptions.RayError as error:
        raise RunError(f"Serve did not start: {' '.join(str(error).split())}") from error


def _reachable(host: str | None) -> str:
    return LOOPBACK if host in (None, "0.0.0.0") else str(host)  # every interface has loopback among them


def _await_ready(config: dict[str, Any], stop: threading.Event, deadline: float, *, host: str) -> bool:
    """Wait for the model's own /ready: in HAProxy's way /-/healthz says 200 while nothing can answer.

    Returns False where it was stopped meanwhile; raises RunError where the deployment failed or took too long.
    """
    from ray import serve

    url = f"http://{host}:{config['http_options']['port']}/ready"
    state = "not begun"
    while not stop.wait(0.2):
        for application in serve.status().applications.values():
            state = application.status.value
            if state == "DEPLOY_FAILED":
                reasons = [application.message, *(each.message for each in application.deployments.values())]
                raise RunError(f"the service did not start: {cause_of(reasons)}")
        try:
            with urlopen(url, timeout=2) as response:
                if response.status == 200:
                    return True
        except (URLError, OSError):
            pass  # not yet: refused, 404 or 503
        if time.monotonic() > deadline:
            raise RunError(f"the service was not ready in time; Serve says {state}: {_pending(config)}")
    return False


def cause_of(messages: list[str]) -> str:
    r"""Find the line of a Serve status message that says what went wrong, behind its tracebacks.

    >>> cause_of(["Deploying failed", "Error:\n  File ...\nneuralblack.errors.InputError: w.bin: found x\n"])
    'w.bin: found x'
    """
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    for line in reversed(lines):
        _, ours, said = line.partition("InputError: ")
        if ours:
            return said
    errors = [line for line in lines if "Error" in line.partition(":")[0] and not line.startswith("File ")]
    return (errors or lines or ["Serve gave no reason"])[-1]


def _pending(config: dict[str, Any]) -> str:
    import ray

    return (
        f"this machine has {ray.cluster_resources().get('CPU', 0):g} CPUs, see ray_actor_options in the configuration"
    )


def refuse_missing_gpus(config: dict[str, Any], present: dict[str, float]) -> None:
    """Raise InputError where replicas ask for GPUs and Ray has none: Serve would wait for ever."""
    for application in config["applications"]:
        for deployment in application.get("deployments", []):
            wanted = (deployment.get("ray_actor_options") or {}).get("num_gpus", 0)
            if wanted and not present.get("GPU"):
                raise InputError(
                    f"ray_actor_options of {deployment['name']}",
                    found="no GPU on this machine",
                    expected=f"num_gpus: {wanted:g}",
                    fix="neuralblack serve serve_configs/local.yaml, or --resolved OUT.yaml for a cluster",
                )


@contextmanager
def _handlers_kept() -> Iterator[None]:
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _hear_signals(stop: threading.Event) -> None:
    """Let SIGINT and SIGTERM end the service in order. Only the main thread can; elsewhere there is `until`."""

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, ask)
        signal.signal(signal.SIGTERM, ask)


def _shut_down(folder: Path) -> None:
    """Stop Serve and Ray, then whatever of ours is still there: HAProxy outlives an abrupt end."""
    import ray
    from ray import serve

    if whole := ray.is_initialized():
        try:
            serve.shutdown()
        except Exception as error:  # whatever Serve says, its processes must go
            log.warning("Serve did not stop in order: %s", type(error).__name__)
    ray.shutdown()
    deadline = time.monotonic() + (15 if whole else 1)  # what was half started has nobody who ends it
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        if whole:
            log.warning("process %d did not end by itself", pid)
        os.kill(pid, signal.SIGKILL)


def processes_of(folder: Path) -> list[int]:
    """List the processes that were started with a path in `folder` on their command line; this one is not."""
    mark, found = os.fsencode(folder) + b"/", []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int(entry.name) != os.getpid() and mark in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # it ended while we looked
    return found
