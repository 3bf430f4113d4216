"""Mutated files and requests: whatever they hold, what is wrong is said, or they are read; nothing else comes out."""

import asyncio
import base64
import gzip
import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request
from tests.medical_files import PLANTED, compressed_dicom, dicom_bytes, nifti_bytes
from tritonclient.http import InferenceServerClient, InferInput

from neuralblack.data.mat_writer import write_mat
from neuralblack.data.readers import read_slice
from neuralblack.data.slices import Slice
from neuralblack.errors import InputError
from neuralblack.service.open_inference import HEADER, read_inference
from neuralblack.service.problems import Problem

KINDS = ("mat", "png", "jpeg", "tiff", "dicom", "dicom-jpeg", "dicom-rle", "nii", "nii.gz")
MEDICAL = {
    "dicom": lambda pixels: dicom_bytes(pixels, RescaleSlope=2, RescaleIntercept=1, WindowCenter=900, WindowWidth=1800),
    "dicom-jpeg": lambda pixels: compressed_dicom("JPEG", pixels // 4),
    "dicom-rle": lambda pixels: compressed_dicom("RLE", pixels),
    "nii": lambda pixels: nifti_bytes(pixels, slope=(2, 1)),
    "nii.gz": lambda pixels: nifti_bytes(pixels),  # is zipped below
}


def whole_file(kind: str, folder: Path) -> bytes:
    """A file that reads well."""
    pixels = np.random.default_rng(0).integers(0, 900, (32, 40)).astype(np.int16)
    if kind == "mat":
        mask = pixels > 880
        write_mat(
            folder / "1.mat", label=2.0, patient="p1", image=pixels, mask=mask, border=np.array([3.0, 4.0, 8.0, 9.0])
        )
        return (folder / "1.mat").read_bytes()
    if kind in MEDICAL:
        return MEDICAL[kind](pixels)
    buffer = io.BytesIO()
    Image.fromarray((pixels // 4).astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def mutant(content: bytes, chance: random.Random) -> bytes:
    """Change, cut, repeat or exchange a few bytes."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(changed))
        match chance.randrange(5):
            case 0:
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                changed[at : at + 4] = chance.choice((b"\x00" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff"))
            case 2:
                del changed[at : at + chance.randrange(1, 64)]
            case 3:
                changed[at:at] = changed[at : at + chance.randrange(1, 64)]
            case _:
                del changed[max(1, at) :]
        if not changed:
            break
    return bytes(changed)


def mutant_file(kind: str, content: bytes, chance: random.Random) -> bytes:
    """A mutant of a file; of gzip one whose content is changed or one whose own bytes are, which its checksum finds."""
    if kind != "nii.gz":
        return mutant(content, chance)
    return gzip.compress(mutant(content, chance)) if chance.random() < 0.8 else mutant(gzip.compress(content), chance)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow warns of what it then skips or refuses
@pytest.mark.parametrize("count", [150, pytest.param(20_000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_file_is_a_slice_or_an_input_error(kind, count, tmp_path):
    content, chance, read = whole_file(kind, tmp_path), random.Random(kind), 0
    assert isinstance(read_slice(content, where="upload", labelled=False), Slice)
    for number in range(count):
        changed = mutant_file(kind, content, chance)
        try:
            slice_ = read_slice(changed, where="upload", labelled=False)
        except InputError as error:
            assert str(error).startswith("upload") and PLANTED not in str(error), (kind, number)
        else:
            read += 1
            assert slice_.image.ndim == 2 and np.isfinite(slice_.image).all(), (kind, number)

    assert 0 < read < count  # the mutants are neither all dead nor all harmless


def inference_request(body: bytes, length: int | None) -> Request:
    """A request whose header says that so many bytes of its body are JSON; None: it says nothing."""

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [] if length is None else [(HEADER.lower().encode(), str(length).encode())]
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


@pytest.mark.parametrize("count", [1000, pytest.param(100_000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_a_mutated_inference_request_is_read_or_a_problem(binary, count, tmp_path):
    files, chance, read = [whole_file("png", tmp_path)] * 2, random.Random(binary), 0
    boxes = InferInput("box", [2, 4], "INT64").set_data_from_numpy(np.arange(8).reshape(2, 4), binary_data=binary)
    coded = np.array(files if binary else [base64.b64encode(each) for each in files], object)
    slices = InferInput("image", [2], "BYTES").set_data_from_numpy(coded, binary_data=binary)
    body, length = InferenceServerClient.generate_request_body([slices, boxes])
    parts = (body[:length], body[length:]) if binary else (body, b"")
    for number in range(count):
        head, rest = (mutant(part, chance) if part and chance.random() < 0.5 else part for part in parts)
        stated = chance.choice((len(head), len(head), chance.randrange(len(body)))) if binary else None
        try:
            asked = asyncio.run(read_inference(inference_request(head + rest, stated), max_bytes=2**20, most=4))
        except Problem as problem:
            assert problem.status in (400, 413, 415) and PLANTED not in problem.sentence, (binary, number)
        else:
            read += 1
            assert len(asked.files) == len(asked.boxes or asked.files) <= 4, (binary, number)

    assert 0 < read < count
