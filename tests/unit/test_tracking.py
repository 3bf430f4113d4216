"""Trackers show what the run's folder holds, and cost the run nothing when they fail."""

import pickle
import struct
from types import SimpleNamespace

import pytest

from neuralblack.cluster.progress import TRACK, Tracked
from neuralblack.cluster.trials import PARAMS, TRIAL_JSON
from neuralblack.config import TrainConfig
from neuralblack.errors import InputError
from neuralblack.files import read_json, write_json
from neuralblack.registry.run_folder import record_epoch
from neuralblack.training import tracking
from neuralblack.training.tracking import Tracking, check_trackers

EPOCHS = [{"epoch": number, "loss": 1.0 - number / 10, "macro_f1": number / 10, "lr": 0.1} for number in range(3)]


def scalars(folder):
    """Read event files as TensorBoard does: records of length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted(folder.glob("events.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return found


def test_tensorboard_gets_every_number_of_every_epoch(tmp_path):
    tracking_ = Tracking(["tensorboard"], tmp_path, TrainConfig())
    for metrics in EPOCHS:
        tracking_.epoch(metrics)
    tracking_.close()

    found = scalars(tmp_path / "tensorboard")
    assert found["validation/loss", 3] == pytest.approx(0.8)
    assert [found["validation/macro_f1", step] for step in (1, 2, 3)] == pytest.approx([0, 0.1, 0.2])


def test_a_run_that_is_gone_on_with_stays_one_run_in_mlflow(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="the extra `track` is not installed")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    for part in (EPOCHS[:2], EPOCHS[2:]):
        tracking_ = Tracking(["mlflow"], run, TrainConfig())
        for metrics in part:
            tracking_.epoch(metrics)
        tracking_.close()

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("runs").experiment_id])
    assert found.info.run_id == read_json(run / "mlflow.json")["run_id"]
    assert found.data.params["model"] == "resnet50"
    history = client.get_metric_history(found.info.run_id, "validation/loss")
    assert [(each.step, each.value) for each in history] == [(1, 1.0), (2, 0.9), (3, 0.8)]


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_tracker_that_a_later_command_adds_shows_the_epochs_before_it_once(name, tmp_path, monkeypatch):
    if name == "mlflow":
        pytest.importorskip("mlflow", reason="the extra `track` is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/elsewhere.db")
    run = tmp_path / "run"
    run.mkdir()
    for names, epochs in (([], EPOCHS[:1]), ([name], EPOCHS[1:])):
        with Tracking(names, run, TrainConfig()) as tracking_:
            for metrics in epochs:
                record_epoch(run, metrics)  # as training does, before it shows it
                tracking_.epoch(metrics)

    if name == "mlflow":
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/elsewhere.db")
        history = client.get_metric_history(read_json(run / "mlflow.json")["run_id"], "validation/loss")
        assert [(each.step, each.value) for each in history] == [(1, 1.0), (2, 0.9), (3, 0.8)]
    else:
        found = scalars(run / "tensorboard")
        assert [found["validation/loss", step] for step in (1, 2, 3)] == pytest.approx([1.0, 0.9, 0.8])


def test_a_tracker_that_fails_is_left_out_and_the_others_go_on(tmp_path, monkeypatch, caplog):
    class Broken:
        new = True

        def __init__(self, run, trial=None):
            made.append(run)

        def configured(self, config): ...

        def epoch(self, metrics):
            raise ConnectionError("no such server")

        def close(self, end): ...

    made = []
    monkeypatch.setitem(tracking.TRACKERS, "broken", Broken)
    tracking_ = Tracking(["broken", "tensorboard"], tmp_path, TrainConfig())
    for metrics in EPOCHS:
        tracking_.epoch(metrics)
    tracking_.close()

    assert caplog.text.count("the run goes on without broken: ConnectionError: no such server") == 1
    assert made == [tmp_path] and tracking_.names == ["tensorboard"]
    assert len({step for _, step in scalars(tmp_path / "tensorboard")} - {0}) == 3


def test_an_unknown_tracker_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="found wandb; expected one of tensorboard, mlflow"):
        check_trackers(["wandb"])


def trials_in(run, count):
    """A search's folder with trials, as Tune hands them to its callbacks; number N tries a learning rate of N / 10."""
    write_json(run / "run.json", {"facts": {"config": TrainConfig().model_dump(mode="json")}})
    for number in range(1, count + 1):
        (run / "trials" / f"id{number}").mkdir(parents=True)
        write_json(run / "trials" / f"id{number}" / TRIAL_JSON, {"number": number})
        yield SimpleNamespace(trial_id=f"id{number}", config={PARAMS: {"lr": number / 10}})


def test_a_trial_is_shown_as_how_it_ended_and_by_what_the_last_command_asks_for(tmp_path, monkeypatch):
    seen = []

    class Noting:
        new = True

        def __init__(self, run, trial=None):
            self.number = trial.number

        def configured(self, config):
            seen.append((self.number, config.lr))

        def epoch(self, metrics):
            seen.append((self.number, metrics["loss"]))

        def close(self, end):
            seen.append((self.number, end))

    monkeypatch.setitem(tracking.TRACKERS, "noting", Noting)
    first, second, third = trials_in(tmp_path, 3)
    tracked = Tracked(tmp_path)

    write_json(tmp_path / TRACK, [])
    tracked.on_trial_result(0, [], first, EPOCHS[0])
    write_json(tmp_path / TRACK, ["noting"])
    tracked = pickle.loads(pickle.dumps(tracked))  # as Tune goes on with a search
    tracked.on_trial_result(0, [], first, EPOCHS[1])
    tracked.on_trial_result(0, [], first, {"done": True})  # what Tune adds at the end
    tracked.on_trial_complete(0, [], first)
    tracked.on_trial_error(0, [], second)
    tracked.on_trial_result(0, [], third, EPOCHS[2])
    tracked.on_experiment_end([])

    through = [(1, 0.1), (1, 0.9), (1, "FINISHED")]
    assert seen == [*through, (2, 0.2), (2, "FAILED"), (3, 0.3), (3, 0.8), (3, "KILLED")]


def test_a_server_that_is_away_is_tried_once_in_a_search_not_once_for_every_trial(tmp_path, monkeypatch):
    made = []

    class Away:
        def __init__(self, run, trial=None):
            made.append(trial.number)
            raise ConnectionError("no such server")

    monkeypatch.setitem(tracking.TRACKERS, "away", Away)
    first, second = trials_in(tmp_path, 2)
    write_json(tmp_path / TRACK, ["away"])
    tracked = Tracked(tmp_path)

    for trial in (first, second):
        tracked.on_trial_result(0, [], trial, EPOCHS[0])
        tracked.on_trial_complete(0, [], trial)

    assert made == [1]


@pytest.mark.parametrize(("error", "end"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_that_does_not_come_to_its_end_is_shown_so_in_mlflow(tmp_path, monkeypatch, error, end):
    pytest.importorskip("mlflow", reason="the extra `track` is not installed")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/elsewhere.db")
    with pytest.raises(error), Tracking(["mlflow"], tmp_path, TrainConfig()):
        raise error

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/elsewhere.db")
    assert client.get_run(read_json(tmp_path / "mlflow.json")["run_id"]).info.status == end
