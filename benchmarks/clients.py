"""Clients that wrk is not: paced arrivals (open loop), and crowds whose every status and latency is kept.

Raw asyncio sockets with kept connections: about 0.15 ms of CPU a request, for rows where that does not matter.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

FAILED = 0  # the status of a request whose connection broke


@dataclass(frozen=True)
class Sample:
    """One request."""

    at_s: float  # when it should have been sent, on the monotonic clock
    status: int  # HTTP's, or FAILED
    latency_s: float  # from `at_s`: what it waited for a connection counts
    retry_after_s: float = 0.0  # as the answer asks


class Connection:
    """One kept connection to a service; opened when it is needed, and again after it broke."""

    def __init__(self, url: str, *, kind: str, token: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = str(parts.hostname), int(parts.port or 80)
        self._head = (
            f"POST {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {kind}\r\n"
            f"Authorization: Bearer {token}\r\nContent-Length: "
        ).encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: bytes, *, at_s: float | None = None) -> Sample:
        """Send one body and read the answer to its end."""
        start = time.monotonic() if at_s is None else at_s
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(self._host, self._port)
            reader, writer = self._streams
            writer.write(self._head + str(len(body)).encode() + b"\r\n\r\n" + body)
            status, wait, keep = await _answer(reader)
        except (OSError, EOFError, ValueError):
            self.close()
            return Sample(start, FAILED, time.monotonic() - start)
        if not keep:
            self.close()
        return Sample(start, status, time.monotonic() - start, wait)

    def close(self) -> None:
        """Close it; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _answer(reader: asyncio.StreamReader) -> tuple[int, float, bool]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status = int(head.split(None, 2)[1])
    fields = {}
    for line in head.split("\r\n")[1:]:
        name, _, value = line.partition(":")
        fields[name.strip().lower()] = value.strip()
    if "chunked" in fields.get("transfer-encoding", "").lower():
        while size := int((await reader.readline()).split(b";")[0], 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    else:
        await reader.readexactly(int(fields.get("content-length", 0)))
    return status, float(fields.get("retry-after", 0)), fields.get("connection", "").lower() != "close"


def schedule(rate: float, seconds: float, *, even: bool, seed: int = 0) -> Iterator[float]:
    """Draw when requests come, in seconds from the start: evenly, or at random as independent users do (Poisson).

    >>> list(schedule(2, 1.6, even=True))
    [0.5, 1.0, 1.5]
    """
    draw, at = random.Random(seed), 0.0
    while (at := at + (1 / rate if even else draw.expovariate(rate))) < seconds:
        yield at


async def paced(
    url: str, bodies: Sequence[bytes], *, kind: str, rate: float, seconds: float, even: bool, token: str
) -> list[Sample]:
    """Send requests when they are due, whatever the earlier ones do; a late start counts as waiting."""
    idle: list[Connection] = []
    start = time.monotonic() + 0.1

    async def one(number: int, at_s: float) -> Sample:
        await asyncio.sleep(max(0.0, at_s - time.monotonic()))
        connection = idle.pop() if idle else Connection(url, kind=kind, token=token)
        sample = await connection.post(bodies[number % len(bodies)], at_s=at_s)
        idle.append(connection)
        return sample

    due = enumerate(schedule(rate, seconds, even=even))
    samples = await asyncio.gather(*(one(number, start + at) for number, at in due))
    for connection in idle:
        connection.close()
    return list(samples)


async def crowd(
    url: str,
    bodies: Sequence[bytes],
    *,
    kind: str,
    clients: int,
    until: Callable[[], bool],
    keep: Callable[[Sample], None],
    token: str,
) -> None:
    """Let `clients` send one request after another; who is told to come back later does so, when told."""

    async def one(number: int) -> None:
        connection = Connection(url, kind=kind, token=token)
        while not until():
            sample = await connection.post(bodies[number % len(bodies)])
            keep(sample)
            number += 1
            wait = time.monotonic() + sample.retry_after_s
            while not until() and time.monotonic() < wait:
                await asyncio.sleep(0.05)
        connection.close()

    await asyncio.gather(*(one(number) for number in range(clients)))


def run_crowd(
    url: str, bodies: Sequence[bytes], *, kind: str, clients: int, seconds: float, token: str
) -> list[Sample]:
    """Run a crowd of one size for some seconds; every request is among the samples."""
    samples: list[Sample] = []
    end = time.monotonic() + seconds
    run = crowd(
        url,
        bodies,
        kind=kind,
        clients=clients,
        until=lambda: time.monotonic() >= end,
        keep=samples.append,
        token=token,
    )
    asyncio.run(run)
    return samples


def run_paced(
    url: str, bodies: Sequence[bytes], *, kind: str, rate: float, seconds: float, even: bool, token: str
) -> list[Sample]:
    """Run paced arrivals to their end."""
    return asyncio.run(paced(url, bodies, kind=kind, rate=rate, seconds=seconds, even=even, token=token))
