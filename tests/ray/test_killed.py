"""kill -9 at any moment, many times or with workers of Ray: the long versions of tests/unit/test_killed.py."""

import os
import signal

import pytest
from tests.e2e.processes import descendants, words_of
from tests.ray.test_cluster import eventually
from tests.unit.test_killed import assert_kills_cost_nothing, newest

pytestmark = [pytest.mark.ray, pytest.mark.soak]
STARTS = "device and number format"  # what a worker says first


def kill_a_worker(process, epoch, run):
    """Kill one of its Ray Train workers behind an epoch; the driver starts it again."""
    eventually(lambda: newest(run) >= epoch or process.poll() is not None, within_s=120, what=f"epoch {epoch}")
    said = run.parent / "said.txt"
    starts = said.read_text().count(STARTS)
    (*_, worker) = [pid for pid in sorted(descendants(process.pid)) if "RayTrainWorker" in words_of(pid)[0]]
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: said.read_text().count(STARTS) > starts, within_s=120, what="another worker")


@pytest.mark.parametrize(("workers", "kills"), [(1, 1), (0, 20), (1, 20)])
def test_a_driver_killed_at_random_moments_costs_no_epoch_and_no_bit(workers, kills, dataset, tiny, tmp_path):
    disturb = kill_a_worker if workers else None

    assert_kills_cost_nothing(dataset, tmp_path, workers=workers, kills=kills, disturb=disturb)
