"""Which trials go on: asynchronous successive halving whose rungs sit where stages are unfrozen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from neuralblack.files import write_json
from neuralblack.registry.run_folder import history_of

THROUGH = 4  # one trial in so many is trained to its end, however many rungs there are
STOPPED = "stopped.json"  # in a trial's folder: where and why


def rungs_of(schedules: Sequence[Mapping[int, int]], *, epochs: int) -> list[int]:
    """List the epochs after which trials are compared: before every unfreezing, then each time twice as late.

    A trial that is given up before its stages are unfrozen has cost next to nothing, because what its frozen stages say
    is shared; the expensive epochs are left to the better ones.

    >>> rungs_of([{0: 1, 3: 2, 6: 1000}, {0: 1}], epochs=20)
    [3, 6, 12]
    >>> rungs_of([{0: 1000}], epochs=12)
    [6]
    """
    found = sorted({epoch for each in schedules for epoch in each if 0 < epoch < epochs}) or [max(1, epochs // 2)]
    while 2 * found[-1] < epochs:
        found.append(2 * found[-1])
    return found


class Halving(ASHAScheduler):  # type: ignore[misc]
    """ASHA (Li et al., 2020, "A system for massively parallel hyperparameter tuning") with rungs of our choice.

    What it stops it writes down. Ray's own has rungs at powers of its reduction factor only.
    """

    _ended = 0  # trials, when Tune last asked; here, as a scheduler that Tune restores is not made anew

    def __init__(self, rungs: Sequence[int], *, epochs: int, trials: Path) -> None:
        """Set the rungs.

        Args:
            rungs: epochs, ascending, after which a trial is compared with those that came so far.
            epochs: of a whole trial.
            trials: the folder of all trials' own folders.

        """
        super().__init__(max_t=epochs, grace_period=rungs[0], reduction_factor=THROUGH ** (1 / len(rungs)))
        (bracket,) = self._brackets
        bracket._rungs = [(rung, {}) for rung in reversed(rungs)]  # tests/unit/test_search.py watches over it
        self._trials = trials

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Choose the next; where a trial has ended since the last time, Tune writes its state down first.

        By itself it does so every ten seconds or so, and a search that was killed meanwhile runs the ended ones again.
        """
        ended = sum(trial.is_finished() for trial in tune_controller.get_trials())
        if ended > self._ended:
            tune_controller.checkpoint(force=True)
        self._ended = ended
        return super().choose_trial_to_run(tune_controller)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take a trial; what it came to at its rungs before a search was gone on with counts again.

        Tune does not keep its scheduler's rungs, but every trial keeps its epochs.
        """
        super().on_trial_add(tune_controller, trial)
        (bracket,) = self._brackets
        scores = {int(epoch["epoch"]) + 1: float(epoch[self._metric]) for epoch in self._history(trial)}
        for rung, recorded in bracket._rungs:
            if rung in scores:
                recorded[trial.trial_id] = self._metric_op * scores[rung]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide; a trial that is stopped before its end gets its reason."""
        if "epoch" not in result:
            return str(TrialScheduler.CONTINUE)  # it ended without a report of its own
        # Tune counts reports; a trial of several workers that is gone on with starts again at one.
        counted = result | {self._time_attr: int(result["epoch"]) + 1}
        (bracket,) = self._brackets
        before = {rung for rung, recorded in bracket._rungs if trial.trial_id in recorded}
        decision: str = super().on_trial_result(tune_controller, trial, counted)
        if decision == TrialScheduler.STOP and counted[self._time_attr] < self._max_t:
            recorded = next(found for rung, found in bracket._rungs if trial.trial_id in found and rung not in before)
            others = {key: value for key, value in recorded.items() if key != trial.trial_id}
            reason = {
                "epoch": counted[self._time_attr],
                "value": float(result[self._metric]),
                "needed": float(bracket.cutoff(others)) * self._metric_op,
                "of": len(recorded),
            }
            (self._trials / trial.trial_id).mkdir(parents=True, exist_ok=True)
            write_json(self._trials / trial.trial_id / STOPPED, reason)
        return decision

    def _history(self, trial: Any) -> list[dict[str, Any]]:
        return [epoch for epoch in history_of(self._trials / trial.trial_id) if self._metric in epoch]
