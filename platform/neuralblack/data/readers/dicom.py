"""Slices kept as DICOM (PS3.10 files): one MR image, shown as its file says a screen should show it.

Of the header only what the pixels need is looked at (`NEEDED`): names, ids and dates are skipped in the bytes, and no
value of a header gets into a message, a warning or a log.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuralblack.data.readers.dicom_display import shown_values
from neuralblack.data.readers.quiet import silenced
from neuralblack.data.slices import Slice, check_sides
from neuralblack.errors import InputError

PREAMBLE, MAGIC = 128, b"DICM"
AGAIN = "export the slice again"
MISSING_PREAMBLE = (
    "export it as a DICOM file (PS3.10), which has DICM behind 128 bytes; dcmconv +F of DCMTK adds it, and so does "
    "pydicom: dcmread(path, force=True).save_as(path, enforce_file_format=True)"
)

# Transfer syntaxes (PS3.6, table A-1) whose bytes are as they are: is the VR implicit, is it little-endian.
PLAIN = {
    "1.2.840.10008.1.2": (True, True),
    "1.2.840.10008.1.2.1": (False, True),
    "1.2.840.10008.1.2.2": (False, False),
}
# Compressed pixels in an explicit little-endian file: the coding's name, and which of pydicom's plugins decodes it.
# gdcm knows most of these, but some broken JPEG files make it abort the process, so it has only what Pillow lacks.
# No other syntax is read; above all not the deflated one: 300 KB can unpack to a gigabyte before a check is possible.
COMPRESSED = {
    "1.2.840.10008.1.2.4.50": ("JPEG baseline", "pillow"),
    "1.2.840.10008.1.2.4.51": ("JPEG extended", "pillow"),
    "1.2.840.10008.1.2.4.57": ("JPEG lossless", "gdcm"),
    "1.2.840.10008.1.2.4.70": ("JPEG lossless", "gdcm"),
    "1.2.840.10008.1.2.4.80": ("JPEG-LS", "gdcm"),
    "1.2.840.10008.1.2.4.81": ("JPEG-LS", "gdcm"),
    "1.2.840.10008.1.2.4.90": ("JPEG 2000", "pillow"),
    "1.2.840.10008.1.2.4.91": ("JPEG 2000", "pillow"),
    "1.2.840.10008.1.2.5": ("RLE", "pydicom"),
}
DEFLATED = "1.2.840.10008.1.2.1.99"

NEEDED = (
    *("Modality", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"),
    *("VOILUTSequence", "VOILUTFunction", "WindowCenter", "WindowWidth"),
)
# What may be repeated in a message: a code of the standard, never a header's free text.
MODALITIES = (
    *("CR", "CT", "DX", "ECG", "MG", "NM", "OT", "PT", "RF", "RTDOSE", "RTIMAGE"),
    *("RTPLAN", "RTSTRUCT", "SC", "SEG", "SR", "US", "XA"),
)
COLOURS = (
    *("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT"),
)


def recognises(data: bytes) -> bool:
    """Tell DICOM files by their prefix (PS3.10, 7.1); data sets without one could be anything."""
    return data[PREAMBLE : PREAMBLE + len(MAGIC)] == MAGIC


def read(data: bytes, *, where: object, labelled: bool) -> Slice:
    """Read one MR image; DICOM knows no class and its patient is not looked at, so `labelled` changes nothing.

    The values are those a screen would show: behind the modality's rescale or table, then the first window or table
    for display; MONOCHROME1, where low is white, is turned round. What only pads the picture is as dark as its darkest.

    Raises InputError where it is broken, compressed in a way that no decoder is there for, of several frames, in
    colour, not MR, or too small or large.
    """
    import pydicom.pixels  # noqa: F401 - before it is silenced: the import sets the level of its log

    try:
        with silenced("pydicom"):
            return Slice(_image(data, where=where))
    except (InputError, MemoryError):
        raise
    except Exception as error:  # broken headers raise anything: AttributeError, TypeError, struct.error, KeyError, ...
        found = f"a broken or truncated DICOM file ({type(error).__name__} while reading)"
    # Outside of the handler, so that the error, whose own words may quote a header, is not chained to this one.
    raise InputError(where, found=found, expected="a whole DICOM image", fix=AGAIN)


def _image(data: bytes, *, where: object) -> NDArray[np.generic]:
    header, syntax = _header(data, where=where)
    _check_kind(header, where=where)
    height, width = _whole(header, "Rows", where=where), _whole(header, "Columns", where=where)
    check_sides(height, width, where=where)  # before any pixel is decoded
    values = _pixels(header, syntax, (height, width), where=where)
    with np.errstate(all="ignore"):  # what overflows is found below
        shown = shown_values(values, header, little=PLAIN.get(syntax, (False, True))[1], where=where)
        if header.PhotometricInterpretation == "MONOCHROME1":
            shown = shown.max() - shown.astype(np.float64)
    if not np.isfinite(shown).all():
        raise InputError(
            where, found="a rescale or a window that gives no finite numbers", expected="finite intensities", fix=AGAIN
        )
    return shown


def _header(data: bytes, *, where: object) -> tuple[Any, str]:
    """Return what is `NEEDED`, undecoded, and the transfer syntax.

    pydicom's own `dcmread` is not asked: it would inflate a deflated file before it can be stopped.
    """
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataset import FileMetaDataset
    from pydicom.filereader import read_dataset

    stream = io.BytesIO(data)
    stream.seek(PREAMBLE + len(MAGIC))
    meta = read_dataset(
        stream, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2
    )
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if syntax not in PLAIN and syntax not in COMPRESSED:
        raise InputError(
            where,
            found=_unread(syntax),
            expected="uncompressed pixels, or " + ", ".join(dict.fromkeys(name for name, _ in COMPRESSED.values())),
            fix="export the slice uncompressed (explicit VR little endian); dcmconv +te of DCMTK does it",
        )
    implicit, little = PLAIN.get(syntax, (False, True))
    tags: list[Any] = [tag_for_keyword(keyword) for keyword in NEEDED]
    header = read_dataset(stream, implicit, little, specific_tags=tags)
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = syntax
    header.set_original_encoding(implicit, little, "ascii")
    return header, syntax


def _unread(syntax: str) -> str:
    if syntax == DEFLATED:
        return "a deflated DICOM file"
    return "a DICOM file compressed in another way" if syntax else "a DICOM file that does not say how it is written"


def _check_kind(header: Any, *, where: object) -> None:
    """Refuse what is no single grey MR image."""
    modality = str(header.get("Modality", ""))
    if modality != "MR":
        named = f"modality {modality}" if modality in MODALITIES else "a modality that is not MR"
        raise InputError(
            where,
            found=named if modality else "a DICOM file without a modality",
            expected="an image of magnetic resonance (MR)",
            fix="send an MR slice; the model has learnt nothing else",
        )
    frames = int(header.get("NumberOfFrames") or 1)
    if frames != 1:
        raise InputError(
            where,
            found=f"a DICOM file of {frames} frames",
            expected="one slice",
            fix="export one frame as a file of its own; emf2sf of dcm4che splits such files",
        )
    photometric = str(header.get("PhotometricInterpretation", ""))
    samples = int(header.get("SamplesPerPixel") or 1)
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or samples != 1:
        colour = photometric if photometric in COLOURS else f"{samples} samples a pixel, of a kind not known"
        raise InputError(
            where,
            found=f"a DICOM image in colour ({colour})",
            expected="MONOCHROME1 or MONOCHROME2",
            fix="export the slice itself, not a screenshot or an overlay of it",
        )
    allocated = _whole(header, "BitsAllocated", where=where)
    if allocated not in (8, 16, 32):
        raise InputError(
            where, found=f"{allocated} bits allocated a pixel", expected="8, 16 or 32", fix="export it with 16 bits"
        )
    stored, high = _whole(header, "BitsStored", where=where), header.get("HighBit")
    if high is not None and int(high) != stored - 1:  # pydicom takes the lowest bits, whatever this says
        raise InputError(
            where,
            found=f"pixels of {stored} bits of which the highest is bit {int(high)}",
            expected=f"bit {stored - 1}, as the standard has it",
            fix=AGAIN,
        )


def _whole(header: Any, keyword: str, *, where: object) -> int:
    value = header.get(keyword)
    if value is None:
        raise InputError(
            where, found=f"no {keyword}", expected="a DICOM image", fix="send an image object of the study"
        )
    return int(value)


def _pixels(header: Any, syntax: str, shape: tuple[int, int], *, where: object) -> NDArray[np.generic]:
    """Decode (H, W) stored values."""
    from pydicom.pixels import get_decoder

    if "PixelData" not in header:
        raise InputError(where, found="no PixelData", expected="a DICOM image", fix="send an image object of the study")
    decoder, stored = get_decoder(syntax), len(header.PixelData)
    coding, plugin = COMPRESSED.get(syntax, ("", ""))
    if plugin and plugin not in decoder.available_plugins:
        raise InputError(
            where,
            found=f"pixels compressed as {coding}, which nothing installed here decodes",
            expected="uncompressed pixels, or a decoder for these",
            fix="export the slice uncompressed, or install neuralblack[medical]",
        )
    needed = shape[0] * shape[1] * int(header.BitsAllocated) // 8
    # Honest compression makes nothing twice as large; what does is made to unpack to more than it says.
    if (syntax in PLAIN and stored < needed) or (syntax in COMPRESSED and stored > 2 * needed + 2**16):
        raise InputError(
            where,
            found=f"{stored} bytes of pixels for {shape[1]} x {shape[0]} of {header.BitsAllocated} bits",
            expected=f"{needed} bytes uncompressed",
            fix=AGAIN,
        )
    # The frame is asked for by its number, as otherwise all that the file holds would be decoded.
    values: NDArray[np.generic] = decoder.as_array(header, index=0, raw=True, decoding_plugin=plugin)[0]
    return values
