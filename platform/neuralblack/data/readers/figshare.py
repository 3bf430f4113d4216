"""Slices of the figshare archive 1512427: MATLAB v7.3 files, which are HDF5 behind a 512-byte header.

An HDF5 file can name other files of this machine as its data (external storage, external links, virtual datasets),
so what is read is checked *before* its first value is: an upload may have been made by anyone.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from neuralblack.data.slices import Box, Slice, box_of, check_sides
from neuralblack.errors import InputError
from neuralblack.labels import from_figshare

SIGNATURE = b"\x89HDF\r\n\x1a\n"  # at 0 or behind a user block of 512, 1024, ... bytes
MAX_CHUNK_BYTES = 64 * 2**20  # HDF5 unpacks whole chunks, whatever the dataset's own shape
MAX_PID = 128  # characters
MAX_FOLDS = 100
PLAIN_FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)  # what MATLAB writes
AGAIN = "download the file again or save it from MATLAB with -v7.3"


def recognises(data: bytes) -> bool:
    """Tell MATLAB files (of any version: old ones are refused by name) from others."""
    return data.startswith(b"MATLAB ") or any(data[at : at + 8] == SIGNATURE for at in (0, 512, 1024, 2048))


def read(data: bytes, *, where: object, labelled: bool) -> Slice:
    """Read `cjdata` of one file; raises InputError naming the field.

    HDF5 returns MATLAB's arrays transposed, so they are turned back. Without `labelled` only the image is read.
    """
    with _hdf5(data, where=where) as file:
        group = _group(file, "cjdata", where=where)
        image = _image(group, where=where)
        if not labelled:
            return Slice(image)
        return Slice(
            image,
            label=from_figshare(_label(group, where=where), where=where),
            patient=_patient(group, where=where),
            box=_box(group, image.shape, where=where),
        )


def read_cvind(path: Path, count: int) -> NDArray[np.int64]:
    """Read the archive's folds: (M,) with M >= `count`, entry n-1 for `<n>.mat`; 0 means in no fold.

    Raises InputError where it is no vector, shorter than the largest file number, or not of whole numbers.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(path, found=error.strerror, expected="a readable cvind.mat", fix="check the file") from error
    if not recognises(data):
        raise InputError(path, found=f"bytes of another kind ({data[:8]!r} ...)", expected="cvind.mat", fix=AGAIN)
    with _hdf5(data, where=path) as file:
        dataset = _numbers(file, "cvind", where=path)
        place = f"{path} cvind"
        if dataset.ndim not in (1, 2) or dataset.size != max(dataset.shape) or dataset.size > 10**6:
            raise InputError(
                place,
                found=f"an array of shape {dataset.shape}",
                expected="one vector with a fold for every file",
                fix="use the cvind.mat that came with the archive",
            )
        values = dataset[()].ravel()
    if len(values) < count:
        raise InputError(
            place,
            found=f"{len(values)} folds",
            expected=f"at least {count}, as the files go up to {count}.mat",
            fix="use the cvind.mat that came with these files",
        )
    wrong = ~((values >= 0) & (values <= MAX_FOLDS) & (values == np.floor(values)))
    if wrong.any():
        raise InputError(
            place,
            found=f"{values[wrong][0]:g} for {int(np.flatnonzero(wrong)[0]) + 1}.mat",
            expected="whole numbers, 1 to 5, or 0 for a slice in no fold",
            fix="use the cvind.mat that came with the archive",
        )
    folds: NDArray[np.int64] = values.astype(np.int64)
    return folds


@contextmanager
def _hdf5(data: bytes, *, where: object) -> Iterator[h5py.File]:
    """Open HDF5 bytes; whatever a broken file raises inside the block becomes an InputError here, at the edge."""
    if data.startswith(b"MATLAB 5.0"):
        raise InputError(
            where,
            found="a MATLAB v5 file",
            expected="a MATLAB v7.3 file (HDF5)",
            fix="in MATLAB: save(name, 'cjdata', '-v7.3')",
        )
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            yield file
    except InputError:
        raise
    except Exception as error:  # broken files raise anything: OSError, KeyError, RuntimeError, SystemError, ...
        raise InputError(
            where,
            found=f"a broken or truncated file ({type(error).__name__} while reading HDF5)",
            expected="a whole MATLAB v7.3 file",
            fix=AGAIN,
        ) from error


def _member(group: h5py.Group, name: str, *, place: str) -> h5py.HLObject:
    """Open what a hard link leads to. The links are asked, not followed: following an external one opens its file."""
    links = group.id.links
    if not links.exists(name.encode()):
        raise InputError(place, found="nothing", expected=f"{name} of the figshare layout", fix=AGAIN)
    if links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise InputError(
            place, found="a link to another place", expected="data within the file itself", fix="copy the data in"
        )
    return group[name]


def _group(file: h5py.File, name: str, *, where: object) -> h5py.Group:
    member = _member(file, name, place=f"{where} {name}")
    if not isinstance(member, h5py.Group):
        raise InputError(f"{where} {name}", found="an array", expected="a struct with image, label, PID", fix=AGAIN)
    return member


def _numbers(group: h5py.Group, name: str, *, where: object) -> h5py.Dataset:
    """Open a dataset of plain real numbers whose values lie in the file itself; raises InputError else."""
    place = f"{where} {group.name.strip('/')}/{name}".replace(" /", " ")
    dataset = _member(group, name, place=place)
    if not isinstance(dataset, h5py.Dataset):
        raise InputError(place, found="a group", expected="an array", fix=AGAIN)
    if dataset.external is not None or dataset.is_virtual:
        raise InputError(
            place, found="data kept in other files", expected="data within the file itself", fix="copy the data in"
        )
    if dataset.shape is None or dataset.dtype.kind not in "iufb" or dataset.dtype.itemsize > 8:
        raise InputError(
            place, found=_kind(dataset), expected="an array of real numbers", fix="save the slice as int16 or double"
        )
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    if len(set(filters)) < len(filters) or not set(filters) <= set(PLAIN_FILTERS):
        raise InputError(place, found=f"HDF5 filters {filters}", expected="gzip or no compression", fix=AGAIN)
    if dataset.chunks and prod(dataset.chunks) * dataset.dtype.itemsize > MAX_CHUNK_BYTES:
        raise InputError(place, found=f"chunks of {dataset.chunks}", expected="chunks of at most 64 MiB", fix=AGAIN)
    return dataset


def _kind(dataset: h5py.Dataset) -> str:
    if dataset.shape is None:
        return "an empty dataset"
    kinds = {"c": "complex numbers", "S": "a string", "O": "objects, strings or references", "V": "a compound type"}
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return "a string"
    return kinds.get(dataset.dtype.kind, f"the type {dataset.dtype}")


def _image(group: h5py.Group, *, where: object) -> NDArray[np.generic]:
    dataset = _numbers(group, "image", where=where)
    if dataset.ndim != 2:
        raise InputError(
            f"{where} cjdata/image",
            found=f"an array of shape {dataset.shape}",
            expected="one slice of shape (H, W)",
            fix="split volumes into slices first",
        )
    check_sides(*reversed(dataset.shape), where=f"{where} cjdata/image")
    return np.ascontiguousarray(dataset[()].T)


def _label(group: h5py.Group, *, where: object) -> float:
    dataset = _numbers(group, "label", where=where)
    if dataset.size != 1:
        raise InputError(
            f"{where} cjdata/label",
            found=f"{dataset.size} values",
            expected="one number: 1, 2 or 3",
            fix="keep one slice with one label per file",
        )
    return float(dataset[()].item())


def _patient(group: h5py.Group, *, where: object) -> str:
    """Read all characters of the id: a public script reads only the first, which merges patients."""
    dataset = _numbers(group, "PID", where=where)
    expected = f"1 to {MAX_PID} characters as uint16 codes"
    if dataset.dtype != np.uint16 or not 1 <= dataset.size <= MAX_PID:
        found = f"{dataset.size} values of type {dataset.dtype}"
        raise InputError(f"{where} cjdata/PID", found=found, expected=expected, fix=AGAIN)
    try:
        patient: str = dataset[()].ravel().astype("<u2").tobytes().decode("utf-16-le").strip("\0 ")
    except UnicodeDecodeError:
        patient = ""
    if not patient or not patient.isprintable():
        raise InputError(f"{where} cjdata/PID", found="no readable characters", expected=expected, fix=AGAIN)
    return patient


def _box(group: h5py.Group, shape: tuple[int, ...], *, where: object) -> Box | None:
    """Bound the tumour by its mask; a file without a mask has no box."""
    if not group.id.links.exists(b"tumorMask"):
        return None
    dataset = _numbers(group, "tumorMask", where=where)
    if dataset.shape != shape[::-1]:
        raise InputError(
            f"{where} cjdata/tumorMask",
            found=f"shape {dataset.shape[::-1]}",
            expected=f"the image's shape {shape}",
            fix=AGAIN,
        )
    return box_of(dataset[()].T)
