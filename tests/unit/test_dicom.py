"""A DICOM file is read as a screen would show it; one that is no MR slice says so; no header is ever repeated."""

import logging
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian
from tests.medical_files import (
    PIXELS,
    PLANTED,
    compressed_dicom,
    deflated_bomb,
    dicom_bytes,
    dicom_dataset,
    nifti_bytes,
)

from neuralblack.data.ingest import read_file
from neuralblack.data.preprocessing import Preprocessing
from neuralblack.data.readers import dicom, read_slice
from neuralblack.data.sources import find_sources
from neuralblack.errors import InputError

PUBLIC = Path(pydicom.__file__).parent / "data" / "test_files"  # comes with pydicom


def image_of(data):
    slice_ = read_slice(data, where="upload", labelled=False)
    assert (slice_.label, slice_.patient, slice_.box) == (None, None, None)
    return slice_.image


def refusal(data):
    with pytest.raises(InputError) as error:
        read_slice(data, where="upload", labelled=False)
    assert str(error.value).startswith("upload: found ") and "\n" not in str(error.value)
    assert PLANTED not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, None])
@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "i4"])
def test_stored_values_come_back_in_every_depth(syntax, kind):
    pixels = (PIXELS % 200).astype(kind)

    assert np.array_equal(image_of(dicom_bytes(pixels, **({"syntax": syntax} if syntax else {}))), pixels)


def test_files_whose_names_say_no_format_are_prepared_where_their_bytes_do(tmp_path):
    folder = tmp_path / "scans" / "glioma"
    folder.mkdir(parents=True)
    for name in ("IM0001", "1.2.840.113619.2.55.3", "DICOMDIR", "scan.dcm", "scan.bak"):
        (folder / name).write_bytes(dicom_bytes())
    (folder / "README").write_text("about")

    (source,) = find_sources([tmp_path / "scans"])

    assert [file.path.name for file in source.files] == ["1.2.840.113619.2.55.3", "IM0001", "scan.dcm"]
    assert source.ignored == ("glioma/DICOMDIR", "glioma/README", "glioma/scan.bak")
    assert all(read_file(file, Preprocessing(size=64)).error is None for file in source.files)


def test_a_class_folder_file_is_read_by_its_suffix(tmp_path):
    (tmp_path / "scan.DCM").write_bytes(dicom_bytes())

    assert np.array_equal(read_slice(tmp_path / "scan.DCM", where="scan").image, PIXELS)


def test_class_folders_of_dicom_and_nifti_files_are_a_source(tmp_path):
    for name in ("glioma/a.dcm", "glioma/b.dcm", "meningioma/c.DCM"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(dicom_bytes())
    (tmp_path / "glioma/d.nii.gz").write_bytes(nifti_bytes(zipped=True))

    (source,) = find_sources([tmp_path])
    reads = [read_file(file, Preprocessing(size=64)) for file in source.files]

    assert [read.label for read in reads] == ["glioma", "glioma", "glioma", "meningioma"]
    assert not any(read.error or read.patient for read in reads)


@pytest.mark.parametrize(
    "name",
    ["bigendian", "implicit", "RLE", "jp2klossless", pytest.param("jpeg_ls_lossless", id="JPEG-LS by gdcm")],
)
def test_a_real_slice_is_the_same_in_every_coding(name):
    if name == "jpeg_ls_lossless":
        pytest.importorskip("gdcm")
    plain = image_of((PUBLIC / "MR_small.dcm").read_bytes())

    assert plain.shape == (64, 64)
    assert np.array_equal(image_of((PUBLIC / f"MR_small_{name}.dcm").read_bytes()), plain)


@pytest.mark.parametrize("kind", ["RLE", "JPEG", "JPEG2000"])
def test_compressed_pixels_are_read(kind):
    pixels = PIXELS // 5

    assert np.abs(image_of(compressed_dicom(kind, pixels)).astype(int) - pixels).max() <= (4 if kind == "JPEG" else 0)


def test_jpeg_lossless_is_read_where_gdcm_is_installed(tmp_path):
    gdcm = pytest.importorskip("gdcm")
    (tmp_path / "plain.dcm").write_bytes(dicom_bytes())
    reader = gdcm.ImageReader()
    reader.SetFileName(str(tmp_path / "plain.dcm"))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(tmp_path / "lossless.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()

    assert np.array_equal(image_of((tmp_path / "lossless.dcm").read_bytes()), PIXELS)


@pytest.mark.parametrize("name", ["gdcm_aborts_on_jpeg.dcm", "gdcm_aborts_on_jpeg2000.dcm"])
def test_what_made_gdcm_abort_is_decoded_by_pillow(name):
    pytest.importorskip("gdcm")
    data = (Path(__file__).parents[1] / "corpus" / name).read_bytes()
    try:
        assert image_of(data).shape == (32, 40)
    except InputError as error:
        assert "broken or truncated" in str(error)


def test_pixels_that_nothing_decodes_say_what_to_do(monkeypatch):
    from pydicom.pixels import get_decoder

    data = (PUBLIC / "MR_small_jpeg_ls_lossless.dcm").read_bytes()
    monkeypatch.setattr(get_decoder("1.2.840.10008.1.2.4.80"), "_available", {})

    message = refusal(data)

    assert "JPEG-LS" in message and "neuralblack[medical]" in message


def test_white_is_low_in_monochrome1():
    assert np.array_equal(image_of(dicom_bytes(PhotometricInterpretation="MONOCHROME1")), PIXELS.max() - PIXELS)


def test_bits_that_are_not_stored_are_left_out():
    assert np.array_equal(
        image_of(dicom_bytes((PIXELS | 0x5000).astype(np.uint16), BitsStored=12, HighBit=11)), PIXELS & 0xFFF
    )


def test_a_file_that_does_not_say_its_highest_bit_is_read():
    assert np.array_equal(image_of(dicom_bytes(HighBit=None)), PIXELS)


def padded(value, *, kind="i2"):
    """Pixels from 100 on behind a frame of `value`, and the frame."""
    frame = np.ones(PIXELS.shape, bool)
    frame[4:-4, 4:-4] = False
    return np.where(frame, value, PIXELS + 100).astype(kind), frame


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, None])
@pytest.mark.parametrize(
    ("value", "kind", "changes"),
    [
        (-32768, "i2", {}),
        (-32768, "i4", {}),
        (65535, "u2", {}),
        (-32768, "i2", {"RescaleSlope": 2, "RescaleIntercept": -5}),
        (-32768, "i2", {"RescaleSlope": -2, "RescaleIntercept": -5}),
        (-32768, "i2", {"RescaleSlope": -2}),  # which counts for nothing without an intercept
        (-32768, "i2", {"PhotometricInterpretation": "MONOCHROME1"}),
        (32767, "i2", {"PhotometricInterpretation": "MONOCHROME1"}),
        (65535, "u2", {"WindowCenter": 400, "WindowWidth": 300}),
    ],
)
def test_what_pads_a_picture_is_as_dark_as_its_darkest_pixel(value, kind, changes, syntax):
    pixels, frame = padded(value, kind=kind)
    said = changes | {"PixelPaddingValue": value} | ({"syntax": syntax} if syntax else {})

    image = image_of(dicom_bytes(pixels, **said))

    assert np.all(image[frame] == image[~frame].min())
    without = np.where(frame, pixels[~frame].min(), pixels).astype(kind)
    assert np.array_equal(image[~frame], image_of(dicom_bytes(without, **changes))[~frame])


def test_a_range_of_padding_and_one_written_without_its_sign_are_known():
    pixels, frame = padded(-2000)
    pixels[0] = -1000

    for changes in ({"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -900}, {"PixelPaddingValue": -2000}):
        image = image_of(dicom_bytes(pixels, **changes))
        assert image.min() == (-1000 if len(changes) == 1 else pixels[~frame].min())
    data = dicom_bytes(pixels, PixelPaddingValue=-2000).replace(b"\x28\0\x20\1SS", b"\x28\0\x20\1US")
    assert image_of(data).min() == -1000


def test_a_padding_that_no_pixel_has_or_all_have_changes_nothing():
    blank = np.full((20, 20), 5, np.int16)

    assert np.array_equal(image_of(dicom_bytes(blank, PixelPaddingValue=5)), blank)
    for value in (-5, ""):
        assert np.array_equal(image_of(dicom_bytes(PixelPaddingValue=value)), PIXELS)


def test_rescale_and_window_are_applied_in_this_order():
    shown = image_of(dicom_bytes(RescaleSlope=2, RescaleIntercept=-100, WindowCenter=[300.5, 9], WindowWidth=[201, 9]))

    values = PIXELS * 2.0 - 100
    below, above = values <= 200, values > 400
    assert len(np.unique(shown[below])) == len(np.unique(shown[above])) == 1
    between = shown[~below & ~above]
    assert np.corrcoef(between, values[~below & ~above])[0, 1] > 0.999_999
    assert shown[below][0] <= between.min() and between.max() <= shown[above][0]


def test_of_several_windows_a_later_one_may_be_as_bad_as_it_likes():
    changes = {"WindowCenter": [300, 9], "WindowWidth": [201, 0]}

    assert np.array_equal(image_of(dicom_bytes(**changes)), image_of(dicom_bytes(WindowCenter=300, WindowWidth=201)))


@pytest.mark.parametrize(("function", "distinct"), [("LINEAR_EXACT", False), ("SIGMOID", True), ("", False)])
def test_every_function_of_a_window_is_known(function, distinct):
    shown = image_of(dicom_bytes(VOILUTFunction=function, WindowCenter=400, WindowWidth=100))

    assert (shown[0, 0] < shown[0, 31]) == distinct  # both far below the window
    assert shown[20, 0] < shown[20, 31] and shown[0, 31] < shown[39, 0]


def table(first, entries, bits=16, values=None):
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.add_new(0x00283006, "OW", np.asarray(entries, values or "<u2").tobytes())
    return [item]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, None])
@pytest.mark.parametrize("which", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize("values", ["<u2", "u1"])
def test_tables_are_looked_up_without_wrapping(which, values, syntax):
    entries = np.arange(700) // 4
    changes = {which: table(100, entries, 8, values), **({"syntax": syntax} if syntax else {})}

    shown = image_of(dicom_bytes(PIXELS.astype(np.uint16), **changes))

    assert np.array_equal(shown, entries[np.clip(PIXELS - 100, 0, 699)])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"Modality": "CT"}, ["modality CT", "MR"]),
        ({"Modality": f"{PLANTED}"}, ["a modality that is not MR"]),
        ({"Modality": None}, ["without a modality"]),
        ({"NumberOfFrames": 3}, ["3 frames", "one slice", "export one frame"]),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, ["in colour (RGB)", "MONOCHROME2"]),
        ({"PhotometricInterpretation": f"{PLANTED}"}, ["in colour", "MONOCHROME2"]),
        ({"Rows": 8}, ["32 x 8 pixels", "16 to 2048"]),
        ({"Rows": 60_000, "Columns": 60_000}, ["60000 x 60000 pixels"]),
        ({"Rows": None}, ["no Rows"]),
        ({"Rows": 41}, ["2560 bytes of pixels", "2624 bytes"]),
        ({"PixelData": None}, ["no PixelData"]),
        ({"BitsAllocated": 1, "BitsStored": 1}, ["1 bits allocated"]),
        ({"BitsAllocated": 64}, ["64 bits allocated"]),
        ({"BitsStored": 99, "HighBit": 98}, ["broken or truncated", "ValueError"]),
        ({"BitsStored": 12, "HighBit": 15}, ["pixels of 12 bits", "bit 15", "bit 11"]),  # left-aligned: they would wrap
        ({"RescaleSlope": "1e308", "RescaleIntercept": "1e308"}, ["no finite numbers"]),
        ({"WindowCenter": 1, "WindowWidth": 0}, ["a display window narrower"]),
        ({"WindowCenter": [1, 1], "WindowWidth": [0, 9]}, ["a display window narrower"]),
        ({"VOILUTFunction": PLANTED, "WindowCenter": 1, "WindowWidth": 9}, ["VOILUTFunction", "LINEAR_EXACT or SIGM"]),
        ({"VOILUTFunction": "LINEAR_EXACT", "WindowCenter": 1, "WindowWidth": 0}, ["window of width 0", "above 0"]),
        ({"VOILUTFunction": "SIGMOID", "WindowCenter": 1, "WindowWidth": 0}, ["window of width 0", "above 0"]),
        ({"VOILUTSequence": table(0, [1, 2], 99, "u1")}, None),
    ],
)
def test_what_is_no_slice_says_what_where_and_how_to_fix(changes, words):
    if words is None:
        assert image_of(dicom_bytes(**changes)).max() == 2
        return
    message = refusal(dicom_bytes(**changes))

    for word in ("Fix: ", *words):
        assert word in message


def test_deflated_file_is_refused_before_it_unpacks():
    bomb = deflated_bomb(100)

    tracemalloc.start()
    message = refusal(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert "a deflated DICOM file" in message and "uncompressed" in message
    assert peak < 10 * 2**20


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, "1.2.3.4", None])
def test_only_known_ways_of_writing_are_read(syntax):
    data = dicom_bytes()
    data = data.replace(b"1.2.840.10008.1.2.1\0", (syntax or "").encode().ljust(20, b"\0"))
    if syntax == ExplicitVRBigEndian:
        return  # read in test_a_real_slice_is_the_same_in_every_coding

    assert "uncompressed pixels" in refusal(data)


def test_dicom_without_its_mark_says_how_to_get_one(tmp_path):
    (tmp_path / "scan.dcm").write_bytes(dicom_bytes()[132:])

    with pytest.raises(InputError, match=r"bytes of another kind .* a DICOM image.*enforce_file_format"):
        read_slice(tmp_path / "scan.dcm", where="scan.dcm")


@pytest.mark.filterwarnings("error")
def test_no_patient_appears_in_a_message_a_warning_or_a_log(caplog, capfd):
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="pydicom")
    whole = dicom_bytes(
        SpecificCharacterSet=f"{PLANTED} 1",
        RescaleSlope=1,
        RescaleIntercept=0,
        WindowCenter=400,
        WindowWidth=800,
    )
    caplog.clear()  # of what pydicom says while it writes such a file
    rng, outcomes = np.random.default_rng(0), set()
    places = [whole.index(PLANTED.encode())] + [int(at) for at in rng.integers(132, len(whole), 300)]
    for at in places:
        broken = bytearray(whole)
        broken[at] ^= int(rng.integers(1, 256))
        for data in (bytes(broken), whole[:at], whole[:at] + PLANTED.encode() + whole[at + 8 :]):
            try:
                outcomes.add(type(read_slice(data, where="upload", labelled=False)))
            except InputError as error:
                outcomes.add(str(error))
                assert error.__cause__ is None and PLANTED not in repr(error.__context__)

    assert len(outcomes) > 5 and PLANTED not in repr(outcomes)
    assert not caplog.records
    assert PLANTED not in "".join(capfd.readouterr())


def test_not_even_the_first_file_of_a_process_is_quoted(tmp_path):
    (tmp_path / "scan.dcm").write_bytes(dicom_bytes(SpecificCharacterSet=f"{PLANTED} 1"))
    code = (
        "import logging, pathlib, sys; logging.basicConfig(level=logging.DEBUG)\n"
        "from neuralblack.data.readers import read_slice\n"
        "print(read_slice(pathlib.Path(sys.argv[1]), where='upload').image.shape)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "scan.dcm"], capture_output=True, text=True, check=True
    )

    assert done.stdout == "(40, 32)\n" and PLANTED not in done.stderr


def test_the_log_of_pydicom_is_as_before_when_the_slice_is_read():
    before = logging.getLogger("pydicom").level
    image_of(dicom_bytes())

    assert logging.getLogger("pydicom").level == before


def test_what_is_looked_at_names_nobody():
    header, _ = dicom._header(dicom_bytes(), where="upload")

    assert {element.keyword for element in header} <= set(dicom.NEEDED)
    assert "PatientName" in dicom_dataset() and "PatientName" not in header
