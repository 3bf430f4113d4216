"""Files in, slices out. A new format is one file in this folder and a line in READERS."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from neuralblack.data.readers import dicom, figshare, images, nifti
from neuralblack.data.slices import Slice
from neuralblack.errors import InputError

DICOM_INDEX = "DICOMDIR"  # a DICOM file that lists others and holds no picture (PS3.10, 8.6)
MARK_BYTES = 4096  # from a file's start; in these each format has its mark
MAX_BYTES = 128 * 2**20  # a slice of 2048 x 2048 doubles with its mask has 36 MiB


@dataclass(frozen=True)
class Reader:
    """One format: how its bytes are told from others, and how they become a Slice (raising InputError).

    `kinds` is what people call it, for every sentence that says what may be sent; `fix` is for a file with its suffix
    and other bytes.
    """

    name: str
    kinds: tuple[str, ...]
    recognises: Callable[[bytes], bool]
    read: Callable[..., Slice]  # (data, *, where, labelled)
    fix: str = ""


DICOM = Reader("a DICOM image", ("DICOM (.dcm)",), dicom.recognises, dicom.read, fix=dicom.MISSING_PREAMBLE)
IMAGE = Reader("a PNG, JPEG or TIFF image", ("PNG", "JPEG", "TIFF"), images.recognises, images.read)
MAT = Reader("a MATLAB v7.3 slice", ("MATLAB v7.3 (.mat)",), figshare.recognises, figshare.read)
NIFTI = Reader("a NIfTI slice", ("NIfTI (.nii, .nii.gz)",), nifti.recognises, nifti.read)

READERS: dict[str, Reader] = {  # by file suffix, lower case
    ".png": IMAGE,
    ".jpg": IMAGE,
    ".jpeg": IMAGE,
    ".tif": IMAGE,
    ".tiff": IMAGE,
    ".mat": MAT,
    ".dcm": DICOM,
    ".nii": NIFTI,
    ".nii.gz": NIFTI,
}
BY_BYTES = (DICOM, IMAGE, MAT, NIFTI)  # DICOM first: the 128 bytes before its mark may be a TIFF's header (PS3.10, 7.1)


def listed(words: Sequence[str]) -> str:
    """Join words for a sentence.

    >>> listed(["PNG", "TIFF", "DICOM (.dcm)"])
    'PNG, TIFF or DICOM (.dcm)'
    """
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


KINDS = listed([kind for reader in dict.fromkeys(READERS.values()) for kind in reader.kinds])


def suffix_of(path: Path) -> str:
    """Return the suffix that names a file's format, in lower case.

    >>> suffix_of(Path("scan.1.NII.gz")), suffix_of(Path("scan.tar.gz")), suffix_of(Path("IM0001"))
    ('.nii.gz', '.gz', '')
    """
    double = "".join(path.suffixes[-2:]).lower()
    return double if double in READERS else path.suffix.lower()


def reader_for(path: Path) -> Reader | None:
    """Find the reader of a file in a folder; None where it is no scan's.

    The suffix says it, or the bytes where the name says no format, like IM0001 or a DICOM UID. Raises InputError where
    those cannot be read.
    """
    suffix = suffix_of(path)
    if suffix in READERS:
        return READERS[suffix]
    if (suffix and not suffix[1:].isdigit()) or path.name.upper() == DICOM_INDEX or not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            start = file.read(MARK_BYTES)
    except OSError as error:
        raise InputError(
            path, found=error.strerror, expected="a readable file", fix="mend it, or give it the suffix of its format"
        ) from error
    return next((reader for reader in BY_BYTES if reader.recognises(start)), None)


def recognised(data: bytes) -> bool:
    """Say whether bytes are of a format that has a reader, from their marks alone; nothing is unpacked for it."""
    return any(reader.recognises(data) for reader in BY_BYTES)


def read_slice(source: Path | bytes, *, where: object, labelled: bool = True) -> Slice:
    """Read one slice from a file or from an upload's bytes.

    Args:
        source: a path, whose suffix chooses the reader and whose first bytes must agree; without a known suffix, and
            of bytes, they choose it by themselves.
        where: what to call it in an error's message (a server names no file of its user).
        labelled: whether a format that carries label and patient must have them; without, they are not even looked at.

    Raises:
        InputError: the format is unknown, the file is broken, or it is no single slice of real numbers.
    """
    if isinstance(source, bytes):
        return decode(source, path=None, where=where, labelled=labelled)
    return decode(file_bytes(source, where=where), path=source, where=where, labelled=labelled)


def file_bytes(path: Path, *, where: object) -> bytes:
    """Read a file whole; raises InputError where it cannot be read or is far too large to be a slice."""
    try:
        size = path.stat().st_size
        if size <= MAX_BYTES:
            return path.read_bytes()
    except IsADirectoryError:
        raise InputError(where, found="a folder", expected="a file", fix="name the files in it") from None
    except OSError as error:
        raise InputError(
            where,
            found=f"a file that cannot be opened ({error.strerror or type(error).__name__})",
            expected="a readable file",
            fix="check that it exists and that you may read it",
        ) from error
    raise _too_large(where, f"{size / 2**20:.0f} MiB")


def stream_bytes(stream: BinaryIO, *, where: object) -> bytes:
    """Read a stream to its end; raises InputError where it is far too large to be a slice."""
    data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise _too_large(where, f"more than {MAX_BYTES / 2**20:.0f} MiB")
    return data


def _too_large(where: object, found: str) -> InputError:
    return InputError(
        where,
        found=found,
        expected=f"one slice, at most {MAX_BYTES / 2**20:.0f} MiB",
        fix="split volumes into slices first",
    )


def decode(data: bytes, *, path: Path | None, where: object, labelled: bool) -> Slice:
    """Turn bytes into a Slice, by the suffix of their file; by themselves where that is none of READERS, or no file.

    Raises InputError where no reader of that kind knows the bytes, or the one that does refuses what is in them.
    """
    named = READERS.get(suffix_of(path)) if path else None
    readers = (named,) if named else BY_BYTES
    for reader in readers:
        if reader.recognises(data):
            return reader.read(data, where=where, labelled=labelled)
    start = f" ({data[:8]!r} ...)" if named else ""  # an upload's bytes are not repeated
    raise InputError(
        where,
        found=f"bytes of another kind{start}" if data else "an empty file",
        expected=" or ".join(reader.name for reader in readers),
        fix=(named.fix if named else "") or f"export the slice as one of {', '.join(READERS)}",
    )
