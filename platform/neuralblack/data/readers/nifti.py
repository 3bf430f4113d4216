"""Slices kept as NIfTI-1 or NIfTI-2, plain or compressed by gzip. Needs nibabel: `pip install 'neuralblack[medical]'`.

A slice is turned the way radiologists look at it, by the file's own affine: axial with the front of the head up,
coronal and sagittal with the top of the head up; the patient's right is on the left, and on a sagittal slice the front.
"""

import zlib
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuralblack.data.readers.quiet import silenced
from neuralblack.data.slices import Slice, check_sides
from neuralblack.errors import InputError

GZIP = b"\x1f\x8b\x08"
HEADER = {1: 348, 2: 540}  # bytes, by version
MAX_OFFSET = 2**20  # where the pixels begin: behind the header and its extensions
GZIP_START = 2**17  # a gzip header with its optional fields may have 64 KB and a name
MEMBERS, MEMBER_BYTES = 64, 64  # at most so many, and one for so many bytes: each takes time, and may hold nothing
PIECE = 2**14  # bytes that are unpacked at a time: what is behind a gzip member is copied for each
AGAIN = "export the slice again"
# What each axis of the picture runs towards, downwards and to the right, by the axis that the slice stands on
# (as nibabel names ends of axes: Left, Right, Posterior, Anterior, Inferior, Superior).
UPRIGHT = {"S": ("P", "L"), "A": ("I", "L"), "R": ("I", "P")}
OPPOSITE = {"S": "I", "I": "S", "A": "P", "P": "A", "R": "L", "L": "R"}


def recognises(data: bytes) -> bool:
    """Tell single-file NIfTI by its magic, of gzip by the first bytes inside: no more is inflated for that."""
    return _version(_start(data)) is not None


def read(data: bytes, *, where: object, labelled: bool) -> Slice:
    """Read one slice; NIfTI carries no label, so `labelled` changes nothing.

    Raises InputError where nibabel is missing, the file is broken, a volume, of complex numbers or colours, too small
    or large, or without a usable orientation.
    """
    try:
        import nibabel  # noqa: F401
    except (ImportError, OSError):  # OSError: a decoder process can open no file to look for it
        raise InputError(
            where,
            found="a NIfTI file, which needs a package that is not installed here",
            expected="nibabel",
            fix="pip install 'neuralblack[medical]', or export the slice as PNG or DICOM",
        ) from None
    try:
        with silenced("nibabel"):
            return Slice(_image(data, where=where))
    except (InputError, MemoryError):
        raise
    except Exception as error:  # broken headers raise anything: HeaderDataError, ValueError, LinAlgError, ...
        found = f"a broken or truncated NIfTI file ({type(error).__name__} while reading)"
    raise InputError(where, found=found, expected="a whole NIfTI slice", fix=AGAIN)


def _start(data: bytes) -> bytes:
    """Return the first bytes of the file, inflated where it is gzip; b"" where it cannot be."""
    if not data.startswith(GZIP):
        return data[: HEADER[2]]
    try:
        return zlib.decompressobj(wbits=31).decompress(data[:GZIP_START], HEADER[2])
    except zlib.error:
        return b""


def _version(start: bytes) -> int | None:
    if start[344:348] == b"n+1\0":
        return 1
    return 2 if start[4:12] == b"n+2\0\r\n\x1a\n" else None


def _image(data: bytes, *, where: object) -> NDArray[np.generic]:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    start = _start(data)
    version = _version(start)
    assert version is not None, "only what `recognises` is read"
    header = (Nifti1Header, Nifti2Header)[version - 1](start[: HEADER[version]], check=True)
    shape, kind, offset = _check(header, where=where)
    content = _content(data, offset + prod(shape) * kind.itemsize, where=where)
    volume = np.frombuffer(content, kind, prod(shape), offset).reshape(shape, order="F")
    if header.get_slope_inter()[0] is not None:
        slope, intercept = header.get_slope_inter()
        with np.errstate(all="ignore"):  # what overflows is found below
            volume = volume.astype(np.float64) * slope + intercept
    if volume.dtype.kind == "f" and not np.isfinite(volume).all():
        raise InputError(
            where,
            found="pixels that are not finite numbers (NaN or infinity)",
            expected="finite intensities",
            fix="export the slice again; masked pixels should be 0",
        )
    if not (header["sform_code"] or header["qform_code"]):  # nibabel would make up an affine
        raise _lies_somehow(where)
    return _upright(volume, header.get_best_affine(), where=where)


def _check(header: Any, *, where: object) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Return shape (three axes, one of length 1), type and offset of the pixels, before any is unpacked."""
    shape, kind = tuple(int(length) for length in header.get_data_shape()), header.get_data_dtype()
    # Of a single file, the format says, less than 352 means 352 (544 in NIfTI-2); nibabel refuses all of it but 0.
    offset = int(header.get_data_offset()) or int(header.single_vox_offset)
    sides = [length for length in shape if length != 1]
    if len(sides) != 2 or max(shape[3:], default=1) > 1:
        raise InputError(
            where,
            found=f"a NIfTI file of shape {shape}",
            expected="one slice of shape (H, W) or (H, W, 1)",
            fix="take one slice out first, as with nibabel: volume.slicer[:, :, 80:81].to_filename('slice.nii')",
        )
    check_sides(*sides, where=where)
    if kind.kind not in "iuf" or kind.itemsize > 8:
        raise InputError(
            where,
            found={"c": "complex numbers", "V": "colours"}.get(kind.kind, f"the type {kind}"),
            expected="real numbers of at most 64 bits",
            fix="export the magnitude as int16 or float32",
        )
    if not 0 <= offset <= MAX_OFFSET:
        raise InputError(
            where, found=f"pixels that begin at byte {offset}", expected=f"at most {MAX_OFFSET}", fix=AGAIN
        )
    return (*shape, 1)[:3], kind, offset


def _content(data: bytes, needed: int, *, where: object) -> bytes:
    """Return the file's bytes; of gzip never more than `needed`, whatever the rest would unpack to."""
    if data.startswith(GZIP):
        data = _inflated(data, needed, where=where)
    if len(data) < needed:
        raise _truncated(needed, where=where)
    return data


def _inflated(data: bytes, needed: int, *, where: object) -> bytes:
    """Unpack gzip, which may be several members one behind another (RFC 1952, 2.2), as bgzip writes it."""
    found, at, members = bytearray(), 0, 0
    while data.startswith(GZIP, at):
        members += 1
        if members > MEMBERS + needed // MEMBER_BYTES:
            raise InputError(
                where, found=f"gzip in more than {members - 1} members", expected="64 KB in each, or one", fix=AGAIN
            )
        member = zlib.decompressobj(wbits=31)
        while not member.eof and at < len(data):
            piece = data[at : at + PIECE]
            found += member.decompress(piece, needed + 1 - len(found))
            if len(found) > needed:
                raise InputError(
                    where,
                    found="a file that unpacks to more than its header says",
                    expected=f"{needed} bytes",
                    fix=AGAIN,
                )
            at += len(piece) - len(member.unconsumed_tail) - len(member.unused_data)
        if not member.eof:  # which is behind the checksum, which zlib has compared
            raise _truncated(needed, where=where)
    return bytes(found)


def _truncated(needed: int, *, where: object) -> InputError:
    return InputError(where, found="a truncated NIfTI file", expected=f"{needed} bytes unpacked", fix=AGAIN)


def _upright(volume: NDArray[np.generic], affine: NDArray[np.float64], *, where: object) -> NDArray[np.generic]:
    """Turn (A, B, C), one of them 1, to (H, W) as `UPRIGHT` says, by the axes of the head that are nearest."""
    from nibabel.orientations import aff2axcodes

    codes = list(aff2axcodes(affine))
    standing = volume.shape.index(1)
    flat = [axis for axis in range(3) if axis != standing]
    pairs = {frozenset(pair) for pair in ("SI", "AP", "RL")}
    known = {frozenset((codes[axis], OPPOSITE[codes[axis]])) for axis in flat if codes[axis] is not None}
    if len(known) != 2:
        raise _lies_somehow(where)
    (through,) = pairs - known
    down, right = next(ends for end, ends in UPRIGHT.items() if end in through)
    image = volume.squeeze(axis=standing)
    ends = [codes[axis] for axis in flat]
    if ends[0] in (right, OPPOSITE[right]):
        image, ends = image.T, ends[::-1]
    if ends[0] != down:
        image = image[::-1]
    if ends[1] != right:
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _lies_somehow(where: object) -> InputError:
    return InputError(
        where,
        found="an affine that does not say how the slice lies in the head",
        expected="a qform or sform of two different directions",
        fix="export the slice again with its orientation",
    )
