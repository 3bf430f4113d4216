"""The bound on what is worked on at once: who finds no place is told so at once, and nobody waits for ever."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from neuralblack.service.problems import Problem


class Places:
    """Places for slices, from the head of their request to their answer. Used from one event loop."""

    def __init__(self, most: int | None = None) -> None:
        """Set up `most` places; None: as many as come."""
        self.most, self.taken = most, 0

    def take(self, count: int) -> None:
        """Take places, or raise Problem 429 where so many are not free."""
        if self.most is not None and self.taken + count > self.most:
            raise Problem(
                429,
                "overloaded",
                "The service has as much to do as it can hold. Send the request again in a moment.",
                retry_after_s=1,
            )
        self.taken += count

    def leave(self, count: int) -> None:
        """Give places back."""
        self.taken -= count


class Turn:
    """One request's stay."""

    def __init__(self, places: Places, count: int) -> None:
        self._places, self.count, self.uploaded = places, 0, False
        self.need(count)

    def need(self, count: int) -> None:
        """Have `count` places in all, for what turned out to be so many slices; raises Problem 429."""
        more = max(0, count - self.count)
        self._places.take(more)
        self.count += more


@asynccontextmanager
async def turn(places: Places, count: int = 1, *, deadline_s: float | None) -> AsyncGenerator[Turn, None]:
    """Hold `count` places while a request is worked on, for `deadline_s` at most; None: as long as it takes.

    What is cancelled by the deadline leaves the batcher's queue too, so a queue that is too long shrinks by itself.

    Raises:
        Problem: 429 no place; 408 the upload, or 503 our own work, was not done in time.
    """
    mine = Turn(places, count)
    limit = asyncio.timeout(deadline_s)
    try:
        async with limit:
            yield mine
    except TimeoutError:
        if not limit.expired():
            raise  # somebody else's time-out
        if not mine.uploaded:
            raise slow_upload(deadline_s or 0.0) from None
        raise Problem(
            503,
            "too_slow",
            f"The service could not answer within {deadline_s:g} s. Send the request again in a moment.",
            retry_after_s=2,
        ) from None
    finally:
        places.leave(mine.count)


def slow_upload(deadline_s: float) -> Problem:
    """Say that an upload did not arrive in time."""
    sentence = f"The upload did not arrive within {deadline_s:g} s. Send it over a faster line, or fewer at once."
    return Problem(408, "slow_upload", sentence)
