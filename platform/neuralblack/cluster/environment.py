"""Where a command runs: within a job or not, and what a Ray of our own needs in its environment before its import."""

import os
from pathlib import Path
from typing import Literal

from neuralblack.errors import InputError
from neuralblack.files import is_address

_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
LOCAL = {
    "RAY_AUTH_MODE": "disabled",  # loopback only; unset, Ray 2.60 writes a token into the home folder
    _LOOPBACK: "0",  # without it Linux replaces 127.0.0.1 by the machine's address
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # the default 2 s redoes more epochs after a killed worker
}
_THREADS = "OMP_NUM_THREADS"
_WITHIN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set in a job's entrypoint; RAY_JOB_SUBMISSION_ID is not


def within_job() -> bool:
    """Tell whether this process is the entrypoint of a submitted Ray job."""
    return _WITHIN_JOB in os.environ


def joins_cluster() -> bool:
    """Tell whether there is a cluster to join, rather than one to start here."""
    return within_job() or bool(os.environ.get("RAY_ADDRESS"))


def set_environment() -> None:
    """Set what is not set yet; where a cluster is joined, its own settings hold.

    But for a job's entrypoint: Ray gives it one thread, and it calibrates, judges finalists and evaluates by itself.
    """
    if within_job() and os.environ.get(_THREADS) == "1":
        os.environ[_THREADS] = str(_cores())  # torch reads it when it is imported, which is later
    if not joins_cluster():
        for name, value in LOCAL.items():
            os.environ.setdefault(name, value)


def _cores() -> int:
    """Count the processors that this process may use; a container may have a share of their time (cgroup v2)."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def refuse_ray_imported_first() -> None:
    """Refuse to start a Ray that was imported before this package: it would listen where others reach it."""
    from ray._private import ray_constants  # what Ray has read; the environment may say otherwise by now

    if ray_constants.ENABLE_RAY_CLUSTER:
        raise InputError(
            "import ray",
            found="Ray imported before neuralblack.cluster, so it would listen on this machine's own address",
            expected="loopback, which Ray reads from its environment when it is imported",
            fix=f"import neuralblack.cluster first, or export {_LOOPBACK}={LOCAL[_LOOPBACK]} before Python starts",
        )


def shared_path(path: str | Path, *, name: str) -> Path:
    """Make a path one that workers elsewhere can open; within a job a relative one is refused.

    A job's working folder is a copy that goes with the job, and so would everything written there.
    """
    if is_address(path):
        raise InputError(
            f"{name} {path}",
            found="a URI",
            expected="an absolute path on the shared file system",
            fix="mount it on every node",
        )
    refuse_relative(path, name=name)
    return Path(path).resolve()


def shared_dataset(path: str | Path, *, name: str = "dataset") -> str:
    """Make a dataset's path one that workers elsewhere can open; the address of shards is one already."""
    return str(path) if is_address(path) else str(shared_path(path, name=name))


def device_here(*, gpus: bool) -> Literal["cpu", "cuda"]:
    """Say on what this process computes, where it does so itself (`--workers 0`): on a GPU only where one is asked for.

    Raises InputError where there is none.
    """
    from neuralblack.models.execution import choose_device  # here: most of what asks for this module needs no torch

    device: Literal["cpu", "cuda"] = "cuda" if gpus else "cpu"
    choose_device(device)
    return device


def refuse_relative(path: str | Path, *, name: str) -> None:
    """Refuse a relative path within a job; elsewhere it means what it says."""
    if within_job() and not Path(path).is_absolute():
        raise InputError(
            f"{name} {path}",
            found="a relative path inside a job",
            expected="an absolute path that every node reaches",
            fix="the job's folder goes with the job; use the shared file system, such as /mnt/shared/runs/first",
        )
