"""A prepared dataset: slices.arrow, whose pixels are mapped, not loaded, and manifest.json, which says what it is.

Where patients are one because they share pictures, names.arrow has the names that slices.arrow does not.

Or its shards (`data/shards.py`): the same slices under the same hash, of which each node has those that it needs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from neuralblack.data.places import Place
from neuralblack.data.preprocessing import Preprocessing, check_version
from neuralblack.data.shard_cache import Shard
from neuralblack.data.shards import INDEX, Images, ShardedImages, by_shard, read_manifest
from neuralblack.data.shards import MANIFEST as SHARDS
from neuralblack.data.slices import Box
from neuralblack.errors import InputError
from neuralblack.files import check_manifest, is_address, read_json, write_manifest
from neuralblack.labels import CLASSES

KIND, FORMAT = "neuralblack dataset", 2  # 1: without the size that each slice came in
SLICES = "slices.arrow"
NAMES = "names.arrow"
SAMPLE = 20_000  # slices that something is fitted to, at most: their pixels are in memory
NO_BOX = (-1, -1, -1, -1)
LEARNT_ONLY = -1  # in place of a fold: learnt from, whichever folds are; never validated or tested on


@dataclass(frozen=True)
class Row:
    """What is stored beside one slice's pixels.

    `box` is in stored pixels; `fold` 0 is in no fold, LEARNT_ONLY in the training part whichever folds are; `shape` is
    the (height, width) that the slice came in.
    """

    id: str
    patient: str
    label: str
    fold: int
    source: str
    source_hash: str
    box: Box | None
    shape: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Dataset:
    """An open dataset. N slices; the pixels are a read-only view of the mapped file, or fetched shard by shard.

    `images` (N, S, S) uint8; `folds` (N,) int64, 0 in no fold, or LEARNT_ONLY; `boxes` (N, 4) int64 as x0, y0, x1, y1
    in stored pixels, half-open, -1 where there is none; `shapes` (N, 2) int64, the height and width each came in;
    `classes` are those present, in the order of CLASSES. `hash` is that of slices.arrow: two datasets of one hash hold
    the same slices, wherever they were made. `other_names` has the names that files or folders gave a patient beside
    the one in `patients`, where pictures that they share made several one.
    """

    path: Path | Place
    manifest: dict[str, Any]
    hash: str
    spec: Preprocessing
    images: Images
    ids: list[str]
    patients: list[str]
    labels: list[str]
    folds: NDArray[np.int64]
    sources: list[str]
    source_hashes: list[str]
    boxes: NDArray[np.int64]
    shapes: NDArray[np.int64]
    classes: tuple[str, ...]
    other_names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


def open_dataset(path: str | Path) -> Dataset:
    """Open a dataset and check every byte of it against its manifest; of shards each one when it is first used.

    Args:
        path: the folder of a dataset or of shards, or the address of shards, such as s3://BUCKET/PREFIX.

    Raises InputError where it is no dataset, is damaged, or was made by another format or preprocessing version.
    """
    if is_address(path) or (Path(path) / SHARDS).is_file():
        return _open_shards(Place(str(path)))
    path = Path(path)
    if not is_dataset(path):
        raise InputError(
            path,
            found="no dataset" if path.exists() else "nothing",
            expected="a folder written by neuralblack prepare",
            fix="check the path, or make it: neuralblack prepare SOURCE --out DATASET",
        )
    manifest = read_json(path / "manifest.json")
    spec = _spec_of(manifest, path)
    check_manifest(path)
    # One record batch, so that one buffer holds all pixels.
    batch = pa.ipc.open_file(pa.memory_map(str(path / SLICES))).get_batch(0)
    names = (path / NAMES).read_bytes() if NAMES in manifest["files"] else None
    return _opened(path, manifest, spec, batch, _pixels(batch.column("image"), spec.size), names)


def _open_shards(place: Place) -> Dataset:
    found = read_manifest(place)
    if found is None:
        raise InputError(
            place,
            found="no shards.json",
            expected="shards written by neuralblack shard",
            fix="check the address, or write them: neuralblack shard DATASET OUT",
        )
    manifest = found["dataset"]
    spec = _spec_of(manifest, place)
    batch = pa.ipc.open_file(pa.BufferReader(_checked(place, INDEX, found["index"]))).get_batch(0)
    names = _checked(place, NAMES, manifest["files"][NAMES]) if NAMES in manifest["files"] else None
    places = batch.column("place").to_numpy()
    images = ShardedImages(place, [Shard(**each) for each in found["shards"]], places, side=spec.size)
    return _opened(place, manifest, spec, batch, images, names)


def _checked(place: Place, name: str, expected: str) -> bytes:
    content = place.read(name)
    if content is None or sha256(content).hexdigest() != expected:
        raise InputError(
            f"{place}/{name}",
            found="nothing" if content is None else "another content",
            expected=f"SHA-256 {expected[:12]}, as shards.json says",
            fix="write the shards again",
        )
    return content


def _spec_of(manifest: dict[str, Any], where: object) -> Preprocessing:
    """Read the preprocessing of a dataset of a format that this program knows."""
    found = manifest.get("format")
    if found != FORMAT:
        raise InputError(where, found=f"format {found}", expected=f"format {FORMAT}", fix="prepare the dataset again")
    try:
        spec = Preprocessing.model_validate(manifest.get("preprocessing"))
    except ValidationError:
        raise InputError(
            where,
            found=f"preprocessing {manifest.get('preprocessing')}",
            expected="fields this program knows",
            fix="prepare the dataset again",
        ) from None
    check_version(spec, where=where)
    return spec


def _opened(
    path: Path | Place,
    manifest: dict[str, Any],
    spec: Preprocessing,
    batch: pa.RecordBatch,
    images: Images,
    names: bytes | None,
) -> Dataset:
    other_names: dict[str, list[str]] = {}
    for row in pa.ipc.open_file(pa.BufferReader(names)).read_all().to_pylist() if names else ():
        other_names.setdefault(row["patient"], []).append(row["name"])
    labels = batch.column("label").to_pylist()
    return Dataset(
        path=path,
        manifest=manifest,
        hash=manifest["files"][SLICES],
        spec=spec,
        images=images,
        ids=batch.column("id").to_pylist(),
        patients=batch.column("patient").to_pylist(),
        labels=labels,
        folds=batch.column("fold").to_numpy().astype(np.int64),
        sources=batch.column("source").to_pylist(),
        source_hashes=batch.column("source_hash").to_pylist(),
        boxes=np.array([box or NO_BOX for box in batch.column("box").to_pylist()], np.int64).reshape(-1, 4),
        shapes=np.array(batch.column("shape").to_pylist(), np.int64).reshape(-1, 2),
        classes=tuple(name for name in CLASSES if name in set(labels)),
        other_names=other_names,
    )


def is_dataset(path: Path) -> bool:
    """Say whether a folder was written by `write_dataset`, of whatever version."""
    if not (path / "manifest.json").is_file():
        return False
    manifest = read_json(path / "manifest.json")
    return isinstance(manifest, dict) and manifest.get("kind") == KIND


def refuse_inside(out: Path, dataset: Dataset) -> None:
    """Raise InputError for a place in a dataset's own folder: with other files in it, it could not be renewed."""
    if isinstance(dataset.path, Path) and out.resolve().is_relative_to(dataset.path.resolve()):
        raise InputError(
            out, found=f"a place in the dataset {dataset.path}", expected="a folder apart", fix="choose another place"
        )


def write_dataset(
    folder: Path,
    rows: Sequence[Row],
    pixels: Path,
    spec: Preprocessing,
    extra: Mapping[str, object] | None = None,
    *,
    other_names: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write slices.arrow and the manifest into `folder`, which a caller moves into place (`files.new_folder`).

    Args:
        folder: exists; files already in it are listed in the manifest too.
        rows: one for each slice, with unique ids.
        pixels: a raw file of len(rows) * size * size bytes in the order of `rows`, which this takes away. It is
            mapped, not read, because the pixels have to be one record batch: so memory stays small, and the disk holds
            them twice for a moment.
        spec: the preprocessing that made them.
        extra: more for the manifest.
        other_names: of patients, as a Dataset has them; not in slices.arrow, whose hash is the dataset's.
    """
    assert rows and len({row.id for row in rows}) == len(rows), "ids are unique"
    assert pixels.stat().st_size == len(rows) * spec.size**2, "as many pixels as rows"
    width = spec.size**2
    mapped = pa.memory_map(str(pixels)).read_buffer()
    pixels.unlink()  # before the manifest lists the folder's files; the mapping holds on to the bytes
    images = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(rows), [None, mapped])
    columns = {
        "id": pa.array([row.id for row in rows], pa.string()),
        "patient": pa.array([row.patient for row in rows], pa.string()),
        "label": pa.array([row.label for row in rows], pa.string()),
        "fold": pa.array([row.fold for row in rows], pa.int64()),
        "source": pa.array([row.source for row in rows], pa.string()),
        "source_hash": pa.array([row.source_hash for row in rows], pa.string()),
        "box": pa.array([row.box for row in rows], pa.list_(pa.int32(), 4)),
        "shape": pa.array([row.shape for row in rows], pa.list_(pa.int32(), 2)),
        "image": images,
    }
    batch = pa.record_batch(columns, metadata={"preprocessing": spec.model_dump_json()})
    write_batch(folder / SLICES, batch)
    if other_names:
        write_batch(folder / NAMES, names_batch(other_names))
    facts = {"kind": KIND, "format": FORMAT, "preprocessing": spec.model_dump(), **_counts(rows), **(extra or {})}
    write_manifest(folder, facts)


def names_batch(other_names: Mapping[str, Sequence[str]]) -> pa.RecordBatch:
    """List patients' other names: what NAMES holds, the same bytes for the same names."""
    pairs = sorted((patient, name) for patient, names in other_names.items() for name in names)
    columns = {"patient": [patient for patient, _ in pairs], "name": [name for _, name in pairs]}
    return pa.record_batch({key: pa.array(values, pa.string()) for key, values in columns.items()})


def write_batch(path: Path, batch: pa.RecordBatch) -> None:
    """Write an Arrow file of one record batch, so that one buffer holds each column."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def class_numbers(dataset: Dataset, rows: NDArray[np.int64], classes: Sequence[str]) -> NDArray[np.int64]:
    """Number the labels of some rows by a model's classes: (R,) int64."""
    return np.array([classes.index(dataset.labels[row]) for row in rows], dtype=np.int64)


def sample_of(rows: NDArray[np.int64], dataset: Dataset) -> NDArray[np.int64]:
    """Take SAMPLE rows at most, ascending: those in the first shards, each of which is a sample of the dataset."""
    return rows if len(rows) <= SAMPLE else np.sort(rows[by_shard(rows, len(dataset))[:SAMPLE]])


def hashed(patient: str) -> str:
    """Name a patient without saying who: 16 hex digits, the same in every dataset.

    A short id can be found again by trying them all; this keeps ids out of sight, not out of reach.
    """
    return sha256(f"neuralblack patient {patient}".encode()).hexdigest()[:16]


def _counts(rows: Sequence[Row]) -> dict[str, object]:
    """Count slices per class, fold and patient (hashed) for the manifest."""
    patients: dict[str, dict[str, int]] = {}
    folds: dict[str, int] = {}
    for row in rows:
        of_patient = patients.setdefault(hashed(row.patient), {})
        of_patient[row.label] = of_patient.get(row.label, 0) + 1
        folds[str(row.fold)] = folds.get(str(row.fold), 0) + 1
    classes = {
        name: {
            "slices": sum(counts.get(name, 0) for counts in patients.values()),
            "patients": sum(name in counts for counts in patients.values()),
        }
        for name in CLASSES
        if any(name in counts for counts in patients.values())
    }
    return {"slices": len(rows), "classes": classes, "folds": folds, "patients": patients}


def _pixels(column: pa.FixedSizeBinaryArray, size: int) -> NDArray[np.uint8]:
    assert column.offset == 0 and column.type.byte_width == size * size, "written by write_dataset"
    view = np.frombuffer(column.buffers()[1], np.uint8, count=len(column) * size * size)
    return view.reshape(len(column), size, size)
