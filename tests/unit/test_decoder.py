"""Uploads are read in a process of their own: no file ends the service, and the next file is read."""

import asyncio
import fcntl
import io
import os
import signal
import struct
import sys
import termios
import zlib
from pathlib import Path

import h5py
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from tests.medical_files import compressed_dicom, deflated_bomb, dicom_bytes, gzip_bomb, nifti_bytes

from neuralblack.data.mat_writer import write_mat
from neuralblack.data.preprocessing import Preprocessing, preprocess
from neuralblack.errors import InputError
from neuralblack.service.decoder import Decoder, DecoderDownError

SPEC = Preprocessing(size=64)
CORPUS = Path(__file__).parents[1] / "corpus"


def slice_of(seed=0, shape=(90, 80)):
    rng = np.random.default_rng(seed)
    return (np.add.outer(np.arange(shape[0]), np.arange(shape[1])) * 3 + rng.integers(0, 9, shape)).astype(np.int16)


def image_bytes(kind, array=None):
    buffer = io.BytesIO()
    array = slice_of() // 4 if array is None else array
    Image.fromarray(array.astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def mat_bytes(tmp_path, image=None):
    image = slice_of() if image is None else image
    mask = np.zeros(image.shape, bool)
    mask[20:30, 20:30] = True
    write_mat(tmp_path / "1.mat", label=1, patient="100360", image=image, mask=mask, border=np.arange(8.0))
    return (tmp_path / "1.mat").read_bytes()


def bomb(width, height):
    """A PNG of a few kilobytes that says it has width x height pixels and does."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def decoder():
    decoder = Decoder(SPEC)
    decoder.start()
    yield decoder
    decoder.close()


def decode(decoder, data):
    return asyncio.run(decoder(data))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_an_upload_becomes_what_prepare_makes_of_the_same_image(decoder, kind):
    expected = preprocess((slice_of() // 4).astype(np.uint8), SPEC, where="here")

    assert np.array_equal(decode(decoder, image_bytes(kind)).pixels, expected)


def test_a_jpeg_is_read(decoder):
    assert decode(decoder, image_bytes("JPEG")).pixels.shape == (64, 64)


def test_a_mat_file_becomes_what_prepare_makes_of_it(decoder, tmp_path):
    expected = preprocess(slice_of(), SPEC, where="here")

    assert np.array_equal(decode(decoder, mat_bytes(tmp_path)).pixels, expected)


def test_the_size_of_a_slice_comes_along_and_an_outline_that_its_file_has_does_not(decoder, tmp_path):
    for data in (mat_bytes(tmp_path), image_bytes("PNG")):
        read = asyncio.run(decoder(data))
        assert read.shape == (90, 80) and read.box is None


def test_colour_and_blankness_survive_the_way_to_grey_pixels(decoder):
    red = np.zeros((64, 64, 3))
    red[:32, :, 0] = 255

    assert decode(decoder, image_bytes("PNG", red)).colour == 0.5
    assert decode(decoder, image_bytes("PNG")).colour == 0
    assert not decode(decoder, image_bytes("PNG", np.full((64, 64), 9))).pixels.any()


MEDICAL = {
    "DICOM": lambda pixels: dicom_bytes(pixels),
    "RLE in DICOM": lambda pixels: compressed_dicom("RLE", pixels),
    "JPEG 2000 in DICOM": lambda pixels: compressed_dicom("JPEG2000", pixels),
    "NIfTI": lambda pixels: nifti_bytes(pixels.T[::-1, ::-1]),  # so that it is upright behind its affine
    "NIfTI in gzip": lambda pixels: nifti_bytes(pixels.T[::-1, ::-1], zipped=True),
}


@pytest.mark.parametrize("kind", MEDICAL)
def test_a_medical_file_becomes_what_prepare_makes_of_its_pixels(decoder, kind):
    pixels = slice_of() // 4

    assert np.array_equal(
        decode(decoder, MEDICAL[kind](pixels.T.copy().T)).pixels, preprocess(pixels, SPEC, where="here")
    )


@pytest.mark.parametrize("name", ["jpeg_ls_lossless", "RLE", "jp2klossless", "implicit", "bigendian"])
def test_the_process_opens_nothing_to_decode_a_real_slice_in_any_coding(decoder, name):
    if name == "jpeg_ls_lossless":
        pytest.importorskip("gdcm")
    files = Path(pydicom.__file__).parent / "data" / "test_files"

    image = decode(decoder, (files / f"MR_small_{name}.dcm").read_bytes())

    assert np.array_equal(image.pixels, decode(decoder, (files / "MR_small.dcm").read_bytes()).pixels)


def resident(pid):
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


BOMBS = {
    "PNG of more than the largest slice": lambda: bomb(2049, 2049),
    "deflated DICOM": lambda: deflated_bomb(100),
    "DICOM whose frame unpacks to more": lambda: inflated_frame(),
    "NIfTI in gzip": lambda: gzip_bomb(100),
    "HDF5 that takes a gigabyte": lambda: (CORPUS / "hdf5_takes_a_gigabyte.mat").read_bytes(),
    "JPEG-LS that makes gdcm abort": lambda: (CORPUS / "gdcm_aborts_on_jpeg_ls.dcm").read_bytes(),
}


def inflated_frame():
    """A DICOM file whose JPEG has 10,000 x 10,000 pixels where its header says 32 x 40."""
    buffer = io.BytesIO()
    Image.new("L", (10_000, 10_000)).save(buffer, "JPEG")
    whole = compressed_dicom("JPEG")
    start = whole.index(struct.pack("<HH", 0x7FE0, 0x0010)) + 12
    return whole[:start] + encapsulate([buffer.getvalue()])


@pytest.mark.parametrize("kind", BOMBS)
def test_behind_a_bomb_the_next_good_file_is_read_as_before_and_the_memory_is_back(decoder, kind):
    before, memory = decode(decoder, image_bytes("PNG")).pixels, resident(decoder.pids[0])

    with pytest.raises(InputError, match="upload: found "):
        decode(decoder, BOMBS[kind]())

    assert np.array_equal(decode(decoder, image_bytes("PNG")).pixels, before)
    assert resident(decoder.pids[0]) < memory + 64 * 2**20


def test_bad_files_are_refused_by_the_same_process_and_called_upload(decoder, tmp_path):
    before = decoder.pids
    bad = {
        "broken PNG": image_bytes("PNG")[:300],
        "bomb": bomb(15_000, 15_000),
        "truncated .mat": mat_bytes(tmp_path)[:3000],
        "text": b"hello",
    }
    for data in bad.values():
        with pytest.raises(InputError) as error:
            decode(decoder, data)
        assert str(error.value).startswith("upload: found ")

    assert decoder.pids == before
    assert decode(decoder, image_bytes("PNG")).pixels.shape == (64, 64)


def external_mat(tmp_path):
    """A .mat whose image lies in another file of this machine."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(256)) * 32)
    with h5py.File(tmp_path / "external.mat", "w", userblock_size=512) as file:
        file.create_group("cjdata").create_dataset(
            "image", (64, 64), "i2", external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
        )
    return (tmp_path / "external.mat").read_bytes()


def test_a_mat_file_cannot_show_another_file_of_the_server(decoder, tmp_path):
    with pytest.raises(InputError, match="upload"):
        decode(decoder, external_mat(tmp_path))


def test_the_process_could_open_no_file_even_if_a_reader_tried(decoder):
    limits = Path(f"/proc/{decoder.pids[0]}/limits").read_text().splitlines()

    assert [line.split()[3:5] for line in limits if line.startswith("Max open files")] == [["0", "0"]]


def test_the_process_is_given_no_secret_of_the_service(monkeypatch):
    secrets = ("NEURALBLACK_TOKEN", "NEURALBLACK_READERS", "NEURALBLACK_FEEDBACK_KEY", "RAY_AUTH_TOKEN")
    for name in (*secrets, "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "correct-horse-battery-staple")
    decoder = Decoder(SPEC)
    decoder.start()
    try:
        environment = Path(f"/proc/{decoder.pids[0]}/environ").read_bytes()

        assert b"correct-horse" not in environment and b"RAY_" not in environment
        assert f"PATH={os.environ['PATH']}".encode() in environment.split(b"\0")
        assert decode(decoder, image_bytes("PNG")).pixels.shape == (64, 64)
    finally:
        decoder.close()


def test_a_process_killed_from_outside_is_replaced(decoder):
    before = decoder.pids
    os.kill(before[0], signal.SIGKILL)
    os.waitid(os.P_PID, before[0], os.WEXITED | os.WNOWAIT)  # it is dead, and nobody was told

    assert decode(decoder, image_bytes("PNG")).pixels.shape == (64, 64)
    assert decoder.pids != before


def bytes_under_way(decoder):
    """Count what was sent to the first process and not yet taken."""
    count = fcntl.ioctl(decoder._workers[0]._pipe.fileno(), termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(count, sys.byteorder)


def test_a_process_that_dies_while_reading_refuses_the_file_and_the_next_is_read(decoder, tmp_path):
    async def run():
        pid = decoder.pids[0]
        os.kill(pid, signal.SIGSTOP)  # it holds still, so that it dies in the middle of this file
        reading = asyncio.create_task(decoder(image_bytes("PNG")))
        async with asyncio.timeout(10):
            while not bytes_under_way(decoder):
                await asyncio.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(InputError, match="ended the process"):
            await reading
        return await decoder(mat_bytes(tmp_path))

    assert asyncio.run(run()).pixels.shape == (64, 64)


def test_files_of_clients_that_hung_up_are_not_held_until_their_turn():
    decoder = Decoder(SPEC)
    decoder.start()

    async def run():
        os.kill(decoder.pids[0], signal.SIGSTOP)
        reading = asyncio.create_task(decoder(image_bytes("PNG")))
        data = image_bytes("TIFF")
        free = sys.getrefcount(data)
        waiting = [asyncio.create_task(decoder(data)) for _ in range(3)]
        async with asyncio.timeout(10):
            while not bytes_under_way(decoder):
                await asyncio.sleep(0.001)
        held = sys.getrefcount(data)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        waiting.clear()
        del each
        counts = held - free, sys.getrefcount(data) - free
        os.kill(decoder.pids[0], signal.SIGCONT)
        await reading
        return counts

    try:
        assert asyncio.run(run()) == (3, 0)
    finally:
        decoder.close()


def test_a_file_that_takes_too_long_is_refused_and_its_process_killed():
    decoder = Decoder(SPEC, seconds=0.2)
    decoder.start()
    try:
        before = decoder.pids[0]
        os.kill(before, signal.SIGSTOP)  # stands for a file that is never finished
        with pytest.raises(InputError, match=r"longer than 0\.2 s"):
            decode(decoder, image_bytes("PNG"))
        with pytest.raises(ProcessLookupError):
            os.kill(before, 0)
    finally:
        decoder.close()


def test_a_file_that_needs_more_memory_than_allowed_is_refused_and_the_next_is_read():
    decoder = Decoder(SPEC, memory_bytes=24 * 2**20)
    decoder.start()
    try:
        with pytest.raises(InputError, match="upload"):
            decode(decoder, image_bytes("PNG", np.tile(np.arange(4000) % 251, (4000, 1))))  # 64 MB as float32

        assert decode(decoder, image_bytes("PNG")).pixels.shape == (64, 64)
    finally:
        decoder.close()


def test_two_processes_read_two_files_at_once():
    decoder = Decoder(SPEC, workers=2)
    decoder.start()
    try:

        async def both():
            return await asyncio.gather(*(decoder(image_bytes("PNG")) for _ in range(8)))

        assert len(set(decoder.pids)) == 2
        assert len(asyncio.run(both())) == 8
    finally:
        decoder.close()


def test_closing_leaves_no_process():
    decoder = Decoder(SPEC)
    decoder.start()
    pid = decoder.pids[0]

    decoder.close()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_decoder_that_cannot_start_says_so(monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")

    with pytest.raises(DecoderDownError, match="did not start"):
        Decoder(SPEC).start()
