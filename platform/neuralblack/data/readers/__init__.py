"""Files in, slices out. A new format is one file in this folder and a line in READERS."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from neuralblack.data.readers import figshare, images
from neuralblack.data.slices import Slice
from neuralblack.errors import InputError

MAX_BYTES = 128 * 2**20  # a slice of 2048 x 2048 doubles with its mask has 36 MiB


@dataclass(frozen=True)
class Reader:
    """One format: how its bytes are told from others, and how they become a Slice (raising InputError)."""

    name: str
    recognises: Callable[[bytes], bool]
    read: Callable[..., Slice]  # (data, *, where, labelled)


MAT = Reader("a MATLAB v7.3 slice", figshare.recognises, figshare.read)
IMAGE = Reader("a PNG, JPEG or TIFF image", images.recognises, images.read)

READERS: dict[str, Reader] = {  # by file suffix, lower case
    ".mat": MAT,
    ".png": IMAGE,
    ".jpg": IMAGE,
    ".jpeg": IMAGE,
    ".tif": IMAGE,
    ".tiff": IMAGE,
}


def read_slice(source: Path | bytes, *, where: object, labelled: bool = True) -> Slice:
    """Read one slice from a file or from an upload's bytes.

    Args:
        source: a path, whose suffix chooses the reader and whose first bytes must agree; or bytes, told by themselves.
        where: what to call it in an error's message (a server names no file of its user).
        labelled: whether a format that carries label and patient must have them; without, they are not even looked at.

    Raises:
        InputError: the format is unknown, the file is broken, or it is no single slice of real numbers.
    """
    if isinstance(source, bytes):
        return decode(source, suffix=None, where=where, labelled=labelled)
    return decode(file_bytes(source, where=where), suffix=source.suffix, where=where, labelled=labelled)


def file_bytes(path: Path, *, where: object) -> bytes:
    """Read a file whole; raises InputError where it cannot be read or is far too large to be a slice."""
    try:
        size = path.stat().st_size
        if size <= MAX_BYTES:
            return path.read_bytes()
    except OSError as error:
        raise InputError(
            where,
            found=f"a file that cannot be opened ({error.strerror or type(error).__name__})",
            expected="a readable file",
            fix="check that it exists and that you may read it",
        ) from error
    raise InputError(
        where,
        found=f"{size / 2**20:.0f} MiB",
        expected=f"one slice, at most {MAX_BYTES / 2**20:.0f} MiB",
        fix="split volumes into slices first",
    )


def decode(data: bytes, *, suffix: str | None, where: object, labelled: bool) -> Slice:
    """Turn a file's bytes into a Slice; `suffix` None means that the bytes alone tell the format."""
    known = ", ".join(READERS)
    if suffix is not None and suffix.lower() not in READERS:
        raise InputError(
            where, found=f"a file named {suffix or 'without a suffix'}", expected=known, fix="convert it to one of them"
        )
    readers = (MAT, IMAGE) if suffix is None else (READERS[suffix.lower()],)
    for reader in readers:
        if reader.recognises(data):
            return reader.read(data, where=where, labelled=labelled)
    raise InputError(
        where,
        found="an empty file" if not data else f"bytes of another kind ({data[:8]!r} ...)",
        expected=" or ".join(reader.name for reader in readers),
        fix=f"export the slice as one of {known}",
    )
