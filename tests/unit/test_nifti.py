"""A NIfTI slice is turned upright by its own affine; volumes and bombs are refused before they are unpacked."""

import builtins
import gzip
import logging
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")

from tests.medical_files import PIXELS, PLANTED, gzip_bomb, nifti_bytes  # noqa: E402

from neuralblack.data.readers import read_slice  # noqa: E402
from neuralblack.errors import InputError  # noqa: E402


def image_of(data):
    return read_slice(data, where="upload", labelled=False).image


def refusal(data):
    with pytest.raises(InputError) as error:
        image_of(data)
    assert str(error.value).startswith("upload: found ") and "\n" not in str(error.value)
    return str(error.value)


def volume_of_ends():
    """A head (R, A, S axes) of 20 x 24 x 28 in which each coordinate adds its own amount to the value."""
    return np.add.outer(np.add.outer(np.arange(20) * 10_000, np.arange(24) * 100), np.arange(28)).astype(np.int32)


@pytest.mark.parametrize("code", ["RAS", "LAS", "LPI", "AIR", "SPL", "PRS"])
@pytest.mark.parametrize(
    ("plane", "top_left", "bottom_right"),
    [
        # right, front, height; the picture's left is the patient's right
        ("axial", (19, 23, 5), (0, 0, 5)),
        ("coronal", (19, 5, 27), (0, 5, 0)),
        ("sagittal", (5, 23, 27), (5, 0, 0)),
    ],
)
def test_every_plane_is_upright_however_it_is_kept(plane, top_left, bottom_right, code):
    head = nibabel.Nifti1Image(volume_of_ends(), np.eye(4))
    head = {"axial": head.slicer[:, :, 5:6], "coronal": head.slicer[:, 5:6], "sagittal": head.slicer[5:6]}[plane]
    kept = head.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.io_orientation(head.affine), nibabel.orientations.axcodes2ornt(tuple(code))
        )
    )

    image = image_of(kept.to_bytes())

    value = volume_of_ends()
    assert image[0, 0] == value[top_left] and image[-1, -1] == value[bottom_right]
    assert image.shape == {"axial": (24, 20), "coronal": (28, 20), "sagittal": (28, 24)}[plane]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("shape", [(40, 32), (40, 32, 1), (40, 32, 1, 1)])
def test_one_slice_is_read_in_every_wrapping(shape, kind, zipped):
    image = image_of(nifti_bytes(PIXELS.reshape(shape), kind=kind, zipped=zipped))

    assert np.array_equal(image, PIXELS.T[::-1, ::-1])  # RAS+: the front up, the patient's right on the left


@pytest.mark.parametrize("behind", [b"", gzip.compress(b""), bytes(8)], ids=["nothing", "bgzip's end", "padding"])
@pytest.mark.parametrize("step", [1000, 2000])
def test_gzip_of_several_members_is_read(step, behind):
    whole = nifti_bytes()
    members = [gzip.compress(whole[at : at + step]) for at in range(0, len(whole), step)]

    assert np.array_equal(image_of(b"".join(members) + behind), image_of(whole))
    assert "truncated" in refusal(b"".join(members[:-1]) + behind)
    assert "truncated" in refusal(b"".join(members)[:-4])
    assert "more than its header says" in refusal(b"".join(members) + gzip.compress(b"x"))
    assert "in more than" in refusal(gzip.compress(whole) + 10_000 * gzip.compress(b"")), "each takes time"


@pytest.mark.parametrize("name", ["slice.nii", "slice.NII.GZ"])
def test_a_file_is_read_by_its_suffix(tmp_path, name):
    (tmp_path / name).write_bytes(nifti_bytes(zipped=name.lower().endswith("gz")))

    assert read_slice(tmp_path / name, where=name).image.shape == (32, 40)


def test_big_endian_and_scaled_values_are_read():
    big = nibabel.Nifti1Image(PIXELS, np.eye(4)).header.as_byteswapped(">")
    image = nibabel.Nifti1Image(PIXELS.astype(">i2"), np.eye(4), header=big)

    assert np.array_equal(image_of(image.to_bytes()), PIXELS.T[::-1, ::-1])
    assert np.allclose(image_of(nifti_bytes(slope=(0.5, -3))), (PIXELS * 0.5 - 3).T[::-1, ::-1])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: nifti_bytes(np.zeros((20, 20, 20), np.int16)), ["(20, 20, 20)", "one slice", "slicer"]),
        (lambda: nifti_bytes(np.zeros((20, 20, 1, 3), np.int16)), ["(20, 20, 1, 3)", "one slice"]),
        (lambda: nifti_bytes(np.zeros((200, 200, 200), np.int8), zipped=True), ["(200, 200, 200)"]),
        (lambda: nifti_bytes(np.zeros((20,), np.int16)), ["(20,)"]),
        (lambda: nifti_bytes(np.zeros((8, 8), np.int16)), ["8 x 8 pixels"]),
        (lambda: nifti_bytes(np.zeros((3000, 20), np.int16)), ["pixels", "16 to 2048"]),
        (lambda: nifti_bytes(np.zeros((20, 20), np.complex64)), ["complex numbers"]),
        (lambda: nifti_bytes(np.zeros((20, 20), [("R", "u1"), ("G", "u1"), ("B", "u1")])), ["colours"]),
        (lambda: nifti_bytes(np.full((20, 20), np.nan, np.float32)), ["not finite"]),
        (lambda: nifti_bytes()[:900], ["truncated"]),
        (lambda: nifti_bytes(zipped=True)[:-4], ["truncated"]),
        (lambda: nifti_bytes(zipped=True)[:200], ["truncated"]),
        (lambda: gzip.compress(nifti_bytes() + bytes(9)), ["more than its header says"]),
        (lambda: corrupt_checksum(), ["broken"]),
        (lambda: flat_affine(), ["an affine that does not say"]),
        (lambda: without_codes(nibabel.Nifti1Image), ["an affine that does not say"]),
        (lambda: without_codes(nibabel.Nifti2Image), ["an affine that does not say"]),
        (lambda: starting_at(348), ["broken"]),
        (lambda: starting_at(2**21), ["begin at byte 2097152"]),
    ],
)
def test_what_is_no_slice_says_what_and_how_to_fix(data, words):
    message = refusal(data())

    for word in ("Fix: ", *words):
        assert word in message


def corrupt_checksum():
    data = bytearray(nifti_bytes(zipped=True))
    data[-5] ^= 1
    return bytes(data)


def flat_affine():
    data = bytearray(nifti_bytes())
    struct.pack_into("<12f", data, 280, *[0] * 12)
    struct.pack_into("<2h", data, 252, 0, 1)  # only the sform counts
    return bytes(data)


def without_codes(kind):
    """A file whose header has an affine that counts for nothing."""
    image = kind(PIXELS, np.eye(4), dtype=PIXELS.dtype)
    image.header["sform_code"] = image.header["qform_code"] = 0
    return image.header.binaryblock + bytes(4) + PIXELS.tobytes(order="F")


def starting_at(offset):
    data = bytearray(nifti_bytes())
    struct.pack_into("<f", data, 108, offset)
    return bytes(data)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_pixels_that_begin_at_0_begin_behind_the_header(kind):
    data = bytearray(nifti_bytes(kind=kind))
    if kind is nibabel.Nifti2Image:
        struct.pack_into("<q", data, 168, 0)
    else:
        struct.pack_into("<f", data, 108, 0)

    assert np.array_equal(image_of(bytes(data)), PIXELS.T[::-1, ::-1])


def test_a_gzip_bomb_is_given_up_where_the_slice_ends():
    bomb = gzip_bomb(100)

    tracemalloc.start()
    message = refusal(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert "more than its header says" in message
    assert peak < 10 * 2**20


def test_any_other_gzip_is_of_another_kind():
    assert "bytes of another kind" in refusal(gzip.compress(bytes(10**6)))
    assert "bytes of another kind" in refusal(b"\x1f\x8b\x08" + bytes(100))


@pytest.mark.parametrize("kind", [ImportError, OSError])  # the second where a process may open no file to look for it
def test_without_nibabel_the_error_says_what_to_install(monkeypatch, kind):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("nibabel"):
            raise kind(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)

    assert "neuralblack[medical]" in refusal(nifti_bytes())


@pytest.mark.filterwarnings("error")
def test_free_text_of_a_header_appears_in_no_message_and_no_log(caplog, capfd):
    caplog.set_level(logging.DEBUG)
    whole, outcomes = nifti_bytes(), set()
    for at in [*range(0, 348, 2), 352, 2000]:
        for data in (whole[:at], whole[:at] + PLANTED[:4].encode() + whole[at + 4 :]):
            try:
                outcomes.add(type(read_slice(data, where="upload", labelled=False)))
            except InputError as error:
                outcomes.add(str(error))

    assert len(outcomes) > 3 and not any(PLANTED[:4] in str(outcome) for outcome in outcomes)
    assert not caplog.records
    assert "".join(capfd.readouterr()) == ""


def test_a_real_scan_that_comes_with_nibabel_is_refused_as_a_volume():
    data = (Path(nibabel.__file__).parent / "tests" / "data" / "anatomical.nii").read_bytes()

    assert "found a NIfTI file of shape" in refusal(data)
