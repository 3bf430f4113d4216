"""Batches that fill by themselves: whatever waits when the model is free goes in together."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Batcher(Generic[Question, Answer]):
    """Answer in batches: whatever waits when the model is free goes in together.

    No timer: one lone request never waits, and under load batches fill by themselves. The model's own threads take the
    next batch from the queue, so the model never waits for the event loop while there is something to do. Build it
    inside a running event loop; `max_size` may be changed at any time and holds from the next batch on.
    """

    def __init__(
        self,
        model: Callable[[list[Question]], list[Answer]],
        *,
        max_size: int,
        threads: int = 1,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        """Start the model's threads.

        Args:
            model: questions -> as many answers, in their order; never called more than `threads` times at once.
            max_size: questions in one call.
            threads: calls of the model at once; two keep a model busy that has idle cores towards the end of a batch.
            observe: hears the size of each batch and the seconds it took, in the model's thread.
        """
        self.max_size = max_size
        self._model, self._observe = model, observe
        self._loop = asyncio.get_running_loop()
        self._waiting: SimpleQueue[tuple[Question, asyncio.Future[Answer]] | None] = SimpleQueue()
        self._open: set[asyncio.Future[Answer]] = set()
        self._closed = False
        self._threads = threads
        self._began: dict[int, float] = {}  # thread -> when the batch in it did
        for _ in range(threads):  # daemons, or a process that forgets to close its batcher would never end
            threading.Thread(target=self._work, name="model", daemon=True).start()

    async def __call__(self, question: Question) -> Answer:
        """Wait for the answer to one question; raises what the model raised, or RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError("the batcher is closed")
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._open.add(future)
        self._waiting.put((question, future))
        try:
            return await future
        finally:
            self._open.discard(future)

    @property
    def running_s(self) -> float:
        """Seconds since the oldest batch in the model began; 0 where none is."""
        began = [*self._began.values()]
        return perf_counter() - min(began) if began else 0.0

    async def close(self) -> None:
        """Stop: whoever still waits hears that the service is closing. A batch that runs is left to end."""
        self._closed = True
        for _ in range(self._threads):
            self._waiting.put(None)
        for future in self._open:
            if not future.done():
                future.set_exception(RuntimeError("the batcher is closed"))

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            if batch:
                self._answer(batch)

    def _next(self) -> list[tuple[Question, asyncio.Future[Answer]]] | None:
        """Wait for a question and take all that wait with it, without those whose caller hung up; None at the end."""
        batch = []
        item = self._waiting.get()
        try:
            while item is not None:
                if not item[1].done():
                    batch.append(item)
                if len(batch) >= self.max_size:
                    return batch
                item = self._waiting.get_nowait()
        except Empty:
            return batch
        return None  # closed: everybody who waits has been told

    def _answer(self, batch: list[tuple[Question, asyncio.Future[Answer]]]) -> None:
        began = self._began[threading.get_ident()] = perf_counter()
        outcome: list[Answer] | Exception
        try:
            outcome = self._model([question for question, _ in batch])
            if len(outcome) != len(batch):
                raise RuntimeError(f"the model gave {len(outcome)} answers to {len(batch)} questions")
            if self._observe is not None:
                self._observe(len(batch), perf_counter() - began)
        except Exception as error:  # everyone in this batch hears of it; the next batch goes on
            outcome = error
        finally:
            del self._began[threading.get_ident()]
        with suppress(RuntimeError):  # the loop has ended and nobody listens
            self._loop.call_soon_threadsafe(_tell, [future for _, future in batch], outcome)


def _tell(futures: list[asyncio.Future[Answer]], outcome: list[Answer] | Exception) -> None:
    for index, future in enumerate(futures):
        if future.done():
            continue  # the caller hung up meanwhile
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome[index])
