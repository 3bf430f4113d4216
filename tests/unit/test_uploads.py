"""What may be uploaded is told by its first bytes, and the refusal says what may."""

import asyncio
import gzip

import pytest
from starlette.requests import Request
from tests.medical_files import PLANTED, dicom_bytes, nifti_bytes

from neuralblack.data.readers import KINDS
from neuralblack.service.problems import Problem
from neuralblack.service.uploads import read_upload


def upload(data):
    async def receive():
        return {"type": "http.request", "body": data, "more_body": False}

    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    return asyncio.run(read_upload(request, max_bytes=2**20))


def test_medical_files_are_taken_whatever_they_are_called():
    for data in (dicom_bytes(), nifti_bytes(), nifti_bytes(zipped=True)):
        assert upload(data) == data


@pytest.mark.parametrize(
    "data",
    [dicom_bytes()[132:], gzip.compress(bytes(10_000)), b"\x1f\x8b\x08" + bytes(500), PLANTED.encode()],
    ids=["DICOM without its head", "gzip", "no gzip", "words"],
)
def test_what_is_of_no_kind_hears_all_kinds_and_nothing_of_itself(data):
    with pytest.raises(Problem) as problem:
        upload(data)

    assert problem.value.status == 415
    assert KINDS in problem.value.sentence and "DICM" in problem.value.sentence
    assert PLANTED not in problem.value.sentence


def test_an_empty_upload_hears_all_kinds():
    with pytest.raises(Problem, match=r"DICOM \(\.dcm\) or NIfTI"):
        upload(b"")
