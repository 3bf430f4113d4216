"""A dataset on disk: what is read is what was written, mapped, and checked."""

import json

import numpy as np
import pytest

from neuralblack.data.dataset import Row, hashed, open_dataset, write_dataset
from neuralblack.data.describe import describe_dataset
from neuralblack.data.preprocessing import VERSION, Preprocessing
from neuralblack.errors import InputError

SPEC = Preprocessing(size=64)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8)
ROWS = [
    Row("s/1.mat", "Anna", "glioma", 1, "s", "aa", (1, 2, 3, 4), (512, 512)),
    Row("s/2.mat", "Anna", "glioma", 0, "s", "bb", None, (256, 256)),
    Row("s/3.mat", "Böhm", "no tumour", 2, "s", "cc", None, (40, 60)),
]
FACTS = {
    "sources": [{"name": "s", "kind": "figshare", "files": 3, "fold_file_sha256": "f" * 64, "ignored": ["x.txt"]}],
    "rejected": [{"id": "s/4.mat", "reason": "s/4.mat: found nothing good"}],
    "duplicates": {},
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    PIXELS.tofile(folder / ".pixels")
    write_dataset(folder, ROWS, folder / ".pixels", SPEC, FACTS)
    return folder


def test_rows_and_pixels_come_back_as_they_were_written(folder):
    dataset = open_dataset(folder)

    assert len(dataset) == 3 and dataset.spec == SPEC
    assert np.array_equal(dataset.images, PIXELS)
    assert dataset.ids == ["s/1.mat", "s/2.mat", "s/3.mat"]
    assert dataset.patients == ["Anna", "Anna", "Böhm"]
    assert dataset.classes == ("no tumour", "glioma")
    assert dataset.folds.tolist() == [1, 0, 2]
    assert dataset.boxes.tolist() == [[1, 2, 3, 4], [-1] * 4, [-1] * 4]
    assert dataset.source_hashes == ["aa", "bb", "cc"]
    assert dataset.shapes.tolist() == [[512, 512], [256, 256], [40, 60]]


def test_pixels_are_a_read_only_view_of_the_file(folder):
    images = open_dataset(folder).images

    assert not images.flags.writeable and not images.flags.owndata and images.flags.c_contiguous
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "slices.arrow"]


def test_hash_is_of_the_content_and_not_of_the_place(folder, tmp_path):
    first = open_dataset(folder).hash
    moved = open_dataset(folder.rename(tmp_path / "moved")).hash

    assert first == moved


@pytest.mark.parametrize("place", [300, 4000, -2000])
def test_flipped_bit_is_found(folder, place):
    data = bytearray((folder / "slices.arrow").read_bytes())
    data[place] ^= 1
    (folder / "slices.arrow").write_bytes(data)

    with pytest.raises(InputError, match=r"slices.arrow: found .*SHA-256"):
        open_dataset(folder)


def edit(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preprocessing": {"version": VERSION + 1, "size": 64, "clip_percent": 0.5}}, f"version {VERSION + 1}"),
        ({"preprocessing": {"version": 1, "size": 64, "gamma": 2}}, "gamma"),
        ({"format": 1}, "format 1"),
    ],
)
def test_dataset_of_another_version_is_refused_with_the_way_out(folder, changes, words):
    edit(folder, **changes)

    with pytest.raises(InputError) as error:
        open_dataset(folder)

    assert words in str(error.value) and "prepare the dataset again" in str(error.value)


def test_folder_that_is_no_dataset_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"kind": "model"}')

    with pytest.raises(InputError, match="found no dataset"):
        open_dataset(tmp_path)
    with pytest.raises(InputError, match="found nothing"):
        open_dataset(tmp_path / "gone")


def test_dataset_without_its_slices_is_refused(folder):
    (folder / "slices.arrow").unlink()

    with pytest.raises(InputError, match=r"slices\.arrow: found nothing"):
        open_dataset(folder)


def test_manifest_counts_per_class_fold_and_patient(folder):
    manifest = open_dataset(folder).manifest

    assert manifest["classes"] == {"no tumour": {"slices": 1, "patients": 1}, "glioma": {"slices": 2, "patients": 1}}
    assert manifest["folds"] == {"0": 1, "1": 1, "2": 1}
    assert manifest["patients"] == {hashed("Anna"): {"glioma": 2}, hashed("Böhm"): {"no tumour": 1}}


def test_description_names_classes_folds_and_what_was_left_out_but_no_patient(folder):
    text = "\n".join(f"{name}: {value}" for name, value in describe_dataset(open_dataset(folder)))

    for words in (
        "slices: 3 of 64 x 64 pixels",
        "glioma: 2 slices of 1 patients",
        "folds: in no fold: 1, 1: 1, 2: 1",
        "tumour boxes: 1",
        "source s: 3 files (figshare), fold file ffffffffffff, 1 other files ignored",
        "rejected: s/4.mat: found nothing good",
    ):
        assert words in text
    assert "Anna" not in text
