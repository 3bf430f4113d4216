"""A dataset in many files, in a folder or in S3: what is where, and each node's copies of what it needs of it.

PLACE/shards.json   what the dataset's manifest says, and the SHA-256 of every other file; written last
PLACE/index.arrow   a row for each slice, in the dataset's order, without pixels
PLACE/00000.arrow   pixels, scattered: every shard is a random sample of the dataset, so a few of them are mixed enough
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import uuid
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
from numpy.typing import NDArray

from neuralblack.data.node_cache import ROOM_LOCK, begin_in_use, folder_on_this_node, open_in_use
from neuralblack.errors import InputError
from neuralblack.files import is_address, lock, no_space_is_said

log = logging.getLogger(__name__)

KIND, FORMAT = "neuralblack shards", 2  # 1: the index had no places
MANIFEST, INDEX = "shards.json", "index.arrow"
BLOCK = 1 << 22  # bytes that are copied at a time
FETCHING = 4  # shards that a process fetches at a time
OPEN = 16  # shards that a process keeps open, and so in the node's cache: two windows of eight
SPARE = 0.1  # of the disk stays free: checkpoints are written there, too


@dataclass(frozen=True)
class Shard:
    """One file of pixels: its name, slices, bytes and hash."""

    name: str
    slices: int
    bytes: int
    sha256: str


@dataclass
class Place:
    """A folder, `s3://BUCKET/PREFIX` or another address that pyarrow.fs knows.

    S3 takes its credentials, region and endpoint from the usual AWS_ variables.
    """

    address: str
    _fs: Any = field(init=False, repr=False)
    _root: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Find the file system; raises InputError for an address of no kind."""
        if not is_address(self.address):
            self._fs, self._root = pyarrow.fs.LocalFileSystem(), str(Path(self.address).absolute())
            return
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        try:
            if endpoint and self.address.startswith("s3://"):  # pyarrow would ask Amazon for the bucket's region
                region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
                self._fs = pyarrow.fs.S3FileSystem(endpoint_override=endpoint, region=region)
                self._root = self.address.removeprefix("s3://").rstrip("/")
                return
            self._fs, self._root = pyarrow.fs.FileSystem.from_uri(self.address)
        except (pa.ArrowException, OSError) as error:
            raise self._wrong(self.address, error) from None

    def __str__(self) -> str:
        return self.address

    @property
    def folder(self) -> Path | None:
        """The folder, where it is one."""
        return None if is_address(self.address) else Path(self._root)

    def read(self, name: str) -> bytes | None:
        """Read a file; None where there is none."""
        try:
            with self._fs.open_input_stream(f"{self._root}/{name}") as file:
                content: bytes = file.read()
                return content
        except FileNotFoundError:
            return None
        except (pa.ArrowException, OSError) as error:
            raise self._wrong(f"{self}/{name}", error) from None

    def digest(self, name: str) -> str | None:
        """Hash a file, SHA-256 in hex digits; None where there is none."""
        found = hashlib.sha256()
        try:
            with self._fs.open_input_stream(f"{self._root}/{name}") as file:
                while block := file.read(BLOCK):
                    found.update(block)
        except FileNotFoundError:
            return None
        except (pa.ArrowException, OSError) as error:
            raise self._wrong(f"{self}/{name}", error) from None
        return found.hexdigest()

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file here, over what is at `path`; a full disk here is an OSError."""
        with path.open("r+b") as file:
            for block in self._blocks(name):
                file.write(block)
            file.truncate()

    def put(self, name: str, path: Path) -> None:
        """Copy a file there; readers see all of it or nothing."""
        target = f"{self._root}/{name}"
        try:
            if self.folder:
                self.folder.mkdir(parents=True, exist_ok=True)
                target = f"{self._root}/.{name}.{uuid.uuid4().hex[:8]}"
            with path.open("rb") as source, self._fs.open_output_stream(target) as file:
                while block := source.read(BLOCK):
                    file.write(block)
            if self.folder:
                Path(target).replace(self.folder / name)
        except (pa.ArrowException, OSError) as error:
            raise self._wrong(f"{self}/{name}", error) from None

    def _blocks(self, name: str) -> Iterator[bytes]:
        try:
            with self._fs.open_input_stream(f"{self._root}/{name}") as source:
                while block := source.read(BLOCK):
                    yield block
        except (pa.ArrowException, OSError) as error:
            raise self._wrong(f"{self}/{name}", error) from None

    def _wrong(self, where: str, error: Exception) -> InputError:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        return InputError(
            where, found=said, expected="a file that can be reached", fix="check the address and the credentials"
        )


@lru_cache(maxsize=2)
def scattered(count: int) -> NDArray[np.int64]:
    """Say which slice lies in which place of the shards: one permutation, the same for every dataset of `count`.

    It sorts by SplitMix64 (Steele et al., 2014, "Fast splittable pseudorandom number generators"): plain arithmetic,
    because a library's random numbers may change.
    """
    with np.errstate(over="ignore"):
        mixed = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    order = np.argsort(mixed ^ (mixed >> np.uint64(31)), kind="stable")
    order.setflags(write=False)
    return order


@lru_cache(maxsize=2)
def places_of(count: int) -> NDArray[np.int64]:
    """Say in which place of the shards each slice lies: the inverse of `scattered`."""
    places = np.argsort(scattered(count))
    places.setflags(write=False)
    return places


class ShardedImages:
    """Pixels of N slices, (N, S, S) uint8, of which only some shards are on this node at a time.

    Indexing with a row, a slice or rows copies what it names, as it does with an array. Who asks for many rows in
    several steps should take them by their places (`places_of`), so that each shard is read once.
    """

    def __init__(self, place: Place, shards: list[Shard], places: NDArray[np.int64], *, side: int) -> None:
        """Know the shards; nothing is fetched yet.

        Args:
            place: where they are.
            shards: in the order of their names.
            places: (N,) of the slices: which one of all slices in the shards.
            side: of a slice, in pixels.

        """
        self.shape = (len(places), side, side)
        self.nbytes = self.shape[0] * side * side
        self._shards, self._places, self._side = shards, places, side
        self._starts = np.cumsum([0, *(shard.slices for shard in shards)])
        self._cache = ShardCache(place)
        self._ahead = Ahead(self._cache)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        rows = np.arange(*key.indices(len(self))) if isinstance(key, slice) else np.atleast_1d(key)
        rows = np.where(rows < 0, rows + len(self), rows)
        places = self._places[rows]  # raises IndexError where a row is none
        numbers = self._numbers(places)
        found = np.empty((len(rows), self._side, self._side), np.uint8)
        for number in np.unique(numbers):
            here = numbers == number
            pixels = self._cache.open(self._shards[number], side=self._side)
            found[here] = pixels[places[here] - self._starts[number]]
        return found[0] if not isinstance(key, slice) and np.ndim(key) == 0 else found

    def ahead(self, rows: NDArray[np.int64]) -> None:
        """Begin to fetch the shards of rows that will be asked for next; what fails is said when they are."""
        numbers = self._numbers(self._places[rows])
        _, first = np.unique(numbers, return_index=True)
        self._ahead.want([self._shards[number] for number in numbers[np.sort(first)]])

    def _numbers(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._starts, places, side="right") - 1


Images = NDArray[np.uint8] | ShardedImages  # (N, S, S) uint8


class Ahead:
    """Threads that fetch what will be wanted next, in that order; a later wish takes an earlier one's place.

    They hold up neither who asks nor the end of the process.
    """

    def __init__(self, cache: "ShardCache") -> None:
        self._cache = cache
        self._wanted: deque[Shard] = deque()
        self._threads: list[threading.Thread] = []

    def want(self, shards: Sequence[Shard]) -> None:
        """Fetch these, unless they are here."""
        self._wanted = deque(shard for shard in shards if not self._cache.has(shard))
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        for _ in range(min(FETCHING, len(self._wanted)) - len(self._threads)):
            self._threads.append(threading.Thread(target=self._fetch, name="shards", daemon=True))
            self._threads[-1].start()

    def _fetch(self) -> None:
        while True:
            try:
                shard = self._wanted.popleft()
            except IndexError:
                return
            try:
                self._cache.ensure(shard)
            except (InputError, OSError) as error:
                log.debug("not fetched ahead: %s", error)  # whoever needs it meets this error too


class ShardCache:
    """Copies of shards on this node, shared by its processes, each checked by its hash before a process uses it.

    Of a place on the same disk nothing is copied. NEURALBLACK_CACHE_GIB bounds the copies, and a tenth of the disk
    stays free; what was used least lately goes first. Where others have all of it in use, a process has one more.
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
            descriptor = begin_in_use(temporary, shard.bytes, max_bytes=self._max_bytes, spare=SPARE)
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
            raise InputError(
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


def read_manifest(place: Place) -> dict[str, Any] | None:
    """Read shards.json; None where there is none. Raises InputError for one of another format, or of no format."""
    content = place.read(MANIFEST)
    if content is None:
        return None
    manifest = parsed(content)
    if manifest is None or (manifest["kind"], manifest["format"]) != (KIND, FORMAT):
        raise InputError(
            f"{place}/{MANIFEST}",
            found="no readable manifest" if manifest is None else f"{manifest['kind']} of format {manifest['format']}",
            expected=f"{KIND} of format {FORMAT}",
            fix="write the shards again: neuralblack shard",
        )
    return manifest


def parsed(content: bytes) -> dict[str, Any] | None:
    """Read a manifest of whatever format; None for what is none."""
    try:
        manifest = json.loads(content)
    except ValueError:
        return None
    return manifest if isinstance(manifest, dict) and {"kind", "format"} <= manifest.keys() else None
