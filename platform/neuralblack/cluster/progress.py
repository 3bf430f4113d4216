"""What a search says while it runs: a line for every epoch of every trial."""

import logging
from typing import Any

from ray import tune

from neuralblack.cluster.trials import PARAMS, last_line, number_of
from neuralblack.training.runs import SCORE

log = logging.getLogger(__name__)


class Progress(tune.Callback):  # type: ignore[misc]
    """A line for every epoch of every trial, in the driver."""

    def __init__(self, names: list[str], count: int) -> None:
        self._names, self._count = names, count

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say what is tried."""
        values = "  ".join(f"{name} {_short(trial.config[PARAMS][name])}" for name in self._names)
        log.info("trial %s of %d starts: %s", number_of(trial.trial_id), self._count, values)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Say how an epoch went."""
        number, epoch = number_of(trial.trial_id), result["epoch"] + 1
        numbers = (result["loss"], result["accuracy"], result[SCORE])
        log.info("trial %s epoch %d  loss %.4f  accuracy %.3f  macro-F1 %.3f", number, epoch, *numbers)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that a trial failed, and with what."""
        log.info("trial %s failed: %s", number_of(trial.trial_id), last_line(trial.get_error()))


def _short(value: object) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
