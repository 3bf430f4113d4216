"""Batches that fill by themselves: whatever waits when the model is free goes in together."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Batcher(Generic[Question, Answer]):
    """Answer in batches: whatever waits when the model is free goes in together.

    No timer: one lone request never waits, and under load batches fill by themselves. Build it inside a running
    event loop; `max_size` may be changed at any time and holds from the next batch on.
    """

    def __init__(self, model: Callable[[list[Question]], list[Answer]], *, max_size: int) -> None:
        self.max_size = max_size
        self._model = model
        self._waiting: asyncio.Queue[tuple[Question, asyncio.Future[Answer]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "model")  # one batch at a time, off the event loop
        self._worker = asyncio.create_task(self._work())

    async def __call__(self, question: Question) -> Answer:
        """Wait for the answer to one question; raises what the model raised, or RuntimeError after `close`."""
        if self._worker.done():
            raise RuntimeError("the batcher is closed")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((question, future))
        return await future

    async def close(self) -> None:
        """Stop: whoever still waits hears that the service is closing. A batch that runs is left to end."""
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)
        while not self._waiting.empty():
            _tell([self._waiting.get_nowait()], RuntimeError("the batcher is closed"))
        self._thread.shutdown(wait=False)

    async def _work(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < self.max_size and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            batch = [pair for pair in batch if not pair[1].done()]  # the caller hung up
            if batch:
                await self._answer(batch)

    async def _answer(self, batch: list[tuple[Question, asyncio.Future[Answer]]]) -> None:
        questions = [question for question, _ in batch]
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._model, questions)
            if len(answers) != len(questions):
                raise RuntimeError(f"the model gave {len(answers)} answers to {len(questions)} questions")
        except Exception as error:  # everyone in this batch hears of it; the next batch goes on
            _tell(batch, error)
        except asyncio.CancelledError:
            _tell(batch, RuntimeError("the batcher is closed"))
            raise
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)


def _tell(batch: list[tuple[Question, asyncio.Future[Answer]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
