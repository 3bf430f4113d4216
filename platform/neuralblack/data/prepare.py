"""Turn folders of scans into one dataset: read, check, preprocess, find out whose each slice is, write.

neuralblack prepare figshare/ images/ --out dataset
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from pydantic import ValidationError

from neuralblack.data import duplicates
from neuralblack.data.dataset import NAMES, Dataset, Row, is_dataset, open_dataset, write_dataset
from neuralblack.data.ingest import Read, read_files
from neuralblack.data.patients import Assignment, Known, assign
from neuralblack.data.preprocessing import Preprocessing
from neuralblack.data.sources import NAMING, File, Source, find_sources
from neuralblack.errors import InputError
from neuralblack.files import (
    MANIFEST,
    behind_link,
    check_new_folder,
    clear_leftovers,
    lock,
    new_folder,
    read_json,
    sha256,
    strangers,
    write_json,
)

logger = logging.getLogger(__name__)

SOURCES = "sources.json"  # size, mtime and hash of every file that was read: tells whether to read again
PIXELS = ".pixels"

Progress = Callable[[int, int], None]


def prepare(
    sources: Sequence[Path],
    out: Path,
    *,
    size: int = 256,
    skip_bad: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Make the dataset `out` from folders of scans, or return it as it is where nothing has changed.

    Args:
        sources: folders of figshare's .mat files or of images in class folders (see `sources.find_sources`).
        out: a new folder, or a dataset that was made before, which is replaced only by a whole new one.
        size: pixels on each side of a stored slice.
        skip_bad: leave bad files out and list them in the manifest, instead of stopping.
        workers: processes that read; one for each CPU at most by default.
        progress: called with (files done, files in all).

    Memory stays at some MiB for each worker and 5 KiB a slice; the disk holds the pixels twice while writing.
    `out` is touched when all files are read, and in one step. Two at once on the same `out` wait for each other.

    Raises:
        InputError: any file is bad (each is named), a source or its fold file is, or `out` is something else.
        RunError: a worker process died.
    """
    out = behind_link(Path.cwd() / out)
    spec = _spec(size)
    found = find_sources(sources)
    _check_out(out, sources)
    with lock(out.with_name(f".{out.name}.lock")):
        clear_leftovers(out)
        options = {"preprocessing": spec.model_dump(), "grouping": duplicates.VERSION}
        if _by_folder(found):
            options["folders"] = NAMING
        if (dataset := _as_before(out, found, options, skip_bad=skip_bad)) is not None:
            logger.info("nothing has changed since %s was prepared", out)
            return dataset
        folds = [source.folds() for source in found]  # a wrong fold file is found before hours of reading
        _check_renewal(out, found)
        with new_folder(out) as folder:
            reads = _read(folder / PIXELS, found, spec, skip_bad=skip_bad, workers=workers, progress=progress)
            _write(folder, found, folds, reads, spec, options)
    return open_dataset(out)


def _spec(size: int) -> Preprocessing:
    try:
        return Preprocessing(size=size)
    except ValidationError:
        raise InputError("--size", found=size, expected="64 to 1024 pixels", fix="leave it out for 256") from None


def _check_out(out: Path, sources: Sequence[Path]) -> None:
    """Refuse to write over what is not ours, or among the scans."""
    try:
        renewed = is_dataset(out)
    except InputError as error:
        fix = f"if it was a dataset, rm -r {quote(str(out))} and the same command again; nothing of it was touched"
        raise InputError(error.where, found=error.found, expected=error.expected, fix=fix) from None
    if out.exists() and not (out.is_dir() and (renewed or not any(out.iterdir()))):
        raise InputError(
            out,
            found="files that are no dataset",
            expected="a new folder, or a dataset to renew",
            fix="choose another --out; nothing of it was touched",
        )
    for source in sources:
        apart = source.resolve()
        if out.resolve().is_relative_to(apart) or apart.is_relative_to(out.resolve()):
            raise InputError(
                out, found=f"a folder that shares files with {source}", expected="a folder apart", fix="choose another"
            )
    check_new_folder(out)
    out.parent.mkdir(parents=True, exist_ok=True)  # where its lock lies


def _check_renewal(out: Path, found: Sequence[Source]) -> None:
    """Refuse to renew a dataset where something would go with it: other files in its folder, or other sources."""
    if not is_dataset(out):
        return
    if others := strangers(out):
        raise InputError(
            out / others[0],
            found="a file that is none of the dataset's",
            expected="a dataset with nothing else in its folder, which is renewed whole",
            fix="move it away, or choose another --out; nothing of it was touched",
        )
    sources = {source["name"] for source in read_json(out / MANIFEST)["sources"]}
    if gone := sorted(sources - {source.name for source in found}):
        raise InputError(
            out,
            found=f"a dataset of {', '.join(gone)}, which would be gone",
            expected="a new folder, or a dataset of these sources to renew",
            fix=f"choose another --out, or first rm -r {quote(str(out))}; nothing of it was touched",
        )


def _as_before(out: Path, found: Sequence[Source], options: object, *, skip_bad: bool) -> Dataset | None:
    """Open `out` where the same files and options made it; a file with another mtime is hashed to see if it is new."""
    if not (out / SOURCES).is_file():
        return None
    try:
        dataset, known = open_dataset(out), read_json(out / SOURCES)
    except InputError as error:
        logger.warning("preparing again: %s", error)
        return None
    files = {file.id: file for file in _all_files(found)}
    if known["options"] != options or known["files"].keys() != files.keys():
        return None
    if dataset.manifest["rejected"] and not skip_bad:
        return None
    if dataset.manifest["duplicates"].get("joined_patients") and NAMES not in dataset.manifest["files"]:
        return None  # made before these names were kept; nothing else of it changes
    same = all(_same(file, known["files"][name]) for name, file in files.items())
    return dataset if same else None


def _same(file: File, known: Mapping[str, Any]) -> bool:
    if file.size != known["size"]:
        return False
    try:
        untouched = known["sha256"] and file.mtime_ns == known["mtime_ns"]
        return bool(untouched or sha256(file.path) == known["sha256"])
    except OSError:  # as before where it has no hash; else the reading that follows names it
        return not known["sha256"]


def _by_folder(found: Sequence[Source]) -> set[str]:
    return {file.patient for source in found for file in source.files if file.patient}


def _all_files(found: Sequence[Source]) -> list[File]:
    return [file for source in found for file in (*source.files, *([source.fold_file] if source.fold_file else []))]


def _read(
    pixels: Path,
    found: Sequence[Source],
    spec: Preprocessing,
    *,
    skip_bad: bool,
    workers: int | None,
    progress: Progress | None,
) -> list[Read]:
    """Read all files, appending the pixels of good ones to a file, and return the rest of what was read."""
    files = [file for source in found for file in source.files]
    reads: list[Read] = []
    with pixels.open("wb") as out:  # written, not mapped: a full disk is an error here, a SIGBUS there
        for read in read_files(files, spec, workers=workers):
            out.write(read.pixels)
            reads.append(replace(read, pixels=b""))
            if progress is not None:
                progress(len(reads), len(files))
    bad = [read.error for read in reads if read.error is not None]
    if len(bad) == len(files) or (bad and not skip_bad):
        raise InputError(
            f"{len(bad)} of {len(files)} files",
            found="scans that cannot be used:\n" + "\n".join(f"  {error}" for error in bad) + "\n",
            expected="whole slices",
            fix="mend or remove them" + (", or leave them out with --skip-bad" if len(bad) < len(files) else ""),
        )
    return reads


def _write(
    folder: Path,
    found: Sequence[Source],
    folds: Sequence[Mapping[str, int] | None],
    reads: Sequence[Read],
    spec: Preprocessing,
    options: object,
) -> None:
    source_of = {file.id: source.name for source in found for file in source.files}
    fold_of = {name: fold for of_source in folds for name, fold in (of_source or {}).items()}
    good = [read for read in reads if read.error is None]
    known = [
        Known(file.id, read.hash, read.label, read.patient, fold_of.get(file.id), source_of[file.id])
        for read in good
        for file in [read.file]
    ]
    images = np.memmap(folder / PIXELS, np.uint8, "r", shape=(len(good), spec.size, spec.size))
    if folders := _by_folder(found):
        logger.info("%d patients are named by their folders", len(folders))
    whose = assign(known, images)
    rows = [
        Row(read.file.id, patient, read.label, fold, source_of[read.file.id], read.hash, read.box, read.shape)
        for read, patient, fold in zip(good, whose.patients, whose.folds, strict=True)
    ]
    hashes = {read.file.id: read.hash for read in reads}
    hashes |= {source.fold_file.id: sha256(source.fold_file.path) for source in found if source.fold_file}
    write_json(folder / SOURCES, {"options": options, "files": _listing(found, hashes)})
    facts = _facts(found, reads, hashes, whose)
    write_dataset(folder, rows, folder / PIXELS, spec, facts, other_names=whose.other_names)


def _listing(found: Sequence[Source], hashes: Mapping[str, str]) -> dict[str, dict[str, object]]:
    return {
        file.id: {"size": file.size, "mtime_ns": file.mtime_ns, "sha256": hashes[file.id]} for file in _all_files(found)
    }


def _facts(
    found: Sequence[Source], reads: Sequence[Read], hashes: Mapping[str, str], whose: Assignment
) -> dict[str, object]:
    """Say in the manifest where the slices are from, what was left out and why, and what resembles what."""
    return {
        "sources": [
            {
                "name": source.name,
                "kind": source.kind,
                "files": len(source.files),
                "fold_file_sha256": hashes[source.fold_file.id] if source.fold_file else None,
                "ignored": list(source.ignored),
            }
            for source in found
        ],
        "rejected": [
            {"id": read.file.id, "reason": str(read.error.at(read.file.id))} for read in reads if read.error is not None
        ],
        "duplicates": whose.notes,
    }
