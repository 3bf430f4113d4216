"""A dataset in many files, in a folder or in S3: what is where, and each node's copies of what it needs of it.

PLACE/shards.json   what the dataset's manifest says, and the SHA-256 of every other file; written last
PLACE/index.arrow   a row for each slice, in the dataset's order, without pixels
PLACE/00000.arrow   pixels, scattered: every shard is a random sample of the dataset, so a few of them are mixed enough
"""

import json
import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from neuralblack.data.places import Place
from neuralblack.data.shard_cache import Shard, ShardCache
from neuralblack.errors import InputError

log = logging.getLogger(__name__)

KIND, FORMAT = "neuralblack shards", 2  # 1: the index had no places
MANIFEST, INDEX = "shards.json", "index.arrow"
SHARD_KEYS = {field.name for field in fields(Shard)}
FETCHING = 4  # shards that a process fetches at a time


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


def by_shard(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Order rows of `count` slices so that each shard is read once: (R,) int64, the same wherever slices are kept."""
    return np.argsort(places_of(count)[rows], kind="stable")


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

    @property
    def files(self) -> list[tuple[str, int]]:
        """Name each shard, with the number of its slices."""
        return [(shard.name, shard.slices) for shard in self._shards]

    def first_place(self, name: str) -> int:
        """Say in which place of all slices in the shards one of them begins."""
        return int(self._starts[[shard.name for shard in self._shards].index(name)])

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


class Images(Protocol):
    """(N, S, S) uint8: an array, or what reads its rows when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, S, S)."""

    @property
    def nbytes(self) -> int:
        """Of all pixels."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, key: Any, /) -> NDArray[np.uint8]:
        """Read a row, a slice of rows, or rows."""


class Ahead:
    """Threads that fetch what will be wanted next, in that order; a later wish takes an earlier one's place.

    They hold up neither who asks nor the end of the process.
    """

    def __init__(self, cache: ShardCache) -> None:
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
    """Read a manifest of whatever format; None for what is none, or lacks what one of a known format has."""
    try:
        manifest = json.loads(content)
    except ValueError:
        return None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int) or "kind" not in manifest:
        return None
    known = manifest["kind"] == KIND and manifest["format"] <= FORMAT
    return manifest if not known or _has_all(manifest) else None


def _has_all(manifest: dict[str, Any]) -> bool:
    dataset, shards = manifest.get("dataset"), manifest.get("shards")
    return (
        isinstance(dataset, dict)
        and isinstance(dataset.get("files"), dict)
        and isinstance(manifest.get("slices"), int)
        and isinstance(manifest.get("index"), str)
        and isinstance(shards, list)
        and all(isinstance(shard, dict) and shard.keys() == SHARD_KEYS for shard in shards)
    )
