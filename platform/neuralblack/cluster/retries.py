"""How often Ray Train may start a run's workers again: never for what cannot pass, else a few times behind each epoch.

Ray Train's own limits count for the whole run, and try again whatever a worker raises.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import ray.train
from ray.train.v2._internal.execution.callback import ControllerCallback, ReportCallback
from ray.train.v2._internal.execution.controller.state import ReschedulingState, RestartingState
from ray.train.v2._internal.execution.failure_handling.default import _is_preemption_failure

from neuralblack.errors import is_final


class Retries(ControllerCallback, ReportCallback):  # type: ignore[misc]
    """Ends a run from within Ray Train's controller, which takes what a callback raises as the run's end."""

    def __init__(self, log: Path, *, losses: int, starts: int) -> None:
        """Take the limits of what may happen in a row without a newer checkpoint.

        Args:
            log: the run's log, where a failure that is tried again is said.
            losses: times that the workers may fail.
            starts: times that they may find no room.

        """
        self._log, self._losses, self._starts = log, losses, starts
        self._newest = ""
        self._lost = self._unplaced = 0

    def after_report(self, training_report: Any, metrics: list[dict[str, Any]]) -> None:
        """Count from the start again where a checkpoint is newer than all before: one that is done again is not."""
        checkpoint = training_report.checkpoint
        name = Path(checkpoint.path).name if checkpoint else ""
        if name > self._newest:
            self._newest, self._lost, self._unplaced = name, 0, 0

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Raise in place of another try where it would be in vain, or one too many."""
        if not isinstance(current_state, RestartingState | ReschedulingState):
            return
        error = current_state.training_failed_error
        if isinstance(error, ray.train.ControllerError):
            self._unplaced += 1
            if self._unplaced > self._starts:
                raise error.controller_failure
            return
        if isinstance(error, ray.train.WorkerGroupError):
            rank, cause = cause_of(error)
            if is_final(cause):
                raise cause
            self._lost += not _is_preemption_failure(error)  # an announced end of a machine says nothing of the run
            if self._lost > self._losses:
                raise error
            with suppress(OSError), self._log.open("a") as file:
                file.write(f"rank {rank}: {said(cause)}; the workers start again\n")


def cause_of(error: ray.train.WorkerGroupError) -> tuple[int, BaseException]:
    """Find the rank that failed by itself, and with what: the others may only have seen its connection break."""
    failures: dict[int, BaseException] = error.worker_failures

    def beside_the_point(rank: int) -> tuple[bool, bool, int]:
        return not is_final(failures[rank]), not _is_dead(failures[rank]), rank

    rank = min(failures, key=beside_the_point)
    return rank, failures[rank]


def said(error: BaseException) -> str:
    """Say an error in one line."""
    if _is_dead(error):
        return "its process died (killed, or out of memory)"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _is_dead(error: BaseException) -> bool:
    return type(error).__name__ == "WorkerHealthCheckFailedError"
