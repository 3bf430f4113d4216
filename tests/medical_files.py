"""DICOM and NIfTI files as their own libraries write them, good and hostile."""

import gzip
import io
import struct
import warnings
import zlib

import nibabel
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

PLANTED = "SENTINEL"
PIXELS = np.add.outer(np.arange(40) * 20, np.arange(32)).astype(np.int16)  # brighter below and to the right


def dicom_dataset(pixels=PIXELS, *, syntax=ExplicitVRLittleEndian, **changes):
    """One MR image of a planted patient. A change to None takes the element away."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = MRImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = f"{PLANTED}^NAME", f"{PLANTED}-ID", "19700101"
    ds.InstitutionName = ds.StudyDescription = f"{PLANTED} HOSPITAL"
    ds.Modality = "MR"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape[-2:]
    ds.BitsAllocated = ds.BitsStored = pixels.dtype.itemsize * 8
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW" if ds.BitsAllocated > 8 else "OB"
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def dicom_bytes(pixels=PIXELS, **changes):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of the wrong values it is given here
        dicom_dataset(pixels, **changes).save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def compressed_dicom(kind, pixels=PIXELS):
    """As RLE, or as JPEG or JPEG 2000 of the lowest 8 bits."""
    if kind == "RLE":
        ds = dicom_dataset(pixels)
        ds.compress(RLELossless, generate_instance_uid=False)
        buffer = io.BytesIO()
        ds.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()
    buffer, pixels = io.BytesIO(), pixels.astype(np.uint8)
    syntax, options = {
        "JPEG": (JPEGBaseline8Bit, {"quality": 95}),
        "JPEG2000": (JPEG2000Lossless, {"no_jp2": True}),
    }[kind]
    Image.fromarray(pixels).save(buffer, kind, **options)
    return dicom_bytes(pixels, syntax=syntax, PixelData=encapsulate([buffer.getvalue()]))


def deflated_bomb(megabytes=900):
    """A deflated DICOM file of less than a thousandth of what it unpacks to."""
    start = dicom_bytes(syntax=DeflatedExplicitVRLittleEndian)
    meta = 132 + 12 + struct.unpack_from("<I", start, 140)[0]
    packer = zlib.compressobj(9, wbits=-15)
    block = bytes(2**20)
    head = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, megabytes * 2**20)
    return (
        start[:meta]
        + packer.compress(head)
        + b"".join(packer.compress(block) for _ in range(megabytes))
        + packer.flush()
    )


def nifti_bytes(pixels=PIXELS, *, affine=None, zipped=False, kind=nibabel.Nifti1Image, slope=None):
    """One image; the affine is RAS+ along the axes unless another is given."""
    image = kind(pixels, np.eye(4) if affine is None else affine, dtype=pixels.dtype)
    image.header["descrip"] = f"{PLANTED} of the scanner".encode()
    content = bytearray(image.to_bytes())
    if slope is not None:
        struct.pack_into("<2f", content, 112, *slope)
    return gzip.compress(content) if zipped else bytes(content)


def gzip_bomb(megabytes=900):
    """A .nii.gz that goes on for `megabytes` behind its one small slice."""
    packer = zlib.compressobj(9, wbits=31)
    block = bytes(2**20)
    start = packer.compress(nifti_bytes())
    return start + b"".join(packer.compress(block) for _ in range(megabytes)) + packer.flush()
