"""Writes slices and fold numbers as MATLAB v7.3 files, laid out as the figshare archive 1512427 lays them out.

The phantoms and the tests use it, so that made-up scans take the very way that real ones take. The layout was
read from the archive: HDF5 behind a user block of 512 bytes, the struct `cjdata` with label, PID, image,
tumorBorder and tumorMask, and the folds of all slices in `cvind.mat`.
"""

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

USER_BLOCK = 512  # bytes before the HDF5 signature; MATLAB keeps its own header there
HEADER = b"MATLAB 7.3 MAT-file, Platform: PCWIN64, Created on: Sat Nov 21 00:00:00 2015 HDF5 schema 1.00 ."
VERSION_AND_ENDIAN = b"\x00\x02IM"  # bytes 124..127: version 2.0, little-endian
COMPRESS_ABOVE = 999  # elements; smaller arrays would only grow


def write_mat(
    path: Path,
    *,
    label: float,
    patient: str,
    image: NDArray[np.int16],
    mask: NDArray[np.bool_],
    border: NDArray[np.float64],
) -> None:
    """Write one slice. What is handed in upright is stored transposed, because MATLAB counts column by column.

    Args:
        path: the file; one that is there is overwritten.
        label: 1 meningioma, 2 glioma, 3 pituitary, as `labels.FIGSHARE_CODES` has it; any number is written.
        patient: the id, stored as UTF-16 character codes.
        image: (H, W) int16.
        mask: (H, W) bool, true inside the tumour.
        border: (2k,) float64, the outline as x1, y1, x2, y2, ... in pixels.
    """
    codes = np.frombuffer(patient.encode("utf-16-le"), np.uint16).reshape(-1, 1)
    arrays = {
        "label": (np.array([[float(label)]]), "double"),
        "PID": (codes, "char"),
        "image": (np.ascontiguousarray(image.T), "int16"),
        "tumorBorder": (border.astype(np.float64)[None], "double"),
        "tumorMask": (np.ascontiguousarray(mask.T, dtype=np.uint8), "logical"),
    }
    with h5py.File(path, "w", userblock_size=USER_BLOCK) as file:
        group = file.create_group("cjdata")
        group.attrs["MATLAB_class"] = np.bytes_("struct")
        for name, (array, kind) in arrays.items():
            packing = "gzip" if array.size > COMPRESS_ABOVE else None
            dataset = group.create_dataset(
                name, data=array, compression=packing, compression_opts=1 if packing else None
            )
            dataset.attrs["MATLAB_class"] = np.bytes_(kind)
    _stamp(path)


def write_cvind(path: Path, folds: NDArray[np.integer]) -> None:
    """Write the fold of every slice: `folds[i]` is that of the file `<i + 1>.mat`, 1 to 5, or 0 for none.

    Args:
        path: usually `cvind.mat` beside the slices.
        folds: (N,) integers.
    """
    with h5py.File(path, "w", userblock_size=USER_BLOCK) as file:
        dataset = file.create_dataset("cvind", data=folds.astype(np.float64)[None])
        dataset.attrs["MATLAB_class"] = np.bytes_("double")
    _stamp(path)


def _stamp(path: Path) -> None:
    """Put MATLAB's 128-byte header into the user block, which HDF5 leaves alone."""
    with path.open("r+b") as file:
        file.write(HEADER.ljust(124) + VERSION_AND_ENDIAN)
