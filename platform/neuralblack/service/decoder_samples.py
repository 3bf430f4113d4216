"""One small good file of each kind, for a decoder process to read while it may still open modules and libraries."""

import io
import struct
from collections.abc import Iterator
from importlib.util import find_spec

from PIL import Image, features

SIDE = 256  # of Pillow's gradient
HEAD = struct.Struct("<HH2sH")
ITEM, END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0" + bytes(4)


def samples() -> Iterator[tuple[str, bytes]]:
    """Yield a name and a file for each way that reading can go with the packages that are installed."""
    for kind in ("PNG", "JPEG", "TIFF"):
        yield kind, _saved(kind)
    pixels = Image.linear_gradient("L").tobytes()
    yield "DICOM", _dicom("1.2.840.10008.1.2.1", pixels)
    yield "DICOM (JPEG)", _dicom("1.2.840.10008.1.2.4.50", _encapsulated(_saved("JPEG")))
    yield "DICOM (RLE)", _dicom("1.2.840.10008.1.2.5", _encapsulated(_run_lengths(pixels)))
    if features.check_codec("jpg_2000"):
        yield "DICOM (JPEG 2000)", _dicom("1.2.840.10008.1.2.4.90", _encapsulated(_saved("JPEG2000", no_jp2=True)))
    if find_spec("nibabel"):
        yield "NIfTI", _nifti(pixels)


def _saved(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, kind, **options)
    return buffer.getvalue()


def _dicom(syntax: str, pixels: bytes) -> bytes:
    """Write a file of 8-bit pixels in explicit little-endian elements (PS3.10, 7.1; PS3.5, 7.1.2)."""
    length = 0xFFFFFFFF if pixels.startswith(ITEM) else len(pixels)
    return b"".join(
        (
            bytes(128) + b"DICM",
            _element(0x0002, 0x0010, b"UI", syntax.encode()),
            _element(0x0008, 0x0060, b"CS", b"MR"),
            _element(0x0028, 0x0002, b"US", struct.pack("<H", 1)),
            _element(0x0028, 0x0004, b"CS", b"MONOCHROME2"),
            *(_element(0x0028, tag, b"US", struct.pack("<H", SIDE)) for tag in (0x0010, 0x0011)),
            *(_element(0x0028, tag, b"US", struct.pack("<H", 8)) for tag in (0x0100, 0x0101)),
            _element(0x0028, 0x0103, b"US", struct.pack("<H", 0)),
            _element(0x0028, 0x1050, b"DS", b"128"),
            _element(0x0028, 0x1051, b"DS", b"256"),
            HEAD.pack(0x7FE0, 0x0010, b"OB", 0) + struct.pack("<I", length) + pixels,
        )
    )


def _element(group: int, element: int, kind: bytes, value: bytes) -> bytes:
    value += (b"\0" if kind == b"UI" else b" ") * (len(value) % 2)
    return HEAD.pack(group, element, kind, len(value)) + value


def _encapsulated(frame: bytes) -> bytes:
    """Wrap one compressed frame (PS3.5, A.4): an empty table of offsets, the frame, the end."""
    frame += bytes(len(frame) % 2)
    return ITEM + bytes(4) + ITEM + struct.pack("<I", len(frame)) + frame + END


def _run_lengths(pixels: bytes) -> bytes:
    """Write one segment of literal runs of 128 bytes (PS3.5, G)."""
    runs = b"".join(b"\x7f" + pixels[at : at + 128] for at in range(0, len(pixels), 128))
    return struct.pack("<16I", 1, 64, *[0] * 14) + runs


def _nifti(pixels: bytes) -> bytes:
    """Write a NIfTI-1 file of uint8 (nifti1.h) with an sform along the axes."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, SIDE, SIDE, 1, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 2, 8)  # uint8, 8 bits
    struct.pack_into("<8f", header, 76, *[1] * 8)
    struct.pack_into("<f", header, 108, 352)  # where the pixels begin
    struct.pack_into("<f", header, 112, 1)  # slope
    struct.pack_into("<h", header, 254, 1)  # sform_code
    struct.pack_into("<12f", header, 280, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    header[344:348] = b"n+1\0"
    return bytes(header) + pixels
