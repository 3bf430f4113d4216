"""A challenger behind the champion: it answers the same slices, nobody hears it, and what both say is compared.

It costs the champion little: slices wait for it in a short queue that drops what does not fit, its thread comes last
among the machine's, and while live slices are pending it works for a tenth of the time at most.
"""

import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from queue import Full, Queue
from time import perf_counter
from typing import Any

from neuralblack.service.answers import Prediction

log = logging.getLogger(__name__)

WAITING = 64  # slices, of 64 KiB
SHARE = 0.1  # of the thread's time, while live slices are pending
LAST = 19  # the lowest priority of a thread: setpriority(2)
Question = Any
Ask = Callable[[Sequence[Question]], Sequence[Prediction]]


class Shadow:
    """Hears classified slices (a listener of `build_app`) and asks the challenger about them, later."""

    def __init__(
        self,
        load: Callable[[], Ask],
        records: Path,
        *,
        champion: str,
        busy: Callable[[], bool],
        count: Callable[[str], None],
        waiting: int = WAITING,
    ) -> None:
        """Start the challenger's thread.

        Args:
            load: makes what answers slices, in that thread, so that threads which it starts come last as well.
            records: the file that gets a JSON line for each slice, of labels and probabilities; its folder is made.
            champion: the id of the model whose answers are heard, for the records.
            busy: whether live slices are pending.
            count: hears agree, differ, dropped or failed, of each slice; may be called from two threads.
            waiting: slices that wait at most.
        """
        self._load, self._records, self._champion, self._busy, self._count = load, records, champion, busy, count
        self._queue: Queue[tuple[Question, Prediction]] = Queue(waiting)
        threading.Thread(target=self._work, name="shadow", daemon=True).start()

    def __call__(self, question: Question, prediction: Prediction) -> None:
        """Put a slice and the champion's answer into the queue, or drop it; returns at once."""
        try:
            self._queue.put_nowait((question, prediction))
        except Full:
            self._count("dropped")

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LAST)
        ask, pause, said = self._started(), threading.Event(), set[str]()
        while True:
            question, live = self._queue.get()
            began = perf_counter()
            try:
                (other,) = ask([question])
                append_line(self._records, json.dumps({"model": self._champion} | record(live, other)))
                self._count("agree" if _said(live) == _said(other) else "differ")
            except Exception as error:  # the challenger's mistakes are nobody's trouble, and are counted
                kind = type(error).__name__
                log.log(logging.DEBUG if kind in said else logging.WARNING, "the challenger failed: %s", kind)
                said.add(kind)
                self._count("failed")
            if self._busy():
                pause.wait((perf_counter() - began) * (1 / SHARE - 1))

    def _started(self) -> Ask:
        try:
            self._records.parent.mkdir(parents=True, exist_ok=True)
            return self._load()
        except Exception as error:  # it must not cost the champion its replica; every slice counts as failed
            log.error("the challenger did not start: %s", error)
            failed = error

            def ask(questions: Sequence[Question]) -> Sequence[Prediction]:
                raise failed

            return ask


def record(live: Prediction, other: Prediction) -> dict[str, Any]:
    """Write down two answers to one slice, and nothing that tells which slice.

    `difference` is the largest between the probabilities of a class; None where one of the two refuses.
    """
    difference = None
    if live.probabilities and other.probabilities:
        difference = max(abs(share - other.probabilities[name]) for name, share in live.probabilities.items())
    at = datetime.now(UTC).replace(microsecond=0).isoformat()
    return {"at": at, "champion": _answer(live), "challenger": _answer(other), "difference": difference}


def append_line(path: Path, line: str) -> None:
    """Add a line to a file of this process's own, whole or not at all: what a full disk cut off is taken back."""
    content = line.encode() + b"\n"
    with path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            written = file.write(content)
        except OSError:
            file.truncate(end)
            raise
        if written != len(content):
            file.truncate(end)
            raise OSError(f"{written} of {len(content)} bytes were written")


def _answer(prediction: Prediction) -> dict[str, Any]:
    label = prediction.label
    share = prediction.probabilities[label] if label and prediction.probabilities else None
    return {"status": prediction.status, "label": label, "probability": share}


def _said(prediction: Prediction) -> tuple[str, str | None]:
    return prediction.status, prediction.label
