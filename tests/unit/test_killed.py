"""kill -9 at any moment: the same command ends with the weights of a run that nobody disturbed."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress

from tests.e2e.processes import descendants
from tests.ray.test_cluster import CONFIG, ROOT, eventually, weights_of

from neuralblack.registry.run_folder import history_of
from neuralblack.training.runs import train_here

TRAIN = """
import logging
import sys
from pathlib import Path
from tests.tiny import add_tiny_network_and_save_every_epoch
from neuralblack.cluster.session import ray_session
from neuralblack.cluster.train import train_on_cluster
from neuralblack.config import TrainConfig

logging.basicConfig(level=logging.INFO, format="%(message)s")
add_tiny_network_and_save_every_epoch()
config, data, run, workers = TrainConfig.model_validate_json(sys.argv[1]), *map(Path, sys.argv[2:4]), int(sys.argv[4])
if not workers:
    train_on_cluster(config, data=data, run=run, workers=0)
else:
    hook = {"worker_process_setup_hook": "tests.tiny.add_tiny_network_and_save_every_epoch"}
    with ray_session(num_cpus=2, runtime_env=hook):
        train_on_cluster(config, data=data, run=run, workers=workers)
"""


def started(config, dataset, run, workers):
    """Train in a process of its own, whose children belong to its group."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "platform")))
    command = [sys.executable, "-c", TRAIN, config.model_dump_json(), dataset.path, run, str(workers)]
    with (run.parent / "said.txt").open("a") as said:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=said, stderr=said, start_new_session=True)


def newest(run):
    """The number of the newest epoch in a run's folder; -1 where there is none."""
    return max((int(path.stem) for path in (run / "epochs").glob("*.json")), default=-1)


def kill_behind(epoch, process, run, *, moment_s):
    """Kill a process and all of its own a moment behind an epoch, perhaps in the midst of a checkpoint."""
    eventually(lambda: newest(run) >= epoch or process.poll() is not None, within_s=120, what=f"epoch {epoch}")
    time.sleep(moment_s)
    assert process.poll() is None, (run.parent / "said.txt").read_text()
    for pid in descendants(process.pid):  # Ray's worker is of another group, and would go on for another second
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def assert_kills_cost_nothing(dataset, folder, *, workers, kills, disturb=None):
    """Kill a driver so often, each time behind what `disturb` does to its workers, and compare with a whole run."""
    run, whole = folder / "broken", folder / "whole"
    config = CONFIG.model_copy(update={"epochs": 8 * kills + 12})
    train_here(config, data=dataset.path, run=whole)
    reached, moments = [], random.Random(kills)

    for _ in range(kills):
        process = started(config, dataset, run, workers)
        if disturb:
            disturb(process, newest(run) + 2, run)
        kill_behind(newest(run) + 3, process, run, moment_s=moments.uniform(0, 0.1))  # as long as an epoch takes
        reached.append(newest(run))
    process = started(config, dataset, run, workers)
    assert process.wait(300) == 0, (folder / "said.txt").read_text()

    said = (folder / "said.txt").read_text()
    went_on = [int(number) for number in re.findall(r"going on behind epoch (\d+)", said)]
    print(f"{workers} workers, {kills} kills: newest epochs {reached}, went on behind {went_on}")
    assert [row["epoch"] for row in history_of(run)] == list(range(config.epochs))
    assert history_of(run) == history_of(whole)
    assert weights_of(run) == weights_of(whole)


def test_a_driver_killed_at_random_moments_costs_no_epoch_and_no_bit(dataset, tiny, tmp_path):
    assert_kills_cost_nothing(dataset, tmp_path, workers=0, kills=2)
