"""Read uploads in limited worker processes, so that no file can take the service down with it.

A hostile file can ask its decoder for gigabytes or for minutes, or end it with a signal. Here that costs one request:
it is refused, the worker is replaced, and the next file finds a new one.
"""

import asyncio
import json
import logging
import os
import queue
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import numpy as np

from neuralblack.data.preprocessing import Preprocessing
from neuralblack.data.readers import KINDS
from neuralblack.data.slices import Prepared
from neuralblack.errors import InputError
from neuralblack.service.decoder_worker import FRESH, PIXELS, READY, REFUSED

log = logging.getLogger(__name__)

# All that a worker has of the service's environment, in which tokens, keys and a cloud's credentials are, too.
INHERITED = ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONHOME")
START_S = 60.0  # for a new worker to import and answer; a second on an idle machine


class DecoderDownError(RuntimeError):
    """No worker process could be started: the machine's trouble, not the file's."""


class Decoder:
    """Turn an upload's bytes into the preprocessed slice, in one of a few persistent processes.

    One thread waits on each process with blocking pipes, so it works on any event loop (uvloop, a Serve replica's) and
    needs no child watcher. A process costs about 70 MB and half a second to start; a slice about a millisecond more
    than reading it in the service itself.
    """

    def __init__(
        self, spec: Preprocessing, *, workers: int = 1, memory_bytes: int = 512 * 2**20, seconds: float = 10.0
    ) -> None:
        """Start nothing yet.

        Args:
            spec: what the model was trained on; the workers apply it.
            workers: processes, that is slices read at the same time.
            memory_bytes: address space a worker may take above what it has after its imports.
            seconds: for one file, after which its worker is killed.
        """
        self._threads = ThreadPoolExecutor(workers, "decoder")
        self._workers = [_Worker(spec, memory_bytes=memory_bytes, seconds=seconds) for _ in range(workers)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def start(self) -> None:
        """Start every worker and wait until each can read; raises DecoderDownError."""
        for worker in self._workers:
            worker.start()

    async def __call__(self, data: bytes) -> Prepared:
        """Read one upload. Raises InputError about "upload", or DecoderDownError."""
        held = [data]  # the threads' queue keeps what it was given until its turn, also of a client that hung up
        del data
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, held)
        finally:
            held.clear()

    def close(self) -> None:
        """End the worker processes, also one that is reading."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            if worker.process:
                worker.process.kill()  # its thread reads the end of the pipe and tidies up
        self._threads.shutdown(wait=True)
        for worker in self._workers:
            worker.end()

    @property
    def failed(self) -> int:
        """Attempts in a row to start one and the same worker that failed; the most of any."""
        return max(worker.failed for worker in self._workers)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that run."""
        return [worker.process.pid for worker in self._workers if worker.process and worker.process.poll() is None]

    def _decode(self, held: list[bytes]) -> Prepared:
        worker = self._idle.get()
        try:
            return worker.decode(held.pop())  # IndexError where the client has just hung up: nobody hears it
        finally:
            self._idle.put(worker)


class _Worker:
    """One worker process and the pipe to it. Used by one thread at a time."""

    def __init__(self, spec: Preprocessing, *, memory_bytes: int, seconds: float) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self.failed = 0  # attempts in a row to start it
        self._size, self._seconds = spec.size, seconds
        self._options = json.dumps(
            {
                "preprocessing": spec.model_dump(),
                "memory_bytes": memory_bytes,
                "alarm_s": int(seconds) + 5,
            }
        ).encode()

    def start(self) -> None:
        """Start the process unless it runs."""
        if self.process is not None and self.process.poll() is None:
            return
        self.end()
        self.failed += 1  # until it has answered
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ} | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),  # the package may have come with Ray
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            # glibc, in bytes: keep what one slice needed for the next, instead of faulting its pages in every time.
            "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
            "MALLOC_TRIM_THRESHOLD_": str(16 * 2**20),
        }
        try:
            self._pipe, theirs = Pipe()
            with theirs:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "neuralblack.service.decoder_worker", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # the C libraries' complaints may quote the file
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for the service; it closes the pipe
                )
            self._pipe.send_bytes(self._options)
            answered = self._pipe.poll(START_S) and self._pipe.recv_bytes() == READY
        except (EOFError, OSError):  # also where the machine has no process or memory left
            answered = False
        if not answered or self.process is None:
            status = self.process.poll() if self.process else None
            self.end()
            raise DecoderDownError(f"the decoder process did not start (exit status {status})")
        self.failed = 0
        log.info("decoder process %d is ready", self.process.pid)

    def decode(self, data: bytes) -> Prepared:
        """Have one upload read. Raises InputError about "upload", or DecoderDownError."""
        self.start()
        assert self._pipe is not None and self.process is not None
        try:
            self._pipe.send_bytes(data)
            if not self._pipe.poll(self._seconds):
                self.end()
                raise _refusal(f"a file that takes longer than {self._seconds:g} s to read")
            reply = self._pipe.recv_bytes(self._size * self._size + 65_536)
        except (EOFError, OSError):
            self.end()
            raise _refusal("a file that ended the process reading it") from None
        return self._unpack(reply)

    def end(self) -> None:
        """End the process and close the pipe; harmless where there is none."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            log.info("decoder process %d has ended", self.process.pid)
        if self._pipe is not None:
            self._pipe.close()
        self.process = None
        self._pipe = None

    def _unpack(self, reply: bytes) -> Prepared:
        kind, state, content = reply[:1], reply[1:2], reply[2:]
        if state != FRESH:
            self.end()
        facts, pixels = content[: -self._size * self._size], content[-self._size * self._size :]
        if kind == PIXELS and facts:
            array = np.frombuffer(pixels, np.uint8).reshape(self._size, self._size)
            said = json.loads(facts)
            return Prepared(array, float(said["colour"]), shape=tuple(said["shape"]))
        if kind == REFUSED:
            refusal = json.loads(content)
            raise InputError("upload", found=refusal["found"], expected=refusal["expected"], fix=refusal["fix"])
        raise RuntimeError(f"the decoder process answered {len(reply)} bytes that are none of its messages")


def _refusal(found: str) -> InputError:
    return InputError(
        "upload",
        found=found,
        expected=f"one slice as {KINDS}",
        fix="export the slice again; if it opens elsewhere, save it as PNG",
    )
