"""Read scans in worker processes: a file in, preprocessed pixels and facts out, in the order given."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from multiprocessing.connection import wait

from neuralblack.data.preprocessing import Preprocessing, preprocess, stored_box
from neuralblack.data.readers import decode, file_bytes
from neuralblack.data.slices import Box
from neuralblack.data.sources import File
from neuralblack.errors import InputError, RunError

FILES_A_WORKER = 64  # a process takes about half a second to start, as long as it takes to read these
THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Read:
    """One file's outcome: either its pixels (size * size bytes of uint8), or the error that says what is wrong with it.

    `hash` is the SHA-256 of the file's bytes, "" where it could not be opened; `shape` is the slice's (height, width).
    """

    file: File
    hash: str = ""
    label: str = ""
    patient: str | None = None
    box: Box | None = None
    shape: tuple[int, int] = (0, 0)
    pixels: bytes = b""
    error: InputError | None = None


def read_files(files: Sequence[File], spec: Preprocessing, *, workers: int | None = None) -> Iterator[Read]:
    """Read files in parallel and yield them in their order; a bad one is yielded with its error, not raised.

    Few files, or one worker, are read in this process. Raises RunError where a worker dies, as by too little memory.
    """
    workers = workers or min(len(os.sched_getaffinity(0)), -(-len(files) // FILES_A_WORKER))
    read = partial(read_file, spec=spec)
    if workers <= 1:
        yield from map(read, files)
        return
    yield from _in_workers(read, files, workers)


def read_file(file: File, spec: Preprocessing) -> Read:
    """Read, check and preprocess one file."""
    found = ""
    try:
        data = file_bytes(file.path, where=file.path)
        found = sha256(data).hexdigest()
        slice_ = decode(data, path=file.path, where=file.path, labelled=True)
        pixels = preprocess(slice_.image, spec, where=file.path)
    except InputError as error:
        return Read(file, hash=found, error=error)
    height, width = slice_.image.shape
    label = file.label or slice_.label
    assert label is not None, "an image has its folder's class, a .mat file its own"
    box = stored_box(slice_.box, (height, width), spec.size)
    return Read(file, found, label, slice_.patient or file.patient, box, (height, width), pixels.tobytes())


def _in_workers(read: partial[Read], files: Iterable[File], workers: int) -> Iterator[Read]:
    # spawn, because forking a process that has threads (Arrow, torch) can deadlock
    context = multiprocessing.get_context("spawn")
    with _one_thread_each():
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
        try:
            with _ctrl_c_kept_back():
                results = pool.map(read, files, chunksize=8)  # which starts the workers
            yield from results
        except BrokenProcessPool as error:
            raise RunError("a process reading scans died, perhaps of too little memory") from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes started in here use one thread in NumPy's libraries, which start a thread per core on import."""
    before = {name: os.environ.get(name) for name in THREAD_COUNTS}
    os.environ.update(dict.fromkeys(THREAD_COUNTS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _ctrl_c_kept_back() -> Iterator[None]:
    """Have processes that are started in here leave Ctrl-C to this one for good, which hears of it behind the block.

    They inherit what this thread blocks; the start of the pool's helper, which unblocks it, lies before. Here another
    thread may take the signal, so its handler waits as well: raised between two starts it would leave workers to whom
    nobody talks.
    """
    handler, held = signal.getsignal(signal.SIGINT), []
    ours = callable(handler) and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, lambda *_: held.append(True))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if ours:
            signal.signal(signal.SIGINT, handler)
        if held:
            signal.raise_signal(signal.SIGINT)


def _start_worker() -> None:
    """End with the parent: killed, it would leave its workers waiting for work for ever."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a worker"
    wait([parent.sentinel])
    os._exit(1)
