"""A run's workers are started again for what may pass, so often behind each epoch, and never for what cannot."""

import pickle
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import ray.train
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.controller.state import ReschedulingState, RestartingState, RunningState

from neuralblack.cluster import train
from neuralblack.cluster.retries import Retries
from neuralblack.config import TrainConfig
from neuralblack.errors import InputError, PassingError, RunError, is_final, known_to_be_there

MISTAKE = InputError("batch_norm", found="1 slice", expected="more", fix="--set batch_norm=eval")
FULL = PassingError("run", found="no space left on the disk", expected="room to write", fix="free some space")
DEAD = WorkerHealthCheckFailedError("the actor died", RuntimeError("killed"))
BROKEN = RuntimeError("Connection closed by peer")
try:
    with known_to_be_there():
        raise InputError("slices", found="nothing", expected="a dataset", fix="check the path")
except PassingError as unmounted:
    UNMOUNTED = unmounted
EACH = {"CPU": 1.0, "GPU": 1.0}


@pytest.fixture
def retries(tmp_path):
    """What allows two losses and one start without room in a row, as it comes to Ray Train's controller."""
    return pickle.loads(pickle.dumps(Retries(tmp_path / "log.txt", losses=2, starts=1)))


def lose(retries, *errors):
    """Tell it of workers that failed, by their ranks."""
    failed = ray.train.WorkerGroupError("failed", dict(enumerate(errors)))
    retries.after_controller_state_update(RunningState(), RestartingState(failed))


def find_no_room(retries):
    failed = ray.train.ControllerError(WorkerGroupStartupTimeoutError(2))
    retries.after_controller_state_update(RunningState(), ReschedulingState(failed))


def keep(retries, epoch):
    """Tell it of a report; an epoch is one with a checkpoint."""
    checkpoint = None if epoch is None else SimpleNamespace(path=f"/runs/first/checkpoints/epoch_{epoch:04d}")
    retries.after_report(SimpleNamespace(checkpoint=checkpoint), [{}])


@pytest.mark.parametrize("errors", [[RunError("the loss is nan")], [BROKEN, MISTAKE], [DEAD, RunError("no memory")]])
def test_what_cannot_pass_ends_the_run_at_once_whatever_the_other_workers_saw_of_it(errors, retries, tmp_path):
    with pytest.raises((RunError, InputError)) as raised:
        lose(retries, *errors)

    assert raised.value is errors[-1]
    assert not (tmp_path / "log.txt").exists()


def test_what_may_pass_is_tried_again_with_a_line_and_a_limit(retries, tmp_path):
    lose(retries, UNMOUNTED, DEAD)
    lose(retries, FULL)
    with pytest.raises(ray.train.WorkerGroupError):
        lose(retries, BROKEN)

    assert (tmp_path / "log.txt").read_text().splitlines() == [
        "rank 1: its process died (killed, or out of memory); the workers start again",
        f"rank 0: PassingError: {FULL}; the workers start again",
    ]


def test_every_new_epoch_that_is_kept_gives_all_tries_back_and_one_that_is_done_again_none(retries):
    for epoch in range(4):
        find_no_room(retries)
        lose(retries, DEAD)
        lose(retries, DEAD)
        keep(retries, epoch)
    lose(retries, DEAD)
    lose(retries, DEAD)
    find_no_room(retries)
    keep(retries, None)
    keep(retries, 3)
    with pytest.raises(WorkerGroupStartupTimeoutError):
        find_no_room(retries)
    with pytest.raises(ray.train.WorkerGroupError):
        lose(retries, DEAD)


def test_an_error_stays_what_it_is_on_its_way_from_a_worker_and_at_another_place():
    for error in (MISTAKE, FULL, FULL.at("elsewhere")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))
    assert [is_final(error) for error in (MISTAKE, FULL, FULL.at("elsewhere"))] == [True, False, False]


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (ray.train.ControllerError(MISTAKE), InputError, r"^batch_norm: found 1 slice"),
        (ray.train.ControllerError(RunError("the loss is nan")), RunError, r"^training stopped: the loss is nan$"),
        (
            ray.train.ControllerError(ray.train.WorkerGroupError("failed", {0: BROKEN, 1: DEAD})),
            RunError,
            r"^training stopped: rank 1: its process died \(killed, or out of memory\)$",
        ),
        (
            ray.train.ControllerError(WorkerGroupStartupTimeoutError(4)),
            RunError,
            r"^training stopped: no room for 4 workers within 180 s \(3\.25 GPU free\); the same command goes on",
        ),
        (ray.train.ControllerError(ValueError("other")), RunError, r"^training did not start: ValueError: other$"),
    ],
    ids=["a mistake", "a failed run", "too many losses", "no room", "another"],
)
def test_what_ended_a_run_in_the_controller_is_one_line(raised, kind, said, tmp_path, monkeypatch):
    def fit():
        raise pickle.loads(pickle.dumps(raised))

    monkeypatch.setattr(train, "TorchTrainer", lambda *_, **__: SimpleNamespace(fit=fit))
    monkeypatch.setattr(train, "said_while_others_hold", lambda *_, **__: nullcontext())
    monkeypatch.setattr(train, "held_by_others", lambda *_: "3.25 GPU free")
    with pytest.raises(kind, match=said):
        train.fit_workers(TrainConfig(), data="data", run=tmp_path, workers=4, each=EACH, max_failures=3)
