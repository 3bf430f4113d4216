"""TRACKERS: where a run's epochs are shown while it trains, beside its folder. None of them is needed to go on.

neuralblack train DATASET RUN --track tensorboard --track mlflow
neuralblack tune DATASET RUN --track mlflow
"""

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import time
from types import TracebackType
from typing import Literal, Protocol, Self

from neuralblack.config import TrainConfig
from neuralblack.errors import InputError
from neuralblack.files import read_json, write_json
from neuralblack.registry.run_folder import history_of

log = logging.getLogger(__name__)

NOTE = "mlflow.json"
TAGS = {
    # a metric of an epoch -> its name in a tracker, grouped by the part it was measured on
    "train_loss": "train/loss",
    "train_accuracy": "train/accuracy",
    "loss": "validation/loss",
    "accuracy": "validation/accuracy",
    "macro_f1": "validation/macro_f1",
    "ece": "validation/ece",
    "lr": "schedule/lr",
    "stages": "schedule/stages",
    "shared": "schedule/shared",
}


End = Literal["FINISHED", "FAILED", "KILLED"]  # MLflow's words; stopped from outside is KILLED


@dataclass(frozen=True)
class TrialOf:
    """What a run is that is a trial: its search's folder, and its number there, from 1."""

    search: Path
    number: int


class Tracker(Protocol):
    """One of TRACKERS, for one run."""

    new: bool  # it has shown nothing of this run before

    def configured(self, config: TrainConfig) -> None:
        """Show the run's numbers; the same ones may come again."""

    def epoch(self, metrics: dict[str, float]) -> None:
        """Show an epoch's metrics; an epoch that is done again is shown again."""

    def close(self, end: End) -> None:
        """Let go of files and connections, and say how the run ended where that is shown."""


class TensorBoard:
    """Event files in RUN/tensorboard, for `tensorboard --logdir RUNS`. tensorboardX comes with ray[tune]."""

    def __init__(self, run: Path, trial: TrialOf | None = None) -> None:
        """Open a new event file beside earlier ones; TensorBoard shows the newest value of a step."""
        from tensorboardX import SummaryWriter

        self.new = not (run / "tensorboard").exists()
        self._writer = SummaryWriter(str(run / "tensorboard"))

    def configured(self, config: TrainConfig) -> None:
        """Write them as text."""
        self._writer.add_text("config", f"```json\n{config.model_dump_json(indent=1)}\n```")

    def epoch(self, metrics: dict[str, float]) -> None:
        """Write the numbers, as of the epoch's number from 1."""
        for name, tag in TAGS.items():
            if name in metrics:
                self._writer.add_scalar(tag, metrics[name], int(metrics["epoch"]) + 1)
        self._writer.flush()

    def close(self, end: End) -> None:
        """Close the file."""
        self._writer.close()


class MLflow:
    """A run in MLflow (extra `track`), on the server of MLFLOW_TRACKING_URI or in mlflow.db beside the run's folder.

    RUN/mlflow.json says which run it is there, so that a run that is gone on with stays one. Trials lie under their
    search's run, where MLflow's page folds them.
    """

    def __init__(self, run: Path, trial: TrialOf | None = None) -> None:
        """Find the run that belongs to the folder, or begin one."""
        from mlflow.tracking import MlflowClient
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

        top = trial.search if trial else run
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{top.parent.resolve()}/mlflow.db"
        self._client, note = MlflowClient(tracking_uri=uri), run / NOTE
        self.new = not note.exists()
        if not self.new:
            self._id = str(read_json(note)["run_id"])
            self._client.update_run(self._id, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(top.parent.name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(top.parent.name)
        name = f"{top.name} trial {trial.number}" if trial else run.name
        tags = {MLFLOW_PARENT_RUN_ID: read_json(top / NOTE)["run_id"]} if trial else {}
        self._id = self._client.create_run(number, run_name=name, tags=tags).info.run_id
        write_json(note, {"run_id": self._id})

    def configured(self, config: TrainConfig) -> None:
        """Log them as parameters, which MLflow takes again with the same values only."""
        from mlflow.entities import Param

        given = config.model_dump(mode="json")
        self._client.log_batch(self._id, params=[Param(name, str(value)) for name, value in given.items()])

    def epoch(self, metrics: dict[str, float]) -> None:
        """Log the numbers at the step of the epoch's number from 1."""
        from mlflow.entities import Metric

        now, step = int(1000 * time()), int(metrics["epoch"]) + 1
        known = [Metric(tag, float(metrics[name]), now, step) for name, tag in TAGS.items() if name in metrics]
        self._client.log_batch(self._id, metrics=known)

    def close(self, end: End) -> None:
        """Say that nobody works on it any more."""
        self._client.set_terminated(self._id, status=end)


TRACKERS: dict[str, Callable[[Path, TrialOf | None], Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow}
EXTRAS = {"mlflow": ("mlflow", "track")}  # the package that is needed, and the extra that brings it


class Tracking:
    """All trackers of a run, closed behind a `with`. One that fails is left out with a warning, and the run goes on."""

    def __init__(
        self, names: Iterable[str], run: Path, config: TrainConfig | None, trial: TrialOf | None = None
    ) -> None:
        """Start the trackers of these names, checked by `check_trackers` before.

        Args:
            names: keys of TRACKERS.
            run: the folder, which exists.
            config: the run's numbers; None: `configured` says them later.
            trial: where the run is one.

        """
        self._run = run
        self._trackers: dict[str, Tracker] = {}

        def start(name: str) -> None:
            self._trackers[name] = TRACKERS[name](run, trial)

        for name in names:
            self._try(name, partial(start, name))
        self._new = {name for name, tracker in self._trackers.items() if tracker.new}
        if config:
            self.configured(config)

    @property
    def names(self) -> list[str]:
        """Those that have not failed."""
        return list(self._trackers)

    def __enter__(self) -> Self:
        """Show what comes."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all of them; what ends by an exception has failed, unless somebody stopped it."""
        self.close("FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED")

    def configured(self, config: TrainConfig) -> None:
        """Show the run's numbers everywhere."""
        self._each(lambda tracker: tracker.configured(config))

    def epoch(self, metrics: dict[str, float]) -> None:
        """Show an epoch everywhere, and before it the run's earlier ones where a tracker is new to the run."""
        earlier = [each for each in history_of(self._run) if each["epoch"] < metrics["epoch"]] if self._new else []
        for name, tracker in list(self._trackers.items()):
            self._try(name, partial(_show, tracker, [*(earlier if name in self._new else ()), metrics]))
        self._new.clear()

    def close(self, end: End = "FINISHED") -> None:
        """Close all of them."""
        self._each(lambda tracker: tracker.close(end))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            self._try(name, partial(call, tracker))

    def _try(self, name: str, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # whatever a server or a client library says
            self._trackers.pop(name, None)
            log.warning("the run goes on without %s: %s: %s", name, type(error).__name__, str(error).partition("\n")[0])


def _show(tracker: Tracker, epochs: Iterable[dict[str, float]]) -> None:
    for metrics in epochs:
        tracker.epoch(metrics)


def check_trackers(names: Iterable[str]) -> None:
    """Refuse, before anything starts, a tracker that is unknown or not installed; raises InputError."""
    from importlib.util import find_spec

    for name in names:
        if name not in TRACKERS:
            raise InputError("--track", found=name, expected="one of " + ", ".join(TRACKERS), fix="--track NAME")
        package, extra = EXTRAS.get(name, ("tensorboardX", "tune"))
        if find_spec(package) is None:
            raise InputError(
                f"--track {name}",
                found=f"no {package}",
                expected=f"the extra `{extra}`",
                fix=f"pip install 'neuralblack[{extra}]'",
            )
