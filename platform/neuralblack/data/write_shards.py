"""Write a prepared dataset as shards, into a folder or into S3; who trains on them opens them like the dataset."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from neuralblack.data.dataset import NAMES, Dataset, is_dataset, names_batch, refuse_inside, write_batch
from neuralblack.data.places import Place
from neuralblack.data.shards import FORMAT, INDEX, KIND, MANIFEST, parsed, places_of, read_manifest, scattered
from neuralblack.errors import InputError
from neuralblack.files import sha256, write_json

SLICES = 4096  # of a shard: 256 MiB at 256 x 256 pixels


def write_shards(
    dataset: Dataset,
    out: str,
    *,
    slices: int = SLICES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write shards of so many slices, the index, and the manifest last; the same again puts what is missing or damaged.

    Who writes into a folder waits for others who do; nobody waits for others on S3.

    Args:
        dataset: N slices; their order, and so the dataset's hash, stays what it is.
        out: a folder on every node, or s3://BUCKET/PREFIX.
        slices: of a shard; the last one may have fewer.
        progress: called with slices written and all slices.

    Raises:
        InputError: shards of another dataset are there, or a dataset; it lies in the dataset's folder; nothing can be
            written there, or a disk is full.

    """
    place = Place(out)
    if place.folder and is_dataset(place.folder):
        raise InputError(
            out,
            found="a prepared dataset",
            expected="an empty place, or shards of this dataset",
            fix="choose another place; nothing of it was touched",
        )
    if place.folder:
        refuse_inside(place.folder, dataset)
    with place.writing() as path:
        _write(dataset, place, path, slices, progress)


def _write(dataset: Dataset, place: Place, path: Path, slices: int, progress: Callable[[int, int], None]) -> None:
    content = place.read(MANIFEST)
    manifest = parsed(content) if content else None  # damaged: it is written again
    if manifest and (manifest["kind"] != KIND or manifest["format"] >= FORMAT):
        manifest = read_manifest(place)  # raises where it is not ours, or of a later version
    if manifest and (manifest["dataset"]["files"], manifest["slices"]) != (dataset.manifest["files"], slices):
        raise InputError(
            place,
            found=f"shards of {manifest['slices']} slices, or of another dataset",
            expected="an empty place, or shards of this dataset",
            fix="choose another place",
        )
    order = scattered(len(dataset))
    shards = []
    for number, at in enumerate(range(0, len(order), slices)):
        rows, name = order[at : at + slices], f"{number:05d}.arrow"
        width = dataset.spec.size**2
        pixels = pa.py_buffer(dataset.images[rows].tobytes())
        images = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(rows), [None, pixels])
        write_batch(path, pa.record_batch({"image": images}))
        digest = _put(place, name, path)
        shards.append({"name": name, "slices": len(rows), "bytes": path.stat().st_size, "sha256": digest})
        progress(at + len(rows), len(order))
    columns = {
        "id": pa.array(dataset.ids, pa.string()),
        "patient": pa.array(dataset.patients, pa.string()),
        "label": pa.array(dataset.labels, pa.string()),
        "fold": pa.array(dataset.folds, pa.int64()),
        "source": pa.array(dataset.sources, pa.string()),
        "source_hash": pa.array(dataset.source_hashes, pa.string()),
        "box": pa.array(list(dataset.boxes), pa.list_(pa.int32(), 4)),
        "shape": pa.array(list(dataset.shapes), pa.list_(pa.int32(), 2)),
        "place": pa.array(places_of(len(dataset)), pa.int64()),
    }
    write_batch(path, pa.record_batch(columns))
    index = _put(place, INDEX, path)
    if NAMES in dataset.manifest["files"]:
        write_batch(path, names_batch(dataset.other_names))
        _put(place, NAMES, path)  # the bytes of the dataset's own, whose hash its manifest has
    facts = {
        "kind": KIND,
        "format": FORMAT,
        "dataset": dataset.manifest,
        "slices": slices,
        "shards": shards,
        "index": index,
    }
    write_json(path, facts)
    _put(place, MANIFEST, path)


def _put(place: Place, name: str, path: Path) -> str:
    """Copy a file there unless it is there already; its SHA-256."""
    digest = sha256(path)
    if place.digest(name) != digest:
        place.put(name, path)
    return digest
