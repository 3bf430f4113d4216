"""Copies of shards on one node, shared by its processes and checked by their hashes."""

import hashlib
import logging
import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from neuralblack.data.node_cache import ROOM_LOCK, begin_in_use, folder_on_this_node, open_in_use
from neuralblack.data.places import Place
from neuralblack.errors import InputError, PassingError
from neuralblack.files import lock, no_space_is_said

log = logging.getLogger(__name__)

OPEN = 16  # shards that a process keeps open, and so in the node's cache: two windows of eight


@dataclass(frozen=True)
class Shard:
    """One file of pixels: its name, slices, bytes and hash."""

    name: str
    slices: int
    bytes: int
    sha256: str


class ShardCache:
    """Copies of shards on this node, shared by its processes, each checked by its hash before a process uses it.

    Of a place on the same disk nothing is copied. NEURALBLACK_CACHE_GIB bounds the copies, and a tenth of the disk, or
    10 GiB, stays free; what was used least lately goes first. Where others have all in use, a process has one more.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._folder = folder_on_this_node("shards")
        self._max_bytes = _bytes_of(os.environ.get("NEURALBLACK_CACHE_GIB"))
        self._near = place.folder
        if self._near and (not self._near.exists() or self._near.stat().st_dev != self._folder.stat().st_dev):
            self._near = None
        self._open: OrderedDict[str, tuple[NDArray[np.uint8], BufferedReader]] = OrderedDict()
        self._checked: dict[str, int] = {}  # hash -> the inode of the copy that had it
        self._said = False

    def has(self, shard: Shard) -> bool:
        """Say whether a shard need not be fetched."""
        return self._path(shard).exists()

    def open(self, shard: Shard, *, side: int) -> NDArray[np.uint8]:
        """Map a shard's pixels, (n, S, S) uint8; raises InputError where it is not what the manifest says."""
        if shard.sha256 in self._open:
            self._open.move_to_end(shard.sha256)
            return self._open[shard.sha256][0]
        while True:
            try:
                file = self._in_use(shard)
                break
            except _NoRoomError:
                if not self._open:
                    file = self._alone(shard)  # other processes hold all that there is room for
                    break
                self._open.popitem(last=False)
        batch = pa.ipc.open_file(pa.memory_map(f"/proc/self/fd/{file.fileno()}")).get_batch(0)
        pixels = np.frombuffer(batch.column("image").buffers()[1], np.uint8).reshape(-1, side, side)
        self._open[shard.sha256] = pixels, file  # in use until nobody has the file any more
        if len(self._open) > OPEN:
            self._open.popitem(last=False)
        return pixels

    def ensure(self, shard: Shard) -> None:
        """Fetch a shard if it is not here and there is room; other threads than the one that calls `open` may."""
        try:
            self._in_use(shard).close()
        except _NoRoomError:
            return

    def _in_use(self, shard: Shard) -> BufferedReader:
        path = self._path(shard)
        if self._near:
            try:
                file = path.open("rb")
            except OSError as error:
                raise self._not_as_said(shard, error.strerror or type(error).__name__) from None
            self._check(file, shard)
            return file
        with lock(self._folder / f"{shard.sha256[:2]}.lock"):
            try:
                file = os.fdopen(open_in_use(path, create=False), "rb")
            except FileNotFoundError:
                return self._fetched(shard, path)
            try:
                self._check(file, shard)
            except InputError:
                log.warning("this copy of a shard was damaged, and is fetched again: %s", path)
                file.close()
                with lock(self._folder / ROOM_LOCK):
                    path.unlink(missing_ok=True)
                return self._fetched(shard, path)
            os.utime(path)
            return file

    def _fetched(self, shard: Shard, path: Path) -> BufferedReader:
        """Fetch a shard into a file that is counted, and in use, from its first byte on."""
        temporary = self._folder / f"{shard.sha256}.{os.getpid()}.{threading.get_ident()}.bin"
        with no_space_is_said(self._folder):
            descriptor = begin_in_use(temporary, shard.bytes, max_bytes=self._max_bytes)
        if descriptor is None:
            raise _NoRoomError
        file = os.fdopen(descriptor, "rb")
        try:
            with no_space_is_said(self._folder):
                self._place.fetch(shard.name, temporary)
            self._check(file, shard, fresh=True)
            with lock(self._folder / ROOM_LOCK):  # or who makes room would miss a file that it has listed
                temporary.replace(path)
        except BaseException:
            file.close()
            with lock(self._folder / ROOM_LOCK):
                temporary.unlink(missing_ok=True)
            raise
        return file

    def _alone(self, shard: Shard) -> BufferedReader:
        """Fetch a shard into a file without a name, which nobody else finds and which goes with this process."""
        if shard.bytes > min(self._max_bytes, shutil.disk_usage(self._folder).free):
            raise PassingError(
                self._folder,
                found=f"no room for a shard of {shard.bytes / 2**20:.0f} MiB",
                expected="room for some shards on this node",
                fix="free some space, or export NEURALBLACK_CACHE_GIB or NEURALBLACK_CACHE=FOLDER on every node",
            )
        if not self._said:
            log.warning("%s has too little room for what is in use: shards are fetched again and again", self._folder)
            self._said = True
        with tempfile.TemporaryFile(dir=self._folder) as nameless:
            with no_space_is_said(self._folder):
                self._place.fetch(shard.name, Path(f"/proc/self/fd/{nameless.fileno()}"))
            file = os.fdopen(os.open(f"/proc/self/fd/{nameless.fileno()}", os.O_RDONLY), "rb")
        self._check(file, shard, fresh=True)
        return file

    def _check(self, file: BufferedReader, shard: Shard, *, fresh: bool = False) -> None:
        """Compare a file that is open with its hash, once, or again where it is fresh; raises InputError."""
        inode = os.fstat(file.fileno()).st_ino
        if not fresh and self._checked.get(shard.sha256) == inode:
            return
        file.seek(0)
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != shard.sha256:
            raise self._not_as_said(shard, found[:12])
        self._checked[shard.sha256] = inode

    def _not_as_said(self, shard: Shard, found: str) -> InputError:
        return InputError(
            f"{self._place}/{shard.name}",
            found=found,
            expected=f"SHA-256 {shard.sha256[:12]}, as shards.json says",
            fix="restore the file from a good copy, or write the shards again: neuralblack shard",
        )

    def _path(self, shard: Shard) -> Path:
        return self._near / shard.name if self._near else self._folder / f"{shard.sha256}.bin"


class _NoRoomError(Exception):
    """The node's cache is full of what is in use."""


def _bytes_of(gib: str | None) -> int:
    """Read NEURALBLACK_CACHE_GIB; a TiB where it is not set, which the disk will bound first."""
    try:
        return int(float(gib or 1024) * 2**30)
    except (ValueError, OverflowError):
        raise InputError(
            "NEURALBLACK_CACHE_GIB", found=gib, expected="a number of GiB", fix="export NEURALBLACK_CACHE_GIB=16"
        ) from None
