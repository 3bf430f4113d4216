"""A Ray of our own listens on loopback alone; joining a cluster: an address where none is, is said in one line."""

import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import ray

from neuralblack.cluster import crossval, train, tune
from neuralblack.cluster.session import ray_session
from neuralblack.config import TrainConfig
from neuralblack.errors import InputError
from neuralblack.registry.run_folder import hold_run


@pytest.mark.parametrize("late", ["", "os.environ['RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER'] = '0'; "])
def test_ray_that_was_imported_first_is_not_started_where_others_reach_it(late):
    code = (
        f"import os, ray; {late}from neuralblack.cluster.session import ray_session\n"
        "with ray_session(): print('started')"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}

    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)

    assert done.returncode == 1 and "started" not in done.stdout
    assert "Fix: import neuralblack.cluster first" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "OMP_NUM_THREADS": "1"}, len(os.sched_getaffinity(0))),
        ({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "OMP_NUM_THREADS": "3"}, 3),  # torch takes no more than there are cores
        ({"OMP_NUM_THREADS": "1"}, 1),
    ],
    ids=["a job's entrypoint", "one that was told how many", "no job"],
)
def test_what_a_job_computes_by_itself_has_all_cores(environment, threads):
    say = "lambda: print(os.environ['OMP_NUM_THREADS'], __import__('torch').get_num_threads())"
    code = f"import os; from neuralblack.cli import run_verb; run_verb({say})"

    done = subprocess.run([sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True)

    assert done.stdout.split() == [str(threads), str(min(threads, len(os.sched_getaffinity(0))))], done.stderr


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("http://127.0.0.1:8265", ValueError("Module: http does not have get_client function.\nmore")),
        ("127.0.0.1:6379", ConnectionError("Could not find any running Ray instance.")),
    ],
    ids=["the dashboard's", "nobody's"],
)
def test_an_address_without_a_cluster_is_one_line(address, error, monkeypatch):
    def init(**_):
        raise error

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    with pytest.raises(InputError) as raised, ray_session():
        pass

    words = str(raised.value)
    assert words.startswith(f"RAY_ADDRESS {address}: found no Ray cluster ({str(error).splitlines()[0]})")
    assert "\n" not in words and "RAY_ADDRESS=HOST:6379" in words


def test_an_error_of_what_runs_in_a_session_stays_what_it_is(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)

    with pytest.raises(ValueError, match="mine"), ray_session():
        raise ValueError("mine")


@pytest.mark.parametrize(
    ("module", "command"),
    [(train, train.train_on_cluster), (tune, tune.tune_on_cluster), (crossval, crossval.cross_validate)],
    ids=["train", "tune", "crossval"],
)
def test_a_run_that_somebody_works_on_is_said_before_anybody_waits_for_machines(
    module, command, dataset, tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "ray_session", lambda **_: nullcontext())
    monkeypatch.setattr(module, "await_resources", lambda *_, **__: pytest.fail("it waits, and asks for machines"))
    monkeypatch.setattr("ray.nodes", lambda: [])
    config = TrainConfig(model="tiny", weights="none")

    with hold_run(tmp_path / "run"), pytest.raises(InputError, match="found a process that works on it now"):
        command(config, data=dataset.path, run=tmp_path / "run", wait_s=900)
