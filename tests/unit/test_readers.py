"""A file that is no slice is refused in one line that names file and field, and nothing outside the file is read."""

import io
import struct

import h5py
import numpy as np
import pytest
from PIL import Image

from neuralblack.data.mat_writer import write_cvind, write_mat
from neuralblack.data.readers import BY_BYTES, DICOM, IMAGE, KINDS, MAT, NIFTI, READERS, read_slice, recognised
from neuralblack.data.readers.figshare import read_cvind
from neuralblack.data.slices import MAX_SIDE
from neuralblack.errors import InputError


@pytest.fixture
def mat(tmp_path):
    """One good slice of 40 x 24 pixels, brighter to the right and below, with a mask of 3 x 5 pixels."""
    path = tmp_path / "7.mat"
    mask = np.zeros((40, 24), bool)
    mask[10:15, 4:7] = True
    image = np.add.outer(np.arange(40) * 100, np.arange(24)).astype(np.int16)
    write_mat(path, label=2, patient="MR040231C", image=image, mask=mask, border=np.array([4.0, 10, 6, 14]))
    return path


def replaced(path, name, **arguments):
    """Put another dataset in place of a field, as `create_dataset` makes it."""
    with h5py.File(path, "r+") as file:
        del file[f"cjdata/{name}"]
        file.create_dataset(f"cjdata/{name}", **arguments)
    return path


def error_of(path, **arguments):
    with pytest.raises(InputError) as error:
        read_slice(path, where=path.name, **arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_figshare_slice_is_upright_with_label_whole_patient_id_and_box(mat):
    slice_ = read_slice(mat, where="7.mat")

    assert slice_.image.shape == (40, 24) and slice_.image.dtype == np.int16
    assert slice_.image[39, 0] == 3900 and slice_.image[0, 23] == 23
    assert (slice_.label, slice_.patient, slice_.box) == ("glioma", "MR040231C", (4, 10, 7, 15))


def test_upload_needs_no_label_and_is_told_by_its_bytes(mat):
    with h5py.File(mat, "r+") as file:
        del file["cjdata/label"], file["cjdata/PID"], file["cjdata/tumorMask"]

    slice_ = read_slice(mat.read_bytes(), where="upload", labelled=False)

    assert slice_.image.shape == (40, 24)
    assert (slice_.label, slice_.patient, slice_.box) == (None, None, None)


def test_slice_without_a_mask_or_with_an_empty_one_has_no_box(mat):
    replaced(mat, "tumorMask", data=np.zeros((24, 40), np.uint8))
    assert read_slice(mat, where="7.mat").box is None

    with h5py.File(mat, "r+") as file:
        del file["cjdata/tumorMask"]
    assert read_slice(mat, where="7.mat").box is None


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("image", {"data": np.zeros((3, 24, 40), np.int16)}, ["cjdata/image", "(3, 24, 40)", "split volumes"]),
        ("image", {"data": "a string"}, ["cjdata/image", "a string", "real numbers"]),
        ("image", {"data": np.array([[b"ab"] * 20] * 20)}, ["cjdata/image", "a string"]),
        ("image", {"data": np.ones((24, 40), complex)}, ["cjdata/image", "complex"]),
        ("image", {"shape": (24, 40), "dtype": h5py.ref_dtype}, ["cjdata/image", "references"]),
        ("image", {"shape": (24, 40), "dtype": h5py.vlen_dtype(np.int16)}, ["cjdata/image", "objects"]),
        ("image", {"shape": (24, 40), "dtype": [("a", "i2")]}, ["cjdata/image", "compound"]),
        ("image", {"data": h5py.Empty("i2")}, ["cjdata/image", "an empty dataset"]),
        ("image", {"data": np.ones((1, 1), np.int16)}, ["cjdata/image", "1 x 1 pixels", "16 to 2048"]),
        ("image", {"shape": (60_000, 60_000), "dtype": "i2", "chunks": (64, 64)}, ["60000 x 60000 pixels"]),
        ("image", {"shape": (64, 64), "maxshape": (None, None), "dtype": "f8", "chunks": (8192, 8192)}, ["chunks"]),
        ("image", {"shape": (64, 64), "dtype": "i2", "compression": "lzf"}, ["HDF5 filters"]),
        ("label", {"data": [[7.0]]}, ["cjdata/label", "found 7", "1 (meningioma), 2 (glioma), 3 (pituitary)"]),
        ("label", {"data": [[1.5]]}, ["cjdata/label", "found 1.5"]),
        ("label", {"data": [[np.nan]]}, ["cjdata/label", "found nan"]),
        ("label", {"data": [[1.0], [2.0]]}, ["cjdata/label", "2 values", "one number"]),
        ("label", {"data": "glioma"}, ["cjdata/label", "a string"]),
        ("PID", {"data": np.ones((1, 3))}, ["cjdata/PID", "float64", "uint16"]),
        ("PID", {"data": np.full((3, 1), 0xD800, np.uint16)}, ["cjdata/PID", "no readable characters"]),
        ("PID", {"data": np.zeros((2, 1), np.uint16)}, ["cjdata/PID", "no readable characters"]),
        ("PID", {"shape": (10**6, 1), "dtype": "u2"}, ["cjdata/PID", "1000000 values"]),
        ("tumorMask", {"data": np.zeros((9, 9), np.uint8)}, ["cjdata/tumorMask", "(9, 9)", "(40, 24)"]),
    ],
)
def test_wrong_field_is_named_with_what_was_found(mat, name, arguments, words):
    message = error_of(replaced(mat, name, **arguments))

    for word in ("7.mat", "Fix: ", *words):
        assert word in message


@pytest.mark.parametrize("name", ["cjdata", "cjdata/image", "cjdata/label", "cjdata/PID"])
def test_missing_field_is_named(mat, name):
    with h5py.File(mat, "r+") as file:
        del file[name]

    assert f"7.mat {name}: found nothing" in error_of(mat)


def test_struct_in_place_of_an_array_and_array_in_place_of_the_struct_are_refused(mat):
    with h5py.File(mat, "r+") as file:
        del file["cjdata/image"]
        file.create_group("cjdata/image")
    assert "cjdata/image: found a group" in error_of(mat)

    with h5py.File(mat, "r+") as file:
        del file["cjdata"]
        file["cjdata"] = np.zeros((20, 20))
    assert "cjdata: found an array" in error_of(mat)


@pytest.fixture
def secret(tmp_path):
    """Another file of this machine, whose bytes must not come back as an image."""
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file["image"] = np.full((24, 40), 42, np.int16)
    return path


def external_storage(file, secret):
    file.create_dataset("cjdata/image", (24, 40), "i2", external=[(str(secret), 0, 24 * 40 * 2)])


def virtual_dataset(file, secret):
    layout = h5py.VirtualLayout((24, 40), "i2")
    layout[:] = h5py.VirtualSource(str(secret), "image", (24, 40))
    file.create_virtual_dataset("cjdata/image", layout)


def external_link(file, secret):
    file["cjdata/image"] = h5py.ExternalLink(str(secret), "image")


def soft_link(file, secret):
    file["elsewhere"] = np.ones((24, 40))
    file["cjdata/image"] = h5py.SoftLink("/elsewhere")


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("put", [external_storage, virtual_dataset, external_link, soft_link])
def test_image_that_lies_elsewhere_is_refused(mat, secret, put, labelled):
    with h5py.File(mat, "r+") as file:
        del file["cjdata/image"]
        put(file, secret)

    message = error_of(mat, labelled=labelled)

    assert "cjdata/image: found " in message and "within the file itself" in message


def test_struct_that_is_a_link_to_another_file_is_refused_even_where_that_file_is_missing(mat):
    with h5py.File(mat, "r+") as file:
        del file["cjdata"]
        file["cjdata"] = h5py.ExternalLink("nowhere.mat", "/cjdata")

    assert "7.mat cjdata: found a link to another place" in error_of(mat)


def test_truncated_mat_is_refused_wherever_it_is_cut(mat):
    data = mat.read_bytes()
    for length in (0, 1, 100, 511, 520, len(data) // 2, len(data) - 1):
        mat.write_bytes(data[:length])
        message = error_of(mat)
        assert "truncated" in message or "an empty file" in message or "another kind" in message, length


def test_mat_of_matlab_5_is_named_as_such(mat):
    mat.write_bytes(b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x01IM" + bytes(400))

    message = error_of(mat)

    assert "a MATLAB v5 file" in message and "-v7.3" in message


def test_flipped_bytes_give_a_slice_or_an_input_error_and_nothing_else(mat):
    data = bytearray(mat.read_bytes())
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        broken = data.copy()
        for place in rng.integers(0, len(data), 3):
            broken[place] ^= int(rng.integers(1, 256))
        try:
            read_slice(bytes(broken), where="upload")
        except InputError:
            refused += 1
    assert refused > 20


def saved(tmp_path, image, name="scan.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


GREY = np.add.outer(np.arange(20) * 4, np.arange(30)).astype(np.uint8)
DEEP = np.add.outer(np.arange(20) * 2000, np.arange(30)).astype(np.uint16)


@pytest.mark.parametrize("name", ["scan.png", "scan.tif", "scan.TIFF"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA"])
def test_grey_values_survive_every_mode(tmp_path, name, mode):
    image = Image.fromarray(GREY)
    image = image.convert("RGB").quantize(256) if mode == "P" else image.convert(mode)

    assert np.array_equal(read_slice(saved(tmp_path, image, name), where=name).image, GREY)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_is_read(tmp_path, mode):
    path = saved(tmp_path, Image.fromarray(GREY).convert(mode), "scan.jpg", quality=95)

    assert np.abs(read_slice(path, where="scan").image.astype(int) - GREY).max() < 8


@pytest.mark.parametrize("name", ["scan.png", "scan.tif"])
def test_sixteen_bits_are_not_clipped_to_eight(tmp_path, name):
    assert np.array_equal(read_slice(saved(tmp_path, Image.fromarray(DEEP), name), where=name).image, DEEP)


def test_big_endian_sixteen_bit_tiff_reads_like_the_little_endian_one(tmp_path):
    path = saved(tmp_path, Image.frombytes("I;16B", DEEP.shape[::-1], DEEP.astype(">u2").tobytes()), "scan.tif")

    assert path.read_bytes()[:2] == b"MM"
    assert np.array_equal(read_slice(path, where="scan").image, DEEP)


def test_palette_is_looked_up(tmp_path):
    image = Image.fromarray(255 - GREY, "P")
    image.putpalette([255 - value for value in range(256) for _ in range(3)])

    assert np.array_equal(read_slice(saved(tmp_path, image), where="scan").image, GREY)


def test_transparent_pixels_are_black_whatever_colour_they_hide(tmp_path):
    pixels = np.full((20, 20, 4), 255, np.uint8)
    pixels[:, 10:, 3] = 0

    image = read_slice(saved(tmp_path, Image.fromarray(pixels)), where="scan").image

    assert (image[:, :10] == 255).all() and (image[:, 10:] == 0).all()


def test_tiff_that_keeps_a_negative_is_turned_round(tmp_path):
    eight = saved(tmp_path, Image.fromarray(GREY), "eight.tif", tiffinfo={262: 0})  # Pillow negates 8 bits on writing
    deep = saved(tmp_path, Image.fromarray(DEEP.max() - DEEP), "deep.tif", tiffinfo={262: 0})  # but not 16

    assert np.array_equal(read_slice(eight, where="eight").image, GREY)
    assert np.array_equal(read_slice(deep, where="deep").image, DEEP)


def number_tiff(values):
    """Write a TIFF of numbers of any type: Pillow writes neither int8 nor uint32."""
    width, height = values.shape[::-1]
    kind, bits = {"u": 1, "i": 2, "f": 3}[values.dtype.kind], 8 * values.dtype.itemsize
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    tags |= {279: values.nbytes, 339: kind}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + values.nbytes)
    return head + values.tobytes() + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32"])
def test_tiff_of_any_number_type_keeps_its_values(kind):
    ends = (-1e6, 1e6) if kind == "float32" else (np.iinfo(kind).min, np.iinfo(kind).max)
    values = np.linspace(*ends, 600).reshape(20, 30).astype(kind)

    assert np.array_equal(read_slice(number_tiff(values), where="upload", labelled=False).image, values)


def test_tiff_of_numbers_that_pillow_has_no_mode_for_is_refused_with_what_to_do():
    with pytest.raises(InputError, match=r"pixels of a rare kind.*Fix: export the slice again, with 8 or 16 bits"):
        read_slice(number_tiff(GREY.astype(np.float64)), where="upload", labelled=False)


def test_tiff_in_lab_is_refused_by_its_colours(tmp_path):
    lab = Image.merge("LAB", [Image.fromarray(GREY)] * 3)

    assert "found an image in the colours LAB; expected grey or RGB" in error_of(saved(tmp_path, lab, "scan.tif"))


def test_camera_orientation_is_followed(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees to the right to see it upright

    image = read_slice(saved(tmp_path, Image.fromarray(GREY), exif=exif), where="scan").image

    assert np.array_equal(image, np.rot90(GREY, -1))


def test_png_named_jpg_is_read_and_a_mat_named_png_is_refused(tmp_path, mat):
    saved(tmp_path, Image.fromarray(GREY)).rename(tmp_path / "scan.jpg")
    assert np.array_equal(read_slice(tmp_path / "scan.jpg", where="scan").image, GREY)

    assert "bytes of another kind" in error_of(mat.rename(tmp_path / "7.png"))


@pytest.mark.parametrize("suffix", READERS)
def test_text_under_the_name_of_any_format_is_refused(tmp_path, suffix):
    path = tmp_path / f"notes{suffix}"
    path.write_text("a text, not a scan\n")

    message = error_of(path)

    assert f"notes{suffix}: found bytes of another kind" in message and "Fix: " in message


def test_unknown_suffix_lists_the_known_ones(tmp_path):
    path = tmp_path / "scan.gif"
    path.write_bytes(b"GIF89a")

    assert ".png, .jpg, .jpeg, .tif, .tiff, .mat, .dcm, .nii, .nii.gz" in error_of(path)


@pytest.mark.parametrize("name", ["IM0001", "1.2.840.7", "scan.bak"])
def test_a_file_whose_name_says_no_format_is_told_by_its_bytes(tmp_path, name):
    saved(tmp_path, Image.fromarray(GREY)).rename(tmp_path / name)

    assert np.array_equal(read_slice(tmp_path / name, where="scan").image, GREY)


def test_every_format_is_named_in_the_one_sentence_for_people():
    assert KINDS == "PNG, JPEG, TIFF, MATLAB v7.3 (.mat), DICOM (.dcm) or NIfTI (.nii, .nii.gz)"


@pytest.mark.parametrize("suffix", [suffix for suffix in READERS if suffix != ".nii.gz"])
def test_no_format_takes_another_one_for_its_own(suffix, mat):
    whole = {
        MAT: mat.read_bytes(),
        IMAGE: b"\x89PNG\r\n\x1a\n" + bytes(600),
        DICOM: bytes(128) + b"DICM" + bytes(600),
        NIFTI: bytes(344) + b"n+1\0" + bytes(300),
    }

    reader = READERS[suffix]

    assert [other.name for other in BY_BYTES if other.recognises(whole[reader])] == [reader.name]
    assert recognised(whole[reader])


def test_bytes_of_an_upload_are_not_repeated():
    with pytest.raises(InputError) as error:
        read_slice(b"SENTINEL, born 1970", where="upload", labelled=False)

    assert "SENTINEL" not in str(error.value)


@pytest.mark.parametrize("size", [(1, 1), (15, 500), (MAX_SIDE + 1, 20)])
def test_image_too_small_or_large_to_be_a_slice_is_refused(tmp_path, size):
    message = error_of(saved(tmp_path, Image.new("L", size)))

    assert f"{size[0]} x {size[1]} pixels" in message


def test_bomb_is_refused_before_a_pixel_is_decoded(tmp_path):
    bomb = saved(tmp_path, Image.new("1", (30_000, 30_000)), "bomb.tif", compression="group4")

    assert bomb.stat().st_size < 200_000
    assert "hundreds of megapixels" in error_of(bomb)


@pytest.mark.parametrize("name", ["scan.tif", "scan.png"])
def test_several_frames_are_refused(tmp_path, name):
    frames = [Image.fromarray(np.roll(GREY, shift)) for shift in range(3)]

    assert "3 frames" in error_of(saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:]))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("name", ["scan.png", "scan.jpg", "scan.tif"])
def test_truncated_image_is_refused(tmp_path, name):
    path = saved(tmp_path, Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)), name)
    data = path.read_bytes()
    for length in (20, len(data) // 3, len(data) // 2):
        path.write_bytes(data[:length])
        assert "a broken or truncated image" in error_of(path)


def test_other_formats_that_pillow_knows_are_not_tried():
    stream = io.BytesIO()
    Image.fromarray(GREY).save(stream, "GIF")

    with pytest.raises(InputError, match="bytes of another kind"):
        read_slice(stream.getvalue(), where="upload", labelled=False)


def test_missing_file_is_named(tmp_path):
    assert "7.mat: found a file that cannot be opened (No such file or directory)" in error_of(tmp_path / "7.mat")


def test_cvind_gives_the_fold_of_every_number(tmp_path):
    write_cvind(tmp_path / "cvind.mat", np.array([1, 5, 0, 3]))

    assert read_cvind(tmp_path / "cvind.mat", 4).tolist() == [1, 5, 0, 3]
    assert read_cvind(tmp_path / "cvind.mat", 2).tolist() == [1, 5, 0, 3]  # gaps and fewer files are fine


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.ones((1, 3)), ["3 folds", "at least 4"]),
        (np.ones((2, 8)), ["(2, 8)", "one vector"]),
        (np.ones((2, 2, 2)), ["(2, 2, 2)"]),
        (np.array([[1, 2, 1.5, 1]]), ["1.5 for 3.mat"]),
        (np.array([[1, np.nan, 1, 1]]), ["nan for 2.mat"]),
        (np.array([[1, 1, 1, -1]]), ["-1 for 4.mat"]),
    ],
)
def test_wrong_cvind_is_refused(tmp_path, values, words):
    with h5py.File(tmp_path / "cvind.mat", "w") as file:
        file["cvind"] = values

    with pytest.raises(InputError) as error:
        read_cvind(tmp_path / "cvind.mat", 4)

    for word in ("cvind.mat cvind", *words):
        assert word in str(error.value)


def test_file_without_cvind_is_no_fold_file(mat):
    with pytest.raises(InputError, match="cvind: found nothing"):
        read_cvind(mat, 1)
