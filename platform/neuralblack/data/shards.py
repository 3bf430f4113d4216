"""A dataset in many files, in a folder or in S3: what is where, and each node's copies of what it needs of it.

PLACE/shards.json   what the dataset's manifest says, and the SHA-256 of every other file; written last
PLACE/index.arrow   a row for each slice, in the dataset's order, without pixels
PLACE/00000.arrow   pixels, scattered: every shard is a random sample of the dataset, so a few of them are mixed enough
"""

import json
import logging
import os
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
from numpy.typing import NDArray

from neuralblack.data.node_cache import folder_on_this_node, make_room, open_in_use
from neuralblack.errors import InputError
from neuralblack.files import is_address, lock, sha256

log = logging.getLogger(__name__)

KIND, FORMAT = "neuralblack shards", 1
MANIFEST, INDEX = "shards.json", "index.arrow"
FETCHING = 4  # shards that a process fetches at a time
OPEN = 64  # shards that a process keeps open, and so in the node's cache


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
        except (pa.ArrowInvalid, OSError) as error:
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
        except OSError as error:
            raise self._wrong(f"{self}/{name}", error) from None

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file here."""
        try:
            with self._fs.open_input_stream(f"{self._root}/{name}") as source, path.open("wb") as file:
                while block := source.read(1 << 22):
                    file.write(block)
        except OSError as error:
            raise self._wrong(f"{self}/{name}", error) from None

    def put(self, name: str, path: Path) -> None:
        """Copy a file there."""
        try:
            if self.folder:
                self.folder.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as source, self._fs.open_output_stream(f"{self._root}/{name}") as file:
                while block := source.read(1 << 22):
                    file.write(block)
        except OSError as error:
            raise self._wrong(f"{self}/{name}", error) from None

    def _wrong(self, where: str, error: Exception) -> InputError:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        return InputError(
            where, found=said, expected="a file that can be reached", fix="check the address and the credentials"
        )


def scattered(count: int) -> NDArray[np.int64]:
    """Say which slice lies in which place of the shards: one permutation, the same for every dataset of `count`."""
    return np.random.default_rng(0).permutation(count)


def places_of(count: int) -> NDArray[np.int64]:
    """Say in which place of the shards each slice lies: the inverse of `scattered`."""
    return np.argsort(scattered(count))


class ShardedImages:
    """Pixels of N slices, (N, S, S) uint8, of which only some shards are on this node at a time.

    Indexing with a row, a slice or rows copies what it names, as it does with an array.
    """

    def __init__(self, place: Place, shards: list[Shard], *, side: int) -> None:
        """Know the shards; nothing is fetched yet."""
        self.shape = (sum(shard.slices for shard in shards), side, side)
        self.nbytes = self.shape[0] * side * side
        self._shards, self._side = shards, side
        self._starts = np.cumsum([0, *(shard.slices for shard in shards)])
        self._place_of = places_of(self.shape[0])
        self._cache = ShardCache(place)
        self._fetching: dict[str, Future[None]] = {}
        self._pool = ThreadPoolExecutor(FETCHING, thread_name_prefix="shards")

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        rows = np.atleast_1d(np.arange(len(self))[key])
        places = self._place_of[rows]
        numbers = np.searchsorted(self._starts, places, side="right") - 1
        found = np.empty((len(rows), self._side, self._side), np.uint8)
        for number in np.unique(numbers):
            here = numbers == number
            pixels = self._cache.open(self._shards[number], side=self._side)
            found[here] = pixels[places[here] - self._starts[number]]
        return found[0] if np.ndim(key) == 0 and not isinstance(key, slice) else found

    def ahead(self, rows: NDArray[np.int64]) -> None:
        """Begin to fetch the shards of rows that will be asked for; what fails is said when they are."""
        for number in np.unique(np.searchsorted(self._starts, self._place_of[rows], side="right") - 1):
            shard = self._shards[number]
            before = self._fetching.get(shard.name)
            if (before is None or before.done()) and not self._cache.has(shard):
                self._fetching[shard.name] = self._pool.submit(self._cache.ensure, shard)


Images = NDArray[np.uint8] | ShardedImages  # (N, S, S) uint8


class ShardCache:
    """Copies of shards on this node, shared by its processes, each checked by its hash before this process uses it.

    Of a place on the same disk nothing is copied. NEURALBLACK_CACHE_GIB bounds the copies; what was used least lately
    goes first.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._folder = folder_on_this_node("shards")
        self._max_bytes = int(float(os.environ.get("NEURALBLACK_CACHE_GIB") or 1024) * 2**30)
        self._near = place.folder
        if self._near and (not self._near.exists() or self._near.stat().st_dev != self._folder.stat().st_dev):
            self._near = None
        self._open: OrderedDict[str, tuple[NDArray[np.uint8], int]] = OrderedDict()
        self._checked: set[str] = set()

    def has(self, shard: Shard) -> bool:
        """Say whether a shard need not be fetched."""
        return self._path(shard).exists()

    def open(self, shard: Shard, *, side: int) -> NDArray[np.uint8]:
        """Map a shard's pixels, (n, S, S) uint8; raises InputError where it is not what the manifest says."""
        if shard.sha256 in self._open:
            self._open.move_to_end(shard.sha256)
            return self._open[shard.sha256][0]
        path, descriptor = self._in_use(shard, give_up_others=True)
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        pixels = np.frombuffer(batch.column("image").buffers()[1], np.uint8).reshape(-1, side, side)
        self._open[shard.sha256] = pixels, descriptor
        if len(self._open) > OPEN:
            self._close_oldest()
        return pixels

    def ensure(self, shard: Shard) -> None:
        """Fetch a shard if it is not here; other threads than the one that calls `open` may."""
        _, descriptor = self._in_use(shard, give_up_others=False)
        os.close(descriptor)

    def _in_use(self, shard: Shard, *, give_up_others: bool) -> tuple[Path, int]:
        path = self._path(shard)
        if self._near:
            self._check(path, shard)
            return path, os.open(path, os.O_RDONLY)
        with lock(self._folder / f"{shard.sha256[:2]}.lock"):
            if path.exists() and shard.sha256 not in self._checked and sha256(path) != shard.sha256:
                log.warning("this copy of a shard was damaged, and is fetched again: %s", path)
                path.unlink()
            if not path.exists():
                self._fetch(shard, path, give_up_others=give_up_others)
            self._checked.add(shard.sha256)
            return path, open_in_use(path)

    def _fetch(self, shard: Shard, path: Path, *, give_up_others: bool) -> None:
        while not make_room(self._folder, shard.bytes, max_bytes=self._max_bytes):
            if not (give_up_others and self._open):
                raise InputError(
                    self._folder,
                    found=f"no room for a shard of {shard.bytes / 2**20:.0f} MiB",
                    expected="room for some shards on this node",
                    fix="free some space, or export NEURALBLACK_CACHE_GIB or NEURALBLACK_CACHE=FOLDER on every node",
                )
            self._close_oldest()
        temporary = path.with_suffix(f".{os.getpid()}")
        try:
            self._place.fetch(shard.name, temporary)
            self._check(temporary, shard)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _check(self, path: Path, shard: Shard) -> None:
        if shard.sha256 in self._checked:
            return
        found = sha256(path) if path.exists() else "nothing"
        if found != shard.sha256:
            raise InputError(
                f"{self._place}/{shard.name}",
                found=found[:12],
                expected=f"SHA-256 {shard.sha256[:12]}, as shards.json says",
                fix="restore the file from a good copy, or write the shards again",
            )
        self._checked.add(shard.sha256)

    def _path(self, shard: Shard) -> Path:
        return self._near / shard.name if self._near else self._folder / f"{shard.sha256}.bin"

    def _close_oldest(self) -> None:
        _, (_, descriptor) = self._open.popitem(last=False)
        os.close(descriptor)


def read_manifest(place: Place) -> dict[str, Any] | None:
    """Read shards.json; None where there is none. Raises InputError for one of another format."""
    content = place.read(MANIFEST)
    if content is None:
        return None
    try:
        manifest: dict[str, Any] = json.loads(content)
    except ValueError:
        raise InputError(
            f"{place}/{MANIFEST}", found="no readable JSON", expected="a JSON file", fix="write the shards again"
        ) from None
    if manifest.get("kind") != KIND or manifest.get("format") != FORMAT:
        raise InputError(
            f"{place}/{MANIFEST}",
            found=f"{manifest.get('kind')} of format {manifest.get('format')}",
            expected=f"{KIND} of format {FORMAT}",
            fix="write the shards again: neuralblack shard",
        )
    return manifest
