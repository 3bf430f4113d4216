"""What a search says while it runs: every epoch of every trial as a line and in trackers, and what each trial is."""

import logging
from pathlib import Path
from typing import Any

from ray import tune

from neuralblack.cluster.trials import PARAMS, TRIAL_JSON, last_line
from neuralblack.config import TrainConfig
from neuralblack.files import read_json, write_json
from neuralblack.terminal import brief
from neuralblack.training.checkpoints import SCORE
from neuralblack.training.tracking import Tracking, TrialOf

log = logging.getLogger(__name__)

# In a search's folder: the trackers of its last command. Tune goes on with the first command's callbacks.
TRACK = "track.json"


class Progress(tune.Callback):  # type: ignore[misc]
    """A line for every epoch of every trial, in the driver."""

    def __init__(self, names: list[str], count: int, *, trials: Path) -> None:
        """Take the fields that are searched, the number of trials, and the folder of all trials' own folders."""
        self._names, self._count, self._trials = names, count, trials

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say what is tried, and write it down: Tune's own result of a trial that never reported lacks it."""
        values = "  ".join(f"{name} {brief(trial.config[PARAMS][name])}" for name in self._names)
        log.info("trial %s of %d starts: %s", self._number(trial), self._count, values)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Say how an epoch went."""
        if "epoch" not in result:
            return  # a trial that ended without a report of its own
        number, epoch = self._number(trial), result["epoch"] + 1
        numbers = (result["loss"], result["accuracy"], result[SCORE])
        log.info("trial %s epoch %d  loss %.4f  accuracy %.3f  macro-F1 %.3f", number, epoch, *numbers)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that a trial failed, and with what."""
        log.info("trial %s failed: %s", self._number(trial), last_line(trial.get_error()))

    def _number(self, trial: Any) -> int:
        """Number trials in the order of their first start; the same after a search was gone on with."""
        note = self._trials / trial.trial_id / TRIAL_JSON
        if not note.exists():
            note.parent.mkdir(parents=True, exist_ok=True)
            number = 1 + len(list(self._trials.glob(f"*/{TRIAL_JSON}")))
            write_json(note, {"number": number, "params": trial.config[PARAMS]})
        return int(read_json(note)["number"])


class Tracked(tune.Callback):  # type: ignore[misc]
    """Every trial as a run in the trackers of RUN/track.json. In the driver, so that one process writes them all.

    Tune waits for its callbacks, so a tracker that failed once, a server's minutes of tries later, is not tried again.
    """

    def __init__(self, run: Path) -> None:
        """Take the search's folder."""
        self._run = run
        self._names: list[str] | None = None  # that work; None: as the file says
        self._open: dict[str, Tracking] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave everything behind that belongs to one command: Tune pickles its callbacks."""
        return dict(vars(Tracked(self._run)))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Show an epoch."""
        if "epoch" in result:
            self._of(trial).epoch(result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that a trial is through, or was given up."""
        self._of(trial).close()
        del self._open[trial.trial_id]

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that a trial failed."""
        self._of(trial).close("FAILED")
        del self._open[trial.trial_id]

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Let go of trials under way: somebody stopped the search, or Tune failed."""
        for tracking in self._open.values():
            tracking.close("KILLED")
        self._open.clear()

    def _of(self, trial: Any) -> Tracking:
        """Open a trial's trackers with what is tried in it."""
        names = read_json(self._run / TRACK) if self._names is None else self._names
        if trial.trial_id not in self._open:
            folder = self._run / "trials" / trial.trial_id
            config = read_json(self._run / "run.json")["facts"]["config"] | trial.config[PARAMS]
            number = read_json(folder / TRIAL_JSON)["number"]
            self._open[trial.trial_id] = Tracking(
                names, folder, TrainConfig.model_validate(config), TrialOf(self._run, number)
            )
        self._names = [name for name in names if name in self._open[trial.trial_id].names]
        return self._open[trial.trial_id]
